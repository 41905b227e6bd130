"""The hospitals of a run, opened from its folder again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedrounds_common.errors import DataError
from fedrounds_common.study.study import Study
from fedrounds_common.study.tables import CaseForm, Cohort
from fedrounds_sites.hospitals import assign, forget, open_hospital, read_rehearsal
from fedrounds_sites.own import Own
from fedrounds_sites.simulation import Simulation

WHOLE = {"study": "{}", "digest": "", "simulation": {}, "plugins": [], "sites": {"a": "train"}}


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({**WHOLE, "plugins": 3}), json.dumps({"study": ""})])
def test_a_rehearsal_that_is_not_as_a_run_writes_it_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rehearsal.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"FR-H04 .*rehearsal\.json: cannot be read"):
        read_rehearsal(file)
    file.unlink()
    with pytest.raises(DataError, match="FileNotFoundError"):
        read_rehearsal(file)


def test_so_is_a_hospitals_list_of_cases(tmp_path: Path) -> None:
    table = {**WHOLE, "study": '{"format": 1, "name": "x"}'}
    (tmp_path / "rehearsal.json").write_text(json.dumps(table))
    (tmp_path / "sites" / "a").mkdir(parents=True)
    (tmp_path / "sites" / "a" / "cases.json").write_text('[{"name": "1"}]')
    with pytest.raises(DataError, match=r"FR-H04 .*cases\.json: cannot be read \(TypeError\)"):
        open_hospital(tmp_path, "a")


def test_what_was_read_is_forgotten_when_a_run_is_laid_out_anew(tmp_path: Path) -> None:
    file = tmp_path / "rehearsal.json"
    file.write_text(json.dumps(WHOLE))
    assert read_rehearsal(file).sites == {"a": "train"}
    file.write_text(json.dumps({**WHOLE, "sites": {"b": "train"}}))
    forget()
    assert read_rehearsal(file).sites == {"b": "train"}


LUNG = CaseForm(dims=2, classes=("normal", "pneumonia"))


def archive(cohort: Cohort, partition: str = "dirichlet") -> tuple[Simulation, Study]:
    reader = {"name": "npz_arrays", "root": str(Path(__file__).resolve().parents[1] / "data/medmnist/pneumonia24.npz")}
    table = {"name": partition, **({"sites": 2} if partition == "dirichlet" else {})}
    named = [{"name": name} for name in ("segmentation", "unet", "fedavg", "float32")]
    return Simulation(reader=reader, partition=table), Study("lung", *named, cases=LUNG, cohort=cohort)


@pytest.mark.parametrize(("partition", "others"), [("dirichlet", {"s01", "s02"}), ("natural", {"site"})])
def test_cases_that_the_data_set_apart_keep_their_site_and_the_others_are_dealt(
    partition: str, others: set[str]
) -> None:
    sites = assign(*archive(Cohort(held_out=("test",)), partition))
    assert set(sites) == {"test"} | others
    assert [ref.name for ref in sites["test"]] == [f"test-{number:05d}" for number in range(1, 9)]
    assert sum(len(sites[name]) for name in others) == 16
    assert not any(ref.name.startswith("test") for name in others for ref in sites[name])


def test_cases_that_the_data_set_apart_never_train() -> None:
    with pytest.raises(DataError, match=r'FR-H09 test: set apart by the data, and would train; held_out = \["test"\]'):
        assign(*archive(Cohort()))
    assert "test" in assign(*archive(Cohort(sites=("s01", "s02"))))  # neither trains nor is judged


def test_a_hospitals_own_cases_are_not_those_set_apart() -> None:
    table = archive(Cohort())[0].reader
    study = archive(Cohort())[1]
    assert len(Own("here", table).cases(study)) == 16
    assert len(Own("here", table, only="test").cases(study)) == 8
