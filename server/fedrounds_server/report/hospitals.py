"""The score at every hospital: a box a hospital where cases may be read, else its mean with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, final

import numpy as np

from fedrounds_server.report.folder import RunView
from fedrounds_server.report.style import BLUE, GREY, INK, ORANGE, Drawing, count_of, marked, sheet, styled
from fedrounds_server.tables import (
    ALL,
    COHORTS,
    MEAN,
    MetricRow,
    final_rows,
    regions_of,
    shown,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST_FOR_A_BOX = 5


@final
@dataclass(frozen=True)
class Place:
    """One hospital on the axis. `values` are its cases', empty where only the mean is known."""

    site: str
    cohort: str
    cases: int
    middle: float
    low: float
    high: float
    values: tuple[float, ...]
    ranked: bool = True


def places(run: RunView) -> tuple[Place, ...]:
    """Each hospital in the most telling cohort it was judged in, lowest first; those that may not be ranked last."""
    rows = _consensus_rows(run)
    by_case: dict[tuple[str, str], list[float]] = {}
    region = main_region(run)
    for case in run.cases:
        if case.region == region and not math.isnan(case.value):
            by_case.setdefault((case.site, case.cohort), []).append(case.value)
    found = []
    for site, row in rows.items():
        values = tuple(sorted(by_case.get((site, row.cohort), ())))
        middle = median(values) if values else row.value
        if not math.isnan(middle):
            cases = len(values) if values else row.n
            found.append(Place(site, row.cohort, cases, middle, row.low, row.high, values, run.rankable(row)))
    return tuple(sorted(found, key=lambda place: (not place.ranked, place.middle if place.ranked else 0.0, place.site)))


def _consensus_rows(run: RunView) -> Mapping[str, MetricRow]:
    """Site → the consensus's last line there, held-out before local-val before train."""
    region = main_region(run)
    found: dict[str, MetricRow] = {}
    for row in final_rows(row for row in run.rows if row.model == "consensus"):
        if row.site != ALL and row.metric == run.metric and row.region == region:
            known = found.get(row.site)
            if known is None or _rank(row.cohort) < _rank(known.cohort):
                found[row.site] = row
    return found


def _rank(cohort: str) -> int:
    return COHORTS.index(cohort) if cohort in COHORTS else len(COHORTS)


def main_region(run: RunView) -> str:
    """ "mean", or the only region there is."""
    regions = regions_of(row for row in run.rows if row.metric == run.metric)
    return regions[0] if regions else MEAN


def draw_hospitals(run: RunView) -> Drawing | None:
    """Box plot of the primary measure at every hospital, ordered by median; None where nothing was judged."""
    found = places(run)
    if not found:
        return None
    by_case = any(place.values for place in found)
    word = run.word
    title = marked(f"{word} of the consensus at each hospital", run.phantom)
    with styled():
        figure = sheet(title, 3.4)
        axes = figure.add_subplot()
        for index, place in enumerate(found):
            _box(axes, index, place)
        _frame(axes, found, run)
        _legend(figure, found, by_case)
        axes.set_title(_stated(run, found), loc="left", fontsize=7, color=GREY)
    return Drawing("hospitals", title, _caption(by_case, run), _alt(found, run, by_case), figure)


def _box(axes: Axes, index: int, place: Place) -> None:
    colour = _colour(place)
    if len(place.values) >= FEWEST_FOR_A_BOX:
        axes.boxplot(
            [list(place.values)], positions=[index], widths=0.62, showfliers=False, patch_artist=True, manage_ticks=False,
            boxprops={"facecolor": colour, "alpha": 0.28, "edgecolor": colour, "linewidth": 0.8},
            medianprops={"color": INK, "linewidth": 1.4}, whiskerprops={"color": colour, "linewidth": 0.8},
            capprops={"color": colour, "linewidth": 0.8},
        )  # fmt: skip
    if place.values:
        # the golden ratio spreads any number of dots evenly, and the same way each time
        spread = index + 0.44 * ((np.arange(len(place.values)) * 0.618034) % 1 - 0.5)
        axes.plot(spread, place.values, _marker(place), color=colour, markersize=2.2, alpha=0.75, markeredgewidth=0)
        if len(place.values) < FEWEST_FOR_A_BOX:
            axes.plot([index - 0.31, index + 0.31], [place.middle] * 2, color=INK, linewidth=1.4)
    else:
        below, above = place.middle - place.low, place.high - place.middle
        if not math.isnan(below) and not math.isnan(above):
            axes.errorbar(
                index, place.middle, [[max(below, 0)], [max(above, 0)]], color=colour, linewidth=1.0, capsize=1.5
            )
        axes.plot(index, place.middle, _marker(place), color=colour, markersize=4, markeredgewidth=0)


