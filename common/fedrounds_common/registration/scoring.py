"""What a displacement is worth: by labels, landmarks and the true field where they are known, and by itself."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Literal

import numpy as np
import torch

from fedrounds_common.case import F32, F64, U8, Case
from fedrounds_common.metrics import overlap, rules
from fedrounds_common.registration import fields, pairs, world
from fedrounds_common.study.tables import CaseForm

FIELD = "field"  # the row of what is said of the displacement itself
LANDMARKS = "landmarks"
SMALLEST = 1e-9  # a Jacobian is held above this before its logarithm


def moved_image(image: F32, displacement: F32) -> F32:
    """image (C, *grid) where a displacement (A, *grid) in voxels takes it."""
    return _numpy(fields.warp(_torch(image), _torch(displacement)))


def moved_labels(labels: U8, displacement: F32) -> U8:
    """At each voxel the label with most weight among those around where it comes from; outside is background."""
    values = np.unique(labels)
    best = np.zeros(labels.shape, np.float32)
    result = np.zeros(labels.shape, np.uint8)
    for value in values:
        mask = (labels == value).astype(np.float32)[np.newaxis]
        weight = _numpy(fields.warp(_torch(mask), _torch(displacement), outside="zeros"))[0]
        better = weight > best
        result[better], best[better] = value, weight[better]
    return result


def inverted(displacement: F32) -> F32:
    """The displacement in voxels that leads back."""
    return _numpy(fields.invert(_torch(displacement)))


def by_labels(
    moved: U8, case: Case, form: CaseForm, empty: Literal["one", "skip"]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Dice and HD95 of each region's labels, brought over, with the fixed image's; and each region's state."""
    values: dict[str, dict[str, float]] = {}
    state: dict[str, str] = {}
    for region, members in form.scored.items():
        if case.labels is None or not moved.size:
            values[region], state[region] = {}, "scored"  # of nothing: it counts as no case
            continue
        values[region], state[region] = rules.judge(
            overlap.mask_of(moved, members),
            overlap.mask_of(case.labels, members),
            case.spacing_mm,
            stacked=False,
            empty=empty,
        )
    return values, state


def by_itself(there_mm: F32, back_mm: F32, case: Case) -> dict[str, float]:
    """Share of voxels that fold in %, SDlogJ, and by how many mm the way there and back misses, mean over voxels."""
    there, back = (world.to_voxels(field, case.affine) for field in (there_mm, back_mm))
    stretch = fields.jacobian(_torch(there))
    round_trip = world.to_mm(_numpy(fields.compose(_torch(there), _torch(back))), case.affine)
    return {
        "folded": 100 * float((stretch <= 0).double().mean()),
        "sdlogj": float(stretch.clamp_min(SMALLEST).log().std(correction=0)),
        "inverse": float(np.linalg.norm(round_trip, axis=0).mean()),
    }


def end_point_error_mm(there_mm: F32, case: Case) -> float:
    """Mean length of the difference from the true field where the fixed image shows something; nan without one."""
    if case.target is None or case.target.field is None:
        return nan
    shown = pairs.shown(case.image[: len(case.image) // 2])
    error = np.linalg.norm(there_mm - case.target.field, axis=0)
    return float(error[shown].mean() if shown.any() else error.mean())


def landmark_error_mm(there_mm: F32, case: Case) -> float:
    """Mean distance of the moved landmarks from where they are in the moving image; nan without any."""
    marks: F64 | None = None if case.target is None else case.target.landmarks
    if marks is None or not len(marks):
        return nan
    axes = len(case.grid)
    places = torch.from_numpy(world.places_in(case.affine, marks[:, 0, :axes]).T.astype(np.float32))
    reached = fields.sample(_torch(there_mm), places.reshape(1, axes, -1, *(1,) * (axes - 1)))
    moved = marks[:, 0, :axes] + reached.reshape(axes, -1).T.numpy()
    return float(np.linalg.norm(moved - marks[:, 1, :axes], axis=1).mean())


def filled(values: Mapping[str, Mapping[str, float]], metrics: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Every metric in every row, nan where it says nothing of it."""
    return {row: {metric: found.get(metric, nan) for metric in metrics} for row, found in values.items()}


def _torch(array: F32) -> torch.Tensor:
    # a copy: what comes from a store of cases must not be written to, and torch cannot promise that
    return torch.from_numpy(np.array(array, np.float32, order="C"))[None]


def _numpy(tensor: torch.Tensor) -> F32:
    return tensor[0].cpu().numpy().astype(np.float32, copy=False)
