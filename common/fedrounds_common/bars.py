"""The picture of a classified case: a slice of its image, and a bar for each class beside it.

The slice is turned and lettered as every picture here is (`pictures`). Drawn at the site that holds the case.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np
from numpy.typing import NDArray

from fedrounds_common import pictures
from fedrounds_common.case import F32, U8, Case
from fedrounds_common.metrics.overlap import Mask
from fedrounds_common.study.tables import CaseForm
from fedrounds_common.task import Picture

MOST = 12  # classes that are drawn; of more the likeliest, and the true ones
NAMES, BAR, SAID, EDGE = 240, 150, 44, 8  # pixels: of names at most, of a bar of probability 1, of its number, around
ROW, THICK = 26, 14  # pixels of a class's line, and of its bar
TRUE, FALSE, FRAME = pictures.COLOURS[3], pictures.COLOURS[1], (90, 90, 90)


def beside(case: Case, probabilities: F32, truth: F32 | None, form: CaseForm) -> Picture:
    """Panels "image" and "probabilities". A true class's bar is green and its name marked; letters as in `pictures`.

    Args:
        probabilities: (K,). truth: (K,) of 0 and 1, or None where it is not known.
    """
    marked: Mask = np.zeros(case.grid, np.bool_) if case.labels is None else case.labels > 0
    axis = pictures.slice_axis(case, form)
    index = None if axis is None else pictures.fullest(marked, case.image, axis)
    view = pictures.view_of(case, form, axis, index)
    channel = pictures.clearest(case.image, marked, view)
    crop = pictures.crop_of(case.image, view)
    plane = view.of(case.image[channel])[crop]
    grey = pictures.greys(plane, _background(plane, float(case.image[channel].flat[0])), view.mm)
    image = pictures.framed(grey, view, f"image: {form.channels[channel]}", {}, {})
    where = "" if axis is None or index is None else f", slice {index + 1} of {case.grid[axis]}"
    side = f"{view.left} is on the left" if view.left else "as stored, sides unknown"
    title = f"{case.ref.name}: {form.channels[channel]}{where}, {side}{_in_words(truth, form)}"
    return Picture(title, {"image": image, "probabilities": panel(probabilities, truth, form.classes, len(image))})


def panel(probabilities: F32, truth: F32 | None, names: Sequence[str], height: int) -> U8:
    """(H, W, 3), at least so high: a line for each class in the study's order, as long as it is probable."""
    from PIL import Image, ImageDraw

    chosen, font = drawn_classes(probabilities, truth), pictures.font()
    height = max(height, ROW * len(chosen) + 2 * pictures.LINE)
    longest = max(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(names[int(place)], font=font) for place in chosen)
    left = EDGE + min(round(longest) + 2 * EDGE, NAMES)
    canvas = Image.new("RGB", (left + BAR + SAID + EDGE, height), (0, 0, 0))
    draw = ImageDraw.Draw(canvas)
    top = (height - pictures.LINE - ROW * len(chosen)) / 2
    for line, place in enumerate(chosen):
        y = top + ROW * line + ROW / 2
        true = truth is not None and bool(truth[place] > 0)
        name = names[int(place)]
        while name and draw.textlength(name, font=font) > NAMES - 2 * EDGE:
            name = name[:-1]
        draw.text((left - EDGE, y), name, fill=TRUE if true else pictures.WHITE, font=font, anchor="rm")
        if true:  # not by colour alone
            draw.polygon([(left - 5, y), (left - 1, y - 4), (left - 1, y + 4)], fill=TRUE)
        length = round(float(probabilities[place]) * BAR)
        draw.rectangle((left, y - THICK / 2, left + BAR, y + THICK / 2), outline=FRAME)
        if length:
            draw.rectangle((left, y - THICK / 2, left + length, y + THICK / 2), fill=TRUE if true else FALSE)
        said = f"{float(probabilities[place]):.2f}"
        draw.text((left + BAR + EDGE, y), said, fill=pictures.WHITE, font=font, anchor="lm")
    caption = "probability" if truth is None else "probability; green: the truth"
    draw.text((canvas.width / 2, height - pictures.LINE / 2), caption, fill=pictures.WHITE, font=font, anchor="mm")
    return np.array(canvas)


def drawn_classes(probabilities: F32, truth: F32 | None) -> NDArray[np.intp]:
    """The places of the classes that are drawn, in the study's order."""
    if len(probabilities) <= MOST:
        return np.arange(len(probabilities))
    worth = np.asarray(probabilities, np.float64) + (0 if truth is None else truth)
    return np.sort(np.argsort(-worth, kind="stable")[:MOST])


def _background(plane: F32, corner: float) -> float:
    """The corner's value where it fills a good part of the plane; nan, which is nowhere, where no value does.

    In a radiograph that has no background, voxels which happen to equal the corner would be holes in the lung.
    """
    return corner if float((plane == corner).mean()) >= pictures.BACKGROUND else nan


def _in_words(truth: F32 | None, form: CaseForm) -> str:
    if truth is None:
        return ""
    true = [name for name, member in zip(form.classes, truth, strict=True) if member > 0]
    return f"; in truth {', '.join(true) or 'none of the classes'}"