def _colour(place: Place) -> str:
    return ORANGE if place.cohort == "held-out" else BLUE


def _marker(place: Place) -> str:
    return "D" if place.cohort == "held-out" else "o"


def _frame(axes: Axes, found: Sequence[Place], run: RunView) -> None:
    size = 7 if len(found) <= 40 else 5.5
    labels = [
        f"{place.site} (n={place.cases})" if len(found) <= 40 else f"{place.site} ({place.cases})" for place in found
    ]
    axes.set_xticks(range(len(found)), labels, rotation=90, fontsize=size)
    for label, place in zip(axes.get_xticklabels(), found, strict=True):
        label.set_fontweight("bold" if place.cohort == "held-out" else "normal")
    axes.set_xlim(-0.7, len(found) - 0.3)
    axes.set_ylabel(run.word)
    if not run.lower and all(0 <= value <= 1 for place in found for value in (place.middle, *place.values)):
        axes.set_ylim(-0.02, 1.02)
        axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.grid(True, color="#EAEAEA", linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(figure: Figure, found: Sequence[Place], by_case: bool) -> None:
    from matplotlib.lines import Line2D

    what = "a case" if by_case else "the mean"
    entries = []
    for cohort, words in (
        ("held-out", "hospital that never trained (held-out, name in bold)"),
        ("", "hospital that trained"),
    ):
        members = [place for place in found if (place.cohort == "held-out") == (cohort == "held-out")]
        if members:
            text = f"{what} at a {words}"
            entries.append(
                Line2D(
                    [],
                    [],
                    linestyle="",
                    marker=_marker(members[0]),
                    color=_colour(members[0]),
                    markersize=4,
                    label=text,
                )
            )
    figure.legend(handles=entries, loc="outside lower left", ncols=2)


def _stated(run: RunView, found: Sequence[Place]) -> str:
    parts = [f"{count_of(len(found), 'hospital')}, {count_of(sum(place.cases for place in found), 'case')}"]
    region = main_region(run)
    one, several = run.measures.parts
    parts.append(f"mean of the {several}" if region == MEAN else f"{one} {region}")
    ranked = [place for place in found if place.ranked]
    if ranked:
        worst = ranked[-1] if run.lower else ranked[0]
        middle = "median" if worst.values else "mean"
        parts.append(f"worst {middle}: {worst.site} at {shown(worst.middle, run.digits)}")
    if len(ranked) < len(found):
        parts.append(f"the last {len(found) - len(ranked)} by name: too few cases to rank")
    return " · ".join(parts)


def _caption(by_case: bool, run: RunView) -> str:
    if by_case:
        text = (
            "Each dot is one case; box: middle half of the cases, line: median, whiskers: to 1.5 times the box. "
            f"Hospitals with fewer than {FEWEST_FOR_A_BOX} cases have no box. Ordered by median."
        )
    else:
        text = (
            f"Mean of each hospital with its 95 % interval ({run.unit}s resampled), ordered by mean. "
            "The scores of single cases stay at the hospitals."
        )
    return text + " Hospitals that trained are shown on their own validation cases."


def _alt(found: Sequence[Place], run: RunView, by_case: bool) -> str:
    kind = "Box plot" if by_case else "Dot plot with intervals"
    middle = "median" if by_case else "mean"
    first, last = found[0], found[-1]
    return (
        f"{kind} of {run.word} at {count_of(len(found), 'hospital')}, ordered by {middle}: from {shown(first.middle, run.digits)} at "
        f"{first.site} ({count_of(first.cases, 'case')}) to {shown(last.middle, run.digits)} at {last.site} "
        f"({count_of(last.cases, 'case')})."
    )
