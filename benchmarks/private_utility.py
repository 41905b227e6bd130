"""What is learned with noise: two studies on real images, at several epsilons, beside the same without noise.

    python benchmarks/private_utility.py [STUDY…] [--data DIR] [--seeds 3] [--out DIR]

`pneumonia-private`: eight sites, epsilon 8, 3 and 1 (delta 1e-5, unit image: the set names no patients).
`hippocampus-private`: eight sites of twenty patients, epsilon 8. Writes a table and, round by round, a curve: NAME.md,
NAME.csv and NAME.png. One run at a time; goes on where it was interrupted. The recipe is the study's own, the same at every
epsilon and found on the validation images of one seed; without noise only the learning rate is another, found likewise. A
study whose data are not there is passed over, and that is said.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from real_studies import STUDIES, finished, placed

from fedrounds.run import Run
from fedrounds_server.report.folder import read_run
from fedrounds_server.report.spent import spent_by

NONE = "none"
WITHOUT = ("privacy=[]",)


@final
@dataclass(frozen=True)
class Shown:
    """`epsilons`: to run at. `without`: what is set where there is no noise. `margin`: what may be lost at epsilon 8."""

    epsilons: tuple[str, ...]
    without: tuple[str, ...]
    margin: float | None = None


SHOWN = {
    "pneumonia-private": Shown((NONE, "8", "3", "1"), (*WITHOUT, "training.learning_rate=0.1"), 0.03),
    "hippocampus-private": Shown((NONE, "8"), (*WITHOUT, "training.learning_rate=0.1")),
}
Curve = Mapping[int, float]  # round → the primary measure of the consensus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", default=tuple(SHOWN))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/private"))
    parser.add_argument("-s", "--set", action="append", default=[], help="set a value of every run, e.g. fewer rounds")
    words = parser.parse_args()
    unknown = [name for name in words.studies if name not in SHOWN]
    if unknown:
        sys.exit(f"{', '.join(unknown)}: of {', '.join(SHOWN)}")
    for name in words.studies:
        print(f"== {name}", flush=True)
        place = placed(STUDIES / f"{name}.toml", words.data)
        if not place.exists():
            print(f"its data are not there: {place}", flush=True)
            continue
        carried_out(name, words.seeds, [f'simulation.reader.root="{place}"', *words.set], words.out)


def carried_out(name: str, seeds: int, settings: Sequence[str], out: Path) -> None:
    """Run what is missing, seed by seed, and write what there is."""
    runs: dict[str, list[Run]] = {epsilon: [] for epsilon in SHOWN[name].epsilons}
    for seed in range(1, seeds + 1):
        for epsilon, found in runs.items():
            found.append(one_run(name, epsilon, seed, settings, out))
    lines = table(name, runs)
    (out / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    curves = {(epsilon, number): curve_of(run) for epsilon, each in runs.items() for number, run in enumerate(each, 1)}
    write_curves(out / f"{name}.csv", curves)
    draw_curves(out / f"{name}.png", runs["8"][0], curves)
    print("\n".join(lines), flush=True)


def one_run(name: str, epsilon: str, seed: int, settings: Sequence[str], out: Path) -> Run:
    """The run of this epsilon and seed: as it stands if it is finished, else gone on with, else from the start."""
    noise = SHOWN[name].without if epsilon == NONE else (f"privacy.0.epsilon={epsilon}",)
    overrides = [f"seed={seed}", "simulation.report=false", *noise, *settings]
    return finished(STUDIES / f"{name}.toml", overrides, out, f"{name}-epsilon-{epsilon}-seed{seed}")


# ---------------------------------------------------------------- what came of it


def table(name: str, runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """Markdown: a line an epsilon, with what the books say was spent, every seed's value, and how far below no noise."""
    measure = runs[NONE][0].study.evaluation.primary
    plain = [run.value() for run in runs[NONE]]
    lines = [
        f"| epsilon asked for | spent at most | {measure}, seed by seed | mean ± sd | lost to noise | within |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for epsilon, each in runs.items():
        values = [run.value() for run in each]
        lost = statistics.mean(without - value for without, value in zip(plain, values, strict=True))
        margin = SHOWN[name].margin if epsilon == "8" else None
        spent = max((s.epsilon for run in each for s in spent_by(read_run(run.path)).values()), default=None)
        cells = (
            epsilon,
            "" if spent is None else f"{spent:.3f}",
            " ".join(f"{value:.3f}" for value in values),
            f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}",
            "" if epsilon == NONE else f"{lost:.3f}",
            "" if margin is None else f"{margin:g}: {'yes' if lost <= margin else '**no**'}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def curve_of(run: Run) -> Curve:
    """Round by round, of all hospitals' judged cases together."""
    metric = run.study.evaluation.primary
    cohort = "held-out" if any(row.cohort == "held-out" for row in run.metrics) else "local-val"
    rows = [
        row for row in run.metrics if (row.site, row.cohort, row.region, row.metric) == ("all", cohort, "mean", metric)
    ]
    return {row.round: row.value for row in rows if row.model in ("untrained", "consensus")}


def write_curves(file: Path, curves: Mapping[tuple[str, int], Curve]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(("epsilon", "seed", "round", "value"))
        for (epsilon, seed), curve in curves.items():
            lines.writerows((epsilon, seed, number, f"{value:.4f}") for number, value in sorted(curve.items()))


def draw_curves(file: Path, run: Run, curves: Mapping[tuple[str, int], Curve]) -> None:
    """A line a run, one colour an epsilon."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    colours: dict[str, str] = {}
    for (epsilon, seed), curve in curves.items():
        colour = colours.setdefault(epsilon, f"C{len(colours)}")
        words = "without noise" if epsilon == NONE else f"epsilon {epsilon}"
        axes.plot(sorted(curve), [curve[at] for at in sorted(curve)], color=colour, label=words if seed == 1 else None)
    axes.set_xlabel("round")
    axes.set_ylabel(run.study.evaluation.primary)
    axes.legend()
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
