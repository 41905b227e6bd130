"""Whole runs under a secure sum: the consensus is the plain one to the fixed-point step, and what is lost is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_common.channels.secure_sum import SecureSum
from fedrounds_common.errors import RoundError
from fedrounds_server import history

Cubes = Callable[..., Path]
MINE = Path(__file__).parents[1] / "data" / "cubes"
SECURE = ('wire.channel.name="secure_sum"', "training.local_steps=1")
STEP = SecureSum().numbers.step


def run_of(study: Path, *overrides: str, listen: Callable[..., None] | None = None, resume: Path | None = None) -> Run:
    more = {} if listen is None else {"listen": listen}
    found = simulate(study, overrides=overrides, plugins=[MINE], runs=study.parent / "runs", resume=resume, **more)
    assert isinstance(found, Run)
    return found


def lose(folder: Path, step: str, *sites: str) -> Callable[[str, Mapping[str, object]], None]:
    """A listener that takes away what these sites know of the round, when a step of it begins."""

    def listen(event: str, facts: Mapping[str, object]) -> None:
        if event == "step" and facts["step"] == step:
            for site in sites:
                (folder / "runs" / "0001-cubes" / "sites" / site / "masks" / "round.json").unlink(missing_ok=True)

    return listen


def largest_difference(one: Run, other: Run) -> float:
    a, b = load_file(one.folder.consensus), load_file(other.folder.consensus)
    assert list(a) == list(b)
    return max(float(np.abs(a[name].astype(float) - b[name]).max()) for name in a)


def test_the_consensus_is_the_plain_one_to_the_step(tmp_path: Path, cubes: Cubes) -> None:
    plain = run_of(cubes(tmp_path / "plain", rounds=1), "training.local_steps=1")
    secure = run_of(cubes(tmp_path / "secure", rounds=1), *SECURE)
    assert (plain.exit, secure.exit) == (0, 0)
    # half a step of rounding at most, and the last bit of float32 numbers of about 1
    assert 0 < largest_difference(plain, secure) <= STEP / 2 + 2**-23
    (line,) = history.read(secure.folder.history)
    assert {site.state for site in line.sites} == {"ok"}
    assert {(site.norm, site.cosine, site.loss) for site in line.sites} == {(None, None, None)}
