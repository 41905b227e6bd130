"""The segmentation task, from a drawn patch to a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedrounds_common import sampling, windows
from fedrounds_common.case import F32, U8, Case, CaseRef, Target
from fedrounds_common.errors import CaseError, UsageError
from fedrounds_common.metrics.rules import METRICS
from fedrounds_common.networks.tiny_unet import TinyUNet
from fedrounds_common.rng import generator, seeded, torch_generator
from fedrounds_common.shelves import TASKS
from fedrounds_common.study.tables import CaseForm, Evaluation, Training
from fedrounds_common.task import Batch, Example, add_tallies
from fedrounds_common.tasks.segmentation import Segmentation, one_hot

LABELS = {"necrosis": 1, "oedema": 2, "enhancing": 4}
REGIONS = {
    "ET": ("enhancing",),
    "TC": ("enhancing", "necrosis"),
    "WT": ("enhancing", "necrosis", "oedema"),
}
TUMOUR = CaseForm(channels=("flair", "t1ce"), labels=LABELS, regions=REGIONS)
PARTS = CaseForm(channels=("flair", "t1ce"), labels=LABELS)
SLICES = replace(TUMOUR, dims=2)
TASK = Segmentation()
NOBODY = Case(CaseRef("nobody", "nobody"), np.zeros((2, 1, 1, 1), np.float32), None, np.eye(4))
PLAIN = Training(augment=(), patch=(8, 8, 8))


def case(number: int = 0, grid: tuple[int, ...] = (14, 12, 10), *, tumour: bool = True) -> Case:
    """Tissue in a box off the corner; a tumour that FLAIR shows, with a core that T1ce shows."""
    draws = generator(number, "case")
    labels = np.zeros(grid, np.uint8)
    if tumour:
        low = [int(draws.integers(3, size - 6)) for size in grid]
        labels[tuple(slice(start, start + 4) for start in low)] = 2
        labels[tuple(slice(start + 1, start + 3) for start in low)] = 4
        labels[tuple(start + 1 for start in low)] = 1
    image = np.zeros((2, *grid), np.float32)
    tissue = tuple(slice(2, size - 1) for size in grid)
    image[(slice(None), *tissue)] = draws.normal(0, 0.1, image[(slice(None), *tissue)].shape)
    image[0] += labels > 0
    image[1] += (labels == 4) - 1.0 * (labels == 1)
    return Case(CaseRef(f"case-{number}", f"patient-{number}"), image, Target(labels), np.eye(4))


def network(form: CaseForm, seed: int = 0) -> nn.Module:
    with seeded(seed):
        return TASK.network(TinyUNet(channels=(8, 16)), form)


def stacked(examples: Sequence[Example]) -> Batch:
    image, target = (np.stack(arrays) for arrays in zip(*((e.image, e.target) for e in examples), strict=True))
    return Batch(torch.from_numpy(image), torch.from_numpy(target))


def trained(
    cases: Sequence[Case], form: CaseForm, training: Training, steps: int = 60
) -> tuple[nn.Module, list[float]]:
    net, draws, losses = network(form), generator(1), []
    optimiser = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(steps):
        batch = stacked([TASK.draw(cases, form, training, draws) for _ in range(4)])
        loss = TASK.loss(net, batch, "", torch_generator(0)).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    return net, losses


class Fixed(nn.Module):
    """Logits that are the image's own channels, so that a prediction can be told in advance."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_study_names_it_and_its_criterion() -> None:
    built, faults = TASKS.build({"name": "segmentation", "criterion": "dice+focal", "smooth": 0.1}, "task")
    assert faults == []
    assert built == Segmentation(criterion="dice+focal", smooth=0.1)
    _, faults = TASKS.build({"name": "segmentation", "criterion": "dice-ce", "smooth": 0}, "task")
    assert [fault.key for fault in faults] == ["task.criterion", "task.smooth"]
    assert "did you mean 'dice+ce'?" in faults[0].message


# ---------------------------------------------------------------- draw


