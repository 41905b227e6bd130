"""What noise has cost so far, over all studies: `budget.jsonl`, a chained line for each noisy round and whom it is about.

A line is written, and is on disk, before the update that it pays for can leave. Who asks again for what has left gets the
same bytes, and pays nothing; who asks so that it is trained anew gets fresh noise, and pays. Nothing is ever given back.

The folder of a site is one data set, and has two bills that are never added to one another: what any one of its patients
has spent, and what it has spent itself, as one hospital among others. A bill is the sum of the Rényi divergences of its
lines, over all mechanisms, turned into epsilon at the policy's delta; it holds although each study was chosen knowing what came out of the ones before
(Lécuyer 2021, arXiv:2103.01379).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, final

from fedrounds_client.home import SiteHome
from fedrounds_client.settings import Policy
from fedrounds_common import chain
from fedrounds_common.dp.accounting import together
from fedrounds_common.errors import BudgetError
from fedrounds_common.leaving import Ask
from fedrounds_common.privacy import Cost, Unit

EVENT = "noisy round"
PATIENT: Unit = "patient"
ACCOUNTANT = "rdp"  # the one of ours that adds mechanisms of several kinds up
Kinds = Mapping[tuple[float, float], int]  # multiplier and rate → how many such steps


@final
@dataclass(frozen=True)
class Bill:
    """What one unit has spent by all studies: `spent`, in so many `rounds` of so many `studies`; `would`: and with what is
    asked for, None if that costs it nothing.

    `added`: the studies' own epsilons just added up (basic composition), which hold together at delta times `studies`.
    """

    unit: Unit
    spent: float
    would: float | None
    rounds: int
    studies: int
    added: float


def bills(home: SiteHome, delta: float, more: Sequence[Cost] = ()) -> tuple[Bill, ...]:
    """Every unit's bill: of those that have spent, and of those that would. Raises as `steps_so_far`."""
    lines = _lines(home)
    units = sorted({_unit(facts) for facts in lines} | {cost.unit for cost in more}, reverse=True)
    return tuple(_bill(unit, [facts for facts in lines if _unit(facts) == unit], delta, more) for unit in units)


def _bill(unit: Unit, lines: Sequence[Mapping[str, Any]], delta: float, more: Sequence[Cost]) -> Bill:
    studies = sorted({str(facts["study"]) for facts in lines})
    own = [together(_kinds(facts for facts in lines if facts["study"] == study), delta) for study in studies]
    adds = [cost for cost in more if cost.unit == unit]
    would = together(_with(_kinds(lines), adds), delta) if adds else None
    return Bill(unit, together(_kinds(lines), delta), would, len(lines), len(studies), sum(own))


def steps_so_far(home: SiteHome, unit: Unit = PATIENT) -> Kinds:
    """Raises RunFileError: FR-F40 a line is not as it was written; a site that cannot tell what is spent spends nothing."""
    return _kinds(facts for facts in _lines(home) if _unit(facts) == unit)


def rounds_of(home: SiteHome, study: str, since: datetime | None = None) -> int:
    """How many noisy rounds of this study were paid for, or were since then; each that was trained anew counts again."""
    own = [facts for facts in _lines(home) if facts["study"] == study]
    paid = [facts for facts in own if since is None or datetime.fromisoformat(facts["at"]) >= since]
    # a round that costs its patients and the hospital has a line for each, and is one round
    return max(Counter(map(_unit, paid)).values(), default=0)


def spent(home: SiteHome, delta: float, unit: Unit = PATIENT, more: Sequence[Cost] = ()) -> float:
    """Epsilon of all this unit's rounds so far, and of more like these."""
    return together(_with(steps_so_far(home, unit), [cost for cost in more if cost.unit == unit]), delta)


def check(home: SiteHome, rules: Policy, costs: Sequence[Cost]) -> None:
    """Raises BudgetError FR-C37: with these one of the site's bills would be above what may be spent."""
    if rules.budget_epsilon is None:
        return
    wanted = f"within policy.budget_epsilon = {rules.budget_epsilon:g} at delta {rules.budget_delta:g}"
    if not costs:
        raise BudgetError("FR-C37", "a study without noise, which nothing bounds", wanted=wanted)
    for unit in dict.fromkeys(cost.unit for cost in costs):
        would = spent(home, rules.budget_delta, unit, costs)
        if would > rules.budget_epsilon:
            found = f"epsilon would be {would:.4g}, and is {spent(home, rules.budget_delta, unit):.4g} already"
            raise BudgetError(
                "FR-C37", found if unit == PATIENT else f"of the {unit}, {found}", wanted=wanted,
                do="what is spent does not come back; allow more only if the protection may be weaker",
            )  # fmt: skip


def charge(home: SiteHome, ask: Ask, rules: Policy, costs: Sequence[Cost], now: datetime) -> None:
    """Pay for one round's update, which has not left yet; no other process may charge meanwhile. Raises as `check`."""
    check(home, rules, costs)
    for cost in costs:
        facts = {
            "at": now.isoformat(timespec="microseconds"), "run": ask.run, "round": ask.round, "study": ask.digest,
            "unit": cost.unit, "multiplier": cost.multiplier, "rate": cost.rate, "steps": cost.steps,
            "epsilon": spent(home, rules.budget_delta, cost.unit, [cost]), "delta": rules.budget_delta,
            "accountant": ACCOUNTANT,
        }  # fmt: skip
        chain.append(home.budget, EVENT, facts, now)


def _lines(home: SiteHome) -> list[Mapping[str, Any]]:
    return [line["facts"] for line in chain.read(home.budget) if line["event"] == EVENT]


def _unit(facts: Mapping[str, Any]) -> Unit:
    return "hospital" if facts.get("unit") == "hospital" else PATIENT


def _kinds(lines: Iterable[Mapping[str, Any]]) -> Kinds:
    total: Counter[tuple[float, float]] = Counter()
    for facts in lines:
        total[float(facts["multiplier"]), float(facts["rate"])] += int(facts["steps"])
    return total


def _with(kinds: Kinds, more: Iterable[Cost]) -> Kinds:
    total = Counter(kinds)
    for cost in more:
        total[cost.multiplier, cost.rate] += cost.steps
    return total
