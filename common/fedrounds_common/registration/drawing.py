"""A registered pair as one slice: fixed, moving, moved, both in squares, and what the displacement does to a grid."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedrounds_common import pictures
from fedrounds_common.case import F32, U8, Case
from fedrounds_common.metrics.overlap import Mask
from fedrounds_common.pictures import COLOURS, View
from fedrounds_common.registration import world
from fedrounds_common.study.tables import CaseForm
from fedrounds_common.task import Picture, Prediction

SQUARES = 8  # along the longer side
LINES = 16  # of the grid along the longer side, before it is bent
LINE = (255, 196, 0)
DIM = 0.55  # of the image under the grid
FILL = 0.08  # of a label's colour inside its outline: what lies under it is what must fit


def compare(case: Case, prediction: Prediction, form: CaseForm) -> Picture:
    """The slice with the most of the fixed image's labels, else the middle; labels are outlined where there are any.

    `moving` is the moving image as its file has it, on the fixed one's grid; `moved` is brought over by the
    displacement; in `squares` every second one is the moved image's: what is continuous at their edges fits.
    """
    fixed, moving = np.split(case.image, 2)
    marked: Mask = np.zeros(case.grid, np.bool_) if case.labels is None else case.labels > 0
    axis = pictures.slice_axis(case, form)
    index = None if axis is None else pictures.fullest(marked, fixed, axis)
    view = pictures.view_of(case, form, axis, index)
    crop = pictures.crop_of(case.image, view)  # of both: what the moving image has beyond the fixed one is seen too
    images = {"fixed": fixed, "moving": moving, "moved": moving if prediction.image is None else prediction.image}
    planes = {
        name: pictures.greys(view.of(image[0])[crop], float(image[0].flat[0]), view.mm)
        for name, image in images.items()
    }
    legend = {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(form.labels)} if marked.any() else {}
    labels = {"fixed": case.labels, "moving": case.target and case.target.moving, "moved": prediction.labels}
    panels = {}
    for name, plane in planes.items():
        known = labels[name]
        masks = {} if known is None or not known.size or not legend else _masks(known, view, crop, form)
        panels[name] = pictures.framed(
            pictures.painted(plane, masks, legend, view.mm, FILL), view, name, legend, legend
        )
    squares = _squares(planes["fixed"], planes["moved"])
    panels["squares"] = pictures.framed(squares, view, "fixed and moved in squares", {}, legend)
    there = world.to_voxels(prediction.outputs[: len(case.grid)], case.affine)
    bent = _bent(planes["moved"], there, view, crop, axis)
    panels["grid"] = pictures.framed(bent, view, "moving's grid on fixed", {}, legend)
    where = "" if axis is None or index is None else f", slice {index + 1} of {case.grid[axis]}"
    side = f"{view.left} is on the left" if view.left else "as stored, sides unknown"
    return Picture(f"{case.ref.name}: {form.channels[0]}{where}, {side}", panels)


def _masks(labels: U8, view: View, crop: tuple[slice, ...], form: CaseForm) -> Mapping[str, Mask]:
    return {label: view.of(labels)[crop] == value for label, value in form.labels.items()}


def _squares(one: U8, other: U8) -> U8:
    """(H, W, 3): squares of one and the other by turns."""
    side = max(one.shape[:2]) / SQUARES
    rows, columns = (np.arange(size) // side for size in one.shape[:2])
    turns = (rows[:, np.newaxis] + columns[np.newaxis]) % 2 == 0
    return np.where(turns[:, :, np.newaxis], one, other)


def _bent(grey: U8, there: F32, view: View, crop: tuple[slice, ...], axis: int | None) -> U8:
    """Where the straight lines of the moving image's grid come to lie: level lines of where each place comes from."""
    inside = [number for number in range(len(there)) if number != axis]
    sizes_mm = [there.shape[number + 1] * size for number, size in zip(inside, _mm(view), strict=True)]
    result = grey.astype(np.float32) * DIM
    for number, size in zip(inside, _mm(view), strict=True):
        step = max(sizes_mm) / LINES / size
        own = np.arange(there.shape[number + 1], dtype=np.float32)
        own = own.reshape([-1 if other == number else 1 for other in range(len(there))])
        source = _large(view.of(there[number] + own)[crop], grey.shape[:2]) / step
        slope = np.hypot(*np.gradient(source))
        # half a pixel to either side of the line, fading over the next
        away = np.abs(source - np.rint(source)) / np.maximum(slope, 1e-6)
        share = np.clip(1.3 - away, 0, 1)[:, :, np.newaxis]
        result = (1 - share) * result + share * np.array(LINE, np.float32)
    return result.round().astype(np.uint8)


def _mm(view: View) -> tuple[float, float]:
    """Of the plane's two axes as the grid has them, not as the screen does."""
    return (view.mm[1], view.mm[0]) if view.transpose else view.mm


def _large(plane: F32, size: tuple[int, ...]) -> F32:
    from PIL import Image

    height, width = size
    image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float32)