@pytest.mark.parametrize(("form", "outputs"), [(TUMOUR, 3), (PARTS, 4)])
def test_an_example_has_the_patchs_shape_and_a_target_for_each_output(form: CaseForm, outputs: int) -> None:
    example = TASK.draw([case()], form, Training(patch=(8, 8, 8)), generator(0))
    assert example.image.shape == (2, 8, 8, 8)
    assert example.target.shape == (outputs, 8, 8, 8)
    assert example.image.dtype == example.target.dtype == np.float32
    assert set(np.unique(example.target)) <= {0, 1}


def test_a_small_case_lies_in_the_middle_of_zeros() -> None:
    small = case(grid=(10, 11, 12))
    example = TASK.draw([small], TUMOUR, Training(patch=(16, 16, 16), augment=()), generator(0))
    np.testing.assert_array_equal(example.image[:, 3:13, 2:13, 2:14], small.image)
    assert np.abs(example.image).sum() == pytest.approx(np.abs(small.image).sum(), rel=1e-5)
    assert example.target.sum() == one_hot(_labels(small), TUMOUR).sum()


def test_one_hot_follows_the_order_of_regions_or_starts_with_background() -> None:
    labels = np.array([0, 1, 2, 4], np.uint8)
    np.testing.assert_array_equal(one_hot(labels, TUMOUR), [[0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 1, 1]])
    np.testing.assert_array_equal(one_hot(labels, PARTS), np.eye(4))


def test_the_asked_share_of_patches_is_drawn_around_a_tumour() -> None:
    cases, tiny = [case(number, (30, 30, 30)) for number in range(4)], (3, 3, 3)
    draws = generator(0)
    for foreground, low, high in ((1.0, 1.0, 1.0), (0.5, 0.4, 0.62), (0.0, 0.0, 0.1)):
        training = Training(patch=tiny, augment=(), foreground=foreground)
        hits = [TASK.draw(cases, TUMOUR, training, draws).target[2, 1, 1, 1] for _ in range(300)]
        assert low <= np.mean(hits) <= high


def test_a_case_without_tumour_is_drawn_anywhere() -> None:
    training = replace(PLAIN, foreground=1.0)
    assert TASK.draw([case(tumour=False)], TUMOUR, training, generator(0)).target.sum() == 0


def test_every_case_is_drawn_as_often() -> None:
    cases, draws = [case(number) for number in range(3)], generator(0)
    marks = {float(one.image.sum()): number for number, one in enumerate(cases)}
    whole = Training(augment=(), foreground=0.0)
    counts = np.bincount(
        [marks[float(TASK.draw(cases, TUMOUR, whole, draws).image.sum())] for _ in range(600)], minlength=3
    )
    assert counts.min() > 160


def test_without_a_patch_the_whole_grid_is_the_example() -> None:
    one = case()
    example = TASK.draw([one], TUMOUR, Training(augment=()), generator(0))
    np.testing.assert_array_equal(example.image, one.image)


def test_without_a_patch_cases_of_two_grids_are_refused() -> None:
    with pytest.raises(UsageError, match=r"FR-U43 cases of different grids .*set training.patch, 3 numbers"):
        [TASK.draw([case(), case(grid=(13, 12, 10))], TUMOUR, Training(), generator(seed)) for seed in range(20)]


def test_a_patch_of_another_dimension_is_refused() -> None:
    with pytest.raises(UsageError, match=r"FR-U44 training.patch = \[8, 8\]; 3 numbers"):
        TASK.draw([case()], TUMOUR, Training(patch=(8, 8)), generator(0))


def test_nothing_to_draw_from_is_an_error() -> None:
    with pytest.raises(UsageError, match="FR-U42 no case"):
        TASK.draw([], TUMOUR, PLAIN, generator(0))


def test_a_case_without_reference_is_named() -> None:
    bare = replace(case(), target=None)
    with pytest.raises(CaseError, match="FR-D40 case-0: the case has no reference") as caught:
        TASK.draw([bare], TUMOUR, PLAIN, generator(0))
    assert caught.value.case == "case-0"


