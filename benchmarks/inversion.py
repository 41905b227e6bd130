"""What can be rebuilt of a radiograph from an update? `python benchmarks/inversion.py [-o FOLDER] [--evaluations N]`

A small vision transformer at its first weights, and twelve radiographs of children that are shipped with the tests.
Prints PSNR and SSIM of what gradient inversion makes of: one plain step on one image and on four, a whole round of ten
steps, one step with noise, and the sum of eight sites' steps. Writes the pictures to FOLDER/inversion.png. Two minutes
on one core.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from fedrounds_client.attacks.drawing import sheet
from fedrounds_client.attacks.inversion import Search
from fedrounds_client.attacks.rebuilding import Attempt, attempts
from fedrounds_client.site import Parts, build_parts
from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.disk import write_whole
from fedrounds_common.pictures import png_of
from fedrounds_common.study.parse import read_study

IMAGES = Path(__file__).resolve().parents[1] / "tests" / "data" / "medmnist" / "pneumonia24.npz"
SITES = 8
STUDY = """
format = 1
name = "inversion"
[task]
name = "classification"
temperature = false
[cases]
dims = 2
channels = ["xray"]
classes = ["normal", "pneumonia"]
orientation = "none"
[model]
name = "vit"
size = [28, 28]
token = [4, 4]
width = 64
mlp = 128
heads = 4
layers = 2
pool = "mean"
[training]
rounds = 1
local_steps = 10
batch = 4
augment = []
[evaluation]
primary = "auc"
"""


def parts() -> Parts:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.toml"
        file.write_text(STUDY, "utf-8")
        return build_parts(read_study(file).study)


def radiographs() -> list[Case]:
    with np.load(IMAGES, allow_pickle=False) as file:
        images, labels = file["train_images"].astype(np.float32), file["train_labels"].ravel()
    return [
        Case(
            CaseRef(f"{number}", f"{number}"),
            ((image - image.mean()) / image.std())[None],
            Target(classes=np.eye(2, dtype=np.float32)[int(label)]),
            np.eye(4),
        )
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def found(evaluations: int) -> list[Attempt]:
    cases, built = radiographs(), parts()
    # the victim holds all twelve; of the others one image each is in the sum
    sites = [cases, *([cases[number]] for number in range(1, SITES))]
    return attempts(built, built.like(), sites, Search(evaluations), 4, lambda name: print(f"… {name}", flush=True))


def main() -> None:
    said = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    said.add_argument("-o", "--output", type=Path, default=Path("build/bench"))
    said.add_argument("--evaluations", type=int, default=1000)
    given = said.parse_args()
    torch.set_num_threads(1)
    made = found(given.evaluations)
    for each in made:
        print(f"{each.name}: PSNR {each.psnr:.1f} dB, SSIM {each.ssim:.2f}")
    write_whole(given.output / "inversion.png", png_of(sheet(made)))


if __name__ == "__main__":
    main()
