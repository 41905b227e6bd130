"""What every plug-in promises, asked of every file in every folder: ours, and those a person brings with `--plugins`.

A new file is held by these without a line here. Readers and partitions may need data or fields to be
built at all; where the defaults do not do, the tables below give them, and a file that has neither fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrounds_common.arrays import Array, Arrays, digest, into_module, manifest, of_module
from fedrounds_common.case import Case, CaseRef, Cases, Target
from fedrounds_common.channel import Channel
from fedrounds_common.codec import Codec
from fedrounds_common.errors import CaseError, UpdateError, UsageError
from fedrounds_common.leaving import Update, from_wire, to_wire
from fedrounds_common.network import Network
from fedrounds_common.plugins import PACKAGES, SITE_PACKAGES, Shelf, digest_of_folders
from fedrounds_common.rng import generator, seeded, torch_generator
from fedrounds_common.shelves import CHANNELS, CODECS, NETWORKS, PRIVACY, STRATEGIES, TASKS
from fedrounds_common.strategy import Consensus, SiteUpdate, Strategy, Trained
from fedrounds_common.study.tables import CaseForm, Evaluation, Training
from fedrounds_common.task import Batch, Prediction, Tally, Task, add_tallies
from fedrounds_common.written import LabelImage, ScalarImages, VectorImage, Written
from fedrounds_sites.partition import PARTITIONS, Partition
from fedrounds_sites.reader import Reader
from fedrounds_sites.simulation import READERS

DATA = Path(__file__).parents[1] / "data"
THEIRS = (DATA / "cubes", DATA / "threshold", DATA / "landmark")  # folders as a person would bring them


def everything(shelf: Shelf[Any]) -> list[Any]:
    """Each file on a shelf of ours and of theirs, as a test parameter."""
    return [pytest.param(name, id=f"{shelf.kind}-{name}") for name in shelf.names(THEIRS)]


def built(shelf: Shelf[Any], name: str, folders: Sequence[Path] = THEIRS, **fields: Any) -> Any:
    made, faults = shelf.build({"name": name, **fields}, shelf.kind, folders)
    assert made is not None, f"give {name} what it needs in the tables of this file: {'; '.join(map(str, faults))}"
    return made


# ---------------------------------------------------------------- strategies


def model() -> dict[str, Array]:
    """Weights, a bias, a learned temperature without axes, and a counter, in an order that no sort gives."""
    draws = np.random.default_rng(3)
    return {
        "up.weight": draws.normal(0, 0.1, (4, 3)).astype(np.float32),
        "bias": np.array([1e-8, -3.5, 2e4], np.float32),
        "temperature": np.array(0.7, np.float32),
        "seen": np.array(12, np.int64),
    }


@dataclass
class Store:
    """Updates by name, each handed out once, as the coordinator's store does."""

    updates: Mapping[str, tuple[Arrays, int]]
    read: int = 0

    def __len__(self) -> int:
        return len(self.updates)

    def __iter__(self) -> Iterator[SiteUpdate]:
        self.read += 1
        for site in sorted(self.updates):
            arrays, cases = self.updates[site]
            yield SiteUpdate(site, arrays, cases)


def locked(arrays: Arrays) -> dict[str, Array]:
    """A copy that cannot be written to: whoever changes an input in place fails."""
    copies = {name: np.array(array) for name, array in arrays.items()}
    for array in copies.values():
        array.setflags(write=False)
    return copies


def trained_from(start: Arrays, seed: int) -> dict[str, Array]:
    draws = np.random.default_rng(seed)
    return {
        name: np.asarray(array + (draws.normal(0, 0.01, array.shape) if array.dtype.kind == "f" else 3), array.dtype)
        for name, array in start.items()
    }


def sent(strategy: Strategy, consensus: Consensus, seed: int | None) -> Arrays:
    """What a site sends that trained to weights drawn from `seed`, or that did not train at all."""
    start = strategy.receive(consensus, {})
    reached = start if seed is None else trained_from(start, seed)
    leaving, _ = strategy.send(Trained(start, reached, cases=5, steps=3), consensus, {})
    return leaving