def test_a_stack_gives_a_patch_of_one_of_its_slices() -> None:
    stack = case(grid=(14, 12, 10))
    slices = {stack.image[:, index].tobytes() for index in range(14)}
    draws, whole = generator(0), Training(augment=())
    drawn = {TASK.draw([stack], SLICES, whole, draws).image.tobytes() for _ in range(200)}
    assert drawn <= slices
    # every slice of the content, and none outside it
    assert len(drawn) == 11
    around = replace(whole, foreground=1.0)
    assert all(TASK.draw([stack], SLICES, around, draws).target[2].any() for _ in range(30))


def test_a_picture_is_drawn_as_it_is() -> None:
    one = case(grid=(14, 12))
    example = TASK.draw([one], SLICES, Training(augment=(), patch=(8, 8)), generator(0))
    assert (example.image.shape, example.target.shape) == ((2, 8, 8), (3, 8, 8))


def test_the_same_generator_draws_the_same_example() -> None:
    training = Training(patch=(8, 8, 8), augment=("flip", "rotate90", "gain", "noise", "gamma", "shift"))
    first, second = (TASK.draw([case(0), case(1)], TUMOUR, training, generator(5)) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.target, second.target)


def test_augmentation_never_reaches_the_case() -> None:
    one = case()
    before = one.image.copy()
    one.image.flags.writeable = False
    for seed in range(20):
        TASK.draw([one], TUMOUR, Training(augment=("gain", "noise", "gamma", "shift")), generator(seed))
    np.testing.assert_array_equal(one.image, before)


# ---------------------------------------------------------------- learn


@pytest.mark.parametrize("form", [TUMOUR, PARTS])
@pytest.mark.parametrize("criterion", ["dice", "dice+ce", "dice+focal", "mirrored-dice"])
def test_the_loss_is_one_finite_number_an_example_and_falls_on_one_batch(form: CaseForm, criterion: str) -> None:
    task = Segmentation(criterion=criterion)  # type: ignore[arg-type]
    net, training = network(form), replace(PLAIN, foreground=1.0)
    batch = stacked([task.draw([case(0), case(1)], form, training, generator(seed)) for seed in range(2)])
    optimiser = torch.optim.AdamW(net.parameters(), 1e-2)
    found = []
    for _ in range(25):
        loss = task.loss(net, batch, "", torch_generator(0))
        assert loss.shape == (2,)
        assert torch.isfinite(loss).all()
        optimiser.zero_grad()
        loss.mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        found.append(loss.mean().item())
    assert found[-1] < 0.9 * found[0]


def test_the_loss_pads_what_the_network_cannot_halve() -> None:
    batch = stacked([TASK.draw([case()], TUMOUR, Training(patch=(9, 7, 10)), generator(0))])
    assert TASK.loss(network(TUMOUR), batch, "", torch_generator(0)).shape == (1,)


# the necrosis is one voxel: as a label of its own it is the hardest, as a part of TC it is not
@pytest.mark.parametrize(("form", "wanted"), [(TUMOUR, 0.75), (PARTS, 0.55)])
def test_a_network_learns_to_find_the_tumour(form: CaseForm, wanted: float) -> None:
    cases = [case(number) for number in range(6)]
    training = Training(patch=(12, 12, 12), foreground=0.5, augment=("flip", "gain"))
    net, _ = trained(cases, form, training)
    unseen = case(99)
    score = TASK.score(TASK.predict(net, unseen, form, training, Evaluation()), unseen, form, Evaluation())
    untrained = TASK.predict(network(form), unseen, form, training, Evaluation())
    assert score.values["mean"]["dice"] > wanted
    assert score.values["mean"]["dice"] > 0.3 + TASK.score(untrained, unseen, form, Evaluation()).values["mean"]["dice"]


def test_a_region_called_mean_is_refused() -> None:
    form = CaseForm(channels=("a",), labels={"mean": 1})
    with pytest.raises(UsageError, match='FR-U41 a region or label is called "mean"'):
        TASK.network(TinyUNet(), form)


def test_a_network_knows_what_it_was_built_for() -> None:
    assert windows.facts_of(network(TUMOUR)) == windows.Facts(4, exclusive=False)
    assert windows.facts_of(network(PARTS)) == windows.Facts(4, exclusive=True)
    assert [key for key in network(PARTS).state_dict() if "facts" in key] == []


# ---------------------------------------------------------------- predict


