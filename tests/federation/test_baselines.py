"""What federating is held against has had the same effort, step for step, and is trained once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest

from fedrounds.baselines import Alone, planned
from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_common.leaving import Hello
from fedrounds_common.strategy import Consensus
from fedrounds_common.task import Task
from fedrounds_common.tasks.segmentation import Segmentation
from fedrounds_server import history
from fedrounds_server.cohort import Roster
from fedrounds_server.rounds import Outcome
from fedrounds_server.tables import read_metrics, write_metrics
from fedrounds_sites.simulation import Simulation

Cubes = Callable[..., Path]
MINE = Path(__file__).parents[1] / "data" / "cubes"

# ---------------------------------------------------------------- the plan, by hand


def outcome(cases: Mapping[str, int]) -> Outcome:
    hellos = {name: Hello(name, {}, count, 1, 0, 0, {}) for name, count in cases.items()}
    nodes = {name: number for number, name in enumerate(cases, start=2)}
    return Outcome(Consensus({}), 4, Roster(nodes, hellos, tuple(sorted(cases)), (), {}), {})


CASES = {"A": 5, "B": 40, "C": 12, "D": 40, "E": 3}
TAKEN = {"A": 10, "B": 30, "C": 20, "D": 40, "E": 5}


def plan(taken: Mapping[str, int] = TAKEN, **simulation: Any) -> list[Alone]:
    return list(planned(Simulation(**simulation), outcome(CASES), taken))


def test_pooled_takes_as_many_steps_as_all_sites_together() -> None:
    # 10 + 30 + 20 + 40 + 5
    assert plan(baselines=("pooled",)) == [Alone("pooled", "all", ("A", "B", "C", "D", "E"), 105)]


def test_the_largest_hospital_alone_takes_as_many_as_pooled() -> None:
    # B and D are the largest: the first by name
    assert plan(baselines=("local-only-long",)) == [Alone("local-only-long", "B", ("B",), 105)]


def test_a_hospital_alone_takes_its_own_share() -> None:
    alone = plan(baselines=("local-only",), local_only_sites=0)
    assert {each.trained_at: each.steps for each in alone} == TAKEN
    assert [each.trained_at for each in alone] == ["B", "D", "C", "A", "E"]
    assert all(each.sites == (each.trained_at,) for each in alone)


@pytest.mark.parametrize(
    ("baselines", "sites", "ensemble", "trained"),
    [
        (("local-only",), 2, 8, ["B", "D"]),
        (("ensemble",), 8, 3, ["B", "D", "C"]),
        (("local-only", "ensemble"), 2, 3, ["B", "D", "C"]),
        (("local-only", "ensemble"), 3, 2, ["B", "D", "C"]),
        (("local-only", "ensemble"), 0, 2, ["B", "D", "C", "A", "E"]),
        (("pooled",), 3, 3, []),
    ],
)
def test_only_the_models_that_are_asked_for_are_trained(
    baselines: tuple[Any, ...], sites: int, ensemble: int, trained: list[str]
) -> None:
    alone = plan(baselines=baselines, local_only_sites=sites, ensemble=ensemble)
    assert [each.trained_at for each in alone if each.model == "local-only"] == trained


def test_a_site_that_never_took_a_step_is_in_no_baseline() -> None:
    alone = plan({"A": 10, "C": 20}, baselines=("pooled", "local-only", "local-only-long"), local_only_sites=0)
    assert alone == [
        Alone("pooled", "all", ("A", "C"), 30),
        Alone("local-only-long", "C", ("C",), 30),
        Alone("local-only", "C", ("C",), 20),
        Alone("local-only", "A", ("A",), 10),
    ]


def test_models_are_told_apart_by_their_files() -> None:
    alone = plan(baselines=("pooled", "local-only", "local-only-long"), local_only_sites=0)
    assert len({each.file_name for each in alone}) == len(alone)


# ---------------------------------------------------------------- whole runs

ALL_MODELS = 'simulation.baselines=["local-only", "local-only-long", "ensemble", "pooled"]'


@final
@dataclass(frozen=True)
class Counting(Task):
    """Segmentation that counts its optimiser steps."""

    measures = Segmentation.measures

    inner: Segmentation = field(default_factory=Segmentation)
    steps: list[int] = field(default_factory=lambda: [0])

    def network(self, *args: Any) -> Any:
        return self.inner.network(*args)

    def draw(self, *args: Any) -> Any:
        return self.inner.draw(*args)

    def loss(self, *args: Any) -> Any:
        self.steps[0] += 1
        return self.inner.loss(*args)

    def predict(self, *args: Any) -> Any:
        return self.inner.predict(*args)

    def decide(self, *args: Any) -> Any:
        return self.inner.decide(*args)

    def score(self, *args: Any) -> Any:
        return self.inner.score(*args)

    def tally(self, *args: Any) -> Any:
        return self.inner.tally(*args)

    def table(self, *args: Any) -> Any:
        return self.inner.table(*args)

    def picture(self, *args: Any) -> Any:
        return self.inner.picture(*args)


@dataclass
class Counted:
    """A run, and how many optimiser steps each thing in it took: "A round 2", "pooled all"."""

    run: Run
    steps: dict[str, int]

    def of(self, model: str) -> dict[str, int]:
        return {name.split()[1]: count for name, count in self.steps.items() if name.startswith(f"{model} ")}


def counted(study: Path, *overrides: str, resume: Path | None = None) -> Counted:
    task, steps = Counting(), dict[str, int]()

    def listen(event: str, facts: Mapping[str, Any]) -> None:
        name = ""
        if event == "site" and facts["state"] == "ok":
            name = f"round-{facts['round']} {facts['site']}"
        elif event == "baseline":
            name = f"{facts['model']} {facts['site']}"
        if name:
            steps[name] = task.steps[0]
            task.steps[0] = 0

    found = simulate(
        study, overrides=overrides, plugins=[MINE], runs=study.parent / "runs", task=task, resume=resume, listen=listen
    )
    assert isinstance(found, Run)
    return Counted(found, steps)


def test_equal_effort_is_counted_in_steps_that_were_really_taken(tmp_path: Path, cubes: Cubes) -> None:
    # A fails in every round; of the three others two are drawn a round; three steps each
    study = cubes(tmp_path, rounds=3, reader='raises = "A"')
    made = counted(study, "cohort.per_round=2", ALL_MODELS, "simulation.local_only_sites=0", "simulation.ensemble=1")
    rounds = {name: count for name, count in made.steps.items() if name.startswith("round-")}
    assert set(rounds.values()) == {3}
    taken: dict[str, int] = {}
    for name, count in rounds.items():
        taken[name.split()[1]] = taken.get(name.split()[1], 0) + count
    assert sum(taken.values()) == 3 * 2 * 3
    assert made.of("pooled") == {"all": 18}
    assert made.of("local-only") == taken
    ((largest, steps),) = made.of("local-only-long").items()
    assert steps == 18
    line = history.read(made.run.folder.history)
    cases = {site.site: site.cases for each in line for site in each.ok}
    assert largest == min(cases, key=lambda name: (-cases[name], name))
    # an ensemble of one is that model, wherever both were judged
    rows = {
        (row.site, row.cohort, row.region, row.metric): row
        for row in made.run.metrics
        if row.model == "ensemble"
    }  # fmt: skip
    alone = [
        row for row in made.run.metrics if (row.model, row.trained_at) == ("local-only", largest) and row.site != "all"
    ]
    assert alone
    with pytest.raises(KeyError, match=r"local-only was trained at B, C, D: which one\?"):
        made.run.value("local-only")
    assert made.run.value("local-only", trained_at=largest) == made.run.value("ensemble")
    for row in alone:
        twin = rows[row.site, row.cohort, row.region, row.metric]
        np.testing.assert_equal((row.value, row.n), (twin.value, twin.n))


def test_only_so_many_hospitals_are_judged_alone_as_the_study_says(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    baselines = 'simulation.baselines=["local-only", "ensemble"]'
    made = counted(study, baselines, "simulation.local_only_sites=1", "simulation.ensemble=3")
    assert len(made.of("local-only")) == 3
    assert len({row.trained_at for row in made.run.metrics if row.model == "local-only"}) == 1
    assert {row.model for row in made.run.metrics} == {"untrained", "consensus", "local-only", "ensemble"}


def stopped(run: Run, *without: str) -> None:
    """As if the run had been killed while its baselines were made: no end, no tables of them, these files missing."""
    for file in [run.folder.metrics, run.folder.status, *run.folder.scores.glob("*-[lpe]*.csv")]:
        file.unlink()
    for name in without:
        (run.path / "baselines" / name).unlink()
    run.folder.status.write_text('{"format": 1, "state": "running"}', encoding="utf-8")


@pytest.mark.slow
def test_a_run_that_goes_on_trains_no_baseline_twice(tmp_path: Path, cubes: Cubes) -> None:
    def run_of(study: Path, resume: Path | None = None) -> tuple[Run, list[str]]:
        trained: list[str] = []

        def listen(event: str, facts: Mapping[str, Any]) -> None:
            trained.extend([f"{facts['model']} {facts['site']}"] if event == "baseline" else [])

        found = simulate(
            study, overrides=[ALL_MODELS], plugins=[MINE], runs=study.parent / "runs", resume=resume, listen=listen
        )
        assert isinstance(found, Run)
        return found, trained

    def files(run: Run) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (run.path / "baselines").iterdir()}

    study = cubes(tmp_path, rounds=1)
    first, trained = run_of(study)
    assert len(trained) == len(files(first)) == 6
    whole, table = files(first), first.folder.metrics.read_bytes()
    stopped(first)
    again, trained = run_of(study, first.path)
    assert trained == []
    assert files(again) == whole
    assert again.folder.metrics.read_bytes() == table
    # what was not finished is trained, to the same bits
    stopped(first, "pooled-all.safetensors")
    third, trained = run_of(study, first.path)
    assert trained == ["pooled all"]
    assert files(third) == whole
    assert third.folder.metrics.read_bytes() == table


def test_a_baseline_on_disk_that_took_other_steps_is_trained_and_judged_anew(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    baselines = ('simulation.baselines=["local-only", "pooled"]', "simulation.local_only_sites=0")
    first = counted(study, *baselines).run
    taken = counted(study, *baselines, resume=first.path).of("pooled")
    assert taken == {}
    # the same run, had site A taken five steps more in its round; -1 is a score that no model has
    stale = first.folder.scores / "0001-pooled-all.csv"
    rows = [replace(row, value=-1.0) for row in read_metrics(stale)]
    stopped(first)
    write_metrics(stale, rows)
    history_file = first.folder.history
    lines = [json.loads(line) for line in history_file.read_text("utf-8").splitlines()]
    at_a = next(site for site in lines[0]["sites"] if site["site"] == "A")
    steps, total = at_a["steps"] + 5, sum(site["steps"] for site in lines[0]["sites"]) + 5
    at_a["steps"] = steps
    history_file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    again = counted(study, *baselines, resume=first.path)
    assert again.of("pooled") == {"all": total}
    assert again.of("local-only") == {"A": steps}
    assert all(row.value != -1.0 for row in read_metrics(stale))


def test_baselines_begin_where_round_one_begins_and_go_their_own_ways(tmp_path: Path, cubes: Cubes) -> None:
    from fedrounds_common.arrays import digest, norm
    from fedrounds_server.checkpoint import load_arrays

    study = cubes(tmp_path, rounds=1)
    # at so small a rate nobody gets far from the start
    found = simulate(
        study, overrides=[ALL_MODELS, "training.learning_rate=1e-6"], plugins=[MINE], runs=tmp_path / "runs"
    )
    assert isinstance(found, Run)
    start, _ = load_arrays(found.path / "initial.safetensors")
    ends = [load_arrays(file)[0] for file in (found.path / "baselines").iterdir()]
    for end in ends:
        assert norm({name: end[name] - start[name] for name in start}) < 1e-2
    assert len({digest(end) for end in [*ends, start]}) == len(ends) + 1


def test_pooled_is_judged_wherever_the_consensus_is(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    found = simulate(
        study,
        overrides=['simulation.baselines=["pooled"]', 'cohort.held_out=["D"]'],
        plugins=[MINE],
        runs=tmp_path / "runs",
    )
    assert isinstance(found, Run)
    by_model = {
        model: {replace(row, model="", value=0, low=0, high=0, missed=0, spurious=0, n=0, empty=0) for row in found.metrics if row.model == model}
        for model in ("consensus", "pooled")
    }  # fmt: skip
    assert by_model["consensus"] == by_model["pooled"]
    assert {row.site for row in found.metrics if (row.model, row.cohort) == ("pooled", "held-out")} == {"D", "all"}
