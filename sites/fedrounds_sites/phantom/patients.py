"""One simulated patient, from anatomy to image: the same voxels for the same seed, site and name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from fedrounds_common import rng
from fedrounds_common.case import F32, F64, U8
from fedrounds_sites.phantom import VERSION, lookalikes, templates
from fedrounds_sites.phantom.anatomy import Anatomy, anatomy
from fedrounds_sites.phantom.ct import HEAD_MM, hounsfield
from fedrounds_sites.phantom.fields import Motion, View, smooth, view
from fedrounds_sites.phantom.hospital import MOST_CORE_MM, MOST_OEDEMA_MM, Patient, Population, patient
from fedrounds_sites.phantom.scanner import NAMES, Mask, Scanner, acquire, signals
from fedrounds_sites.phantom.tumour import Tumour, tumour

NECROSIS, OEDEMA, ENHANCING = 1, 2, 4
_HEALTHY = {
    "white": templates.WHITE,
    "grey": templates.GREY,
    "csf": templates.CSF,
    "fat": templates.FAT,
    "muscle": templates.MUSCLE,
}
LABELS = {"necrosis": NECROSIS, "oedema": OEDEMA, "enhancing": ENHANCING}
PARTS = ("white", "grey", "csf", "ventricles", "tumour")  # csf: between the gyri and around the brain


@final
@dataclass(frozen=True)
class Change:
    """What is other than it would be. A patient changed in one respect is the same patient in all others.

    `tumour` False: never had one. `size`: of the tumour's core and of how far its oedema reaches. `motion`: lies
    otherwise than at rest, and is scanned `again`: with other noise. `ct`, `parts`, `level`: what is made besides.
    """

    tumour: bool = True
    size: float = 1.0
    motion: Motion | None = None
    again: str = ""
    ct: bool = False
    parts: bool = False
    level: bool = False


@final
@dataclass(frozen=True)
class Visit:
    """Images (4, *grid) in the order of `scanner.CHANNELS`, and CT after them if asked for; labels as in BraTS (1, 2, 4).

    `parts` (*grid), if asked for: the place in PARTS, from 1, of what fills each voxel of the brain; 0 beyond it.
    `level_mm`, if asked for: the height at which the tumour is widest, or would be in a patient without one.
    """

    images: F32
    labels: U8
    affine: F64
    patient: Patient
    atrophy: float
    parts: U8 | None = None
    level_mm: float = float("nan")


Stream = Callable[[str], np.random.Generator]


@final
@dataclass(frozen=True)
class Body:
    """One patient, with or without a tumour, before anybody scans."""

    person: Patient
    head: Anatomy
    growth: Tumour | None

    def template_mm(self, grid: View) -> F32:
        # mass effect first, then the warp, which hardly changes over the few mm that tissue is pushed
        template = self.head.to_template(grid)
        return template if self.growth is None else template + self.growth.pulled(grid.points_mm) - grid.points_mm


@final
@dataclass(frozen=True)
class Content:
    """What fills the voxels `inside` a view: shares of tissues (n, tissues), of them tumour (n, 3), the templates' maps."""

    shares: F32
    tumour: F32
    tissue: F32
    template_mm: F32


def visit(
    seed: int,
    site: str,
    name: str,
    scanner: Scanner,
    hospital: Population,
    spacing_mm: float,
    change: Change = Change(),
) -> Visit:
    """Scan one patient of a hospital. Each part draws from its own stream, so parts can change alone."""

    def stream(part: str) -> np.random.Generator:
        return rng.generator(seed, "phantom", VERSION, part, site, name)

    body = _body(hospital, change, stream)
    still = view(spacing_mm, 20.0 if scanner.margin_mm > 3 else 6.0)
    grid = still if change.motion is None else change.motion.of(still)
    content = _content(body, grid, stream)
    mask = _mask(content.tissue, scanner, grid, stream("mask"))
    signal = signals(scanner, body.person.uptake, body.person.wetness)
    images = acquire(scanner, content.shares, mask, signal, still, stream("scan" + change.again))
    if change.ct:
        images = np.concatenate([images, _ct(body, change, spacing_mm, stream)[None]])
    parts = _parts(content, mask, grid) if change.parts else None
    level_mm = _level_mm(body, hospital, change, stream) if change.level else float("nan")
    labels = _labels(content.tumour, mask, grid)
    return Visit(images, labels, grid.affine, body.person, body.head.atrophy, parts, level_mm)


