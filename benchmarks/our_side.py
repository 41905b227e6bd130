"""Our side of a benchmark: the work of `workload.py` as a study, simulated; one line of JSON.

Everything that a user gets is on but what the options name: guard, update store, history, checkpoints, ledgers.
"""

from __future__ import annotations

from fedrounds.environment import quiet

quiet()

import argparse  # noqa: E402  (the environment comes before torch)
import json  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import workload  # noqa: E402
from workload import Work  # noqa: E402

PLUGINS = Path(__file__).with_name("plugins")
STUDY = """
format = 1
name = "bench"
seed = 1
[cases]
channels = ["image"]
labels = {{ cube = 1 }}
intensity = "none"
[model]
{model}
[training]
rounds = {rounds}
local_steps = {steps}
batch = {batch}
learning_rate = {rate}
schedule = "constant"
warmup = 0.0
weight_decay = 0.01
moments = "fresh"
augment = []
threads = {threads}
[evaluation]
local_validation = 0.0
primary = "{primary}"
[simulation]
workers = {workers}
engine = "{engine}"
pictures = 0
report = false
initial_weights = "{start}"
[simulation.reader]
name = "made_volumes"
number = {sites}
cases_a_site = {cases}
grid = {grid}
"""
# off, because the other side does not do it: evaluation (no site has validation cases), pictures and report
OFF = ("evaluation", "pictures", "report", "gradient clipping")


def study(work: Work, workers: int, engine: str, start: Path) -> str:
    models = {"unet": f'name = "tiny_unet"\nchannels = {list(workload.CHANNELS)}', "plus_one": 'name = "one_vector"'}
    return STUDY.format(
        primary="mean" if work.name == "plus_one" else "dice",
        model=models[work.name], rounds=work.rounds, steps=work.steps, batch=work.batch, rate=work.learning_rate,
        threads=work.threads, workers=workers, engine=engine, start=start, sites=work.sites, cases=work.cases,
        grid=work.grid,
    )  # fmt: skip


def cpu() -> float:
    """Seconds of this process and of those that it has waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--engine", default="inline")
    given, rest = parser.parse_known_args()
    work = workload.work_of(rest)
    from safetensors.numpy import load_file, save_file

    from fedrounds import Run, simulate

    here = Path.cwd()
    save_file(workload.start(work), here / "start.safetensors")
    file = here / "bench.toml"
    file.write_text(study(work, given.workers, given.engine, here / "start.safetensors"), encoding="utf-8")
    started, used = time.perf_counter(), cpu()
    overrides = ["training.gradient_norm=none"]
    if work.name == "plus_one":  # SGD with a rate of 1 along a gradient of -1 adds one
        overrides += [
            "task.name=plus_one",
            "training.optimiser=sgd",
            "training.learning_rate=1.0",
            "training.momentum=0.0",
        ]
        overrides += ["training.weight_decay=0.0"]
    run = simulate(file, plugins=[PLUGINS], overrides=overrides, runs=here / "runs")
    seconds, spent = time.perf_counter() - started, cpu() - used
    assert isinstance(run, Run)
    lines = [json.loads(line) for line in run.folder.history.read_text("utf-8").splitlines()]
    rounds = [line for line in lines if line["kind"] == "round"]
    print(json.dumps({
        "seconds": seconds, "cpu_s": spent, "steps": sum(site["steps"] for line in rounds for site in line["sites"]),
        "rounds": len(rounds), "loss": sum(site["loss"] for site in rounds[-1]["sites"]) / len(rounds[-1]["sites"]),
        "rounds_s": sum(line["seconds"] for line in rounds),
        "clients_per_s": work.sites * (len(rounds) - 1) / sum(line["seconds"] for line in rounds[1:])
        if rounds[1:] else 0.0,
        "probe": workload.probe(load_file(run.folder.consensus)), "exit": run.exit,
    }))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
