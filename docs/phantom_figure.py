"""Draw `images/phantom-twins.png`: one simulated patient, twins, CT, and a pair with its true field.

python docs/phantom_figure.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from fedrounds_common.case import CaseRef
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.phantom.patients import PARTS
from fedrounds_sites.phantom.twins import Twins
from fedrounds_sites.readers.phantom_glioma import PhantomGlioma
from fedrounds_sites.readers.phantom_pairs import PhantomPairs

mpl.use("Agg")
REF = CaseRef("s1-0001", "s1-0001", "s1")
SPACING_MM = 2.0
Panel = tuple[str, NDArray[Any], dict[str, Any]]  # title, image (rows, columns), how it is drawn
BRAIN_HU = {"vmin": 0, "vmax": 80}


def main() -> None:
    import matplotlib.pyplot as plt

    panels = [*twin_panels(), *pair_panels()]
    figure, axes = plt.subplots(2, 5, figsize=(10, 5.2), dpi=100, facecolor="black")
    for axis, (title, image, look) in zip(axes.ravel(), panels, strict=True):
        axis.imshow(image, interpolation="nearest", **{"cmap": "gray", **look})
        axis.set_title(title, color="white", fontsize=9)
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(Path(__file__).with_name("images") / "phantom-twins.png", facecolor="black")


def twin_panels() -> list[Panel]:
    form = CaseForm(dims=2, channels=("flair", "ct"), labels={"tumour": 1})
    twins = Twins(PhantomGlioma(profile="eight", spacing_mm=SPACING_MM), form)
    found = twins.of(REF, "s5", 0.6)
    words = {"with_tumour": "FLAIR", "without_tumour": "without the tumour", "resized": "smaller",
             "scanned_at": "another scanner"}  # fmt: skip
    window = {"vmin": 0, "vmax": float(found["with_tumour"].image[0].max())}  # of the patient's own scanner
    panels = [(words[name], case.image[0], {} if name == "scanned_at" else window) for name, case in found.items()]
    return [*panels, ("CT", found["with_tumour"].image[1], BRAIN_HU)]


def pair_panels() -> list[Panel]:
    form = CaseForm(dims=2, channels=("fixed", "moving"), labels={name: n + 1 for n, name in enumerate(PARTS)})
    case = PhantomPairs(spacing_mm=SPACING_MM, fixed=("t1",), moving=("ct",)).load(REF, form)
    assert case.target is not None
    assert case.labels is not None
    field = case.target.field
    assert field is not None
    there = np.stack(np.meshgrid(*map(np.arange, case.grid), indexing="ij")) + field / SPACING_MM
    back = map_coordinates(case.image[1], there, order=1, mode="nearest")
    return [
        ("fixed: T1", case.image[0], {}),
        ("moving: CT", case.image[1], BRAIN_HU),
        ("moving, by the true field", back, BRAIN_HU),
        (f"field, 0 to {np.linalg.norm(field, axis=0).max():.0f} mm", np.linalg.norm(field, axis=0), {"cmap": "magma"}),
        ("labels", case.labels, {"cmap": "viridis"}),
    ]


if __name__ == "__main__":
    main()
