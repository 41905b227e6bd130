"""What a person should know of a study that asks, before saying yes: computed here, from the study's own text.

Nothing is taken on trust: the tensors that would leave are those of the network built here, the bytes
those of the messages packed here, the cases those that this site's reader finds today.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, final

import numpy as np

from fedrounds_client import budget, lineage, policy
from fedrounds_client.enrolled import own_of
from fedrounds_client.home import SiteHome, read_table
from fedrounds_client.permits import Said, heard, last_allowed
from fedrounds_client.receiving import KEPT_FILES as HELD_FILES
from fedrounds_client.settings import Policy, SiteSettings
from fedrounds_client.site import Parts, parts_of_text
from fedrounds_client.state import KEPT_FILES
from fedrounds_client.training import steps_per_round
from fedrounds_client.waiting import Waiting
from fedrounds_client.withdrawn import withdrawn_patients
from fedrounds_common.arrays import Arrays, digest, is_float, manifest, of_module, size_bytes
from fedrounds_common.case import CaseRef
from fedrounds_common.channels.secure_sum import SecureSum
from fedrounds_common.downwards import pack_down
from fedrounds_common.dp.sums import with_clip
from fedrounds_common.leaving import Ask, Hello, Scores, Share, Statistics, Update, to_wire
from fedrounds_common.masking.field import FIRST
from fedrounds_common.privacy import OUTSIDE, OUTSIDE_OF_HOSPITALS, NoisySteps, NoisySum, Spent, Unit, rounds_of
from fedrounds_common.rng import generator
from fedrounds_common.settling import purposes
from fedrounds_common.strategy import Trained
from fedrounds_common.study.canonical import agreed_tables, study_from_canonical
from fedrounds_common.study.parse import leaves
from fedrounds_common.study.study import Study
from fedrounds_common.task import Task
from fedrounds_sites.own import called
from fedrounds_sites.splits import split

NEVER = "images, labels, file names, scores of single cases, texts of errors"


@final
@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@final
@dataclass(frozen=True)
class Change:
    """One value that is another than in the study last allowed here; "" where there was or is none."""

    key: str
    before: str
    now: str


@final
@dataclass(frozen=True)
class Cases:
    """`found`: that the reader lists, withdrawn ones not among them; bad ones show only when they are opened.
    `withdrawn_nobody`: what withdrawn.csv names and no case here is of."""

    role: str
    found: int
    patients: int
    training: int
    validation: int
    withdrawn: int
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    withdrawn_nobody: tuple[str, ...]


@final
@dataclass(frozen=True)
class Sums:
    """What the task wants to know of all sites' cases together: `when`, over how many `cases` of which kind (`over`)."""

    purpose: str
    when: str
    over: str
    cases: int
    tally: tuple[Tensor, ...]
    bytes: int


@final
@dataclass(frozen=True)
class Leaves:
    """Everything that would leave. Bytes of an update and of scores as they travel, signature and envelope besides.

    `numbers`: scalars beside an update's tensors; `tally`: the arrays of sums that scores are; `sums`: statistics.
    """

    tensors: tuple[Tensor, ...]
    update_bytes: int
    numbers: tuple[str, ...]
    tally: tuple[Tensor, ...]
    scores_bytes: int
    hello: tuple[str, ...]
    sums: tuple[Sums, ...] = ()
    never: str = NEVER


@final
@dataclass(frozen=True)
class Protection:
    """`epsilon` at `delta` over all rounds, None: no bound. `a_round`: of the first one alone; rounds do not just add.
    `others`: what the rounds cost another unit, which is a bill of its own. `limit`: the policy's, of one study. `how`: how
    every step is taken; `sum`: how each round's sum over hospitals is made. `outside`: what no epsilon says anything of.
    `bills`: of all studies so far, and with this one; `budget`, at `budget_delta`: the policy's for each of these."""

    protects: str
    epsilon: float | None
    delta: float | None
    accountant: str
    a_round: float | None
    others: tuple[Spent, ...]
    limit: float | None
    how: NoisySteps | None
    sum: NoisySum | None
    outside: tuple[str, ...]
    bills: tuple[budget.Bill, ...]
    budget: float | None
    budget_delta: float