def strategy_keeps_its_promises(strategy: Strategy) -> None:
    begun = strategy.begin(locked(model()))
    assert manifest(begun.arrays) == manifest(model())

    # from a fresh start, if every site returns what it received, the consensus stays: for two rounds
    still = begun
    for _ in range(2):
        nothing = {site: (sent(strategy, still, None), cases) for site, cases in {"a": 3, "b": 11, "c": 1}.items()}
        store = Store(nothing)
        still = strategy.aggregate(still, store)
        assert digest(still.arrays) == digest(begun.arrays), "the consensus moved though no site trained"
        assert strategy.reads == "each" or store.read == 1, "a strategy that reads sums reads each update once"

    # pure: what goes in is locked, and the same in gives the same out, whatever was aggregated in between
    held = Consensus(locked(begun.arrays), locked(begun.shared), locked(begun.kept))
    updates = {site: (locked(sent(strategy, begun, seed)), 2 + seed) for seed, site in enumerate(["x", "y", "z"])}
    once = strategy.aggregate(held, Store(updates))
    strategy.aggregate(once, Store({"x": updates["x"]}))
    again = strategy.aggregate(held, Store(updates))
    assert [digest(part) for part in (once.arrays, once.shared, once.kept)] == [
        digest(part) for part in (again.arrays, again.shared, again.kept)
    ]

    # who answered first does not matter
    for order in permutations(updates):
        after = strategy.aggregate(held, Store({site: updates[site] for site in order}))
        assert digest(after.arrays) == digest(once.arrays)

    # the next consensus is of the same network, finite, and has moved
    assert manifest(once.arrays) == manifest(model())
    assert all(np.isfinite(array).all() for array in once.arrays.values())
    assert digest(once.arrays) != digest(begun.arrays)
    received = strategy.receive(Consensus(once.arrays, once.shared), {})
    assert manifest(received) == manifest(model())


@pytest.mark.parametrize("name", everything(STRATEGIES))
def test_every_strategy(name: str) -> None:
    strategy_keeps_its_promises(built(STRATEGIES, name))


@pytest.mark.parametrize("name", everything(STRATEGIES))
def test_what_every_strategy_sends_is_fit_to_leave(name: str) -> None:
    strategy = built(STRATEGIES, name)
    consensus = strategy.begin(locked(model()))
    leaving = sent(strategy, consensus, seed=4)
    assert manifest(leaving) == manifest(model())
    header, buffer = to_wire(Update("a", "r", 1, "n", "d", 5, 3, 0.1, 1.0, "float32", leaving))
    again = from_wire(header, buffer)
    assert isinstance(again, Update)
    assert digest(again.arrays) == digest(leaving)


@pytest.mark.parametrize("name", everything(STRATEGIES))
def test_every_strategys_correction_changes_gradients_and_nothing_else(name: str) -> None:
    import torch

    strategy = built(STRATEGIES, name)
    floats = {key: array for key, array in model().items() if array.dtype.kind == "f"}
    consensus = {key: torch.from_numpy(np.array(array)) for key, array in model().items()}
    weights = {key: torch.from_numpy(np.array(array + 1)) for key, array in floats.items()}
    gradients = {key: torch.ones_like(weight) for key, weight in weights.items()}
    before = {key: tensor.clone() for key, tensor in [*consensus.items(), *weights.items()]}
    strategy.correct(gradients, weights, consensus, {})
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    assert {key: gradient.shape for key, gradient in gradients.items()} == {key: w.shape for key, w in weights.items()}
    for key, tensor in [*weights.items()]:
        torch.testing.assert_close(tensor, before[key], rtol=0, atol=0)


# ---------------------------------------------------------------- codecs and channels

LOSS_OF_A_CODEC = 1e-3  # of a tensor's largest value: more than that must be kept for the next round


def codec_keeps_its_promises(codec: Codec) -> None:
    values = trained_from(model(), 1)
    residual: Arrays = {}
    for round_ in range(3):
        travelling, after = codec.encode(locked(values), locked(residual), round_)
        # over the wire and back: what arrives is read-only
        message = from_wire(*to_wire(Update("a", "r", 1, "n", "d", 5, 3, 0.1, 1.0, "x", travelling)))
        assert isinstance(message, Update)
        decoded = codec.decode(message.arrays, locked(values))
        assert manifest(decoded) == manifest(values)
        for name, array in values.items():
            if array.dtype.kind != "f":
                np.testing.assert_array_equal(decoded[name], array)
                continue
            # what was to travel is what arrives and what is kept of it
            should = array.astype(np.float64) + residual.get(name, 0)
            found = decoded[name].astype(np.float64) + after.get(name, 0)
            np.testing.assert_allclose(found, should, rtol=0, atol=LOSS_OF_A_CODEC * float(np.abs(array).max()))
        residual = after


@pytest.mark.parametrize("name", everything(CODECS))
def test_every_codec(name: str) -> None:
    codec_keeps_its_promises(built(CODECS, name))


@pytest.mark.parametrize("name", everything(CODECS))
def test_no_codec_breaks_on_what_it_never_made(name: str) -> None:
    codec = built(CODECS, name)
    for odd in ({}, {"x": np.zeros(0, np.float32)}, {"up.weight": np.array(["text"])}, {"": np.array(1 + 2j)}):
        try:
            codec.decode(odd, model())
        except UpdateError:
            continue


def channel_keeps_its_promises(channel: Channel) -> None:
    assert channel.phases
    assert channel.seen().endswith(".")


@pytest.mark.parametrize("name", everything(CHANNELS))
def test_every_channel(name: str) -> None:
    channel_keeps_its_promises(built(CHANNELS, name))


# ---------------------------------------------------------------- tasks and networks


