"""The harness of the benchmarks: two commands in turn, and the ratio of what they took with its interval.

A *side* is a command with an environment. It runs as a process of its own and prints one last line of JSON on
stdout with whatever it measured itself; the harness adds `wall`, `cpu`, `peak_mib`, `processes` and `left`
(see `supervise.py`). Both sides get one thread a process, and nobody may report home.

Pairs run A B, B A, A B, … after one discarded run of each, so that whatever drifts (heat, other users, the disk)
drifts for both. Of the ratios A/B of the pairs the median is given with its 95 % interval by order statistics,
which assumes nothing about how times are distributed. The spread of A against A says how much of a difference
is the machine.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

REPO = Path(__file__).resolve().parents[1]
SUPERVISE = Path(__file__).with_name("supervise.py")
OUTPUT = REPO / "build" / "bench"
PAIRS = 10
TIMEOUT_S = 3600.0
PACKAGES = ("fedrounds", "torch", "numpy", "flwr", "ray", "monai")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # freed blocks are kept, as a process of ours asks for itself: else a small 3D step takes twice as long, and a slow
    # other side would flatter
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
}

Result = Mapping[str, Any]
Check = Callable[[Result, Result], None]


class SideFailed(Exception):
    """A command ended otherwise than with a line of JSON: which side, and with what last words."""


@final
@dataclass(frozen=True)
class Side:
    """`off`: what it can do and was told not to, which the table names. `fault`: why it cannot be run at all.

    `folder`: where it runs; a new empty one by default, which is gone afterwards.
    """

    name: str
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    off: tuple[str, ...] = ()
    fault: str = ""
    folder: Path | None = None
    timeout_s: float = TIMEOUT_S


@final
@dataclass(frozen=True)
class Wanted:
    """A bound on the ratio ours/theirs of one measure, or on our own value where `alone`.

    It is met when the whole 95 % interval meets it.
    """

    measure: str
    most: float | None = None
    least: float | None = None
    alone: bool = False

    def __str__(self) -> str:
        sign, bound = ("≤", self.most) if self.most is not None else ("≥", self.least)
        return f"{sign} {bound:g}{'' if self.alone else ' ×'}"


@final
@dataclass(frozen=True)
class Estimate:
    """A median with its 95 % interval; None where there are fewer than six values, which have none."""

    median: float
    low: float | None
    high: float | None

    def meets(self, wanted: Wanted) -> bool | None:
        """None: there is no interval to tell by."""
        if self.low is None or self.high is None:
            return None
        return (wanted.most is None or self.high <= wanted.most) and (wanted.least is None or self.low >= wanted.least)


@final
@dataclass(frozen=True)
class Measure:
    """One measure of a row. `ratio` is ours/theirs, pair by pair; `spread`: least and most of A against A."""

    ours: Estimate
    theirs: Estimate | None = None
    ratio: Estimate | None = None
    spread: tuple[float, float] | None = None


@final
@dataclass(frozen=True)
class Row:
    """`runs`: side → every run's values, in order, the warm-up left out. `fault`: why the other side has none."""

    name: str
    ours: str
    theirs: str = ""
    measures: Mapping[str, Measure] = field(default_factory=dict)
    wanted: tuple[Wanted, ...] = ()
    runs: Mapping[str, Sequence[Result]] = field(default_factory=dict)
    off: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fault: str = ""
    note: str = ""

    def met(self, wanted: Wanted) -> bool | None:
        """Whether a bound is met; None where that cannot be told."""
        found = self.measures.get(wanted.measure)
        estimate = None if found is None else found.ours if wanted.alone else found.ratio
        return None if estimate is None else estimate.meets(wanted)


# ---------------------------------------------------------------- statistics


