"""The tables of a study's agreed half: frozen, checked, every field with a default that works.

Field names are the TOML keys. Anything two hospitals must agree on is here; where one machine finds
its files is not (that is `[simulation]`, read by `fedrounds_sites.simulation`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, TypeVar, final

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from fedrounds_common.plugins import STRICT, RulesBroken

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Augmentation = Literal[
    "flip",
    "rotate90",
    "rotate",
    "scale",
    "elastic",
    "gain",
    "shift",
    "gamma",
    "contrast",
    "bias",
    "blur",
    "noise",
    "cutout",
]
Filter = Literal["median", "bilateral", "gaussian"]
LANDMARKS = 11  # of a histogram: its 1st, 10th, 20th … 90th and 99th percentile
T = TypeVar("T")


def _none_or(value: object) -> object:
    # TOML has no null: the word "none" says it, so that a default can be switched off.
    # A list becomes a tuple here because pydantic's strict mode takes lists from JSON only, and this is past it.
    return None if value == "none" else tuple(value) if isinstance(value, list) else value


OrNone = Annotated[T | None, BeforeValidator(_none_or)]
Rule = tuple[tuple[str, ...], str]  # the fields it reads, the one to point at first; what is wrong


def _refuse(rules: list[Rule]) -> None:
    if rules:
        raise RulesBroken(rules)


def _twice(key: str, names: tuple[str, ...]) -> list[Rule]:
    again = sorted({name for name in names if names.count(name) > 1})
    return [((key,), f"{', '.join(again)}: listed more than once")] if again else []


@final
@dataclass(frozen=True)
class CaseForm:
    """`[cases]`: what a case looks like to the network, at every site.

    `labels` maps names to the study's values (0 is background and is not listed); `regions` are
    named sets of labels that may overlap (one sigmoid each); without regions each label is a class
    of one softmax. `classes`: what a whole case may be, in the order of the network's outputs; it is exactly one
    of them (of two: the second is the finding), or with `multi_label` any number. `spacing_mm` omitted: as acquired. `orientation = "none"`: as stored.
    `crop = "content"` cuts away what looks like the corner; `size` then gives every case as many voxels, whatever their
    size (instead of `spacing_mm`). `filters` smooths, in this order: `median` (width), `bilateral`, `gaussian`
    (standard deviation), in mm. `window`: channel → the values that become 0 and 1 (HU of a CT); such a channel
    takes nothing else. `intensity`: what becomes of the others; "histogram" maps each channel's percentiles to its
    `landmarks` (Nyúl & Udupa), which `fedrounds study landmarks` learns.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dims: Literal[2, 3] = 3
    channels: tuple[Name, ...] = ("image",)
    labels: dict[Name, Annotated[int, Field(ge=1, le=255)]] = field(default_factory=lambda: {"target": 1})
    regions: dict[Name, tuple[str, ...]] = field(default_factory=dict)
    classes: tuple[Name, ...] = ()
    multi_label: bool = False
    spacing_mm: OrNone[tuple[Positive, ...]] = None
    orientation: OrNone[Literal["RAS", "LPS", "LAS"]] = "RAS"
    crop: Literal["none", "content"] = "none"
    size: OrNone[tuple[Count, ...]] = None
    filters: dict[Filter, Positive] = field(default_factory=dict)
    window: dict[Name, tuple[float, float]] = field(default_factory=dict)
    intensity: Literal["zscore-nonzero", "zscore", "percentile", "unit", "histogram", "none"] = "zscore-nonzero"
    landmarks: dict[Name, tuple[float, ...]] = field(default_factory=dict)

    @model_validator(mode="after")
    def _agree(self) -> CaseForm:
        rules = _twice("channels", self.channels) + _twice("classes", self.classes)
        if len(self.classes) == 1 and not self.multi_label:
            rules.append((("classes", "multi_label"), f"{list(self.classes)}: two are wanted, or multi_label = true"))
        if "mean" in self.classes:
            rules.append((("classes",), "another name than mean is wanted: the row of means is called so"))
        if not self.channels:
            rules.append((("channels",), "[]: at least one is wanted, in the order of the network's inputs"))
        if len(set(self.labels.values())) != len(self.labels) or not self.labels:
            rules.append((("labels",), f"{self.labels}: at least one is wanted, and no value twice"))
        for region, names in self.regions.items():
            unknown = sorted(set(names) - set(self.labels))
            if unknown or not names:
                wanted = f"names of labels wanted ({', '.join(self.labels)})"
                rules.append(((f"regions.{region}", "regions", "labels"), f"{list(names)}: {wanted}"))
        rules += [
            ((f"{key}.mean", key), "another name is wanted: the row of means is called so")
            for key in ("labels", "regions")
            if "mean" in getattr(self, key)
        ]
        if self.spacing_mm is not None and len(self.spacing_mm) != self.dims:
            wanted = f"{self.dims} numbers wanted, one a dimension"
            rules.append((("spacing_mm", "dims"), f"{list(self.spacing_mm)}: {wanted}"))
        _refuse(rules + self._prepared_rules())
        return self

    def _prepared_rules(self) -> list[Rule]:
        rules: list[Rule] = []
        if self.size is not None and len(self.size) != self.dims:
            rules.append((("size", "dims"), f"{list(self.size)}: {self.dims} numbers wanted, one a dimension"))
        if self.size is not None and self.spacing_mm is not None:
            rules.append((("size", "spacing_mm"), "spacing_mm is given too: keep one of the two"))
        for key, table in (("window", self.window), ("landmarks", self.landmarks)):
            if strange := sorted(set(table) - set(self.channels)):
                rules.append(((key, "channels"), f"{', '.join(strange)}: no channel ({', '.join(self.channels)})"))
        for name, (low, high) in self.window.items():
            if not low < high:
                rules.append(((f"window.{name}", "window"), f"[{low:g}, {high:g}]: the second must be above the first"))
        for name, values in self.landmarks.items():
            if len(values) != LANDMARKS or any(b <= a for a, b in pairwise(values)):
                wanted = f"{LANDMARKS} numbers, each above the one before"
                rules.append(((f"landmarks.{name}", "landmarks"), f"{list(values)}: {wanted}"))
        lacking = [name for name in self.channels if name not in self.landmarks and name not in self.window]
        if self.intensity == "histogram" and lacking:
            said = f"{', '.join(lacking)}: no landmarks; `fedrounds study landmarks` learns them"
            rules.append((("landmarks", "intensity", "channels", "window"), said))
        return rules

    @property
    def scored(self) -> dict[str, tuple[int, ...]]:
        """Name → label values of everything that is scored: the regions, or else each label.

        In the order of the network's outputs: regions by name, labels by value. Not the file's
        order, because a site reads the study from its canonical text, which has sorted keys.
        """
        if self.regions:
            return {
                region: tuple(self.labels[name] for name in self.regions[region]) for region in sorted(self.regions)
            }
        return {name: (value,) for name, value in sorted(self.labels.items(), key=lambda item: item[1])}


