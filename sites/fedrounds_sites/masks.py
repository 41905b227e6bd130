"""From the whole numbers in a site's mask to the study's label values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.case import U8
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.study.tables import CaseForm


def study_values(label_map: Mapping[int, int], form: CaseForm) -> dict[int, int]:
    """The site's value → the study's, 0 included. Without a map the site stores the study's own values.

    Raises:
        DataError: FR-D20 the map leads to a value that the study does not have.
    """
    known = form.labels.values()
    values = dict(label_map) or {value: value for value in known}
    unknown = sorted(set(values.values()) - set(known) - {0})
    if unknown:
        raise DataError(
            "FR-D20",
            f"label_map leads to {', '.join(map(str, unknown))}",
            wanted=f"the study's values {', '.join(map(str, sorted(known)))}, or 0 to drop a label",
            do="correct label_map in the reader's table",
        )
    return {0: 0} | values


def labels_of(label_map: Mapping[int, int]) -> dict[str, int]:
    """Labels that such a map could be meant for, by made-up names: what a study calls them is not known yet."""
    return {f"label-{value}": value for value in sorted({*label_map.values()} - {0})} or {"target": 1}


def whole(mask: NDArray[Any], case: str, where: str) -> NDArray[np.int64]:
    """Label values stored as real numbers, as integers.

    Raises:
        CaseError: FR-D11 some are not whole.
    """
    numbers: NDArray[Any] = np.rint(mask)
    if float(np.abs(mask - numbers).max(initial=0)) > 1e-3 or float(np.abs(numbers).max(initial=0)) > 65535:
        raise CaseError(
            "FR-D11",
            f"values from {float(mask.min()):g} to {float(mask.max()):g}, some not whole",
            case=case,
            wanted="whole label values within ±65535",
            do="take the label map, not an image or a map resampled linearly",
            where=where,
        )
    result: NDArray[np.int64] = numbers.astype(np.int64)
    return result


def map_labels(mask: NDArray[Any], values: Mapping[int, int], case: str, where: str) -> U8:
    """Every value replaced by the study's.

    Raises:
        CaseError: FR-D10 the mask holds a value that `values` does not know.
    """
    found = np.unique(mask)
    strange = [value.item() for value in found if value.item() not in values]
    if strange:
        raise CaseError(
            "FR-D10",
            f"label {', '.join(f'{value:g}' for value in strange[:8])}{' ...' if len(strange) > 8 else ''}",
            case=case,
            wanted=", ".join(f"{old} → {new}" if old != new else str(old) for old, new in sorted(values.items())),
            do="name the value in label_map, or correct the mask",
            where=where,
        )
    result = np.zeros(mask.shape, np.uint8)
    for value in found:
        result[mask == value] = values[value.item()]
    return result


def two_valued(mask: NDArray[Any], value: int, case: str, where: str) -> U8:
    """`value` wherever the mask is not 0; the mask may hold 0 and one other number.

    Raises:
        CaseError: FR-D34 it holds more, as an anti-aliased, resampled or JPEG-compressed mask does.
    """
    strange = np.unique(mask[mask != 0])
    if len(strange) > 1:
        raise CaseError(
            "FR-D34",
            f"the mask holds {len(strange)} values besides 0, from {strange[0]:g} to {strange[-1]:g}",
            case=case,
            wanted="0 and one other",
            do='save it without smoothing or JPEG, or give mask_values = "labels" and a label_map',
            where=where,
        )
    return np.where(mask != 0, np.uint8(value), np.uint8(0))
