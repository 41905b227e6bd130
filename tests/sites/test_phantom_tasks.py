"""What the phantom gives to tasks beside segmentation: classes, slices, CT, twins, and pairs with the true field."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from fedrounds_common.case import F32, U8, Case, CaseRef
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.registration import world
from fedrounds_common.study.tables import CaseForm
from fedrounds_common.tasks.registration import Registration
from fedrounds_sites.phantom.patients import PARTS
from fedrounds_sites.phantom.twins import Twins
from fedrounds_sites.prepare import prepare
from fedrounds_sites.readers.phantom_glioma import PhantomGlioma
from fedrounds_sites.readers.phantom_pairs import PhantomPairs

LABELS = {"necrosis": 1, "oedema": 2, "enhancing": 4}
YES_NO = CaseForm(channels=("flair",), labels={"tumour": 1}, classes=("no_tumour", "tumour"))
THREE = CaseForm(channels=("t1ce",), labels=LABELS, classes=("no_tumour", "non_enhancing", "enhancing"))
FLAT = CaseForm(dims=2, channels=("t1", "flair"), labels={"tumour": 1}, classes=("no_tumour", "tumour"))
ANATOMY = {name: place + 1 for place, name in enumerate(PARTS)}
PAIR = CaseForm(channels=("fixed", "moving"), labels=ANATOMY)
FLAT_PAIR = CaseForm(dims=2, channels=("fixed", "moving"), labels=ANATOMY)


def ref(site: str = "s1", number: int = 0) -> CaseRef:
    return CaseRef(f"{site}-{number:04d}", f"{site}-{number:04d}", site)


def eight(**fields: Any) -> PhantomGlioma:
    return PhantomGlioma(profile="eight", **fields)


def labels_of(case: Case) -> U8:
    assert case.labels is not None
    return case.labels


def class_of(case: Case, form: CaseForm) -> str:
    assert case.target is not None
    assert case.target.classes is not None
    assert case.target.classes.sum() == 1
    return form.classes[int(case.target.classes.argmax())]


# ---------------------------------------------------------------- classes


def test_a_patient_without_tumour_has_none_and_one_with_a_tumour_has_one() -> None:
    reader = eight(spacing_mm=8.0)
    found = defaultdict(list)
    for each in reader.cases(YES_NO)[:40]:
        case = reader.load(each, YES_NO)
        assert bool(labels_of(case).any()) == (class_of(case, YES_NO) == "tumour")
        assert case.image.any()
        found[class_of(case, YES_NO)].append(each)
    assert min(len(cases) for cases in found.values()) >= 8


def test_hospitals_differ_in_how_many_of_their_patients_have_none() -> None:
    reader = PhantomGlioma(profile="fets71", scale=1.0)
    shares = [
        np.mean([reader._mix.tumour_free(1, site, f"{site}-{number:04d}", YES_NO) for number in range(200)])
        for site in ("s01", "s02", "s03", "s04", "s05", "s06", "s07", "s08", "s09", "s10", "s11", "s12")
    ]
    assert 0.35 < np.mean(shares) < 0.65
    assert np.std(shares) > 0.08


@pytest.mark.parametrize(("share", "wanted"), [(0.0, "tumour"), (1.0, "no_tumour")])
def test_the_share_without_tumour_is_what_the_table_says(share: float, wanted: str) -> None:
    reader = eight(spacing_mm=10.0, without_tumour=share)
    assert {class_of(reader.load(ref("s2", number), YES_NO), YES_NO) for number in range(6)} == {wanted}


def test_three_classes_tell_enhancing_tumours_from_those_that_do_not() -> None:
    reader = eight(spacing_mm=8.0, without_tumour=0.3, without_enhancement=0.5)
    seen = set()
    for number in range(24):
        case = reader.load(ref("s1", number), THREE)
        kind = class_of(case, THREE)
        seen.add(kind)
        assert (labels_of(case) == 4).any() == (kind == "enhancing")
    assert seen == set(THREE.classes)


def test_a_study_of_segmentation_has_the_same_patients_as_before() -> None:
    # the classes are what asks for patients without tumour; without them nobody is changed
    plain = CaseForm(channels=("flair",), labels=LABELS)
    case = eight().load(ref("s3", 2), plain)
    asked = eight(without_tumour=0.0).load(ref("s3", 2), YES_NO)
    np.testing.assert_array_equal(asked.image, case.image)
    np.testing.assert_array_equal(labels_of(asked) > 0, labels_of(case) > 0)
    assert case.target is not None
    assert case.target.classes is None


def test_several_signs_are_told_with_multi_label() -> None:
    form = CaseForm(channels=("t1",), classes=("tumour", "enhancing", "atrophy"), multi_label=True)
    reader = eight(spacing_mm=10.0)
    rows = []
    for each in reader.cases(form)[::5]:
        target = reader.load(each, form).target
        assert target is not None
        assert target.classes is not None
        rows.append(target.classes.tolist())
    assert all(tumour >= enhancing for tumour, enhancing, _ in rows)
    assert all(0 < sum(column) < len(rows) for column in zip(*rows, strict=True))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"classes": ("no_tumour", "tumor")}, "did you mean 'tumour'"),
        ({"classes": ("tumour", "enhancing")}, "what each patient is exactly one of: no_tumour, tumour; "),
        ({"channels": ("cct",)}, "did you mean 'ct'"),
    ],
)
def test_classes_and_channels_that_the_phantom_cannot_give_are_refused(fields: Any, said: str) -> None:
    with pytest.raises(DataError, match="FR-P05") as caught:
        eight().cases(CaseForm(**({"channels": ("t1",)} | fields)))
    assert said in str(caught.value)


# ---------------------------------------------------------------- slices


def test_a_slice_is_the_volumes_own_where_the_tumour_is_widest() -> None:
    volume = eight().load(ref("s1", 1), CaseForm(channels=("t1", "flair"), labels={"tumour": 1}))
    picture = eight(without_tumour=0.0).load(ref("s1", 1), FLAT)
    assert picture.image.shape == (2, 44, 36)
    # rows run backwards, columns to the patient's left: as on a lightbox
    assert picture.orientation == "PL"
    corner = picture.affine @ (0, 0, 0, 1)
    x, y, z = np.rint(np.linalg.inv(volume.affine) @ corner)[:3].astype(int)
    np.testing.assert_array_equal(picture.image, volume.image[:, x::-1, y::-1, z].swapaxes(1, 2))
    areas = (labels_of(volume) > 0).sum(axis=(0, 1))
    assert areas[z] > 0.8 * areas.max()
    stack = eight(without_tumour=0.0, slice="stack").load(ref("s1", 1), FLAT)
    np.testing.assert_array_equal(stack.image[:, z], picture.image)


def test_slices_of_patients_without_tumour_lie_where_tumours_do() -> None:
    heights: dict[str, list[float]] = defaultdict(list)
    for site in ("s1", "s2"):
        for number in range(24):
            case = eight(spacing_mm=10.0).load(ref(site, number), FLAT)
            heights[class_of(case, FLAT)].append(case.affine[2, 3])
    means = {name: np.mean(values) for name, values in heights.items()}
    assert len(means) == 2
    assert abs(means["tumour"] - means["no_tumour"]) < 12  # of about 20 mm standard deviation each


def test_a_slice_is_prepared_at_the_studys_spacing() -> None:
    form = CaseForm(dims=2, channels=("t1",), spacing_mm=(2.5, 2.5), classes=("no_tumour", "tumour"))
    assert prepare(eight().load(ref(), form), form).grid == (88, 72)


# ---------------------------------------------------------------- CT


def test_ct_has_the_units_that_a_radiologist_expects() -> None:
    case = PhantomPairs(fixed=("ct",), spacing_mm=4.0).load(ref("s2", 3), PAIR)
    ct, parts = case.image[0], labels_of(case)
    mean = {name: float(ct[parts == value].mean()) for name, value in ANATOMY.items()}
    assert 24 < mean["white"] < mean["grey"] < 40
    assert 4 < mean["ventricles"] < 22
    assert ct.min() >= -1024
    assert np.all(ct[:, [0, -1]][..., [0, -1]] == -1000)
    bone = ct > 500
    assert 0.02 < bone.mean() < 0.12
    assert 700 < np.percentile(ct[bone], 90) < 1300
    # the skull is around the brain and not in it
    assert bone[parts > 0].mean() < 0.01


def test_ct_shows_the_same_head_and_changes_no_other_channel() -> None:
    alone = eight().load(ref("s4", 2), CaseForm(channels=("t1",), labels=LABELS))
    both = eight().load(ref("s4", 2), CaseForm(channels=("t1", "ct"), labels=LABELS))
    np.testing.assert_array_equal(alone.image[0], both.image[0])
    np.testing.assert_array_equal(labels_of(alone), labels_of(both))
    brain = both.image[0] > 0
    assert np.median(both.image[1][brain]) == pytest.approx(30, abs=6)
    oedema, white = both.image[1][labels_of(both) == 2], both.image[1][brain & (labels_of(both) == 0)]
    assert oedema.mean() < np.median(white) - 3


def test_a_hospital_can_be_asked_to_leave_the_skull_on() -> None:
    stripped, whole = (
        eight(skull=skull).load(ref("s1", 0), CaseForm(channels=("t1",), labels=LABELS)) for skull in (False, True)
    )
    assert np.count_nonzero(whole.image) > 1.2 * np.count_nonzero(stripped.image)
    assert (labels_of(whole) > 0).sum() >= (labels_of(stripped) > 0).sum()


# ---------------------------------------------------------------- twins


def test_a_twin_without_the_tumour_is_the_same_elsewhere() -> None:
    twins = Twins(eight(), CaseForm(channels=("t2",), labels={"tumour": 1}))
    ill, well = twins.with_tumour(ref("s1", 1)), twins.without_tumour(ref("s1", 1))
    assert not labels_of(well).any()
    difference = np.abs(ill.image[0] - well.image[0])
    tumour = labels_of(ill) > 0
    far = (ill.image[0] > 0) & (well.image[0] > 0) & (_away(tumour, ill) > 60)
    assert difference[tumour].mean() > 5 * difference[far].mean()
    assert np.median(difference[far]) < 0.01 * np.median(ill.image[0][far])


def _away(mask: NDArray[np.bool_], case: Case) -> NDArray[Any]:
    """Distance in mm from the middle of a mask."""
    voxels = np.stack(np.meshgrid(*map(np.arange, case.grid), indexing="ij"), axis=-1)
    away: NDArray[Any] = case.spacing_mm[0] * np.linalg.norm(voxels - np.argwhere(mask).mean(axis=0), axis=-1)
    return away


def test_a_resized_twin_has_the_tumour_in_the_same_place() -> None:
    twins = Twins(eight(without_tumour=0.0), FLAT)
    sizes = [float((labels_of(twins.resized(ref("s1", 1), factor)) > 0).sum()) for factor in (0.6, 1.0, 1.3)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.7 * sizes[1]
    same = [twins.as_it_is(ref("s1", 1)), twins.resized(ref("s1", 1), 1.0)]
    np.testing.assert_array_equal(same[0].image, same[1].image)


def test_another_scanner_changes_the_image_and_not_the_patient() -> None:
    twins = Twins(eight(), FLAT)
    case, other = twins.with_tumour(ref("s1", 1)), twins.of(ref("s1", 1), "s5")["scanned_at"]
    assert not np.allclose(case.image, other.image)
    np.testing.assert_array_equal(case.affine, other.affine)
    both = (case.image[0] > 0) & (other.image[0] > 0)
    np.testing.assert_array_equal(labels_of(case)[both], labels_of(other)[both])
    with pytest.raises(CaseError, match="FR-P11"):
        twins.scanned_at(ref("s1", 1), "s9")


def test_all_twins_of_a_2d_study_are_the_same_slice() -> None:
    found = Twins(eight(), FLAT).of(ref("s2", 0), "s3", 0.5)
    assert set(found) == {"with_tumour", "without_tumour", "resized", "scanned_at"}
    assert len({each.affine.tobytes() for each in found.values()}) == 1
    assert [class_of(each, FLAT) for each in found.values()] == ["tumour", "no_tumour", "tumour", "tumour"]


# ---------------------------------------------------------------- pairs


def moved_back(image: NDArray[Any], case: Case, order: int) -> NDArray[Any]:
    """The moving image or labels, on the fixed grid by the true field."""
    assert case.target is not None
    assert case.target.field is not None
    voxels = np.stack(np.meshgrid(*map(np.arange, case.grid), indexing="ij"))
    there = voxels + world.to_voxels(case.target.field, case.affine)
    found: NDArray[Any] = map_coordinates(image, there, order=order)
    return found


def overlap(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("form", [PAIR, FLAT_PAIR], ids=["3d", "2d"])
def test_the_true_field_brings_the_moving_image_onto_the_fixed_one(form: CaseForm) -> None:
    reader = PhantomPairs(spacing_mm=4.0)
    for each in (ref("s1", 0), ref("s2", 1)):
        case = reader.load(each, form)
        assert case.target is not None
        fixed, moving = labels_of(case), case.target.moving
        assert moving is not None
        back = moved_back(moving, case, 0)
        for value in (ANATOMY["white"], ANATOMY["grey"], ANATOMY["tumour"]):
            before, after = (overlap(fixed == value, labels == value) for labels in (moving, back))
            assert after > before + (0.0 if value == ANATOMY["tumour"] else 0.05)
            assert after > 0.75
        assert overlap(fixed > 0, back > 0) > 0.96


@pytest.mark.parametrize("form", [PAIR, FLAT_PAIR], ids=["3d", "2d"])
def test_the_true_field_is_smooth_invertible_and_a_few_mm(form: CaseForm) -> None:
    for number in range(4):
        case = PhantomPairs().load(ref("s1", number), form)
        assert case.target is not None
        field = case.target.field
        assert field is not None
        assert field.shape == (form.dims, *case.grid)
        assert field.dtype == np.float32
        lengths = np.linalg.norm(field, axis=0)
        assert 2 < lengths.mean() < 12
        voxels = world.to_voxels(field, case.affine)
        slopes = np.stack(np.gradient(voxels, axis=tuple(range(1, form.dims + 1))), axis=-1)
        determinants = np.linalg.det(np.moveaxis(slopes, 0, -2) + np.eye(form.dims))
        assert determinants.min() > 0.2


@pytest.mark.parametrize("form", [PAIR, FLAT_PAIR], ids=["3d", "2d"])
def test_landmarks_lie_in_the_brain_and_on_the_field(form: CaseForm) -> None:
    case = PhantomPairs().load(ref("s2", 2), form)
    assert case.target is not None
    assert case.target.field is not None
    assert case.target.landmarks is not None
    places, there = case.target.landmarks.swapaxes(0, 1)
    assert places.shape == (16, form.dims)
    voxels = np.rint(world.places_in(case.affine, places)).astype(int)
    turn, start = case.affine[: form.dims, : form.dims], case.affine[: form.dims, 3]
    np.testing.assert_allclose(voxels @ turn.T + start, places, atol=1e-3)
    assert (labels_of(case)[tuple(voxels.T)] > 0).all()
    np.testing.assert_allclose(places + case.target.field[(slice(None), *voxels.T)].T, there, atol=0.05)
    assert len(np.unique(voxels, axis=0)) == 16


def test_a_slice_of_a_pair_lies_where_it_does_in_the_head_and_is_drawn_with_its_sides() -> None:
    solid, flat = (PhantomPairs(spacing_mm=4.0).load(ref("s1", 3), form) for form in (PAIR, FLAT_PAIR))
    assert flat.orientation == "PL"
    assert flat.target is not None
    assert flat.target.landmarks is not None
    # each voxel of the slice is the head's at that place of the world
    rows, columns = 20, 12
    x, y, z = (flat.affine @ np.array([rows, columns, 0, 1]))[:3]
    there = np.rint(np.linalg.inv(solid.affine) @ np.array([x, y, z, 1])).astype(int)[:3]
    assert flat.image[0, rows, columns] == pytest.approx(solid.image[0][tuple(there)], rel=1e-5)
    assert flat.image[0, rows, columns] != flat.image[0, rows, flat.grid[1] - 1 - columns]
    # what lies to the patient's right, x above 0, is on the left of the screen
    tumour = np.argwhere(labels_of(flat) > 0)
    right = (tumour @ flat.affine[:2, :2].T + flat.affine[:2, 3])[:, 0] > 0
    assert (tumour[right, 1] < (flat.grid[1] - 1) / 2).all()
    task = Registration(pairs="channels")
    still = task.guesses(flat, FLAT_PAIR)["identity"]
    assert "R is on the left" in task.picture(flat, still, FLAT_PAIR).title


def test_the_fixed_image_is_the_phantoms_own_and_the_moving_one_has_other_noise() -> None:
    case = PhantomPairs(motion_mm=0, turn_deg=0, shift_mm=0).load(ref("s3", 1), PAIR)
    own = eight().load(ref("s3", 1), CaseForm(channels=("t1",), labels=LABELS))
    np.testing.assert_array_equal(case.image[0], own.image[0])
    assert case.target is not None
    assert case.target.field is not None
    assert np.abs(case.target.field).max() < 0.01
    brain = labels_of(case) > 0
    difference = case.image[0][brain] - case.image[1][brain]
    assert 0 < np.abs(difference).mean() < 0.2 * case.image[0][brain].mean()


def test_a_pair_may_be_of_two_contrasts_and_of_two_scanners() -> None:
    reader = PhantomPairs(fixed=("t1",), moving=("ct",), other_scanner=True)
    case = reader.load(ref("s1", 0), PAIR)
    assert case.image[1].min() >= -1024
    assert case.image[1].max() > 400
    same = PhantomPairs().load(ref("s1", 0), PAIR)
    np.testing.assert_array_equal(case.image[0], same.image[0])
    assert case.target is not None
    assert same.target is not None
    np.testing.assert_array_equal(case.target.field, same.target.field)


def test_a_pair_depends_on_its_names_alone() -> None:
    first: list[F32] = [PhantomPairs().load(ref("s1", 1), FLAT_PAIR).image]
    PhantomPairs().load(ref("s2", 0), PAIR)
    np.testing.assert_array_equal(first[0], PhantomPairs().load(ref("s1", 1), FLAT_PAIR).image)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (CaseForm(channels=("fixed",), labels=ANATOMY), "1 channels for 1 fixed and 1 moving"),
        (CaseForm(channels=("fixed", "moving"), labels={"ventricle": 1}), "did you mean 'ventricles'"),
    ],
)
def test_a_form_that_is_no_pair_is_refused(form: CaseForm, said: str) -> None:
    with pytest.raises(DataError, match="FR-P05") as caught:
        PhantomPairs().cases(form)
    assert said in str(caught.value)
