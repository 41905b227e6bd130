"""How a run is told at its end, on any terminal: plain lines, numbers first, then what to open."""

from __future__ import annotations

from pathlib import Path

from fedrounds_server.compare import Standing, standings
from fedrounds_server.report.carried import carried_in_words
from fedrounds_server.report.folder import RunView, read_run
from fedrounds_server.report.hospitals import main_region
from fedrounds_server.report.models import difference_of, judged_cohort, where
from fedrounds_server.report.results import comparisons, text_of
from fedrounds_server.report.style import count_of
from fedrounds_server.report.table import Table, as_lines
from fedrounds_server.report.words import ended, headline, in_short, lacking
from fedrounds_server.tables import MEAN, MISSING, regions_of, shown


def end_table(run: RunView) -> Table | None:
    """Models by regions on the hospitals that say most: held-out, else the training hospitals' validation."""
    cohort, main = judged_cohort(run), main_region(run)
    every = standings(run.rows, run.metric, cohort, run.seed, lower=run.lower, rankable=run.rankable)
    if not every:
        return None
    by_place = {(one.label, one.region): one for one in every}
    others = [region for region in regions_of(row for row in run.rows if row.metric == run.metric) if region != main]
    pairs = {one.other.label: one for one in comparisons(run) if one.other.region == main}
    digits = run.digits
    rows = []
    for one in (one for one in every if one.region == main):
        pair = pairs.get(one.label)
        beside = (MISSING, "") if pair is None else (difference_of(pair, digits), pair.verdict)
        values = [_value(by_place.get((one.label, region)), digits) for region in others]
        rows.append((run.called(one.label), text_of(one.mean, digits), *values, *beside))
    phantom = ", phantom" if run.phantom else ""
    hospitals, cases = (max(getattr(one, name) for one in every) for name in ("hospitals", "cases"))
    return Table(
        f"mean {run.word} at {where(cohort)}: {count_of(hospitals, 'hospital')}, {cases} cases{phantom}",
        (
            "model",
            f"mean of {run.measures.parts[1]}" if main == MEAN else main,
            *others,
            "consensus minus it",
            "verdict",
        ),
        tuple(rows),
        frozenset({0, len(others) + 3}),
        frozenset(index for index, row in enumerate(rows) if row[0] == "consensus"),
    )


def _value(one: Standing | None, digits: int) -> str:
    return MISSING if one is None else shown(one.mean.value, digits)


def summary(run: Path) -> list[str]:
    """Lines without colour: how it ended, the table, the result in sentences, the files to open.

    Raises:
        RunFileError: not a run folder, or a file in it cannot be read.
    """
    view = read_run(run, with_sites=False)
    table = end_table(view)
    lines = [f"{headline(view)}: {ended(view)}"]
    lines += [f"  {lack}" for lack in lacking(view)]
    lines += ["", *as_lines(table)] if table is not None else []
    lines += ["", *in_short(view)]
    lines += [f"traffic: {told}"] if (told := carried_in_words(view)) else []
    there = [run / name for name in ("report.html", "figures", "metrics.csv", "consensus.safetensors")]
    return [*lines, "", *(f"  {path.name:<22} {path}" for path in there if path.exists())]
