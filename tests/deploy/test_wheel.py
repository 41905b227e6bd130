"""What is installed at a hospital holds everything, and what Flower carries holds no code."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGES = ("common/fedrounds", "common/fedrounds_common", "sites/fedrounds_sites")
PACKAGES += ("client/fedrounds_client", "server/fedrounds_server")


def source_files() -> dict[str, Path]:
    """Name in the wheel → file in the tree, for code and for every kind of data beside it."""
    files = {}
    for package in PACKAGES:
        top = (REPO / package).parent
        for file in (REPO / package).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                files[file.relative_to(top).as_posix()] = file
    files |= {f"fedrounds_sites/profiles/{file.name}": file for file in (REPO / "sites/profiles").glob("*.toml")}
    files |= {f"fedrounds/studies/{file.name}": file for file in (REPO / "studies").glob("*.toml")}
    return files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=REPO, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_packages_unchanged(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as held:
        names = set(held.namelist())
        wanted = source_files()
        assert set(wanted) - names == set()
        assert [name for name, file in wanted.items() if held.read(name) != file.read_bytes()] == []


def test_the_wheel_holds_nothing_else_than_the_five_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as held:
        tops = {name.split("/")[0] for name in held.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {Path(package).name for package in PACKAGES}


def test_an_installed_wheel_finds_its_profiles_and_studies_inside_itself(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as held:
        held.extractall(tmp_path)
    program = (
        "from fedrounds.places import studies_folder as studies; from fedrounds_sites.places import profiles_folder; "
        "print(studies()); print(profiles_folder())"
    )
    asked = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert asked.stdout.split() == [str(tmp_path / "fedrounds/studies"), str(tmp_path / "fedrounds_sites/profiles")]


def test_the_source_tree_finds_its_profiles_and_studies_beside_its_packages() -> None:
    from fedrounds.places import studies_folder
    from fedrounds_sites.places import profiles_folder

    assert (studies_folder(), profiles_folder()) == (REPO / "studies", REPO / "sites/profiles")


@pytest.mark.slow
def test_flowers_bundle_carries_studies_and_no_code(tmp_path: Path) -> None:
    app = tmp_path / "app"  # Flower wants a short name without underscores
    app.mkdir()
    for name in ("pyproject.toml", "LICENSE", "NOTICE"):
        (app / name).write_bytes((REPO / name).read_bytes())
    (app / "studies").mkdir()
    (app / "studies/one.toml").write_text("format = 1\n", "utf-8")
    # what must stay behind although it lies where the bundle is made
    (app / "studies/helper.py").write_text("print('code')\n", "utf-8")
    (app / "server").mkdir()
    (app / "server/app.py").write_text("print('code')\n", "utf-8")
    flwr = Path(sys.executable).parent / "flwr"
    home = {"HOME": str(app), "FLWR_HOME": str(app / ".flwr"), "FLWR_DISABLE_UPDATE_CHECK": "1"}
    built = subprocess.run(
        [flwr, "build", "--app", str(app)],
        cwd=app,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **home, "FLWR_TELEMETRY_ENABLED": "0"},
    )
    assert built.returncode == 0, built.stdout + built.stderr
    with zipfile.ZipFile(next(app.glob("*.fab"))) as bundle:
        names = set(bundle.namelist())
    assert "studies/one.toml" in names
    assert [name for name in names if Path(name).suffix not in {".toml", ""} or name.endswith(".py")] == []
