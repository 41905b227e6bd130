from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from village import CUBES, START, Made, Make, Time, keys

from fedrounds_common.codecs.float32 import Float32
from fedrounds_common.shelves import STRATEGIES
from fedrounds_common.study.canonical import canonical_text
from fedrounds_common.study.canonical import digest as digest_of_study
from fedrounds_common.study.parse import read_study
from fedrounds_common.tasks.segmentation import Segmentation
from fedrounds_server.folder import RunFolder
from fedrounds_server.plan import Plan


@pytest.fixture
def made(tmp_path: Path, cubes: Callable[..., Path]) -> Make:
    def make(*overrides: str, rounds: int = 3, name: str = "0001-run", **more: Any) -> Made:
        given = ("cohort.deadline_s=30", "cohort.wait_s=600", *overrides)
        study = read_study(cubes(tmp_path / "study", rounds=rounds), given, [CUBES]).study
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir(exist_ok=True)
        time = Time()
        more = {"keys": keys(), "clock": time.clock, **more}
        return Made(
            Plan(
                study, canonical_text(study), digest_of_study(study), folder, Segmentation(),
                STRATEGIES.load({"name": "fedavg"}), Float32(), dict(START), **more,
            ),
            time,
        )  # fmt: skip

    return make
