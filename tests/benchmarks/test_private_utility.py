"""The benchmark of what is learned with noise runs, goes on where it was, and passes over data that are not there."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import private_utility
import pytest

STUDY = "hippocampus-private"


def main(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["private_utility.py", *words])
    private_utility.main()


def test_data_that_are_not_there_are_said_and_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(monkeypatch, "--data", str(tmp_path), "--out", str(tmp_path / "out"))
    assert capsys.readouterr().out.count("its data are not there") == 2
    assert not (tmp_path / "out").exists()


def test_a_study_that_it_does_not_know_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="pneumonia: of pneumonia-private, hippocampus-private"):
        main(monkeypatch, "pneumonia")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_table_and_a_curve_stand_beside_each_other_with_and_without_noise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared_data: Path
) -> None:
    words = (STUDY, "--data", str(shared_data / "data"), "--seeds", "1", "--out", str(tmp_path))
    short = ("-s", "training.rounds=1", "-s", "training.local_steps=1", "-s", "evaluation.every=1")
    main(monkeypatch, *words, *short)
    lines = (tmp_path / f"{STUDY}.md").read_text("utf-8").splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["none", "8"]
    spent = [line.split("|")[2].strip() for line in lines[2:]]
    assert spent[0] == ""
    assert 0 < float(spent[1]) <= 8
    with (tmp_path / f"{STUDY}.csv").open(encoding="utf-8") as stream:
        assert {(row["epsilon"], row["round"]) for row in csv.DictReader(stream)} >= {("none", "1"), ("8", "1")}
    assert (tmp_path / f"{STUDY}.png").stat().st_size > 1000
    before = sorted(tmp_path.iterdir())
    main(monkeypatch, *words, *short)  # what is finished stays
    assert sorted(tmp_path.iterdir()) == before
