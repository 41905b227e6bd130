"""Bytes up and down a site and round against float32, and what the codecs cost in Dice: five seeds, paired by seed.

    python benchmarks/bytes_sent.py [STUDY…] [--codecs float16 int8 top_k top_k-5] [--seeds 5] [--data DIR] [--out DIR] [-o FOLDER]

Goes on where it was interrupted: a finished run is kept, an unfinished one resumed. Bytes are those of the messages of the
rounds as they were sent, headers included (`history.jsonl`). Dice is the consensus's, on held-out hospitals where the study has
any, else on the hospitals' own validation cases. The interval is Student's, over the seeds' differences from float32.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import final

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pairs import OUTPUT, machine, machine_in_words, versions
from real_studies import placed
from scipy.stats import t as student

from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_common.study.canonical import digest
from fedrounds_common.study.parse import read_study
from fedrounds_server.folder import RunFolder
from fedrounds_server.report.carried import DOWN, UP, carried
from fedrounds_server.report.folder import read_run
from fedrounds_server.report.hospitals import main_region
from fedrounds_server.report.models import judged_cohort

STUDIES = Path(__file__).parents[1] / "studies"
WORST = -0.005  # Dice: the interval's lower end must be above it
MOST = {"float16": 0.52, "int8": 0.27}  # of float32's bytes, each way; of any other the aim
AIM = 0.12
PLAIN = "float32"
# up and down; a name of one codec means it both ways
WIRES = {
    "float32": ('wire.name="float32"', 'wire.down="float32"'),
    "float16": ('wire.name="float16"', 'wire.down="float16"'),
    "int8": ('wire.name="int8"', 'wire.down="int8"'),
    "top_k": ('wire.name="top_k"', 'wire.down="top_k"'),
    "top_k-5": ('wire={name="top_k", share=0.05, down={name="top_k", share=0.05}}',),
}
ALONE = ("simulation.baselines=[]", "evaluation.every=0", "simulation.pictures=0", "simulation.report=false")
# demo's network and images on eight hospitals, each with a scanner of its own, all of them in every round
PHANTOM = (
    "training.rounds=24", "training.local_steps=16", "training.average_last=0.25", "model.channels=[16,32,64]", "simulation.reader.scale=0.5",
    "evaluation.local_validation=0.2",
)  # fmt: skip


@final
@dataclass(frozen=True)
class Options:
    data: Path
    seeds: int
    out: Path
    more: tuple[str, ...]


@final
@dataclass(frozen=True)
class Outcome:
    """Of one run: Dice, and each way's bytes a site and round."""

    seed: int
    dice: float
    up: float
    down: float
    seconds: float


@final
@dataclass(frozen=True)
class Line:
    """One codec on one study: shares of float32's bytes, and the mean difference in Dice with its 95 % interval."""

    study: str
    codec: str
    up: float
    down: float
    dice: float
    difference: float
    low: float
    high: float
    runs: tuple[Outcome, ...]

    @property
    def met(self) -> str:
        most = MOST.get(self.codec, AIM)
        bytes_met = max(self.up, self.down) <= most
        return f"{'yes' if bytes_met else 'no'} (≤ {most:.0%}), {'yes' if self.low > WORST else 'no'} (> −0.5 points)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", default=("hippocampus", "phantom"))
    parser.add_argument(
        "--codecs", nargs="+", default=("float16", "int8", "top_k", "top_k-5"), choices=sorted(set(WIRES) - {PLAIN})
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("build/bytes"), help="where the runs are kept")
    parser.add_argument(
        "-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="as of `fedrounds simulate`"
    )
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    words = parser.parse_args()
    options = Options(words.data, words.seeds, words.out, tuple(words.set))
    lines: list[Line] = []
    for study in words.studies:
        if not is_there(study, options.data):
            print(f"{study}: its data are not there; --data DIR", flush=True)
            continue
        plain = [outcome(study, PLAIN, seed, options) for seed in range(1, options.seeds + 1)]
        for codec in words.codecs:
            packed = [outcome(study, codec, seed, options) for seed in range(1, options.seeds + 1)]
            lines.append(compared(study, codec, plain, packed))
            write(lines, options, words.output)
    if not lines:
        raise SystemExit("nothing was measured")
    print((words.output / "bytes_sent.md").read_text("utf-8"))


