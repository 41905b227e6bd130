"""Made images beside real ones, and a contact sheet of many; each says in its pixels that it is synthetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np

from fedrounds_common.case import F32, U8, Case, Cases
from fedrounds_common.pictures import crop_of, framed, fullest, resized, slice_axis, view_of
from fedrounds_common.study.tables import CaseForm
from fedrounds_common.task import Picture, Prediction

TILE = 96  # pixels of a made image's longer side on a contact sheet
LINE = 16  # pixels of a line of text
MOST = 8  # images a row
GREYS = (0.5, 99.5)  # percentiles of what is black and white
NOTE = "SYNTHETIC - for research only"


def compared(case: Case, prediction: Prediction, form: CaseForm) -> Picture:
    """A real case, an image made for the same wishes, and the made one that lies nearest to it; the first channel."""
    shown = {"real": case.image[0], "made for the same": prediction.outputs[0]}
    if len(prediction.outputs) > len(case.image):
        shown["the nearest made"] = prediction.outputs[len(case.image)]
    return Picture(f"{case.ref.name}: {form.channels[0]}, real and synthetic", _panels(case, [shown], form))


def translated(case: Case, made: F32, source: Sequence[str], target: Sequence[str], form: CaseForm) -> Picture:
    """The first source channel, the true target and the made one, the last two in the same greys."""
    given, true = (case.image[form.channels.index(names[0])] for names in (source, target))
    shown = [
        {f"source: {source[0]}": given},
        {f"true {target[0]}": true, f"made {target[0]} (synthetic)": made[0]},
    ]
    return Picture(f"{case.ref.name}: {target[0]} from {', '.join(source)}", _panels(case, shown, form))


def _panels(case: Case, groups: Sequence[Mapping[str, F32]], form: CaseForm) -> dict[str, U8]:
    """One slice of each, turned as radiologists look at it; a group has the greys of its first image."""
    axis = slice_axis(case, form)
    index = None if axis is None else fullest(np.zeros(case.grid, np.bool_), case.image, axis)
    view = view_of(case, form, axis, index)
    crop = crop_of(case.image, view)
    found: dict[str, U8] = {}
    for group in groups:
        planes = {name: view.of(image)[crop] for name, image in group.items()}
        low, high = np.percentile(next(iter(planes.values())), GREYS)
        for name, plane in planes.items():
            scaled = eight_bits((plane - np.float32(low)) / np.float32(max(high - low, 1e-6)))
            grey = np.repeat(resized(scaled, view.mm, smooth=True)[:, :, np.newaxis], 3, axis=2)
            found[name] = framed(grey, view, name, {}, {})
    return found


def contact_sheet(cases: Cases, form: CaseForm) -> U8:
    """(H, W, 3): the first channel of each, eight a row, its class below; of a volume the middle slice seen from below."""
    from PIL import Image, ImageDraw
    from PIL.ImageFont import load_default

    columns = min(MOST, max(len(cases), 3))
    tiles = [_tile(case, form) for case in cases]
    height = max((tile.shape[0] for tile in tiles), default=0) + LINE
    canvas = Image.new("RGB", (columns * TILE, ceil(len(cases) / columns) * height + LINE))
    draw = ImageDraw.Draw(canvas)
    font = load_default(size=11)
    draw.text((4, LINE / 2), f"{NOTE}{_sides(cases, form)}", fill=(255, 200, 90), font=font, anchor="lm")
    for place, (case, tile) in enumerate(zip(cases, tiles, strict=True)):
        x, y = place % columns * TILE, place // columns * height + LINE
        canvas.paste(Image.fromarray(tile), (x, y))
        caption = named(case, form)[:16]
        draw.text((x + TILE / 2, y + height - LINE / 2), caption, fill=(255, 255, 255), font=font, anchor="mm")
    return np.asarray(canvas)


def _sides(cases: Cases, form: CaseForm) -> str:
    """Which side is which, where the images say so; pictures of nobody lie nowhere, and have none."""
    if not cases:
        return ""
    axis = slice_axis(cases[0], form)
    left = view_of(cases[0], form, axis, None if axis is None else 0).left
    return f"; {left} is on the left" if left else ""


def named(case: Case, form: CaseForm) -> str:
    """The classes of a case, or nothing."""
    if case.target is None or case.target.classes is None:
        return ""
    return "+".join(name for name, there in zip(form.classes, case.target.classes, strict=True) if there > 0)


def eight_bits(image: F32) -> U8:
    """[0, 1] → 0 to 255."""
    return np.asarray((image.clip(0, 1) * 255).round(), np.uint8)


def _tile(case: Case, form: CaseForm) -> U8:
    """(H, W) of the first channel, its longer side 96 pixels."""
    from PIL import Image

    axis = slice_axis(case, form)
    view = view_of(case, form, axis, None if axis is None else case.grid[axis] // 2)
    plane = view.of(case.image[0])
    sides = (plane.shape[0] * view.mm[0], plane.shape[1] * view.mm[1])
    height, width = (max(round(side * (TILE - 4) / max(sides)), 1) for side in sides)
    small = Image.fromarray(np.ascontiguousarray(eight_bits(plane)))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
