"""What is wanted of a made image: that it is of a class, or that it shows a label map. As channels, Q of them.

A class fills its channel with 1; of a label map each label has a channel, background none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from fedrounds_common.case import F32, U8, Case, Target
from fedrounds_common.errors import CaseError, UsageError
from fedrounds_common.study.tables import CaseForm

if TYPE_CHECKING:
    from torch import Tensor

By = Literal["classes", "labels", "nothing"]


def channels(by: By, form: CaseForm) -> int:
    """Q: how many channels say what is wanted."""
    return {"classes": len(form.classes), "labels": len(form.labels), "nothing": 0}[by]


def wanted_of(case: Case, by: By, form: CaseForm) -> F32:
    """What this case is an example of: (K,) of classes, (L, *grid) of label maps, (0,) of nothing.

    Raises:
        CaseError: FR-D40 the case does not say.
    """
    if by == "nothing":
        return np.zeros(0, np.float32)
    target = case.target
    if by == "classes":
        if target is None or target.classes is None:
            raise CaseError("FR-D40", "the case has no reference", wanted="its class", case=case.ref.name)
        return target.classes.astype(np.float32)
    if target is None or target.voxels is None:
        raise CaseError("FR-D40", "the case has no reference", wanted="a label map", case=case.ref.name)
    return planes(target.voxels, form)


def planes(labels: U8, form: CaseForm) -> F32:
    """labels (*grid) → (L, *grid) of 0 and 1, in the order of their values."""
    return np.stack([labels == value for value in sorted(form.labels.values())]).astype(np.float32)


def labels_from(wanted: F32, form: CaseForm) -> U8:
    """The inverse of `planes`."""
    values = np.array([0, *sorted(form.labels.values())], np.uint8)
    found: U8 = values[np.where(wanted.any(axis=0), wanted.argmax(axis=0) + 1, 0)]
    return found


def over_grid(wanted: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, Q) or (B, Q, *grid) → (B, Q, *grid)."""
    if wanted.ndim > 2:
        return wanted
    return wanted.reshape(*wanted.shape, *(1,) * len(grid)).expand(*wanted.shape, *grid)


def of_class(name: str, number: int, form: CaseForm) -> F32:
    """(number, K): each of the class of that name, or of one class after the other where none is named.

    Raises:
        UsageError: FR-U77 the study has no such class.
    """
    if name and name not in form.classes:
        known = ", ".join(form.classes) or "none: it makes images of no class"
        raise UsageError("FR-U77", f"there is no class {name!r} in the study", wanted=known)
    places = np.full(number, form.classes.index(name)) if name else np.arange(number) % max(len(form.classes), 1)
    found: F32 = np.eye(max(len(form.classes), 1), dtype=np.float32)[places]
    return found


def target_of(wanted: F32, by: By, form: CaseForm) -> Target | None:
    """The labels that a made case comes with."""
    if by == "nothing":
        return None
    return Target(classes=wanted) if by == "classes" else Target(labels_from(wanted, form))