def case_for(number: int, form: CaseForm, grid: tuple[int, ...]) -> Case:
    """Something bright in noise, with whatever reference the form asks for: labels, and classes that show."""
    draws = np.random.default_rng(number)
    labels = np.zeros(grid, np.uint8)
    corner = tuple(slice(int(low), int(low) + 6) for low in draws.integers(2, 8, len(grid)))
    labels[corner] = 2
    labels[tuple(slice(each.start + 2, each.start + 4) for each in corner)] = 1
    image = draws.normal(0, 0.3, (len(form.channels), *grid)).astype(np.float32)
    image[0] += labels > 0
    image[-1] += 2 * (labels == 1)
    classes = None
    if form.classes:
        classes = np.zeros(len(form.classes), np.float32)
        classes[number % len(classes)] = 1
        image[-1] += np.float32(number % len(classes))
    return Case(CaseRef(f"c{number}", f"p{number}"), image, Target(labels, classes), np.eye(4))


@dataclass(frozen=True)
class Fit:
    """A study that a task can be asked about: its form, and a network, cases and settings that go with it.

    `stacked`: of a form with two dimensions, cases that are stacks of slices. `patch`: examples are windows of 8;
    otherwise each is a whole grid of 16. `steps`: of Adam, after which the loss of one batch must be lower.
    """

    form: CaseForm
    network: str = "tiny_unet"
    network_fields: Mapping[str, Any] = field(default_factory=lambda: {"channels": (8,)})
    fields: Mapping[str, Any] = field(default_factory=dict)
    case: Callable[[int, CaseForm, tuple[int, ...]], Case] = case_for
    stacked: bool = False
    patch: bool = True
    training: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 8

    def cases(self, count: int, size: int = 16) -> list[Case]:
        grid = (size,) * (3 if self.stacked else self.form.dims)
        return [self.case(number, self.form, grid) for number in range(count)]

    def settings(self, patch: int = 8) -> Training:
        fixed = {"augment": (), "batch": 2, "foreground": 1.0}
        return Training(**{**fixed, "patch": (patch,) * self.form.dims if self.patch else None, **self.training})


TWO = ("t1", "t2")
LABELS = {"core": 1, "rim": 2}
BY_LABELS = {"labels": 4.0, "smooth": 0.01}
# what a network makes → forms for a task that takes it, and that is not in TASKS_NEED
FITS: dict[str, dict[str, Fit]] = {
    "maps": {
        "labels": Fit(CaseForm(channels=TWO, labels=LABELS)),
        "regions": Fit(
            CaseForm(channels=TWO, labels=LABELS, regions={"whole": ("core", "rim"), "core": ("core",)}),
        ),
        "slices": Fit(CaseForm(dims=2, channels=TWO, labels=LABELS), stacked=True),
    },
    "scores": {
        f"{name}-{dims}d": Fit(
            CaseForm(dims=dims, channels=TWO, classes=classes, multi_label=name == "findings"),
            network="tiny_cnn", patch=False,
        )
        for dims in (2, 3)
        for name, classes in (("two", ("well", "ill")), ("three", ("a", "b", "c")), ("findings", ("a", "b", "c")))
    },
    "fields": {
        "pictures": Fit(CaseForm(dims=2, channels=TWO, labels=LABELS), network="voxelmorph", fields=BY_LABELS, steps=24),
        "volumes": Fit(CaseForm(channels=TWO, labels=LABELS), network="voxelmorph", fields=BY_LABELS, steps=24),
        "channels": Fit(
            CaseForm(dims=2, channels=TWO), network="voxelmorph", fields={"pairs": "channels", "similarity": "mse"},
            steps=24,
        ),
    },
    "images": {
        f"{method}-{dims}d": Fit(
            CaseForm(dims=dims, channels=TWO, labels=LABELS, classes=("a", "b"), intensity="unit"), network=f"image_{method}",
            network_fields={"grid": (16,) * dims, "widths": (8, 16) if method == "diffusion" else (16, 8)},
            fields={"method": method, "by": "classes", "pool": 2, "steps": 2}, patch=False, steps=24,
        )
        for method in ("gan", "vae", "diffusion")
        for dims in (2, 3)
    },
}  # fmt: skip
# task → what it needs instead of these, by a name of its own
TASKS_NEED: dict[str, dict[str, Fit]] = {}


def fits_of(name: str) -> dict[str, Fit]:
    """The studies a task is asked about: its own, or those for its kind of network that it finds no fault with."""
    if name in TASKS_NEED:
        return TASKS_NEED[name]
    by_head = {key: fit for makes in TASKS.find(name, THEIRS).takes for key, fit in FITS.get(makes, {}).items()}
    return {
        key: fit
        for key, fit in by_head.items()
        if not built(TASKS, name, **fit.fields).faults(fit.form, fit.settings(), Evaluation())
    }


def tasks_and_fits() -> Iterator[Any]:
    for name in TASKS.names(THEIRS):
        with suppress(ImportError, UsageError):  # of a file that cannot be imported the first test below tells
            yield from (pytest.param(name, fit, id=f"tasks-{name}-{key}") for key, fit in fits_of(name).items())


