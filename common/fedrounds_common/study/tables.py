"""The tables of a study's agreed half: frozen, checked, every field with a default that works.

Field names are the TOML keys. Anything two hospitals must agree on is here; where one machine finds
its files is not (that is `[simulation]`, read by `fedrounds_sites.simulation`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, final

from pydantic import ConfigDict, Field, model_validator

STRICT = ConfigDict(extra="forbid")

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


@final
@dataclass(frozen=True)
class CaseForm:
    """`[cases]`: what a case looks like to the network, at every site.

    `labels` maps names to the study's values (0 is background and is not listed); `regions` are
    named sets of labels that may overlap (one sigmoid each); without regions each label is a class
    of one softmax. `spacing_mm` omitted: as acquired. `orientation` omitted: as stored.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    dims: Literal[2, 3] = 3
    channels: tuple[Name, ...] = ("image",)
    labels: dict[Name, Annotated[int, Field(ge=1, le=255)]] = field(default_factory=lambda: {"target": 1})
    regions: dict[Name, tuple[str, ...]] = field(default_factory=dict)
    spacing_mm: tuple[Positive, ...] | None = None
    orientation: Literal["RAS", "LPS", "LAS"] | None = "RAS"
    intensity: Literal["zscore-nonzero", "zscore", "percentile", "unit", "none"] = "zscore-nonzero"

    @model_validator(mode="after")
    def _agree(self) -> CaseForm:
        if len(set(self.channels)) != len(self.channels) or not self.channels:
            raise ValueError(f"channels = {list(self.channels)}: at least one, and no name twice")
        if len(set(self.labels.values())) != len(self.labels) or not self.labels:
            raise ValueError(f"labels = {self.labels}: at least one, and no value twice")
        for region, names in self.regions.items():
            unknown = sorted(set(names) - set(self.labels))
            if unknown or not names:
                raise ValueError(f"region {region} = {list(names)}: names of labels wanted ({', '.join(self.labels)})")
        if self.spacing_mm is not None and len(self.spacing_mm) != self.dims:
            raise ValueError(f"spacing_mm = {list(self.spacing_mm)}: {self.dims} numbers wanted, one a dimension")
        return self

    @property
    def scored(self) -> dict[str, tuple[int, ...]]:
        """Name → label values of everything that is scored: the regions, or else each label."""
        if self.regions:
            return {region: tuple(self.labels[name] for name in names) for region, names in self.regions.items()}
        return {name: (value,) for name, value in self.labels.items()}


@final
@dataclass(frozen=True)
class Training:
    """`[training]`: what every site does in a round.

    Give `local_steps` (the same at each site) or `local_epochs` (in proportion to its cases).
    `schedule` runs over the whole of the study's steps and ends at 0 (`constant` does not).
    `moments = "keep"`: the optimiser's state stays at the site between rounds. `threads` is part of
    the study because 1 and 2 threads give different bits.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    rounds: Count = 10
    local_steps: Count | None = None
    local_epochs: Positive | None = None
    batch: Count = 2
    patch: tuple[Count, ...] | None = None
    foreground: Share = 1 / 3
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    momentum: Share = 0.9
    moments: Literal["keep", "fresh"] = "keep"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.05
    gradient_norm: Positive | None = 12.0
    augment: tuple[Literal["flip", "rotate90", "gain", "noise", "gamma", "shift"], ...] = ("flip", "gain", "noise")
    amp: Literal["off", "bf16"] = "off"
    threads: Count = 1

    @model_validator(mode="after")
    def _one_amount(self) -> Training:
        if self.local_steps is not None and self.local_epochs is not None:
            raise ValueError("local_steps and local_epochs are both given: keep one")
        return self


@final
@dataclass(frozen=True)
class Cohort:
    """`[cohort]`: who takes part. Empty `sites`: every site that is there and not held out.

    `per_round`: how many of them are drawn each round (by name and seed); 0 is all. A round with
    updates from fewer than `minimum` sites makes no consensus.
    `initial_sites` (public data) train the initial model for `initial_steps` before round 1.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    sites: tuple[Name, ...] = ()
    held_out: tuple[Name, ...] = ()
    minimum: Count = 1
    per_round: Annotated[int, Field(ge=0)] = 0
    deadline_s: Positive | None = None
    initial_sites: tuple[Name, ...] = ()
    initial_steps: Count = 100

    @model_validator(mode="after")
    def _apart(self) -> Cohort:
        both = sorted(set(self.sites) & set(self.held_out))
        if both:
            raise ValueError(f"{', '.join(both)}: both in sites and in held_out")
        both = sorted(set(self.initial_sites) & set(self.held_out))
        if both:
            raise ValueError(f"{', '.join(both)}: both in initial_sites and in held_out")
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
    `overlap`: share by which sliding windows overlap.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    primary: Literal["dice", "iou", "hd95", "sensitivity", "specificity"] = "dice"
    every: Annotated[int, Field(ge=0)] = 0
    local_validation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    cases_per_site: Annotated[int, Field(ge=0)] = 0
    folds: Annotated[int, Field(ge=0)] = 0
    fold: Annotated[int, Field(ge=0)] = 0
    by: Literal["patient", "site"] = "patient"
    empty: Literal["one", "skip"] = "one"
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25
    resamples: Annotated[int, Field(ge=0, le=2000)] = 200

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> Evaluation:
        if self.fold >= max(self.folds, 1):
            raise ValueError(f"fold = {self.fold}: must be below folds = {self.folds} (the first is 0)")
        return self


Table = dict[str, Any]
