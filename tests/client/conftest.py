"""One hospital on made cases, as its own ClientApp sees it; nothing of the coordinator's side."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
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


@dataclass(frozen=True)
class Enrolled:
    """A real site's folder, and the coordinator whose invitation lies in it."""

    home: Any
    coordinator: Any

    def set(self, *settings: str) -> None:
        """Change site.toml by hand, as a person would."""
        from fedrounds_common.study.canonical import toml_text
        from fedrounds_common.study.overrides import override

        tables, _ = override(tomllib.loads(self.home.site_toml.read_text("utf-8")), settings)
        self.home.site_toml.write_text(toml_text(tables, {}), "utf-8")

    def answer(self, ask: Any, key: Any = None) -> Any:
        """What the site says to a request signed with the coordinator's key, or another; its signature is checked."""
        from fedrounds_client.boundary import answer_enrolled
        from fedrounds_common.leaving import from_wire, signed_bytes, to_wire

        header, buffer = to_wire(ask)
        signature = (key or self.coordinator).sign(signed_bytes(header, buffer))
        header, buffer, signature = answer_enrolled(header, buffer, signature, self.home.folder)
        assert self.home.key.public.holds(signed_bytes(header, buffer), signature)
        return from_wire(header, buffer)

    def allow(self, ask: Any, rounds: int = 3, days: float = 1.0, allowed: bool = True) -> None:
        from fedrounds_client.permits import say

        now = datetime.now(UTC)
        until = now + timedelta(days=days)
        say(self.home, self.home.read_settings(), ask.study, "ada", now, allowed, rounds, until)

    def journal(self, event: str = "") -> list[dict[str, Any]]:
        from fedrounds_common.chain import read

        return [line for line in read(self.home.journal) if event in ("", line["event"])]


def invitation(home: Any, coordinator: Any) -> None:
    from fedrounds_common.disk import write_json
    from fedrounds_common.signing import sign_json

    table = {"format": 1, "kind": "invitation", "site": "A", "coordinator": coordinator.public.text}
    write_json(home.invitation, sign_json(coordinator, table))


@pytest.fixture
def enrolled(tmp_path: Path) -> Iterator[Callable[..., Enrolled]]:
    """Makes site A on the made cases of `tests/data/cubes`, under a policy that allows its study; `reader` as above."""
    from fedrounds_client.home import create_home
    from fedrounds_common.signing import SigningKey
    from fedrounds_common.study.canonical import toml_text

    def make(folder: str = "site", **reader: Any) -> Enrolled:
        policy = {
            "tasks": ["segmentation"], "networks": ["tiny_unet"], "minimum_cases": 1, "minimum_privacy": "none",
            "rounds": 10, "outgoing": ["hello", "update", "scores", "statistics"],
        }  # fmt: skip
        tables = {
            "name": "A", "plugins": [str(CUBES)], "data": {"name": "cubes", "only": "A", **reader}, "policy": policy,
        }  # fmt: skip
        home = create_home(tmp_path / folder, toml_text(tables, {}))
        coordinator = SigningKey.create()
        invitation(home, coordinator)
        return Enrolled(home, coordinator)

    before = os.umask(0o022)  # a site's own process sets it for good
    yield make
    os.umask(before)


@pytest.fixture
def study_ask(cubes: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Makes a request of the study of those cases, with its first weights, as a coordinator sends it."""
    from fedrounds_client.site import build_parts
    from fedrounds_common.arrays import of_module
    from fedrounds_common.leaving import Ask
    from fedrounds_common.study.canonical import canonical_text, digest
    from fedrounds_common.study.parse import read_study

    def make(kind: str = "train", round_: int = 1, overrides: tuple[str, ...] = (), **changed: Any) -> Ask:
        study = read_study(cubes(tmp_path / "study", rounds=3), overrides, [CUBES]).study
        ask = Ask(
            kind, "0001-cubes", round_, f"nonce-{round_}", canonical_text(study), digest(study),
            arrays=of_module(build_parts(study, (CUBES,)).module()),
        )  # fmt: skip
        return replace(ask, **changed)

    return make
