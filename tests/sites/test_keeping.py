"""What a hospital keeps of its cases: found again while nothing changed, made anew when something did."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest

from fedrounds_common.case import Case, CaseRef
from fedrounds_common.errors import CaseError, MachineError
from fedrounds_common.study.study import Study
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites import keeping
from fedrounds_sites.keeping import Keeper, require_room
from fedrounds_sites.reader import Reader
from fedrounds_sites.simulation import Simulation, read_simulation
from fedrounds_sites.unlike import Unlike

FORM = CaseForm(dims=3, orientation=None)
REFS = tuple(CaseRef(f"c{number}", f"p{number}", "a") for number in range(3))


@final
@dataclass(frozen=True)
class Counting(Reader):
    """Cases of random voxels that says how often each was read; `stamps` stand for the files behind them."""

    stamps: dict[str, str]
    read: list[str]
    broken: str = ""

    def cases(self, form: CaseForm) -> tuple[CaseRef, ...]:
        return REFS

    def load(self, ref: CaseRef, form: CaseForm) -> Case:
        self.read.append(ref.name)
        if ref.name == self.broken:
            raise CaseError("FR-D14", "not finite", case=ref.name)
        rng = np.random.default_rng(sum(ref.name.encode()))
        return Case(ref, rng.normal(size=(1, 12, 12, 12)).astype(np.float32), None, np.eye(4))

    def stamp(self, ref: CaseRef, form: CaseForm) -> str:
        return self.stamps.get(ref.name, "")


def keeper(folder: Path, cache: Path | None, form: CaseForm = FORM, **changed: Any) -> Keeper:
    named = [{"name": name} for name in ("segmentation", "unet", "fedavg", "float32")]
    reader = changed.pop("reader", None) or Counting({ref.name: "1" for ref in REFS}, [])
    simulation = Simulation(reader={"name": "counting"}, cache=cache, **changed)
    return Keeper("a", folder, reader, simulation, Study("s", *named, cases=form))


def reads(one: Keeper) -> list[str]:
    """Which cases had to be read to open all of them."""
    usable, left_out = one.open_all(REFS)
    assert list(usable) == list(REFS)
    assert left_out == {}
    assert isinstance(one.reader, Counting)
    return one.reader.read


def test_a_second_run_finds_the_prepared_cases_of_the_first(tmp_path: Path) -> None:
    assert reads(keeper(tmp_path / "run1", tmp_path / "cache")) == ["c0", "c1", "c2"]
    first, _ = keeper(tmp_path / "run1", tmp_path / "cache").open_all(REFS)
    second = keeper(tmp_path / "run2", tmp_path / "cache")
    assert reads(second) == []
    again, _ = second.open_all(REFS)
    for ref in REFS:
        np.testing.assert_array_equal(again[ref].image, first[ref].image)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_without_a_folder_to_keep_them_each_run_makes_its_own(tmp_path: Path) -> None:
    assert len(reads(keeper(tmp_path / "run1", None))) == 3
    assert len(reads(keeper(tmp_path / "run2", None))) == 3
    assert reads(keeper(tmp_path / "run2", None)) == []
    assert len(list((tmp_path / "run2" / "cache").iterdir())) == 3


def test_a_changed_file_is_read_again_and_the_others_are_not(tmp_path: Path) -> None:
    reads(keeper(tmp_path, tmp_path / "cache"))
    changed = Counting({"c0": "1", "c1": "2", "c2": "1"}, [])
    assert reads(keeper(tmp_path, tmp_path / "cache", reader=changed)) == ["c1"]


@pytest.mark.parametrize("form", [replace(FORM, intensity="unit"), replace(FORM, spacing_mm=(2.0, 2.0, 2.0))])
def test_another_form_of_a_case_is_another_case(tmp_path: Path, form: CaseForm) -> None:
    reads(keeper(tmp_path, tmp_path / "cache"))
    assert len(reads(keeper(tmp_path, tmp_path / "cache", form))) == 3
    assert reads(keeper(tmp_path, tmp_path / "cache")) == []


def test_a_hospital_made_unlike_the_others_shares_no_case_with_them(tmp_path: Path) -> None:
    one = keeper(tmp_path, tmp_path / "cache", unlike=Unlike())
    assert len(reads(one)) == 3
    other = replace(one, site="b", reader=Counting({ref.name: "1" for ref in REFS}, []))
    assert len(reads(other)) == 3
    alike = replace(keeper(tmp_path, tmp_path / "plain"), site="b")
    assert len(reads(keeper(tmp_path, tmp_path / "plain"))) == 3
    assert reads(alike) == []


def test_a_reader_that_cannot_tell_when_files_change_keeps_nothing_beyond_its_run(tmp_path: Path) -> None:
    assert len(reads(keeper(tmp_path / "run1", tmp_path / "cache", reader=Counting({}, [])))) == 3
    assert reads(keeper(tmp_path / "run1", tmp_path / "cache", reader=Counting({}, []))) == []
    assert len(reads(keeper(tmp_path / "run2", tmp_path / "cache", reader=Counting({}, [])))) == 3


def test_a_kept_case_that_the_disk_spoiled_is_made_anew(tmp_path: Path) -> None:
    reads(keeper(tmp_path, tmp_path / "cache"))
    file = min((tmp_path / "cache").iterdir())
    content = bytearray(file.read_bytes())
    content[-70] ^= 1
    file.write_bytes(content)
    assert len(reads(keeper(tmp_path / "run2", tmp_path / "cache"))) == 1


def test_a_bad_case_is_left_out_and_never_kept(tmp_path: Path) -> None:
    one = keeper(tmp_path, None, reader=Counting({ref.name: "1" for ref in REFS}, [], broken="c1"))
    usable, left_out = one.open_all(REFS)
    assert [ref.name for ref in usable] == ["c0", "c2"]
    assert {name: error.code for name, error in left_out.items()} == {"c1": "FR-D14"}
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_what_many_cases_would_take_is_told_by_one(tmp_path: Path) -> None:
    one = keeper(tmp_path, None, reader=Counting({ref.name: "1" for ref in REFS}, [], broken="c0"))
    told = one.would_take(REFS, 100)
    (file,) = (tmp_path / "cache").iterdir()
    assert 100 * file.stat().st_size == pytest.approx(told, rel=0.15)
    assert one.would_take((REFS[0],), 100) == 0  # none of them can be prepared


def test_cases_for_which_the_disk_has_no_room_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(tmp_path).free
    require_room(tmp_path / "not" / "there" / "yet", free // 2)
    with pytest.raises(MachineError, match=r"FR-E60 .*would take .* MB more, and .* MB are free"):
        require_room(tmp_path / "not" / "there" / "yet", 2 * free + 10**9)
    # the third of three cases has no room: it is known once the first was made
    full = type(shutil.disk_usage(tmp_path))(100, 99, 1)
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda _: full)
    one = keeper(tmp_path, None)
    with pytest.raises(MachineError, match="FR-E60"):
        one.open_all(REFS)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_cases_that_are_kept_already_need_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads(keeper(tmp_path, tmp_path / "cache"))
    full = type(shutil.disk_usage(tmp_path))(100, 100, 0)
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda _: full)
    changed = Counting({"c0": "2", "c1": "1", "c2": "1"}, [])
    assert reads(keeper(tmp_path, tmp_path / "cache", reader=changed)) == ["c0"]


def test_cases_are_missing_that_this_hospital_did_not_keep_whatever_else_lies_there(tmp_path: Path) -> None:
    one = keeper(tmp_path, tmp_path / "cache")
    assert one.missing(REFS) == 3
    reads(keeper(tmp_path, tmp_path / "cache", replace(FORM, intensity="unit")))  # another study's
    assert one.missing(REFS) == 3
    one.open_all(REFS[:2])
    assert one.missing(REFS) == 1


def test_the_folder_counts_from_the_study_file(tmp_path: Path) -> None:
    simulation, faults = read_simulation({"cache": "kept"}, tmp_path)
    assert faults == []
    assert simulation is not None
    assert simulation.cache == tmp_path / "kept"