@final
@dataclass(frozen=True)
class Training:
    """`[training]`: what every site does in a round.

    `rounds` = 0: nothing is trained, and the model is what the task makes of sums over all sites' cases.
    Give `local_steps` (the same at each site) or `local_epochs` (in proportion to its cases).
    `momentum`: of sgd, and of adam and adamw how much of the first moment is kept (β₁; a GAN wants 0 to 0.5).
    `schedule` runs over the whole of the study's steps and ends at 0 (`constant` does not).
    `moments = "keep"`: the optimiser's state stays at the site between rounds. `threads` is part of
    the study because 1 and 2 threads give different bits.
    `average_last`: the model that comes out is the mean of the consensus after each round of this last share of all
    rounds, instead of the consensus after the last one; baselines are averaged over the same stretch. 0: it is not.
    `amp = "bf16"`: convolutions and products in bfloat16, sums and the loss in float32, weights as they are; for GPUs: on a
    processor some networks then give other bits each time. `compile`: the
    network's forward and backward pass go through torch.compile, which wants a C++ compiler and half a minute once.
    `freeze`: what does not train, as the weights came: the network's "first" layers, its "base" (all but the last),
    or what the names of its tensors begin with ("*": anything). Running statistics of these layers stay too.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    rounds: Annotated[int, Field(ge=0)] = 10
    local_steps: OrNone[Count] = None
    local_epochs: OrNone[Positive] = None
    batch: Count = 2
    patch: OrNone[tuple[Count, ...]] = None
    foreground: Share = 1 / 3
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    moments: Literal["keep", "fresh"] = "keep"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.05
    average_last: Share = 0.0
    gradient_norm: OrNone[Positive] = 12.0
    augment: tuple[Augmentation, ...] = ("flip", "gain", "noise")
    amp: Literal["off", "bf16"] = "off"
    compile: bool = False
    threads: Count = 1
    freeze: OrNone[Literal["first", "base"] | Annotated[tuple[str, ...], Field(min_length=1)]] = None

    @model_validator(mode="after")
    def _one_amount(self) -> Training:
        if self.local_steps is not None and self.local_epochs is not None:
            _refuse([(("local_steps", "local_epochs"), "local_epochs is given too: keep one of the two")])
        return self


@final
@dataclass(frozen=True)
class Cohort:
    """`[cohort]`: who takes part. Empty `sites`: every site that is there and not held out.

    `per_round`: how many of them are drawn each round (by name and seed); 0 is all. A round with
    updates from fewer than `minimum` sites makes no consensus.
    `minimum_cases_share`: nor does one whose updates stand for less than this share of the cases that the
    round would have had with every site there, so that the largest hospital is not dropped in silence.
    `deadline_s`: seconds from asking to giving up on whoever has not answered (hello, round, scores).
    A simulation counts with it the time that sites wait for a worker; without workers it waits for all.
    Between hospitals nobody is waited for longer than 11.5 hours.
    `wait_s`: between hospitals, how long to wait for all sites to be ready before the first round, and in a
    round for enough of them; a simulation has all its sites from the start.
    `late`: an update that comes after its round's deadline is dropped, or stands in for its site in the next
    round if that site sends none in time: its difference then counts `late_factor` of itself.
    `over_select`: with `per_round`, so many more are asked, as a share of it. The first `per_round` in the
    order of the draw whose update came are averaged, never the first to answer: that would not be repeatable.
    `initial_sites` (public data) train the initial model for `initial_steps` before round 1.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    sites: tuple[Name, ...] = ()
    held_out: tuple[Name, ...] = ()
    minimum: Count = 1
    per_round: Annotated[int, Field(ge=0)] = 0
    minimum_cases_share: Share = 0.0
    deadline_s: OrNone[Positive] = None
    wait_s: Annotated[float, Field(ge=0)] = 86400.0
    late: Literal["drop", "next"] = "drop"
    late_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    over_select: Annotated[float, Field(ge=0, le=1)] = 0.0
    initial_sites: tuple[Name, ...] = ()
    initial_steps: Count = 100

    def __post_init__(self) -> None:
        # the order in which sites are listed means nothing, so it must not change the study's digest
        for name in ("sites", "held_out", "initial_sites"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))

    @model_validator(mode="after")
    def _apart(self) -> Cohort:
        rules = _twice("sites", self.sites) + _twice("held_out", self.held_out)
        rules += _twice("initial_sites", self.initial_sites)
        both = sorted(set(self.sites) & set(self.held_out))
        if both:
            rules.append((("held_out", "sites"), f"{', '.join(both)}: in sites too; a site trains or is held out"))
        both = sorted(set(self.initial_sites) & set(self.held_out))
        if both:
            rules.append((("initial_sites", "held_out"), f"{', '.join(both)}: in held_out too"))
        if self.sites and self.minimum > len(self.sites):
            rules.append((("minimum", "sites"), f"{self.minimum}: only {len(self.sites)} sites are listed"))
        if self.sites and self.per_round > len(self.sites):
            rules.append((("per_round", "sites"), f"{self.per_round}: only {len(self.sites)} sites are listed"))
        if self.over_select and not self.per_round:
            rules.append(
                (("over_select", "per_round"), f"{self.over_select}: wants per_round, or all are asked anyway")
            )
        if 0 < self.per_round < self.minimum:
            wanted = f"at least minimum = {self.minimum} wanted, or 0 for all"
            rules.append((("per_round", "minimum"), f"{self.per_round}: {wanted}"))
        _refuse(rules)
        return self