TASKS_AND_FITS = list(tasks_and_fits())


@pytest.mark.parametrize("name", everything(TASKS))
def test_every_task_is_asked_about_a_study_that_fits_it(name: str) -> None:
    assert fits_of(name), f"give {name} what it needs in TASKS_NEED"
    for key, fit in fits_of(name).items():
        assert not built(TASKS, name, **fit.fields).faults(fit.form, fit.settings(), Evaluation()), key


def learned(
    task: Task, network: Network, fit: Fit, turn: str, size: int = 16, patch: int = 8, rate: float = 3e-3
) -> list[float]:
    """The loss before each of so many steps of one turn on one and the same batch."""
    import torch

    cases, training = fit.cases(2, size), fit.settings(patch)
    with seeded(1):
        module = task.network(network, fit.form).train()
    examples = [task.draw(cases, fit.form, training, generator(0, "draw", number)) for number in range(2)]
    batch = Batch(
        torch.from_numpy(np.stack([example.image for example in examples])),
        torch.from_numpy(np.stack([example.target for example in examples])),
    )
    optimiser = torch.optim.Adam(task.parameters(module, turn), lr=rate)
    losses = []
    for _ in range(fit.steps):
        optimiser.zero_grad()
        with seeded(2):
            # the same noise in every step: what falls is the loss, not the luck
            each = task.loss(module, batch, turn, torch_generator(0, "loss"))
        assert each.shape == (2,), "one value an example"
        each.mean().backward()
        optimiser.step()
        losses.append(float(each.detach().mean()))
    return losses


def fell(losses: Sequence[float]) -> bool:
    return bool(np.isfinite(losses).all()) and losses[-1] < losses[0] - 0.05 * abs(losses[0])


@pytest.mark.parametrize(("name", "fit"), TASKS_AND_FITS)
def test_every_tasks_loss_is_finite_and_falls_on_one_batch_in_each_turn(name: str, fit: Fit) -> None:
    task, network = built(TASKS, name, **fit.fields), built(NETWORKS, fit.network, **fit.network_fields)
    assert network.makes in task.takes
    for turn in task.turns:
        losses = learned(task, network, fit, turn)
        assert fell(losses), f"{turn}: {losses}"


def predicted(task: Task, fit: Fit, count: int) -> tuple[Any, Cases, list[Prediction]]:
    """A fresh network, what is judged of so many cases, and what it says of each."""
    with seeded(1):
        module = task.network(built(NETWORKS, fit.network, **fit.network_fields), fit.form).eval()
    cases = task.judged(fit.cases(count), fit.form, 3)
    training, rule = fit.settings(16), Evaluation(resamples=5)
    return module, cases, [task.predict(module, each, fit.form, training, rule) for each in cases]


@pytest.mark.parametrize(("name", "fit"), TASKS_AND_FITS)
def test_every_tasks_prediction_is_what_its_outputs_amount_to(name: str, fit: Fit) -> None:
    task = built(TASKS, name, **fit.fields)
    _, cases, found = predicted(task, fit, 2)
    assert cases
    for case, made in zip(cases, found, strict=True):
        assert made.outputs.dtype == np.float32
        assert np.isfinite(made.outputs).all()
        assert made.labels.dtype == np.uint8
        assert made.labels.shape in (case.grid, (len(fit.form.classes),), (0,))
        again = task.decide(made.outputs if made.plain is None else made.plain, case, fit.form)
        np.testing.assert_array_equal(again.labels, made.labels)
        if made.image is not None:
            assert again.image is not None
            np.testing.assert_allclose(again.image, made.image, rtol=1e-5, atol=1e-5)
        picture = task.picture(case, made, fit.form)
        assert picture.panels
        assert all(panel.dtype == np.uint8 and panel.shape[2:] == (3,) for panel in picture.panels.values())


def lies_on(grid: tuple[int, ...], each: Written) -> bool:
    if isinstance(each, LabelImage):
        return each.labels.shape == grid and each.labels.dtype == np.uint8
    if isinstance(each, ScalarImages):
        return bool(each.images) and all(image.shape == grid for image in each.images.values())
    if isinstance(each, VectorImage):
        return each.field.shape == (len(grid), *grid)
    return bool(each.row) and all(isinstance(value, str | float) for value in each.row.values())


@pytest.mark.parametrize(("name", "fit"), TASKS_AND_FITS)
def test_what_every_task_writes_of_a_case_lies_on_its_grid(name: str, fit: Fit) -> None:
    task = built(TASKS, name, **fit.fields)
    _, cases, found = predicted(task, fit, 2)
    files = task.files(found[0], cases[0], fit.form)
    assert files, "`fedrounds predict` would write nothing"
    for kind, each in files.items():
        assert re.fullmatch(r"[a-z][a-z_-]*", kind), "the name of a folder"
        assert lies_on(cases[0].grid, each), kind
    assert task.lacks(fit.cases(1)[0], fit.form) == "", "the cases of these tests have all that a task asks for"


