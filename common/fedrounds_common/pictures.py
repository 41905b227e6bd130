"""One slice of a case as a reader of scans knows it: image, reference and prediction side by side.

Radiological convention wherever the geometry is known: the patient's right on the viewer's left,
anterior (or superior) on top, and the letters written into the pixels. A 2D picture without geometry
is drawn as stored, without letters. Drawn at the site that holds the case.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.case import F32, OPPOSITE, U8, Case
from fedrounds_common.metrics.overlap import Mask
from fedrounds_common.metrics.surface import bounding_box
from fedrounds_common.sampling import content_box
from fedrounds_common.study.tables import CaseForm
from fedrounds_common.task import Picture

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

Scalar = TypeVar("Scalar", bound=np.generic)
Colour = tuple[int, int, int]

# Okabe and Ito 2008: told apart with every common colour blindness; given to labels in the study's order
COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)
WHITE: Colour = (255, 255, 255)
SIZE = 320  # pixels of the slice's longer side
GAP = 4  # black pixels between panels
MARGIN = 22  # pixels beside the slice, for the letters
OUTLINE = 2  # pixels
LINE = 20  # pixels of a line of text
SQUARE = 8  # pixels of a colour's sample in the legend
FILL = 0.3  # of the colour inside an outline
BACKGROUND = 0.05  # the least share of a plane, or of an image, that one value fills if it is background


@final
@dataclass(frozen=True)
class View:
    """How one plane of the grid becomes rows and columns of the screen.

    `take` cuts the plane, `transpose` swaps its axes, `flip` (rows, columns) then mirrors them.
    `left`, `right`: the edges' letters, "" where unknown. `mm`: size of a pixel (row, column).
    """

    take: tuple[slice | int, ...]
    transpose: bool
    flip: tuple[bool, bool]
    left: str
    right: str
    mm: tuple[float, float]

    def of(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """(*grid) → (rows, columns) as seen on the screen."""
        plane: NDArray[Scalar] = array[self.take]
        plane = plane.T if self.transpose else plane
        return plane[:: -1 if self.flip[0] else 1, :: -1 if self.flip[1] else 1]


def compare(case: Case, predicted: U8, form: CaseForm) -> Picture:
    """The slice with the most reference (else prediction), of the channel in which it stands out most.

    Returns:
        Panels "image", "reference" (where the case has one) and "prediction", of one size.
    """
    reference = case.labels
    # a prediction gone wild must not choose the slice: the reader wants to see what it missed
    marked: Mask = predicted > 0 if reference is None or not reference.any() else reference > 0
    axis = slice_axis(case, form)
    index = None if axis is None else fullest(marked, case.image, axis)
    view = view_of(case, form, axis, index)
    channel = clearest(case.image, marked, view)
    crop = crop_of(case.image, view)
    grey = greys(view.of(case.image[channel])[crop], float(case.image[channel].flat[0]), view.mm)
    legend = {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(form.labels)}
    panels = {"image": framed(grey, view, f"image: {form.channels[channel]}", {}, legend)}
    for name, labels in (("reference", reference), ("prediction", predicted)):
        if labels is not None:
            masks = {label: view.of(labels)[crop] == value for label, value in form.labels.items()}
            panels[name] = framed(painted(grey, masks, legend, view.mm), view, name, legend, legend)
    where = "" if axis is None or index is None else f", slice {index + 1} of {case.grid[axis]}"
    side = f"{view.left} is on the left" if view.left else "as stored, sides unknown"
    return Picture(f"{case.ref.name}: {form.channels[channel]}{where}, {side}", panels)


def overlaid(case: Case, maps: Mapping[str, F32], form: CaseForm, note: str = "") -> Picture:
    """Each map as a warm tint over the slice in which the maps together peak; the reference's outline in each.

    Args:
        maps: name → (*grid), larger is more; each is counted from its least value and scaled by its largest, because
            their units differ: one that is the same everywhere says nothing, and tints nothing.
        note: stands in the title, e.g. which answer the maps explain.
    """
    peaks = [(heat - heat.min()) / max(float(heat.max()), 1e-12) for heat in maps.values()]
    together = np.mean(peaks, axis=0)
    axis = slice_axis(case, form)
    index = None
    if axis is not None:
        index = int(together.max(axis=tuple(other for other in range(together.ndim) if other != axis)).argmax())
    view = view_of(case, form, axis, index)
    known = case.labels
    marked: Mask = np.zeros(case.grid, np.bool_) if known is None else known > 0
    channel = clearest(case.image, marked, view)
    crop = crop_of(case.image, view)
    grey = greys(view.of(case.image[channel])[crop], float(case.image[channel].flat[0]), view.mm)
    legend = {"reference": COLOURS[1]} if marked.any() else {}
    outline = {"reference": view.of(marked)[crop]} if legend else {}
    plain = painted(grey, outline, legend, view.mm, fill=0.0)
    panels = {"image": framed(plain, view, f"image: {form.channels[channel]}", legend, legend)}
    for (name, _), heat in zip(maps.items(), peaks, strict=True):
        tinted = _warmed(grey, resized((view.of(heat)[crop] * 255).astype(np.uint8), view.mm, smooth=True))
        panels[name] = framed(painted(tinted, outline, legend, view.mm, fill=0.0), view, name, {}, legend)
    where = "" if axis is None or index is None else f", slice {index + 1} of {case.grid[axis]}"
    side = f"{view.left} is on the left" if view.left else "as stored, sides unknown"
    return Picture(f"{case.ref.name}: {note or 'what the answer rests on'}{where}, {side}", panels)


def _warmed(grey: U8, heat: U8) -> U8:
    """Black-body colours over the grey, the more the hotter: nothing is hidden where there is no heat."""
    share = (heat.astype(np.float32) / 255)[:, :, np.newaxis]
    colour = np.concatenate([np.full_like(share, 255), 255 * np.clip(2 * share - 0.6, 0, 1), np.zeros_like(share)], 2)
    weight = 0.65 * np.clip(1.4 * share - 0.2, 0, 1)
    return np.asarray((1 - weight) * grey + weight * colour).round().astype(np.uint8)


def side_by_side(picture: Picture) -> U8:
    """The panels in one row, (H, W, 3); lower ones are filled up with black."""
    height = max(panel.shape[0] for panel in picture.panels.values())
    filled = [np.pad(panel, ((0, height - panel.shape[0]), (0, GAP), (0, 0))) for panel in picture.panels.values()]
    return np.concatenate(filled, axis=1)


def png_of(pixels: NDArray[Any], says: Mapping[str, str] | None = None) -> bytes:
    """(H, W) of 8 or 16 bits, or (H, W, 3), as a file's bytes; `says`: key and text each, written into its header."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    stream, header = io.BytesIO(), PngInfo()
    for key, text in (says or {}).items():
        header.add_text(key, text)
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG", pnginfo=header)
    return stream.getvalue()


