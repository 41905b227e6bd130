"""One bad site costs one site: it is named in one line, the others go on, and no text of its errors leaves it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_common.errors import DataError, TooFewSites, UsageError
from fedrounds_common.tasks import segmentation
from fedrounds_server.report.folder import read_run
from fedrounds_server.report.words import took_part

Cubes = Callable[..., Path]
MINE = Path(__file__).parents[1] / "data" / "cubes"


def run_of(study: Path, *overrides: str) -> Run:
    return simulate(study, overrides=overrides, plugins=[MINE], runs=study.parent / "runs")


def files_holding(folder: Path, text: bytes) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and text in f.read_bytes())


def test_four_bad_sites_are_named_and_the_others_make_a_finite_consensus(tmp_path: Path, cubes: Cubes) -> None:
    # A raises with a patient's name in the message, B has a corrupt file, C is empty; D is well
    study = cubes(tmp_path, rounds=2, reader='raises = "A"\ncorrupt = "B"\nempty = "C"')
    run = run_of(study)
    assert run.exit == 9
    assert run.status["failed"] == {"A": "error:FR-R01", "C": "error:FR-H01"}
    assert run.status["left_out_cases"]["B"] == {"FR-D12": 1}
    arrays = load_file(run.folder.consensus)
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_a_patient_named_in_an_error_is_in_no_file_but_that_sites_log(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1, reader='raises = "A"')
    run = run_of(study)
    assert files_holding(run.path, b"DOE^JANE") == ["sites/A/log"]


def test_nor_is_it_when_a_model_is_trained_on_the_cases_of_several_sites(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1, reader='raises = "A"')
    with pytest.raises(DataError, match="FR-H05"):
        run_of(study, 'cohort.initial_sites=["B", "A"]', "cohort.initial_steps=1")
    folder = tmp_path / "runs" / "0001-cubes"
    assert files_holding(folder, b"DOE^JANE") == ["sites/A/log"]
    assert "FR-R01" in (folder / "logs" / "log").read_text()


def test_a_model_beside_the_consensus_that_could_not_be_made_is_named_and_the_run_is_not_whole(
    tmp_path: Path, cubes: Cubes
) -> None:
    # a file where the folder of these models should be: they are trained, and cannot be written
    study = cubes(tmp_path, rounds=1)

    def in_the_way(event: str, facts: Mapping[str, object]) -> None:
        if event == "plan":
            (tmp_path / "runs" / "0001-cubes" / "baselines").write_text("in the way")

    run = simulate(
        study, overrides=['simulation.baselines=["pooled"]'], plugins=[MINE], runs=tmp_path / "runs", listen=in_the_way
    )
    assert isinstance(run, Run)
    assert run.exit == 9
    assert run.status["failed_models"] == {"pooled": "error:FR-R01"}
    assert (run.status["failed"], run.status["finished"]) == ({}, 4)
    assert "Not made: pooled (error:FR-R01)." in took_part(read_run(run.path))


def test_a_site_that_sends_nan_is_excluded_and_the_consensus_is_that_of_the_others(
    tmp_path: Path, cubes: Cubes
) -> None:
    # the sites' training cases differ by the split, so one number of cases picks out some of the sites
    spoiled = cubes(tmp_path / "spoiled", rounds=1, strategy='name = "spoiled"\ncases = 5')
    bad = run_of(spoiled)
    named = {name for name, state in bad.status["failed"].items() if state == "error:FR-R12"}
    assert named
    assert bad.exit == 9
    others = sorted(set("ABCD") - named)
    well = cubes(tmp_path / "well", rounds=1)
    good = run_of(well, f"cohort.sites={others}".replace("'", '"'))
    assert bad.status["consensus"] == good.status["consensus"]


def test_an_update_that_is_far_too_large_is_excluded(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1, strategy='name = "spoiled"\nhow = "large"\ncases = 5')
    assert "error:FR-R13" in run_of(study).status["failed"].values()


def test_when_all_sites_fail_there_is_no_consensus_and_the_exit_says_so(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1, reader="cases_a_site = 0")
    study.write_text(study.read_text().replace("cases_a_site = 0", 'empty = "A"').replace("minimum = 1", "minimum = 4"))
    with pytest.raises(TooFewSites, match="3 sites are ready to train; at least 4"):
        run_of(study)
    folder = tmp_path / "runs" / "0001-cubes"
    assert not (folder / "consensus.safetensors").exists()
    assert Run(folder).exit == 11


def test_a_held_out_site_that_is_not_there_has_failed_and_was_never_to_train(tmp_path: Path, cubes: Cubes) -> None:
    from fedrounds_server import history

    run = run_of(cubes(tmp_path, rounds=1, reader='raises = "D"'), 'cohort.held_out=["C", "D"]')
    assert run.status["failed"] == {"D": "error:FR-R01"}
    assert (run.status["planned"], run.status["finished"]) == (4, 3)
    assert [site.site for line in history.read(run.folder.history) for site in line.sites] == ["A", "B"]


def test_every_planned_site_stands_in_every_line_of_the_history(tmp_path: Path, cubes: Cubes) -> None:
    from fedrounds_server import history

    run = run_of(cubes(tmp_path, rounds=3, reader='raises = "A"'), "cohort.per_round=2")
    lines = history.read(run.folder.history)
    assert [[site.site for site in line.sites] for line in lines] == [["A", "B", "C", "D"]] * 3
    assert all(len(line.ok) == 2 for line in lines)
    assert run.status["failed"] == {"A": "error:FR-R01"}  # sites that were only not drawn have not failed


def test_what_a_refused_update_was_made_with_is_not_where_the_site_goes_on(tmp_path: Path, cubes: Cubes) -> None:
    run = run_of(cubes(tmp_path, rounds=1, strategy='name = "spoiled"\ncases = 5'))
    refused = {name for name, state in run.status["failed"].items() if state == "error:FR-R12"}
    with_state = {file.parts[-3] for file in run.path.glob("sites/*/state/*.safetensors")}
    assert refused
    assert with_state == set("ABCD") - refused


def reader_that_exits(folder: Path) -> Path:
    """A folder with the reader of cubes, which calls sys.exit(0) at case B0 as if all were well."""
    text = (MINE / "readers" / "cubes.py").read_text("utf-8")
    before = "        if ref.site == self.raises:\n"
    assert before in text
    exits = '        if ref.name == "B0":\n            raise SystemExit(0)\n'
    (folder / "readers").mkdir(parents=True)
    (folder / "readers" / "cubes.py").write_text(text.replace(before, exits + before), "utf-8")
    return folder


def task_that_exits(folder: Path, at: str) -> Path:
    """A folder with the task `leaves`: segmentation, whose method `at` calls sys.exit(0)."""
    head, name, rest = inspect.getsource(segmentation).partition(f"    def {at}(")
    signature, arrow, body = rest.partition(":\n")
    assert name
    assert arrow
    (folder / "tasks").mkdir(parents=True)
    whole = head + name + signature + arrow + "        raise SystemExit(0)\n" + body
    (folder / "tasks" / "leaves.py").write_text(whole, "utf-8")
    return folder


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_reader_that_calls_exit_costs_the_case_it_was_at(tmp_path: Path, cubes: Cubes, workers: int) -> None:
    study = cubes(tmp_path, rounds=1)
    run = simulate(
        study, plugins=[reader_that_exits(tmp_path / "own")], runs=tmp_path / "runs",
        overrides=[f"simulation.workers={workers}"],
    )  # fmt: skip
    assert isinstance(run, Run)
    assert run.exit == 9
    assert run.status["left_out_cases"] == {"B": {"FR-H20": 1}}
    assert "sys.exit(0)" in (run.path / "sites/B/log").read_text("utf-8")


def test_a_loss_that_calls_exit_is_the_fault_of_each_site_that_met_it(tmp_path: Path, cubes: Cubes) -> None:
    own = task_that_exits(tmp_path / "own", "loss")
    with pytest.raises(TooFewSites, match=r"A \(error:FR-H20\), B \(error:FR-H20\)"):
        simulate(
            cubes(tmp_path, rounds=1), plugins=[own, MINE], runs=tmp_path / "runs", overrides=['task.name="leaves"']
        )


def test_a_prediction_that_calls_exit_leaves_a_consensus_without_scores(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=1)
    run = simulate(
        study, plugins=[task_that_exits(tmp_path / "own", "predict"), MINE], runs=tmp_path / "runs",
        overrides=['task.name="leaves"', 'simulation.baselines=["local-only", "ensemble"]'],
    )  # fmt: skip
    assert isinstance(run, Run)
    assert run.exit == 9
    assert set(run.status["failed"].values()) == {"error:FR-H20"}
    assert run.folder.consensus.is_file()


def test_a_file_that_calls_exit_when_it_is_imported_is_a_fault_of_the_study(tmp_path: Path, cubes: Cubes) -> None:
    own = tmp_path / "own" / "readers"
    own.mkdir(parents=True)
    (own / "cubes.py").write_text("import sys\nsys.exit()\n", "utf-8")
    with pytest.raises(UsageError, match="FR-U04.*SystemExit"):
        simulate(cubes(tmp_path), plugins=[tmp_path / "own"], runs=tmp_path / "runs")