@final
@dataclass(frozen=True)
class Costs:
    """`state_bytes` on disk beside prepared cases. `seconds_a_round`, `disk_bytes`: measured by a try, None before."""

    rounds: int
    steps_a_round: int
    up_bytes: int
    down_bytes: int
    state_bytes: int
    seconds_a_round: float | None
    disk_bytes: int | None


@final
@dataclass(frozen=True)
class Review:
    """`broken`: the policy's rules that the study breaks; with any of them it cannot be allowed.

    `said`: what was said of it before. `used`: rounds it has trained here. `refused`, `withheld`: why, with the cases
    of today, the site would answer nothing, or send no scores; "" where it would. `kept_back`: the same of statistics,
    by purpose. `seen`: what the coordinator sees of an update, then what else of the channel has to be known;
    `hidden`: it sees sums only.
    """

    study: str
    name: str
    coordinator: str
    run: str
    first: str
    last: str
    times: int
    why: str
    task: Mapping[str, Any]
    model: Mapping[str, Any]
    strategy: Mapping[str, Any]
    compared_with: str
    changes: tuple[Change, ...]
    cases: Cases
    leaves: Leaves
    privacy: Protection
    costs: Costs
    said: str
    used: int
    broken: tuple[str, ...]
    refused: str
    withheld: str
    kept_back: Mapping[str, str]
    seen: tuple[str, ...]
    hidden: bool


def review(home: SiteHome, settings: SiteSettings, asked: Waiting) -> Review:
    """Everything about one study that asks.

    Raises:
        DataError: the site's cases cannot be listed. StudyError: the text is no study.
    """
    parts = parts_of_text(asked.text, settings.plugins)
    study, start = parts.study, of_module(parts.module())
    before, cases = last_allowed(home, settings.name), _cases(home, settings, parts.study)
    leaving, down = _leaves(parts, settings.name, start, asked, cases)
    channel = study.build_channel()
    return Review(
        asked.study, study.name, asked.coordinator, asked.run, asked.first, asked.last, asked.times, asked.why,
        study.task, study.model, study.strategy, before.study if before else "",
        changes(before.text, asked.text, settings) if before else (), cases, leaving, _privacy(home, settings, study),
        _costs(home, asked.study, study, cases, leaving, down, _models_kept(parts) * size_bytes(start)),
        _said(heard(home, settings.name, asked.study)), len(lineage.uses(home, asked.study, "trained")),
        tuple(str(rule) for rule in policy.broken_by(settings.policy, study, settings.plugins)),
        *_too_few(cases, settings.policy.minimum_cases, parts.smallest),
        {each.purpose: why for each in leaving.sums if (why := _kept_back(each, settings.policy, parts.smallest))},
        (channel.seen(), *channel.agreed()), channel.hides_sites,
    )  # fmt: skip


def changes(before: str, now: str, settings: SiteSettings) -> tuple[Change, ...]:
    """Every value of the agreed half that differs between two texts, by dotted key."""
    old, new = (_values(agreed_tables(study_from_canonical(text, settings.plugins))) for text in (before, now))
    keys = [*new, *(key for key in old if key not in new)]
    return tuple(
        Change(key, old.get(key, ""), new.get(key, "")) for key in keys if old.get(key, "") != new.get(key, "")
    )