def add_up(parts: Sequence[Tally], whole: Tally) -> None:
    """Sums of any cases, and of none, have one form, and the parts' sum is the whole."""
    for tally in (*parts, whole):
        assert sorted(manifest(tally)) == sorted(manifest(whole)), "sums of any cases, and of none, have one form"
        assert {array.dtype for array in tally.values()} <= {np.dtype(np.float64)}


@pytest.mark.parametrize(("name", "fit"), TASKS_AND_FITS)
def test_every_tasks_tallies_add(name: str, fit: Fit) -> None:
    task, rule = built(TASKS, name, **fit.fields), Evaluation(resamples=5)
    _, cases, found = predicted(task, fit, 5)
    scores = [task.score(made, each, fit.form, rule) for made, each in zip(found, cases, strict=True)]
    parts = [task.tally(part, fit.form, rule, seed) for seed, part in enumerate([scores[:2], scores[2:], []])]
    whole = task.tally(scores, fit.form, rule, 0)
    add_up(parts, whole)
    rows, wanted = (task.table(sums, fit.form, rule) for sums in (add_tallies(parts), whole))
    assert rows
    for row, should in zip(rows, wanted, strict=True):
        # intervals come from each site's own resampling; everything else is a sum
        assert (row.region, row.metric, row.n, row.empty, row.missed, row.spurious) == (
            should.region, should.metric, should.n, should.empty, should.missed, should.spurious,
        )  # fmt: skip
        np.testing.assert_allclose(row.value, should.value, rtol=1e-9, equal_nan=True)
        task.rankable(row)
    assert {row.metric for row in rows} <= set(task.measures), "every row of the table is one of the task's measures"
    assert len({(row.region, row.metric) for row in rows}) == len(rows), "no two rows about the same"
    assert {metric.metric for metric in task.table(parts[-1], fit.form, rule)} == {row.metric for row in rows}
    replicates = task.replicates(whole, fit.form, replace(rule, primary=rows[-1].metric))
    assert set(replicates) <= {row.region for row in rows}
    assert {values.shape for values in replicates.values()} <= {(5,)}


@pytest.mark.parametrize(("name", "fit"), TASKS_AND_FITS)
def test_every_tasks_guesses_score_like_predictions(name: str, fit: Fit) -> None:
    task, rule = built(TASKS, name, **fit.fields), Evaluation(resamples=5)
    _, cases, found = predicted(task, fit, 2)
    rules = {tuple(task.guesses(case, fit.form)) for case in cases}
    assert len(rules) == 1, "the same rules for every case, in one order"
    for case, made in zip(cases, found, strict=True):
        ours = task.score(made, case, fit.form, rule)
        for guess in task.guesses(case, fit.form).values():
            theirs = task.score(guess, case, fit.form, rule)
            assert {region: set(values) for region, values in theirs.values.items()} == {
                region: set(values) for region, values in ours.values.items()
            }
            task.tally([theirs], fit.form, rule, 0)


@pytest.mark.parametrize(("name", "fit"), TASKS_AND_FITS)
def test_every_tasks_explanations_lie_on_the_image(name: str, fit: Fit) -> None:
    task = built(TASKS, name, **fit.fields)
    module, cases, _ = predicted(task, fit, 2)
    why = task.explain(module, cases[0], fit.form, fit.settings(16), Evaluation())
    for method, draw in why.maps.items() if why else ():
        weights = draw()
        assert weights.shape == why.over.grid == cases[0].grid, method
        assert (weights >= 0).all(), method
        assert weights.dtype == np.float32, method
        assert np.isfinite(weights).all(), method


@pytest.mark.parametrize(("name", "fit"), TASKS_AND_FITS)
def test_every_tasks_sums_over_sites_add_and_settle_in_the_same_network(name: str, fit: Fit) -> None:
    task, training = built(TASKS, name, **fit.fields), fit.settings(16)
    assert set(task.of_validation) <= {*task.before, *task.after}
    if not (task.before or task.after):
        return
    with seeded(1):
        module = task.network(built(NETWORKS, fit.network, **fit.network_fields), fit.form).eval()
    cases = fit.cases(6)
    for purpose in (*task.before, *task.after):
        arrays = locked(of_module(module))
        parts = [task.gather(purpose, module, part, fit.form, training) for part in (cases[:2], cases[2:], [])]
        whole = task.gather(purpose, module, cases, fit.form, training)
        add_up(parts, whole)
        for key, array in add_tallies(parts).items():
            np.testing.assert_allclose(array, whole[key], rtol=1e-6, atol=1e-9)
        settled = task.settle(purpose, whole, arrays, fit.form)
        assert manifest(settled) == manifest(arrays), "the same network"
        assert all(np.isfinite(array).all() for array in settled.values())
        into_module(module, settled)


def is_heavy(name: str) -> bool:
    """Whether its file says that it imports MONAI, which takes seconds."""
    return bool(re.search(r"(from|import) monai", NETWORKS.files(THEIRS)[name].read_text(encoding="utf-8")))


