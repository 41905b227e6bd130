"""The coordinator sees only the weighted sum of the updates of at least `minimum` sites; each travels under masks that cancel.

Source: Bonawitz et al. 2017 (doi:10.1145/3133956.3133982), with the graph of Bell et al. 2020 (doi:10.1145/3372297.3417885).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, final

from pydantic import ConfigDict, Field, model_validator

from fedrounds_common.channel import Channel
from fedrounds_common.masking.field import Field as Numbers
from fedrounds_common.masking.site import PHASES, Rules
from fedrounds_common.plugins import STRICT, RulesBroken
from fedrounds_common.study.tables import Cohort, Count, Name, Positive


@final
@dataclass(frozen=True)
class SecureSum(Channel):
    """`minimum`: the fewest sites in a sum. `threshold`: more than this share of a round's sites must stay to its end; so many
    together, with the coordinator, could also open one update, and with one that lies twice as many less all
    (of 71 by two thirds 25, by a half one). Both are enforced by every site.

    `neighbours`: with how many others a site masks (an even number); 0: with all. `precision`: a weighted entry is a multiple of
    2^−precision; `limit`: the largest entry of an update; `sites`, `cases`: the most in a round and at a site.
    `keys`: site → the fingerprint of its key, as it was enrolled. Without it a site believes each key as it first meets it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    phases: ClassVar[tuple[str, ...]] = PHASES
    hides_sites: ClassVar[bool] = True

    minimum: Annotated[int, Field(ge=2)] = 3
    threshold: Annotated[float, Field(ge=0.5, lt=1)] = 2 / 3
    neighbours: Annotated[int, Field(ge=0, multiple_of=2)] = 0
    precision: Annotated[int, Field(ge=16, le=40)] = 21
    limit: Positive = 64.0
    sites: Annotated[int, Field(ge=2, le=10_000)] = 200
    cases: Count = 5000
    keys: dict[Name, Annotated[str, Field(pattern=r"^[0-9a-f]{4}(-[0-9a-f]{4}){9}$")]] = field(default_factory=dict)

    @model_validator(mode="after")
    def _agree(self) -> SecureSum:
        rules: list[tuple[tuple[str, ...], str]] = []
        if self.numbers.width > 8:
            found = f"sums of up to {self.numbers.bits} bits, and a number has 64"
            rules.append((("precision", "limit", "sites", "cases"), found))
        if self.minimum > self.sites:
            rules.append((("minimum", "sites"), f"{self.minimum}: at most {self.sites} sites are in a round"))
        if self.keys and len(self.keys) < self.minimum:
            rules.append(
                (("keys", "minimum"), f"{len(self.keys)} keys, where at least {self.minimum} sites are wanted")
            )
        if len(set(self.keys.values())) < len(self.keys):
            rules.append((("keys",), "one key is given to two sites"))
        if rules:
            raise RulesBroken(rules)
        return self

    @property
    def numbers(self) -> Numbers:
        return Numbers(self.sites, float(self.cases), self.limit, self.precision)

    def rules(self, minimum: int) -> Rules:
        """What each site holds a round to. `minimum`: `cohort.minimum`, which holds too."""
        return Rules(max(self.minimum, minimum), self.threshold, self.neighbours, self.numbers)

    def seen(self) -> str:
        return f"The coordinator sees only the sum of the updates of at least {self.minimum} hospitals."

    def agreed(self) -> Sequence[str]:
        keys = (
            f"the keys of {len(self.keys)} hospitals are named by fingerprint: compare them"
            if self.keys
            else "no keys are named: each hospital's is believed as it is first met, so that hospitals could be invented"
        )
        return (
            "each update leaves under masks, as whole numbers; what takes the masks away leaves beside it in four more steps: "
            "a key, boxes that only the other hospitals can open, a signed list of who is still there, and shares of secrets",
            f"this site sends nothing to a round of fewer than {self.minimum} hospitals, and takes no mask away unless more than "
            f"{self.threshold:.1%} of them are left",
            keys,
        )

    def around(self, cohort: Cohort) -> Sequence[tuple[str, str]]:
        return tuple(self._around(cohort))

    def _around(self, cohort: Cohort) -> Iterator[tuple[str, str]]:
        for key, count in (("sites", len(cohort.sites)), ("per_round", cohort.per_round)):
            if 0 < count < self.minimum:
                yield f"cohort.{key}", f"{count}: wire.channel.minimum = {self.minimum} of them are in a sum at least"
            elif count > self.sites:
                yield f"cohort.{key}", f"{count}: wire.channel.sites = {self.sites} of them have room in a sum"
        lacking = [site for site in cohort.sites if site not in self.keys] if self.keys else []
        if lacking:
            yield "wire.channel.keys", f"none of {', '.join(lacking[:5])}: every one of cohort.sites, or nobody"
