"""Partitions: every hospital of a rehearsal gets its patients, none of them to two hospitals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrounds_common.case import CaseRef
from fedrounds_common.errors import DataError
from fedrounds_common.study.parse import parse_study
from fedrounds_sites.hospitals import assign
from fedrounds_sites.partition import PARTITIONS, Assignment, Partition
from fedrounds_sites.simulation import read_simulation


def visits(patients: int, each: int = 1, site: str | None = None) -> list[CaseRef]:
    return [
        CaseRef(f"p{patient:03d}v{visit}", f"p{patient:03d}", site)
        for patient in range(patients)
        for visit in range(each)
    ]


def build(name: str, **fields: Any) -> Partition:
    built, faults = PARTITIONS.build({"name": name, **fields}, "simulation.partition")
    assert not faults, faults
    assert built is not None
    return built


def patients_of(assignment: Assignment) -> dict[str, set[str]]:
    return {site: {ref.patient for ref in refs} for site, refs in assignment.items()}


def holds(assignment: Assignment, refs: list[CaseRef], *, all_of_them: bool) -> None:
    """What every partition promises."""
    given_out = [ref for own in assignment.values() for ref in own]
    assert len(given_out) == len(set(given_out))
    assert set(given_out) == set(refs) if all_of_them else set(given_out) <= set(refs)
    homes = [patient for own in patients_of(assignment).values() for patient in own]
    assert len(homes) == len(set(homes))  # no patient at two sites
    assert list(assignment) == sorted(assignment)
    for own in assignment.values():
        assert own
        assert list(own) == sorted(own)
        assert {ref for ref in refs if ref.patient in {ref.patient for ref in own}} == set(own)


def test_the_shelf_holds_each_of_them() -> None:
    assert {"natural", "csv_file", "sizes", "profile", "dirichlet"} <= set(PARTITIONS.names())


# ---------------------------------------------------------------- natural


def test_natural_keeps_the_readers_own_sites() -> None:
    refs = [CaseRef("a1", "a", "north"), CaseRef("a2", "a", "north"), CaseRef("b1", "b", "south")]
    done = build("natural").assign(refs[::-1], 0)
    assert done == {"north": tuple(refs[:2]), "south": tuple(refs[2:])}


def test_natural_without_sites_is_one_site() -> None:
    assert build("natural").assign(visits(3), 0) == {"site": tuple(visits(3))}
    assert list(build("natural", only="here").assign(visits(3), 0)) == ["here"]


@pytest.mark.parametrize(
    ("sites", "found"), [(("north", "south"), "north and south"), (("north", None), "none and north")]
)
def test_natural_refuses_a_patient_of_two_sites_or_of_none(sites: tuple[Any, Any], found: str) -> None:
    refs = [CaseRef("a1", "a", sites[0]), CaseRef("a2", "a", sites[1])]
    with pytest.raises(DataError, match=f"FR-D23.*patient a is at site {found}"):
        build("natural").assign(refs, 0)


def test_natural_refuses_a_site_that_no_study_could_name() -> None:
    with pytest.raises(DataError, match=r"FR-D23.*'St\. Mary/s'"):
        build("natural").assign(visits(2, site="St. Mary/s"), 0)


# ---------------------------------------------------------------- sizes


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    each=st.integers(1, 3),
    spare=st.integers(0, 5),
    seed=st.integers(0, 999),
)
def test_sizes_are_patients_and_exact(sizes: list[int], each: int, spare: int, seed: int) -> None:
    refs = visits(sum(sizes) + spare, each)
    done = build("sizes", sizes=sizes).assign(refs, seed)
    holds(done, refs, all_of_them=spare == 0)
    assert [len(own) for own in patients_of(done).values()] == sizes
    assert done == build("sizes", sizes=sizes).assign(refs[::-1], seed)


def test_sizes_shuffle_by_the_seed() -> None:
    one, other = (build("sizes", sizes=[10, 10]).assign(visits(20), seed) for seed in (1, 2))
    assert one != other
    assert patients_of(one)["s01"] != {f"p{patient:03d}" for patient in range(10)}


def test_sizes_take_names() -> None:
    done = build("sizes", sizes=[1, 2], names=["zurich", "bern"]).assign(visits(3), 0)
    assert {site: len(own) for site, own in done.items()} == {"bern": 2, "zurich": 1}


def test_many_sites_sort_by_number() -> None:
    done = build("sizes", sizes=[1] * 120).assign(visits(120), 0)
    assert list(done)[:2] == ["s001", "s002"]
    assert list(done)[-1] == "s120"


def test_sizes_that_ask_for_too_many_are_refused() -> None:
    with pytest.raises(DataError, match="FR-D22 9 patients; at least 10 for 2 sites"):
        build("sizes", sizes=[5, 5]).assign(visits(9, each=3), 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"sizes": []},
        {"sizes": [0]},
        {"sizes": [1, 2], "names": ["a"]},
        {"sizes": [1, 2], "names": ["a", "a"]},
        {"sizes": [1], "names": ["a/b"]},
    ],
)
def test_sizes_that_make_no_sense_are_faults_of_the_study(fields: dict[str, Any]) -> None:
    built, faults = PARTITIONS.build({"name": "sizes", **fields}, "simulation.partition")
    assert built is None
    assert faults


# ---------------------------------------------------------------- csv_file


def table(folder: Path, *rows: str, head: str = "Partition_ID,Subject_ID") -> str:
    file = folder / "partition.csv"
    file.write_text("\n".join([head, *rows]) + "\n")
    return str(file)


def test_a_table_names_each_subjects_site(tmp_path: Path) -> None:
    file = table(tmp_path, "1,p000", "12,p001", "1,p002")
    refs = visits(3, each=2)
    done = build("csv_file", file=file).assign(refs, 0)
    holds(done, refs, all_of_them=True)
    assert patients_of(done) == {"s01": {"p000", "p002"}, "s12": {"p001"}}


def test_a_table_may_name_sites_in_words_and_subjects_by_case(tmp_path: Path) -> None:
    file = table(tmp_path, "Bern,p000v0", "Bern,p000v1", "Zug,p001")
    done = build("csv_file", file=file).assign(visits(2, each=2), 0)
    assert patients_of(done) == {"Bern": {"p000"}, "Zug": {"p001"}}


def test_further_columns_spaces_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    file = table(tmp_path, "m, p000 , 1", "w,p001,2", "", head="\ufeffNote,Subject_ID,Partition_ID")
    done = build("csv_file", file=file).assign(visits(2), 0)
    assert patients_of(done) == {"s01": {"p000"}, "s02": {"p001"}}


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (["1,p000", "1,p001", "2,p000"], "line 4: p000 is named again"),
        (["1,p000", "1,p001", "1,p001"], "line 4: p001 is named again"),
        (["1,p000", "1,p001", "2,p777"], "p777"),
        (["1,p000"], "p001"),
        (["1,p000", ",p001"], "line 3"),
        (["1,p000", "2"], "line 3"),
        (["1,p000v0", "2,p000v1", "1,p001"], "p000"),
    ],
)
def test_a_table_that_does_not_fit_the_cases_is_refused(tmp_path: Path, rows: list[str], found: str) -> None:
    with pytest.raises(DataError, match="FR-D21") as caught:
        build("csv_file", file=table(tmp_path, *rows)).assign(visits(2, each=2), 0)
    assert found in str(caught.value)
    assert "partition.csv" in str(caught.value)


def test_a_table_may_be_asked_to_fit_loosely(tmp_path: Path) -> None:
    file = table(tmp_path, "1,p000", "2,p777")
    done = build("csv_file", file=file, missing="skip", unnamed="leave").assign(visits(2), 0)
    assert patients_of(done) == {"s01": {"p000"}}


@pytest.mark.parametrize("head", ["Site,Subject", "", "\x00"])
def test_a_table_without_the_two_columns_is_refused(tmp_path: Path, head: str) -> None:
    with pytest.raises(DataError, match=r"FR-D21.*Partition_ID"):
        build("csv_file", file=table(tmp_path, "1,p000", head=head)).assign(visits(1), 0)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"FR-D21.*nowhere.csv"):
        build("csv_file", file=str(tmp_path / "nowhere.csv")).assign(visits(1), 0)


def test_the_fets_challenges_own_file_reads(shared_data: Path) -> None:
    file = shared_data / "data" / "fets71" / "partitioning_1.csv"
    subjects = [line.split(",")[1] for line in file.read_text().split()[1:]]
    refs = [CaseRef(subject, subject) for subject in subjects]
    done = build("csv_file", file=str(file)).assign(refs, 0)
    holds(done, refs, all_of_them=True)
    assert len(done) == 23
    assert len(done["s01"]) == 511


# ---------------------------------------------------------------- profile


def test_a_profile_deals_all_patients_in_its_proportions() -> None:
    refs = visits(1600)
    done = build("profile", profile="fets71").assign(refs, 0)
    holds(done, refs, all_of_them=True)
    assert len(done) == 71
    by_size = sorted((len(own) for own in done.values()), reverse=True)
    # the two largest of FeTS hold 827 and 611 of 6,314 cases: 13.1 % and 9.7 %
    assert by_size[0] == pytest.approx(1600 * 827 / 6314, abs=4)
    assert by_size[1] == pytest.approx(1600 * 611 / 6314, abs=4)
    assert by_size[-1] == 1


def test_a_profile_can_be_told_how_many_patients_to_use() -> None:
    done = build("profile", profile="fets71", patients=100).assign(visits(1600), 0)
    assert sum(len(own) for own in done.values()) == 100
    assert len(done) == 71


def test_a_profile_with_more_sites_than_patients_is_refused() -> None:
    with pytest.raises(DataError, match="FR-D22 70 patients; at least 71"):
        build("profile", profile="fets71").assign(visits(70), 0)
    with pytest.raises(DataError, match="FR-D22"):
        build("profile", profile="fets71", patients=200).assign(visits(100), 0)


# ---------------------------------------------------------------- dirichlet


def kinds(patients: int, count: int = 4) -> dict[str, int]:
    return {f"p{patient:03d}": patient % count for patient in range(patients)}


@settings(max_examples=30, deadline=None)
@given(sites=st.integers(1, 8), alpha=st.sampled_from([0.3, 1.0, 100.0]), seed=st.integers(0, 999))
def test_dirichlet_gives_every_patient_a_site(sites: int, alpha: float, seed: int) -> None:
    refs = visits(120, each=2)
    partition = build("dirichlet", sites=sites, alpha=alpha)
    done = partition.assign(refs, seed, kinds(120))
    holds(done, refs, all_of_them=True)
    assert len(done) == sites
    assert done == partition.assign(refs[::-1], seed, kinds(120))


def test_a_small_alpha_skews_labels_and_a_large_one_does_not() -> None:
    refs, strata = visits(800), kinds(800)

    def skew(alpha: float) -> float:
        """Mean over sites of the largest label's share: 0.25 is even, 1 is one label a site."""
        sites = patients_of(build("dirichlet", sites=5, alpha=alpha).assign(refs, 0, strata)).values()
        counts = np.array([[sum(strata[patient] == kind for patient in own) for kind in range(4)] for own in sites])
        return float((counts.max(axis=1) / counts.sum(axis=1)).mean())

    assert skew(1000.0) < 0.3
    assert skew(0.1) > 0.55


