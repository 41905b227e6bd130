"""A model on a folder its run never saw: scored on the files' own grid, counted, kept, and never called unseen if it was."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import fedrounds
from fedrounds.judge import evaluate
from fedrounds_common.errors import DataError, RunFileError, UsageError
from fedrounds_server.tables import read_metrics

Make = Callable[..., Any]
PAIRS = Path(__file__).parents[1] / "data/pairs"
NO_BALL = (500.0, 500.0, 500.0)  # far outside


def four_states(folder: Path, balls: Any) -> None:
    """A case of each state: found whole, missed, spurious, and empty in both."""
    ball, nothing = balls.Ball((0.0, 0.0, 0.0)), balls.Ball(NO_BALL)
    for name, seen, drawn in (("both", ball, ball), ("missed", nothing, ball), ("spurious", ball, nothing),
                              ("empty", nothing, nothing)):  # fmt: skip
        balls.write_nifti(folder / f"images/{name}.nii.gz", seen.image(0, 0))
        balls.write_nifti(folder / f"labels/{name}.nii.gz", drawn.mask())


def test_empties_are_counted_beside_the_mean(tmp_path: Path, balls: Any, brightness: Make) -> None:
    model = brightness()
    four_states(tmp_path / "new", balls)
    found = evaluate(model.file, tmp_path / "new", study=model.study, plugins=model.plugins, out=tmp_path / "out")
    dice = next(row for row in found.metrics if (row.site, row.region, row.metric) == ("all", "lesion", "dice"))
    # (1 + 0 + 0 + 1) / 4: two empty masks count 1 under the default rule
    assert dice.value == 0.5
    assert (dice.n, dice.empty, dice.missed, dice.spurious) == (4, 1, 1, 1)
    assert dice.low <= 0.5 <= dice.high
    states = {row.case: row.state for row in found.cases if row.region == "lesion"}
    assert states == {"both": "scored", "missed": "missed", "spurious": "spurious", "empty": "both-empty"}
    assert found.exit == 0


def test_what_was_found_is_kept_in_three_files(tmp_path: Path, balls: Any, brightness: Make) -> None:
    model = brightness()
    four_states(tmp_path / "new", balls)
    found = evaluate(model.file, tmp_path / "new", study=model.study, plugins=model.plugins, out=tmp_path / "out")
    assert found.folder == tmp_path / "out"
    with (tmp_path / "out/cases.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    # 4 cases × (lesion and mean) × 5 measures
    assert len(lines) == 40
    empty = next(line for line in lines if line["case"] == "spurious" and line["metric"] == "sensitivity")
    assert empty["value"] == ""  # there was nothing to find
    kept = read_metrics(tmp_path / "out/metrics.csv")
    assert {row.key: row.value for row in kept if row.metric == "dice"} == {
        row.key: row.value for row in found.metrics if row.metric == "dice"
    }
    says = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert says["data"]["cases"] == 4
    assert says["grid"] == "each file's own"
    assert len(says["model"]["digest"]) == len(says["study"]["digest"]) == len(says["data"]["digest"]) == 64


def test_the_digest_of_the_cases_is_of_what_was_read_and_not_of_where(
    tmp_path: Path, balls: Any, brightness: Make
) -> None:
    model = brightness()
    balls.write_many(tmp_path / "new", ["a", "b"])
    shutil.copytree(tmp_path / "new", tmp_path / "moved")

    def digest(folder: str, out: str) -> str:
        evaluate(model.file, tmp_path / folder, study=model.study, plugins=model.plugins, out=tmp_path / out)
        return str(json.loads((tmp_path / out / "evaluation.json").read_text())["data"]["digest"])

    first = digest("new", "one")
    assert digest("moved", "two") == first
    mask = balls.random(1).mask()
    mask[0, 0, 0] = 1
    balls.write_nifti(tmp_path / "moved/labels/b.nii.gz", mask)
    assert digest("moved", "three") != first


def test_scores_are_on_the_grid_of_the_file(tmp_path: Path, balls: Any, brightness: Make) -> None:
    coarse = 'dims = 3\nchannels = ["t1"]\nlabels = { lesion = 1 }\nintensity = "none"\nspacing_mm = [4.0, 4.0, 4.0]'
    model = brightness(coarse)
    grid, affine = (40, 40, 40), np.diag([1.0, 1.0, 1.0, 1.0])
    ball = balls.Ball((20.0, 18.0, 22.0), 9.0, grid, affine)
    balls.write(tmp_path / "new", "fine", ball, noise_sd=0)
    found = evaluate(model.file, tmp_path / "new", study=model.study, plugins=model.plugins, out=tmp_path / "out")
    from fedrounds.predict import predict

    predict(model.file, tmp_path / "new", tmp_path / "masks", study=model.study, plugins=model.plugins)
    mask = np.asarray(nib.load(tmp_path / "masks/masks/fine.nii.gz").dataobj)
    truth = ball.mask()
    by_hand = 2 * np.sum(mask & truth) / (mask.sum() + truth.sum())
    assert mask.shape == grid
    assert found.value("lesion") == pytest.approx(by_hand, abs=1e-12)
    # 4 mm voxels blur the rim of a ball of 9 mm: neither perfect nor bad
    assert 0.7 < by_hand < 0.99


def test_every_site_of_the_folder_has_its_own_lines(tmp_path: Path, balls: Any, brightness: Make) -> None:
    reader = """