def interval_of(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Between which values the median lies, at that level at least: the k-th smallest and the k-th largest.

    k is the largest for which a median outside has a chance of at most 1 − level: fewer than k of n values fall
    below the median by Binomial(n, ½). None for fewer than six values at 95 %: there is no such k.

    Source: David and Nagaraja 2003, Order Statistics, section 7.1.
    """
    n, ordered = len(values), sorted(values)
    k, below = 0, 0.0
    while True:
        below += math.comb(n, k) / 2**n
        if 2 * below > 1 - level or k >= n // 2:
            break
        k += 1
    return (ordered[k - 1], ordered[n - k]) if k else None


def estimate_of(values: Sequence[float]) -> Estimate:
    found = interval_of(values)
    return Estimate(statistics.median(values), *(found or (None, None)))


def ratio(ours: float, theirs: float) -> float:
    """Not a number where it has none: 0 of 0 bytes, say."""
    return ours / theirs if theirs else math.nan if not ours else math.inf


def spread_of(values: Sequence[float]) -> tuple[float, float] | None:
    """Least and most of each run against the one before it, both of one side: what this machine does by itself."""
    against = [ratio(after, before) for before, after in itertools.pairwise(values)]
    return (min(against), max(against)) if against else None


def measures_of(ours: Sequence[Result], theirs: Sequence[Result] = ()) -> dict[str, Measure]:
    """Every number that all runs of a side have; the ratio of those that both sides have."""
    found = {}
    for name in _numbers(ours):
        mine = [float(run[name]) for run in ours]
        if name not in _numbers(theirs):
            found[name] = Measure(estimate_of(mine), spread=spread_of(mine))
            continue
        others = [float(run[name]) for run in theirs]
        ratios = [ratio(a, b) for a, b in zip(mine, others, strict=True)]
        found[name] = Measure(estimate_of(mine), estimate_of(others), estimate_of(ratios), spread_of(mine))
    return found


def _numbers(runs: Sequence[Result]) -> list[str]:
    if not runs:
        return []
    first = [name for name, value in runs[0].items() if isinstance(value, int | float) and not isinstance(value, bool)]
    return [name for name in first if all(isinstance(run.get(name), int | float) for run in runs)]


# ---------------------------------------------------------------- running


def run_side(side: Side) -> dict[str, Any]:
    """Run it once; what it printed and what it cost.

    Raises:
        SideFailed: it cannot be run, ended with another status than 0, or printed no JSON.
    """
    if side.fault:
        raise SideFailed(side.name, side.fault)
    with tempfile.TemporaryDirectory() as folder:
        cost = Path(folder) / "cost.json"
        # -S -E: nothing of a virtual environment's start-up hooks is wanted in the process that only watches
        command = [sys.executable, "-S", "-E", str(SUPERVISE), str(cost), str(side.timeout_s), *side.command]
        environment = {**os.environ, **ENVIRONMENT, "TMPDIR": folder, **side.environment}
        done = subprocess.run(
            command, env=environment, cwd=side.folder or folder, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if not cost.exists():
            raise SideFailed(side.name, _last_words(done.stderr) or f"ended with status {done.returncode}")
        spent = json.loads(cost.read_text("utf-8"))
    status = spent.pop("status")
    if status is None:
        raise SideFailed(side.name, f"had not ended after {side.timeout_s:.0f} s")
    if status:
        raise SideFailed(side.name, f"ended with status {status}: {_last_words(done.stderr)}")
    try:
        said = json.loads(_last_words(done.stdout))
        return {**said, **{name: value for name, value in spent.items() if name not in said}}
    except (ValueError, TypeError) as error:
        raise SideFailed(side.name, f"its last line is no JSON: {_last_words(done.stdout)[:200]}") from error


def _last_words(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def compare(
    name: str, ours: Side, theirs: Side, pairs: int = PAIRS, wanted: Sequence[Wanted] = (), check: Check | None = None,
    note: str = "",
) -> Row:  # fmt: skip
    """Run both in turn and give the ratios ours/theirs.

    Args:
        check: called with one result of each; raises where they did not do the same work.

    Raises:
        SideFailed: ours could not be run. Where theirs cannot, the row says so and holds ours alone.
    """
    off = {side.name: side.off for side in (ours, theirs) if side.off}
    try:
        found = _alternated(ours, theirs, pairs, check)
    except SideFailed as error:
        if not error.args or error.args[0] != theirs.name:
            raise
        alone = measure(name, ours, pairs, wanted)
        return Row(
            name, ours.name, theirs.name, alone.measures, tuple(wanted), alone.runs, off, f"{error.args[1]}", note
        )
    measures = measures_of(found[ours.name], found[theirs.name])
    return Row(name, ours.name, theirs.name, measures, tuple(wanted), found, off, note=note)


def beside(
    name: str, peer: Side, base: Side, pairs: int = PAIRS, check: Check | None = None, note: str = ""
) -> Row:  # fmt: skip
    """A row of a peer, against the same base as ours. Where it cannot be run, the row says so and holds nothing."""
    try:
        return compare(name, peer, base, pairs, (), check, note)
    except SideFailed as error:
        if error.args[0] != peer.name:
            raise
        return Row(name, peer.name, base.name, fault=str(error.args[1]), note=note)


def _alternated(ours: Side, theirs: Side, pairs: int, check: Check | None) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {ours.name: [], theirs.name: []}
    for number in range(-1, pairs):  # −1 is the warm-up; theirs first, so that one that cannot be run says so at once
        said = {side.name: _said(side) for side in ((ours, theirs) if number % 2 == 0 else (theirs, ours))}
        if check is not None:
            check(said[ours.name], said[theirs.name])
        if number >= 0:
            for side, values in said.items():
                found[side].append(values)
    return found


def measure(name: str, side: Side, runs: int = PAIRS, wanted: Sequence[Wanted] = (), note: str = "") -> Row:
    """One side by itself, after one discarded run."""
    _said(side)
    found = [_said(side) for _ in range(runs)]
    off = {side.name: side.off} if side.off else {}
    return Row(
        name, side.name, measures=measures_of(found), wanted=tuple(wanted), runs={side.name: found}, off=off, note=note
    )


def _said(side: Side) -> dict[str, Any]:
    found = run_side(side)
    shown = ", ".join(f"{name} {found[name]:.4g}" for name in _numbers([found]))
    print(f"{side.name}: {shown}", file=sys.stderr, flush=True)
    return found


# ---------------------------------------------------------------- writing


def write(
    name: str, rows: Sequence[Row], settings: Mapping[str, Any], folder: Path = OUTPUT, shown: Sequence[str] = ("wall", "cpu", "peak_mib")
) -> Path:  # fmt: skip
    """Write NAME.json, with every run's values, and NAME.md, the table of the measures `shown`; returns the JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    whole: dict[str, Any] = {
        "format": 1,
        "name": name,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "settings": dict(settings),
        "shown": list(shown),
        "rows": [{**asdict(row), "met": {f"{w.measure} {w}": row.met(w) for w in row.wanted}} for row in rows],
    }
    file.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = table(rows, shown)
    lines = [f"# {name}", "", text, "", f"{machine_in_words(whole['machine'])}.", ""]
    lines += [f"- {key}: {value}" for key, value in settings.items()]
    file.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(text)
    return file