def _values(tables: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for key in leaves(tables):
        value: Any = tables
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        found[key] = str(value)
    return found


def _cases(home: SiteHome, settings: SiteSettings, study: Study) -> Cases:
    refs = own_of(settings).cases(study)
    names = withdrawn_patients(home)
    gone = called(refs, names)
    nobody = tuple(sorted(name for name in names if not called(refs, [name])))
    kept = tuple(ref for ref in refs if ref.patient not in gone)
    held_out = settings.name in study.cohort.held_out
    train, validation = ((), ()) if held_out else _parted(kept, settings.name, study)
    return Cases(
        "held-out" if held_out else "train", len(kept), len({ref.patient for ref in kept}), len(train),
        len(kept) if held_out else len(validation), len(refs) - len(kept), study.cases.channels,
        tuple(study.cases.labels), nobody,
    )  # fmt: skip


def _too_few(cases: Cases, minimum: int, smallest: int) -> tuple[str, str]:
    """Why the site would refuse everything, and why it would withhold its scores; "" where it would not."""
    rule = f"fewer than policy.minimum_cases = {minimum}"
    train = cases.role == "train"
    answers = cases.training if train else cases.found
    refused = f"{answers} cases to {'train' if train else 'judge'} on, {rule}" if answers < minimum else ""
    if 0 < cases.validation < smallest > minimum:
        return refused, f"{cases.validation} cases to judge on, fewer than the study tells scores of: {smallest}"
    few = 0 < cases.validation < minimum
    return refused, f"{cases.validation} cases to judge on, {rule}" if few else ""


def _kept_back(sums: Sums, rules: Policy, smallest: int) -> str:
    """Why the site would not send these sums; "" where it would."""
    if sums.cases < smallest > rules.minimum_cases:
        return f"{sums.cases} cases to {sums.over} on, fewer than the study tells sums of: {smallest}"
    if sums.cases < rules.minimum_cases:
        return f"{sums.cases} cases to {sums.over} on, fewer than policy.minimum_cases = {rules.minimum_cases}"
    return "" if Statistics.kind in rules.outgoing else f"policy.outgoing has no {Statistics.kind}"


def _parted(refs: tuple[CaseRef, ...], site: str, study: Study) -> tuple[tuple[CaseRef, ...], tuple[CaseRef, ...]]:
    rule = study.evaluation
    both = split(
        refs, site, study.seed, rule.local_validation, folds=rule.folds if rule.by == "patient" else 0, fold=rule.fold
    )
    return both.train, both.validation


def _leaves(parts: Parts, site: str, start: Arrays, asked: Waiting, cases: Cases) -> tuple[Leaves, int]:
    """What leaves, and the bytes that come a round: the very messages, packed here with numbers in place of results."""
    study, consensus = parts.study, parts.strategy.begin(start)
    sent, _ = parts.strategy.send(Trained(start, _as_if_trained(start, study.seed), 1, 1), consensus, {})
    travelling, _ = parts.codec.encode(sent, {}, 0)
    run, nonce, of = asked.run, "0" * 32, asked.study
    update = Update(site, run, 1, nonce, of, 1, 1, 0.1, 0.1, str(study.wire["name"]), travelling)
    tally = parts.task.tally([], study.cases, study.evaluation, 0)
    scores = Scores(site, run, 1, nonce, "consensus", "local-val", 1, tally, of)
    shared = with_clip(consensus.shared, parts.noisy_sum)
    ask = Ask("train", run, 1, nonce, asked.text, of, arrays=consensus.arrays, shared=shared)
    leaves = _as_it_leaves(parts, update)
    up, judged, down = (_bytes(message) for message in (leaves, scores, _as_it_comes(parts, ask)))
    sums = tuple(_sums(parts, site, purpose, asked, cases) for purpose in _asked_of(parts.task, cases))
    return Leaves(
        _tensors(leaves.arrays), up, _scalars(type(leaves)), _tensors(tally), judged, _scalars(Hello), sums
    ), down  # fmt: skip


def _as_it_leaves(parts: Parts, update: Update) -> Update | Share:
    """The update, or where sums hide it the numbers under masks; keys and shares, a few hundred bytes a hospital, besides."""
    channel = parts.study.build_channel()
    if not isinstance(channel, SecureSum):
        return update
    count = FIRST + sum(array.size for array in update.arrays.values())
    numbers = np.zeros(count * channel.numbers.width, np.uint8)
    return Share(update.site, update.run, 1, update.nonce, update.study, "masked", 1, 1, 0.1, {"numbers": numbers})


def _as_if_trained(start: Arrays, seed: int) -> Arrays:
    """Other weights than those, drawn: what a codec makes of no change at all is smaller than any update."""
    draws = generator(seed, "review")
    return {
        name: np.asarray(array + draws.normal(size=array.shape), array.dtype) if is_float(array) else array
        for name, array in start.items()
    }


def _as_it_comes(parts: Parts, ask: Ask) -> Ask:
    """The request of round 1 as the study's codec packs it."""
    if parts.down.exact:
        return ask
    form, coded, held = pack_down(parts.down, ask.arrays, None, 0)
    return replace(ask, arrays=coded, form=form, holds=digest(held))


def _asked_of(task: Task, cases: Cases) -> tuple[str, ...]:
    """For which purposes this site would be asked for sums: a held-out one for none."""
    if cases.role != "train":
        return ()
    return tuple(each for each in purposes(task) if each not in task.of_validation or cases.validation)


def _sums(parts: Parts, site: str, purpose: str, asked: Waiting, cases: Cases) -> Sums:
    """As the sums over no case have them: names and shapes do not depend on how many there are, or the site sends none."""
    study, validates = parts.study, purpose in parts.task.of_validation
    tally = parts.task.gather(purpose, parts.module(), (), study.cases, study.training)
    before = purpose in parts.task.before
    message = Statistics(site, asked.run, 0, "0" * 32, asked.study, purpose, 1, tally)
    return Sums(
        purpose, "before round 1" if before else "after the last round", "judge" if validates else "train",
        cases.validation if validates else cases.training, _tensors(tally), _bytes(message),
    )  # fmt: skip


def _bytes(message: Update | Share | Scores | Statistics | Ask) -> int:
    header, buffer = to_wire(message)
    return len(header.encode()) + len(buffer)


def _tensors(arrays: Arrays) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name, np.dtype(dtype).name, shape, arrays[name].nbytes) for name, dtype, shape in manifest(arrays)
    )


