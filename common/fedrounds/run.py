"""A run as a notebook sees it: its tables, its consensus model, its report; all read from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from fedrounds.origin import is_real, origin_of
from fedrounds_common.arrays import into_module
from fedrounds_common.errors import RunFileError
from fedrounds_common.network import Network
from fedrounds_common.study.study import Study
from fedrounds_common.task import Task
from fedrounds_server.folder import RunFolder, read_json
from fedrounds_server.measures import Measures
from fedrounds_server.tables import ALL, MetricRow, Over, final_rows, mean_of, read_metrics

if TYPE_CHECKING:
    from torch import nn


def refuse_without_objects(run: Path, **given: Task | Network | None) -> None:
    """Refuse to open a model that was made with objects from Python without these: no folder holds them.

    Another task may fit the weights and mean something else by them, so nothing is tried.

    Raises:
        RunFileError: FR-F36.
    """
    record = RunFolder(run).record
    outside = read_json(record).get("outside_code", {}) if record.is_file() else {}
    missing = {part: outside[part] for part, object_ in given.items() if object_ is None and part in outside}
    if missing:
        named = ", ".join(f"{part} {name}" for part, name in missing.items())
        hand_in = ", ".join(f"{part}=…" for part in missing)
        raise RunFileError(
            "FR-F36", f"the run used objects from Python: {named}", wanted="the same, handed in again",
            do=f"in Python: Run(path, {hand_in}), and the same for evaluate and predict", where=run.name,
        )  # fmt: skip


@final
@dataclass(frozen=True)
class Run:
    """A run's folder, e.g. `runs/0007-chest`.

    `task`, `network`: the objects it was run with, where it was run with any; no folder holds them.
    """

    path: Path
    task: Task | None = None
    network: Network | None = None

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    @cached_property
    def status(self) -> dict[str, Any]:
        return read_json(self.folder.status)

    @property
    def exit(self) -> int:
        """How it ended, as an exit status: 0 done, 9 not with all sites, cases or models."""
        return int(self.status.get("exit", 1))

    @cached_property
    def study(self) -> Study:
        return origin_of(self.path).study

    @property
    def plugins(self) -> tuple[Path, ...]:
        return origin_of(self.path).plugins

    @cached_property
    def measures(self) -> Measures:
        """What its task says of its measures: words, digits, which way is better."""
        record = self.folder.record
        return Measures.read(read_json(record) if record.is_file() else {}, str(self.study.task["name"]))

    @cached_property
    def metrics(self) -> tuple[MetricRow, ...]:
        """Every line of `metrics.csv`."""
        return read_metrics(self.folder.metrics)

    def value(
        self,
        model: str = "consensus",
        cohort: str | None = None,
        region: str = "mean",
        site: str = ALL,
        over: Over = "hospitals",
        trained_at: str | None = None,
    ) -> float:
        """The study's primary measure of one model, in the last round in which it was judged.

        Args:
            cohort: held-out if there is any, else local-val.
            site: a hospital's name; all of them together otherwise.
            over: of all together, "hospitals" is the mean in which each hospital weighs the same, which
                the report, the terminal and the series' table print; "cases" the one in which each case does.
            trained_at: of models that one hospital trained alone, whose; needed where there are several.

        Raises:
            KeyError: nothing was judged so, or several models are called so.
        """
        cohort = cohort or ("held-out" if any(row.cohort == "held-out" for row in self.metrics) else "local-val")
        metric = self.study.evaluation.primary
        found = [
            row for row in final_rows(self.metrics)
            if (row.model, row.cohort, row.region, row.metric) == (model, cohort, region, metric)
            and trained_at in (None, row.trained_at) and site in (ALL, row.site)
        ]  # fmt: skip
        if not found:
            raise KeyError(f"no {metric} of {model} on {cohort} at {site}, region {region}")
        if len({row.trained_at for row in found}) > 1:
            raise KeyError(f"{model} was trained at {', '.join(sorted({row.trained_at for row in found}))}: which one?")
        return mean_of(found, over) if site == ALL else found[0].value

    def consensus(self) -> nn.Module:
        """The consensus model: a plain network in evaluation mode."""
        return self.model(self.folder.consensus)

    def model(self, file: Path) -> nn.Module:
        """The study's network with the weights of `file`.

        Raises:
            RunFileError: FR-F14 of another network; FR-F36 of an object that was not handed in: `Run(path, network=…)`.
        """
        from fedrounds_common.arrays import of_module
        from fedrounds_server.release import read_model

        refuse_without_objects(self.path, task=self.task, network=self.network)
        study = self.study
        task, network = self.task or study.build_task(self.plugins), self.network or study.build_network(self.plugins)
        module = task.network(network, study.cases)
        into_module(module, read_model(file, of_module(module)))
        return module.eval()

    def write_report(self, with_sites: bool = True) -> Path:
        """Figures and `report.html`; `with_sites` puts in what would stay at the hospitals, where it is here."""
        from fedrounds_server.report.page import write_report

        return write_report(self.path, with_sites and not is_real(self.path))

    def __repr__(self) -> str:
        return f"Run({self.path.name}: {self.status.get('state')})"