@pytest.mark.parametrize("form", [TUMOUR, PARTS])
@pytest.mark.parametrize("patch", [None, (8, 8, 8), (5, 20, 3)])
def test_a_prediction_covers_the_grid_and_is_background_off_the_content(
    form: CaseForm, patch: tuple[int, int, int] | None
) -> None:
    one = case()
    prediction = TASK.predict(network(form), one, form, Training(patch=patch), Evaluation())
    assert prediction.outputs.shape == (4 if form is PARTS else 3, *one.grid)
    assert prediction.outputs.dtype == np.float32
    assert prediction.labels.shape == one.grid
    assert prediction.labels.dtype == np.uint8
    if form is PARTS:
        np.testing.assert_allclose(prediction.outputs.sum(axis=0), 1, atol=1e-5)
    if patch == (8, 8, 8):  # the content and no more
        outside = np.ones(one.grid, bool)
        outside[2:13, 2:11, 1:9] = False
        assert (prediction.labels[outside] == 0).all()
        expected = [1, 0, 0, 0] if form is PARTS else [0, 0, 0]
        np.testing.assert_array_equal(prediction.outputs[:, outside].T, np.tile(expected, (outside.sum(), 1)))


@pytest.mark.parametrize("form", [TUMOUR, PARTS])
@pytest.mark.parametrize("within", ["content", "grid"])
@pytest.mark.parametrize("patch", [(8, 8, 8), (5, 20, 3)])
def test_a_prediction_is_monais_on_the_same_box(form: CaseForm, within: str, patch: tuple[int, int, int]) -> None:
    from monai.inferers.utils import sliding_window_inference

    one, net = case(), network(form).eval()
    found = TASK.predict(net, one, form, Training(patch=patch), Evaluation(within=within))  # type: ignore[arg-type]
    content = (
        (slice(2, 13), slice(2, 11), slice(2, 9)) if within == "content" else [slice(0, size) for size in one.grid]
    )
    box = sampling.grown(content, patch, one.grid)

    def probabilities(x: Tensor) -> Tensor:
        logits = windows.padded(net, x)
        return logits.softmax(1) if form is PARTS else logits.sigmoid()

    image = torch.from_numpy(one.image[(slice(None), *box)].copy())[None]
    with torch.no_grad():
        theirs = sliding_window_inference(image, patch, 4, probabilities, overlap=0.25, mode="gaussian")[0]
    np.testing.assert_allclose(found.outputs[(slice(None), *box)], theirs.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.labels, TASK.decide(found.outputs, one, form).labels)


@pytest.mark.parametrize("window", ["content", (11, 9, 7), (30, 30, 30)])
def test_a_window_as_large_as_the_content_looks_at_it_once(window: object) -> None:
    one, net = case(), network(TUMOUR)
    found = TASK.predict(net, one, TUMOUR, PLAIN, Evaluation(window=window))  # type: ignore[arg-type]
    if window == (30, 30, 30):  # larger than the grid, which is filled up with zeros
        assert np.isfinite(found.outputs).all()
        return
    box = (slice(None), slice(2, 13), slice(2, 11), slice(2, 9))
    image = torch.from_numpy(one.image[box].copy())[None]
    with windows.judging(net, "off") as function:
        np.testing.assert_allclose(found.outputs[box], function(image)[0].numpy(), rtol=0, atol=1e-6)


def test_a_window_of_another_number_of_axes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"FR-U44 evaluation.window = \[8, 8\]; 3 numbers"):
        TASK.predict(network(TUMOUR), case(), TUMOUR, PLAIN, Evaluation(window=(8, 8)))


def test_a_prediction_lies_where_its_image_lies() -> None:
    form = CaseForm(channels=("a", "b"), labels={"a": 1, "b": 2}, regions={"A": ("a",), "B": ("b",)})
    image = np.zeros((2, 20, 18, 16), np.float32)
    image[:, 3:17, 5:15, 2:13] = -3
    image[0, 6:9, 7:9, 4:12] = 5
    image[1, 12, 12, 11] = 5
    bright = Case(CaseRef("a", "a"), image, None, np.eye(4))
    fixed = windows.note(Fixed(), windows.Facts(4, exclusive=False))
    for patch in (None, (8, 8, 8), (4, 30, 16)):
        labels = TASK.predict(fixed, bright, form, Training(patch=patch), Evaluation()).labels
        np.testing.assert_array_equal(labels, (image[0] > 0) + 2 * (image[1] > 0))


