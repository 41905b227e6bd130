"""The tables of a report about models: each beside the consensus, by region, and the gap to pooled."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from fedrounds_server.compare import POOLED, Comparison, Standing, compare, standings
from fedrounds_server.gap import Gap, gap
from fedrounds_server.intervals import Interval, worth
from fedrounds_server.report.folder import RunView
from fedrounds_server.report.hospitals import main_region
from fedrounds_server.report.models import difference_of, judged_cohort, where
from fedrounds_server.report.table import Table
from fedrounds_server.tables import (
    MEAN,
    MISSING,
    shown_difference,
    shown_interval,
    shown_percent,
)

# what stands in the tables beside the consensus, for a reader who meets it the first time
MEANINGS = {
    "floor": "the best rule that learns nothing",
    "untrained": "random weights; no gain over them is printed",
    "initial": "what round 1 started from",
    "own local-only": "each hospital's own model, at that hospital",
    "best local-only": "the best of the models that one hospital trained alone",
    "local-only": "a model that one hospital trained alone",
    "local-only-long": "one hospital alone, with as many steps as pooled",
    "personal": "each hospital's own version of the consensus, at that hospital",
    "ensemble": "the mean probability of models that hospitals trained alone",
    "consensus": "the federation's model",
    "pooled": "all cases in one place, with as many steps as all hospitals together",
}
NO_BREAK = "\u00a0"


def text_of(interval: Interval, digits: int) -> str:
    return shown_interval(interval.value, interval.low, interval.high, digits)


def models_table(run: RunView) -> Table | None:
    """Each model on the hospitals it was judged at, with the consensus's paired difference to it."""
    cohort, region = judged_cohort(run), main_region(run)
    every = [
        one
        for one in standings(run.rows, run.metric, cohort, run.seed, lower=run.lower, rankable=run.rankable)
        if one.region == region
    ]
    if not every:
        return None
    pairs = {one.other.label: one for one in comparisons(run) if one.other.region == region}
    hospitals = max(one.hospitals for one in every)
    counts = (" / ".join(run.counts.words),) if run.counts.words else ()
    notes = [f"{label}: {one.note}." for label, one in pairs.items() if one.note]
    by_region = [f"{name} by {rule}" for name, rule in run.floor.items() if name]
    notes += [f"floor: {'; '.join(by_region)}."] if by_region and any(one.model == "floor" for one in every) else []
    return Table(
        f"Mean {run.word} at {where(cohort)}{phantom_mark(run)}: each model, and the consensus minus it",
        (
            "Model",
            "Mean over hospitals",
            "Mean over cases",
            "Cases",
            "Consensus minus it",
            "Better at",
            "Verdict",
            "Worst hospital",
            *(word[:1].upper() + word[1:] for word in counts),
        ),
        tuple(_model_row(one, pairs.get(one.label), run, bool(counts)) for one in every),
        frozenset({0, 6, 7}),
        frozenset(index for index, one in enumerate(every) if one.label == "consensus"),
        " ".join(
            [
                f"{hospitals} hospitals.", _RESAMPLED, *notes, intervals_are(hospitals, pairs.values(), run.unit),
                *margin_sentences(to_pooled(run), run.margin, run.digits),
            ]
        ).strip(),
    )  # fmt: skip


_RESAMPLED = (
    "95 % intervals: hospitals resampled 10,000 times (differences paired by hospital); of the mean over cases, patients "
    "resampled. Not shown: the interval holds 0. Nothing counts as shown on fewer than five hospitals."
)


def _model_row(one: Standing, pair: Comparison | None, run: RunView, counted: bool) -> tuple[str, ...]:
    digits = run.digits
    if pair is not None:
        beside = (difference_of(pair, digits), f"{pair.better} of {pair.other.hospitals}", pair.verdict)
    elif one.model == "untrained":
        beside = (MISSING, MISSING, "no gain printed")
    else:
        beside = (MISSING, MISSING, "")
    return (
        run.called(one.label),
        text_of(one.mean, digits),
        text_of(one.by_cases, digits),
        str(one.cases),
        *beside,
        f"{one.worst_site}: {one.worst:.{digits}f}" if one.worst_site else MISSING,
        *((f"{one.empty} / {one.missed} / {one.spurious}",) if counted else ()),
    )


def phantom_mark(run: RunView) -> str:
    return " (phantom)" if run.phantom else ""


