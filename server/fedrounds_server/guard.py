"""The coordinator's guard: what is averaged is what was asked for, from whom, and nothing else.

Flower authenticates the envelope, not what is in it, and averages a NaN from one site into every
weight. Here such a site is named, excluded for the round, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np

from fedrounds_common.arrays import Arrays, norm
from fedrounds_common.codec import Codec
from fedrounds_common.errors import UpdateError
from fedrounds_common.leaving import Ask, Hello, Leaving, Scores, Share, Statistics, Update, check_tally, check_update
from fedrounds_common.spans import timed
from fedrounds_common.strategy import SiteUpdate
from fedrounds_common.task import Tally
from fedrounds_server import history
from fedrounds_server.history import RoundLine

# see `_most`; updates of honest rounds had 0.0005 to 0.35 of the norm of their model, in runs of U-Nets on real and made brains
OF_MODEL, OF_LAST, ANYWAY = 10.0, 100.0, 0.5


@final
@dataclass(frozen=True)
class Guard:
    """`agreed_cases`: the most training cases each site may claim, as it said at enrolment.

    `max_norm`: the largest L2 norm of an update that is believed of anybody; `norms`: those of the updates that were
    admitted, round → site → norm. `noise`: about how long an update now is by the noise that its site has added; `hides`:
    whether single hospitals are to be hidden.
    """

    agreed_cases: Mapping[str, int]
    max_norm: float
    codec: Codec
    norms: dict[int, dict[str, float]] = field(default_factory=dict)
    noise: Callable[[], float] = float
    hides: bool = False
    _seen: set[tuple[str, int, str]] = field(default_factory=set)
    _sizes: dict[str, float] = field(default_factory=dict)  # norm of the model that a request was sent with

    def admit(self, answer: Leaving, ask: Ask, site: str) -> SiteUpdate:
        """The update, decoded and fit to be averaged.

        Args:
            site: who was asked; an answer in another's name is refused.

        Raises:
            UpdateError: with the first reason found. Nothing of the answer was used.
        """
        if not isinstance(answer, Update):
            raise UpdateError("FR-R10", f"{site} answered with {answer.kind}", wanted="an update")
        self._check_answers(answer.site, answer.run, answer.round, answer.nonce, ask, site)
        if answer.study != ask.digest:
            raise UpdateError("FR-R16", f"{site} trained another study", wanted=ask.digest[:12])
        decoded = replace(answer, arrays=self.decoded(answer.arrays, ask.arrays, site))
        size = check_update(decoded, ask.arrays, self._most(site, ask))
        cap = self.agreed_cases.get(site, 0)
        if answer.cases > cap:
            raise UpdateError("FR-R19", f"{site} claims {answer.cases} cases", wanted=f"at most the {cap} it agreed to")
        self._see(site, ask)
        self.norms.setdefault(ask.round, {})[site] = size
        return SiteUpdate(site, decoded.arrays, answer.cases)

    def admit_scores(self, answer: Leaving, ask: Ask, site: str) -> Scores:
        """The scores, if they answer what was asked."""
        if not isinstance(answer, Scores):
            raise UpdateError("FR-R10", f"{site} answered with {answer.kind}", wanted="scores")
        self._check_answers(answer.site, answer.run, answer.round, answer.nonce, ask, site)
        if (answer.model, answer.cohort) != (ask.model, ask.cohort) or answer.study not in ("", ask.digest):
            raise UpdateError("FR-R16", f"{site} scored {answer.model} on {answer.cohort}", wanted=ask.model)
        return answer

    def admit_statistics(self, answer: Leaving, ask: Ask, site: str, like: Tally, most: int) -> Statistics:
        """The sums, if they answer what was asked and can be added to other sites'.

        Args:
            like: what the task makes of no case for this purpose. most: as many cases as the site may claim.

        Raises:
            UpdateError: with the first reason found. Nothing of the answer was used.
        """
        if not isinstance(answer, Statistics):
            raise UpdateError("FR-R10", f"{site} answered with {answer.kind}", wanted="statistics")
        self._check_answers(answer.site, answer.run, answer.round, answer.nonce, ask, site)
        if (answer.study, answer.purpose) != (ask.digest, ask.purpose):
            raise UpdateError("FR-R16", f"{site} summed for {answer.purpose!r} of another study", wanted=ask.purpose)
        check_tally(answer.tally, like)
        if answer.cases < 1:
            raise UpdateError("FR-R14", f"cases = {answer.cases!r}", wanted="a whole number of 1 or more")
        if answer.cases > most:
            raise UpdateError(
                "FR-R19", f"{site} claims {answer.cases} cases", wanted=f"at most the {most} it agreed to"
            )
        self._see(site, ask)
        return answer

    def admit_share(self, answer: Leaving, ask: Ask, site: str, phase: str) -> Share:
        """One step of a secure sum, if it is the one that was asked for; what is in it is looked at where it is used."""
        if not isinstance(answer, Share):
            raise UpdateError("FR-R10", f"{site} answered with {answer.kind}", wanted="a step of a secure sum")
        self._check_answers(answer.site, answer.run, answer.round, answer.nonce, ask, site)
        if (answer.study, answer.phase) != (ask.digest, phase):
            raise UpdateError("FR-R16", f"{site} answered {answer.phase!r} of another study", wanted=phase)
        if any(array.dtype != np.uint8 or array.ndim != 1 for array in answer.arrays.values()):
            raise UpdateError("FR-R11", f"{site} sent arrays of another kind", wanted="bytes")
        cap = self.agreed_cases.get(site, 0)
        if not 1 <= answer.cases <= cap:
            raise UpdateError("FR-R19", f"{site} claims {answer.cases} cases", wanted=f"at most the {cap} it agreed to")
        if not math.isfinite(answer.seconds):
            raise UpdateError("FR-R15", f"seconds = {answer.seconds!r}", wanted="a finite number")
        self._see(site, ask)
        return answer

    def most_of_a_sum(self, ask: Ask) -> float:
        """The largest norm that is believed of a mean over sites whose updates nobody sees."""
        return min(self.max_norm, OF_MODEL * (1.0 + self._size(ask))) + 2 * self.noise()

    @timed("serialise")
    def decoded(self, arrays: Arrays, like: Arrays, site: str) -> Arrays:
        """What the codec makes of a site's arrays, for a model like that; raises UpdateError if it stumbles over them."""
        try:
            return self.codec.decode(arrays, like)
        except UpdateError:
            raise
        except Exception as error:
            # a codec that stumbles over what one site sent must not end the run for all
            found = f"what {site} sent cannot be decoded ({type(error).__name__})"
            raise UpdateError("FR-R11", found, wanted="arrays as the study's codec makes them") from error

    def _most(self, site: str, ask: Ask) -> float:
        """The largest norm that is believed of this site: a bound for all networks is none for a small one.

        Ten times the model itself; and a hundred times what it sent last, unless that is small anyway.
        """
        size = 1.0 + self._size(ask)
        most = min(self.max_norm, OF_MODEL * size)
        if self.hides:  # cut to one norm anyway; and whether one counts must not follow from another's update
            return most + 2 * self.noise()
        last = self._last(site, ask.round)
        return most if last is None else min(most, max(OF_LAST * last, ANYWAY * size))

    def _size(self, ask: Ask) -> float:
        if ask.nonce not in self._sizes:
            self._sizes.clear()  # one request at a time, or the one before
            self._sizes[ask.nonce] = norm(ask.arrays)
        return self._sizes[ask.nonce]

    def _last(self, site: str, round_: int) -> float | None:
        """Of this site, or where it has sent none the largest of all; of this round nothing, where order is chance."""
        earlier = [self.norms[each] for each in sorted(self.norms, reverse=True) if each < round_]
        own = (norms[site] for norms in earlier if site in norms)
        return next(own, max(earlier[0].values()) if earlier else None)

    def _check_answers(self, name: str, run: str, round_: int, nonce: str, ask: Ask, site: str) -> None:
        if name != site:
            raise UpdateError("FR-R17", f"{site} answered as {name!r}", wanted="its own name")
        if (run, round_, nonce) != (ask.run, ask.round, ask.nonce):
            raise UpdateError(
                "FR-R18", f"{site} answered another request (round {round_})", wanted=f"round {ask.round}"
            )
        if (site, ask.round, ask.nonce) in self._seen:
            raise UpdateError("FR-R18", f"{site} answered twice", wanted="one answer a round")

    def _see(self, site: str, ask: Ask) -> None:
        self._seen.add((site, ask.round, ask.nonce))