# settings that keep a network small enough to be trained for a moment; without an entry it is built as it comes
SMALL: dict[str, dict[str, Any]] = {
    "tiny_unet": {"channels": (8, 16)},
    "basicunet": {"channels": (8, 8, 16, 16, 32, 8)},
    "dynunet": {"channels": (8, 16, 16), "strides": (1, 2, 2)},
    "fets_resunet": {"base": 4, "dropout": 0.0},
    "segresnet": {"width": 8},
    "swinunetr": {"width": 12, "window": 3},
    "unetr": {"patch": (32, 32), "width": 4, "hidden": 32, "mlp": 32, "heads": 4},
    "tiny_cnn": {"channels": (8, 16)},
    "voxelmorph": {"channels": (8, 16)},
    "affine_net": {"channels": (8, 16)},
    "alexnet": {"stem": "small"},
    "vgg": {"depth": 11},
    "mobilenet": {"width": 0.25},
    "resnet": {"depth": 10},
    "densenet": {"growth": 8},
    "vit": {"size": (32, 32), "token": (8, 8), "width": 24, "mlp": 32, "heads": 3, "layers": 2},
    "series": {"encoder": {"name": "tiny_cnn", "channels": (8, 16)}},
    "tiles": {"encoder": {"name": "tiny_cnn", "channels": (8, 16)}},
}
GRIDS = {
    "alexnet": 40,
    "swinunetr": 64,
}  # network → the smallest grid it takes, where that is more than 32 and its divisor
RATES = {"se_resnet": 3e-4, "vgg": 3e-4}  # network → Adam's learning rate, where 0.003 overshoots in its many layers
# what a network makes → a task of ours that learns with it, and the outputs that a 2D and a 3D one are built with
LEARNED_BY = {"maps": "segmentation", "scores": "classification", "fields": "registration", "images": "generation"}


def outputs_of(makes: str, dims: int) -> int:
    return dims if makes == "fields" else 3


def supported(name: str) -> dict[int, Network]:
    """Dimensions → the network, for those that it can be built in with two inputs."""
    found = {}
    for dims in (2, 3):
        fields = dict(SMALL.get(name, {}))
        if "patch" in fields:
            fields["patch"] = (32,) * dims
        network = built(NETWORKS, name, **fields)
        try:
            network.build(dims, 2, outputs_of(network.makes, dims))
        except UsageError:
            continue
        found[dims] = network
    return found


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if is_heavy(name) else [], id=f"networks-{name}")
        for name in NETWORKS.names()
    ],
)
def test_every_network_learns_one_batch_from_weights_that_its_seed_gives(name: str) -> None:
    import torch

    networks = supported(name)
    assert networks, f"{name} can be built neither for pictures nor for volumes"
    for dims, network in networks.items():
        size, outputs = max(network.divisor(dims), GRIDS.get(name, 32)), outputs_of(network.makes, dims)
        with seeded(7):
            first = network.build(dims, 2, outputs).eval()
        with seeded(7):
            again = network.build(dims, 2, outputs)
        assert all(
            torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
        )
        if network.makes == "images":  # a module of parts, each with its own way in: its task knows them
            continue
        with torch.no_grad():
            logits = first(torch.zeros(2, 2, *(size,) * dims))
        assert logits.shape[:2] == (2, outputs)
        if network.makes != "fields":
            assert logits.shape[2:] == ((size,) * dims if network.makes == "maps" else ())
        assert torch.isfinite(logits).all()
    dims, network = min(networks.items())
    makes = LEARNED_BY[network.makes]
    if makes not in TASKS.names():
        pytest.skip(f"no task {makes} yet")
    fit = next(
        fit
        for fit in fits_of(makes).values()
        if (fit.form.dims == dims or network.makes == "maps") and (fit.network == name or network.makes != "images")
    )
    fit = replace(fit, form=replace(fit.form, dims=dims), stacked=network.makes == "maps" and dims == 2)
    task = built(TASKS, makes, **fit.fields)
    assert fell(learned(task, network, fit, task.turns[0], size, size, RATES.get(name, 3e-3)))


# ---------------------------------------------------------------- readers

