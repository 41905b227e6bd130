"""The consent screen: what `review` found, as a person reads it in a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

from fedrounds_client.budget import Bill
from fedrounds_client.review import Costs, Protection, Review, Sums, Tensor
from fedrounds_common.privacy import NoisySum

WIDTH, HEAD = 108, 9
SHOWN_TENSORS = 8
BAR = 40  # characters


def screen(found: Review) -> str:
    """Every part under its heading; of many tensors the largest (`--format json` and `--try` show all)."""
    parts = {
        "WHO": _who(found), "WHAT": _what(found), "DATA": _data(found), "LEAVES": _leaves(found),
        "PRIVACY": _privacy(found), "COSTS": _costs(found.costs), "RIGHTS": _rights(), "POLICY": _policy(found),
    }  # fmt: skip
    lines = [f"{plain(found.name)} asks to run here", "─" * WIDTH]
    for heading, texts in parts.items():
        for number, text in enumerate(texts):
            first = heading if not number else ""
            wrapped = textwrap.wrap(plain(text), WIDTH - HEAD, subsequent_indent="  ") or [""]
            lines += [f"{first if not n else '':<{HEAD}}{line}" for n, line in enumerate(wrapped)]
    how = f"fedrounds site allow {found.study[:12]}"
    lines += ["─" * WIDTH, f"yes: {how} [--rounds N] [--until DATE]     no: fedrounds site refuse {found.study[:12]}"]
    return "\n".join([*lines, "see the very bytes first: fedrounds site review --try"])


def plain(text: str) -> str:
    """Without characters that move a terminal's cursor: the study's text comes from outside."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.4g} {unit}"


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _who(found: Review) -> Iterator[str]:
    yield f"coordinator with the key {found.coordinator}"
    yield "its signature fits. Is it the key that was compared by telephone when this site joined?"
    yield f"asked {counted(found.times, 'time')}, first {found.first}, last {found.last}, for run {found.run}"


def _what(found: Review) -> Iterator[str]:
    yield f"study {found.study}"
    named = (("task", found.task), ("network", found.model), ("strategy", found.strategy))
    yield "; ".join(f"{what} {_table(table)}" for what, table in named)
    if found.said:
        yield f"{found.said}; asks again because of {found.why}; it has trained {counted(found.used, 'round')} here"
    if not found.compared_with:
        yield "nothing was ever allowed here that it could be compared with"
    elif found.compared_with == found.study:
        yield "byte for byte the study that was last allowed"
    else:
        yield f"changed since the study that was last allowed ({found.compared_with[:12]}): {counted(len(found.changes), 'value')}"
        yield from (f"{each.key}: {each.before or 'nothing'} → {each.now or 'nothing'}" for each in found.changes)


def _table(table: Mapping[str, object]) -> str:
    inner = ", ".join(f"{key} = {value}" for key, value in table.items() if key != "name")
    return f"{table['name']}" + (f" ({inner})" if inner else "")


def _data(found: Review) -> Iterator[str]:
    cases = found.cases
    gone = f"; {cases.withdrawn} more are left out, as their patients withdrew" if cases.withdrawn else ""
    yield f"{counted(cases.found, 'case')} of {counted(cases.patients, 'patient')}{gone}"
    if cases.withdrawn_nobody:
        yield f"withdrawn.csv names {', '.join(cases.withdrawn_nobody)}: no case here is of a patient called so"
    if cases.role == "train":
        yield f"{cases.training} to train on, {cases.validation} to judge on (cases found bad when opened are left out)"
    else:
        yield "held out: models are judged on all of them, and trained on none"
    yield f"uses {', '.join(cases.channels)} and labels {', '.join(cases.labels)}; no names, dates or reports"