def row_of(said: Mapping[str, Any]) -> Row:
    """A row as it was written."""

    def estimate(value: Mapping[str, float] | None) -> Estimate | None:
        return None if value is None else Estimate(value["median"], value["low"], value["high"])

    measures = {}
    for name, value in said["measures"].items():
        ours = estimate(value["ours"])
        assert ours is not None
        spread = tuple(value["spread"]) if value["spread"] else None
        measures[name] = Measure(ours, estimate(value["theirs"]), estimate(value["ratio"]), spread)
    wanted = tuple(Wanted(**each) for each in said["wanted"])
    plain = {name: said[name] for name in ("name", "ours", "theirs", "runs", "off", "fault", "note")}
    return Row(measures=measures, wanted=wanted, **plain)


def table(rows: Sequence[Row], shown: Sequence[str]) -> str:
    """Markdown: a line for each row and measure, with its bound and whether that is met."""
    lines = [
        "| what | measure | ours | theirs | ours/theirs (95 %) | ours against itself | wanted | met |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        title = f"{row.name}: {row.ours}{f' against {row.theirs}' if row.theirs else ''}"
        names = [name for name in row.measures if name in shown or any(w.measure == name for w in row.wanted)]
        lines += [_line(title, name, row) for name in names]
        if row.fault:
            lines.append(f"| {title} | | | not run: {row.fault} | | | | |")
        notes = [row.note] if row.note else []
        notes += [f"{side} without {', '.join(off)}" for side, off in row.off.items() if off]
        lines += [f"| {title} | *{note}* | | | | | | |" for note in notes]
    return "\n".join(lines)


def _line(title: str, name: str, row: Row) -> str:
    found = row.measures[name]
    bounds = [wanted for wanted in row.wanted if wanted.measure == name]
    met = [
        "cannot be told" if (is_met := row.met(wanted)) is None else "yes" if is_met else "**no**" for wanted in bounds
    ]
    cells = (
        title,
        name,
        _shown(found.ours),
        _shown(found.theirs) if found.theirs else "",
        _shown(found.ratio) if found.ratio else "",
        "–".join(f"{value:.3f}" for value in found.spread) if found.spread else "",
        ", ".join(map(str, bounds)),
        ", ".join(met),
    )
    return f"| {' | '.join(cells)} |"


def _shown(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.median:.4g}"
    return f"{estimate.median:.4g} ({estimate.low:.4g}–{estimate.high:.4g})"


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What it ran on, and how busy that was: times of a busy machine are worth little."""
    info = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def machine_in_words(found: Mapping[str, Any]) -> str:
    load = found["load"][0]
    return (
        f"{found['processor']}, {found['cores']} cores, {found['memory_gib']} GiB, {found['system']}; "
        f"load {load} when it ended"
    )


def arguments(said: str | None, **more: tuple[Any, str]) -> argparse.Namespace:
    """`--pairs` and `-o` of every benchmark, and its own options: name → default and help."""
    parser = argparse.ArgumentParser(description=said, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=PAIRS, help="how many; 2 only show that it works (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, help="folder of the tables (%(default)s)")
    for name, (default, text) in more.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(option, action="store_true", help=text)
        else:
            parser.add_argument(option, type=type(default), default=default, help=f"{text} (%(default)s)")
    return parser.parse_args()
