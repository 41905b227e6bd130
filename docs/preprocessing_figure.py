"""Draw `images/preprocessing.png`: one simulated slice, prepared and augmented in many ways.

python docs/preprocessing_figure.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from fedrounds_common.augment import augment
from fedrounds_common.case import Case, CaseRef
from fedrounds_common.rng import generator
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.histogram import landmark_sums, standard
from fedrounds_sites.phantom.twins import Twins
from fedrounds_sites.prepare import prepare
from fedrounds_sites.readers.phantom_glioma import PhantomGlioma

mpl.use("Agg")
REF = CaseRef("s1-0001", "s1-0001", "s1")
FORM = CaseForm(dims=2, channels=("flair",), labels={"tumour": 1}, intensity="none")
CT = CaseForm(dims=2, channels=("ct",), labels={"tumour": 1}, intensity="none")
READER = PhantomGlioma(profile="eight", spacing_mm=2.0)
Panel = tuple[str, NDArray[Any], dict[str, Any]]  # title, image (rows, columns), how it is drawn
GEOMETRY = ("rotate", "scale", "elastic", "flip", "rotate90", "cutout")
VALUES = ("gamma", "contrast", "bias", "blur", "noise", "gain")


def main() -> None:
    import matplotlib.pyplot as plt

    case = READER.load(REF, FORM)
    rows = [filters(case), scales(case), augmented(case, GEOMETRY), augmented(case, VALUES)]
    figure, axes = plt.subplots(4, 6, figsize=(11, 10), dpi=90, facecolor="black")
    for axis, (title, image, look) in zip(axes.ravel(), [panel for row in rows for panel in row], strict=True):
        axis.imshow(image, interpolation="nearest", **{"cmap": "gray", **look})
        axis.set_title(title, color="white", fontsize=9)
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(Path(__file__).with_name("images") / "preprocessing.png", facecolor="black")


def filters(case: Case) -> list[Panel]:
    look = {"vmin": 0, "vmax": float(case.image.max())}
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("as acquired", {}),
        ('crop = "content"', {"crop": "content"}),
        ("size = [48, 48]", {"crop": "content", "size": (48, 48)}),
        ("median = 6", {"filters": {"median": 6.0}}),
        ("bilateral = 3", {"filters": {"bilateral": 3.0}}),
        ("gaussian = 3", {"filters": {"gaussian": 3.0}}),
    ]
    return [(title, prepare(case, replace(FORM, **fields)).image[0], look) for title, fields in wanted]


def scales(case: Case) -> list[Panel]:
    twins = Twins(READER, FORM)
    other = twins.scanned_at(REF, "s5")
    refs = [ref for ref in READER.cases(FORM) if ref.name.endswith(("-0000", "-0002"))]
    learned = standard(landmark_sums([READER.load(ref, FORM) for ref in refs]), FORM)
    histogram = replace(FORM, intensity="histogram", landmarks=dict(learned))
    zscore = replace(FORM, intensity="zscore-nonzero")
    panels: list[Panel] = []
    for word, form, look in (
        ("z-score", zscore, {"vmin": -3, "vmax": 4}),
        ("histogram", histogram, {"vmin": 0, "vmax": 1.3}),
    ):
        panels += [
            (f"{word}, scanner {name}", prepare(one, form).image[0], look) for name, one in (("A", case), ("B", other))
        ]
    ct = READER.load(REF, CT)
    windows = (("CT, [0, 80] HU", (0.0, 80.0)), ("CT, [-500, 1500] HU", (-500.0, 1500.0)))
    return panels + [(title, prepare(ct, replace(CT, window={"ct": window})).image[0], {}) for title, window in windows]


def augmented(case: Case, names: tuple[str, ...]) -> list[Panel]:
    ready = prepare(case, replace(FORM, crop="content", intensity="zscore-nonzero", spacing_mm=(2.0, 2.0)))
    assert ready.labels is not None
    # a margin of nothing, and square, so that rotate90 can turn it
    size = [(0, 0), *(((112 - have) // 2, 112 - have - (112 - have) // 2) for have in ready.grid)]
    image, labels = np.pad(ready.image, size), np.pad(ready.labels, size[1:])
    panels: list[Panel] = []
    for name in names:
        tries = [augment(image, labels, (name,), generator(number, "figure"))[0] for number in range(300)]
        made = sorted((one for one in tries if not np.array_equal(one, image)), key=lambda one: _change(one, image))
        # a strong one of the changes that were drawn: on average they are hardly seen
        changed = made[int(0.9 * len(made))]
        panels.append((name, changed[0], {"vmin": -3, "vmax": 4}))
    return panels


def _change(made: NDArray[Any], image: NDArray[Any]) -> float:
    return float(np.abs(made - image).mean())


if __name__ == "__main__":
    main()
