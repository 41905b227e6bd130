"""DP across hospitals: noise on each round's sum, so that no hospital can be told from the models (McMahan et al. 2018, arXiv:1710.06963)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

from pydantic import ConfigDict, Field, model_validator

from fedrounds_common.dp import accounting
from fedrounds_common.dp.accounting import Accountant
from fedrounds_common.plugins import STRICT, RulesBroken
from fedrounds_common.privacy import Hand, NoisySum, Privacy, Spent, Unit, one_of
from fedrounds_common.study.tables import Cohort, Count, OrNone, Positive, Training

Noise = Annotated[float, Field(ge=accounting.LEAST, le=accounting.MOST)]
EVERY = 1.0  # each hospital is in each round: the study's seed draws a cohort that anybody can draw again
COUNTED = 20  # the count's noise is a 20th of the hospitals, as Andrew et al. advise
AT_LEAST = 2.0  # and so many times that of the whole: the weights' noise then grows by less than 4 per cent


@final
@dataclass(frozen=True)
class HospitalDP(Privacy):
    """Each hospital's part of each round's sum is bounded, and noise hides whether it is there.

    `epsilon`, `delta`: what all of the study's rounds may tell of a hospital at most; the noise follows from them. Or
    `noise_multiplier`: how much noise, in clips, and `epsilon = "none"`.
    `clip`: the largest norm of a hospital's update, over the trainable weights.
    `quantile`: the clip is that of round 1 only and then follows the hospitals, so that this share of them is below it
    (0.5: the median); `pace`: how fast; `count_noise`: the noise on how many are below, in hospitals.
    `noise`: who adds it. "coordinator", who is then trusted with each update; or the "sites", each a share so large that
    the shares of `cohort.minimum` sites hold enough, which with a secure sum hides a hospital from the coordinator too.
    `sites`: what a round's sum is divided by; left out: `cohort.per_round`, or as many as `cohort.sites` lists, times the
    rate.
    `sampling_rate`: the coordinator draws each hospital into each round with this probability, by the system's own
    randomness; left out: whom the cohort says, which hides nobody, for the study's seed draws it.
    `cases`: a hospital with fewer to train on counts in proportion; left out: every hospital counts alike.
    `accountant`: "rdp", or "prv", which claims a little less for the same noise and takes seconds to compute.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    unit: ClassVar[Unit] = "hospital"

    epsilon: OrNone[Positive] = 8.0
    noise_multiplier: OrNone[Noise] = None
    delta: Annotated[float, Field(gt=0, le=0.01)] = 1e-5
    clip: Positive = 1.0
    quantile: OrNone[Annotated[float, Field(gt=0, lt=1)]] = None
    pace: Annotated[float, Field(gt=0, le=1)] = 0.2
    count_noise: OrNone[Positive] = None
    noise: Hand = "coordinator"
    sites: OrNone[Positive] = None
    cases: OrNone[Count] = None
    sampling_rate: OrNone[Annotated[float, Field(gt=0, lt=1)]] = None
    accountant: Accountant = "rdp"

    @model_validator(mode="after")
    def _agree(self) -> HospitalDP:
        rules = one_of(self.epsilon, self.noise_multiplier)
        if self.count_noise is not None and self.quantile is None:
            rules.append((("count_noise", "quantile"), f"{self.count_noise:g}: wants quantile, or nothing is counted"))
        if rules:
            raise RulesBroken(rules)
        return self

    def around(self, training: Training, cohort: Cohort) -> Sequence[tuple[str, str]]:
        return tuple(self._around(training, cohort))

    def _around(self, training: Training, cohort: Cohort) -> Iterator[tuple[str, str]]:
        sites = self._sites(cohort)
        if training.rounds == 0:
            yield "training.rounds", "hospital_dp puts noise into the sums of rounds, so 1 or more"
            return
        if sites is None:
            yield ".sites", "must be given, where neither cohort.sites nor cohort.per_round says how many there are"
            return
        yield from self._sampled(cohort)
        if self.delta * (all_of_them := max(sites / self._rate, len(cohort.sites))) >= 1:
            wanted = f"below 1 / hospitals = {1 / all_of_them:g}: to give one of them away whole would be within it"
            yield ".delta", f"{self.delta:g}: {wanted}"
        try:
            whole = self._multiplier(training)
        except ValueError as error:
            yield ".epsilon", f"{self.epsilon:g}: {error}"
            return
        if self.count_noise is not None and 2 * self.count_noise <= whole:
            wanted = f"above {whole / 2:.4g}, or the count alone tells more than all may"
            yield ".count_noise", f"{self.count_noise:g}: {wanted}"

    def _sampled(self, cohort: Cohort) -> Iterator[tuple[str, str]]:
        if self.sampling_rate is None:
            return
        said = f"{self.sampling_rate:g}: each hospital is drawn by itself, and"
        if self.noise == "sites":
            yield ".sampling_rate", f"{said} of those in a round the shares of noise may be too few"
        if cohort.per_round or cohort.over_select:
            yield ".sampling_rate", f"{said} cohort.per_round draws as many as it says: keep one of the two"
        if cohort.late == "next":
            yield ".sampling_rate", f'{said} cohort.late = "next" lets one count in a round it was not drawn for'
        if cohort.minimum_cases_share:
            yield ".sampling_rate", f"{said} cohort.minimum_cases_share would end a round by who was drawn"

    def sum(self, training: Training, cohort: Cohort) -> NoisySum:
        whole, sites = self._multiplier(training), self._sites(cohort)
        assert sites is not None, "`around` is asked first"
        shares = cohort.minimum if self.noise == "sites" else 1
        if self.quantile is None:
            return NoisySum(self.clip, whole, whole, sites, self.noise, shares, self.cases, rate=self._rate)
        count = self.count_noise or max(sites / COUNTED, AT_LEAST * whole)
        return NoisySum(
            self.clip, accounting.left_beside_a_count(whole, count), whole, sites, self.noise, shares, self.cases,
            self.quantile, self.pace, count, self._rate,
        )  # fmt: skip

    def spent(self, training: Training, sites_by_round: Sequence[int]) -> Spent:
        """Of a hospital that could be in every one of these rounds. By sampling it is less for those only who never learn
        who was drawn: not for the coordinator, nor for readers of its books."""
        rounds = len(sites_by_round)
        found = accounting.epsilon(self.accountant, self._multiplier(training), self._rate, rounds, self.delta)
        return Spent(found, self.delta, self.unit, self.accountant)

    @property
    def _rate(self) -> float:
        return self.sampling_rate or EVERY

    def _sites(self, cohort: Cohort) -> float | None:
        return self.sites or cohort.per_round or self._rate * len(cohort.sites) or None

    def _multiplier(self, training: Training) -> float:
        """The noise of a round, in clips. Raises ValueError: none is enough."""
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        assert self.epsilon is not None
        return accounting.noise_multiplier(self.accountant, self.epsilon, self._rate, training.rounds, self.delta)
