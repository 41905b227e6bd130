"""Draw `images/explanations.png` and `images/what-if-twins.png`: why a slice is called a tumour, and what changes that.

python docs/explanations_figure.py RUN

RUN: the folder of the run that `python benchmarks/explanations.py` made. The patient is one of another seed.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
from numpy.typing import NDArray

from fedrounds.model import Model, open_model
from fedrounds.why import explained
from fedrounds_common.case import Case, CaseRef
from fedrounds_common.disk import write_whole
from fedrounds_common.pictures import png_of, side_by_side, view_of
from fedrounds_sites.phantom.twins import Twins
from fedrounds_sites.prepare import prepare
from fedrounds_sites.readers.phantom_glioma import PhantomGlioma
from fedrounds_sites.simulation import READERS

mpl.use("Agg")
IMAGES = Path(__file__).with_name("images")
OTHER = 2_000  # added to the phantom's seed
ELSEWHERE, SMALLER = "s05", 0.6


def main() -> None:
    model = open_model(Path(sys.argv[1]))
    reader = READERS.load(model.reader)
    assert isinstance(reader, PhantomGlioma)
    reader = replace(reader, seed=reader.seed + OTHER)
    ref = next(ref for ref in reader.cases(model.study.cases) if _shows_tumour(reader, ref, model))
    draw_why(model, prepare(reader.load(ref, model.study.cases), model.study.cases))
    draw_twins(model, Twins(reader, model.study.cases), ref)


def _shows_tumour(reader: PhantomGlioma, ref: CaseRef, model: Model) -> bool:
    labels = reader.load(ref, model.study.cases).labels
    return labels is not None and bool(labels.sum() > 40)


def draw_why(model: Model, case: Case) -> None:
    picture = explained(model, model.module(), case).picture
    write_whole(IMAGES / "explanations.png", png_of(side_by_side(picture)))


def draw_twins(model: Model, twins: Twins, ref: CaseRef) -> None:
    import matplotlib.pyplot as plt

    words = {"with_tumour": "as the patient is", "scanned_at": f"scanned at {ELSEWHERE}",
             "resized": f"tumour × {SMALLER:g}", "without_tumour": "without the tumour"}  # fmt: skip
    found = twins.of(ref, ELSEWHERE, SMALLER)
    figure, axes = plt.subplots(1, len(words), figsize=(10, 3.4), dpi=100, facecolor="black")
    white = float(_plane(found["with_tumour"], model).max())  # of the patient's own scanner
    for axis, (name, title) in zip(axes, words.items(), strict=True):
        case = found[name]
        window = {} if name == "scanned_at" else {"vmin": 0.0, "vmax": white}
        axis.imshow(_plane(case, model), cmap="gray", interpolation="nearest", **window)
        for letter, x in (("R", 0.03), ("L", 0.97)):
            axis.text(x, 0.5, letter, color="white", fontsize=9, ha="center", va="center", transform=axis.transAxes)
        axis.set_title(f"{title}\nP(tumour) = {_probability(model, case):.2f}", color="white", fontsize=10)
        axis.axis("off")
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.84, wspace=0.05)
    figure.savefig(IMAGES / "what-if-twins.png", facecolor="black")


def _plane(case: Case, model: Model) -> NDArray[Any]:
    view = view_of(case, model.study.cases, None, None)
    return view.of(case.image[model.study.cases.channels.index("flair")])


def _probability(model: Model, case: Case) -> float:
    study, network = model.study, model.module()
    prepared = prepare(case, study.cases)
    made = model.parts.task.predict(network, prepared, study.cases, study.training, study.evaluation)
    return float(made.outputs[study.cases.classes.index("tumour")])


if __name__ == "__main__":
    main()
