"""Make a folder of slices as a hospital might export them: SITE_PATIENT_SLICE.png and ..._mask.png.

    python studies/make_slices.py data/slices2d --images IMAGES --labels LABELS

IMAGES and LABELS hold NIfTI volumes with equal names, one a patient. Patients are dealt out to the
sites in turn; each gives its coronal slices that cross a label, as one looks at them: the patient's
right on the left. Images are 8-bit grey, from the volume's 0.5th to its 99.5th percentile; masks are
0 and 255, any label counting. `studies/slices2d.toml` learns from the folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image


def main() -> None:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    volumes = sorted(options.images.glob("*.nii*"))[: options.sites * options.patients]
    if not volumes:
        sys.exit(f"no NIfTI file in {options.images}")
    slices = 0
    for number, volume in enumerate(volumes):
        site, patient = chr(ord("A") + number % options.sites), number // options.sites + 1
        stem = options.out / f"{site}_{patient:03d}"
        slices += write_patient(_voxels(volume), _voxels(options.labels / volume.name), stem, options.every)
    sys.stdout.write(f"{slices} slices of {len(volumes)} patients at {options.sites} sites in {options.out}\n")


def write_patient(image: NDArray[np.float32], labels: NDArray[np.float32], stem: Path, every: int) -> int:
    """Write every `every`-th coronal slice that crosses a label, and its mask; returns how many."""
    low, high = np.percentile(image, (0.5, 99.5))
    grey = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1) * 255
    crossing = np.flatnonzero((labels > 0).any(axis=(0, 2)))[::every]
    for index in crossing:
        name = f"{stem}_{index:03d}"
        Image.fromarray(_as_seen(grey, index).round().astype(np.uint8)).save(f"{name}.png")
        Image.fromarray(np.where(_as_seen(labels, index) > 0, np.uint8(255), np.uint8(0))).save(f"{name}_mask.png")
    return len(crossing)


def _as_seen(volume: NDArray[np.float32], index: int) -> NDArray[np.float32]:
    """(rows from head to feet, columns from the patient's right to left) of a volume in RAS order."""
    return volume[::-1, index, ::-1].T


def _voxels(file: Path) -> NDArray[np.float32]:
    return np.asarray(nibabel.as_closest_canonical(nibabel.load(file)).dataobj, np.float32)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--patients", type=int, default=8, help="at each site")
    parser.add_argument("--every", type=int, default=3, help="take one slice of so many")
    return parser.parse_args()


if __name__ == "__main__":
    main()
