"""What a run's noise promises: epsilon of each hospital's patients, for the rounds that it sent updates in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from fedrounds_common import shelves
from fedrounds_common.errors import UsageError
from fedrounds_common.plugins import validate
from fedrounds_common.privacy import OUTSIDE, Spent
from fedrounds_common.study.tables import Training
from fedrounds_server.report.folder import RunView, table_of
from fedrounds_server.report.style import count_of

SHOWN = 8  # hospitals that are named; of more, the least and the most


def spent_by(run: RunView) -> Mapping[str, Spent]:
    """Hospital → what it has spent by the coordinator's books; {} without a measure that these can account for.

    A hospital's own books may hold more: of rounds that it trained and whose update never came.
    """
    training, _ = validate(Training, table_of(run.study, "training"), "training")
    tables = run.study.get("privacy") or ()
    if training is None or not tables or not isinstance(tables, list | tuple):
        return {}
    try:
        measure = shelves.PRIVACY.load(dict(tables[0]))
    except UsageError:  # a user's own, whose folder is not here
        return {}
    rounds = Counter(site.site for line in run.history for site in line.sites if site.bytes_up)
    sites = [len(line.ok) for line in run.history]
    return {name: measure.spent(training, sites[:count]) for name, count in sorted(rounds.items())}


def told(run: RunView) -> tuple[str, ...]:
    """In words: who is protected, by how much, and what lies outside; () of a run without noise."""
    found = spent_by(run)
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
        f"Outside that promise: {'; '.join(OUTSIDE)}; a model trained on initial_sites, and the models that a simulation trains "
        "beside the consensus.",
    )
