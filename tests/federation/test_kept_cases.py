"""Prepared cases that outlast their run: the next run reads none again, and comes to the same consensus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedrounds_common.errors import UsageError
from fedrounds_sites.cache_lock import unused

REPO = Path(__file__).parents[2]
SMALL = (
    "training.rounds=1", "training.local_steps=1", "simulation.reader.scale=0.02", "simulation.report=false",
    "simulation.baselines=[]",
)  # fmt: skip


def played(folder: Path, *overrides: str, listen: Any = lambda event, facts: None) -> str:
    from fedrounds.series import simulate

    run = simulate(REPO / "studies" / "demo-quick.toml", overrides=(*SMALL, *overrides), runs=folder, listen=listen)
    return str(run.status["consensus"])


@pytest.mark.slow
def test_a_run_from_kept_cases_is_the_run_that_made_them(tmp_path: Path) -> None:
    plain = played(tmp_path / "runs")
    kept = f"simulation.cache={json.dumps(str(tmp_path / 'kept'))}"
    refused: list[str] = []

    def clears(event: str, facts: Any) -> None:
        """As a person might, while the run goes on."""
        if event == "score":
            with pytest.raises(UsageError) as error, unused(tmp_path / "kept"):
                pass
            refused.append(error.value.code)

    assert played(tmp_path / "runs", kept, listen=clears) == plain
    assert set(refused) == {"FR-U98"}
    with unused(tmp_path / "kept"):  # once it is over anybody may
        pass
    made = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "kept").iterdir()}
    assert made
    assert not list((tmp_path / "runs").rglob("*.case"))  # a run's own are gone at its end, and this one had none
    assert played(tmp_path / "runs", kept, "simulation.workers=2") == plain
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "kept").iterdir()} == made


@pytest.mark.slow
def test_a_disk_without_room_for_all_sites_cases_refuses_the_run_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from fedrounds_common.errors import MachineError

    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type(real)(real.total, real.total - 1, 1))
    with pytest.raises(MachineError, match="FR-E60 .*prepared cases would take"):
        played(tmp_path / "runs")
    (run,) = (tmp_path / "runs").glob("0001-*")
    assert len(list(run.rglob("*.case"))) == 1  # the one by which it was told
    assert json.loads((run / "status.json").read_text("utf-8"))["exit"] == MachineError.exit_status


@pytest.mark.slow
def test_what_is_kept_of_other_studies_makes_no_room_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from fedrounds_common.errors import MachineError

    kept = tmp_path / "kept"
    kept.mkdir(mode=0o700)
    with (kept / f"{40 * 'f'}.case").open("wb") as other:
        other.truncate(10**12)  # far more than all of this study's cases; as a hole it takes nothing
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type(real)(real.total, real.total - 1, 1))
    with pytest.raises(MachineError, match="FR-E60 .*prepared cases would take"):
        played(tmp_path / "runs", f"simulation.cache={json.dumps(str(kept))}")