def comparisons(run: RunView) -> tuple[Comparison, ...]:
    return compare(run.rows, run.metric, judged_cohort(run), run.seed, lower=run.lower, drawn=run.drawn)


def to_pooled(run: RunView) -> Comparison | None:
    """The consensus beside `pooled`, in the row that the study is about."""
    found = (one for one in comparisons(run) if one.other.label == POOLED and one.other.region == main_region(run))
    return next(found, None)


def gap_of(run: RunView) -> Gap | None:
    found = gap(run.rows, run.metric, judged_cohort(run), main_region(run), run.seed, lower=run.lower)
    beside = to_pooled(run)
    return replace(found, left=beside.told) if found is not None and beside is not None else found


def margin_sentences(pair: Comparison | None, margin: float | None, digits: int) -> tuple[str, ...]:
    """What can be said of the margin that the study names; nothing where it names none.

    `digits` of the measure itself.
    """
    if margin is None:
        return ()
    named = f"by more than {margin:g}, the margin named before"
    if pair is None:
        return (f"Whether it is worse than pooled {named}, is not judged: no pooled model stands beside it.",)
    said = {
        "within the margin": f"It is not worse than pooled {named}",
        "worse": f"It is worse than pooled {named}",
        "not shown": f"Whether it is worse than pooled {named}, is not shown either way",
        "too few hospitals": f"Whether it is worse than pooled {named}, cannot be told from so few hospitals",
    }[pair.beside_margin(margin)]
    over = ", over its cases" if pair.is_over_cases else ""
    return (f"{said} (consensus − pooled = {difference_of(pair, digits)}{over}).",)


def intervals_are(hospitals: int, pairs: Iterable[Comparison], unit: str) -> str:
    """Whom the intervals of differences speak of, and what they are worth; empty where that is known."""
    known = tuple(pairs)
    if any(one.is_over_cases for one in known):
        return (
            f"{worth(hospitals)} Intervals of differences are over its cases ({unit}s resampled, the same draws for every model); "
            "they say nothing about other hospitals."
        )
    return (
        f"{worth(hospitals)} Over its cases this run has none either." if hospitals == 1 and known else worth(hospitals)
    )


def gap_sentence(way: Gap, digits: int) -> str:
    """How much of the gap from initial to pooled is closed, and what is left of it.

    `digits` of the measure itself; what is left is printed to one more.
    """
    left = f"consensus − pooled = {shown_difference(way.left.value, way.left.low, way.left.high, digits + 1)}"
    if math.isnan(way.share.value):
        return f"The share of the gap from initial to pooled cannot be given ({way.note}); {left}."
    percent = shown_percent(way.share.value)
    if not math.isnan(way.share.low):
        percent += f" [{shown_percent(way.share.low)}, {shown_percent(way.share.high)}]"
    note = f" ({way.note})" if "share has no interval" in way.note else ""
    return f"It closes {percent} of the gap from initial to pooled{note}; {left}."


def meanings(table: Table) -> tuple[str, ...]:
    """A line for each model of the table."""
    names = [row[0].partition(" (")[0] for row in table.rows]
    return tuple(f"{name}: {MEANINGS[name]}." for name in names if name in MEANINGS)


def regions_table(run: RunView) -> Table | None:
    """The differences region by region; None where there is one region only."""
    pairs = [one for one in comparisons(run) if one.other.region != MEAN]
    regions = tuple(dict.fromkeys(one.other.region for one in pairs))
    if len(regions) < 2:
        return None
    by_place = {(one.other.label, one.other.region): one for one in pairs}
    labels = list(dict.fromkeys(one.other.label for one in pairs))
    rows = []
    for label in labels:
        cells = [by_place.get((label, region)) for region in regions]
        rows.append((run.called(label), *(MISSING if one is None else _with_verdict(one, run.digits) for one in cells)))
    caption = f"Consensus minus the other model, {run.word} by {run.measures.parts[0]}{phantom_mark(run)}"
    return Table(caption, ("Model", *regions), tuple(rows), frozenset(range(len(regions) + 1)))


def _with_verdict(one: Comparison, digits: int) -> str:
    # the interval stays in one piece where a narrow page breaks the line
    return f"{difference_of(one, digits).replace(' ', NO_BREAK)}, {one.verdict.replace(' ', NO_BREAK)}"