def slice_axis(case: Case, form: CaseForm) -> int | None:
    """The axis to leaf through: a stack's first, a volume's that runs up the body; a plane has none."""
    if len(case.grid) == 2:
        return None
    if form.dims == 2:
        return 0
    return next(axis for axis, code in enumerate(case.orientation) if code in "SI")


def view_of(case: Case, form: CaseForm, axis: int | None, index: int | None) -> View:
    """The plane at `index` of grid axis `axis`, turned as radiologists look at it."""
    axes = [other for other in range(len(case.grid)) if other != axis]
    spots = [slice(None) if other != axis else index for other in range(len(case.grid))]
    take = tuple(spot for spot in spots if spot is not None)
    spacing = [case.spacing_mm[other] for other in axes]
    if _lies_nowhere(case, form):
        return View(take, False, (False, False), "", "", (spacing[0], spacing[1]))
    codes = [case.orientation[other] for other in axes]
    start = [code if code in "RAS" else OPPOSITE[code] for code in codes]
    column = start.index("R") if "R" in start else start.index("A")
    row = 1 - column
    # the screen runs from R to L, A to P and S to I: an axis that points to R, A or S runs against it
    flip = (codes[row] in "RAS", codes[column] in "RAS")
    left = start[column]
    return View(take, column == 0, flip, left, OPPOSITE[left], (spacing[row], spacing[column]))


def _lies_nowhere(case: Case, form: CaseForm) -> bool:
    """The identity's directions are what a picture without geometry has, at whatever spacing (see case.py): its "R" and
    "A" would be invented, and it would be turned on its side."""
    if form.dims == 2:
        directions = case.affine[:3, :3]
        return np.array_equal(directions, np.diag(np.diag(directions))) and bool((np.diag(directions) > 0).all())
    return form.orientation is None and np.array_equal(case.affine, np.eye(4))


def crop_of(image: F32, view: View) -> tuple[slice, ...]:
    """The content's box on the screen; all of the plane if it holds none."""
    mask = np.zeros(image.shape[1:], np.bool_)
    mask[content_box(image)] = True
    plane = view.of(mask)
    return bounding_box(plane) if plane.any() else (slice(None), slice(None))


def fullest(marked: Mask, image: F32, axis: int) -> int:
    """The slice with the most marked voxels; the middle of the content if there are none."""
    others = tuple(other for other in range(marked.ndim) if other != axis)
    if marked.any():
        return int(marked.sum(axis=others).argmax())
    span = content_box(image)[axis]
    return int(span.start + span.stop) // 2


