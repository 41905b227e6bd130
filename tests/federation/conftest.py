"""A federation small enough to run in seconds: bright balls in noise, in NIfTI files, at two hospitals and a third."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fedrounds.run import Run

GRID = (16, 18, 20)
# voxels of 2 mm; the first axis runs to the left and the second to the back, as scanners often write them
AFFINE = np.array([[-2.0, 0, 0, 15], [0, -2.0, 0, 17], [0, 0, 2.0, -19], [0, 0, 0, 1]])

STUDY = """
format = 1
name = "balls"
seed = 3

[cases]
dims = 3
channels = ["t1"]
labels = { lesion = 1 }
intensity = "zscore"

[model]
name = "tiny_unet"
channels = [8, 16]

[training]
rounds = 2
local_steps = 25
batch = 4
patch = [16, 16, 16]
foreground = 0.7
learning_rate = 1e-2
augment = []

[cohort]
held_out = ["C"]

[evaluation]
local_validation = 0.3
resamples = 50

[simulation]
pictures = 1

[simulation.reader]
name = "nifti_folder"
root = "data"
images = 'images/(?P<site>[A-Z])_(?P<case>\\d+)\\.nii\\.gz'
labels = 'labels/(?P<site>[A-Z])_(?P<case>\\d+)\\.nii\\.gz'
"""


@dataclass(frozen=True)
class Ball:
    """A ball at `centre_mm` (RAS), `radius_mm` wide, in an image of that grid and affine."""

    centre_mm: tuple[float, float, float]
    radius_mm: float = 7.0
    grid: tuple[int, int, int] = GRID
    affine: NDArray[np.float64] = field(default_factory=lambda: AFFINE)

    def mask(self) -> NDArray[np.uint8]:
        voxels = np.stack(np.meshgrid(*map(np.arange, self.grid), indexing="ij"), axis=-1)
        places = voxels @ self.affine[:3, :3].T + self.affine[:3, 3]
        return (np.linalg.norm(places - np.array(self.centre_mm), axis=-1) <= self.radius_mm).astype(np.uint8)

    def image(self, seed: int, noise_sd: float = 10) -> NDArray[np.float32]:
        noise = np.random.default_rng(seed).normal(100, noise_sd, self.grid)
        return (noise + 60 * self.mask()).astype(np.float32)


def write_nifti(file: Path, array: NDArray[np.generic], affine: NDArray[np.float64] = AFFINE) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), file)


def write_ball(folder: Path, name: str, ball: Ball, seed: int = 0, noise_sd: float = 10) -> None:
    """`images/NAME.nii.gz` and `labels/NAME.nii.gz`."""
    write_nifti(folder / f"images/{name}.nii.gz", ball.image(seed, noise_sd), ball.affine)
    write_nifti(folder / f"labels/{name}.nii.gz", ball.mask(), ball.affine)


def random_ball(seed: int) -> Ball:
    x, y, z = np.random.default_rng([7, seed]).uniform(-7, 7, 3)
    return Ball((float(x), float(y), float(z)))


def write_balls(folder: Path, names: Sequence[str], first_seed: int = 0) -> None:
    for number, name in enumerate(names, start=first_seed):
        write_ball(folder, name, random_ball(number), number)


@dataclass(frozen=True)
class Federation:
    """A study file with its data beside it, and the run that came of it."""

    folder: Path
    study: Path
    data: Path
    run: Run


def lay_out_study(folder: Path, text: str = STUDY) -> Path:
    """Six cases each at A and B, three at C, and the study file beside them."""
    names = [f"{site}_{number:02d}" for site, count in (("A", 6), ("B", 6), ("C", 3)) for number in range(1, count + 1)]
    write_balls(folder / "data", names)
    study = folder / "balls.toml"
    study.write_text(text, encoding="utf-8")
    return study


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """One small finished run. Tests read it; what they write goes elsewhere, or is a name of their own."""
    from fedrounds.series import simulate

    folder = tmp_path_factory.mktemp("balls")
    study = lay_out_study(folder)
    return Federation(folder, study, folder / "data", simulate(study, runs=folder / "runs"))


class Balls:
    """What tests make cases with: the helpers of this file, since tests cannot import it."""

    Ball = Ball
    random = staticmethod(random_ball)
    write = staticmethod(write_ball)
    write_many = staticmethod(write_balls)
    write_nifti = staticmethod(write_nifti)
    lay_out_study = staticmethod(lay_out_study)
    study = STUDY
    grid = GRID
    affine = AFFINE


@pytest.fixture(scope="session")
def balls() -> type[Balls]:
    return Balls


THRESHOLD = Path(__file__).parents[1] / "data" / "threshold"


@dataclass(frozen=True)
class Brightness:
    """A study and its model file: what is brighter than a threshold is lesion. Nothing had to be trained."""

    study: Path
    file: Path
    plugins: tuple[Path, ...]


@pytest.fixture
def brightness(tmp_path: Path) -> Callable[..., Brightness]:
    """Makes such a model. Images are taken as stored (no normalising), so that its answers are known voxel by voxel."""
    from fedrounds_client.site import build_parts
    from fedrounds_common.arrays import of_module
    from fedrounds_common.study.canonical import digest
    from fedrounds_common.study.parse import read_study
    from fedrounds_server.release import write_model

    def make(cases: str = "", at: Sequence[float] = (130.0,), more: str = "", name: str = "brightness") -> Brightness:
        cases = cases or 'dims = 3\nchannels = ["t1"]\nlabels = { lesion = 1 }\nintensity = "none"'
        study = tmp_path / f"{name}.toml"
        text = f'format = 1\nname = "{name}"\n[cases]\n{cases}\n[model]\nname = "threshold"\nat = {list(at)}\n{more}\n'
        study.write_text(text, encoding="utf-8")
        read = read_study(study, (), [THRESHOLD]).study
        arrays = of_module(build_parts(read, (THRESHOLD,)).module())
        file = tmp_path / f"{name}.safetensors"
        write_model(file, arrays, read, digest(read), 1)
        return Brightness(study, file, (THRESHOLD,))

    return make