def _leaves(found: Review) -> Iterator[str]:
    leaving = found.leaves
    if found.costs.rounds:
        what = "the difference that training made" + (", under masks" if found.hidden else "")
        yield (
            f"per round: {counted(len(leaving.tensors), 'tensor')}, {what}, {size(leaving.update_bytes)} "
            f"with {len(leaving.numbers)} entries beside them: {', '.join(leaving.numbers)}"
        )
        yield from _tensors(leaving.tensors)
    else:
        yield "no round: nothing is trained, and no tensor leaves"
    yield from map(_sums, leaving.sums)
    count = sum(tensor.bytes // 8 for tensor in leaving.tally)
    yield (
        f"per judging: {count:,} numbers, sums over cases, {size(leaving.scores_bytes)}: "
        f"{', '.join(f'{tensor.name} {_shape(tensor)}' for tensor in leaving.tally)}"
    )
    yield f"at the start: {', '.join(leaving.hello)}"
    yield f"never: {leaving.never}"


def _sums(sums: Sums) -> str:
    count = sum(tensor.bytes // 8 for tensor in sums.tally)
    names = ", ".join(f"{tensor.name} {_shape(tensor)}" for tensor in sums.tally)
    return (
        f"{sums.when}, for {sums.purpose}: {count:,} numbers, sums over {counted(sums.cases, 'case')} to {sums.over} on, "
        f"{size(sums.bytes)}: {names}"
    )


def _tensors(tensors: tuple[Tensor, ...]) -> Iterator[str]:
    largest = sorted(tensors, key=lambda tensor: -tensor.bytes)[:SHOWN_TENSORS]
    for tensor in tensors:
        if tensor in largest:
            yield f"  {tensor.name} {tensor.dtype} {_shape(tensor)} {size(tensor.bytes)}"
    if len(tensors) > len(largest):
        rest = sum(tensor.bytes for tensor in tensors) - sum(tensor.bytes for tensor in largest)
        yield f"  and {len(tensors) - len(largest)} smaller ones, {size(rest)}"


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "1"


def _privacy(found: Review) -> Iterator[str]:
    privacy = found.privacy
    for text in found.seen:
        yield text[0].lower() + text[1:].rstrip(".")
    if privacy.epsilon is None:
        of = "the sums of differences" if found.hidden else "the differences"
        yield f"no noise: nothing bounds what {of} could tell of a patient, in a round or in all"
    else:
        limit = "none" if privacy.limit is None else f"{privacy.limit:g}"
        yield (
            f"protects each {privacy.protects}: epsilon {privacy.epsilon:.3g} at delta {privacy.delta:g} over all rounds, as "
            f"{privacy.accountant} counts; the first round alone {privacy.a_round:.2g}; this site's limit for one study is {limit}"
        )
    for other in privacy.others:
        yield (
            f"and each {other.unit} by a bill of its own: epsilon {other.epsilon:.3g} at delta {other.delta:g} over all rounds; "
            "the two are not added up"
        )
    if privacy.how is not None:
        how = privacy.how
        yield (
            f"in each step every patient is drawn with probability {how.rate:g}, the gradient cut to {how.clip:g}, noise of "
            f"{how.multiplier:g} times that added, from this machine's own randomness; with fewer than "
            f"{counted(how.patients, 'patient')} to train on, this site takes no part"
        )
    if privacy.sum is not None:
        yield _sum_over_hospitals(privacy.sum)
    for what in privacy.outside:
        yield f"outside that promise: {what}"
    yield from _budget(privacy)
    if found.leaves.sums:
        yield (
            f"the sums for {', '.join(each.purpose for each in found.leaves.sums)} have no noise: where one of them is over "
            "a single case here, such as the only one of its class, it tells that case's numbers"
        )


def _sum_over_hospitals(how: NoisySum) -> str:
    follows = (
        "" if how.quantile is None else f" at first, and then at what {how.quantile:.0%} of the hospitals stay below"
    )
    counts = "counts once" if how.cases is None else f"counts once, or in proportion with fewer than {how.cases} cases"
    who = (
        "the coordinator adds it, and sees each hospital's update before that"
        if how.hand == "coordinator"
        else f"each hospital adds a share, so that those of {how.shares} hold enough; one share alone hides nobody"
    )
    return (
        f"of each round's difference the norm is cut to {how.clip:g}{follows}; each hospital {counts}; to the sum comes noise of "
        f"{how.multiplier:.3g} times that: {who}"
    )


def _budget(privacy: Protection) -> Iterator[str]:
    """What all studies have cost the patients here, and the hospital, as a bar each where there is a limit."""
    if privacy.budget is not None and not privacy.bills:
        yield _bill(Bill("patient", 0.0, None, 0, 0, 0.0), privacy.budget_delta)
    for bill in privacy.bills:
        if privacy.budget is not None or bill.rounds:
            yield _bill(bill, privacy.budget_delta)
        if privacy.budget is not None:
            yield _bar(bill, privacy.budget)


def _bill(bill: Bill, delta: float) -> str:
    after = "" if bill.would is None else f", {bill.would:.3g} with all rounds of this study"
    whose = "" if bill.unit == "patient" else f" of the {bill.unit}"
    added = ""
    if bill.studies > 1:
        added = f"; the studies' own epsilons just added up are {bill.added:.3g} at delta {bill.studies * delta:.2g}"
    return (
        f"all studies together{whose}: epsilon {bill.spent:.3g} at delta {delta:g} spent in "
        f"{counted(bill.rounds, 'noisy round')} here{after}{added}; "
        "rounds without noise are not in it, for nothing bounds them"
    )


def _bar(bill: Bill, most: float) -> str:
    parts = [min(BAR, round(BAR * value / most)) for value in (bill.spent, bill.would or bill.spent)]
    bar = "█" * parts[0] + "▒" * (parts[1] - parts[0]) + "░" * (BAR - parts[1])
    beyond = " (this study would go beyond it)" if bill.would is not None and bill.would > most else ""
    return f"{bar} of this site's {most:g}{beyond}"


def _costs(costs: Costs) -> Iterator[str]:
    up, down = size(costs.up_bytes * costs.rounds), size(costs.down_bytes * costs.rounds)
    yield f"{costs.rounds} rounds of {costs.steps_a_round} steps; {up} up and {down} down in all, judging besides"
    if costs.seconds_a_round is None:
        yield f"disk: {size(costs.state_bytes)} and the prepared cases; `review --try` measures time and disk"
    else:
        hours = costs.seconds_a_round * costs.rounds / 3600
        disk = size(costs.state_bytes + (costs.disk_bytes or 0))
        yield f"about {costs.seconds_a_round:.3g} s a round ({hours:.2g} hours in all) and {disk} of disk, as tried here"


def _rights() -> Iterator[str]:
    yield "pause or leave at any time (fedrounds site pause, leave); patients can withdraw (withdrawn.csv)"
    yield "leaving deletes prepared images and received models here; what was summed already cannot be taken out again"


def _policy(found: Review) -> Iterator[str]:
    if found.broken:
        yield "this site's policy forbids it:"
        yield from found.broken
    elif not found.refused:
        yield "within this site's policy"
    if found.refused:
        yield f"with the cases of today this site would refuse every request: {found.refused}"
    elif found.withheld:
        yield f"scores will be withheld: {found.withheld}; it trains all the same, and the run goes on"
    if not found.refused:
        for purpose, why in found.kept_back.items():
            yield f"sums for {purpose} will not be sent: {why}; it takes part in the rest, and the run goes on without them"