def test_dirichlet_leaves_no_site_below_its_least() -> None:
    done = build("dirichlet", sites=6, alpha=0.5, at_least=8).assign(visits(200), 3, kinds(200))
    assert min(len(own) for own in patients_of(done).values()) >= 8


def test_dirichlet_without_labels_to_skew_is_refused() -> None:
    with pytest.raises(DataError, match="FR-D24"):
        build("dirichlet", sites=2).assign(visits(10), 0)
    with pytest.raises(DataError, match=r"FR-D24.*p009"):
        build("dirichlet", sites=2).assign(visits(10), 0, kinds(9))


def test_dirichlet_that_cannot_fill_its_sites_is_refused() -> None:
    with pytest.raises(DataError, match="FR-D22"):
        build("dirichlet", sites=5, at_least=3).assign(visits(14), 0, kinds(14))
    # 20 sites of 5 from 100 patients in one stratum: hardly any draw is that even
    with pytest.raises(DataError, match="FR-D24"):
        build("dirichlet", sites=20, alpha=0.1, at_least=5).assign(visits(100), 0, kinds(100, 1))


def test_a_partition_of_the_users_own_deals_the_cases_out(tmp_path: Path) -> None:
    (tmp_path / "partitions").mkdir()
    (tmp_path / "partitions" / "halves.py").write_text(
        "from dataclasses import dataclass\n"
        "from fedrounds_sites.partition import Partition\n"
        "@dataclass(frozen=True)\n"
        "class Halves(Partition):\n"
        "    def assign(self, refs, seed, strata=None):\n"
        "        return {'even': tuple(refs[::2]), 'odd': tuple(refs[1::2])}\n"
    )
    table = {"reader": {"name": "phantom_glioma", "profile": "eight"}, "partition": {"name": "halves"}}
    simulation, faults = read_simulation(table, tmp_path, [tmp_path])
    assert simulation is not None, faults
    text = 'format = 1\nname = "x"\n[cases]\nchannels = ["t1"]\nlabels = { oedema = 1 }\n'
    sites = assign(simulation, parse_study(text, tmp_path / "x.toml").study, [tmp_path])
    assert set(sites) == {"even", "odd"}
