"""What a profile can spoil at a hospital on purpose, so that finding it can be tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedrounds_common.errors import CaseError
from fedrounds_sites.phantom.patients import ENHANCING, Visit
from fedrounds_sites.phantom.scanner import CHANNELS

SHIFT_MM = 25.0


def spoil(visit: Visit, faults: Sequence[str], first: bool, case: str) -> Visit:
    """Apply a hospital's faults to one visit. `first`: the hospital's first case, the only one that an
    empty case or a corrupt file hits.

    Raises:
        CaseError: the file is corrupt.
    """
    if "corrupt-file" in faults and first:
        raise CaseError(
            "FR-P10",
            "the file ends early, as the profile asks (fault corrupt-file)",
            case=case,
            wanted="a whole image",
            do="take the fault out of the profile, or go on without the case",
        )
    if "swapped-channels" in faults:
        order = list(range(len(visit.images)))  # the four of MR, and CT where it was asked for
        a, b = CHANNELS.index("t1ce"), CHANNELS.index("flair")
        order[a], order[b] = b, a
        visit = replace(visit, images=visit.images[order])
    if "shifted-labels" in faults:
        voxels = round(SHIFT_MM / float(visit.affine[0, 0]))
        visit = replace(visit, labels=np.roll(visit.labels, (voxels, voxels), axis=(0, 1)))
    if "label-convention-3" in faults:
        visit = replace(visit, labels=np.where(visit.labels == ENHANCING, 3, visit.labels).astype(np.uint8))
    if "empty-case" in faults and first:
        visit = replace(visit, images=np.zeros_like(visit.images), labels=np.zeros_like(visit.labels))
    return visit