def test_a_stack_is_predicted_slice_by_slice() -> None:
    form = CaseForm(dims=2, channels=("a", "b"), labels={"a": 1, "b": 2}, regions={"A": ("a",), "B": ("b",)})
    image = generator(0).normal(size=(2, 5, 9, 11)).astype(np.float32)
    stack = Case(CaseRef("a", "a"), image, None, np.eye(4))
    fixed = windows.note(Fixed(), windows.Facts(4, exclusive=False))
    for patch in (None, (8, 8)):
        training = Training(patch=patch)
        whole = TASK.predict(fixed, stack, form, training, Evaluation())
        np.testing.assert_allclose(whole.outputs, 1 / (1 + np.exp(-image)), atol=1e-5)
        for index in range(5):
            alone = replace(stack, image=image[:, index])
            single = TASK.predict(fixed, alone, form, training, Evaluation())
            np.testing.assert_array_equal(single.labels, whole.labels[index])


def test_predicting_leaves_the_network_in_training() -> None:
    net = network(TUMOUR).train()
    TASK.predict(net, case(), TUMOUR, PLAIN, Evaluation())
    assert net.training
    assert all(weight.grad is None for weight in net.parameters())


@pytest.mark.filterwarnings("error")
def test_a_case_mapped_from_disk_is_drawn_predicted_scored_and_pictured() -> None:
    one = case()
    for array in (one.image, _labels(one), one.affine):
        array.flags.writeable = False
    whole = Training(augment=("flip", "gain", "noise"))
    assert TASK.draw([one], TUMOUR, whole, generator(0)).image.flags.writeable
    prediction = TASK.predict(network(TUMOUR), one, TUMOUR, whole, Evaluation())
    assert TASK.score(prediction, one, TUMOUR, Evaluation()).case == "case-0"
    assert TASK.picture(one, prediction, TUMOUR).panels.keys() == {"image", "reference", "prediction"}


def test_a_case_without_reference_can_be_predicted() -> None:
    bare = replace(case(), target=None)
    assert TASK.predict(network(TUMOUR), bare, TUMOUR, PLAIN, Evaluation()).labels.shape == bare.grid


# ---------------------------------------------------------------- decide


def _column(*values: float) -> F32:
    return np.array(values, np.float32).reshape(-1, 1)


def test_regions_that_agree_become_the_label_they_describe() -> None:
    for (value, et, tc, wt), sure in product(
        [(0, 0, 0, 0), (2, 0, 0, 1), (1, 0, 1, 1), (4, 1, 1, 1)], [0.51, 0.9, 1.0]
    ):
        p = [sure if inside else 1 - sure for inside in (et, tc, wt)]
        assert TASK.decide(_column(*p), NOBODY, TUMOUR).labels.tolist() == [value]


def test_regions_that_disagree_are_settled_by_their_odds() -> None:
    # ET 0.9 but TC and WT 0.4: log odds 2.2 − 0.4 − 0.4 > 0, so it is enhancing
    assert TASK.decide(_column(0.9, 0.4, 0.4), NOBODY, TUMOUR).labels.tolist() == [4]
    # ET 0.6 but WT 0.1 and TC 0.1: no tumour
    assert TASK.decide(_column(0.6, 0.1, 0.1), NOBODY, TUMOUR).labels.tolist() == [0]
    # TC unlikely, WT sure: oedema, whatever ET says a little
    assert TASK.decide(_column(0.6, 0.05, 0.99), NOBODY, TUMOUR).labels.tolist() == [2]


def test_the_label_is_the_most_probable_of_all_that_can_be() -> None:
    p = generator(0).uniform(0.01, 0.99, (3, 500)).astype(np.float32)
    members = {0: (0, 0, 0), 1: (0, 1, 1), 2: (0, 0, 1), 4: (1, 1, 1)}
    likelihood = {
        value: np.prod([row if inside else 1 - row for row, inside in zip(p, signs, strict=True)], axis=0)
        for value, signs in members.items()
    }
    best = np.array(list(members))[np.argmax(list(likelihood.values()), axis=0)]
    np.testing.assert_array_equal(TASK.decide(p, NOBODY, TUMOUR).labels, best)


