"""The worst cases on one sheet, from the pictures that the hospitals' own side drew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fedrounds_server.report.folder import DrawnCase, RunView
from fedrounds_server.report.style import WIDTH_IN, Drawing, count_of, marked, sheet, styled
from fedrounds_server.tables import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 12


def worst_pictures(run: RunView, most: int = MOST) -> tuple[DrawnCase, ...]:
    """The worst of the drawn cases, worst first; a case without a score is not called worst."""
    scored = [drawn for drawn in run.pictures if not math.isnan(drawn.value)]
    sign = -1 if run.measures.lower_is_better(run.case_metric) else 1
    return tuple(sorted(scored, key=lambda drawn: (sign * drawn.value, drawn.site, drawn.case))[:most])


def draw_worst(run: RunView) -> Drawing | None:
    """Image, reference and prediction of each; None where no picture may be read or none was drawn."""
    worst = worst_pictures(run)
    if not worst:
        return None
    pictures = [_pixels(drawn) for drawn in worst]
    shape = max((picture.shape for picture in pictures), key=lambda shape: shape[1] / shape[0])
    columns = 2 if shape[1] / shape[0] > 1.4 else 4
    lines = math.ceil(len(worst) / columns)
    word, digits = run.measures.word(run.case_metric), run.measures.digits(run.case_metric)
    title = marked(f"The worst cases by {word}", run.phantom)
    with styled():
        figure = sheet(title, 0.45 + lines * (WIDTH_IN / columns * shape[0] / shape[1] + 0.3))
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, drawn, picture in zip(grid, worst, pictures, strict=False):
            _show(axes, drawn, picture, f"{word} {shown(drawn.value, digits)}")
        for axes in grid[len(worst) :]:
            axes.axis("off")
    return Drawing("worst", title, _caption(worst, run), _alt(worst, word, digits), figure)


def _pixels(drawn: DrawnCase) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(drawn.file) as picture:
        return np.asarray(picture.convert("RGB"))


def _show(axes: Axes, drawn: DrawnCase, picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], score: str) -> None:
    axes.imshow(picture)  # the site wrote panel names, labels and R and L into the pixels
    held_out = " (held-out)" if drawn.cohort == "held-out" else ""
    axes.set_title(f"{drawn.site}{held_out} · {drawn.case} · {score}", loc="left", fontsize=7)
    axes.set_anchor("NW")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _caption(worst: Sequence[DrawnCase], run: RunView) -> str:
    sites = len({drawn.site for drawn in worst})
    return (
        f"{count_of(len(worst), 'case')} of {count_of(sites, 'hospital')}, worst first, among those each hospital drew; "
        "where R and L stand they mark the patient's right and left. Drawn where the cases lie, with the last consensus."
    )


def _alt(worst: Sequence[DrawnCase], word: str, digits: int) -> str:
    told = ", ".join(f"{drawn.case} {shown(drawn.value, digits)}" for drawn in worst)
    return f"Contact sheet of image, reference and prediction. {word} of each: {told}."
