"""A simulated hospital: who its patients are. All drawn from its seed; its scanner is in `scanner.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.random import Generator

from fedrounds_common import rng
from fedrounds_sites.phantom import VERSION

# template millimetres; the left half of each is its mirror
LOBES = {
    "frontal": (34.0, 34.0, 28.0),
    "temporal": (46.0, -18.0, -14.0),
    "parietal": (34.0, -44.0, 38.0),
    "occipital": (28.0, -76.0, 8.0),
    "central": (22.0, -8.0, 16.0),
}
MOST_CORE_MM, MOST_OEDEMA_MM = 28.0, 22.0


@final
@dataclass(frozen=True)
class Population:
    """What sets one hospital's patients apart: medians and shares, about which its patients vary."""

    core_mm: float  # radius of the tumour core
    oedema_mm: float  # how far oedema reaches beyond it
    rim_mm: float  # thickness of the enhancing rim
    uptake: float  # contrast medium in the rim, mmol/l at a full dose
    without_enhancement: float  # share of patients
    lobes: tuple[float, ...]  # one share a lobe of LOBES
    age: float  # 0 young … 1 old: ventricles, atrophy, white-matter hyperintensities


@final
@dataclass(frozen=True)
class Patient:
    """One patient's own draw; lengths in mm."""

    warp_mm: float  # sd of the asymmetric displacement
    age: float
    lobe: str
    core_mm: float
    oedema_mm: float
    rim_mm: float
    uptake: float
    enhancing: bool
    wetness: float  # how much water the oedema holds: 1 is typical


def population(seed: int, site: str) -> Population:
    random = rng.generator(seed, "phantom", VERSION, "population", site)
    shares = random.dirichlet(np.array([3.0, 3.0, 2.0, 1.0, 1.5]))
    return Population(
        core_mm=float(random.uniform(14, 20)),
        oedema_mm=float(random.uniform(7, 14)),
        rim_mm=float(random.uniform(6, 9)),
        uptake=float(random.uniform(0.25, 0.6)),
        without_enhancement=float(random.beta(1.2, 9)),
        lobes=tuple(float(share) for share in shares),
        age=float(random.beta(4, 3)),
    )


def patient(hospital: Population, random: Generator) -> Patient:
    return Patient(
        warp_mm=float(random.uniform(2, 4)),
        age=float(np.clip(hospital.age + 0.2 * random.standard_normal(), 0, 1)),
        lobe=str(random.choice(list(LOBES), p=np.array(hospital.lobes) / sum(hospital.lobes))),
        core_mm=_about(hospital.core_mm, 0.25, 9, MOST_CORE_MM, random),
        oedema_mm=_about(hospital.oedema_mm, 0.35, 3, MOST_OEDEMA_MM, random),
        rim_mm=_about(hospital.rim_mm, 0.2, 5, 12, random),
        uptake=_about(hospital.uptake, 0.25, 0.15, 1.0, random),
        enhancing=bool(random.random() >= hospital.without_enhancement),
        wetness=_about(1.0, 0.2, 0.5, 1.5, random),
    )


def _about(median: float, spread: float, low: float, high: float, random: Generator) -> float:
    return float(np.clip(median * np.exp(spread * random.standard_normal()), low, high))