def compared(study: str, codec: str, plain: Sequence[Outcome], packed: Sequence[Outcome]) -> Line:
    """The interval's ends are nan for a single seed."""
    found = [ours.dice - theirs.dice for ours, theirs in zip(packed, plain, strict=True)]
    mean, half = statistics.mean(found), math.nan
    if len(found) > 1:
        half = float(student.ppf(0.975, len(found) - 1)) * statistics.stdev(found) / math.sqrt(len(found))
    return Line(
        study, codec,
        statistics.mean(one.up for one in packed) / statistics.mean(one.up for one in plain),
        statistics.mean(one.down for one in packed) / statistics.mean(one.down for one in plain),
        statistics.mean(one.dice for one in packed), mean, mean - half, mean + half, (*plain, *packed),
    )  # fmt: skip


def outcome(study: str, codec: str, seed: int, options: Options) -> Outcome:
    started = time.time()
    path = one_run(study, codec, seed, options).path
    kept = RunFolder(path).status.stat().st_mtime < started  # how it ended was written before
    view = read_run(path, with_sites=False)
    ways = {one.way: one.each for one in carried(view)}
    cohort, region = judged_cohort(view), main_region(view)
    rows = [
        row for row in view.rows
        if (row.model, row.site, row.metric, row.cohort, row.region) == ("consensus", "all", view.metric, cohort, region)
    ]  # fmt: skip
    dice = max(rows, key=lambda row: row.round).value
    took = float(view.status["seconds"])
    print(f"{study} {codec} seed {seed}: Dice {dice:.4f}, up {ways[UP]:,.0f} B, down {ways[DOWN]:,.0f} B a site and round, "
          f"{took:.0f} s{' (kept)' if kept else ''}", flush=True)  # fmt: skip
    return Outcome(seed, dice, ways[UP], ways[DOWN], took)


def one_run(study: str, codec: str, seed: int, options: Options) -> Run:
    """The run of this codec and seed: as it stands if it is finished, else gone on with, else from the start."""
    name = f"{study}-{codec}-seed{seed}"
    file, own = studied(study, options.data)
    overrides = [f"seed={seed}", *own, *ALONE, *options.more, *WIRES[codec]]
    folders = sorted(options.out.glob(f"*-{name}"))
    status = json.loads(RunFolder(folders[-1]).status.read_text("utf-8")) if folders else {}
    if folders and status["study"] != digest(read_study(file, overrides).study):
        raise SystemExit(f"{folders[-1]} is of other settings: give another --out, or take it away")
    if status.get("state") in ("done", "partial"):
        return Run(folders[-1])
    if folders:
        made = simulate(resume=folders[-1], runs=options.out)
    else:
        made = simulate(file, overrides=overrides, runs=options.out, name=name)
    assert isinstance(made, Run)
    return made


def is_there(study: str, data: Path) -> bool:
    return study == "phantom" or placed(STUDIES / f"{study}.toml", data).exists()


def studied(study: str, data: Path) -> tuple[Path, tuple[str, ...]]:
    """The study's file, and what is set in it."""
    if study == "phantom":
        return STUDIES / "demo-quick.toml", PHANTOM
    file = STUDIES / f"{study}.toml"
    return file, (f'simulation.reader.root="{placed(file, data)}"',)


def write(lines: Sequence[Line], options: Options, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"seeds": options.seeds, "set": list(options.more), "phantom": list(PHANTOM), "wires": WIRES}
    found = machine()
    whole = {
        "format": 1, "name": "bytes_sent", "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": found, "versions": versions(), "settings": settings, "rows": [asdict(line) for line in lines],
    }  # fmt: skip
    (folder / "bytes_sent.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    table = [
        "| study | codec, both ways | up | down | Dice | minus float32, 95 % interval (points) | met: bytes, Dice |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {one.study} | `{one.codec}` | {one.up:.1%} | {one.down:.1%} | {one.dice:.4f} | "
            f"{100 * one.difference:+.2f} ({100 * one.low:+.2f} to {100 * one.high:+.2f}) | {one.met} |"
            for one in lines
        ),
    ]
    text = ["# bytes_sent", "", *table, "", f"{options.seeds} seeds. {machine_in_words(found)}.", ""]
    text += [f"- {key}: {value}" for key, value in settings.items()]
    (folder / "bytes_sent.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
