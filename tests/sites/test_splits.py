"""Splits: by patient, from the seed, unmoved by new cases, and what is written wins."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrounds_common.case import CaseRef
from fedrounds_common.errors import DataError
from fedrounds_sites.splits import Split, is_validation, parts, read_split, some, split, write_split


def visits(patients: int, each: int = 1, first: int = 0) -> list[CaseRef]:
    return [
        CaseRef(f"p{patient:03d}v{visit}", f"p{patient:03d}")
        for patient in range(first, first + patients)
        for visit in range(each)
    ]


def patients_of(refs: tuple[CaseRef, ...]) -> set[str]:
    return {ref.patient for ref in refs}


sizes = st.integers(1, 40)
seeds = st.integers(0, 2**40)
folds = st.sampled_from([0, 2, 3, 5])

PINNED_SHARE = ["p006", "p011"]
PINNED_FOLDS = dict(
    zip(
        (f"p{patient:03d}" for patient in range(12)),
        ["1/3", "2/3", "1/3", "0/3", "1/3", "2/3", "0/3", "1/3", "2/3", "0/3", "2/3", "0/3"],
        strict=True,
    )
)
PINNED_SOME = ["p002v0", "p003v0", "p007v0", "p008v0"]


@settings(max_examples=80, deadline=None)
@given(patients=sizes, each=st.integers(1, 3), seed=seeds, folds=folds, share=st.floats(0, 0.99))
def test_no_patient_is_in_both_parts_and_no_case_is_lost(
    patients: int, each: int, seed: int, folds: int, share: float
) -> None:
    refs = visits(patients, each)
    done = split(refs, "s", seed, share, folds=folds)
    assert not patients_of(done.train) & patients_of(done.validation)
    assert sorted(done.train + done.validation) == sorted(refs)


@settings(max_examples=60, deadline=None)
@given(refs=st.permutations(visits(17, 2)), seed=seeds, folds=folds)
def test_the_order_of_files_does_not_matter(refs: list[CaseRef], seed: int, folds: int) -> None:
    assert split(refs, "s", seed, folds=folds) == split(sorted(refs), "s", seed, folds=folds)


@settings(max_examples=80, deadline=None)
@given(old=st.integers(5, 30), more=st.integers(1, 30), seed=seeds, share=st.floats(0, 0.99))
def test_new_cases_never_move_old_ones(old: int, more: int, seed: int, share: float) -> None:
    before = parts(visits(old), "s", seed, share)
    after = parts(visits(old + more), "s", seed, share)
    assert {patient: after[patient] for patient in before} == before


@settings(max_examples=80, deadline=None)
@given(old=st.integers(1, 30), more=st.integers(1, 30), seed=seeds, folds=folds, first=st.integers(-5, 0))
def test_a_written_split_never_moves_at_all(old: int, more: int, seed: int, folds: int, first: int) -> None:
    # also not for folds, and not when a site grows past the five patients it needs for validation
    before = parts(visits(old), "s", seed, folds=folds)
    after = parts(visits(old + more, first=first + 5), "s", seed, folds=folds, written=before)
    assert {patient: after[patient] for patient in before} == before


def test_the_rule_is_about_one_patient_of_one_site() -> None:
    refs = visits(200)
    for site in ("a", "b"):
        chosen = patients_of(split(refs, site, 7).validation)
        assert chosen == {ref.patient for ref in refs if is_validation(7, site, ref.patient, 0.2)}
        # 200 patients, share 0.2: 40, give or take three standard deviations of 5.7
        assert 23 <= len(chosen) <= 57
    assert split(refs, "a", 7) != split(refs, "b", 7)
    assert split(refs, "a", 7) != split(refs, "a", 8)


def test_a_larger_share_only_adds_to_validation() -> None:
    small, large = (patients_of(split(visits(100), "s", 1, share).validation) for share in (0.1, 0.3))
    assert small < large


@pytest.mark.parametrize("folds", [0, 5])
def test_a_site_with_fewer_than_five_patients_trains_on_all(folds: int) -> None:
    refs = visits(4, each=6)
    assert split(refs, "s", 0, 0.9, folds=folds) == Split(tuple(sorted(refs)), ())
    assert split(visits(5), "s", 0, 0.9, folds=folds).validation


def test_no_cases_split_into_nothing() -> None:
    assert split([], "s", 0) == Split((), ())


def test_every_patient_validates_in_exactly_one_fold() -> None:
    refs = visits(23, each=2)
    seen = Counter(ref.patient for fold in range(5) for ref in split(refs, "s", 3, folds=5, fold=fold).validation)
    assert seen == Counter({f"p{patient:03d}": 2 for patient in range(23)})


@settings(max_examples=60, deadline=None)
@given(patients=st.integers(5, 60), count=st.sampled_from([2, 3, 5]), seed=seeds, kinds=st.integers(1, 4))
def test_folds_are_even_in_each_stratum_and_over_all(patients: int, count: int, seed: int, kinds: int) -> None:
    refs = visits(patients)
    strata = {ref.patient: int(ref.patient[1:]) % kinds for ref in refs}
    kept = parts(refs, "s", seed, folds=count, strata=strata)
    names = [f"{fold}/{count}" for fold in range(count)]
    for stratum in range(kinds):
        filled = Counter(part for patient, part in kept.items() if strata[patient] == stratum)
        assert max(filled[name] for name in names) - min(filled[name] for name in names) <= 1
    total = Counter(kept.values())
    assert max(total[name] for name in names) - min(total[name] for name in names) <= 1


def test_new_patients_fill_the_emptiest_fold_of_their_stratum() -> None:
    written = {"p000": "0/2", "p001": "0/2", "p002": "0/2", "p003": "1/2", "p004": "1/2"}
    strata = {"p000": 0, "p001": 0, "p002": 1, "p003": 1, "p004": 1, "p005": 0, "p006": 1}
    kept = parts(visits(7), "s", 0, folds=2, strata=strata, written=written)
    assert kept["p005"] == "1/2"  # of stratum 0 two are in fold 0 and none in fold 1
    assert kept["p006"] == "0/2"  # of stratum 1 one is in fold 0 and two in fold 1


def test_a_patient_without_files_today_keeps_its_part() -> None:
    kept = parts(visits(6), "s", 0, written={"gone": "validation"})
    assert kept["gone"] == "validation"


def test_what_is_written_wins_over_the_rule() -> None:
    refs = visits(10)
    turned = {patient: "validation" if part == "train" else "train" for patient, part in parts(refs, "s", 0).items()}
    assert split(refs, "s", 0, written=turned).train == split(refs, "s", 0).validation


def test_a_split_comes_back_as_it_was_written(tmp_path: Path) -> None:
    kept = parts(visits(12), "s", 0, folds=3)
    write_split(tmp_path / "a" / "splits.json", "s", kept)
    assert read_split(tmp_path / "a" / "splits.json", "s") == kept
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["splits.json"]
    assert read_split(tmp_path / "none.json", "s") is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "\udcff",
        '{"kind": "split", "format": 2, "site": "s", "patients": {}}',
        '{"kind": "ledger", "format": 1, "site": "s", "patients": {}}',
        '{"kind": "split", "format": 1, "site": "other", "patients": {}}',
        '{"kind": "split", "format": 1, "site": "s", "patients": ["p"]}',
        '{"kind": "split", "format": 1, "site": "s", "patients": {"p": 1}}',
    ],
)
def test_a_damaged_or_foreign_split_is_refused_not_guessed(tmp_path: Path, content: str) -> None:
    file = tmp_path / "splits.json"
    file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match="FR-D25"):
        read_split(file, "s")


@pytest.mark.parametrize(("before", "now"), [(5, 3), (3, 5), (0, 5), (5, 0)])
def test_a_split_of_another_number_of_folds_is_refused(before: int, now: int) -> None:
    kept = parts(visits(60), "s", 0, folds=before)
    with pytest.raises(DataError, match="FR-D26"):
        split(visits(60), "s", 0, folds=now, written=kept)


def test_some_cases_are_the_same_ones_each_time_and_more_keep_the_fewer() -> None:
    refs = visits(30)
    few = some(refs, 5, "s", 1)
    assert few == some(refs[::-1], 5, "s", 1)
    assert len(few) == 5
    assert set(few) < set(some(refs, 9, "s", 1))
    assert some(refs, 0, "s", 1) == tuple(refs)
    assert few != some(refs, 5, "s", 2)


def test_the_parts_of_a_seed_are_the_same_in_every_version() -> None:
    # written down once: a release that deals otherwise would let patients that trained validate
    refs = visits(12)
    assert sorted(patients_of(split(refs, "s", 0, 0.3).validation)) == PINNED_SHARE
    assert parts(refs, "s", 0, folds=3) == PINNED_FOLDS
    assert [ref.name for ref in some(refs, 4, "s", 0)] == PINNED_SOME


def test_one_fold_is_no_folds_and_the_first_fold_is_the_default() -> None:
    assert split(visits(30), "s", 0, folds=1) == split(visits(30), "s", 0)
    assert split(visits(30), "s", 0, folds=3) == split(visits(30), "s", 0, folds=3, fold=0)


@settings(max_examples=40, deadline=None)
@given(old=st.integers(5, 30), more=st.integers(1, 30), seed=seeds)
def test_folds_stay_even_when_a_site_grows(old: int, more: int, seed: int) -> None:
    strata = {ref.patient: int(ref.patient[1:]) % 2 for ref in visits(old + more)}
    before = parts(visits(old), "s", seed, folds=3, strata=strata)
    after = parts(visits(old + more), "s", seed, folds=3, strata=strata, written=before)
    for stratum in range(2):
        filled = Counter(part for patient, part in after.items() if strata[patient] == stratum)
        assert max(filled.values()) - min(filled[f"{fold}/3"] for fold in range(3)) <= 1


def test_a_written_split_is_readable_whatever_the_alphabet(tmp_path: Path) -> None:
    write_split(tmp_path / "splits.json", "s", {"Žofie": "train"})
    assert "Žofie" in (tmp_path / "splits.json").read_text("utf-8")
    assert read_split(tmp_path / "splits.json", "s") == {"Žofie": "train"}