def test_labels_that_no_region_tells_apart_become_the_first_and_those_of_no_region_never_come() -> None:
    form = CaseForm(channels=("a",), labels={"stray": 3, "late": 7, "early": 5}, regions={"R": ("early", "late")})
    assert TASK.decide(_column(0.8), NOBODY, form).labels.tolist() == [7]
    assert TASK.decide(_column(0.5), NOBODY, form).labels.tolist() == [0]


def test_regions_that_cross_are_told_apart() -> None:
    form = CaseForm(
        channels=("a",), labels={"l": 1, "both": 2, "r": 3}, regions={"L": ("l", "both"), "R": ("both", "r")}
    )
    p = np.array([[0.9, 0.9, 0.1, 0.1], [0.1, 0.9, 0.9, 0.1]], np.float32)
    assert TASK.decide(p, NOBODY, form).labels.tolist() == [1, 2, 3, 0]


def test_a_softmax_becomes_the_studys_label_values() -> None:
    p = np.eye(4, dtype=np.float32)
    assert TASK.decide(p, NOBODY, PARTS).labels.tolist() == [0, 1, 2, 4]
    assert TASK.decide(p, NOBODY, PARTS).outputs is p


# ---------------------------------------------------------------- score


def _labels(one: Case) -> U8:
    assert one.target is not None
    return one.target.voxels


def perfect(one: Case, form: CaseForm, labels: U8 | None = None) -> F32:
    return one_hot(_labels(one) if labels is None else labels, form)


@pytest.mark.parametrize("form", [TUMOUR, PARTS])
def test_the_reference_itself_scores_perfectly(form: CaseForm) -> None:
    one = case()
    prediction = TASK.decide(perfect(one, form), one, form)
    np.testing.assert_array_equal(prediction.labels, _labels(one))
    score = TASK.score(prediction, one, form, Evaluation())
    assert (score.case, score.patient) == ("case-0", "patient-0")
    assert list(score.values) == [*form.scored, "mean"]
    for region in score.values:
        assert score.values[region] == {"dice": 1, "iou": 1, "hd95": 0, "sensitivity": 1, "specificity": 1}
    assert set(score.state.values()) == {"scored"}
    assert set(score.state) == set(form.scored)


def test_left_and_right_exchanged_scores_low() -> None:
    one = case()
    reference = _labels(one)
    assert not np.array_equal(reference, reference[::-1])
    mirrored = TASK.decide(perfect(one, TUMOUR, np.ascontiguousarray(reference[::-1])), one, TUMOUR)
    score = TASK.score(mirrored, one, TUMOUR, Evaluation())
    assert score.values["WT"]["dice"] < 0.5
    assert score.values["mean"]["dice"] < 0.5
    assert score.values["WT"]["hd95"] > 1


def test_regions_are_scored_as_unions_of_their_labels() -> None:
    one = case()
    without_core = np.where(_labels(one) == 1, 4, _labels(one)).astype(np.uint8)
    score = TASK.score(TASK.decide(perfect(one, TUMOUR, without_core), one, TUMOUR), one, TUMOUR, Evaluation())
    # ET gains the necrosis voxel: 7 of 8 voxels were ET, so Dice = 2 · 7 / (8 + 7); TC and WT hold the same voxels
    assert score.values["ET"]["dice"] == pytest.approx(14 / 15)
    assert score.values["TC"]["dice"] == score.values["WT"]["dice"] == 1
    assert score.values["mean"]["dice"] == pytest.approx((14 / 15 + 2) / 3)


@pytest.mark.parametrize(("empty", "dice"), [("one", 1.0), ("skip", np.nan)])
def test_the_empty_rule_is_the_studys(empty: str, dice: float) -> None:
    healthy = case(tumour=False)
    evaluation = Evaluation(empty=empty)  # type: ignore[arg-type]
    score = TASK.score(TASK.decide(perfect(healthy, TUMOUR), healthy, TUMOUR), healthy, TUMOUR, evaluation)
    assert score.state == {"ET": "both-empty", "TC": "both-empty", "WT": "both-empty"}
    np.testing.assert_equal(score.values["mean"]["dice"], dice)


