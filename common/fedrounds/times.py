"""Where the time of a run went: a table and a figure, in parts that sum to the wall clock of all its processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, final

from fedrounds_common.disk import write_json
from fedrounds_common.spans import Spans, timing
from fedrounds_server.engines.pool import Pool
from fedrounds_server.folder import read_json

NAME = "time.json"
FORMAT = 1
# in this order; what a word means stands in docs/cli.md
KINDS = ("compute", "data", "evaluate", "serialise", "aggregate", "disk", "start", "other", "idle")


@final
class Stopwatch:
    """Times one session of a run, if it was asked for; `write` may be called once, at its end."""

    def __init__(self, spans: Spans | None) -> None:
        self._spans, self._began = spans, perf_counter()
        self._pool: Pool | None = None

    def watch(self, pool: Pool) -> None:
        self._pool = pool

    def write(self, run: Path) -> None:
        """`time.json` and `figures/time.png` in the run's folder; nothing where nobody asked."""
        if self._spans is None:
            return
        found = parts(self._spans.taken(), self._pool, perf_counter() - self._began)
        write_json(run / NAME, found)
        _draw(found, run / "figures")


@contextmanager
def stopwatch(asked: bool) -> Iterator[Stopwatch]:
    if not asked:
        yield Stopwatch(None)
        return
    with timing() as spans:
        yield Stopwatch(spans)


def parts(own: Mapping[str, float], pool: Pool | None, wall_s: float) -> dict[str, Any]:
    """Seconds by kind, of the coordinator's process and of all workers together.

    What a worker was not at work with it was idle; so is a process that was not there yet, or not any more. A
    worker that was killed could not say what it had done, and counts as idle too.
    """
    workers = 0 if pool is None else pool.workers
    theirs = dict({} if pool is None else pool.spent)
    theirs["idle"] = max(0.0, workers * wall_s - sum(theirs.values()))
    return {
        "format": FORMAT,
        "wall_s": wall_s,
        "processes": 1 + workers,
        "coordinator": {kind: own.get(kind, 0.0) for kind in KINDS},
        "workers": {kind: theirs.get(kind, 0.0) for kind in KINDS},
    }


def read_times(run: Path) -> dict[str, Any] | None:
    file = run / NAME
    return read_json(file) if file.exists() else None


def lines_of(found: Mapping[str, Any]) -> list[str]:
    """The table, as the terminal shows it."""
    from fedrounds_server.report.table import Table, as_lines

    whole = found["wall_s"] * found["processes"]
    several = found["processes"] > 1
    columns = ("part", "seconds", "share") + (("coordinator", "workers") if several else ())
    rows = []
    for kind in KINDS:
        here, there = found["coordinator"][kind], found["workers"][kind]
        row = (kind, f"{here + there:.2f}", f"{(here + there) / whole:.1%}" if whole else "–")
        rows.append(row + ((f"{here:.2f}", f"{there:.2f}") if several else ()))
    several_words = f" × {found['processes']} processes" if several else ""
    title = f"where {found['wall_s']:.1f} s{several_words} went"
    return as_lines(Table(title, columns, tuple(rows), frozenset({0}), note="  the report is not among it"))


def _draw(found: Mapping[str, Any], folder: Path) -> None:
    from fedrounds_server.report import style

    colours = (
        style.BLUE, style.SKY, style.GREEN, style.ORANGE, style.VERMILLION, style.PURPLE, style.GREY, style.INK,
        style.PALE,
    )  # fmt: skip
    who = [("coordinator", 1)] + ([("workers", found["processes"] - 1)] if found["processes"] > 1 else [])
    with style.styled():
        figure = style.sheet("Where the time went", 1.0 + 0.5 * len(who))
        axes = figure.subplots()
        for place, (name, processes) in enumerate(who):
            left = 0.0
            for kind, colour in zip(KINDS, colours, strict=True):
                seconds = found[name][kind] / processes
                axes.barh(
                    place,
                    seconds,
                    left=left,
                    color=colour,
                    edgecolor="white",
                    linewidth=0.4,
                    label=kind if not place else None,
                )
                if seconds > 0.08 * found["wall_s"]:  # room for the word
                    dark = kind not in ("idle", "data")
                    axes.text(
                        left + seconds / 2,
                        place,
                        kind,
                        ha="center",
                        va="center",
                        fontsize=6,
                        color="white" if dark else "black",
                    )
                left += seconds
        axes.set_yticks(range(len(who)), [name if count == 1 else f"{name} ({count}, mean)" for name, count in who])
        axes.invert_yaxis()
        axes.set_xlabel("seconds of a process")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(KINDS))
        alt = ", ".join(f"{kind} {found['coordinator'][kind] + found['workers'][kind]:.1f} s" for kind in KINDS)
        style.save(
            style.Drawing("time", "Where the time went", "Seconds of each process, by what they went to.", alt, figure),
            folder,
        )