def norms_of(lines: Iterable[RoundLine]) -> dict[int, dict[str, float]]:
    """`Guard.norms` as the history has them."""
    rounds = [line for line in lines if line.kind == history.ROUND]
    found = {line.round: {site.site: site.norm for site in line.sites if site.norm is not None} for line in rounds}
    return {round_: norms for round_, norms in found.items() if norms}


def check_hello(hello: Hello, ask: Ask, cap: int | None, own_version: str) -> None:
    """Refuse a hello that answers another request, brings more than was enrolled, or comes of another version.

    Args:
        cap: the most training cases this site may claim; None where nobody is enrolled.
        own_version: that of fedrounds here; the site's must be the same.

    Raises:
        UpdateError: with the first reason found.
    """
    if (hello.run, hello.nonce) != (ask.run, ask.nonce):
        raise UpdateError("FR-R18", f"{hello.site} answered another request", wanted="an answer to this hello")
    if hello.study != ask.digest:
        raise UpdateError("FR-R16", f"{hello.site} is ready for another study", wanted=ask.digest[:12])
    version = hello.versions.get("fedrounds", "unknown")
    if version != own_version:
        raise UpdateError(
            "FR-R56", f"{hello.site} has fedrounds {version}", wanted=f"fedrounds {own_version}, as here",
            do="install the same version at both ends",
        )  # fmt: skip
    if cap is not None and hello.training_cases > cap:
        raise UpdateError(
            "FR-R19", f"{hello.site} brings {hello.training_cases} cases", wanted=f"at most the {cap} it enrolled with"
        )
