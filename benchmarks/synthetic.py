"""GAN, autoencoder and diffusion in one table: `python benchmarks/synthetic.py RUN [RUN ...] [-o DIR]`

Of each run of a study whose images are made by class: what its sites measured together (FID between its floor and its
blurred control, precision, recall, memorised cases); and how well a classifier does on the real images of the site
`test` that was trained on nothing but made ones, beside the same classifier trained as long on the real images of the
hospitals that trained. Writes a table and, with -o, a contact sheet a model. Five minutes of CPU time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fedrounds.model import Model, open_model
from fedrounds_common.case import Case
from fedrounds_common.disk import write_text, write_whole
from fedrounds_common.generative.drawing import NOTE, contact_sheet
from fedrounds_common.networks.tiny_cnn import TinyCNN
from fedrounds_common.pictures import png_of
from fedrounds_common.rng import generator, seeded
from fedrounds_server.tables import final_rows, read_metrics
from fedrounds_sites.hospitals import open_hospital, read_rehearsal

MADE, STEPS, BATCH, RATE, SEEDS = 600, 400, 32, 2e-3, 3
SHOWN = ("fid", "fid_floor", "fid_blurred", "precision", "recall", "memorised")


def images_of(cases: Sequence[Case]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    classes = [case.target.classes for case in cases if case.target is not None and case.target.classes is not None]
    return np.stack([case.image for case in cases]), np.stack(classes).argmax(1)


def real_cases(run: Path) -> tuple[list[Case], list[Case]]:
    """Of the hospitals that trained, what they trained on; and the cases of those that never did."""
    trained: list[Case] = []
    kept: list[Case] = []
    for name in read_rehearsal(run / "rehearsal.json").sites:
        opened = open_hospital(run, name).open_all()
        trained += opened.training
        kept += opened.held_out
    return trained, kept


def accuracy(images: NDArray[np.float32], labels: NDArray[np.int64], test: Sequence[Case], seed: int) -> float:
    """Balanced accuracy on real images of a small network that was trained on these for a fixed number of steps."""
    real, truth = images_of(test)
    classes = int(truth.max()) + 1
    with seeded(seed):
        network = TinyCNN(channels=(16, 32, 64)).build(2, images.shape[1], classes)
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    draws = generator(seed, "classifier")
    for _ in range(STEPS):
        chosen = draws.integers(len(images), size=BATCH)
        loss = functional.cross_entropy(network(torch.from_numpy(images[chosen])), torch.from_numpy(labels[chosen]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
    with torch.no_grad():
        told = network.eval()(torch.from_numpy(real)).argmax(1).numpy()
    return float(np.mean([(told[truth == kind] == kind).mean() for kind in range(classes)]))


def made_by(model: Model) -> list[Case]:
    return list(model.parts.task.sample(model.module(), model.study.cases, MADE, seed=1))


def measured(run: Path) -> dict[str, dict[str, float]]:
    """Cohort → measure → value over all sites' cases."""
    rows = [
        row for row in final_rows(read_metrics(run / "metrics.csv")) if row.model == "consensus" and row.site == "all"
    ]
    return {
        cohort: {row.metric: row.value for row in rows if row.cohort == cohort} for cohort in ("held-out", "local-val")
    }


def line_of(run: Path, out: Path | None) -> tuple[list[str], float]:
    model = open_model(run)
    trained, test = real_cases(run)
    made = made_by(model)
    found = [[accuracy(*images_of(cases), test, seed) for seed in range(SEEDS)] for cases in (trained, made)]
    real, synthetic = (float(np.mean(each)) for each in found)
    sites = measured(run)
    values = {**sites["held-out"], "memorised": sites["local-val"]["memorised"]}
    between = values["fid_floor"] < values["fid"] < values["fid_blurred"]
    if out is not None:
        sheet = contact_sheet(made[:48], model.study.cases)
        write_whole(out / f"{model.study.name}.png", png_of(sheet, {"Comment": NOTE}))
    shown = [f"{values[name]:.0f}" if name == "memorised" else f"{values[name]:.2f}" for name in SHOWN]
    shares = [f"{real:.3f}", f"{synthetic:.3f}", f"{100 * synthetic / real:.0f} %"]
    return [model.study.name, *shown, "yes" if between else "no", *shares], synthetic / real


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    head = [
        "model",
        "FID",
        "floor",
        "blurred",
        "precision",
        "recall",
        "memorised",
        "between",
        "on real",
        "on made",
        "share",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    shares = []
    for run in asked.runs:
        cells, share = line_of(run.resolve(), asked.output)
        lines.append("| " + " | ".join(cells) + " |")
        shares.append(share)
        print(lines[-1], flush=True)
    print("\n".join(lines))
    if asked.output is not None:
        write_text(asked.output / "table.md", "\n".join(lines) + "\n")
    return 0 if min(shares) >= 0.8 else 1


if __name__ == "__main__":
    sys.exit(main())
