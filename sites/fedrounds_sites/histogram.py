"""Bring MR intensities to one scale by landmarks of their histogram.

Source: Nyúl & Udupa 1999 and Nyúl, Udupa & Zhang 2000 (doi:10.1109/42.836373). An image's 1st, 10th, 20th … 90th and 99th
percentile of tissue go to the standard's landmarks, linearly between them. The standard is learned as the mean of
images' landmarks, each image's 1st and 99th percentile brought to 0 and 1 first; sums of these add over sites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedrounds_common.case import F32, F64, Case
from fedrounds_common.errors import DataError
from fedrounds_common.study.tables import LANDMARKS, CaseForm

PERCENTILES = (1, *range(10, 100, 10), 99)
_LEAST_BACKGROUND = 0.01  # of the voxels: fewer zeros are chance, and no background


def standardised(channel: F32, landmarks: Sequence[float]) -> F32:
    """Values on the standard's scale; voxels that are exactly 0 stay 0 where there is such a background.

    Beyond the outermost landmarks the line between the last two goes on.
    """
    inside = _tissue(channel)
    found, wanted = _percentiles(channel), np.asarray(landmarks, np.float64)
    if not found[-1] > found[0]:
        return np.zeros_like(channel)
    found, keep = np.unique(found, return_index=True)  # a percentile that stands twice says nothing the second time
    wanted = wanted[keep]
    low, high = min(float(channel.min()), found[0]), max(float(channel.max()), found[-1])
    first, last = ((wanted[b] - wanted[a]) / (found[b] - found[a]) for a, b in ((0, 1), (-2, -1)))
    places = np.concatenate([[low - 1], found, [high + 1]])
    values = np.concatenate(
        [[wanted[0] + first * (low - 1 - found[0])], wanted, [wanted[-1] + last * (high + 1 - found[-1])]]
    )
    mapped = np.interp(channel, places, values).astype(np.float32)
    return np.where(inside, mapped, np.float32(0)) if _has_background(channel) else mapped


def landmark_sums(cases: Sequence[Case]) -> F64:
    """(channels, LANDMARKS + 1): the sum over cases of each channel's landmarks, and how many cases that is.

    A channel without contrast counts nowhere. Sums of sites add.

    Raises:
        DataError: FR-D47 no case.
    """
    if not cases:
        raise DataError(
            "FR-D47", "no case to learn landmarks from", wanted="at least one", do="check the reader's table"
        )
    sums = np.zeros((len(cases[0].image), LANDMARKS + 1))
    for case in cases:
        for row, channel in zip(sums, case.image, strict=True):
            found = _percentiles(channel)
            if found[-1] > found[0]:
                row += [*(found - found[0]) / (found[-1] - found[0]), 1.0]
    return sums


def standard(sums: F64, form: CaseForm) -> Mapping[str, tuple[float, ...]]:
    """Channel → landmarks for `[cases] landmarks`, from 0 to 1; channels with a window are left out.

    Raises:
        DataError: FR-D47 a channel has contrast in no case, or two landmarks fall together.
    """
    learned: dict[str, tuple[float, ...]] = {}
    for name, row in zip(form.channels, sums, strict=True):
        if name in form.window:
            continue
        means = row[:-1] / row[-1] if row[-1] else row[:-1]
        if not (np.diff(means) > 0).all():
            said = f"channel {name}: landmarks {', '.join(f'{value:.3g}' for value in means)}"
            do = "check the images: is most of the channel one value?"
            raise DataError("FR-D47", said, wanted="each above the one before", do=do)
        learned[name] = tuple(float(f"{value:.6g}") for value in means)
    return learned


def _percentiles(channel: F32) -> F64:
    values = channel[_tissue(channel)]
    return np.asarray(np.percentile(values, PERCENTILES), np.float64) if len(values) else np.zeros(LANDMARKS)


def _tissue(channel: F32) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """What is not 0; of an image without such a background, what is brighter than its mean, as the authors take it."""
    return np.asarray(channel != 0 if _has_background(channel) else channel > channel.mean(dtype=np.float64))


def _has_background(channel: F32) -> bool:
    return bool((channel == 0).mean() >= _LEAST_BACKGROUND)
