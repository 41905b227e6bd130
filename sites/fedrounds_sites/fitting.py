"""Whether the files of one case belong together: one file a thing, one grid for all, channels as the study's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedrounds_common.case import F32, F64, CaseRef
from fedrounds_common.errors import CaseError
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.nifti import Volume, apart_mm


def only_file(paths: Sequence[Path], case: str) -> Path:
    """Raises CaseError FR-D07: more than one file matched as one thing."""
    if len(paths) > 1:
        raise CaseError(
            "FR-D07",
            f"{len(paths)} files for one thing: {', '.join(path.name for path in paths)}",
            case=case,
            wanted="one",
            do="take the others away, or make the pattern narrower",
            where=str(paths[0]),
        )
    return paths[0]


def stacked(volumes: Sequence[Volume], paths: Sequence[Path], form: CaseForm, ref: CaseRef, tolerance_mm: float) -> F32:
    """(C, X, Y, Z), C-contiguous, from one file a channel or from one 4D file.

    Raises:
        CaseError: FR-D08 shapes differ; FR-D09 affines differ; FR-D17 another number of channels.
    """
    first = volumes[0]
    if len(volumes) == 1 and first.voxels.ndim == 4:
        parts = [first.voxels[..., index] for index in range(first.voxels.shape[3])]
    else:
        parts = [volume.voxels for volume in volumes]
        for volume, path in zip(volumes, paths, strict=True):
            same_grid(
                first.voxels.shape, first.affine, volume.voxels.shape, volume.affine, path, ref.name, tolerance_mm
            )
            if volume.voxels.ndim == 4:
                parts = []  # four axes in each of several files: counted as wrong below
    if len(parts) != len(form.channels):
        raise CaseError(
            "FR-D17",
            f"shape {first.voxels.shape} in {len(volumes)} file(s)",
            case=ref.name,
            wanted=f"{len(form.channels)} channel(s): one 3D file each, or one file with channels on the fourth axis",
            do="check [cases] channels, and whether the pattern needs a group (?P<channel>...)",
            where=str(paths[0]),
        )
    return np.ascontiguousarray(np.stack(parts))


def same_grid(
    grid: tuple[int, ...], affine: F64, other: tuple[int, ...], turned_to: F64, path: Path, case: str, most_mm: float
) -> None:
    """Raises CaseError FR-D08: shapes differ; FR-D09: corners lie more than `most_mm` apart."""
    if grid != other:
        raise CaseError(
            "FR-D08",
            f"shape {other}",
            case=case,
            wanted=f"{grid}, as the image" if len(grid) == len(other) else f"{grid}",
            do="resample it onto the image's grid",
            where=str(path),
        )
    apart = apart_mm(grid[:3], affine, turned_to)
    if apart > most_mm:
        raise CaseError(
            "FR-D09",
            f"lies up to {apart:.3g} mm beside the image (same shape, other affine)",
            case=case,
            wanted=f"at most {most_mm:g} mm (tolerance_mm)",
            do="register or resample it, or copy the right header",
            where=str(path),
        )
