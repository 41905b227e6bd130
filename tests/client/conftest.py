"""One hospital on made cases, as its own ClientApp sees it; nothing of the coordinator's side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

CUBES = Path(__file__).parents[1] / "data" / "cubes"


@pytest.fixture
def hospital_site(tmp_path: Path, cubes: Callable[..., Path]) -> Callable[..., Any]:
    """Makes a `Site` named A with six made cases; `reader` fields make it go wrong, `changed` are fields of Parts."""
    from fedrounds_client.site import Site, build_parts
    from fedrounds_common.study.parse import read_study
    from fedrounds_sites.hospitals import Hospital
    from fedrounds_sites.simulation import READERS, Simulation

    def make(overrides: tuple[str, ...] = (), folder: str = "A", max_norm: float = 1e4, **reader: Any) -> Site:
        study = read_study(cubes(tmp_path / "study", rounds=3), overrides, [CUBES]).study
        table = {"name": "cubes", **reader}
        built = READERS.load(table, [CUBES])
        refs = tuple(ref for ref in built.cases(study.cases) if ref.site == "A")
        home = tmp_path / folder
        hospital = Hospital("A", "train", home, refs, built, Simulation(reader=table, pictures=1), study)
        return Site("A", home, hospital, build_parts(study, (CUBES,)), max_norm)

    return make


@pytest.fixture
def ask_of() -> Callable[..., Any]:
    """Makes the coordinator's request to that site: the study as it travels, the network's first weights."""
    from fedrounds_common.arrays import of_module
    from fedrounds_common.leaving import Ask
    from fedrounds_common.study.canonical import canonical_text, digest

    def make(site: Any, kind: str = "train", round_: int = 1, **changed: Any) -> Ask:
        study = site.parts.study
        ask = Ask(
            kind, "0001-cubes", round_, f"nonce-{round_}", canonical_text(study), digest(study),
            arrays=of_module(site.parts.module()),
        )  # fmt: skip
        return replace(ask, **changed)

    return make
