"""Six wrong folders, one message each: `study check --data` says which, and a run goes on without the single cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrounds.checking import check_data
from fedrounds.cli.main import main
from fedrounds.simulation import prepare
from fedrounds_common.errors import DataError

Spoil = Callable[[Path, Any], None]


def mask_without_image(data: Path, balls: Any) -> None:
    (data / "images/A_02.nii.gz").unlink()


def shapes_that_differ(data: Path, balls: Any) -> None:
    balls.write_nifti(data / "labels/A_02.nii.gz", np.zeros((16, 18, 19), np.uint8))


def a_label_not_in_the_map(data: Path, balls: Any) -> None:
    balls.write_nifti(data / "labels/A_02.nii.gz", 7 * balls.random(1).mask())


def an_unreadable_file(data: Path, balls: Any) -> None:
    whole = (data / "images/A_02.nii.gz").read_bytes()
    (data / "images/A_02.nii.gz").write_bytes(whole[: len(whole) // 2])


ONE_CASE = {
    "mask without image": (mask_without_image, "FR-D05", "a mask without an image"),
    "shapes differ": (shapes_that_differ, "FR-D08", "shape (16, 18, 19); (16, 18, 20), as the image"),
    "label not in the map": (a_label_not_in_the_map, "FR-D10", "label 7"),
    "unreadable file": (an_unreadable_file, "FR-D12", "A_02.nii.gz: cannot be read"),
}


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Exit status and envelope of one command."""
    status = main([*words, "--format", "json"])
    return status, json.loads(capsys.readouterr().out)


def test_a_sound_folder_is_told_site_by_site(tmp_path: Path, balls: Any) -> None:
    found = check_data(prepare(balls.lay_out_study(tmp_path)))
    assert found.exit == 0
    assert [(site.name, site.role, site.cases, site.usable) for site in found.sites] == [
        ("A", "train", 6, 6),
        ("B", "train", 6, 6),
        ("C", "held-out", 3, 3),
    ]
    assert all(site.holding == {"lesion": site.cases} and site.empty == 0 for site in found.sites)
    assert str(found.sites[0].shapes) == "16 × 18 × 20"
    assert str(found.sites[0].spacings_mm) == "2 × 2 × 2"
    assert found.sites[0].orientations == ("LPS",)
    assert found.parameters > 10_000
    assert "all 15 cases can be used" in found.text()


def test_what_is_no_fault_and_may_not_be_meant_is_told_too(tmp_path: Path, balls: Any) -> None:
    study = balls.lay_out_study(tmp_path)
    data = tmp_path / "data"
    for name in [file.name for file in (data / "labels").iterdir()]:
        balls.write_nifti(data / "labels" / name, np.zeros(balls.grid, np.uint8))
    for name in ("A_05", "A_06"):
        (data / f"images/{name}.nii.gz").unlink()
        (data / f"labels/{name}.nii.gz").unlink()
    turned = np.diag([2.0, 2.0, 3.0, 1.0])
    balls.write(data, "C_01", balls.Ball((0, 0, 0), affine=turned))
    balls.write_nifti(data / "labels/C_01.nii.gz", np.zeros(balls.grid, np.uint8), turned)
    found = check_data(prepare(study))
    assert found.exit == 0
    assert [site.empty for site in found.sites] == [4, 6, 3]
    assert str(found.sites[2].spacings_mm) == "2 × 2 × 2–3"
    assert found.advice() == (
        "fewer than 5 patients, so nothing is kept to validate: A",
        "no case holds lesion",
        "axes run differently (LPS, RAS); they are turned to the study's",
    )