PLAIN = {"intensity": "none"}
MEDNIST = ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")
# reader → its fields, and the form of a study that fits the small images of tests/data
READERS_NEED: dict[str, tuple[dict[str, Any], CaseForm]] = {
    "nifti_folder": (
        {"root": str(DATA / "hippocampus"), "images": r"images/(?P<case>\w+)\.nii\.gz", "labels": r"labels/(?P<case>\w+)\.nii\.gz"},
        CaseForm(channels=("t1",), labels={"anterior": 1, "posterior": 2}),
    ),
    "image_pairs": ({"root": str(DATA / "pairs")}, CaseForm(dims=2, channels=("flair",), labels={"lesion": 1})),
    "dicom_series": ({"root": str(DATA / "dicom" / "ge_epi"), "labels_required": False}, CaseForm(channels=("epi",))),
    "phantom_glioma": (
        {"profile": "eight", "scale": 0.05, "spacing_mm": 8.0},
        CaseForm(channels=("t1", "t1ce", "t2", "flair"), labels={"necrosis": 1, "oedema": 2, "enhancing": 4}),
    ),
    "phantom_pairs": (
        {"scale": 0.05, "spacing_mm": 8.0}, CaseForm(channels=("fixed", "moving"), labels={"ventricles": 1, "tumour": 2}),
    ),
    "npz_arrays": ({"root": str(DATA / "medmnist" / "pneumonia24.npz")}, CaseForm(dims=2, classes=("normal", "pneumonia"))),
    "class_folders": ({"root": str(DATA / "mednist"), "test_share": 0.25}, CaseForm(dims=2, classes=MEDNIST)),
    "table_csv": (
        {"file": str(DATA / "mednist" / "table.csv")}, CaseForm(dims=2, classes=("CT", "MRI", "radiograph")),
    ),
    "cubes": ({}, CaseForm(channels=("t1",), labels={"cube": 1})),
}  # fmt: skip


def reader_keeps_its_promises(make: Callable[[], Reader], form: CaseForm) -> None:
    reader = make()
    refs = reader.cases(form)
    assert refs, "a folder without a case is a DataError, not an empty list"
    assert [ref.name for ref in refs] == sorted({ref.name for ref in refs}), "sorted, and no name twice"
    assert all(ref.patient for ref in refs)
    dealt = [ref for ref in refs if ref.site not in reader.set_apart]
    assert len({ref.site is None for ref in dealt}) <= 1, "sites are known of all cases or of none, but those set apart"
    allowed = {0, *form.labels.values()}
    for ref in [refs[0], refs[-1]]:
        first, again = reader.load(ref, form), make().load(ref, form)
        assert first.ref == ref
        assert first.image.dtype == np.float32
        assert first.image.shape[0] == len(form.channels)
        assert first.image.ndim in (3, 4)
        assert np.isfinite(first.image).all()
        assert np.abs(np.linalg.det(first.affine)) > 0
        if first.target is not None and first.target.classes is not None:
            assert first.target.classes.dtype == np.float32
            assert first.target.classes.shape == (len(form.classes),)
            assert set(first.target.classes.tolist()) <= {0.0, 1.0}
            assert form.multi_label or first.target.classes.sum() == 1, "one of them, and no more"
        if first.target is not None and first.target.voxels is not None:
            assert first.target.voxels.dtype == np.uint8
            assert first.target.voxels.shape == first.grid, "image and target lie on one grid"
            assert set(np.unique(first.target.voxels).tolist()) <= allowed
        # another object of the same table reads the same case to the bit
        np.testing.assert_array_equal(first.image, again.image)
        np.testing.assert_array_equal(first.affine, again.affine)
        assert reader.stamp(ref, form) == make().stamp(ref, form)
    assert make().cases(form) == refs


@pytest.mark.parametrize("name", everything(READERS))
def test_every_reader(name: str) -> None:
    fields, form = READERS_NEED.get(name, ({}, CaseForm()))
    reader_keeps_its_promises(lambda: built(READERS, name, **fields), form)


@pytest.mark.parametrize("name", READERS.names())
def test_a_case_that_is_not_there_is_an_error_of_that_case(name: str) -> None:
    fields, form = READERS_NEED.get(name, ({}, CaseForm()))
    reader = built(READERS, name, **fields)
    reader.cases(form)
    with pytest.raises(CaseError):
        reader.load(CaseRef("no-such-case", "no-such-patient", "no-such-site"), form)


# ---------------------------------------------------------------- partitions

# partition → the fields without which it cannot be built
PARTITIONS_NEED: dict[str, dict[str, Any]] = {
    "sizes": {"sizes": [7, 3, 5]},
    "csv_file": {"file": "table.csv"},
    "dirichlet": {"sites": 4, "at_least": 2},
    "profile": {"profile": "eight"},
}
REFS = [
    CaseRef(f"p{number:03d}v{visit}", f"p{number:03d}", "AB"[number % 2]) for number in range(60) for visit in (1, 2)
]
STRATA = {ref.patient: int(ref.patient[1:]) % 3 for ref in REFS}


def partition_keeps_its_promises(partition: Partition) -> None:
    done = partition.assign(REFS, 5, STRATA if partition.needs_strata else None)
    assert done
    assert list(done) == sorted(done)
    given = [ref for refs in done.values() for ref in refs]
    assert len(given) == len(set(given))
    assert set(given) <= set(REFS), "refs come back unchanged"
    homes: dict[str, set[str]] = {}
    for site, refs in done.items():
        assert refs, "no site without a case"
        assert list(refs) == sorted(refs)
        for ref in refs:
            homes.setdefault(ref.patient, set()).add(site)
    assert all(len(sites) == 1 for sites in homes.values()), "a patient belongs to one site"
    # neither the order in which a folder is read nor what was dealt before matters
    partition.assign(REFS, 6, STRATA)
    assert partition.assign(REFS[::-1], 5, STRATA) == done