def _scalars(kind: type[Any]) -> tuple[str, ...]:
    return tuple(entry.name for entry in fields(kind) if entry.name not in ("arrays", "tally", "kind"))


def _privacy(home: SiteHome, settings: SiteSettings, study: Study) -> Protection:
    rules, plugins = settings.policy, settings.plugins
    whole, first = (policy.spent_on(study, rounds, plugins) for rounds in (study.training.rounds, 1))
    costs = rounds_of(study.costs_a_round(plugins), study.training.rounds)
    rest = (
        rules.maximum_epsilon, study.noisy_steps(plugins), study.noisy_sum(plugins), _outside(whole),
        budget.bills(home, rules.budget_delta, costs), rules.budget_epsilon, rules.budget_delta,
    )  # fmt: skip
    if not whole:
        return Protection("none", None, None, "", None, (), *rest)
    unit = max(whole, key=policy.PROTECTS.index)
    most, others = whole[unit], tuple(spent for other, spent in whole.items() if other != unit)
    return Protection(unit, most.epsilon, most.delta, most.accountant, first[unit].epsilon, others, *rest)


def _outside(whole: Mapping[Unit, Spent]) -> tuple[str, ...]:
    """What no epsilon of these covers, each said once."""
    said = (*(OUTSIDE if "patient" in whole else ()), *(OUTSIDE_OF_HOSPITALS if "hospital" in whole else ()))
    return tuple(dict.fromkeys(said))


def _costs(
    home: SiteHome, digest: str, study: Study, cases: Cases, leaving: Leaves, down: int, kept_bytes: int
) -> Costs:
    tried = read_table(home.tries / digest[:12] / "try.json") or {}
    measured = tried if tried.get("study") == digest else {}
    return Costs(
        study.training.rounds, steps_per_round(study.training, cases.training) if cases.training else 0,
        leaving.update_bytes, down,
        kept_bytes, measured.get("seconds"), measured.get("disk_bytes"),
    )  # fmt: skip


def _models_kept(parts: Parts) -> int:
    """How many models' bytes stay here for the rounds to come: of each state two moments a weight, the strategy's own and
    what a codec left over, and what differences are from."""
    of_each = 3 if parts.codec.exact else 4
    return KEPT_FILES * of_each + (HELD_FILES if parts.down.differences else 0)


def _said(before: Said | None) -> str:
    if before is None:
        return ""
    bounds = f" for {before.rounds} rounds until {before.until}" if before.allowed else ""
    return f"{'allowed' if before.allowed else 'refused'} by {before.who} on {before.when}{bounds}"
