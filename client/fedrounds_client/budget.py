"""What noise has cost this site's patients so far, over all studies: `budget.jsonl`, one chained line a noisy round.

A line is written, and is on disk, before the update that it pays for can leave. Who asks again for what has left gets the
same bytes, and pays nothing; who asks so that it is trained anew gets fresh noise, and pays. Nothing is ever given back.

The folder of a site is one data set. What its patients have spent is the sum of the Rényi divergences of all lines, turned
into epsilon at the policy's delta; it holds although each study was chosen knowing what came out of the ones before
(Lécuyer 2021, arXiv:2103.01379).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from fedrounds_client.home import SiteHome
from fedrounds_client.settings import Policy
from fedrounds_common import chain
from fedrounds_common.dp.accounting import together
from fedrounds_common.errors import BudgetError
from fedrounds_common.leaving import Ask
from fedrounds_common.privacy import NoisySteps

EVENT = "noisy round"
Kinds = Mapping[tuple[float, float], int]  # multiplier and rate → how many such steps


def steps_so_far(home: SiteHome) -> Kinds:
    """Raises RunFileError: FR-F40 a line is not as it was written; a site that cannot tell what is spent spends nothing."""
    total: Counter[tuple[float, float]] = Counter()
    for line in chain.read(home.budget):
        if line["event"] == EVENT:
            facts = line["facts"]
            total[float(facts["multiplier"]), float(facts["rate"])] += int(facts["steps"])
    return total


def rounds_so_far(home: SiteHome) -> int:
    return sum(line["event"] == EVENT for line in chain.read(home.budget))


def rounds_of(home: SiteHome, study: str, since: datetime | None = None) -> int:
    """How many noisy rounds of this study were paid for, or were since then; each that was trained anew counts again."""
    lines = [line["facts"] for line in chain.read(home.budget) if line["event"] == EVENT]
    own = [facts for facts in lines if facts["study"] == study]
    return sum(since is None or datetime.fromisoformat(facts["at"]) >= since for facts in own)


def spent(home: SiteHome, delta: float, noisy: NoisySteps | None = None, steps: int = 0) -> float:
    """Epsilon of all rounds so far, and of so many steps more like these."""
    kinds = Counter(steps_so_far(home))
    if noisy is not None:
        kinds[noisy.multiplier, noisy.rate] += steps
    return together(kinds, delta)


def check(home: SiteHome, rules: Policy, noisy: NoisySteps | None, steps: int) -> None:
    """Raises BudgetError FR-C37: with so many steps more the site's patients would have spent more than they have."""
    if rules.budget_epsilon is None:
        return
    wanted = f"within policy.budget_epsilon = {rules.budget_epsilon:g} at delta {rules.budget_delta:g}"
    if noisy is None:
        raise BudgetError("FR-C37", "a study without noise, which nothing bounds", wanted=wanted)
    would = spent(home, rules.budget_delta, noisy, steps)
    if would > rules.budget_epsilon:
        raise BudgetError(
            "FR-C37", f"epsilon would be {would:.4g}, and is {spent(home, rules.budget_delta):.4g} already", wanted=wanted,
            do="what is spent does not come back; allow more only if the patients' protection may be weaker",
        )  # fmt: skip


def charge(home: SiteHome, ask: Ask, rules: Policy, noisy: NoisySteps, steps: int, now: datetime) -> None:
    """Pay for one round's update, which has not left yet; no other process may charge meanwhile. Raises as `check`."""
    check(home, rules, noisy, steps)
    facts = {
        "at": now.isoformat(timespec="microseconds"), "run": ask.run, "round": ask.round, "study": ask.digest, "unit": "patient", "multiplier": noisy.multiplier,
        "rate": noisy.rate, "steps": steps,
    }  # fmt: skip
    chain.append(home.budget, EVENT, facts, now)
