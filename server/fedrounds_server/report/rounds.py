"""Who took part in each round, how long it took and how much crossed the network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from fedrounds_server.history import RoundLine
from fedrounds_server.report.folder import RunView
from fedrounds_server.report.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Drawing,
    count_of,
    marked,
    panel_title,
    sheet,
    styled,
)
from fedrounds_server.tables import shown_bytes, shown_percent, shown_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# kind → (colour, letter in the cell, words)
STATES = {
    "ok": ("#CFE5F3", "", "took part"),
    "late": (ORANGE, "L", "late"),
    "error": (VERMILLION, "E", "failed"),
    "refused": (PURPLE, "R", "refused"),
    "absent": ("#EFEFEF", "–", "absent"),
}
BARS = 20  # rounds up to which traffic is drawn as bars
MANY = 40  # hospitals above which those that never missed a round share one line


def kind_of(state: str) -> str:
    """The state without its code: ok, late, error, refused or absent."""
    return state.split(":", 1)[0]


def traffic(history: Sequence[RoundLine]) -> tuple[int, int]:
    """Bytes from the hospitals and to them, over all rounds."""
    up = sum(site.bytes_up for line in history for site in line.sites)
    return up, sum(site.bytes_down for line in history for site in line.sites)


def draw_traffic(run: RunView) -> Drawing | None:
    """Time and bytes of each round; None without a finished round."""
    if not run.history:
        return None
    up, down = traffic(run.history)
    seconds = math.fsum(line.seconds for line in run.history)
    title = marked("Time and traffic of each round", run.phantom)
    with styled():
        figure = sheet(title, 2.6)
        left, right = figure.subplots(1, 2)
        _times(left, run.history)
        _bytes(right, run.history)
    waited = _waiting(run.history)
    caption = (
        f"{count_of(len(run.history), 'round')}, {shown_seconds(seconds)} in all; {shown_bytes(up)} left the hospitals and "
        f"{shown_bytes(down)} went to them. The median hospital worked {shown_percent(waited)} as long as the slowest of its round."
    )
    return Drawing("traffic", title, caption, f"Bars for each round. {caption}", figure)


def _waiting(history: Sequence[RoundLine]) -> float:
    """Median over rounds of (median hospital's seconds / slowest hospital's)."""
    shares = []
    for line in history:
        times = [site.seconds for site in line.sites if site.seconds > 0]
        if times:
            shares.append(median(times) / max(times))
    return median(shares) if shares else math.nan


def _times(axes: Axes, history: Sequence[RoundLine]) -> None:
    rounds = [line.round for line in history]
    axes.bar(rounds, [line.seconds for line in history], color="#CFE5F3", width=0.8, label="whole round")
    sites = [[site.seconds for site in line.sites if site.seconds > 0] for line in history]
    slowest = [max(times, default=math.nan) for times in sites]
    middle = [median(times) if times else math.nan for times in sites]
    axes.plot(rounds, slowest, "s", color=VERMILLION, markersize=3.5, label="slowest hospital")
    axes.plot(rounds, middle, "o", color=BLUE, markersize=3.5, label="median hospital")
    axes.set_ylabel("Seconds")
    _round_axis(axes, len(rounds))
    panel_title(axes, "Time")


def _bytes(axes: Axes, history: Sequence[RoundLine]) -> None:
    rounds = np.array([line.round for line in history])
    up = np.array([sum(site.bytes_up for site in line.sites) for line in history], np.float64)
    down = np.array([sum(site.bytes_down for site in line.sites) for line in history], np.float64)
    power = min(int(math.log10(max(up.max(), down.max(), 1))) // 3, 3)
    if len(rounds) <= BARS:
        axes.bar(rounds - 0.21, up / 1000**power, width=0.42, color=BLUE, label="from the hospitals")
        axes.bar(
            rounds + 0.21,
            down / 1000**power,
            width=0.42,
            color=SKY,
            hatch="////",
            edgecolor="white",
            label="to the hospitals",
        )
    else:
        axes.plot(rounds, up / 1000**power, "-", color=BLUE, linewidth=1.6, label="from the hospitals")
        axes.plot(rounds, down / 1000**power, "--", color=SKY, linewidth=1.6, label="to the hospitals")
    plain = np.array([line.model_bytes * sum(site.bytes_down > 0 for site in line.sites) for line in history])
    if (plain > 1.1 * np.maximum(up, down)).any():
        axes.plot(rounds, plain / 1000**power, ":", color=INK, linewidth=1.2, label="the weights as they are")
    axes.set_ylabel(("B", "kB", "MB", "GB")[power])
    _round_axis(axes, len(rounds))
    panel_title(axes, "Traffic")


def _round_axis(axes: Axes, rounds: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("Round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.grid(True, color="#EAEAEA", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)  # room for the legend above the bars
    axes.legend(loc="upper left", ncols=2 if rounds > 2 else 1, handlelength=1.2, columnspacing=1.0)


def draw_participation(run: RunView) -> Drawing | None:
    """A cell for each hospital and round, by state; None without a finished round."""
    from matplotlib.patches import Patch

    if not run.history:
        return None
    states = {(site.site, line.round): kind_of(site.state) for line in run.history for site in line.sites}
    counts = Counter(states.values())
    sites = sorted({site for site, _ in states})
    rounds = [line.round for line in run.history]
    steady = [site for site in sites if all(states.get((site, round)) == "ok" for round in rounds)]
    together = steady if len(sites) > MANY else []
    named = [site for site in sites if site not in set(together)]
    title = marked("Who took part in each round", run.phantom)
    lines = named + ([f"{len(together)} others"] if together else [])
    with styled():
        figure = sheet(title, 1.15 + 0.16 * len(lines))
        axes = figure.add_subplot()
        _cells(axes, lines, rounds, states)
        handles = [
            Patch(facecolor=colour, edgecolor=GREY, linewidth=0.4, label=f"{mark} {words} ({counts[kind]})".strip())
            for kind, (colour, mark, words) in STATES.items()
            if counts[kind]
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=len(handles))
    told = ", ".join(f"{counts[kind]} {words}" for kind, (_, _, words) in STATES.items() if counts[kind])
    text = f"{count_of(len(sites), 'hospital')} in {count_of(len(rounds), 'round')}: {told}."
    caption = text + (
        f" {len(together)} hospitals took part in every round and share the last line." if together else ""
    )
    return Drawing("participation", title, caption, caption, figure)


def _cells(axes: Axes, lines: Sequence[str], rounds: Sequence[int], states: dict[tuple[str, int], str]) -> None:
    from matplotlib.colors import ListedColormap

    kinds = list(STATES)
    kind_at = [
        [states.get((line, round), "ok" if line.endswith(" others") else "absent") for round in rounds]
        for line in lines
    ]
    numbers = [[kinds.index(kind) if kind in kinds else kinds.index("error") for kind in row] for row in kind_at]
    colours = ListedColormap([colour for colour, _, _ in STATES.values()])
    axes.pcolormesh(
        np.array(numbers), cmap=colours, vmin=-0.5, vmax=len(kinds) - 0.5, edgecolors="white", linewidth=0.8
    )
    for row, line in enumerate(kind_at):
        for column, kind in enumerate(line):
            mark = STATES.get(kind, STATES["error"])[1]
            axes.text(
                column + 0.5,
                row + 0.5,
                mark,
                ha="center",
                va="center_baseline",
                fontsize=6.5,
                fontweight="bold",
                color=INK,
            )
    axes.set_yticks(np.arange(len(lines)) + 0.5, lines)
    step = max(1, math.ceil(len(rounds) / 25))
    axes.set_xticks(np.arange(0, len(rounds), step) + 0.5, [str(round) for round in rounds[::step]])
    axes.set_ylim(len(lines), 0)
    axes.set_xlabel("Round")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
