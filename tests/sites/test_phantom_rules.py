"""The floor: rules that learned nothing, on images small enough to see what they must find."""

from __future__ import annotations

import numpy as np
import pytest

from fedrounds_common import untrained
from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.errors import DataError
from fedrounds_common.rng import generator
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.phantom import telling

FORM = CaseForm(channels=("flair",), labels={"tumour": 1})
GRID = (16, 16, 16)


def case(name: str, bright: float, site: str = "s1", *, tumour: bool = True, noise: float = 0.02) -> Case:
    """A symmetric head of 1.0 with a ramp front to back; a cube of tumour on the right adds `bright`."""
    image = np.zeros((1, *GRID), np.float32)
    image[0, 2:14, 2:14, 2:14] = 1 + 0.5 * np.linspace(0, 1, 12)[:, None]
    labels = np.zeros(GRID, np.uint8)
    if tumour:
        labels[9:12, 6:9, 6:9] = 1
    image[0][labels > 0] += bright
    image[image > 0] += generator(1, name).normal(0, noise, int((image > 0).sum())).astype(np.float32)
    return Case(CaseRef(name, name, site), image, Target(labels), np.eye(4))


def best_of(name: str, cases: list[Case], form: CaseForm = FORM) -> float:
    found, dice = untrained.scores(cases, form)
    return float(max(dice[:, k, 0].mean() for k, rule in enumerate(found) if rule.name == name))


def test_otsu_parts_two_heaps_of_counts() -> None:
    counts = np.zeros(10, np.int64)
    counts[[1, 2, 7, 8]] = [5, 5, 3, 3]
    assert 2 <= untrained.otsu(counts) < 7


def test_otsu_of_one_value_or_none_parts_nothing() -> None:
    assert untrained.otsu(np.array([0, 0, 4, 0])) == 2
    assert untrained.otsu(np.zeros(4, np.int64)) == 0


def test_kmeans_orders_its_clusters_from_dark_to_bright() -> None:
    counts = np.zeros(100, np.int64)
    counts[[10, 30, 60, 90]] = 25
    assert untrained.kmeans(counts)[[10, 30, 60, 90]].tolist() == [0, 1, 2, 3]


def test_a_very_bright_tumour_is_found_by_a_threshold() -> None:
    assert best_of("otsu", [case("a", 5.0), case("b", 5.0)]) == pytest.approx(1)


def test_the_mirror_finds_what_a_threshold_cannot_where_a_head_is_symmetric() -> None:
    # 0.2 brighter lies within the ramp of 0.5, so no threshold parts it; its mirror place does
    cases = [case("a", 0.3), case("b", 0.3)]
    assert best_of("otsu", cases) < 0.3
    assert best_of("mirror", cases) > 0.7


def test_the_template_finds_a_tumour_that_the_others_do_not_have() -> None:
    cases = [case("a", 0.3), *(case(f"h{k}", 0.0, tumour=False) for k in range(4))]
    found, dice = untrained.scores(cases, FORM)
    assert max(dice[0, k, 0] for k, rule in enumerate(found) if rule.name == "template") > 0.7


def test_the_largest_piece_drops_the_specks() -> None:
    one = case("a", 5.0)
    image = one.image.copy()
    image[0, 3, 3, 3] = image[0, 12, 12, 12] = 6.0
    found, dice = untrained.scores([one.with_image(image, one.target)], FORM)
    by_rule = {(rule.name, rule.part, rule.largest): float(dice[0, k, 0]) for k, rule in enumerate(found)}
    # 27 voxels found, 2 specks: 2 · 27 / (29 + 27)
    assert by_rule["otsu", "bright", False] == pytest.approx(54 / 56)
    assert by_rule["otsu", "bright", True] == 1


def test_two_empty_masks_count_one_and_a_spurious_one_zero() -> None:
    found, dice = untrained.scores([case("a", 0.0, tumour=False)], FORM)
    assert dice.shape == (1, len(found), 1)
    assert set(np.unique(dice)) <= {0.0, 1.0}


def test_each_rules_masks_have_a_state_by_the_empty_mask_rule() -> None:
    sick, well = case("a", 5.0), case("b", 0.0, tumour=False)
    found = untrained.judge([sick, well, Case(CaseRef("c", "c", "s1"), sick.image, None, np.eye(4))], FORM)
    assert [ref.name for ref in found.refs] == ["a", "b"]
    assert found.states.shape == found.dice.shape == (2, len(found.rules), 1)
    # "scored" and "missed" where there is a tumour, "both-empty" and "spurious" where there is none
    assert set(np.unique(found.states[0])) <= {0, 2}
    assert set(np.unique(found.states[1])) <= {1, 3}
    assert (found.dice[1][found.states[1] == 1] == 1).all()
    assert (found.dice[1][found.states[1] == 3] == 0).all()
    assert (found.dice[0][found.states[0] == 2] == 0).all()


def test_the_floor_is_the_best_mean_over_the_cases() -> None:
    cases = [case("a", 5.0), case("b", 0.3)]
    found, dice = untrained.scores(cases, FORM)
    assert untrained.floor(cases, FORM) == {"tumour": dice.mean(axis=0).max()}
    rule, value = untrained.best(cases, FORM)["tumour"]
    assert value == dice.mean(axis=0)[found.index(rule), 0]
    assert "flair" in str(rule)


def test_the_floor_takes_pictures_and_cases_of_unlike_grids() -> None:
    picture = Case(
        CaseRef("p", "p", "s1"),
        case("a", 5.0).image[..., 7],
        Target((case("a", 5.0).image[0, ..., 7] > 3).astype(np.uint8)),
        np.eye(4),
    )
    assert untrained.floor([picture], CaseForm(dims=2, channels=("x",), labels={"t": 1}))["t"] == pytest.approx(1)
    small = case("b", 5.0)
    small = Case(small.ref, small.image[:, 1:15], Target(small.target.voxels[1:15]), np.eye(4))  # type: ignore[union-attr]
    assert untrained.floor([case("a", 5.0), small], FORM)["tumour"] == pytest.approx(1)


def test_the_floor_needs_references() -> None:
    with pytest.raises(DataError, match="FR-P07 0 cases"):
        untrained.floor([], FORM)


def crowd(sites: dict[str, float]) -> list[Case]:
    return [
        case(f"{site}-{number}", 0.0, site, tumour=False, noise=noise)
        for site, noise in sites.items()
        for number in range(4)
    ]


def test_a_hospital_with_more_noise_is_told_and_equal_ones_are_not() -> None:
    found = telling.aucs(crowd({"a": 0.02, "b": 0.02, "c": 0.3}))
    assert found["c"] > 0.95
    assert found["a"] < 0.8


def test_auc_counts_ties_by_half() -> None:
    # positives 2, 1; negatives 1, 0: three of four pairs won, and one tie
    assert telling.auc(np.array([2.0, 1.0, 1.0, 0.0]), np.array([True, True, False, False])) == 0.875


def test_telling_hospitals_apart_needs_two_with_patients_enough() -> None:
    with pytest.raises(DataError, match="FR-P07 1 hospitals"):
        telling.aucs(crowd({"a": 0.02}))
