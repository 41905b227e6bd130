"""Generation: what each method trains and makes, and what a study must not ask of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrounds_common.arrays import of_module
from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.errors import CaseError, UsageError
from fedrounds_common.network import Network
from fedrounds_common.networks.image_diffusion import ImageDiffusion
from fedrounds_common.networks.image_gan import ImageGan
from fedrounds_common.networks.image_vae import ImageVae
from fedrounds_common.networks.tiny_unet import TinyUNet
from fedrounds_common.rng import generator, seeded, torch_generator
from fedrounds_common.study.parse import read_study
from fedrounds_common.study.tables import CaseForm, Evaluation, Training
from fedrounds_common.task import Batch, add_tallies
from fedrounds_common.tasks.generation import TRAINED, Generation

CLASSES = CaseForm(dims=2, classes=("small", "large"), labels={"disc": 1}, intensity="unit")
PAIRS = CaseForm(dims=2, channels=("t1", "ct"), intensity="none")
TRAINING = Training(augment=(), batch=4, learning_rate=2e-3, weight_decay=0.0)
RULE = Evaluation(primary="fid", resamples=5)


def networks(grid: tuple[int, ...] = (16, 16)) -> dict[str, Network]:
    return {
        "gan": ImageGan(grid=grid, widths=(16, 8), latent=8),
        "vae": ImageVae(grid=grid, widths=(16, 8), latent=8),
        "diffusion": ImageDiffusion(grid=grid, widths=(8, 16), attention=False),
    }


SLOW = {"diffusion": [pytest.mark.slow]}  # MONAI takes seconds to import
METHODS = [pytest.param(name, marks=SLOW.get(name, []), id=name) for name in networks()]


def disc(number: int, grid: tuple[int, ...] = (16, 16), site: str | None = None) -> Case:
    """A bright disc (or ball) somewhere, of one of two sizes, on a dark ground with a little noise."""
    draws = np.random.default_rng(number)
    kind = number % 2
    centre = draws.uniform(3.5, np.array(grid) - 3.5)
    away = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(np.indices(grid), centre, strict=True)))
    inside = away < 2.5 + 2 * kind
    image = (0.1 + 0.7 * inside + draws.normal(0, 0.03, grid)).clip(0, 1).astype(np.float32)
    target = Target(inside.astype(np.uint8), np.eye(2, dtype=np.float32)[kind])
    return Case(CaseRef(f"c{number:03d}", f"p{number:03d}", site), image[None], target, np.eye(4))


def batch_of(task: Generation, cases: list[Case], form: CaseForm, size: int = 4) -> Batch:
    import torch

    examples = [task.draw(cases, form, TRAINING, generator(0, "draw", number)) for number in range(size)]
    return Batch(
        torch.from_numpy(np.stack([each.image for each in examples])),
        torch.from_numpy(np.stack([each.target for each in examples])),
    )


def module_of(task: Generation, network: Network, form: CaseForm = CLASSES) -> Any:
    with seeded(3):
        return task.network(network, form)


@pytest.mark.parametrize("by", ["classes", "labels", "nothing"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_one_batch_for_every_wish_and_makes_images_of_its_size(method: str, by: Any) -> None:
    import torch

    task, cases = Generation(method=method, by=by, pool=4, steps=3), [disc(number) for number in range(6)]  # type: ignore[arg-type]
    network = module_of(task, networks()[method])
    batch = batch_of(task, cases, CLASSES)
    for turn in task.turns:
        optimiser = torch.optim.Adam(task.parameters(network, turn), lr=2e-3)
        losses = []
        for _ in range(12):
            network.zero_grad()
            each = task.loss(network, batch, turn, torch_generator(0, "same noise"))
            assert each.shape == (4,)
            each.mean().backward()
            optimiser.step()
            losses.append(float(each.detach().mean()))
        assert np.isfinite(losses).all()
        assert losses[-1] < 0.95 * losses[0], turn
    made = task.sample(network, CLASSES, 5, seed=1, given=cases if by == "labels" else ())
    assert [case.image.shape for case in made] == [(1, 16, 16)] * 5
    assert all(case.image.min() >= 0 and case.image.max() <= 1 for case in made)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_volumes(method: str) -> None:
    form = CaseForm(dims=3, intensity="unit")
    task = Generation(method=method, pool=2, steps=2)  # type: ignore[arg-type]
    cases = [disc(number, (8, 12, 8)) for number in range(3)]
    network = module_of(task, networks((8, 12, 8))[method], form)
    value = task.loss(network, batch_of(task, cases, form, 2), task.turns[-1], torch_generator(0))
    assert value.shape == (2,)
    (made,) = task.sample(network, form, 1, seed=0)
    assert made.image.shape == (1, 8, 12, 8)
    score = task.score(task.predict(network, cases[0], form, TRAINING, RULE), cases[0], form, RULE)
    assert np.isfinite(score.arrays["real"]).all()
    assert np.isfinite(score.values["mean"]["nearest"])


def test_the_two_sides_of_a_game_share_no_weight_and_each_turn_leaves_the_other_alone() -> None:
    task, cases = Generation(method="gan", by="classes"), [disc(number) for number in range(4)]
    network = module_of(task, networks()["gan"])
    sides = {turn: {id(each) for each in task.parameters(network, turn)} for turn in task.turns}
    assert sides["discriminator"].isdisjoint(sides["generator"])
    assert set.union(*sides.values()) == {id(each) for each in network.parameters()}
    batch = batch_of(task, cases, CLASSES)
    task.loss(network, batch, "discriminator", torch_generator(0)).mean().backward()
    # made images are judged, and what made them is not taught by it
    assert all(each.grad is None for each in task.parameters(network, "generator"))


def test_what_no_turn_trains_does_not_travel() -> None:
    plain, judged = Generation(method="vae"), Generation(method="vae", adversarial=0.1)
    assert plain.turns == ("",)
    assert judged.turns == ("discriminator", "generator")
    names = [list(of_module(module_of(task, networks()["vae"]))) for task in (plain, judged)]
    assert not any(name.startswith("discriminator.") for name in names[0])
    assert any(name.startswith("discriminator.") for name in names[1])


def test_the_codes_of_all_sites_together_are_where_a_vae_draws_from() -> None:
    task, cases = Generation(method="vae", by="classes"), [disc(number) for number in range(9)]
    network = module_of(task, networks()["vae"])
    parts = [task.gather("codes", network, part, CLASSES, TRAINING) for part in (cases[:2], cases[2:], [])]
    whole = task.gather("codes", network, cases, CLASSES, TRAINING)
    total = add_tallies(parts)
    for name, array in whole.items():
        np.testing.assert_allclose(total[name], array, rtol=1e-9, atol=1e-9)
    assert task.after == ("codes",)
    settled = task.settle("codes", total, of_module(network), CLASSES)
    np.testing.assert_allclose(settled["centre"][0], whole["sum"][0] / 9, rtol=1e-5)
    mean = whole["sum"][0] / 9
    codes = whole["product"][0] / 9 - np.outer(mean, mean) + np.diag(whole["variance"][0] / 9)
    np.testing.assert_allclose(settled["spread"][0] @ settled["spread"][0].T, codes, atol=1e-5)
    # of no case at all nothing is known, and the model stays as it was
    nobody = task.settle("codes", parts[2], of_module(network), CLASSES)
    np.testing.assert_array_equal(nobody["spread"], np.stack([np.eye(8, dtype=np.float32)] * 3))


def test_a_class_is_drawn_from_its_own_codes_where_ten_cases_tell_of_them() -> None:
    import torch

    from fedrounds_common.generative.vae import kinds_of

    task = Generation(method="vae", by="classes")
    network = module_of(task, networks()["vae"])
    # twelve small discs, and three large ones
    cases = [disc(2 * number) for number in range(12)] + [disc(2 * number + 1) for number in range(3)]
    total = task.gather("codes", network, cases, CLASSES, TRAINING)
    assert total["codes"].tolist() == [15, 12, 3]
    settled = task.settle("codes", total, of_module(network), CLASSES)
    np.testing.assert_allclose(settled["centre"][1], total["sum"][1] / 12, rtol=1e-5)
    np.testing.assert_array_equal(settled["centre"][2], settled["centre"][0])
    # one class is a kind of its own; none, two at once, and a label map are not
    wanted = torch.tensor([[1.0, 0], [0, 1], [0, 0], [1, 1]])[:, :, None, None].expand(4, 2, 4, 4)
    assert kinds_of(wanted).tolist() == [1, 2, 0, 0]
    assert kinds_of((torch.arange(16.0).reshape(1, 1, 4, 4) > 7).float().expand(1, 2, 4, 4)).tolist() == [0]
    assert kinds_of(wanted[:, :0]).tolist() == [0] * 4


def test_the_same_seed_gives_the_same_images_and_another_one_others() -> None:
    task = Generation(method="gan", by="classes")
    network = module_of(task, networks()["gan"])
    first, again, other = (np.stack([c.image for c in task.sample(network, CLASSES, 3, seed)]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_synthetic_case_comes_with_what_it_was_made_for() -> None:
    by_class = Generation(method="gan", by="classes")
    network = module_of(by_class, networks()["gan"])
    made = by_class.sample(network, CLASSES, 4, seed=1)
    assert [case.target.classes.tolist() for case in made if case.target] == [[1, 0], [0, 1], [1, 0], [0, 1]]  # type: ignore[union-attr]
    only = by_class.sample(network, CLASSES, 2, seed=1, kind="large")
    assert [case.target.classes.tolist() for case in only if case.target] == [[0, 1], [0, 1]]  # type: ignore[union-attr]
    by_map = Generation(method="gan", by="labels")
    given = [disc(1), disc(2)]
    drawn = by_map.sample(module_of(by_map, networks()["gan"]), CLASSES, 3, seed=1, given=given)
    for case, of in zip(drawn, [*given, given[0]], strict=True):
        assert case.labels is not None
        np.testing.assert_array_equal(case.labels, of.labels)


def test_what_cannot_be_made_is_refused_with_what_can() -> None:
    by_class = Generation(method="gan", by="classes")
    network = module_of(by_class, networks()["gan"])
    with pytest.raises(UsageError, match=r"FR-U77 there is no class 'huge' in the study; small, large"):
        by_class.sample(network, CLASSES, 1, seed=1, kind="huge")
    by_map = Generation(method="gan", by="labels")
    with pytest.raises(UsageError, match=r"FR-U77 a model of label maps, and 0 of them; a folder with -i"):
        by_map.sample(module_of(by_map, networks()["gan"]), CLASSES, 1, seed=1)
    translation = Generation(method="translation", source=("t1",), target=("ct",))
    with pytest.raises(UsageError, match="FR-U76 this model translates images"):
        translation.sample(module_of(translation, TinyUNet(channels=(4,)), PAIRS), PAIRS, 1, seed=1)


@pytest.mark.parametrize(
    ("method", "network"),
    [("gan", ImageVae()), ("vae", ImageGan()), ("gan", TinyUNet()), ("translation", ImageGan())],
)
def test_a_network_of_another_kind_is_refused(method: Any, network: Network) -> None:
    task = Generation(method=method, source=("t1",), target=("ct",)) if method == "translation" else Generation(method)
    with pytest.raises(UsageError, match=rf"FR-U78 task.method = '{method}' with {type(network).__name__}"):
        task.network(network, PAIRS if method == "translation" else CLASSES)


def test_an_image_of_another_size_is_refused_where_the_network_is_built() -> None:
    with pytest.raises(UsageError, match=r"FR-U75 model.grid = \[16, 16\]; 3 numbers"):
        ImageGan(grid=(16, 16)).build(3, 0, 1)
    with pytest.raises(UsageError, match=r"FR-U75 model.grid = \[30, 30\]; multiples of 4"):
        ImageDiffusion(grid=(30, 30)).build(2, 0, 1)


STUDY = """
format = 1
name = "made"
[task]
name = "generation"
{task}
[cases]
dims = 2
{cases}
[model]
name = "image_gan"
[evaluation]
primary = "{primary}"
"""
WRONG = [
    ('by = "classes"', 'intensity = "unit"', "fid", "task.by: 'classes': the study names none in cases.classes"),
    ("", 'intensity = "zscore"', "fid", "cases.intensity: 'zscore': 'percentile' or 'unit' is wanted"),
    ("", 'intensity = "unit"', "psnr", "evaluation.primary: 'psnr': of gan, fid"),
    ('features = "0123abcd"', 'intensity = "unit"', "fid", "task.features: 0123abcd: this fedrounds judges by"),
    ('method = "diffusion"\nstays = "discriminator"', 'intensity = "unit"', "fid", "task.stays: 'discriminator': diffusion has none"),
    ('method = "translation"', 'channels = ["t1", "ct"]', "mae", r"task.source: []: names of channels are wanted (t1, ct)"),
    ('method = "translation"\nsource = ["t1"]\ntarget = ["t1"]', 'channels = ["t1", "ct"]', "mae", "task.target: t1: given already"),
    ('method = "translation"\nsource = ["t1"]\ntarget = ["ct"]\nlow = 5', 'channels = ["t1", "ct"]', "mae", "task.high: 1: above low = 5 is wanted"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "cases", "primary", "says"), WRONG)
def test_a_study_that_cannot_be_is_refused_by_name(
    task: str, cases: str, primary: str, says: str, tmp_path: Any
) -> None:
    from fedrounds_common.errors import StudyError

    file = tmp_path / "made.toml"
    file.write_text(STUDY.format(task=task, cases=cases, primary=primary), "utf-8")
    with pytest.raises(StudyError) as caught:
        read_study(file)
    assert says in "\n".join(str(fault) for fault in caught.value.faults)


def test_a_case_without_its_class_cannot_be_an_example_of_one() -> None:
    bare = disc(1).with_image(disc(1).image)
    with pytest.raises(CaseError, match="FR-D40"):
        Generation(method="gan", by="classes").draw([bare], CLASSES, TRAINING, generator(0))


def test_of_a_stack_one_slice_that_holds_something_is_shown() -> None:
    stack = np.zeros((1, 5, 16, 16), np.float32)
    labels = np.zeros((5, 16, 16), np.uint8)
    for place in (1, 2, 3):
        stack[0, place] = place
        labels[place, :, :place] = 1
    case = Case(CaseRef("s", "s"), stack, Target(labels), np.eye(4))
    task = Generation(method="gan", by="labels")
    seen = set()
    for number in range(40):
        example = task.draw([case], CLASSES, TRAINING, generator(0, number))
        place = int(example.image.max())
        assert example.target[0].sum() == 16 * place, "the label map is that of the slice"
        seen.add(place)
    assert seen == {1, 2, 3}
    network = module_of(task, networks()["gan"])
    made = task.predict(network, case, CLASSES, TRAINING, RULE)
    (written,) = task.files(made, case, CLASSES).values()
    # the middle slice of those that hold anything, at its place
    assert [bool(plane.any()) for plane in written.images["image"]] == [False, False, True, False, False]  # type: ignore[union-attr]
    assert np.isfinite(task.score(made, case, CLASSES, RULE).arrays["real"]).all()


def pair(number: int, grid: tuple[int, ...] = (16, 16)) -> Case:
    """T1 is bright where CT is dark: 1000 HU of bone around a soft middle."""
    image = disc(number, grid).image
    ct = 1000 - 1500 * (image > 0.45)
    return Case(
        CaseRef(f"c{number}", f"p{number}"), np.concatenate([100 * image, ct]).astype(np.float32), None, np.eye(4)
    )


@pytest.mark.parametrize("adversarial", [0.0, 0.01])
def test_a_translation_comes_closer_to_the_target_than_the_source_does(adversarial: float) -> None:
    from fedrounds_client.training import Piece, train

    task = Generation(
        method="translation", source=("t1",), target=("ct",), low=-500, high=1000, adversarial=adversarial
    )
    cases = [pair(number) for number in range(8)]
    network = module_of(task, TinyUNet(channels=(8, 16)), PAIRS)
    quick = replace(TRAINING, learning_rate=1e-2)
    train(network, task, cases, PAIRS, quick, Piece(90, 0, 90, 1, ("test",)), of_module(network))
    errors: dict[str, list[float]] = {"model": [], "the source": []}
    for case in (pair(100), pair(101)):
        made = task.predict(network.eval(), case, PAIRS, TRAINING, RULE)
        assert made.outputs.shape == (1, 16, 16)
        errors["model"].append(task.score(made, case, PAIRS, RULE).values["mean"]["mae"])
        for name, guess in task.guesses(case, PAIRS).items():
            errors[name].append(task.score(guess, case, PAIRS, RULE).values["mean"]["mae"])
    # in HU: the source is bright where the target is dark
    assert max(errors["model"]) < 0.5 * min(errors["the source"])
    scores = [task.score(made, case, PAIRS, RULE)]
    rows = {row.metric: row for row in task.table(task.tally(scores, PAIRS, RULE, 0), PAIRS, RULE)}
    assert rows["mae"].value == pytest.approx(errors["model"][-1])
    assert set(rows) == {"mae", "psnr", "ssim"}


def test_moving_an_example_moves_source_and_target_alike_and_shades_the_source_only() -> None:
    training = Training(augment=("flip", "rotate90", "gain"), batch=2)
    task = Generation(method="translation", source=("t1",), target=("ct",), low=-500, high=1000)
    shaded = 0
    for number in range(20):
        example = task.draw([pair(3)], PAIRS, training, generator(0, number))
        bright, dark = example.image[0] > 0, example.target[0] < 0.5
        np.testing.assert_array_equal(bright, dark)
        assert set(np.unique(example.target).tolist()) == {0.0, 1.0}
        shaded += bool(abs(example.image.std() - 1) > 0.005)
    assert shaded


def test_a_stack_is_translated_slice_by_slice() -> None:
    task = Generation(method="translation", source=("t1",), target=("ct",))
    network = module_of(task, TinyUNet(channels=(4,)), PAIRS).eval()
    planes = [pair(number).image for number in range(3)]
    stack = Case(CaseRef("s", "s"), np.stack(planes, 1), None, np.eye(4))
    assert task.predict(network, stack, PAIRS, TRAINING, RULE).outputs.shape == (1, 3, 16, 16)


def test_shuffled_voxels_are_an_answer_that_learned_nothing_but_the_histogram() -> None:
    task, case = Generation(method="gan", by="classes"), disc(1)
    (guess,) = task.guesses(case, CLASSES).values()
    np.testing.assert_array_equal(np.sort(guess.outputs.ravel()), np.sort(case.image.ravel()))
    assert not np.array_equal(guess.outputs, case.image)


def test_an_image_smaller_than_the_cases_is_made_is_framed() -> None:
    task = Generation(method="gan", by="labels", pool=2)
    network = module_of(task, networks((12, 20))["gan"])
    case = disc(2)
    assert task.loss(network, batch_of(task, [case], CLASSES), "generator", torch_generator(0)).shape == (4,)
    made = task.predict(network, case, CLASSES, TRAINING, RULE)
    assert made.image is not None
    assert made.image.shape == (1, 16, 16)


def test_training_cases_are_looked_at_beside_the_others_and_marked() -> None:
    task = Generation(method="gan", by="classes", pool=8)
    network = module_of(task, networks()["gan"])
    held, trained = [disc(number) for number in range(12)], [disc(number) for number in range(20, 28)]
    beside = task.beside(trained, CLASSES, 0)
    assert {case.ref.site for case in beside} == {TRAINED}
    judged = [*held, *beside]
    scores = [task.score(task.predict(network, case, CLASSES, TRAINING, RULE), case, CLASSES, RULE) for case in judged]
    tally = task.tally(scores, CLASSES, RULE, 0)
    # distances count both, and nothing else of the tally knows the training cases
    assert (tally["untrained"].sum(), tally["trained"].sum(), tally["of"][:, 0].sum()) == (12, 8, 12)
    parts = add_tallies([task.tally(part, CLASSES, RULE, 0) for part in (scores[:9], scores[9:], [])])
    for name in tally:
        if name not in ("hits", "asked"):  # neighbours are sought within a site
            np.testing.assert_allclose(parts[name], tally[name], rtol=1e-9, atol=1e-9)


def test_the_pool_is_that_of_the_weights_and_is_made_anew_when_they_change() -> None:
    from fedrounds_common.arrays import into_module
    from fedrounds_common.generative import synthesis

    task = Generation(method="gan", pool=3)
    network = module_of(task, networks()["gan"]).eval()
    first = task.predict(network, disc(1), CLASSES, TRAINING, RULE)
    again = task.predict(network, disc(1), CLASSES, TRAINING, RULE)
    np.testing.assert_array_equal(first.outputs, again.outputs)
    into_module(network, {name: array * 1.5 for name, array in of_module(network).items()})
    changed = task.predict(network, disc(1), CLASSES, TRAINING, RULE)
    # the nearest of the pool is the second half of the outputs
    assert not np.array_equal(first.outputs[1:], changed.outputs[1:])
    pools = len(synthesis._pools)
    assert 2 <= pools <= 4