def test_hd95_is_in_millimetres_of_the_case() -> None:
    one = case()
    moved = TASK.decide(perfect(one, TUMOUR, np.roll(_labels(one), 1, axis=2)), one, TUMOUR)
    near = TASK.score(moved, one, TUMOUR, Evaluation()).values["WT"]["hd95"]
    thick = replace(one, affine=np.diag([1.0, 1.0, 5.0, 1.0]))
    assert near == pytest.approx(1)
    assert TASK.score(moved, thick, TUMOUR, Evaluation()).values["WT"]["hd95"] > 1


def test_hd95_of_a_stack_stays_in_its_planes() -> None:
    stack = case()
    moved = TASK.decide(perfect(stack, SLICES, np.roll(_labels(stack), 1, axis=1)), stack, SLICES)
    thin = replace(stack, affine=np.diag([0.01, 1.0, 1.0, 1.0]))
    assert TASK.score(moved, thin, SLICES, Evaluation()).values["WT"]["hd95"] == pytest.approx(1)


def test_scoring_needs_a_reference() -> None:
    one = case()
    with pytest.raises(CaseError, match="FR-D40 case-0"):
        TASK.score(TASK.decide(perfect(one, TUMOUR), one, TUMOUR), replace(one, target=None), TUMOUR, Evaluation())


# ---------------------------------------------------------------- tally and table


def test_two_sites_add_to_the_table_of_both() -> None:
    evaluation, scores = Evaluation(resamples=20), []
    for number in range(5):
        one = case(number, tumour=number != 2)
        moved = TASK.decide(perfect(one, TUMOUR, np.roll(_labels(one), number % 2, axis=0)), one, TUMOUR)
        scores.append(TASK.score(moved, one, TUMOUR, evaluation))
    parts = [TASK.tally(some, TUMOUR, evaluation, 3) for some in (scores[:2], scores[2:])]
    added, together = add_tallies(parts), TASK.tally(scores, TUMOUR, evaluation, 3)
    for name, array in together.items():
        np.testing.assert_allclose(added[name], array, rtol=0, atol=1e-12)
    table = TASK.table(added, TUMOUR, evaluation)
    assert [(row.region, row.metric) for row in table] == [
        (region, metric) for region in (*REGIONS, "mean") for metric in METRICS
    ]
    mean = next(row for row in table if (row.region, row.metric) == ("mean", "dice"))
    assert mean.value == pytest.approx(np.mean([score.values["mean"]["dice"] for score in scores]))
    assert (mean.n, mean.empty) == (5, 3)


def test_a_picture_is_made_of_case_and_prediction() -> None:
    one = case()
    picture = TASK.picture(one, TASK.decide(perfect(one, TUMOUR), one, TUMOUR), TUMOUR)
    assert list(picture.panels) == ["image", "reference", "prediction"]
    np.testing.assert_array_equal(picture.panels["reference"][:250], picture.panels["prediction"][:250])


def test_labels_are_what_the_odds_of_all_voxels_say() -> None:
    rng = generator(5)
    outputs = rng.random((3, 9, 8, 7)).astype(np.float32)
    outputs[:, 0] = 0.5
    outputs[:, 1] = np.nextafter(np.float32(0.5), np.float32(0)) + np.float32(3e-8) * rng.integers(0, 4, (3, 8, 7))
    odds = np.log(outputs) - np.log1p(-outputs)
    et, tc, wt = odds
    evidence = np.stack([np.zeros_like(et), tc + wt, wt, et + tc + wt])
    expected = np.array([0, 1, 2, 4], np.uint8)[evidence.argmax(axis=0)]
    found = TASK.decide(outputs, case(), TUMOUR).labels
    differ = found != expected
    assert (np.sort(evidence, axis=0)[-1] - np.sort(evidence, axis=0)[-2])[differ].max(initial=0) < 1e-5
    assert differ.mean() < 0.02