@pytest.mark.parametrize(("spoil", "code", "words"), ONE_CASE.values(), ids=ONE_CASE.keys())
def test_a_bad_case_has_a_message_of_its_own_and_the_check_ends_with_4(
    spoil: Spoil, code: str, words: str, tmp_path: Path, balls: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    study = balls.lay_out_study(tmp_path)
    spoil(tmp_path / "data", balls)
    status, envelope = said(capsys, "study", "check", str(study), "--data")
    assert status == 4
    (bad,) = envelope["data"]["bad"]
    assert (bad["site"], bad["case"], bad["code"]) == ("A", "A_02", code)
    assert words in bad["message"]
    sites = {site["name"]: (site["cases"], site["usable"]) for site in envelope["data"]["sites"]}
    assert sites == {"A": (6, 5), "B": (6, 6), "C": (3, 3)}


@pytest.mark.parametrize(
    ("folder", "code", "words"), [("gone", "FR-D01", "no such folder"), ("empty", "FR-D02", "the folder is empty")]
)
def test_a_folder_that_is_missing_or_empty_ends_the_check_with_4(
    folder: str, code: str, words: str, tmp_path: Path, balls: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    study = balls.lay_out_study(tmp_path)
    (tmp_path / "empty").mkdir()
    setting = f"simulation.reader.root={folder}"
    status, envelope = said(capsys, "study", "check", str(study), "--data", "-s", setting)
    assert status == 4
    assert envelope["error"]["code"] == code
    assert words in envelope["error"]["found"]
    with pytest.raises(DataError, match=code):
        check_data(prepare(study, [setting]))


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "code", "words"), ONE_CASE.values(), ids=ONE_CASE.keys())
def test_a_run_goes_on_without_the_bad_case_names_it_and_ends_with_9(
    spoil: Spoil, code: str, words: str, tmp_path: Path, balls: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    study = balls.lay_out_study(tmp_path)
    spoil(tmp_path / "data", balls)
    quick = ("-s", "training.local_steps=2", "--runs", str(tmp_path / "runs"))
    status, _ = said(capsys, "simulate", str(study), *quick)
    assert status == 9
    run = tmp_path / "runs/0001-balls"
    ended = json.loads((run / "status.json").read_text())
    assert ended["left_out_cases"] == {"A": {code: 1}}
    assert (ended["finished"], ended["planned"], ended["exit"]) == (3, 3, 9)
    # the case is named with its reason where it lies, and only there
    assert words in (run / "sites/A/log").read_text()
    assert "A_02" in (run / "sites/A/log").read_text()
    assert "A_02" not in (run / "status.json").read_text()
    assert (run / "consensus.safetensors").is_file()


@pytest.mark.slow
def test_four_bad_cases_at_once_are_four_messages_and_four_left_out(tmp_path: Path, balls: Any) -> None:
    from fedrounds.series import simulate

    study = balls.lay_out_study(tmp_path)
    data = tmp_path / "data"
    (data / "images/A_01.nii.gz").unlink()
    shapes_that_differ(data, balls)
    balls.write_nifti(data / "labels/B_03.nii.gz", 7 * balls.random(1).mask())
    (data / "images/C_01.nii.gz").write_bytes(b"")
    found = check_data(prepare(study))
    assert found.exit == 4
    assert [(site, error.case, error.code) for site, error in found.bad] == [
        ("A", "A_01", "FR-D05"),
        ("A", "A_02", "FR-D08"),
        ("B", "B_03", "FR-D10"),
        ("C", "C_01", "FR-D12"),
    ]
    run = simulate(study, overrides=["training.local_steps=2"], runs=tmp_path / "runs")
    assert run.exit == 9
    assert run.status["left_out_cases"] == {"A": {"FR-D05": 1, "FR-D08": 1}, "B": {"FR-D10": 1}, "C": {"FR-D12": 1}}


@pytest.mark.slow
def test_strict_refuses_to_start_and_names_each_case(
    tmp_path: Path, balls: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    study = balls.lay_out_study(tmp_path)
    a_label_not_in_the_map(tmp_path / "data", balls)
    status, envelope = said(capsys, "simulate", str(study), "--strict", "--runs", str(tmp_path / "runs"))
    assert status == 4
    assert envelope["error"]["code"] == "FR-H06"
    assert "label 7" in envelope["error"]["found"]


def test_files_that_belong_to_no_case_are_told(tmp_path: Path, cubes: Callable[..., Path]) -> None:
    made = Path(__file__).parents[1] / "data" / "cubes" / "readers" / "cubes.py"
    own = tmp_path / "own" / "readers"
    own.mkdir(parents=True)
    counting = '\n    @property\n    def passed_over(self):\n        return {"no DICOM image": 4}\n'
    (own / "cubes.py").write_text(made.read_text("utf-8") + counting, encoding="utf-8")
    found = check_data(prepare(cubes(tmp_path), plugins=[tmp_path / "own"]))
    assert "4 files passed over: no DICOM image" in found.advice()
    assert found.as_dict()["passed_over"] == {"no DICOM image": 4}
    assert found.exit == 0


def test_files_that_fit_no_pattern_are_named_here_and_in_the_sites_log_alone(tmp_path: Path, balls: Any) -> None:
    from fedrounds.series import simulate

    study = balls.lay_out_study(tmp_path)
    (tmp_path / "data/images/DOE_JANE.nii.gz").write_bytes(b"")
    found = check_data(prepare(study))
    line = "1 file passed over: no pattern fits their names, e.g. images/DOE_JANE.nii.gz"
    assert line in found.advice()
    assert list(found.as_dict()["passed_over"].values()) == [1]
    assert found.exit == 0
    run = simulate(study, overrides=["training.local_steps=1", "training.rounds=1"], runs=tmp_path / "runs")
    assert run.exit == 0
    holding = {
        file.relative_to(run.path).as_posix()
        for file in run.path.rglob("*")
        if file.is_file() and b"DOE_JANE" in file.read_bytes()
    }
    assert holding == {f"sites/{name}/log" for name in "ABC"}
    assert line in (run.path / "sites/A/log").read_text("utf-8")


READER = '''"""Made cases, each of one class; one of them of none."""
from dataclasses import dataclass
from typing import final

import numpy as np

from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_sites.reader import Reader


@final
@dataclass(frozen=True)
class Kinds(Reader):
    def cases(self, form):
        return tuple(CaseRef(f"{site}{number}", f"{site}{number}", site) for site in "AB" for number in range(6))

    def load(self, ref, form):
        classes = np.zeros(len(form.classes), np.float32)
        classes[int(ref.name[1]) % 2] = 1
        image = np.random.default_rng(int(ref.name[1])).normal(0, 1, (1, 12, 12)).astype(np.float32)
        return Case(ref, image, None if ref.name == "B5" else Target(classes=classes), np.eye(4))
'''
KINDS = """
format = 1
name = "kinds"
task = "classification"
model = { name = "tiny_cnn", channels = [4] }
[cases]
dims = 2
classes = ["well", "ill"]
[evaluation]
primary = "accuracy"
[simulation.reader]
name = "kinds"
"""


def test_cases_of_a_class_are_counted_and_one_without_is_named(tmp_path: Path) -> None:
    (tmp_path / "own" / "readers").mkdir(parents=True)
    (tmp_path / "own" / "readers" / "kinds.py").write_text(READER, "utf-8")
    (tmp_path / "kinds.toml").write_text(KINDS, "utf-8")
    found = check_data(prepare(tmp_path / "kinds.toml", plugins=[tmp_path / "own"]))
    assert found.columns() == ("site", "role", "cases", "usable", "well", "ill", "empty", "voxels", "mm", "left out")
    # numbers 0 to 5 at each site, even ones well; B5 says nothing
    assert [tuple(site.holding.values()) for site in found.sites] == [(3, 3), (3, 2)]
    assert [(site, error.code) for site, error in found.bad] == [("B", "FR-D04")]
    assert "an image without a class" in found.text()
