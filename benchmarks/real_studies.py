"""The studies on real images, three seeds each, with every baseline: what docs/results.md prints.

    python benchmarks/real_studies.py [STUDY…] [--data DIR] [--seeds 3] [--out DIR]

Goes on where it was interrupted: a finished run is kept, an unfinished one resumed. DIR holds the data sets in the
folders that the study files name; a study whose data are not there is passed over, and that is said.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from fedrounds.run import Run
from fedrounds.series import Series, simulate
from fedrounds_common.errors import FedroundsError
from fedrounds_server.folder import RunFolder
from fedrounds_server.report.table import as_lines

STUDIES = Path(__file__).parents[1] / "studies"
NAMES = ("hippocampus", "pneumonia", "adrenal", "mednist", "hippocampus-registration")


@dataclass(frozen=True)
class Options:
    data: Path
    seeds: int
    out: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", default=NAMES)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/studies"))
    words = parser.parse_args()
    options = Options(words.data, words.seeds, words.out)
    failed = [name for name in words.studies if not carried_out(name, options)]
    if failed:
        sys.exit(f"not carried out: {', '.join(failed)}")


def carried_out(name: str, options: Options) -> bool:
    """Run what is missing of one study and print its table; a fault is said, and the next study goes on."""
    print(f"== {name}", flush=True)
    place = placed(STUDIES / f"{name}.toml", options.data)
    if not place.exists():
        print(f"its data are not there: {place}", flush=True)
        return True
    try:
        runs = [one_run(name, seed, place, options.out) for seed in range(1, options.seeds + 1)]
    except FedroundsError as error:
        print(error, flush=True)
        return False
    print("\n".join(as_lines(Series(tuple(runs), ("",) * len(runs)).table())))
    seconds = [json.loads(RunFolder(run.path).status.read_text("utf-8"))["seconds"] for run in runs]
    print(f"seconds a run, baselines included: {', '.join(f'{one:.0f}' for one in seconds)}", flush=True)
    return True


def placed(study: Path, data: Path) -> Path:
    """Where the study's data lie below `data`: the path that it names, from its own `shared/data` on."""
    root = Path(tomllib.loads(study.read_text("utf-8"))["simulation"]["reader"]["root"])
    parts = root.parts
    return (data / Path(*parts[parts.index("data") + 1 :])).resolve()


def one_run(name: str, seed: int, place: Path, out: Path) -> Run:
    overrides = [f"seed={seed}", f'simulation.reader.root="{place}"']
    return finished(STUDIES / f"{name}.toml", overrides, out, f"{name}-seed{seed}")


def finished(study: Path, overrides: Sequence[str], out: Path, label: str) -> Run:
    """The run of this label: as it stands if it is finished, else gone on with, else from the start."""
    folders = sorted(out.glob(f"*-{label}"))
    if not folders:
        made = simulate(study, overrides=overrides, runs=out, name=label)
    elif json.loads(RunFolder(folders[-1]).status.read_text("utf-8"))["state"] in ("done", "partial"):
        return Run(folders[-1])
    else:
        made = simulate(resume=folders[-1], runs=out)
    assert isinstance(made, Run)
    return made


if __name__ == "__main__":
    main()
