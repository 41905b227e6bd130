"""A round whose updates the coordinator never sees: keys, shares, masked numbers, signatures, shares; and the sum.

The first step is the answer to a round's own request, when a site has trained; the others follow when it is settled who
takes part (`Conduct`). Who is lost on the way is left out of the sum, or of taking the masks off it; past the study's
threshold there is no sum, and the round is thrown away.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.arrays import Array, Arrays, packed
from fedrounds_common.averaging import weight_of
from fedrounds_common.case import F64
from fedrounds_common.channels.secure_sum import SecureSum
from fedrounds_common.errors import RoundError, UpdateError
from fedrounds_common.flat import Layout
from fedrounds_common.leaving import Ask
from fedrounds_common.masking.field import FIRST, Field
from fedrounds_common.masking.site import session_of
from fedrounds_common.spans import timed
from fedrounds_common.strategy import SiteUpdate, Updates, Weights
from fedrounds_server.answers import Answer
from fedrounds_server.grid import Post
from fedrounds_server.guard import Guard
from fedrounds_server.history import SiteLine
from fedrounds_server.plan import Plan
from fedrounds_server.unmasking import Unmasking

STEP_S = 1800.0  # for a step that is not training: masks take seconds, their numbers may go over a slow line


@final
@dataclass
class MaskedRound:
    """`ask`: what the sites were asked at first. `lines`: what becomes of each; `keys`: whose keys are there."""

    plan: Plan
    channel: SecureSum
    guard: Guard
    ask: Ask
    lines: dict[str, SiteLine]
    unmasking: Unmasking = field(init=False)
    layout: Layout = field(init=False)
    weights: Weights = field(init=False)

    def __post_init__(self) -> None:
        ask, weights = self.ask, self.plan.strategy.folds()
        if weights is None:
            raise RoundError("FR-R21", "a strategy that says no weights", wanted="the mean by weights it names")
        self.weights, self.layout = weights, packed(ask.arrays).layout
        session = session_of(ask.digest, ask.run, ask.round, ask.nonce)
        self.unmasking = Unmasking(
            self.channel.rules(self.plan.study.cohort.minimum), session, FIRST + self.layout.count
        )

    # ------------------------------------------------------------ the first step

    def hear(self, answer: Answer, site: str) -> SiteLine:
        """The line of a site that has trained and sends its keys. Raises UpdateError: it sends something else."""
        assert answer.leaving is not None
        said = self.guard.admit_share(answer.leaving, self.ask, site, "keys")
        self.unmasking.hear(site, _only(said.arrays, "notice").tobytes(), self._fingerprint(site))
        return SiteLine(
            site, "ok", said.cases, said.steps, None, said.seconds, answer.bytes_up, answer.bytes_down
        )  # fmt: skip

    def _fingerprint(self, site: str) -> str:
        """Of the key that the other sites hold it to. Raises UpdateError: it is not the one that it enrolled with."""
        keys = self.plan.keys
        if keys is None:  # a rehearsal, where nobody is enrolled
            return ""
        entry, named = keys.register().get(site), self.channel.keys
        enrolled = "" if entry is None else entry.key.fingerprint
        if not enrolled or (named and named.get(site) != enrolled):
            raise UpdateError(
                "FR-R81", f"{site} is not enrolled with the key of wire.channel.keys", wanted=named.get(site, "a key")
            )
        return enrolled

    # ------------------------------------------------------------ the other steps

    def sum(self, post: Post, nodes: Mapping[str, int], sites: Mapping[str, int]) -> MaskedSum:
        """The sum over those of these sites who stay.

        Args:
            nodes: where each is reached. sites: who takes part, with their cases.

        Raises:
            RoundError: FR-R82 too few stayed; FR-R83 what came out is no sum of healthy updates.
        """
        unmasking = self.unmasking
        for name in set(unmasking.notices) - set(sites):  # spares, who are not needed
            unmasking.leave_out(name)
        unmasking.close_keys()
        ask = _Steps(self, post, {name: nodes[name] for name in sorted(sites) if name in nodes})
        notices = _arrays(unmasking.notices)
        sent = ask.step(
            "shares", dict.fromkeys(sites, notices), lambda name, came: unmasking.take_sealed(name, _bytes(came))
        )
        unmasking.check_enough(sent, "sent shares")
        boxes = {name: _arrays(unmasking.sealed_for(name)) for name in sorted(unmasking.sealed)}
        sent = ask.step("masked", boxes, lambda name, came: unmasking.add(name, _only(came, "numbers")))
        unmasking.check_enough(sent, "sent an update")
        stayed = sorted(unmasking.survivors)
        lists = json.dumps({"shared": sorted(unmasking.sealed), "survivors": stayed}).encode()
        said = _arrays({"list": lists})
        sent = ask.step("agree", dict.fromkeys(stayed, said), self._sign, counts=False)
        unmasking.check_enough(sent, "signed who stayed")
        said = _arrays(unmasking.signatures)
        ask.step(
            "unmask",
            dict.fromkeys(stayed, said),
            lambda name, came: unmasking.take_given(name, _bytes(came)),
            counts=False,
        )
        return self._whole({name: sites[name] for name in stayed})

    def _sign(self, name: str, came: Arrays) -> None:
        self.unmasking.sign(name, _only(came, "signature").tobytes())

    @timed("aggregate")
    def _whole(self, cases: Mapping[str, int]) -> MaskedSum:
        without_masks = self.unmasking.sum()
        for name in sorted(self.unmasking.liars):
            self.plan.listen(
                "warning", {"text": f"{name} gave false shares in round {self.ask.round}; enough true ones came"}
            )
        total = MaskedSum(without_masks, self.channel.numbers, self.layout, self.weights, cases)
        total.check(self.guard.most_of_a_sum(self.ask))
        return total


@final
@dataclass(frozen=True)
class _Steps:
    """Asks whoever is still there for one step after the other. `nodes`: of all who take part."""

    round: MaskedRound
    post: Post
    nodes: Mapping[str, int]

    def step(
        self, phase: str, sends: Mapping[str, Arrays], take: Callable[[str, Arrays], None], counts: bool = True
    ) -> int:
        """Ask each site in `sends`; returns how many answered as they should.

        Args:
            counts: whether a site that does not answer is out of the sum. Later its update is in it.
        """
        ask, plan = self.round.ask, self.round.plan
        asks = {
            self.nodes[name]: replace(
                ask, kind="mask", purpose=phase, nonce=f"{ask.nonce}.{phase}", arrays=arrays, shared={},
                form="", base="", holds="",
            )
            for name, arrays in sends.items() if name in self.nodes
        }  # fmt: skip
        names = {self.nodes[name]: name for name in sends if name in self.nodes}
        deadline = plan.study.cohort.deadline_s
        if plan.keys is not None:
            deadline = min(deadline or STEP_S, STEP_S)
        plan.listen("step", {"round": ask.round, "step": phase, "sites": len(asks)})
        good = 0
        with closing(self.post.ask(asks, deadline)) as answers:
            for answer in answers:
                good += self._taken(answer, names[answer.node], asks[answer.node], take, counts=counts)
        return good

    def _taken(self, answer: Answer, name: str, ask: Ask, take: Callable[[str, Arrays], None], *, counts: bool) -> bool:
        line = self.round.lines[name]
        state, reference = "ok", ""
        try:
            if answer.fault or answer.leaving is None:
                state, reference = answer.state, answer.reference
            else:
                said = self.round.guard.admit_share(answer.leaving, ask, name, ask.purpose)
                take(name, said.arrays)
        except UpdateError as error:
            state = f"error:{error.code}"
        line = replace(line, bytes_up=line.bytes_up + answer.bytes_up, bytes_down=line.bytes_down + answer.bytes_down)
        if state != "ok":
            text = f"{name} was lost in a secure sum's step {ask.purpose!r} of round {ask.round}: {state}"
            self.round.plan.listen("warning", {"text": text})
            line = replace(line, state=state, reference=reference) if counts else line
        self.round.lines[name] = line
        return state == "ok"


@final
@dataclass(frozen=True)
class MaskedSum(Updates):
    """The sum in place of the updates: it has a mean by the weights that the sites used, and nothing else can be read.

    `total`: the sum of weights, then every weighted entry, in steps of `numbers`. Implements `averaging.Summing`.
    """

    total: NDArray[np.int64] = field(repr=False)
    numbers: Field
    layout: Layout
    weights: Weights
    cases: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[SiteUpdate]:
        raise _hidden("one by one")

    @property
    def weight(self) -> float:
        return self.numbers.weights(self.total)

    def mean(self, weights: Weights) -> Mapping[str, F64]:
        """Raises RoundError: FR-R21 by other weights than those that the sites used."""
        if weights != self.weights:
            raise _hidden(f"with weights {weights!r}")
        return _Mean(self)

    def check(self, believed: float) -> None:
        """Whether it can be the sum of healthy updates.

        Args:
            believed: the largest norm of their mean that is.

        Raises:
            RoundError: FR-R83 it is larger, or the weights are not those of the cases that the sites told.
        """
        told = math.fsum(weight_of(cases, self.weights) for cases in self.cases.values())
        # each site's weight was rounded once
        if not abs(self.weight - told) < len(self) * self.numbers.step:
            raise _unhealthy(f"{len(self)} sites that weigh {self.weight:.9g} together", f"{told:.9g}, as they told")
        if not (size := self.norm()) <= believed:
            raise _unhealthy(f"a mean of norm {size:.4g}", f"at most {believed:.4g}")

    def norm(self) -> float:
        """Of the mean, over its float entries."""
        squares = 0.0
        for name, place in self.layout.places.items():
            if place.dtype.kind == "f" and place.count:
                values = self.mean(self.weights)[name].ravel()
                squares += float(np.dot(values, values))
        return math.sqrt(squares)


@final
@dataclass(frozen=True)
class _Mean(Mapping[str, F64]):
    """Each tensor is worked out when it is asked for."""

    of: MaskedSum

    def __getitem__(self, name: str) -> F64:
        place = self.of.layout.places[name]
        found = self.of.numbers.values(self.of.total, self.of.layout, name, 0, place.count)
        found /= self.of.weight
        return found.reshape(place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.of.layout.places)

    def __len__(self) -> int:
        return len(self.of.layout.places)


def thrown_away(error: RoundError) -> bool:
    """Whether it is a round that came to nothing, rather than a run that cannot go on."""
    return error.code in ("FR-R82", "FR-R83")


def _arrays(data: Mapping[str, bytes]) -> Arrays:
    return {name: np.frombuffer(each, np.uint8) for name, each in data.items()}


def _bytes(arrays: Arrays) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


def _only(came: Arrays, name: str) -> Array:
    if set(came) != {name}:
        raise UpdateError("FR-R81", f"{len(came)} entries", wanted=f"one, {name}")
    return came[name]


def _hidden(how: str) -> RoundError:
    return RoundError(
        "FR-R21", f"updates are read {how}", wanted="the mean by the strategy's own weights",
        do="each update is hidden in the sum; wire.channel 'plain' shows it",
    )  # fmt: skip


def _unhealthy(found: str, wanted: str) -> RoundError:
    return RoundError(
        "FR-R83", found, wanted=wanted, do="the round is thrown away, and the consensus stays as it was"
    )  # fmt: skip