def clearest(image: F32, marked: Mask, view: View) -> int:
    """The channel in which what is marked differs most from the rest of the content, in its own spread."""
    inside = view.of(marked)
    contrasts = []
    for channel in image:
        plane = view.of(channel)
        outside = ~inside & (plane != channel.flat[0])
        if not (inside.any() and outside.any()):
            return 0
        spread = float(plane[outside].std()) or 1.0
        contrasts.append(abs(float(plane[inside].mean()) - float(plane[outside].mean())) / spread)
    return int(np.argmax(contrasts))


def greys(plane: F32, background: float, mm: Sequence[float]) -> U8:
    """(rows, columns) → (H, W, 3): the content's 1st to 99th percentile from black to white, pixels made square."""
    # after z-scoring, background is 0, in the middle of the brain's greys; in a crop of whole numbers the corner's value
    # is some tissue's too, and black dots would be drawn into it
    content = plane != background
    if 1 - content.mean() < BACKGROUND:
        content = np.ones_like(content)
    low, high = np.percentile(plane[content] if content.any() else plane, (1, 99))
    scaled = np.clip((plane - low) / max(float(high - low), 1e-6), 0, 1) * 255 * content
    grey = resized(scaled.astype(np.uint8), mm, smooth=True)
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)


def resized(plane: U8, mm: Sequence[float], *, smooth: bool) -> U8:
    """So large that the longer side has SIZE pixels, each as high as wide in mm."""
    from PIL import Image

    sides = (plane.shape[0] * mm[0], plane.shape[1] * mm[1])
    height, width = (max(round(side * SIZE / max(sides)), 1) for side in sides)
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), how))


def painted(
    grey: U8, masks: Mapping[str, Mask], legend: Mapping[str, Colour], mm: Sequence[float], fill: float = FILL
) -> U8:
    """Each label's voxels tinted, with an outline in the full colour."""
    from scipy.ndimage import binary_erosion

    result = grey.astype(np.float32)
    for label, mask in masks.items():
        colour = np.array(legend[label], np.float32)
        large = resized(mask.astype(np.uint8), mm, smooth=False) > 0
        result[large] = (1 - fill) * result[large] + fill * colour
        result[large & ~binary_erosion(large, iterations=OUTLINE)] = colour
    return result.round().astype(np.uint8)


def framed(pixels: U8, view: View, caption: str, legend: Mapping[str, Colour], widest: Mapping[str, Colour]) -> U8:
    """The slice between black margins that hold the letters, above caption and legend.

    The legend of `widest` sets the height, so that a panel without one is as high as its neighbours.
    """
    from PIL import Image, ImageDraw

    height, width = pixels.shape[:2]
    canvas = Image.new("RGB", (width + 2 * MARGIN, height + LINE), (0, 0, 0))
    lines = _legend_lines(ImageDraw.Draw(canvas), widest, canvas.width)
    canvas = Image.new("RGB", (canvas.width, height + LINE * (1 + len(lines))), (0, 0, 0))
    canvas.paste(Image.fromarray(pixels), (MARGIN, 0))
    draw = ImageDraw.Draw(canvas)
    for letter, x in ((view.left, MARGIN / 2), (view.right, width + MARGIN * 3 / 2)):
        draw.text((x, height / 2), letter, fill=WHITE, font=font(), anchor="mm")
    while caption and draw.textlength(caption, font=font()) > canvas.width:
        caption = caption[:-1]
    draw.text((canvas.width / 2, height + LINE / 2), caption, fill=WHITE, font=font(), anchor="mm")
    for number, line in enumerate(lines):
        for label, x in line:
            if label in legend:
                y = height + LINE * (number + 1) + LINE // 2
                draw.rectangle((x, y - SQUARE // 2, x + SQUARE, y + SQUARE // 2), fill=legend[label])
                draw.text((x + 2 * SQUARE, y), label, fill=WHITE, font=font(), anchor="lm")
    return np.array(canvas)


def _legend_lines(draw: ImageDraw, legend: Mapping[str, Colour], width: int) -> list[list[tuple[str, float]]]:
    """Labels with their horizontal places, as many a line as the width takes."""
    lines: list[list[tuple[str, float]]] = [[]]
    x = float(MARGIN)
    for label in legend:
        length = draw.textlength(label, font=font()) + 4 * SQUARE
        if lines[-1] and x + length > width:
            lines.append([])
            x = float(MARGIN)
        lines[-1].append((label, x))
        x += length
    return lines


@lru_cache(maxsize=1)
def font() -> FreeTypeFont | ImageFont:
    from PIL.ImageFont import load_default

    return load_default(size=14)
