"""What federating was worth, drawn: each model's mean, and the consensus's paired difference to it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fedrounds_server.compare import Comparison, Contestant, Standing, compare, contestants, standings
from fedrounds_server.intervals import Interval, worth
from fedrounds_server.report.folder import RunView
from fedrounds_server.report.hospitals import main_region
from fedrounds_server.report.style import (
    BLUE,
    GREY,
    INK,
    Drawing,
    count_of,
    marked,
    panel_title,
    sheet,
    styled,
)
from fedrounds_server.tables import MEAN, cohort_to_show, shown, shown_difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def judged_cohort(run: RunView) -> str:
    """The cohort that models are compared on."""
    return cohort_to_show(row for row in run.rows if row.metric == run.metric and row.model == "consensus")


def difference_of(one: Comparison, digits: int) -> str:
    """The difference and its interval, to one digit more than the `digits` of the measure itself."""
    found = one.told
    return shown_difference(found.value, found.low, found.high, digits + 1)


def draw_models(run: RunView) -> Drawing | None:
    """Means with intervals on the left, differences to the consensus on the right; None without another model."""
    cohort, region = judged_cohort(run), main_region(run)
    every = [
        one
        for one in standings(run.rows, run.metric, cohort, run.seed, lower=run.lower, rankable=run.rankable)
        if one.region == region
    ]
    every_pair = compare(run.rows, run.metric, cohort, run.seed, lower=run.lower, drawn=run.drawn)
    pairs = {one.other.label: one for one in every_pair if one.other.region == region}
    if not pairs:
        return None
    word, digits = run.word, run.digits
    title = marked(f"What federating was worth: {word} at {where(cohort)}", run.phantom)
    people = contestants(run.rows, run.metric, cohort, lower=run.lower)
    with styled():
        figure = sheet(title, 1.35 + 0.3 * len(every))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.05, 1))
        _means(left, every, people, region, run)
        _differences(right, every, pairs, run)
    hospitals = max(one.hospitals for one in every)
    caption = (
        f"{count_of(hospitals, 'hospital')}. Left: mean over hospitals with its 95 % interval; small dots: one hospital "
        f"each. Right: consensus minus the other model, {_paired(pairs.values(), run.unit)}. "
        f"An interval that holds 0 shows nothing. {worth(hospitals)} {_hindsight(pairs.values())}"
    )
    return Drawing("models", title, " ".join(caption.split()), _alt(every, pairs, word, digits), figure)


def _paired(pairs: Iterable[Comparison], unit: str) -> str:
    if any(one.is_over_cases for one in pairs):
        return f"over the cases of that one hospital, {unit}s resampled: nothing is said about other hospitals"
    return "paired by hospital; hospitals resampled 10,000 times"


def where(cohort: str) -> str:
    return {
        "held-out": "hospitals that never trained",
        "local-val": "the training hospitals' validation cases",
        "train": "training cases",
    }.get(cohort, cohort)


def _hindsight(pairs: Iterable[Comparison]) -> str:
    return " ".join(f"{one.other.label}: {one.note}." for one in pairs if one.note)


def _means(axes: Axes, every: Sequence[Standing], people: Mapping[str, Contestant], region: str, run: RunView) -> None:
    for index, one in enumerate(every):
        ours = one.label == "consensus"
        values = list(people[one.label].values(region).values())
        heights = [index + 0.3 * ((order * 0.618034) % 1 - 0.5) for order in range(len(values))]
        axes.plot(values, heights, "o", color=GREY, markersize=2, alpha=0.45, markeredgewidth=0)
        _with_interval(axes, one.mean, index, BLUE if ours else INK, "D" if ours else "o")
        if ours:
            axes.axhspan(index - 0.45, index + 0.45, color=BLUE, alpha=0.08, linewidth=0)
    axes.set_yticks(
        range(len(every)), [f"{run.called(one.label)}\n{shown(one.mean.value, run.digits)}" for one in every]
    )
    for label, one in zip(axes.get_yticklabels(), every, strict=True):
        label.set_fontweight("bold" if one.label == "consensus" else "normal")
    axes.set_ylim(len(every) - 0.4, -0.6)
    axes.set_xlabel(run.word)
    axes.xaxis.grid(True, color="#EAEAEA", linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    panel_title(axes, f"Mean over {count_of(max(one.hospitals for one in every), 'hospital')}")


def _with_interval(axes: Axes, interval: Interval, height: float, colour: str, marker: str) -> None:
    if not math.isnan(interval.low):
        axes.plot([interval.low, interval.high], [height, height], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot(
        [interval.value], [height], marker, color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.5
    )


def _differences(axes: Axes, every: Sequence[Standing], pairs: Mapping[str, Comparison], run: RunView) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.axvline(0, color=GREY, linewidth=0.8)
    for index, one in enumerate(every):
        pair = pairs.get(one.label)
        if pair is None:
            if one.label != "consensus":
                axes.annotate(
                    "no gain printed", (1.02, index), xycoords=("axes fraction", "data"), va="center", fontsize=6.5
                )
            continue
        shown_one = pair.shown
        _with_interval(axes, pair.told, index, INK if shown_one else GREY, "s" if shown_one else "o")
        text = f"{difference_of(pair, run.digits)}\n{pair.verdict}"
        axes.annotate(text, (1.02, index), xycoords=("axes fraction", "data"), va="center", fontsize=6.5)
    _symmetric(axes, pairs)
    better = "← consensus better" if run.lower else "consensus better →"
    axes.set_xlabel(f"Difference  ({better})")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.grid(True, color="#EAEAEA", linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    panel_title(axes, "Consensus minus the other")


def _symmetric(axes: Axes, pairs: Mapping[str, Comparison]) -> None:
    # zero always in view, with room on the smaller side, so that a small gain cannot fill the page
    ends = [number for one in pairs.values() for number in (one.told.value, one.told.low, one.told.high)]
    reach = max((abs(number) for number in ends if not math.isnan(number)), default=0.1) or 0.1
    low = min((number for number in ends if not math.isnan(number)), default=0.0)
    high = max((number for number in ends if not math.isnan(number)), default=0.0)
    axes.set_xlim(min(low, 0) - 0.12 * reach, max(high, 0) + 0.12 * reach)


def _alt(every: Sequence[Standing], pairs: Mapping[str, Comparison], word: str, digits: int) -> str:
    means = ", ".join(f"{one.label} {shown(one.mean.value, digits)}" for one in every)
    told = "; ".join(f"{label} {difference_of(one, digits)}, {one.verdict}" for label, one in pairs.items())
    return f"Mean {word} over hospitals: {means}. Consensus minus the other model: {told}."


def draw_regions(run: RunView) -> Drawing | None:
    """The differences region by region; None where there is one region only."""
    cohort = judged_cohort(run)
    every = compare(run.rows, run.metric, cohort, run.seed, lower=run.lower, drawn=run.drawn)
    pairs = [one for one in every if one.other.region != MEAN]
    regions = list(dict.fromkeys(one.other.region for one in pairs))
    if len(regions) < 2:
        return None
    labels = list(dict.fromkeys(one.other.label for one in pairs))
    title = marked(
        f"The same, {run.measures.parts[0]} by {run.measures.parts[0]}: difference in {run.word}", run.phantom
    )
    with styled():
        figure = sheet(title, 1.15 + 0.26 * len(labels))
        grid = figure.subplots(1, len(regions), sharex=True, sharey=True, squeeze=False)[0]
        for axes, region in zip(grid, regions, strict=True):
            axes.axvline(0, color=GREY, linewidth=0.8)
            for one in pairs:
                if one.other.region == region:
                    colour, marker = (INK, "s") if one.shown else (GREY, "o")
                    _with_interval(axes, one.told, labels.index(one.other.label), colour, marker)
            axes.set_yticks(range(len(labels)), labels)
            axes.set_ylim(len(labels) - 0.4, -0.6)
            axes.xaxis.grid(True, color="#EAEAEA", linewidth=0.6)
            axes.tick_params(axis="y", length=0)
            panel_title(axes, region)
        figure.supxlabel("Consensus minus the other model, 95 % interval", fontsize=8)
    caption = "Black squares: the interval excludes 0 on at least five hospitals. Grey dots: not shown."
    told = "; ".join(f"{one.other.region}, {one.other.label}: {one.verdict}" for one in pairs)
    return Drawing("regions", title, caption, f"Differences by {run.measures.parts[0]}. {told}.", figure)