[simulation.reader]
name = "nifti_folder"
root = "anywhere"
images = 'images/(?P<site>[A-Z])_(?P<case>\\d+)\\.nii\\.gz'
labels = 'labels/(?P<site>[A-Z])_(?P<case>\\d+)\\.nii\\.gz'
"""
    model = brightness(more=reader)
    balls.write_many(tmp_path / "new", ["X_1", "X_2", "Y_1"])
    found = evaluate(model.file, tmp_path / "new", study=model.study, plugins=model.plugins, out=tmp_path / "out")
    n = {row.site: row.n for row in found.metrics if (row.region, row.metric) == ("lesion", "dice")}
    assert n == {"all": 3, "X": 2, "Y": 1}
    # one patient says nothing about others
    alone = next(row for row in found.metrics if (row.site, row.region, row.metric) == ("Y", "lesion", "dice"))
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)
    at_x, at_y = found.value("lesion", "X"), found.value("lesion", "Y")
    assert at_x != at_y
    assert found.value("lesion", over="cases") == pytest.approx((2 * at_x + at_y) / 3)
    assert found.value("lesion") == pytest.approx((at_x + at_y) / 2)
    first = found.tables()[0].rows
    assert [row[0] for row in first] == ["over sites", "over cases", "X", "Y"]
    assert first[0][3] == f"{(at_x + at_y) / 2:.2f}"


def test_bad_cases_are_named_and_counted_and_the_rest_is_judged(tmp_path: Path, balls: Any, brightness: Make) -> None:
    model = brightness()
    balls.write_many(tmp_path / "new", ["a", "b"])
    balls.write_nifti(tmp_path / "new/images/unlabelled.nii.gz", balls.random(5).image(5))
    balls.write_many(tmp_path / "new", ["strange"])
    balls.write_nifti(tmp_path / "new/labels/strange.nii.gz", balls.random(0).mask() * np.uint8(9))
    found = evaluate(model.file, tmp_path / "new", study=model.study, plugins=model.plugins, out=tmp_path / "out")
    assert found.exit == 9
    assert {name: error.code for name, error in found.left_out.items()} == {"strange": "FR-D10", "unlabelled": "FR-D04"}
    assert {row.case for row in found.cases} == {"a", "b"}
    assert "left out:" in found.text()
    assert "strange" in found.text()


def test_a_folder_in_which_no_case_can_be_used_is_an_error(tmp_path: Path, balls: Any, brightness: Make) -> None:
    model = brightness()
    balls.write_nifti(tmp_path / "new/images/a.nii.gz", balls.random(5).image(5))
    with pytest.raises(DataError, match="none of 1 cases can be used") as caught:
        evaluate(model.file, tmp_path / "new", study=model.study, plugins=model.plugins, out=tmp_path / "out")
    assert caught.value.exit_status == 4
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("folder", "code"), [("missing", "FR-D01"), ("empty", "FR-D70"), ("words", "FR-D70")])
def test_a_folder_without_images_is_said_to_be_one(folder: str, code: str, tmp_path: Path, brightness: Make) -> None:
    model = brightness()
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words/notes.txt").write_text("no image")
    with pytest.raises(DataError, match=code):
        evaluate(model.file, tmp_path / folder, study=model.study, plugins=model.plugins, out=tmp_path / "out")


def test_an_evaluation_is_not_written_over_unless_it_is_said(tmp_path: Path, balls: Any, brightness: Make) -> None:
    model = brightness()
    balls.write_many(tmp_path / "new", ["a", "b"])

    def again(**more: Any) -> Any:
        return evaluate(
            model.file, tmp_path / "new", study=model.study, plugins=model.plugins, out=tmp_path / "out", **more
        )

    again()
    before = (tmp_path / "out/evaluation.json").read_bytes()
    with pytest.raises(UsageError, match="there is an evaluation already"):
        again()
    assert (tmp_path / "out/evaluation.json").read_bytes() == before
    assert again(force=True).exit == 0


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, balls: Any, brightness: Make) -> None:
    model = brightness()
    other = tmp_path / "other.toml"
    text = (
        model.study.read_text()
        .replace('name = "threshold"', 'name = "tiny_unet"')
        .replace("at = [130.0]", "channels = [8]")
    )
    other.write_text(text)
    balls.write_many(tmp_path / "new", ["a"])
    with pytest.raises(RunFileError, match=r"FR-F14 .* is of another network .*threshold") as caught:
        evaluate(model.file, tmp_path / "new", study=other, plugins=model.plugins, out=tmp_path / "out")
    assert caught.value.exit_status == 4
    assert not (tmp_path / "out").exists()


def test_weights_of_the_same_shape_for_other_cases_are_refused(tmp_path: Path, balls: Any, brightness: Make) -> None:
    model = brightness()
    other = tmp_path / "other.toml"
    other.write_text(model.study.read_text().replace('channels = ["t1"]', 'channels = ["flair"]'))
    balls.write_many(tmp_path / "new", ["a"])
    with pytest.raises(RunFileError, match=r"FR-F15 .*channels = \['t1'\]; channels = \['flair'\]"):
        evaluate(model.file, tmp_path / "new", study=other, plugins=model.plugins, out=tmp_path / "out")


def test_a_model_file_by_itself_needs_its_study(tmp_path: Path, balls: Any, brightness: Make) -> None:
    model = brightness()
    balls.write_many(tmp_path / "new", ["a", "b"])
    with pytest.raises(UsageError, match="FR-U50"):
        evaluate(model.file, tmp_path / "new", out=tmp_path / "out")
    found = evaluate(model.file, tmp_path / "new", study=model.study, plugins=model.plugins, out=tmp_path / "out")
    assert found.warnings == ("the model came without its run: whether it was trained on these cases cannot be told",)


def test_a_damaged_model_and_a_missing_run_are_said_to_be_so(tmp_path: Path, brightness: Make) -> None:
    model = brightness()
    model.file.write_bytes(model.file.read_bytes()[:50])
    with pytest.raises(RunFileError, match="FR-F11"):
        evaluate(model.file, tmp_path, study=model.study, plugins=model.plugins)
    with pytest.raises(RunFileError, match="FR-F30"):
        evaluate(tmp_path / "runs/0099-nothing", tmp_path)


def test_pictures_are_judged_by_patient_and_site(tmp_path: Path, brightness: Make) -> None:
    reader = """