def _body(hospital: Population, change: Change, stream: Stream) -> Body:
    person = patient(hospital, stream("patient"))
    if change.size != 1:
        # no larger than patients' tumours are: the grid that a tumour grows on holds no more
        core_mm = min(change.size * person.core_mm, MOST_CORE_MM)
        person = replace(person, core_mm=core_mm, oedema_mm=min(change.size * person.oedema_mm, MOST_OEDEMA_MM))
    head = anatomy(person, stream("anatomy"))
    return Body(person, head, tumour(person, head, stream("tumour")) if change.tumour else None)


def _level_mm(body: Body, hospital: Population, change: Change, stream: Stream) -> float:
    """Of the tumour as this patient has it unchanged, so that the same slice is taken of all his or her twins."""
    if change.tumour and change.size == 1 and body.growth is not None:
        return body.growth.widest_mm
    unchanged = _body(hospital, Change(), stream).growth
    assert unchanged is not None  # Change() leaves the tumour
    return unchanged.widest_mm


def _content(body: Body, grid: View, stream: Stream) -> Content:
    person, head = body.person, body.head
    template_mm = body.template_mm(grid)
    tissue = head.tissue(template_mm, grid.spacing_mm)
    if body.growth is None:
        tumour_shares, water = np.zeros((len(tissue), 3), np.float32), np.ones(len(tissue), np.float32)
    else:
        tumour_shares, water = body.growth.shares(grid)
        tumour_shares *= _room(tissue)[:, None]
    extra = (
        lookalikes.hyperintensities(person, head, grid, stream("hyperintensities")) * tissue[:, templates.WHITE],
        lookalikes.vessels(head, grid, stream("vessels")),
        lookalikes.plexus(head, grid, stream("plexus")) * np.clip(2 * tissue[:, templates.CSF], 0, 1),
    )
    shares = _filled(tissue, tumour_shares, extra)
    shares = _textured(shares, water, person, smooth(stream("texture"), 3, 8.0).on(grid))
    return Content(shares, tumour_shares, tissue, template_mm)


def _ct(body: Body, change: Change, spacing_mm: float, stream: Stream) -> F32:
    """The whole head, skull and scalp, in HU: nobody strips a CT."""
    still = view(spacing_mm, HEAD_MM)
    grid = still if change.motion is None else change.motion.of(still)
    content = _content(body, grid, stream)
    return hounsfield(content.shares, content.template_mm, still, stream("ct" + change.again))


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


def _parts(content: Content, mask: Mask, grid: View) -> U8:
    """Which of PARTS fills most of each voxel; the tumour where it fills at least half."""
    fluid = content.tissue[:, templates.CSF]
    inner = np.clip(1.5 - content.tissue[:, templates.VENTRICLE_MM] / max(2.0, grid.spacing_mm), 0, 1)
    shares = np.stack(
        [
            content.tissue[:, templates.WHITE],
            content.tissue[:, templates.GREY],
            fluid * (1 - inner),
            fluid * inner,
        ],
        axis=1,
    )
    part = np.where(content.tumour.sum(axis=1) >= 0.5, PARTS.index("tumour"), shares.argmax(axis=1)) + 1
    brain = mask & (content.tissue[:, templates.OUTSIDE_MM] < 0)
    parts = np.zeros(int(np.prod(grid.grid)), np.uint8)
    parts[grid.inside] = np.where(brain, part, 0)
    return parts.reshape(grid.grid)


def _labels(tumour: F32, mask: Mask, grid: View) -> U8:
    """The tissue that fills most of a voxel, where tumour fills at least half of it."""
    values = np.array([NECROSIS, OEDEMA, ENHANCING], np.uint8)[tumour.argmax(axis=1)]
    labels = np.zeros(int(np.prod(grid.grid)), np.uint8)
    labels[grid.inside] = np.where((tumour.sum(axis=1) >= 0.5) & mask, values, 0)
    return labels.reshape(grid.grid)
