"""Classification: of pictures, volumes and stacks; of two classes, of several, of any number of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedrounds_common import criteria, discriminant, heads, shelves
from fedrounds_common.arrays import into_module, manifest, of_module
from fedrounds_common.case import F32, Case, CaseRef, Target
from fedrounds_common.errors import CaseError, UsageError
from fedrounds_common.metrics import calibration
from fedrounds_common.network import Network
from fedrounds_common.rng import generator, seeded, torch_generator
from fedrounds_common.study.tables import CaseForm, Evaluation, Training
from fedrounds_common.task import Batch, Metric, Prediction, Task, add_tallies
from fedrounds_common.tasks.classification import Classification, class_weights

TWO = CaseForm(dims=2, channels=("image",), classes=("well", "ill"), intensity="none")
THREE = replace(TWO, classes=("a", "b", "c"))
FINDINGS = replace(THREE, multi_label=True)
TRAINING = Training(augment=(), batch=4)
EVALUATION = Evaluation(primary="auc", resamples=10)


def tiny(**fields: object) -> Network:
    network: Network = shelves.NETWORKS.load({"name": "tiny_cnn", "channels": [8, 16], **fields})
    return network


def case(number: int, form: CaseForm, kind: Sequence[float], grid: tuple[int, ...] = (16, 16)) -> Case:
    """Noise; each class that it is of has a bright bar at a place of its own."""
    draws = np.random.default_rng(number)
    image = draws.normal(0, 0.5, (len(form.channels), *grid)).astype(np.float32)
    for place, member in enumerate(kind):
        image[..., 3 * place : 3 * place + 3] += 2 * member
    return Case(CaseRef(f"c{number}", f"p{number}"), image, Target(classes=np.array(kind, np.float32)), np.eye(4))


def cases_of(form: CaseForm, count: int, grid: tuple[int, ...] = (16, 16), seed: int = 0) -> list[Case]:
    draws = np.random.default_rng(seed)
    width = len(form.classes)
    kinds = draws.integers(0, 2, (count, width)) if form.multi_label else np.eye(width)[draws.integers(0, width, count)]
    return [case(1000 * seed + number, form, kind, grid) for number, kind in enumerate(kinds)]


def built(task: Task, form: CaseForm, network: Network | None = None) -> nn.Module:
    with seeded(3):
        return task.network(network or tiny(), form)


def trained(task: Task, form: CaseForm, cases: Sequence[Case], steps: int, training: Training = TRAINING) -> nn.Module:
    module, draws = built(task, form), generator(0, "draw")
    optimiser = torch.optim.Adam(module.parameters(), lr=5e-3)
    for step in range(steps):
        examples = [task.draw(cases, form, training, draws) for _ in range(training.batch)]
        batch = Batch(
            *(torch.from_numpy(np.stack(part)) for part in zip(*((e.image, e.target) for e in examples), strict=True))
        )
        optimiser.zero_grad()
        task.loss(module, batch, "", torch_generator(0, step)).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return module


def judged(task: Task, module: nn.Module, form: CaseForm, cases: Sequence[Case]) -> dict[tuple[str, str], Metric]:
    scores = [
        task.score(task.predict(module, each, form, TRAINING, EVALUATION), each, form, EVALUATION) for each in cases
    ]
    table = task.table(task.tally(scores, form, EVALUATION, 0), form, EVALUATION)
    return {(row.region, row.metric): row for row in table}


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("form", [TWO, THREE, FINDINGS], ids=["two", "three", "findings"])
@pytest.mark.parametrize("criterion", ["cross-entropy", "focal", "svm", "svm-one-vs-rest"])
def test_every_loss_learns_classes_that_show(form: CaseForm, criterion: criteria.Name) -> None:
    task = Classification(criterion=criterion)
    table = judged(task, trained(task, form, cases_of(form, 40), 50), form, cases_of(form, 60, seed=1))
    assert table["mean", "auc"].value > 0.9
    assert table["mean", "accuracy"].value > {2: 0.8, 3: 0.6}[len(form.classes)]


def test_of_two_classes_the_second_is_scored_and_the_mean_repeats_it() -> None:
    table = judged(Classification(), built(Classification(), TWO), TWO, cases_of(TWO, 20))
    assert {region for region, _ in table} == {"ill", "mean"}
    assert all(
        (mean.value, mean.n, mean.missed) == (table["ill", metric].value, 20, table["ill", metric].missed)
        or math.isnan(mean.value)
        for (region, metric), mean in table.items()
        if region == "mean"
    )


def test_volumes_and_stacks_are_classified_whole() -> None:
    volumes = replace(THREE, dims=3)
    for form, grid in ((volumes, (12, 16, 16)), (THREE, (5, 16, 16))):
        task, cases = Classification(), cases_of(form, 6, grid)
        module = built(task, form)
        example = task.draw(cases, form, TRAINING, generator(1, "draw"))
        assert example.image.shape == (1, *grid)
        assert example.target.tolist() in np.eye(3).tolist()
        batch = Batch(torch.from_numpy(example.image)[None], torch.from_numpy(example.target)[None])
        assert task.loss(module, batch, "", torch_generator(0)).shape == (1,)
        outputs = task.predict(module, cases[0], form, TRAINING, EVALUATION).outputs
        assert outputs.shape == (3,)
        assert outputs.sum() == pytest.approx(1, abs=1e-6)


def test_a_network_for_pictures_gives_of_a_stack_the_mean_over_its_slices() -> None:
    task, stack = Classification(), cases_of(THREE, 1, (4, 16, 16))[0]
    module = built(task, THREE).eval()
    with torch.no_grad():
        each = module(torch.from_numpy(stack.image).movedim(1, 0)).mean(0)
    expected = each.softmax(0).numpy()
    np.testing.assert_allclose(task.predict(module, stack, THREE, TRAINING, EVALUATION).outputs, expected, atol=1e-6)


def test_a_network_for_series_is_handed_the_stack_whole() -> None:
    stack = cases_of(THREE, 1, (4, 32, 32))[0]
    task = Classification()
    series: Network = shelves.NETWORKS.load({"name": "series"})
    module = built(task, THREE, series).eval()
    with torch.no_grad():
        expected = module(torch.from_numpy(stack.image)[None]).softmax(1)[0].numpy()
    np.testing.assert_allclose(task.predict(module, stack, THREE, TRAINING, EVALUATION).outputs, expected, atol=1e-6)


# ---------------------------------------------------------------- what a network is shown


def test_a_balanced_draw_shows_a_rare_class_as_often_as_any() -> None:
    cases = [
        *cases_of(THREE, 0),
        *(case(n, THREE, (1, 0, 0)) for n in range(38)),
        case(99, THREE, (0, 1, 0)),
        case(98, THREE, (0, 0, 1)),
    ]
    draws = generator(1, "draw")
    seen = {sampling: np.mean([Classification(sampling=sampling).draw(cases, THREE, TRAINING, draws).target for _ in range(600)], axis=0)
            for sampling in ("natural", "balanced")}  # fmt: skip
    assert seen["natural"][1] < 0.1
    np.testing.assert_allclose(seen["balanced"], 1 / 3, atol=0.06)
    # another site's cases are looked through anew
    assert Classification(sampling="balanced").draw(cases[-1:], THREE, TRAINING, draws).target.tolist() == [0, 0, 1]


def test_a_patch_is_cut_in_training_and_windows_of_it_are_averaged_in_judging() -> None:
    training, task = replace(TRAINING, patch=(16, 16)), Classification()
    large = cases_of(THREE, 2, (16, 28))
    assert task.draw(large, THREE, training, generator(0, "draw")).image.shape == (1, 16, 16)
    module = built(task, THREE).eval()
    with torch.no_grad():
        parts = torch.from_numpy(np.stack([large[0].image[..., :16], large[0].image[..., 12:]]))
        expected = module(parts).mean(0).softmax(0).numpy()
    np.testing.assert_allclose(task.predict(module, large[0], THREE, training, EVALUATION).outputs, expected, atol=1e-6)
    small = case(1, THREE, (1, 0, 0), (10, 20))
    assert task.draw([small], THREE, training, generator(0, "draw")).image.shape == (1, 16, 16)
    assert task.predict(module, small, THREE, training, EVALUATION).outputs.shape == (3,)


def test_cases_of_different_sizes_without_a_patch_are_refused_and_so_are_stacks_without_slices() -> None:
    unlike = [case(1, THREE, (1, 0, 0)), case(2, THREE, (0, 1, 0), (16, 18))]
    stacks = [case(1, THREE, (1, 0, 0), (3, 16, 16)), case(2, THREE, (0, 1, 0), (5, 16, 16))]
    for cases, key in ((unlike, "training.patch"), (stacks, "task.slices")):
        second = next(n for n in range(20) if generator(n, "draw").integers(2) == 1)
        with pytest.raises(UsageError, match=key):
            Classification().draw(cases, THREE, TRAINING, generator(second, "draw"))
    drawn = [Classification(slices=4).draw(stacks, THREE, TRAINING, generator(n, "draw")).image.shape for n in range(6)]
    assert drawn == [(1, 4, 16, 16)] * 6


def test_mirror_images_are_averaged_where_flips_are_asked_for() -> None:
    one, task = cases_of(THREE, 1)[0], Classification(flips=True)
    module = built(task, THREE)
    outputs = task.predict(module, one, THREE, TRAINING, EVALUATION).outputs
    turned = one.with_image(np.ascontiguousarray(one.image[:, ::-1, ::-1]), one.target)
    np.testing.assert_allclose(task.predict(module, turned, THREE, TRAINING, EVALUATION).outputs, outputs, atol=1e-6)
    assert not np.allclose(
        Classification().predict(module, one, THREE, TRAINING, EVALUATION).outputs, outputs, atol=1e-7
    )


def test_a_case_without_classes_and_a_site_without_cases_are_told_of() -> None:
    bare = case(1, THREE, (1, 0, 0))
    with pytest.raises(CaseError, match="its classes"):
        Classification().draw([replace(bare, target=None)], THREE, TRAINING, generator(0, "draw"))
    with pytest.raises(UsageError, match="no case"):
        Classification().draw([], THREE, TRAINING, generator(0, "draw"))


# ---------------------------------------------------------------- deciding and judging


def decided(task: Task, outputs: Sequence[float], form: CaseForm) -> list[int]:
    one = case(1, form, [0.0] * len(form.classes))
    return [int(label) for label in task.decide(np.array(outputs, np.float32), one, form).labels]


def test_the_likeliest_is_named_and_of_two_the_second_from_the_threshold_on() -> None:
    assert decided(Classification(), [0.2, 0.5, 0.3], THREE) == [0, 1, 0]
    assert decided(Classification(threshold=0.3), [0.65, 0.35], TWO) == [0, 1]
    assert decided(Classification(threshold=0.3), [0.75, 0.25], TWO) == [1, 0]
    assert decided(Classification(threshold=0.6), [0.2, 0.6, 0.9], FINDINGS) == [0, 1, 1]


def test_a_score_says_whether_it_was_right_and_in_which_way_not() -> None:
    one, task = case(1, THREE, (0, 1, 0)), Classification()
    score = task.score(
        Prediction(np.array([0.5, 0.3, 0.2], np.float32), np.array([1, 0, 0], np.uint8)), one, THREE, EVALUATION
    )
    assert dict(score.state) == {"a": "spurious", "b": "missed", "c": "both-empty"}
    assert score.values["mean"]["accuracy"] == 0
    assert score.values["c"]["accuracy"] == 1
    assert score.values["mean"]["log_loss"] == pytest.approx(-math.log(0.3), rel=1e-6)
    assert score.values["mean"]["brier"] == pytest.approx(0.25 + 0.49 + 0.04, rel=1e-6)


def test_always_the_same_class_has_no_area_and_no_mcc() -> None:
    cases, task = [case(n, THREE, np.eye(3)[min(n % 4, 2)]) for n in range(20)], Classification()
    accuracy = {}
    for name in task.guesses(cases[0], THREE):
        scores = [task.score(task.guesses(each, THREE)[name], each, THREE, EVALUATION) for each in cases]
        table = {
            (row.region, row.metric): row
            for row in task.table(task.tally(scores, THREE, EVALUATION, 0), THREE, EVALUATION)
        }
        accuracy[name] = table["mean", "accuracy"].value
        assert table["mean", "auc"].value == 0.5
        assert math.isnan(table["mean", "mcc"].value)
        assert table["mean", "balanced_accuracy"].value == pytest.approx(1 / 3)
    assert accuracy == {"always a": 0.25, "always b": 0.25, "always c": 0.5}
    assert set(Classification().guesses(case(1, FINDINGS, (1, 0, 1)), FINDINGS)) == {"always none", "always all"}


def test_sites_are_not_ranked_on_fewer_than_ten_positives() -> None:
    task = Classification()
    assert task.rankable(Metric("ill", "auc", 0.9, 0.8, 1.0, n=60, empty=45, missed=1, spurious=5))
    assert not task.rankable(Metric("ill", "auc", 0.9, 0.8, 1.0, n=60, empty=46, missed=1, spurious=5))
    assert not task.rankable(Metric("ill", "auc", 0.9, 0.8, 1.0, n=60, empty=5, missed=1, spurious=4))


# ---------------------------------------------------------------- sums over sites


def _classes(case: Case) -> F32:
    assert case.target is not None
    assert case.target.classes is not None
    return case.target.classes


def parts_of(cases: Sequence[Case]) -> list[Sequence[Case]]:
    return [cases[:5], cases[5:6], cases[6:], []]


@pytest.mark.parametrize("form", [TWO, THREE, FINDINGS], ids=["two", "three", "findings"])
def test_the_temperature_of_the_sites_is_exactly_that_of_all_cases_and_lowers_the_loss(form: CaseForm) -> None:
    task, cases = Classification(), cases_of(form, 40, seed=2)
    for place in range(0, 40, 4):  # whose classes are written down wrongly, so that a sure network is too sure
        cases[place] = replace(cases[place], target=Target(classes=np.roll(_classes(cases[place]), 1)))
    module = trained(task, form, cases_of(form, 12), 60)
    sums = [task.gather("temperature", module, part, form, TRAINING) for part in parts_of(cases)]
    arrays = of_module(module)
    settled = task.settle("temperature", add_tallies(sums), arrays, form)
    pooled = task.settle("temperature", task.gather("temperature", module, cases, form, TRAINING), arrays, form)
    assert manifest(settled) == manifest(arrays)
    np.testing.assert_array_equal(settled[heads.TEMPERATURE], pooled[heads.TEMPERATURE])
    assert settled[heads.TEMPERATURE][0] != 1
    into_module(module, settled)
    table = judged(task, module, form, cases)
    assert table["mean", "log_loss_scaled"].value < table["mean", "log_loss"].value
    losses = add_tallies(sums)["losses"][0]
    at = int(np.argmin(abs(calibration.TEMPERATURES - settled[heads.TEMPERATURE][0])))
    assert table["mean", "log_loss_scaled"].value == pytest.approx(losses[at] / 40, rel=1e-3)
    assert table["mean", "log_loss"].value == pytest.approx(losses[600] / 40, rel=1e-3)
    # scaling changes no decision at one half
    into_module(module, arrays)
    assert table["mean", "accuracy"].value == judged(task, module, form, cases)["mean", "accuracy"].value


@pytest.mark.parametrize("head", ["lda", "gnb"])
def test_a_head_solved_from_the_sites_sums_is_that_of_all_cases_and_better_than_none(head: discriminant.Kind) -> None:
    task, cases = Classification(head=head, temperature=False), cases_of(THREE, 60)
    module = built(task, THREE)  # features of random weights, frozen
    sums = add_tallies([task.gather("moments", module, part, THREE, TRAINING) for part in parts_of(cases)])
    pooled = task.gather("moments", module, cases, THREE, TRAINING)
    rules = [discriminant.solve(head, total, task.shrinkage, equal_priors=False) for total in (sums, pooled)]
    for name in ("weight", "bias", "square", "centre"):
        np.testing.assert_allclose(getattr(rules[0], name), getattr(rules[1], name), rtol=1e-9, atol=1e-9)
    assert task.after == ("moments",)
    into_module(module, task.settle("moments", sums, of_module(module), THREE))
    # what is judged is what was solved
    x = heads.judged(module, np.stack([each.image for each in cases]), "off", "features")
    expected = (
        (x - rules[0].centre) ** 2 @ rules[0].square.T + (x - rules[0].centre) @ rules[0].weight.T + rules[0].bias
    )
    found = heads.judged(module, np.stack([each.image for each in cases]), "off")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)
    assert judged(task, module, THREE, cases_of(THREE, 60, seed=1))["mean", "accuracy"].value > 0.6


def test_class_weights_of_the_sites_are_those_of_all_cases_and_each_class_counts_alike() -> None:
    task, module = Classification(weights="inverse"), built(Classification(weights="inverse"), THREE)
    cases = [case(n, THREE, np.eye(3)[0 if n < 14 else 1 if n < 19 else 2]) for n in range(20)]
    assert task.before == ("classes",)
    total = add_tallies([task.gather("classes", module, part, THREE, TRAINING) for part in parts_of(cases)])
    weights = task.settle("classes", total, of_module(module), THREE)[heads.CLASS_WEIGHTS]
    np.testing.assert_allclose(weights[1] * [14, 5, 1], 20 / 3, rtol=1e-6)
    both = class_weights(20, np.array([5.0, 0, 20]), exclusive=False)
    np.testing.assert_allclose(both, [[20 / 30, 0.5, 1], [2, 1, 0.5]])


def test_sums_have_one_form_whatever_the_cases_and_of_none() -> None:
    for task, purpose in ((Classification(head="lda"), "moments"), (Classification(weights="inverse"), "classes"), (Classification(), "temperature")):  # fmt: skip
        module = built(task, THREE)
        some, none = (task.gather(purpose, module, part, THREE, TRAINING) for part in (cases_of(THREE, 3), []))
        assert sorted(manifest(some)) == sorted(manifest(none))
        assert all((array == 0).all() for array in none.values())
    assert task.settle("temperature", none, of_module(module), THREE)[heads.TEMPERATURE][0] == 1
    assert calibration.best_temperature(none["losses"], 0) == 1


# ---------------------------------------------------------------- what does not go together


def test_a_study_that_makes_no_sense_is_told_so() -> None:
    def faults(task: Task, form: CaseForm) -> list[str]:
        return [key for key, _ in task.faults(form, TRAINING, EVALUATION)]

    assert faults(Classification(), THREE) == []
    assert faults(Classification(), replace(THREE, classes=())) == ["cases.classes"]
    assert faults(Classification(head="lda"), FINDINGS) == ["task.head"]
    assert faults(Classification(criterion="svm", smoothing=0.1), THREE) == ["task.smoothing"]
    assert faults(Classification(threshold=0.4), THREE) == ["task.threshold"]
    assert faults(Classification(threshold=0.4), TWO) == []


def test_a_network_that_makes_maps_is_refused_and_so_is_a_head_that_cannot_be_solved() -> None:
    with pytest.raises(UsageError, match="makes maps; a network that makes scores"):
        Classification().network(shelves.NETWORKS.load({"name": "tiny_unet"}), THREE)
    with pytest.raises(UsageError, match="a linear layer"):
        Classification(head="lda").network(tiny(head="mlp"), THREE)


def test_a_picture_shows_the_case_and_a_bar_for_each_class() -> None:
    one, task = case(1, THREE, (0, 1, 0)), Classification()
    outputs: F32 = np.array([0.1, 0.7, 0.2], np.float32)
    picture = task.picture(one, task.decide(outputs, one, THREE), THREE)
    assert list(picture.panels) == ["image", "probabilities"]
    assert "in truth b" in picture.title
    panel = picture.panels["probabilities"].astype(int)
    green = (panel == (0, 158, 115)).all(-1)
    blue = (panel == (86, 180, 233)).all(-1)
    assert green.any(axis=0).sum() > 0.65 * 150
    assert blue.sum(axis=1).max() == pytest.approx(0.2 * 150, abs=2)
    assert green.any(axis=1).sum() < panel.shape[0] / 4


def test_of_very_many_classes_the_likeliest_and_the_true_ones_are_drawn() -> None:
    many = replace(TWO, classes=tuple(f"k{number}" for number in range(40)), multi_label=True)
    kind = np.zeros(40)
    kind[[3, 30]] = 1
    from fedrounds_common import bars

    probabilities = np.linspace(0, 0.9, 40).astype(np.float32)
    chosen = bars.drawn_classes(probabilities, kind.astype(np.float32))
    assert len(chosen) == bars.MOST
    assert {3, 30} <= set(chosen.tolist())
    assert Classification().picture(case(1, many, kind), Prediction(probabilities, np.zeros(40, np.uint8)), many).panels
