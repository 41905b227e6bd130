"""What a run's noise promises, by whose bill: of each hospital's patients, and of each hospital among the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from fedrounds_common import chain, shelves
from fedrounds_common.dp.accounting import epsilon
from fedrounds_common.errors import RunFileError, UsageError
from fedrounds_common.plugins import validate
from fedrounds_common.privacy import OUTSIDE, OUTSIDE_OF_HOSPITALS, NoisySum, Privacy, Spent
from fedrounds_common.study.tables import Cohort, Training
from fedrounds_server.folder import RunFolder
from fedrounds_server.report.folder import RunView, table_of
from fedrounds_server.report.style import count_of
from fedrounds_server.report.table import Table

SHOWN = 8  # hospitals that are named; of more, the least and the most
BAR = 20  # characters
OTHERS = "a model trained on initial_sites, and the models that a simulation trains beside the consensus"


def spent_by(run: RunView) -> Mapping[str, Spent]:
    """Hospital → what its patients have spent by the coordinator's books; {} without a measure that protects them.

    A hospital's own books may hold more: of rounds that it trained and whose update never came.
    """
    training, measure = _training(run), _measure(run, "patient")
    if training is None or measure is None:
        return {}
    rounds = Counter(site.site for line in run.history for site in line.sites if site.bytes_up)
    sites = [len(line.ok) for line in run.history]
    found = {name: measure.spent(training, sites[:count]) for name, count in sorted(rounds.items())}
    return {name: spent for name, spent in found.items() if spent is not None}


def spent_on_hospitals(run: RunView) -> tuple[int, Spent] | None:
    """Noisy rounds in the run's own book, and what each hospital has spent in them; None of a study that hides none.

    Raises:
        RunFileError: FR-F40 the book is not as it was written.
    """
    training, measure = _training(run), _measure(run, "hospital")
    if training is None or measure is None:
        return None
    rounds = len(chain.read(RunFolder(run.path).spent))
    spent = measure.spent(training, [1] * rounds)
    return None if spent is None else (rounds, spent)


def told(run: RunView) -> tuple[str, ...]:
    """In words: who is protected, by how much, and what lies outside; () of a run without noise or least groups."""
    few = max((measure.smallest() for measure in _measures(run)), default=0)
    least = f"Of fewer than {few} cases no hospital told scores or sums, and they are in no total either."
    return (*_of_patients(spent_by(run)), *_of_hospitals(run), *([least] if few else []))


def _of_patients(found: Mapping[str, Spent]) -> Sequence[str]:
    if not found:
        return ()
    some = next(iter(found.values()))
    values = sorted((spent.epsilon, name) for name, spent in found.items())
    each = ", ".join(f"{name} {found[name].epsilon:.3g}" for name in found)
    if len(found) > SHOWN:
        each = f"from {values[0][0]:.3g} ({values[0][1]}) to {values[-1][0]:.3g} ({values[-1][1]})"
    return (
        f"Epsilon at delta {some.delta:g}, for each {some.unit} of {count_of(len(found), 'hospital')}, as {some.accountant} counts: "
        f"{each}. It bounds what all of a hospital's updates, and whatever is made of them, can tell of one {some.unit}'s images. "
        f"Who was treated at two hospitals has spent both.",
        f"Outside that promise: {'; '.join(OUTSIDE)}; {OTHERS}.",
    )


def _of_hospitals(run: RunView) -> Sequence[str]:
    try:
        found = spent_on_hospitals(run)
    except RunFileError as error:
        return (f"What hospitals have spent cannot be told: {error}.",)
    if found is None:
        return ()
    rounds, spent = found
    beside = " It is a bill of its own, and is not added to that of patients." if spent_by(run) else ""
    return (
        f"Epsilon at delta {spent.delta:g}, for each hospital as a whole, as {spent.accountant} counts: {spent.epsilon:.3g} for "
        f"{count_of(rounds, 'noisy round')} in the run's own book. It bounds what all models of the run, and whatever is made "
        f"of them, can tell of one hospital's part in them.{beside} {_against(run, rounds, spent)}",
        f"Outside that promise: {'; '.join(OUTSIDE_OF_HOSPITALS)}; {OTHERS}.",
    )


def _against(run: RunView, rounds: int, spent: Spent) -> str:
    """Whom that promise holds against."""
    how = _noisy_sum(run)
    if how is None:
        return ""
    channel = str(table_of(table_of(run.study, "wire"), "channel").get("name", "plain"))
    if how.hand == "coordinator" and channel == "plain":
        said = "It holds against whoever sees the models, and not against the coordinator, who saw each update before the noise."
    elif how.hand == "coordinator":
        said = "It holds against whoever sees the models, and not against the coordinator, who saw their sum before the noise."
    elif channel == "plain":
        said = (
            "Each hospital added a share of the noise. The coordinator saw each update with that share alone, and against it the "
            "promise does not hold."
        )
    else:
        said = (
            "Each hospital added a share of the noise, and the coordinator saw their sum only: the promise holds against it too, "
            "less the shares of hospitals that tell it theirs."
        )
    if how.rate == 1:
        return said
    whole = epsilon("rdp", how.whole, 1.0, rounds, spent.delta)
    return (
        f"{said} It is so small for those only who never learn who was drawn; who reads this report or the run's books does, and "
        f"for them it is {whole:.3g}."
    )


def _noisy_sum(run: RunView) -> NoisySum | None:
    training, measure = _training(run), _measure(run, "hospital")
    cohort = validate(Cohort, table_of(run.study, "cohort"), "cohort")[0]
    return None if training is None or cohort is None or measure is None else measure.sum(training, cohort)


def spent_table(run: RunView) -> Table | None:
    """Each unit's bill as a bar: what is spent of what all of the study's rounds may cost."""
    training, patients = _training(run), spent_by(run)
    try:
        hospital = spent_on_hospitals(run)
    except RunFileError:
        hospital = None
    rows = []
    if patients:
        most = max(patients.values(), key=lambda spent: spent.epsilon)
        rows.append(_row(run, training, most, len(run.history)))
    if hospital is not None:
        rows.append(_row(run, training, hospital[1], hospital[0]))
    if not rows:
        return None
    columns = ("For each", "Noisy rounds", "Epsilon", "Of at most", "Delta", "Counted by", "Spent")
    note = "Of patients: where most is spent. The bills are of two units and are not added up." if len(rows) > 1 else ""
    return Table("What was spent of the promised privacy", columns, tuple(rows), frozenset({0, 5, 6}), note=note)


def _row(run: RunView, training: Training | None, spent: Spent, rounds: int) -> tuple[str, ...]:
    measure = _measure(run, spent.unit)
    assert measure is not None
    assert training is not None
    whole = measure.spent(training, [1] * training.rounds)
    most = spent.epsilon if whole is None else whole.epsilon
    full = min(BAR, round(BAR * spent.epsilon / most)) if most else 0
    return (
        spent.unit, str(rounds), f"{spent.epsilon:.3g}", f"{most:.3g}", f"{spent.delta:g}", spent.accountant,
        "█" * full + "░" * (BAR - full),
    )  # fmt: skip


def _training(run: RunView) -> Training | None:
    return validate(Training, table_of(run.study, "training"), "training")[0]


def _measures(run: RunView) -> tuple[Privacy, ...]:
    tables = run.study.get("privacy") or ()
    found = []
    for table in tables if isinstance(tables, list | tuple) else ():
        try:
            found.append(shelves.PRIVACY.load(dict(table)))
        except UsageError:  # a user's own, whose folder is not here
            continue
    return tuple(found)


def _measure(run: RunView, unit: str) -> Privacy | None:
    return next((measure for measure in _measures(run) if measure.unit == unit), None)
