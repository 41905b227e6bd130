"""What every test rests on. The environment is set before anything can import torch or flwr."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPO = Path(__file__).resolve().parents[1]

# Torch's spinning threads slow a shared machine 30-fold and give other bits; Flower and Ray dial home.
for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "MPLBACKEND": "Agg",
}.items():
    os.environ[_name] = _value

# Tests that run in the background inherit an ignored interrupt, and so would every program they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test depends on idle cores: how long an example takes says nothing about the code.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture(scope="session")
def repo() -> Path:
    """The source tree that these tests belong to."""
    return REPO


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, or a skip: the tests must pass without it.

    `FEDROUNDS_SHARED` names the folder that holds `data/`; by default it lies beside the source tree.
    """
    shared = Path(os.environ.get("FEDROUNDS_SHARED", REPO.parent / "shared"))
    if not (shared / "data").is_dir():
        pytest.skip("no shared data here (set FEDROUNDS_SHARED to the folder that holds data/)")
    return shared


CUBES = Path(__file__).parent / "data" / "cubes"


@pytest.fixture
def cubes() -> Callable[..., Path]:
    """Lays out a study on the made cases of `tests/data/cubes`, whose sites can be told to go wrong."""

    def lay_out(
        folder: Path, *, rounds: int = 3, workers: int = 0, strategy: str = 'name = "fedavg"', reader: str = ""
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        study = folder / "cubes.toml"
        text = (CUBES / "cubes.toml").read_text(encoding="utf-8")
        study.write_text(
            text.format(rounds=rounds, workers=workers, strategy=strategy, reader=reader), encoding="utf-8"
        )
        return study

    return lay_out