@final
@dataclass(frozen=True)
class Evaluation:
    """`[evaluation]`: how it is judged, said before the run.

    `every`: rounds between evaluations of the consensus (the last round is always judged; 0: only
    that). `local_validation`: the share of each site's patients that never train. `cases_per_site`:
    at most so many a cohort and site, the same ones each time (0: all). `folds` > 1: k-fold by
    patient within sites (`by = "patient"`) or by leaving sites out (`by = "site"`); `fold` is which.
    `empty`: the score when a region is in neither mask: "one" counts Dice 1, "skip" leaves it out.
    `within`: a segmentation is predicted in the "content" of the image, the box of what differs from its corner in some
    channel, and is background outside it; or in the whole "grid". `window`: what goes through the network at once:
    a "patch" as in training (one that fits nowhere is filled up with zeros), all of the "content", or numbers of voxels.
    `overlap`: share by which sliding windows overlap. `margin`: by so much, in the primary measure's own units, the
    consensus may be worse than `pooled` and still be called not worse; without it nothing of the kind is claimed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    primary: Name = "dice"
    margin: OrNone[Annotated[float, Field(gt=0)]] = None
    every: Annotated[int, Field(ge=0)] = 0
    local_validation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    cases_per_site: Annotated[int, Field(ge=0)] = 0
    folds: Annotated[int, Field(ge=0)] = 0
    fold: Annotated[int, Field(ge=0)] = 0
    by: Literal["patient", "site"] = "patient"
    empty: Literal["one", "skip"] = "one"
    within: Literal["content", "grid"] = "content"
    window: Literal["patch", "content"] | Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)] = "patch"
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25
    resamples: Annotated[int, Field(ge=0, le=2000)] = 200

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> Evaluation:
        rules: list[Rule] = []
        if self.folds == 1:
            rules.append((("folds",), "1: 0 for none, or at least 2"))
        if self.fold >= max(self.folds, 1):
            rules.append((("fold", "folds"), f"{self.fold}: must be below folds = {self.folds} (the first is 0)"))
        _refuse(rules)
        return self


Table = dict[str, Any]
