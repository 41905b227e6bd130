"""One simulated patient, from anatomy to image: the same voxels for the same seed, site and name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from fedrounds_common import rng
from fedrounds_common.case import F32, F64, U8
from fedrounds_sites.phantom import VERSION, lookalikes, templates
from fedrounds_sites.phantom.anatomy import anatomy
from fedrounds_sites.phantom.fields import View, smooth, view
from fedrounds_sites.phantom.hospital import Patient, Population, patient
from fedrounds_sites.phantom.scanner import NAMES, Scanner, acquire, signals
from fedrounds_sites.phantom.tumour import tumour

NECROSIS, OEDEMA, ENHANCING = 1, 2, 4
LABELS = {"necrosis": NECROSIS, "oedema": OEDEMA, "enhancing": ENHANCING}


@final
@dataclass(frozen=True)
class Visit:
    """Images (4, *grid) in the order of `scanner.CHANNELS`; labels as in BraTS (1, 2, 4)."""

    images: F32
    labels: U8
    affine: F64


def visit(seed: int, site: str, name: str, scanner: Scanner, hospital: Population, spacing_mm: float) -> Visit:
    """Scan one patient of a hospital. Each part draws from its own stream, so parts can change alone."""

    def stream(part: str) -> np.random.Generator:
        return rng.generator(seed, "phantom", VERSION, part, site, name)

    grid = view(spacing_mm, 20.0 if scanner.margin_mm > 3 else 6.0)
    person = patient(hospital, stream("patient"))
    head = anatomy(person, stream("anatomy"))
    growth = tumour(person, head, stream("tumour"))
    tissue = head.tissue(_pushed(head.to_template(grid), growth.pulled(grid.points_mm) - grid.points_mm), spacing_mm)
    tumour_shares = growth.shares(grid)
    fluid = tissue[:, templates.CSF]
    # a tumour fills neither ventricles nor the space outside the brain
    inner = np.clip(1 - 1.5 * np.clip(fluid - 0.3, 0, 1), 0, 1) * (tissue[:, templates.OUTSIDE_MM] < 0)
    tumour_shares *= inner[:, None]
    extra = [
        lookalikes.hyperintensities(person, head, grid, stream("hyperintensities")) * tissue[:, templates.WHITE],
        lookalikes.vessels(person, head, grid, stream("vessels")),
        lookalikes.plexus(person, head, grid, stream("plexus")) * np.clip(fluid * 2, 0, 1),
    ]
    shares = _shares(tissue, tumour_shares, extra, person, grid, stream("texture"))
    mask = _mask(tissue, scanner, grid, stream("mask"))
    images = acquire(
        scanner, shares, mask, signals(scanner, person.uptake, person.wetness), grid, stream("scan")
    )
    return Visit(images, _labels(tumour_shares, mask, grid), grid.affine)


def _pushed(template_mm: F32, moved_mm: F32) -> F32:
    """Mass effect first, then the warp; the warp hardly changes over the few mm that tissue is pushed."""
    return template_mm + moved_mm


def _shares(
    tissue: F32, tumour: F32, extra: list[F32], person: Patient, grid: View, random: np.random.Generator
) -> F32:
    """(n, tissues) shares that sum to at most 1; what is missing is bone and air, without signal."""
    shares = np.zeros((len(tissue), len(NAMES)), np.float32)
    healthy = 1 - tumour.sum(axis=1)
    for name, map_ in (("white", 0), ("grey", 1), ("csf", 2), ("fat", 3), ("muscle", 4)):
        shares[:, NAMES.index(name)] = tissue[:, map_] * healthy
    # oedema is water between fibres: patchy, and mixed with the white matter it soaks
    texture = smooth(random, 2, 8.0).on(grid)
    soaked = np.clip(0.8 + 0.18 * texture[:, 0], 0.35, 1) * tumour[:, 1]
    shares[:, NAMES.index("oedema")] = soaked
    shares[:, NAMES.index("white")] += tumour[:, 1] - soaked
    dead = np.clip(0.6 + 0.3 * texture[:, 1], 0, 1) if person.enhancing else np.clip(0.15 * texture[:, 1], 0, 1)
    shares[:, NAMES.index("necrosis")] = tumour[:, 0] * dead
    shares[:, NAMES.index("solid")] = tumour[:, 0] * (1 - dead)
    shares[:, NAMES.index("enhancing")] = tumour[:, 2]
    for name, share in zip(("hyperintensity", "blood", "plexus"), extra, strict=True):
        share = share * healthy if name != "blood" else share * (1 - tumour[:, 0] - tumour[:, 2])
        shares *= (1 - share)[:, None]
        shares[:, NAMES.index(name)] += share
    return shares


def _mask(tissue: F32, scanner: Scanner, grid: View, random: np.random.Generator) -> np.ndarray:
    """(n,) what skull stripping left; its edge is ragged where it left much."""
    ragged = smooth(random, 1, 25.0).on(grid)[:, 0]
    edge = scanner.margin_mm + (0.8 + 0.35 * max(scanner.margin_mm, 0)) * ragged
    return np.asarray(tissue[:, templates.OUTSIDE_MM] < np.clip(edge, -3, 20))


def _labels(tumour: F32, mask: np.ndarray, grid: View) -> U8:
    """The tissue that fills most of a voxel, where tumour fills at least half of it."""
    values = np.array([NECROSIS, OEDEMA, ENHANCING], np.uint8)[tumour.argmax(axis=1)]
    labels = np.zeros(int(np.prod(grid.grid)), np.uint8)
    labels[grid.inside] = np.where((tumour.sum(axis=1) >= 0.5) & mask, values, 0)
    return labels.reshape(grid.grid)
