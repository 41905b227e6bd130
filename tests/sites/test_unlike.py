"""Sites made unlike: each with a scanner of its own, the same one each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.plugins import validate
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.prepare import prepare
from fedrounds_sites.unlike import Unlike

OFF: dict[str, float] = {"gain": 0, "gamma": 0, "blur_mm": 0, "spacing": 1, "noise": 0, "bias": 0}
SITES = [f"s{number:02d}" for number in range(1, 21)]


def only(**fields: float) -> Unlike:
    return Unlike(**{**OFF, **fields})  # type: ignore[arg-type]


def brain(channels: int = 1, name: str = "c") -> Case:
    """A ball of texture on exactly 0, with a smaller ball labelled 2 in it."""
    axes = np.meshgrid(*(np.arange(-10, 10),) * 3, indexing="ij")
    radius = np.sqrt(sum(axis.astype(float) ** 2 for axis in axes))
    texture = 100 + 20 * np.random.default_rng(0).normal(size=(channels, 20, 20, 20))
    image = np.where(radius < 8, texture, 0).astype(np.float32)
    return Case(CaseRef(name, "p"), image, Target(np.where(radius < 4, 2, 0).astype(np.uint8)), np.eye(4))


def same(one: Case, other: Case) -> bool:
    return one.image.shape == other.image.shape and bool((one.image == other.image).all())


def test_the_same_site_and_seed_give_the_same_images() -> None:
    assert same(Unlike().apply(brain(2), "s01", 1), Unlike().apply(brain(2), "s01", 1))


@pytest.mark.parametrize(("site", "seed"), [("s02", 1), ("s01", 2)])
def test_another_site_or_seed_gives_others(site: str, seed: int) -> None:
    assert not same(Unlike().apply(brain(), "s01", 1), Unlike().apply(brain(), site, seed))


def test_all_off_changes_nothing() -> None:
    done = only().apply(brain(2), "s01", 1)
    np.testing.assert_allclose(done.image, brain(2).image, rtol=1e-6)
    assert done.target is not None
    np.testing.assert_array_equal(done.target.voxels, brain(2).target.voxels)  # type: ignore[union-attr]


def test_one_field_does_not_move_another() -> None:
    one, other = (Unlike(gain=gain).scanner("s01", 1, 2) for gain in (0.1, 0.5))
    assert one.gain != other.gain
    assert (one.gamma, one.blur_mm, one.coarser, one.noise, one.bias) == (
        other.gamma,
        other.blur_mm,
        other.coarser,
        other.noise,
        other.bias,
    )


def test_sites_spread_as_far_as_the_fields_say() -> None:
    scanners = [Unlike().scanner(site, 0, 1) for site in SITES]
    gains = np.log([scanner.gain[0] for scanner in scanners])
    assert 0.15 < gains.std() < 0.45  # 20 draws of standard deviation 0.3
    assert all(0 <= scanner.blur_mm <= 1.5 and 1 <= scanner.coarser <= 2 for scanner in scanners)
    assert all(0 <= scanner.noise <= 0.05 and 0 <= scanner.bias <= 0.3 for scanner in scanners)
    assert {scanner.thick for scanner in scanners} == {0, 1, 2}
    assert max(scanner.coarser for scanner in scanners) > 1.7


@pytest.mark.parametrize("fields", [{}, *({name: Unlike().__dict__[name]} for name in OFF)])
def test_what_was_stripped_stays_exactly_zero(fields: dict[str, Any]) -> None:
    unlike = only(**fields) if fields else Unlike(spacing=1)
    done = unlike.apply(brain(), "s03", 0)
    assert np.isfinite(done.image).all()
    if done.grid == (20, 20, 20):
        assert (done.image[brain().image == 0] == 0).all()


@pytest.mark.parametrize("name", ["gamma", "blur_mm", "noise", "bias", "spacing"])
def test_each_field_survives_normalising(name: str) -> None:
    form = CaseForm(labels={"lesion": 2}, spacing_mm=(1.0, 1.0, 1.0))
    plain = prepare(brain(), form)
    changed = [
        prepare(only(**{name: Unlike().__dict__[name]}).apply(brain(), site, 0), form).image for site in SITES[:6]
    ]
    apart = [float(np.abs(image - plain.image).mean()) if image.shape == plain.image.shape else 1 for image in changed]
    assert max(apart) > 0.02


def test_gain_alone_is_taken_out_by_normalising() -> None:
    form = CaseForm(labels={"lesion": 2})
    done = prepare(only(gain=0.5).apply(brain(), "s01", 0), form)
    # a value between two steps of the rounding may go to either
    np.testing.assert_allclose(done.image, prepare(brain(), form).image, atol=2**-13)


def test_a_coarser_site_gets_image_and_label_on_one_coarser_grid() -> None:
    coarse = 0
    for site in SITES:
        scanner = only(spacing=4).scanner(site, 0, 1)
        done = only(spacing=4).apply(brain(), site, 0)
        assert done.target is not None
        assert done.target.voxels.shape == done.grid
        expected = [20, 20, 20]
        expected[scanner.thick] = round(20 / scanner.coarser)
        assert done.grid == tuple(expected)
        assert done.spacing_mm[scanner.thick] == pytest.approx(scanner.coarser if done.grid != (20,) * 3 else 1)
        coarse += done.grid != (20,) * 3
        # the labelled ball stays where it is in the patient and keeps its volume, to a quarter of a 4 mm voxel
        centre = (done.affine @ np.append(np.argwhere(done.target.voxels).mean(axis=0), 1))[:3]
        np.testing.assert_allclose(centre, 10, atol=1.0)
        volume = np.count_nonzero(done.target.voxels) * abs(np.linalg.det(done.affine[:3, :3]))
        assert volume == pytest.approx(np.count_nonzero(brain().target.voxels), rel=0.4)  # type: ignore[union-attr]
    assert coarse > 15


def test_cases_of_a_site_share_its_scanner_but_not_its_noise() -> None:
    one, other = (only(noise=0.5).apply(brain(name=name), "s01", 0) for name in ("a", "b"))
    assert not same(one, other)
    one, other = (only(gamma=0.5).apply(brain(name=name), "s01", 0) for name in ("a", "b"))
    assert same(one, other)


def test_values_below_zero_keep_their_sign() -> None:
    case = brain()
    hounsfield = case.with_image(case.image - 500, case.target)
    done = only(gamma=0.5, gain=0.5).apply(hounsfield, "s01", 0)
    assert (np.sign(done.image) == np.sign(hounsfield.image)).all()


def test_an_empty_case_stays_empty() -> None:
    empty = brain().with_image(np.zeros((1, 8, 8, 8), np.float32), Target(np.zeros((8, 8, 8), np.uint8)))
    assert not Unlike().apply(empty, "s01", 0).image.any()


@pytest.mark.parametrize("grid", [(16, 12), (5, 16, 12)])
def test_pictures_and_stacks_are_changed_too(grid: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).uniform(1, 255, (1, *grid)).astype(np.float32)
    case = Case(CaseRef("c", "p"), image, Target(np.ones(grid, np.uint8)), np.eye(4))
    for site in SITES[:4]:
        done = Unlike().apply(case, site, 0)
        assert len(done.grid) == len(grid)
        assert done.target is not None
        assert done.target.voxels.shape == done.grid
        assert not same(done, case)


def test_the_case_itself_is_not_changed() -> None:
    case = brain()
    Unlike().apply(case, "s01", 0)
    assert same(case, brain())


def test_a_spread_below_its_off_value_is_a_fault_of_the_study() -> None:
    for fields in ({"spacing": 0.5}, {"gain": -1}, {"blurr_mm": 1}):
        built, faults = validate(Unlike, fields, "simulation.unlike")
        assert built is None
        assert len(faults) == 1
