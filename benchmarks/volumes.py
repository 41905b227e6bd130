"""Made brains in files, as large as BraTS's, for the benchmarks that read or predict volumes: NIfTI, four contrasts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fedrounds_common.case import Case
    from fedrounds_common.study.tables import CaseForm
    from fedrounds_sites.cache import CaseStore

CHANNELS = ("t1", "t1ce", "t2", "flair")
LABELS = {"necrosis": 1, "oedema": 2, "enhancing": 3}
REGIONS = {"ET": ("enhancing",), "TC": ("enhancing", "necrosis"), "WT": ("enhancing", "necrosis", "oedema")}
FULL = (240, 240, 155)
BRAIN = (140, 175, 145)  # of it the brain's box, about what BraTS's brains have


def brain(seed: int, grid: Sequence[int]) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Image (*grid, channels) and labels (*grid): an ellipsoid of tissue in black, and a tumour of three labels in it."""
    rng = np.random.default_rng([7, seed])
    grid = tuple(grid)
    size = [max(4, have * part // whole) for have, part, whole in zip(grid, BRAIN, FULL, strict=True)]
    # not always in the middle
    low = [int(rng.integers(0, have - part + 1)) for have, part in zip(grid, size, strict=True)]
    axes = np.meshgrid(*(np.linspace(-1, 1, part) for part in size), indexing="ij", sparse=True)
    tissue = sum(axis**2 for axis in axes) <= 1.001
    seat = rng.uniform(-0.4, 0.4, 3)
    away = np.sqrt(sum((axis - at) ** 2 for axis, at in zip(axes, seat, strict=True)))
    labels = np.select([away < 0.12, away < 0.2, away < 0.35], [1, 3, 2], 0).astype(np.uint8) * tissue
    inside = tuple(slice(start, start + part) for start, part in zip(low, size, strict=True))
    image = np.zeros((*grid, len(CHANNELS)), np.int16)
    look = {1: (300, 250, 900, 500), 2: (420, 430, 850, 950), 3: (450, 950, 700, 700)}
    for index in range(len(CHANNELS)):
        grey = 500 + 120 * np.sin(5 * axes[0] + index) * np.cos(4 * axes[1]) * np.cos(6 * axes[2])
        for value, levels in look.items():
            grey = np.where(labels == value, levels[index], grey)
        noisy = grey + rng.normal(0, 25, tissue.shape)
        image[(*inside, index)] = np.where(tissue, np.clip(np.rint(noisy), 100, 4000), 0)
    known = np.zeros(grid, np.uint8)
    known[inside] = labels
    return image, known


def write_volumes(folder: Path, cases: int, grid: Sequence[int]) -> Path:
    """`images/NAME.nii` (channels last) and `labels/NAME.nii`; made once, and found again."""
    import nibabel

    says = {"cases": cases, "grid": list(grid), "version": 1}
    mark = folder / "made.json"
    if mark.exists() and json.loads(mark.read_text("utf-8")) == says:
        return folder
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(cases):
        image, labels = brain(number, grid)
        for part, array in (("images", image), ("labels", labels)):
            nibabel.save(nibabel.nifti1.Nifti1Image(array, np.eye(4)), folder / part / f"case{number:03d}.nii")
    mark.write_text(json.dumps(says), encoding="utf-8")
    return folder


def table_of(folder: Path) -> dict[str, str]:
    """The reader's table of what `write_volumes` wrote."""
    return {
        "name": "nifti_folder",
        "root": str(folder),
        "images": r"images/(?P<case>.+)\.nii",
        "labels": r"labels/(?P<case>.+)\.nii",
    }


def in_regions() -> CaseForm:
    """Three regions that overlap, on the full grid."""
    from fedrounds_common.study.tables import CaseForm

    return CaseForm(channels=CHANNELS, labels=LABELS, regions=REGIONS, orientation=None)


def kept(folder: Path) -> tuple[list[Case], CaseForm, CaseStore]:
    """All volumes as a run keeps them, cut to their content: in `folder`/kept, made there the first time.

    Raises:
        ValueError: one of them cannot be used.
    """
    from fedrounds_common.study.study import Study
    from fedrounds_common.study.tables import CaseForm
    from fedrounds_sites.keeping import Keeper
    from fedrounds_sites.simulation import READERS, Simulation

    table = table_of(folder)
    form = CaseForm(channels=CHANNELS, labels=LABELS, crop="content", orientation=None)
    named = [{"name": name} for name in ("segmentation", "tiny_unet", "fedavg", "float32")]
    reader, study = READERS.load(table), Study("load", *named, cases=form)
    keeper = Keeper("site", folder, reader, Simulation(reader=table, cache=folder / "kept"), study)
    usable, left_out = keeper.open_all(reader.cases(form))
    if left_out:
        raise ValueError(
            f"{folder}: {len(left_out)} volumes cannot be used ({left_out}): delete the folder, and run again"
        )
    return list(usable.values()), form, keeper.store
