"""What each hospital saw round by round: its training loss, and the consensus's score where it was judged."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from fedrounds_server.report.folder import RunView
from fedrounds_server.report.hospitals import main_region
from fedrounds_server.report.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    VERMILLION,
    Drawing,
    count_of,
    marked,
    panel_title,
    sheet,
    styled,
)
from fedrounds_server.tables import ALL, COHORTS, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Lines = Mapping[str, Mapping[int, float]]  # site → round → value, no nan


@final
@dataclass(frozen=True)
class Band:
    """Over the hospitals of each round: median, 10 % and 90 % quantiles, how many hospitals."""

    rounds: tuple[int, ...]
    median: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    hospitals: tuple[int, ...]


def losses(run: RunView) -> Lines:
    found: dict[str, dict[int, float]] = {}
    for line in run.history:
        for site in line.sites:
            if site.loss is not None:
                found.setdefault(site.site, {})[line.round] = site.loss
    return found


def scores(run: RunView, cohort: str) -> Lines:
    """The consensus's primary measure, by hospital and round."""
    region = main_region(run)
    found: dict[str, dict[int, float]] = {}
    for row in run.rows:
        about = (row.model, row.cohort, row.region, row.metric) == ("consensus", cohort, region, run.metric)
        if about and row.site != ALL and not math.isnan(row.value):
            found.setdefault(row.site, {})[row.round] = row.value
    return found


def band(lines: Lines) -> Band:
    rounds = sorted({round for values in lines.values() for round in values})
    columns = [[values[round] for values in lines.values() if round in values] for round in rounds]
    low, middle, high = (tuple(float(np.quantile(column, q)) for column in columns) for q in (0.1, 0.5, 0.9))
    return Band(tuple(rounds), middle, low, high, tuple(len(column) for column in columns))


def draw_curves(run: RunView) -> Drawing | None:
    """One thin line a hospital, the median and the band that holds 80 % of hospitals; None without any round."""
    panels: list[tuple[str, Lines, bool, str]] = []
    trained = losses(run)
    if trained:
        panels.append((f"Training loss, {count_of(len(trained), 'hospital')}", trained, True, BLUE))
    for cohort in COHORTS:
        judged = scores(run, cohort)
        if len({round for values in judged.values() for round in values}) > 1:
            text = f"{run.word}, {cohort}, {count_of(len(judged), 'hospital')}"
            panels.append((text, judged, run.lower, GREEN))
    if not panels:
        return None
    title = marked("How it went, round by round", run.phantom)
    with styled():
        figure = sheet(title, 2.9 if len(panels) > 1 else 2.6, 7.2 if len(panels) > 1 else 4.4)
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (text, lines, lower_is_better, colour) in zip(grid, panels, strict=True):
            _panel(axes, lines, colour, lower_is_better, _may_be_worst(run, lines is trained))
            panel_title(axes, text)
        _one_scale([axes for axes, (_, lines, _, _) in zip(grid, panels, strict=True) if lines is not trained])
        grid[0].legend(loc="upper right", handlelength=1.6)
    caption = (
        "Thin lines: one hospital each. Thick line: median over the hospitals of that round; band: from the 10 % to "
        "the 90 % quantile. The hospital that ends worst is named."
    )
    return Drawing(
        "curves",
        title,
        caption,
        " ".join(_told(text, band(lines), 2 if lines is trained else run.digits) for text, lines, _, _ in panels),
        figure,
    )


def _one_scale(panels: Sequence[Axes]) -> None:
    """The scores of all cohorts stand on one scale, so that two panels can be compared by eye."""
    limits = [axes.get_ylim() for axes in panels]
    for axes in panels:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _panel(axes: Axes, lines: Lines, colour: str, lower_is_better: bool, ranked: Collection[str] | None) -> None:
    from matplotlib.ticker import MaxNLocator

    for values in lines.values():
        rounds = sorted(values)
        axes.plot(rounds, [values[round] for round in rounds], color=GREY, linewidth=0.5, alpha=0.45)
    over = band(lines)
    axes.fill_between(
        over.rounds, over.low, over.high, color=colour, alpha=0.2, linewidth=0, label="10–90 % of hospitals"
    )
    style = "o-" if len(over.rounds) <= 12 else "-"
    axes.plot(over.rounds, over.median, style, color=colour, linewidth=2, markersize=3.5, label="median")
    _name_worst(axes, lines, over.rounds[-1], lower_is_better, ranked)
    axes.set_xlabel("Round")
    axes.set_xlim(left=over.rounds[0] - 0.03 * max(over.rounds[-1] - over.rounds[0], 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.grid(True, color="#EAEAEA", linewidth=0.6)
    axes.set_axisbelow(True)


def _may_be_worst(run: RunView, of_loss: bool) -> Collection[str] | None:
    """Sites with enough behind their score to be called the worst; None: all."""
    if of_loss:
        return None
    region = main_region(run)
    about = [row for row in run.rows if (row.model, row.region, row.metric) == ("consensus", region, run.metric)]
    return {row.site for row in about if run.rankable(row)}


def _name_worst(axes: Axes, lines: Lines, last: int, lower_is_better: bool, ranked: Collection[str] | None) -> None:
    ends = {
        site: values[last] for site, values in lines.items() if last in values and (ranked is None or site in ranked)
    }
    if len(ends) < 2:
        return
    worst = (max if lower_is_better else min)(sorted(ends), key=lambda site: ends[site])
    rounds = sorted(lines[worst])
    axes.plot(
        rounds, [lines[worst][round] for round in rounds], "--", color=VERMILLION, linewidth=1, label="ends worst"
    )
    axes.annotate(
        worst, (last, ends[worst]), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7, color=INK
    )


def _told(text: str, over: Band, digits: int) -> str:
    first, last, low, high = (
        shown(value, digits) for value in (over.median[0], over.median[-1], over.low[-1], over.high[-1])
    )
    return (
        f"{text}: median {first} in round {over.rounds[0]} and {last} in round "
        f"{over.rounds[-1]}, where 80 % of hospitals lie between {low} and {high}."
    )
