"""The reader `phantom_glioma`: the same case for the same names, in the study's form, spoiled where asked."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from fedrounds_common.case import F64, U8, Case, CaseRef
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.phantom import VERSION
from fedrounds_sites.phantom.check import FORM
from fedrounds_sites.readers.phantom_glioma import PhantomGlioma


def ref(site: str, number: int = 0) -> CaseRef:
    return CaseRef(f"{site}-{number:04d}", f"{site}-{number:04d}", site)


def load(site: str = "s1", number: int = 0, form: CaseForm = FORM, **fields: object) -> Case:
    return PhantomGlioma(profile="eight", **fields).load(ref(site, number), form)  # type: ignore[arg-type]


def labels_of(case: Case) -> U8:
    assert case.target is not None
    return case.target.voxels


def middle_mm(mask: np.ndarray, affine: F64) -> F64:
    return affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]


def test_a_case_does_not_depend_on_what_was_loaded_before() -> None:
    alone = load("s2", 3)
    load("s1", 0)
    load("s2", 4, spacing_mm=6.0)
    again = load("s2", 3)
    np.testing.assert_array_equal(alone.image, again.image)
    np.testing.assert_array_equal(labels_of(alone), labels_of(again))


def test_another_process_makes_the_same_case() -> None:
    code = (
        "from fedrounds_common.case import CaseRef; import hashlib\n"
        "from fedrounds_sites.phantom.check import FORM\n"
        "from fedrounds_sites.readers.phantom_glioma import PhantomGlioma\n"
        "case = PhantomGlioma(profile='eight').load(CaseRef('s2-0003', 's2-0003', 's2'), FORM)\n"
        "print(hashlib.sha256(case.image.tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == hashlib.sha256(load("s2", 3).image.tobytes()).hexdigest()


@pytest.mark.parametrize("other", [{"number": 1}, {"site": "s2"}, {"seed": 2}])
def test_another_patient_hospital_or_seed_is_another_image(other: dict[str, object]) -> None:
    assert not np.array_equal(load().image, load(**other).image)  # type: ignore[arg-type]


def test_a_larger_scale_adds_patients_and_changes_none() -> None:
    few = PhantomGlioma(profile="eight", scale=0.5).cases(FORM)
    assert set(few) < set(PhantomGlioma(profile="eight", scale=1.0).cases(FORM))


def test_listing_makes_nothing_and_is_sorted() -> None:
    cases = PhantomGlioma(scale=0.06).cases(FORM)
    assert len(cases) == 402
    assert list(cases) == sorted(cases)
    assert len({case.site for case in cases}) == 71


def test_left_alone_a_large_profile_is_scaled_to_about_400_cases_and_a_small_one_is_whole() -> None:
    assert 380 < len(PhantomGlioma(profile="fets71").cases(FORM)) < 440
    assert len(PhantomGlioma(profile="eight").cases(FORM)) == 82


def test_channels_come_in_the_order_asked_for() -> None:
    all_four = load()
    two = load(form=CaseForm(channels=("flair", "t1ce"), labels=FORM.labels))
    np.testing.assert_array_equal(two.image, all_four.image[[3, 1]])


def test_labels_take_the_values_of_the_study_by_name() -> None:
    usual = labels_of(load())
    other = labels_of(load(form=CaseForm(channels=("t1",), labels={"enhancing": 7, "oedema": 1})))
    np.testing.assert_array_equal(other == 7, usual == 4)
    np.testing.assert_array_equal(other == 1, usual == 2)
    assert set(np.unique(other)) == {0, 1, 7}  # necrosis was not asked for


def test_the_grid_is_ras_with_its_spacing_and_an_empty_background() -> None:
    case = load()
    assert case.grid == (36, 44, 36)
    assert case.orientation == "RAS"
    assert case.spacing_mm == (5.0, 5.0, 5.0)
    assert case.image.dtype == np.float32
    assert np.isfinite(case.image).all()
    assert not case.image[:, [0, -1]].any()
    # the head is in the middle of the field of view
    assert np.linalg.norm(middle_mm(case.image[0] > 0, case.affine) - (0, -17, 6)) < 15


@pytest.mark.parametrize("spacing_mm", [4.0, 3.0])
def test_a_finer_image_is_the_same_patient_at_the_same_place(spacing_mm: float) -> None:
    coarse, fine = load(), load(spacing_mm=spacing_mm)
    for value in (1, 2, 4):
        volumes = [(labels_of(case) == value).sum() * case.spacing_mm[0] ** 3 for case in (coarse, fine)]
        assert volumes[1] == pytest.approx(volumes[0], rel=0.25)
        places = [middle_mm(labels_of(case) == value, case.affine) for case in (coarse, fine)]
        assert np.linalg.norm(places[1] - places[0]) < 3


def test_a_tumour_holds_all_three_parts_and_oedema_lies_outside_the_core() -> None:
    voxels = labels_of(load())
    middle = np.argwhere(np.isin(voxels, (1, 4))).mean(axis=0)
    away = {value: np.linalg.norm(np.argwhere(voxels == value) - middle, axis=1).mean() for value in (1, 4, 2)}
    assert away[1] < away[4] < away[2]


def test_no_two_patients_share_a_head_and_none_is_its_own_mirror() -> None:
    heads = [load("s2", number).image[0] > 0 for number in range(3)]
    heads += [head[::-1] for head in heads]
    for index, one in enumerate(heads):
        for other in heads[:index]:
            assert 2 * (one & other).sum() / (one.sum() + other.sum()) < 0.985


def test_a_case_shifted_to_the_wrong_side_shows() -> None:
    # image and labels each mirrored alone no longer fit: tumour is bright on FLAIR, its mirror place is not
    case = load()
    flair, tumour = case.image[3], labels_of(case) > 0
    assert flair[tumour].mean() > 1.15 * flair[tumour[::-1] & (flair > 0)].mean()


def test_labels_lie_inside_the_head() -> None:
    for number in range(4):
        case = load("s3", number)
        assert (case.image[:, labels_of(case) > 0] > 0).all()


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (CaseForm(channels=("t1c",), labels={"oedema": 1}), "did you mean 't1ce'"),
        (CaseForm(channels=("t1",), labels={"edema": 1}), "did you mean 'oedema'"),
    ],
)
def test_a_form_that_the_phantom_cannot_give_is_refused(form: CaseForm, said: str) -> None:
    with pytest.raises(DataError, match="FR-P05") as caught:
        PhantomGlioma().cases(form)
    assert said in str(caught.value)


def test_a_study_for_another_phantom_is_refused() -> None:
    with pytest.raises(DataError, match=f"FR-P04 generator = {VERSION + 1}; {VERSION}"):
        PhantomGlioma(generator=VERSION + 1).cases(FORM)


def test_its_numbers_are_called_phantom_and_name_generator_seed_and_profile() -> None:
    reader = PhantomGlioma(profile="eight", seed=5)
    assert reader.kind == "phantom"
    assert reader.version.startswith(f"phantom {VERSION}, seed 5; profile eight 1, ")


def test_the_stamp_changes_with_what_changes_the_image() -> None:
    stamps = {
        reader.stamp(ref("s1"), FORM)
        for reader in (
            PhantomGlioma(profile="eight"),
            PhantomGlioma(profile="eight", seed=2),
            PhantomGlioma(profile="eight", spacing_mm=4.0),
            PhantomGlioma(profile="eight", faults={"s1": ("empty-case",)}),
            PhantomGlioma(profile="spoiled"),
        )
    }
    assert len(stamps) == 5
    assert PhantomGlioma(profile="eight").stamp(ref("s1"), FORM) in stamps


def test_swapped_channels_swap_t1ce_and_flair_at_that_hospital_only() -> None:
    faults = {"s1": ("swapped-channels",)}
    np.testing.assert_array_equal(load(faults=faults).image[[1, 3]], load().image[[3, 1]])
    np.testing.assert_array_equal(load("s2", faults=faults).image, load("s2").image)


def test_shifted_labels_move_and_the_image_stays() -> None:
    spoiled = load(faults={"s1": ("shifted-labels",)})
    np.testing.assert_array_equal(spoiled.image, load().image)
    moved = middle_mm(labels_of(spoiled) > 0, spoiled.affine) - middle_mm(labels_of(load()) > 0, spoiled.affine)
    np.testing.assert_allclose(moved, (25, 25, 0), atol=1e-6)


def test_label_convention_3_is_found_on_loading() -> None:
    with pytest.raises(CaseError, match="FR-P12 s1-0000: label 3 in the reference"):
        load(faults={"s1": ("label-convention-3",)})


def test_an_empty_case_is_all_zeros_and_only_the_first() -> None:
    faults = {"s1": ("empty-case",)}
    assert not load(faults=faults).image.any()
    assert load(number=1, faults=faults).image.any()


def test_a_corrupt_file_cannot_be_loaded_and_only_the_first() -> None:
    faults = {"s1": ("corrupt-file",)}
    with pytest.raises(CaseError, match="FR-P10 s1-0000") as caught:
        load(faults=faults)
    assert caught.value.case == "s1-0000"
    assert load(number=1, faults=faults).image.any()


def test_the_profile_spoiled_carries_every_fault() -> None:
    reader = PhantomGlioma(profile="spoiled")
    with pytest.raises(CaseError, match="FR-P10"):
        reader.load(ref("s6"), FORM)
    assert not reader.load(ref("s5"), FORM).image.any()


def test_a_fault_for_an_unknown_hospital_and_a_case_of_one_are_refused() -> None:
    with pytest.raises(DataError, match="FR-P06"):
        PhantomGlioma(profile="eight", faults={"s9": ("empty-case",)}).cases(FORM)
    with pytest.raises(CaseError, match="FR-P11"):
        load("s9")