[simulation.reader]
name = "image_pairs"
root = "in"
"""
    planes = 'dims = 2\nchannels = ["grey"]\nlabels = { hippocampus = 1 }\nintensity = "none"'
    model = brightness(planes, at=(1000.0,), more=reader)  # nothing is so bright: every patient is missed
    found = evaluate(model.file, PAIRS, study=model.study, plugins=model.plugins, out=tmp_path / "out")
    rows = {row.site: row for row in found.metrics if (row.region, row.metric) == ("hippocampus", "dice")}
    assert {site: (row.n, row.missed, row.value) for site, row in rows.items()} == {
        "all": (4, 4, 0.0), "A": (2, 2, 0.0), "B": (2, 2, 0.0),
    }  # fmt: skip
    assert {row.case for row in found.cases} == {"A_001", "A_002", "B_001", "B_002"}


def test_reader_and_folder_must_go_together(tmp_path: Path, balls: Any, brightness: Make) -> None:
    from fedrounds.predict import predict

    model = brightness()
    balls.write_many(tmp_path / "new", ["a"])

    def judged(data: Path | None, **more: Any) -> Any:
        return evaluate(model.file, data, study=model.study, plugins=model.plugins, out=tmp_path / "out", **more)

    with pytest.raises(UsageError, match="FR-U51 phantom_glioma reads no folder, and new is given"):
        judged(tmp_path / "new", reader="phantom_glioma")
    with pytest.raises(UsageError, match="FR-U51 nifti_folder reads a folder, and none is given"):
        judged(None, reader="nifti_folder")
    with pytest.raises(UsageError, match="FR-U51 settings, and no reader that they belong to"):
        judged(tmp_path / "new", settings=["layout=msd"])
    with pytest.raises(UsageError, match="FR-U51 neither a folder nor a reader"):
        predict(model.file, None, tmp_path / "out", study=model.study, plugins=model.plugins)


def test_a_phantom_needs_no_folder_and_its_numbers_are_called_phantom(tmp_path: Path, brightness: Make) -> None:
    form = 'dims = 3\nchannels = ["flair"]\nlabels = { oedema = 2 }\nintensity = "none"'
    model = brightness(form, at=(150.0,))
    found = evaluate(
        model.file, reader={"name": "phantom_glioma", "profile": "eight", "scale": 0.1, "spacing_mm": 8.0},
        study=model.study, plugins=model.plugins, out=tmp_path / "out",
    )  # fmt: skip
    assert found.phantom
    assert "phantom cases, outside: mean" in found.text()
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["data"]["kind"] == "phantom"


# With a run that was trained.


@pytest.mark.slow
def test_without_a_folder_the_runs_own_table_is_shown_again(finished: Any) -> None:
    found = fedrounds.evaluate(finished.run)
    assert found.cohorts == ("held-out", "local-val")
    for cohort, sites in (("held-out", {"all", "C"}), ("local-val", {"all", "A", "B"})):
        mine = [row for row in found.metrics if row.cohort == cohort]
        assert {row.site for row in mine} == sites
        assert {row.round for row in mine} == {2}
    assert found.value("lesion", "C") == finished.run.value(site="C", region="lesion", cohort="held-out")
    assert found.folder is None
    # the lines of metrics.csv and no others: "untrained" and earlier rounds stay out
    assert {row.model for row in found.metrics} == {"consensus"}


@pytest.mark.slow
def test_a_consensus_finds_the_balls_of_a_folder_it_never_saw(finished: Any, tmp_path: Path, balls: Any) -> None:
    balls.write_many(tmp_path / "unseen", ["p1", "p2", "p3"], first_seed=500)
    found = fedrounds.evaluate(finished.run, tmp_path / "unseen")
    assert found.folder == finished.run.path.resolve() / "evaluation/unseen"
    assert found.value("lesion") > 0.9
    assert found.warnings == ()
    says = json.loads((found.folder / "evaluation.json").read_text())
    assert says["model"]["digest"] == finished.run.status["consensus"]


@pytest.mark.slow
def test_cases_that_trained_the_model_are_not_called_unseen(finished: Any, tmp_path: Path) -> None:
    found = fedrounds.evaluate(finished.run, finished.data, out=tmp_path / "own")
    trained = [
        patient
        for site in "AB"
        for patient, part in json.loads((finished.run.path / f"sites/{site}/splits.json").read_text())[
            "patients"
        ].items()
        if part == "train"
    ]
    assert 0 < len(trained) < 12
    assert len(found.warnings) == 1
    assert f"({len(trained)} cases): the very files the model was trained on" in found.warnings[0]


@pytest.mark.slow
def test_a_training_file_is_known_by_its_bytes_under_another_name(finished: Any, tmp_path: Path, balls: Any) -> None:
    split = json.loads((finished.run.path / "sites/A/splits.json").read_text())["patients"]
    name = next(patient for patient, part in split.items() if part == "train")
    kept = next(patient for patient, part in split.items() if part == "validation")
    for kind in ("images", "labels"):
        (tmp_path / f"new/{kind}").mkdir(parents=True)
        shutil.copy(finished.data / kind / f"{name}.nii.gz", tmp_path / f"new/{kind}/renamed.nii.gz")
        shutil.copy(finished.data / kind / f"{kept}.nii.gz", tmp_path / f"new/{kind}/{kept}.nii.gz")
    # another patient who happens to be called as one who trained
    balls.write(tmp_path / "new", name, balls.random(900), 900)
    found = fedrounds.evaluate(finished.run, tmp_path / "new", out=tmp_path / "out")
    assert found.warnings == (
        "not unseen: renamed (1 case): the very files the model was trained on",
        f"not unseen, unless names coincide: {name} (1 case): patients so named trained the model",
    )


@pytest.mark.slow
def test_a_file_in_a_runs_folder_brings_its_study_along(finished: Any, tmp_path: Path, balls: Any) -> None:
    balls.write_many(tmp_path / "new", ["p1", "p2"], first_seed=700)
    by_file = fedrounds.evaluate(finished.run.path / "initial.safetensors", tmp_path / "new", out=tmp_path / "start")
    by_run = fedrounds.evaluate(finished.run.path, tmp_path / "new", out=tmp_path / "end")
    assert {row.model for row in by_file.metrics} == {"initial"}
    assert by_file.value("lesion") < 0.5 < by_run.value("lesion")


@pytest.mark.slow
def test_the_third_job_at_the_command_line(
    finished: Any, tmp_path: Path, balls: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedrounds.cli.main import main

    def said(*words: str) -> tuple[int, dict[str, Any]]:
        status = main([*words, "--format", "json"])
        return status, json.loads(capsys.readouterr().out)

    run = str(finished.run.path)
    balls.write_many(tmp_path / "clinic", ["p1", "p2"], first_seed=800)
    (tmp_path / "clinic/images/torn.nii.gz").write_bytes(b"")
    status, envelope = said("evaluate", run, "--data", str(tmp_path / "clinic"), "--out", str(tmp_path / "judged"))
    assert (status, envelope["status"]) == (9, "partial")
    dice = [row for row in envelope["data"]["metrics"] if (row["site"], row["metric"]) == ("all", "dice")]
    assert {row["region"]: row["n"] for row in dice} == {"lesion": 2, "mean": 2}
    assert [bad["code"] for bad in envelope["data"]["left_out"]] == ["FR-D12"]

    status, envelope = said("predict", run, "-i", str(tmp_path / "clinic/images"), "-o", str(tmp_path / "masks"))
    assert status == 9
    assert sorted(envelope["data"]["files"]) == ["p1", "p2"]
    mask = nib.load(tmp_path / "masks/masks/p1.nii.gz")
    truth = nib.load(tmp_path / "clinic/labels/p1.nii.gz")
    np.testing.assert_array_equal(mask.affine, truth.affine)
    both, either = np.asarray(mask.dataobj), np.asarray(truth.dataobj)
    assert 2 * (both & either).sum() / (both.sum() + either.sum()) > 0.9

    status, envelope = said("evaluate", run)
    assert status == 0
    assert {row["cohort"] for row in envelope["data"]["metrics"]} == {"held-out", "local-val"}

    status, envelope = said("evaluate", run, "--data", str(tmp_path / "nowhere"))
    assert (status, envelope["error"]["code"]) == (4, "FR-D01")
