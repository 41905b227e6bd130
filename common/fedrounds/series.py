"""One study, several runs: other seeds, other settings, each fold; and one table over them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from fedrounds.playing import carry_out
from fedrounds.run import Run
from fedrounds.simulation import Given, Prepared, prepare, prepared_of
from fedrounds_common.errors import DONE, PARTIAL, UsageError
from fedrounds_common.network import Network
from fedrounds_common.strategy import Strategy
from fedrounds_common.task import Task
from fedrounds_server.plan import Listener, nobody
from fedrounds_server.tables import MetricRow

if TYPE_CHECKING:
    from fedrounds_server.report.table import Table


@final
@dataclass(frozen=True)
class Series:
    """Finished runs of one study; `labels` says what was set in each ("" for seeds alone)."""

    runs: tuple[Run, ...]
    labels: tuple[str, ...]

    @property
    def exit(self) -> int:
        return PARTIAL if any(run.exit == PARTIAL for run in self.runs) else DONE

    @property
    def metrics(self) -> tuple[tuple[Run, MetricRow], ...]:
        """Every line of every run's `metrics.csv`, with its run."""
        return tuple((run, row) for run in self.runs for row in run.metrics)

    def table(self) -> Table:
        """Mean ± standard deviation over the runs of one setting; one group of lines a setting."""
        from fedrounds_server.report.runs import table_of_runs

        labelled = any(self.labels)
        return table_of_runs([run.path for run in self.runs], list(self.labels) if labelled else None)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)


def settings_of(sweep: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """`("a=1,2", "b=x,y")` → every combination, each as overrides: ("a=1", "b=x"), ("a=1", "b=y"), …

    Raises:
        UsageError: an entry is not `key=value,value`.
    """
    choices = []
    for entry in sweep:
        key, sign, values = entry.partition("=")
        found = _split(values)
        if not sign or not key.strip() or not all(found):
            raise UsageError("FR-U25", f"--sweep {entry}", wanted="key=value,value, e.g. strategy.name=fedavg,fedprox")
        choices.append([f"{key.strip()}={value}" for value in found])
    return tuple(itertools.product(*choices))


def _split(values: str) -> list[str]:
    """Commas inside brackets belong to a value: `training.patch=[16,16,16],[32,32,32]` is two."""
    parts, depth = [""], 0
    for letter in values:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def simulate(
    study: Path | str | None = None,
    *,
    seeds: int | None = None,
    sweep: Sequence[str] = (),
    folds: bool = False,
    overrides: Sequence[str] = (),
    plugins: Sequence[Path | str] = (),
    task: Task | None = None,
    network: Network | None = None,
    strategy: Strategy | None = None,
    runs: Path | str = "runs",
    name: str | None = None,
    resume: Path | str | None = None,
    strict: bool = False,
    profile_time: bool = False,
    listen: Listener = nobody,
) -> Run | Series:
    """Run a study from its file to its report, once or as a series.

    Args:
        seeds: as many runs, with the study's seed, seed + 1, …
        sweep: `key=a,b` each; every combination is run (with every seed).
        folds: a run for each fold of `evaluation.folds`.
        overrides: `key=value` each, as `-s` on the command line.
        plugins: folders of the user's own plug-ins (`DIR/strategies/mine.py`).
        task, network, strategy: objects instead of what the study names; they need workers = 0.
        runs: folder in which each run's own folder is made.
        resume: an interrupted run's folder, to go on from its last checkpoint; without a study, with
            the one that the folder holds, and then nothing else may be set.
        strict: refuse to start when a case cannot be used.
        profile_time: write where each run's time went into its folder, `time.json` and `figures/time.png`.
        listen: called with an event's name and its facts, for a live display.

    Returns:
        The finished `Run`; a `Series` when seeds, sweep or folds ask for several.

    Raises:
        FedroundsError: the study, the data, or too few sites; the run's `status.json` says how far it came.
    """
    given, again = Given(task, network, strategy), None if resume is None else Path(resume)
    if study is None:
        if any((seeds, sweep, folds, overrides, plugins, given.any)):
            raise UsageError(
                "FR-U13", "settings, and a run that goes on as its folder says", wanted="one of the two",
                do="name the study too, to change what may be changed of a run that goes on, such as workers",
            )  # fmt: skip
        return carry_out(_of_folder(again), Path(runs), name, again, strict, listen, profile_time)
    if seeds is None and not sweep and not folds:
        return carry_out(
            prepare(study, overrides, plugins, given), Path(runs), name, again, strict, listen, profile_time
        )
    if again is not None:
        raise UsageError("FR-U26", "--resume with --seeds, --sweep or --folds", wanted="one run to go on with")
    finished: list[Run] = []
    labels: list[str] = []
    for setting in settings_of(sweep):
        prepared = prepare(study, [*overrides, *setting], plugins, given)
        for one in _variants(prepared, seeds or 1, folds):
            listen("series", {"run": len(finished) + 1, "setting": " ".join(setting), "seed": one.study.seed})
            finished.append(carry_out(one, Path(runs), name, None, strict, listen, profile_time))
            labels.append(" ".join(setting))
    return Series(tuple(finished), tuple(labels))


def _of_folder(run: Path | None) -> Prepared:
    if run is None:
        raise UsageError(
            "FR-U28", "no study", wanted="a study file, or a run to resume", do="`fedrounds study new` writes one"
        )
    return prepared_of(run)


def _variants(prepared: Prepared, seeds: int, folds: bool) -> Iterator[Prepared]:
    study = prepared.study
    count = study.evaluation.folds if folds else 1
    if folds and count < 2:
        raise UsageError("FR-U27", f"--folds with evaluation.folds = {count}", wanted="2 or more in the study")
    for seed in range(study.seed, study.seed + seeds):
        for fold in range(count):
            judged = replace(study.evaluation, fold=fold) if folds else study.evaluation
            yield replace(prepared, study=replace(study, seed=seed, evaluation=judged))
