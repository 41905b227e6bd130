"""Makes the shipped template copies from the originals: `python -m fedrounds_sites.phantom.ship FOLDER`.

FOLDER holds the four files below as their makers publish them; where they come from and under which
terms stands in `templates/LICENCES.md`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from fedrounds_common.case import U8
from fedrounds_sites.phantom.templates import FILE, GRID, ORIGIN_MM, SPACING_MM

SOURCES = {
    "t1": "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
    "grey": "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz",
    "white": "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz",
    "head": "ch2.nii.gz",
}


def resampled(file: Path) -> U8:
    """The volume on the shipped 2 mm grid, smoothed first so that thin sulci do not alias."""
    image = nibabel.load(file)
    assert isinstance(image, nibabel.Nifti1Image)
    assert image.affine is not None
    voxels = ndimage.gaussian_filter(np.asarray(image.dataobj, np.float32), 0.8)
    origin = image.affine[:3, 3]
    steps = [ORIGIN_MM[axis] + SPACING_MM * np.arange(GRID[axis]) - origin[axis] for axis in range(3)]
    points = np.stack(np.meshgrid(*steps, indexing="ij"))
    values = ndimage.map_coordinates(voxels, points, order=1, cval=0.0)
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def main(folder: Path) -> None:
    volumes = {name: resampled(folder / file) for name, file in SOURCES.items()}
    np.savez_compressed(FILE, allow_pickle=False, **volumes)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
