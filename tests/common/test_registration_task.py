"""The registration task, from two cases of a site to a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import nn

from fedrounds_common.case import F32, F64, Case, CaseRef, Target
from fedrounds_common.errors import CaseError, UsageError
from fedrounds_common.network import Network
from fedrounds_common.networks.affine_net import AffineNet
from fedrounds_common.networks.voxelmorph import VoxelMorph
from fedrounds_common.registration import fields, pairs, world
from fedrounds_common.rng import generator, seeded, torch_generator
from fedrounds_common.study.tables import CaseForm, Evaluation, Training
from fedrounds_common.task import Batch, add_tallies
from fedrounds_common.tasks.registration import Registration
from fedrounds_common.written import LabelImage, ScalarImages, VectorImage
from fedrounds_sites.nifti import write_nifti

FLAT = CaseForm(dims=2, channels=("t1",), labels={"body": 1, "core": 2}, intensity="none")
SOLID = replace(FLAT, dims=3)
PAIR = CaseForm(dims=2, channels=("fixed", "moving"), labels={"body": 1, "core": 2}, intensity="none")
TASK, CHANNELS = Registration(), Registration(pairs="channels")
RULE = Evaluation(resamples=5)
PLAIN = Training(augment=(), batch=2)
LEFTWARDS = np.diag([-2.0, 1.5, 1.0, 1.0])  # first axis to the left, 2 mm; second forwards, 1.5 mm


def phantom(middle: Sequence[float], grid: tuple[int, ...]) -> tuple[F32, np.ndarray]:
    """An ellipse with a bright core, soft at the edge, and its labels."""
    away = np.stack(np.meshgrid(*(np.arange(size) for size in grid), indexing="ij"), -1) - np.asarray(middle)
    far = np.sqrt((away**2 / np.array([1.0, 1.6, 1.2][: len(grid)])).sum(-1))
    image = gaussian_filter((far < 9) + 0.8 * (far < 4), 0.8).astype(np.float32)
    return image, ((far < 9).astype(np.uint8) + (far < 4)).astype(np.uint8)


def single(number: int, grid: tuple[int, ...] = (32, 32), affine: F64 | None = None) -> Case:
    middle = generator(number, "middle").uniform(-3, 3, len(grid)) + np.array(grid) / 2
    image, labels = phantom(middle, grid)
    return Case(
        CaseRef(f"c{number}", f"p{number}"), image[np.newaxis], Target(labels), np.eye(4) if affine is None else affine
    )


def known(shift: tuple[float, float] = (3.0, -2.0), affine: F64 | None = None) -> Case:
    """A pair whose field, in voxels, is this shift everywhere; with landmarks, labels and the true field."""
    affine = np.diag([0.5, 2.0, 1.0, 1.0]) if affine is None else affine
    fixed, labels = phantom((15.0, 16.0), (32, 32))
    moving, moved = phantom((15.0 + shift[0], 16.0 + shift[1]), (32, 32))
    field = np.broadcast_to(np.array(shift, np.float32).reshape(2, 1, 1), (2, 32, 32))
    mm = world.to_mm(np.ascontiguousarray(field), affine)
    here = np.array([[12.0, 14.0], [15.5, 16.0]])
    turn, start = affine[:2, :2], affine[:2, 3]
    marks = np.stack([here @ turn.T + start, (here + shift) @ turn.T + start], axis=1)
    target = Target(voxels=labels, moving=moved, field=mm, landmarks=marks)
    return Case(CaseRef("pair", "p"), np.stack([fixed, moving]), target, affine)


def network(task: Registration, form: CaseForm, plan: Network | None = None, seed: int = 0) -> nn.Module:
    with seeded(seed):
        return task.network(plan or VoxelMorph(channels=(8, 16)), form)


def batch_of(task: Registration, cases: Sequence[Case], form: CaseForm, training: Training, seed: int) -> Batch:
    draws = generator(seed, "draw")
    examples = [task.draw(cases, form, training, draws) for _ in range(training.batch)]
    image, target = (np.stack(arrays) for arrays in zip(*((e.image, e.target) for e in examples), strict=True))
    return Batch(torch.from_numpy(image), torch.from_numpy(target))


def learned(
    task: Registration, cases: Sequence[Case], form: CaseForm, steps: int, plan: Network | None = None
) -> nn.Module:
    net = network(task, form, plan)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(steps):
        loss = task.loss(net, batch_of(task, cases, form, replace(PLAIN, batch=4), step), "", torch_generator(step))
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
    return net


def mean(task: Registration, net: nn.Module | None, cases: Sequence[Case], form: CaseForm, metric: str) -> float:
    """Of the network, or of nobody moving."""
    found = []
    for each in cases:
        made = task.guesses(each, form)["identity"] if net is None else task.predict(net, each, form, PLAIN, RULE)
        found.append(task.score(made, each, form, RULE).values["mean"][metric])
    return float(np.mean(found))


# ---------------------------------------------------------------- pairs


def test_a_pair_is_of_two_cases_on_the_fixed_ones_grid() -> None:
    fixed, moving = single(1, (30, 28)), single(2, (34, 26))
    made = pairs.pair(fixed, moving)
    assert made.image.shape == (2, 30, 28)
    np.testing.assert_array_equal(made.image[0], fixed.image[0])
    np.testing.assert_array_equal(made.image[1, :, :26], moving.image[0, :30])
    np.testing.assert_array_equal(made.image[1, :, 27], made.image[1, :, 25])
    assert made.target is not None
    assert made.target.moving is not None
    assert made.target.moving[:, 26:].max() == 0
    assert (made.ref.name, made.ref.patient) == ("c1--c2", "p1")


def test_the_moving_image_lies_where_the_world_says_whatever_its_axes() -> None:
    # the same body in the same world, stored with its first axis the other way round and coarser
    fixed = single(1, (33, 32))
    turned = np.array([[-1.0, 0, 0, 32], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    flipped = Case(
        CaseRef("f", "f"), fixed.image[:, ::-1].copy(), Target(np.ascontiguousarray(fixed.labels[::-1])), turned
    )
    made = pairs.pair(fixed, flipped)
    np.testing.assert_allclose(made.image[1], fixed.image[0], atol=1e-6)
    assert made.target is not None
    np.testing.assert_array_equal(made.target.moving, fixed.labels)
    # half a voxel along: interpolated
    beside = replace(fixed, affine=np.array([[1.0, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    between = pairs.pair(fixed, beside).image[1]
    np.testing.assert_allclose(between[1:], (fixed.image[0, 1:] + fixed.image[0, :-1]) / 2, atol=1e-6)


def test_judged_are_a_ring_and_others_by_lot_and_the_seed_says_which() -> None:
    cases = [single(number) for number in range(5)]
    found = [each.ref.name for each in TASK.judged(cases, FLAT, 3)]
    assert found[:5] == ["c0--c1", "c1--c2", "c2--c3", "c3--c4", "c4--c0"]
    assert len(found) == len(set(found)) == 10
    assert found == [each.ref.name for each in TASK.judged(cases, FLAT, 3)]
    assert found != [each.ref.name for each in TASK.judged(cases, FLAT, 4)]
    assert len(TASK.judged(cases[:2], FLAT, 3)) == 2
    assert len(TASK.judged(cases[:1], FLAT, 3)) == 0
    assert len(Registration(most_pairs=4).judged(cases, FLAT, 3)) == 4
    assert [each.ref.name for each in TASK.judged(cases, FLAT, 3)[3:5]] == found[3:5]
    assert CHANNELS.judged(cases, PAIR, 3) is cases


def test_an_example_is_never_a_case_with_itself_nor_of_another_site() -> None:
    cases = [single(number) for number in range(3)]
    for seed in range(20):
        image = TASK.draw(cases, FLAT, PLAIN, generator(seed)).image
        assert image.shape == (2, 32, 32)
        assert not np.array_equal(image[0], image[1])
        for each in image:
            assert any(np.array_equal(each, case.image[0]) for case in cases)


def test_a_site_with_one_case_is_told_that_a_pair_takes_two() -> None:
    with pytest.raises(UsageError, match="1 case to make a pair of"):
        TASK.draw([single(0)], FLAT, PLAIN, generator(0))


def test_both_images_and_their_labels_are_cut_at_one_place_and_mirrored_together() -> None:
    task = Registration(pairs="channels", labels=1.0)
    case = known()
    training = Training(augment=("flip",), patch=(20, 24), batch=1)
    for seed in range(10):
        example = task.draw([case], PAIR, training, generator(seed))
        assert example.image.shape == (2, 20, 24)
        assert example.target.shape == (4, 20, 24)
        for image, labels in zip(example.image, np.split(example.target, 2), strict=True):
            # labels are whole bodies and cores: the image is bright on them and dark off them
            assert image[labels.sum(0) > 0].mean() > 4 * max(float(image[labels.sum(0) == 0].mean()), 1e-3)


def test_a_case_smaller_than_the_patch_goes_on_at_its_edge_and_its_labels_do_not() -> None:
    task = Registration(pairs="channels", labels=1.0)
    case = known()
    full = replace(case, image=case.image + 1)
    example = task.draw([full], PAIR, Training(augment=(), patch=(40, 32)), generator(0))
    assert example.image.min() >= 1
    assert case.labels is not None
    assert example.target[:2].sum() == (case.labels > 0).sum()


@pytest.mark.parametrize(
    ("form", "case", "says"),
    [
        (PAIR, replace(known(), image=known().image[:1]), "1 channels on a grid of 2 axes"),
        (replace(PAIR, dims=3), known(), "2 channels on a grid of 2 axes"),
    ],
)
def test_what_is_no_pair_is_refused(form: CaseForm, case: Case, says: str) -> None:
    with pytest.raises(CaseError, match=says):
        CHANNELS.draw([case], form, PLAIN, generator(0))


def test_learning_from_labels_that_are_not_there_is_refused() -> None:
    case = replace(known(), target=None)
    with pytest.raises(CaseError, match="the pair has no labels"):
        Registration(pairs="channels", labels=0.5).draw([case], PAIR, PLAIN, generator(0))
    assert CHANNELS.draw([case], PAIR, PLAIN, generator(0)).target.shape == (0,)


def test_a_study_is_told_what_does_not_go_with_it() -> None:
    odd = replace(PAIR, channels=("a", "b", "c"), labels={"field": 1})
    found = dict(Registration(pairs="channels", window=4).faults(odd, PLAIN, RULE))
    assert set(found) == {"cases.channels", "task.window", "cases.labels.field"}
    assert TASK.faults(FLAT, PLAIN, RULE) == []


# ---------------------------------------------------------------- what a displacement does and is worth


def test_vectors_of_a_coronal_picture_are_told_along_its_rows_and_columns() -> None:
    # rows run down the body, columns to the left: nothing of it is to the front
    coronal = np.array([[0, -0.5, 0, 9], [0, 0, 1, 4], [-2.0, 0, 0, 7], [0, 0, 0, 1]])
    field = np.stack([np.full((3, 4), 1.0, np.float32), np.full((3, 4), 2.0, np.float32)])
    mm = world.to_mm(field, coronal)
    np.testing.assert_allclose(mm[:, 0, 0], [2.0, 1.0])  # 1 row of 2 mm, 2 columns of 0.5
    np.testing.assert_allclose(world.to_voxels(mm, coronal), field)
    axial = np.array([[0, -0.5, 0, 9], [-2.0, 0, 0, 4], [0, 0, 1, 7], [0, 0, 0, 1]])
    # 1 row backwards is 2 mm less to the front, 2 columns to the left 1 mm less to the right
    np.testing.assert_allclose(world.to_mm(field, axial)[:, 0, 0], [-1.0, -2.0])
    np.testing.assert_allclose(world.to_voxels(world.to_mm(field, axial), axial), field)


@pytest.mark.parametrize("affine", [np.diag([0.5, 2.0, 1.0, 1.0]), LEFTWARDS])
def test_the_true_field_brings_the_moving_image_and_its_labels_onto_the_fixed_ones(affine: F64) -> None:
    case = known(affine=affine)
    assert case.target is not None
    assert case.target.field is not None
    outputs = np.concatenate([case.target.field, -case.target.field])
    made = CHANNELS.decide(outputs, case, PAIR)
    assert made.image is not None
    np.testing.assert_allclose(made.image[0], case.image[0], atol=1e-3)  # but for what lies beyond the edge
    np.testing.assert_array_equal(made.labels, case.labels)
    score = CHANNELS.score(made, case, PAIR, RULE).values
    assert score["body"]["dice"] == score["core"]["dice"] == score["mean"]["dice"] == 1
    assert score["landmarks"]["tre"] == pytest.approx(0, abs=1e-5)
    assert score["field"] == pytest.approx(
        {"dice": nan, "hd95": nan, "tre": nan, "epe": 0, "folded": 0, "sdlogj": 0, "inverse": 0}, abs=1e-5, nan_ok=True
    )
    # the other way round, the shift is doubled
    wrong = CHANNELS.score(CHANNELS.decide(-outputs, case, PAIR), case, PAIR, RULE).values["mean"]
    length = float(np.linalg.norm(affine[:2, :2] @ np.array([3.0, -2.0])))
    assert wrong["epe"] == pytest.approx(2 * length, rel=1e-5)
    assert wrong["tre"] == pytest.approx(2 * length, rel=1e-5)
    assert wrong["dice"] < 0.6


def test_a_volume_stored_with_turned_axes_moves_as_the_world_says() -> None:
    # the first axis runs to the left, the second upwards, the third backwards
    affine = np.array([[-2.0, 0, 0, 40], [0, 0, -1.5, 12], [0, 3.0, 0, -7], [0, 0, 0, 1]])
    image, labels = phantom((9.0, 10.0, 8.0), (18, 20, 16))
    case = Case(CaseRef("v", "v"), np.stack([image, image]), Target(labels, moving=labels), affine)
    outputs = np.zeros((6, 18, 20, 16), np.float32)
    outputs[2] = 6.0  # look 6 mm further up in the moving image: two voxels on the second axis
    made = TASK.decide(outputs, case, SOLID)
    assert made.image is not None
    np.testing.assert_allclose(made.image[0, :, :-2], image[:, 2:], atol=1e-5)
    np.testing.assert_array_equal(made.labels[:, :-2], labels[:, 2:])


def test_a_way_back_that_misses_and_a_fold_are_counted_in_mm_and_percent() -> None:
    case = known()
    outputs = np.zeros((4, 32, 32), np.float32)
    outputs[2] = 1.5  # mm, along rows of 0.5 mm: nothing moves there, and 1.5 mm back
    score = CHANNELS.score(CHANNELS.decide(outputs, case, PAIR), case, PAIR, RULE).values["field"]
    assert score["inverse"] == pytest.approx(1.5)
    assert score["folded"] == 0
    assert score["sdlogj"] == 0
    outputs[0, 16:] = -8 * 0.5  # row 16 looks 8 rows further up than row 15: the map turns back there
    folded = CHANNELS.score(CHANNELS.decide(outputs, case, PAIR), case, PAIR, RULE).values["field"]
    # central differences see the jump from rows 15 and 16: 2 of 32
    assert folded["folded"] == pytest.approx(100 * 2 / 32)
    assert folded["sdlogj"] > 1


def test_what_is_not_known_of_a_pair_is_not_scored_and_counts_nowhere() -> None:
    bare = replace(known(), target=None)
    made = CHANNELS.guesses(bare, PAIR)["identity"]
    assert made.labels.shape == (0,)
    score = CHANNELS.score(made, bare, PAIR, RULE)
    assert all(isnan(score.values["mean"][metric]) for metric in ("dice", "hd95", "tre", "epe"))
    assert score.values["mean"]["folded"] == 0
    rows = {(row.region, row.metric): row for row in CHANNELS.table(CHANNELS.tally([score], PAIR, RULE, 1), PAIR, RULE)}
    assert rows["mean", "dice"].n == 0
    assert rows["field", "folded"].n == 1
    assert set(rows) == {
        *((label, metric) for label in ("body", "core") for metric in ("dice", "hd95")),
        *(("field", metric) for metric in ("epe", "folded", "sdlogj", "inverse")),
        ("landmarks", "tre"),
        *(("mean", metric) for metric in Registration.measures),
    }


def test_tallies_of_two_sites_add_up_to_that_of_all_pairs() -> None:
    cases = [single(number) for number in range(5)]
    scores = [TASK.score(TASK.guesses(each, FLAT)["centres"], each, FLAT, RULE) for each in TASK.judged(cases, FLAT, 1)]
    parts = [TASK.tally(some, FLAT, RULE, seed) for seed, some in enumerate([scores[:3], scores[3:], []])]
    whole = TASK.tally(scores, FLAT, RULE, 9)
    assert {name: array.shape for name, array in parts[2].items()} == {n: a.shape for n, a in whole.items()}
    for found, wanted in zip(TASK.table(add_tallies(parts), FLAT, RULE), TASK.table(whole, FLAT, RULE), strict=True):
        assert (found.region, found.metric, found.n) == (wanted.region, wanted.metric, wanted.n)
        np.testing.assert_allclose(found.value, wanted.value, rtol=1e-12, equal_nan=True)


def test_the_rule_of_the_centres_undoes_a_shift_and_the_identity_nothing() -> None:
    case = known()
    found = {
        rule: CHANNELS.score(made, case, PAIR, RULE).values["mean"]
        for rule, made in CHANNELS.guesses(case, PAIR).items()
    }
    assert found["centres"]["epe"] < 0.02
    assert found["centres"]["dice"] > 0.97
    assert found["identity"]["epe"] == pytest.approx(float(np.hypot(1.5, 4.0)), rel=1e-5)
    assert found["identity"]["dice"] < 0.75


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("plan", [VoxelMorph(channels=(8, 16)), AffineNet(channels=(8, 16))])
def test_an_untrained_network_moves_nothing(plan: Network) -> None:
    case = known()
    made = CHANNELS.predict(network(CHANNELS, PAIR, plan), case, PAIR, PLAIN, RULE)
    assert np.abs(made.outputs).max() < 0.01
    assert made.outputs.shape == (4, 32, 32)


@pytest.mark.parametrize(
    "similarity", ["mse", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lncc", "mi", "mind"))]
)
def test_unlabelled_pairs_teach_to_beat_the_identity(similarity: str) -> None:
    task = Registration(similarity=similarity, smooth=0.1)  # type: ignore[arg-type]
    train, test = [single(number) for number in range(12)], [single(number) for number in range(20, 26)]
    net = learned(task, train, FLAT, 60)
    judged = task.judged(test, FLAT, 1)
    still, moved = (mean(task, each, judged, FLAT, "dice") for each in (None, net))
    assert moved > still + 0.08
    assert mean(task, net, judged, FLAT, "folded") < 1


@pytest.mark.slow
def test_labels_teach_where_images_do_not_tell() -> None:
    # noise for an image, so that only the labels can say what belongs together in training
    def veiled(number: int) -> Case:
        case = single(number)
        noise = generator(number, "noise").normal(0, 0.05, case.image.shape)
        return case.with_image((case.image * 0.3 + noise).astype(np.float32), case.target)

    train, test = [veiled(number) for number in range(12)], [veiled(number) for number in range(20, 26)]
    task = Registration(labels=2.0, similarity="mse", smooth=0.1)
    judged = task.judged(test, FLAT, 1)
    with_labels = mean(task, learned(task, train, FLAT, 60), judged, FLAT, "dice")
    assert with_labels > mean(task, None, judged, FLAT, "dice") + 0.08


def test_an_affine_network_turns_scales_and_shifts_the_whole_and_bends_nothing() -> None:
    task = Registration(similarity="mse", smoothness="bending")
    net = learned(task, [single(number) for number in range(12)], FLAT, 80, AffineNet(channels=(8, 16)))
    case = pairs.pair(single(20), single(21))
    made = task.predict(net, case, FLAT, PLAIN, RULE)
    inside = made.outputs[:2, 4:-4, 4:-4]
    bends = [np.abs(np.diff(inside, 2, axis=axis)).max() for axis in (1, 2)]
    assert max(bends) < 0.02
    assert np.abs(inside).max() > 0.5
    judged = task.judged([single(number) for number in range(20, 26)], FLAT, 1)
    assert mean(task, net, judged, FLAT, "dice") > mean(task, None, judged, FLAT, "dice") + 0.05


@pytest.mark.slow
def test_of_the_pair_turned_round_it_says_the_inverse() -> None:
    train = [single(number) for number in range(8)]
    judged = TASK.judged([single(number) for number in range(20, 24)], FLAT, 1)
    both = {
        symmetric: mean(task, learned(task, train, FLAT, 40), judged, FLAT, "inverse")
        for symmetric in (True, False)
        for task in [Registration(symmetric=symmetric, smooth=0.1)]
    }
    assert both[True] < 0.03
    assert both[False] > 2 * both[True]


def test_grids_of_any_size_are_filled_up_to_what_the_network_halves() -> None:
    net = network(TASK, FLAT)
    case = pairs.pair(single(1, (29, 35)), single(2, (29, 35)))
    made = TASK.predict(net, case, FLAT, PLAIN, RULE)
    assert made.outputs.shape == (4, 29, 35)
    assert made.labels.shape == (29, 35)
    assert made.image is not None
    assert made.image.shape == (1, 29, 35)


@pytest.mark.slow
def test_a_volume_is_registered_too() -> None:
    task = Registration(similarity="mse", smooth=0.05)
    cases = [single(number, (20, 24, 20)) for number in range(6)]
    net = learned(task, cases, SOLID, 30)
    judged = task.judged(cases, SOLID, 1)[:3]
    assert mean(task, net, judged, SOLID, "dice") > mean(task, None, judged, SOLID, "dice") + 0.03


# ---------------------------------------------------------------- the true field


def bent(number: int) -> Case:
    """A textured picture and itself bent by smooth waves, with the field that bent it."""
    draws = generator(number, "bent")
    texture = gaussian_filter(draws.normal(0, 1, (48, 48)), 2.0)
    moving = (texture / texture.std()).astype(np.float32)
    waves = np.stack([gaussian_filter(draws.normal(0, 1, (48, 48)), 8.0) for _ in range(2)])
    field = (3.0 * waves / np.abs(waves).max()).astype(np.float32)
    places = np.indices((48, 48)) + field
    fixed = map_coordinates(moving, places, order=1, mode="nearest").astype(np.float32)
    return Case(CaseRef(f"b{number}", f"b{number}"), np.stack([fixed, moving]), Target(field=field), np.eye(4))


@pytest.mark.slow
def test_the_recovered_field_is_nearer_to_the_true_one_than_the_identity() -> None:
    train, test = [bent(number) for number in range(100)], [bent(number) for number in range(200, 206)]
    task = Registration(pairs="channels", similarity="mse", smooth=0.2)
    net = learned(task, train, PAIR, 200, VoxelMorph(channels=(16, 32), affine=False))
    still, found = (mean(task, each, test, PAIR, "epe") for each in (None, net))
    assert found < 0.6 * still
    assert mean(task, net, test, PAIR, "folded") == 0
    assert mean(task, net, test, PAIR, "inverse") < 0.05


# ---------------------------------------------------------------- files and pictures


@pytest.mark.parametrize("affine", [np.diag([0.5, 2.0, 1.0, 1.0]), LEFTWARDS])
def test_what_is_written_leads_there_and_back(affine: F64) -> None:
    case = known(affine=affine)
    draws = generator(5, "field")
    bumps = np.stack([gaussian_filter(draws.normal(0, 1, (32, 32)), 6.0) for _ in range(2)])
    field = world.to_mm((2.0 * bumps / np.abs(bumps).max()).astype(np.float32), affine)
    # what the network said of the pair turned round is not what is written: the inverse of what is used is
    made = CHANNELS.decide(np.concatenate([field, np.zeros_like(field)]), case, PAIR)
    files = CHANNELS.files(made, case, PAIR)
    assert list(files) == ["warped", "masks", "fields", "inverse"]
    warped, masks, there, back = files.values()
    assert isinstance(warped, ScalarImages)
    assert list(warped.images) == ["moving"]
    assert isinstance(masks, LabelImage)
    assert isinstance(there, VectorImage)
    assert isinstance(back, VectorImage)
    np.testing.assert_array_equal(there.field, field)
    forth, home = (torch.from_numpy(world.to_voxels(each.field, affine))[None] for each in (there, back))
    missed = fields.compose(forth, home).norm(dim=1)[:, 3:-3, 3:-3]
    assert float(missed.max()) < 0.05
    bare = CHANNELS.files(CHANNELS.guesses(replace(case, target=None), PAIR)["identity"], case, PAIR)
    assert list(bare) == ["warped", "fields", "inverse"]


def test_itk_moves_an_image_by_the_written_field_as_we_do(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    affine = np.array([[-2.0, 0, 0, 40], [0, 0, -1.5, 12], [0, 3.0, 0, -7], [0, 0, 0, 1]])
    draws = generator(1, "itk")
    image = gaussian_filter(draws.normal(0, 1, (18, 20, 16)), 1.5).astype(np.float32)
    field = np.stack([gaussian_filter(draws.normal(0, 1, image.shape), 4.0) for _ in range(3)])
    field = world.to_mm((2.0 * field / np.abs(field).max()).astype(np.float32), affine)
    case = Case(CaseRef("v", "v"), np.stack([image, image]), None, affine)
    ours = TASK.decide(np.concatenate([field, -field]), case, SOLID).image
    assert ours is not None
    write_nifti(tmp_path / "image.nii.gz", image, affine)
    write_nifti(tmp_path / "field.nii.gz", field, affine, vectors=True)
    moving = sitk.ReadImage(str(tmp_path / "image.nii.gz"))
    bend = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "field.nii.gz"), sitk.sitkVectorFloat64))
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, moving, bend, sitk.sitkLinear, 0.0)).T
    np.testing.assert_allclose(theirs[3:-3, 3:-3, 3:-3], ours[0, 3:-3, 3:-3, 3:-3], atol=1e-4)


def test_a_picture_shows_both_images_the_moved_one_and_the_bent_grid() -> None:
    case = known()
    assert case.target is not None
    assert case.target.field is not None
    outputs = np.concatenate([case.target.field, -case.target.field])
    picture = CHANNELS.picture(case, CHANNELS.decide(outputs, case, PAIR), PAIR)
    assert list(picture.panels) == ["fixed", "moving", "moved", "squares", "grid"]
    assert len({panel.shape for panel in picture.panels.values()}) == 1
    still = CHANNELS.picture(case, CHANNELS.guesses(case, PAIR)["identity"], PAIR)
    assert np.array_equal(still.panels["fixed"], picture.panels["fixed"])
    assert not np.array_equal(still.panels["moved"], picture.panels["moved"])
    assert not np.array_equal(still.panels["grid"], picture.panels["grid"])


def test_a_volumes_picture_says_which_side_is_which() -> None:
    case = pairs.pair(single(1, (20, 24, 20)), single(2, (20, 24, 20)))
    picture = TASK.picture(case, TASK.guesses(case, SOLID)["identity"], SOLID)
    assert "R is on the left" in picture.title
    assert "slice" in picture.title
