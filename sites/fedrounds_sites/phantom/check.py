"""`fedrounds phantom check`: is the phantom no easier than life? Every number here is a phantom number.

Asked on seeds that nothing was tuned on. Without training: does a rule that learned nothing find the
tumour, and can hospitals be told apart by healthy slices? With training (`trained=True`, about five
minutes on two cores): do models lose away from home, and can a pooled one be learned without being perfect?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from fedrounds_common import untrained
from fedrounds_common.case import Case, CaseRef
from fedrounds_common.study.tables import CaseForm
from fedrounds_common.untrained import Rule
from fedrounds_sites import profiles
from fedrounds_sites.phantom import VERSION, telling, trained
from fedrounds_sites.phantom.patients import LABELS
from fedrounds_sites.phantom.scanner import CHANNELS
from fedrounds_sites.phantom.trained import AwayFromHome, Learner, Pooled
from fedrounds_sites.prepare import prepare
from fedrounds_sites.readers.phantom_glioma import PhantomGlioma

FORM = CaseForm(
    channels=CHANNELS,
    labels=dict(LABELS),
    regions={
        "ET": ("enhancing",),
        "TC": ("enhancing", "necrosis"),
        "WT": ("enhancing", "necrosis", "oedema"),
    },
    spacing_mm=(5.0, 5.0, 5.0),
)
# no untrained rule may find more: on real glioma they do not
CEILING = {"ET": 0.60, "TC": 0.50, "WT": 0.75}
LEAST_AUC = 0.80
MOST_POOLED = 0.95
LEAST_GAIN = 0.10
LEAST_SHARE = 1 / 3


@final
@dataclass(frozen=True)
class Row:
    """One line of the check; `ok` says whether what was found is what was wanted."""

    what: str
    found: str
    wanted: str
    ok: bool


@final
@dataclass(frozen=True)
class PhantomCheck:
    """What was found for one seed. `own` and `pooled` are there if training was asked for.

    `untrained`: rule → region → mean Dice, each rule on its best channel for that region.
    """

    seed: int
    version: int
    cases: int
    best: Mapping[str, tuple[Rule, float]]
    untrained: Mapping[str, Mapping[str, float]]
    auc: Mapping[str, float]
    own: tuple[AwayFromHome, ...] = ()
    pooled: Pooled | None = None

    @property
    def floor(self) -> dict[str, float]:
        return {region: dice for region, (_, dice) in self.best.items()}

    @property
    def median_auc(self) -> float:
        return float(np.median(list(self.auc.values())))

    @property
    def passed(self) -> bool:
        return all(row.ok for row in self.rows())

    def rows(self) -> tuple[Row, ...]:
        return (*self._untrained_rows(), *self._trained_rows())

    def _untrained_rows(self) -> tuple[Row, ...]:
        found = [
            Row(
                f"phantom: best untrained rule, {region}: {rule}",
                f"mean Dice {dice:.2f}",
                f"at most {CEILING[region]:.2f}",
                dice <= CEILING[region],
            )
            for region, (rule, dice) in self.best.items()
        ]
        told = Row(
            f"phantom: telling {len(self.auc)} hospitals by healthy slices",
            f"median AUC {self.median_auc:.2f}",
            f"at least {LEAST_AUC:.2f}",
            self.median_auc >= LEAST_AUC,
        )
        return (*found, told)

    def _trained_rows(self) -> tuple[Row, ...]:
        rows = []
        if self.own:
            lose = sum(one.loses for one in self.own)
            rows.append(
                Row(
                    f"phantom: own models that lose {trained.LOSES:.2f} Dice or more away from home",
                    f"{lose} of {len(self.own)} hospitals",
                    "at least a third",
                    lose >= LEAST_SHARE * len(self.own),
                )
            )
        if self.pooled is not None:
            mean, gain = self.pooled.mean, self.pooled.mean - self.pooled.floor_mean
            rows.append(
                Row(
                    "phantom: pooled model on hospitals it never saw",
                    f"mean Dice {mean:.2f}",
                    f"below {MOST_POOLED:.2f}",
                    mean < MOST_POOLED,
                )
            )
            rows.append(
                Row(
                    "phantom: pooled model above the best untrained rules",
                    f"by {gain:.2f}",
                    f"at least {LEAST_GAIN:.2f}",
                    gain >= LEAST_GAIN,
                )
            )
        return tuple(rows)


def check(seed: int, *, train: bool = False, learner: Learner | None = None) -> PhantomCheck:
    """Measure the phantom of one seed, at 5 mm, on hospitals of profile fets71.

    Args:
        seed: the phantom's; use one that nothing was tuned on.
        train: also train a pooled model and the own models of six hospitals (minutes).
        learner: another way to train; default `trained.small_unet`.
    """
    reader = PhantomGlioma(profile="fets71", seed=seed)
    sites = profiles.load("fets71").names()
    cases = _cases(reader, sites[:16], range(6))
    found, dice = untrained.scores(cases, FORM)
    means = dice.mean(axis=0)
    names = sorted({rule.name for rule in found})
    by_rule = {
        name: {
            region: float(max(means[k, index] for k, rule in enumerate(found) if rule.name == name))
            for index, region in enumerate(FORM.scored)
        }
        for name in names
    }
    own: tuple[AwayFromHome, ...] = ()
    pooled: Pooled | None = None
    if train:
        learner = learner or trained.small_unet(FORM, seed)
        others = _cases(reader, sites[50:62], range(3))
        home = {site: (_cases(reader, [site], range(16)), _cases(reader, [site], range(16, 24))) for site in sites[:6]}
        own = trained.away_from_home(home, others, learner)
        pooled = trained.pooled(_cases(reader, sites[:50], range(4)), others, FORM, learner)
    return PhantomCheck(
        seed, VERSION, len(cases), untrained.chosen(found, dice, FORM), by_rule, telling.aucs(cases), own, pooled
    )


def _cases(reader: PhantomGlioma, sites: Sequence[str], patients: range) -> list[Case]:
    refs = [CaseRef(f"{site}-{number:04d}", f"{site}-{number:04d}", site) for site in sites for number in patients]
    return [prepare(reader.load(ref, FORM), FORM) for ref in refs]