@pytest.mark.parametrize("name", everything(PARTITIONS))
def test_every_partition(name: str, tmp_path: Path) -> None:
    fields = dict(PARTITIONS_NEED.get(name, {}))
    if "file" in fields:
        rows = [f"{1 + number % 4},p{number:03d}" for number in range(60)]
        (tmp_path / fields["file"]).write_text("\n".join(["Partition_ID,Subject_ID", *rows]), encoding="utf-8")
        fields["file"] = str(tmp_path / fields["file"])
    partition_keeps_its_promises(built(PARTITIONS, name, **fields))


# ---------------------------------------------------------------- a file dropped into a folder is enough

GOOD = '''"""Moves by half of what the sites ask for."""
from dataclasses import dataclass
from typing import final
from fedrounds_common.averaging import moved, weighted_mean
from fedrounds_common.strategy import Consensus, Strategy

@final
@dataclass(frozen=True)
class Half(Strategy):
    share: float = 0.5

    def aggregate(self, consensus, updates):
        mean = weighted_mean(updates)
        return Consensus(moved(consensus.arrays, {name: self.share * each for name, each in mean.items()}))
'''
WRITES = "        updates = list(updates)\n        for update in updates:\n            update.arrays['bias'][:] = 0\n"
FORGETS = GOOD.replace("moved(consensus.arrays, ", "(lambda arrays, step: {'bias': arrays['bias']})(consensus.arrays, ")
BROKEN = {
    "drifts": (GOOD.replace("self.share * each", "self.share * each + 1e-3"), "the consensus moved"),
    "reads twice": (GOOD.replace("mean = ", "list(updates); mean = "), "reads each update once"),
    "writes": (GOOD.replace("        mean =", WRITES + "        mean ="), "read-only"),
    "never moves": (GOOD.replace("self.share * each", "0 * each"), "assert .* != "),
    "forgets": (FORGETS, "the consensus moved"),
}


def dropped(folder: Path, kind: str, name: str, text: str) -> Path:
    (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / kind / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def test_a_file_in_a_folder_is_on_the_shelf_and_is_held_by_the_contract(tmp_path: Path) -> None:
    mine = dropped(tmp_path, "strategies", "half", GOOD)
    assert "half" in STRATEGIES.names([mine])
    assert "half" not in STRATEGIES.names()
    strategy = built(STRATEGIES, "half", [mine], share=0.25)
    assert strategy.share == 0.25
    strategy_keeps_its_promises(strategy)


@pytest.mark.parametrize("fault", BROKEN)
def test_the_contract_notices_a_strategy_that_breaks_it(fault: str, tmp_path: Path) -> None:
    text, said = BROKEN[fault]
    strategy = built(STRATEGIES, "half", [dropped(tmp_path, "strategies", "half", text)])
    with pytest.raises((AssertionError, ValueError), match=said):
        strategy_keeps_its_promises(strategy)


@pytest.mark.parametrize("kind", [*PACKAGES, *SITE_PACKAGES])
def test_every_kind_of_plug_in_can_be_dropped_into_a_folder(kind: str, tmp_path: Path) -> None:
    shelves: dict[str, Shelf[Any]] = {
        shelf.kind: shelf for shelf in (TASKS, NETWORKS, STRATEGIES, CODECS, CHANNELS, PRIVACY, READERS, PARTITIONS)
    }
    mine = dropped(tmp_path, kind, "mine", '"""Mine."""\n')
    assert "mine" in shelves[kind].names([mine])
    assert shelves[kind].files([mine])["mine"] == tmp_path / kind / "mine.py"
    with pytest.raises(UsageError, match=r"FR-U02 .*mine\.py holds 0 classes"):
        shelves[kind].find("mine", [mine])


def test_a_persons_file_stands_before_ours_and_its_text_is_in_the_digest(tmp_path: Path) -> None:
    mine = dropped(tmp_path, "strategies", "fedavg", GOOD)
    assert type(built(STRATEGIES, "fedavg", [mine])).__name__ == "Half"
    assert type(built(STRATEGIES, "fedavg")).__name__ == "FedAvg"
    before = digest_of_folders([mine])
    dropped(tmp_path, "strategies", "fedavg", GOOD.replace("0.5", "0.75"))
    assert digest_of_folders([mine]) != before
    assert built(STRATEGIES, "fedavg", [mine]).share == 0.75


@pytest.mark.parametrize("text", ["raise RuntimeError('no')\n", "def broken(:\n", "import no_such_library\n"])
def test_a_file_that_cannot_be_imported_is_named(text: str, tmp_path: Path) -> None:
    mine = dropped(tmp_path, "strategies", "bad", text)
    with pytest.raises(UsageError, match=r"FR-U04 .*bad\.py: "):
        STRATEGIES.find("bad", [mine])
