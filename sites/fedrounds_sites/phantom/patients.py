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
from fedrounds_sites.phantom.scanner import NAMES, Mask, Scanner, acquire, signals
from fedrounds_sites.phantom.tumour import tumour

NECROSIS, OEDEMA, ENHANCING = 1, 2, 4
_HEALTHY = {
    "white": templates.WHITE,
    "grey": templates.GREY,
    "csf": templates.CSF,
    "fat": templates.FAT,
    "muscle": templates.MUSCLE,
}
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
    # mass effect first, then the warp, which hardly changes over the few mm that tissue is pushed
    template_mm = head.to_template(grid) + growth.pulled(grid.points_mm) - grid.points_mm
    tissue = head.tissue(template_mm, spacing_mm)
    tumour_shares, water = growth.shares(grid)
    tumour_shares *= _room(tissue)[:, None]
    extra = (
        lookalikes.hyperintensities(person, head, grid, stream("hyperintensities")) * tissue[:, templates.WHITE],
        lookalikes.vessels(head, grid, stream("vessels")),
        lookalikes.plexus(head, grid, stream("plexus")) * np.clip(2 * tissue[:, templates.CSF], 0, 1),
    )
    shares = _filled(tissue, tumour_shares, extra)
    shares = _textured(shares, water, person, smooth(stream("texture"), 3, 8.0).on(grid))
    mask = _mask(tissue, scanner, grid, stream("mask"))
    signal = signals(scanner, person.uptake, person.wetness)
    images = acquire(scanner, shares, mask, signal, grid, stream("scan"))
    return Visit(images, _labels(tumour_shares, mask, grid), grid.affine)


def _room(tissue: F32) -> F32:
    """(n,) how much of a voxel tumour may fill: not the ventricles, nor the space outside the brain."""
    fluid = np.clip(1 - 1.5 * np.clip(tissue[:, templates.CSF] - 0.3, 0, 1), 0, 1)
    return np.asarray(fluid * (tissue[:, templates.OUTSIDE_MM] < 0), np.float32)


def _filled(tissue: F32, tumour: F32, extra: tuple[F32, F32, F32]) -> F32:
    """(n, tissues) shares that sum to at most 1; what is missing is bone and air, without signal."""
    shares = np.zeros((len(tissue), len(NAMES)), np.float32)
    healthy = 1 - tumour.sum(axis=1)
    for name, place in _HEALTHY.items():
        shares[:, NAMES.index(name)] = tissue[:, place] * healthy
    for place, name in enumerate(("necrosis", "oedema", "enhancing")):
        shares[:, NAMES.index(name)] = tumour[:, place]
    hyperintensity, blood, plexus = extra
    swept = 1 - tumour[:, 0] - tumour[:, 2]  # vessels run through oedema, and not through the core
    for name, share in (
        ("hyperintensity", hyperintensity * healthy),
        ("blood", blood * swept),
        ("plexus", plexus * healthy),
    ):
        shares *= (1 - share)[:, None]
        shares[:, NAMES.index(name)] += share
    return shares


def _textured(shares: F32, water: F32, person: Patient, texture: F32) -> F32:
    """No tumour is one tissue: mix its parts by smooth fields (n, 3). Shares keep their sum."""
    white, oedema, necrosis, solid, enhancing = (
        NAMES.index(name) for name in ("white", "oedema", "necrosis", "solid", "enhancing")
    )
    # oedema is water between fibres: patchy, and less of it outwards
    _move(shares, oedema, white, 1 - water * np.clip(0.9 + 0.15 * texture[:, 0], 0.4, 1))
    dead = 0.6 + 0.3 * texture[:, 1] if person.enhancing else 0.15 * texture[:, 1]
    _move(shares, necrosis, solid, 1 - np.clip(dead, 0, 1))
    _move(shares, enhancing, solid, np.clip(0.12 + 0.15 * texture[:, 2], 0, 0.5))
    return shares


def _move(shares: F32, source: int, to: int, part: F32) -> None:
    moved = shares[:, source] * part
    shares[:, source] -= moved
    shares[:, to] += moved


def _mask(tissue: F32, scanner: Scanner, grid: View, random: np.random.Generator) -> Mask:
    """(n,) what skull stripping left; its edge is ragged where it left much."""
    ragged = smooth(random, 1, 25.0).on(grid)[:, 0]
    edge = scanner.margin_mm + (0.8 + 0.35 * max(scanner.margin_mm, 0)) * ragged
    return np.asarray(tissue[:, templates.OUTSIDE_MM] < np.clip(edge, -3, 20))


def _labels(tumour: F32, mask: Mask, grid: View) -> U8:
    """The tissue that fills most of a voxel, where tumour fills at least half of it."""
    values = np.array([NECROSIS, OEDEMA, ENHANCING], np.uint8)[tumour.argmax(axis=1)]
    labels = np.zeros(int(np.prod(grid.grid)), np.uint8)
    labels[grid.inside] = np.where((tumour.sum(axis=1) >= 0.5) & mask, values, 0)
    return labels.reshape(grid.grid)
