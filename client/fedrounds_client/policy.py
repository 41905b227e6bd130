"""What a site's policy says of a study and of the moment: each rule by itself, and all that are broken at once.

A permit cannot widen it: the policy is read from the site's own file and held against every request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from fedrounds_client.settings import Policy
from fedrounds_common.errors import RefusedError
from fedrounds_common.leaving import Kind, Leaving
from fedrounds_common.privacy import Spent, Unit
from fedrounds_common.study.study import Study

GB = 10**9
ANSWERS: dict[Kind, str] = {
    "hello": "hello",
    "train": "update",
    "score": "scores",
    "statistics": "statistics",
    "mask": "update",
}
PROTECTS = ("none", "hospital", "patient")  # each more than the one before


def broken_by(policy: Policy, study: Study, plugins: Sequence[Path] = ()) -> tuple[RefusedError, ...]:
    """Every rule that the study itself breaks, whatever the hour."""
    found = [*_names(policy, study), *_privacy(policy, study, plugins)]
    return tuple(found)


def _names(policy: Policy, study: Study) -> list[RefusedError]:
    rules = (
        ("FR-C12", "task", str(study.task["name"]), policy.tasks),
        ("FR-C13", "network", str(study.model["name"]), policy.networks),
    )
    return [
        RefusedError(
            code,
            f"{what} {name!r}",
            wanted=f"one of policy.{what}s: {', '.join(allowed) or 'none'}",
            do=f"add it to policy.{what}s in site.toml if that is meant",
        )
        for code, what, name, allowed in rules
        if name not in allowed
    ]


def _privacy(policy: Policy, study: Study, plugins: Sequence[Path]) -> list[RefusedError]:
    protects, _ = privacy_of(study, plugins)
    found = []
    if PROTECTS.index(protects) < PROTECTS.index(policy.minimum_privacy):
        found.append(
            RefusedError(
                "FR-C14", f"the study protects {protects}", wanted=f"policy.minimum_privacy = {policy.minimum_privacy}"
            )
        )
    try:
        check_epsilon(policy, study, study.training.rounds, plugins)
    except RefusedError as error:
        found.append(error)
    return found


def check_epsilon(policy: Policy, study: Study, rounds: int, plugins: Sequence[Path] = ()) -> None:
    """Raises RefusedError FR-C14: so many rounds of this study would tell more of a patient than the policy lets one tell."""
    if policy.maximum_epsilon is None:
        return
    spent = spent_by(study, rounds, plugins)
    if spent is None or spent.epsilon > policy.maximum_epsilon:
        said = "no bound at all" if spent is None else f"epsilon {spent.epsilon:.3g} over {rounds} rounds"
        raise RefusedError("FR-C14", said, wanted=f"policy.maximum_epsilon = {policy.maximum_epsilon:g}")


def privacy_of(study: Study, plugins: Sequence[Path] = ()) -> tuple[str, float | None]:
    """Whom the study's measures protect, and their epsilon over all rounds at its fewest sites; None: no bound."""
    spent = spent_by(study, study.training.rounds, plugins)
    return ("none", None) if spent is None else (spent.unit, spent.epsilon)


def spent_by(study: Study, rounds: int, plugins: Sequence[Path] = ()) -> Spent | None:
    """What so many rounds cost whom the study protects most; None: it protects nobody."""
    bills = spent_on(study, rounds, plugins)
    return bills[max(bills, key=PROTECTS.index)] if bills else None


def spent_on(study: Study, rounds: int, plugins: Sequence[Path] = ()) -> Mapping[Unit, Spent]:
    """What so many rounds cost each unit that the study protects; a patient's and a hospital's are not added up."""
    each = [study.cohort.minimum] * rounds
    found = [measure.spent(study.training, each) for measure in study.build_privacy(plugins)]
    best: dict[Unit, Spent] = {}
    for spent in found:
        if spent is not None and (spent.unit not in best or spent.epsilon < best[spent.unit].epsilon):
            best[spent.unit] = spent
    return best


def check_answer(policy: Policy, kind: Kind) -> None:
    """Raises RefusedError FR-C16: the answer to such a request is none that may leave."""
    if ANSWERS[kind] not in policy.outgoing:
        raise RefusedError(
            "FR-C16", f"{ANSWERS[kind]} would leave", wanted=f"policy.outgoing: {', '.join(policy.outgoing) or 'none'}"
        )


def check_hours(policy: Policy, now: datetime) -> None:
    """Raises RefusedError FR-C17: `now`, local time, is outside the hours of work."""
    start, end = policy.hours.split("-")
    clock = now.strftime("%H:%M")
    within = start <= clock < end if start < end else clock >= start or clock < end
    if not within:
        raise RefusedError("FR-C17", f"it is {clock} here", wanted=f"policy.hours = {policy.hours}")


def check_disk(policy: Policy, runs: Path, cache: Path | None = None) -> None:
    """Raises RefusedError FR-C18: all runs together, with the cases that are kept between them, take all they may."""
    used = used_bytes(runs) + (0 if cache is None or cache.is_relative_to(runs) else used_bytes(cache))
    if used >= policy.disk_gb * GB:
        raise RefusedError(
            "FR-C18", f"{used / GB:.3g} GB used", wanted=f"below policy.disk_gb = {policy.disk_gb:g}",
            do="take caches of runs that are over away, `fedrounds cache --clear` what is kept between them, or allow more",
        )  # fmt: skip


def used_bytes(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.lstat().st_size if file.is_file() else 0
        except OSError:  # taken away between the two looks
            continue
    return total


def check_cases(policy: Policy, cases: int) -> None:
    """Raises RefusedError FR-C19: an answer would stand for too few cases to hide one among them."""
    if cases < policy.minimum_cases:
        raise RefusedError("FR-C19", f"{cases} cases", wanted=f"policy.minimum_cases = {policy.minimum_cases}")


def check_leaving(policy: Policy, message: Leaving) -> None:
    """The last look, at the very answer: its kind, and the cases behind it. Raises as the two above."""
    if message.kind == "refusal":
        return
    kind = ANSWERS["mask"] if message.kind == "share" else message.kind
    if kind not in policy.outgoing:
        raise RefusedError("FR-C16", f"{kind} would leave", wanted=f"{', '.join(policy.outgoing) or 'none'}")
    cases = getattr(message, "cases", None)
    if isinstance(cases, int):
        check_cases(policy, cases)
