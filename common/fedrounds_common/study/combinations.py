"""What of a study goes with what protects it: one table, which `study check` refuses by and `list combinations` prints.

A row is something that a study may hold, a column what protects: how updates travel, or noise and whose. To protect by
several is to be in several columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

from fedrounds_common.channel import Channel
from fedrounds_common.codec import Codec
from fedrounds_common.errors import Fault
from fedrounds_common.privacy import NoisySteps, NoisySum
from fedrounds_common.strategy import Strategy
from fedrounds_common.study.tables import Cohort, Training
from fedrounds_common.task import Task

Column = Literal["plain", "secure_sum", "dp_sgd", "hospital_dp", "hospital_dp, sites"]
# later: accepted here, and refused when the network is there to be looked at; left out: goes, and something is not told
Goes = Literal["works", "at the site only", "left out", "later", "refused"]
COLUMNS: Mapping[Column, str] = {
    "plain": "updates travel as they are",
    "secure_sum": "the coordinator sees their sum",
    "dp_sgd": "noise in steps, for patients",
    "hospital_dp": "noise in sums, by the coordinator",
    "hospital_dp, sites": "noise in sums, in shares of the sites",
}


@final
@dataclass(frozen=True)
class Uses:
    """What a study holds, built."""

    task: Task
    strategy: Strategy
    codec: Codec
    channel: Channel
    training: Training
    cohort: Cohort
    steps: NoisySteps | None = None
    sum: NoisySum | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        found: list[Column] = ["secure_sum" if self.channel.hides_sites else "plain"]
        found += ["dp_sgd"] if self.steps is not None else []
        if self.sum is not None:
            found.append("hospital_dp" if self.sum.hand == "coordinator" else "hospital_dp, sites")
        return tuple(found)


@final
@dataclass(frozen=True)
class Cell:
    goes: Goes
    why: str = ""

    def __str__(self) -> str:
        return f"{self.goes}: {self.why}" if self.why else self.goes


WORKS = Cell("works")
LOUDEST = 8.6  # standard deviations: where normal noise of ours ends
Is = Callable[[Uses], bool]


@final
@dataclass(frozen=True)
class Feature:
    """A row. `key`: what of a study to point at. `is_in`: whether a study holds it; None of what every study has.

    `example`: the lines of a study that make it hold this, "" where none do. `cells`: those that do not just work.
    """

    name: str
    key: str = ""
    is_in: Is | None = None
    example: str = ""
    cells: Mapping[Column, Cell] = field(default_factory=dict)

    def cell(self, column: Column) -> Cell:
        return self.cells.get(column, WORKS)


def refusals(uses: Uses) -> Iterator[Fault]:
    """Every pair in a study that does not go together, with the reason."""
    for feature in FEATURES:
        if feature.is_in is None or not feature.is_in(uses):
            continue
        for column in uses.columns:
            cell = feature.cell(column)
            if cell.goes == "refused":
                yield Fault(feature.key, f"{feature.name} beside {column}: {cell.why}")


def _works(why: str) -> Cell:
    return Cell("works", why)


def _no(why: str) -> Cell:
    return Cell("refused", why)


def _row(name: str, key: str, is_in: Is, example: str, **cells: Cell) -> Feature:
    """`secure`, `steps`, `sums`: the columns by these; `sums` of both hands, `sites` where theirs is another."""
    by_sites = cells.pop("sites", cells.get("sums", WORKS))
    names: dict[str, Column] = {"plain": "plain", "secure": "secure_sum", "steps": "dp_sgd", "sums": "hospital_dp"}
    found = {names[short]: cell for short, cell in cells.items()}
    return Feature(name, key, is_in, example, {**found, "hospital_dp, sites": by_sites})


def _sums_of(uses: Uses, *, validation: bool) -> bool:
    asked = (*uses.task.before, *uses.task.after)
    return any((purpose in uses.task.of_validation) == validation for purpose in asked)


def _too_loud(uses: Uses) -> bool:
    """Whether an entry with a site's share of the noise on it may be beyond what the channel's numbers hold."""
    how = uses.sum
    if how is None or how.hand != "sites":
        return False
    most: float = getattr(uses.channel, "limit", math.inf)
    return how.clip * (1 + LOUDEST * how.multiplier / math.sqrt(how.shares)) > most


TRAVELS = _works("these sums travel as they are, and are seen site by site")
NOISY_ALREADY = _works("it is made of what is noisy already")
OUTSIDE = _works("lies outside the promise, and the report says so")
BOUNDED = _no(
    'a hospital\'s weight must be bounded: strategy.weights = "equal"; with [[privacy]] cases small ones count less'
)
CLASSES = '[cases]\ndims = 2\nclasses = ["a", "b"]\n[evaluation]\nprimary = "auc"\n'

FEATURES: Sequence[Feature] = (
    _row(
        "a mean by cases", "strategy.weights", lambda uses: uses.strategy.folds() == "cases",
        '[strategy]\nweights = "cases"\n',
        secure=_works("cases up to wire.channel.cases"), sums=BOUNDED,
    ),
    _row(
        "a mean by the root of cases", "strategy.weights", lambda uses: uses.strategy.folds() == "root",
        '[strategy]\nweights = "root"\n', sums=BOUNDED,
    ),
    _row("a mean in which sites count alike", "", lambda uses: uses.strategy.folds() == "equal", ""),
    _row(
        "a strategy that reads each update", "strategy.name", lambda uses: uses.strategy.reads == "each",
        '[strategy]\nname = "median"\n',
        secure=_no("there are none to read: take a strategy that reads sums, or channel 'plain'"),
        steps=_works("each update is noisy by itself"),
        sums=_no("the noise is in the sum, and it reads the updates without"),
    ),
    _row(
        "a strategy that says no weights", "strategy.name",
        lambda uses: uses.strategy.reads == "sum" and uses.strategy.folds() is None,
        '[strategy]\nname = "own"\n',
        secure=_no("sites weigh their updates before they are added, so the weights must be known first"), sums=BOUNDED,
    ),
    _row(
        "a strategy's correction and momentum", "", lambda uses: False, "",
        steps=_works("the correction is added after the noise, momentum is of noisy means"),
        sums=_works("momentum is of noisy means"),
    ),
    _row(
        "packed updates (float16, int8, top_k)", "wire.name", lambda uses: not uses.codec.exact, '[wire]\nname = "int8"\n',
        secure=_no("a packed update has a scale of its own; wire.channel.precision says how fine masked ones are"),
        steps=NOISY_ALREADY,
        sums=_works("the coordinator cuts what rounding made longer"),
        sites=_no("rounding what each site blurred changes the noise of the sum"),
    ),
    _row("a packed consensus", "", lambda uses: False, '[wire.down]\nname = "int8"\n', steps=NOISY_ALREADY, sums=NOISY_ALREADY),
    _row(
        "late updates in the next round", "cohort.late", lambda uses: uses.cohort.late == "next",
        '[cohort]\nlate = "next"\n',
        secure=_no("masks are of one round: an update of the round before cannot stand in"),
        sums=_works("cut to the clip of the round that it counts in"),
        sites=_no("a weakened update brings a weakened share of the noise"),
    ),
    _row(
        "a cohort that the seed draws", "", lambda uses: uses.cohort.per_round > 0, "[cohort]\nper_round = 3\n",
        sums=_works("makes epsilon no smaller: who has the study can draw it too"),
    ),
    _row(
        "local_epochs", "training.local_steps",
        lambda uses: uses.training.local_steps is None and uses.training.rounds > 0, "[training]\nlocal_epochs = 1\n",
        steps=_no("dp_sgd wants a number of steps that depends on nobody's cases"),
        sums=_works("how many steps a hospital took lies outside the promise"),
    ),
    _row(
        "no rounds", "training.rounds", lambda uses: uses.training.rounds == 0,
        CLASSES + '[model]\nname = "tiny_cnn"\n[task]\nname = "classification"\nhead = "lda"\n[training]\nrounds = 0\n',
        steps=_no("dp_sgd wants a number of steps that depends on nobody's cases"),
        sums=_no("hospital_dp puts noise into the sums of rounds"),
    ),
    _row(
        "a task that asks for sums over training cases", "task", lambda uses: _sums_of(uses, validation=False),
        CLASSES + '[model]\nname = "tiny_cnn"\n[task]\nname = "classification"\nweights = "inverse"\n',
        secure=TRAVELS, steps=_no("dp_sgd puts no noise into sums over training cases"),
        sums=_no("these sums are over one hospital's cases each, and hold no noise"),
    ),
    _row(
        "a task that asks for sums over validation cases", "task", lambda uses: _sums_of(uses, validation=True),
        CLASSES + '[model]\nname = "tiny_cnn"\n[task]\nname = "classification"\n',
        secure=TRAVELS, steps=_works("outside the promise: nothing was trained on these cases"),
        sums=_no("these sums are over one hospital's cases each, and hold no noise"),
    ),
    _row(
        "networks that take turns (a GAN)", "task", lambda uses: len(uses.task.turns) > 1,
        '[task]\nname = "generation"\nmethod = "gan"\n[model]\nname = "image_gan"\n'
        '[cases]\nintensity = "unit"\n[evaluation]\nprimary = "fid"\n',
        steps=_no("dp_sgd accounts for one network"),
    ),
    _row(
        "examples made of several patients", "task", lambda uses: not uses.task.of_one_patient,
        '[task]\nname = "registration"\n[model]\nname = "voxelmorph"\n',
        steps=_no("dp_sgd hides a patient, and an example of this task is made of several patients' cases"),
    ),
    _row(
        "batch norm with running statistics", "", lambda uses: False,
        CLASSES + '[model]\nname = "tiny_cnn"\nrunning_statistics = true\n[task]\nname = "classification"\n\n',
        secure=_works("they are summed like weights"),
        steps=Cell("later", "FR-U95 at the first step: they mix patients, and keep something of them"),
        sums=Cell("later", "FR-U96 in round 1: they hold no noise, and without them it is another model"),
    ),
    _row(
        "a clip that follows the hospitals", "privacy", lambda uses: uses.sum is not None and uses.sum.quantile is not None,
        '[[privacy]]\nname = "hospital_dp"\nsites = 4.0\nquantile = 0.5\n',
        secure=_no("what each site says of the clip would be told beside its update"),
    ),
    _row(
        "hospitals drawn in secret", "privacy", lambda uses: uses.sum is not None and uses.sum.rate < 1,
        '[[privacy]]\nname = "hospital_dp"\nsites = 4.0\nsampling_rate = 0.5\n',
        secure=_no("a round may then have fewer sites than a sum must have, and each sees who is in it"),
        sites=_no("of those in a round the shares of noise may be too few"),
    ),
    _row(
        "noise in the steps, at the sites", "", lambda uses: False, '[[privacy]]\nname = "dp_sgd"\n',
        secure=_works("a sum of what is noisy already; both hide more than either"),
        sums=_works("two bills, of patients and of hospitals, which are not added up"),
    ),
    _row(
        "noise in the sums, by the coordinator", "", lambda uses: False, '[[privacy]]\nname = "hospital_dp"\nsites = 4.0\n',
        secure=Cell("at the site only", "who cuts an update is its site alone; the coordinator sees their sum before the noise"),
        steps=_works("two bills, of patients and of hospitals, which are not added up"),
    ),
    _row(
        "noise in the sums, in shares of the sites", "", lambda uses: False,
        '[[privacy]]\nname = "hospital_dp"\nsites = 4.0\nnoise = "sites"\n',
        plain=Cell("at the site only", "it hides nobody from the coordinator, who sees each update with one share on it"),
        secure=_works("hides hospitals from the coordinator too; rounding to the fixed point is not in the account"),
        steps=_works("two bills, of patients and of hospitals, which are not added up"),
    ),
    _row(
        "shares of noise beyond wire.channel.limit", "wire.channel.limit", _too_loud,
        '[[privacy]]\nname = "hospital_dp"\nsites = 4.0\nnoise = "sites"\nclip = 100.0\n',
        secure=_no("an entry of a noisy update may be larger than the field holds: a larger limit, or a smaller clip"),
    ),
    _row("scores of few cases withheld", "", lambda uses: False, '[[privacy]]\nname = "minimum_group"\n'),
    _row("moments kept, average_last", "", lambda uses: False, "", steps=NOISY_ALREADY, sums=_works("a hospital's update is cut as a whole")),
    _row("initial_sites, baselines of a simulation", "", lambda uses: False, "", steps=OUTSIDE, sums=OUTSIDE),
    _row("each hospital's scores, cases and times", "", lambda uses: False, "", secure=TRAVELS, steps=OUTSIDE, sums=OUTSIDE),
    _row(
        "norm, finiteness and exclusion of one site by the coordinator", "", lambda uses: False, "",
        secure=Cell("at the site only", "a lying site spoils the sum, which is looked at, thrown away and said"),
        sites=Cell("at the site only", "a norm is mostly noise; numbers that are not finite are seen"),
    ),
    _row(
        "norm and likeness of each update in history and report", "", lambda uses: False, "",
        secure=Cell("left out", "nobody has them"), sums=Cell("left out", "they hold no noise"),
    ),
    _row(
        "each hospital's training loss", "", lambda uses: False, "",
        secure=Cell("left out", "nothing of one site is told"), steps=Cell("left out", "it holds no noise"),
        sums=Cell("left out", "it holds no noise"),
    ),
)  # fmt: skip


def as_data() -> list[dict[str, Any]]:
    """The whole table, for whoever prints it."""
    return [{"feature": row.name, **{column: str(row.cell(column)) for column in COLUMNS}} for row in FEATURES]
