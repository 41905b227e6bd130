"""Who was trained on, with noise and without? `python benchmarks/membership.py [SHADOWS]`

Four hundred made pictures of five blobs, whose class is a coin's: all that a network can learn of them is by heart, so
this is about as bad as it gets. Half of them are trained on; which, is asked of the finished model by its loss and by
LiRA. Without noise, and with dp_sgd at epsilon 8. A secure sum changes nothing of it: the finished model is the
same. Three minutes on one core.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from memorised import picture

from fedrounds_client.attacks import membership
from fedrounds_client.attacks.membership import Found
from fedrounds_client.site import Parts, build_parts
from fedrounds_client.training import Piece, train
from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.rng import generator
from fedrounds_common.study.parse import read_study

CASES, STEPS = 400, 300
STUDY = f"""
format = 1
name = "membership"
seed = 1
[task]
name = "classification"
temperature = false
[cases]
dims = 2
classes = ["heads", "tails"]
orientation = "none"
[model]
name = "tiny_cnn"
channels = [32, 64]
[training]
rounds = 1
local_steps = {STEPS}
batch = 32
learning_rate = 3e-3
augment = []
[evaluation]
primary = "auc"
"""
NOISE = """
[[privacy]]
name = "dp_sgd"
epsilon = {}
sampling_rate = 0.16
"""


def parts(epsilon: float | None) -> Parts:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.toml"
        file.write_text(STUDY + (NOISE.format(epsilon) if epsilon else ""), "utf-8")
        return build_parts(read_study(file).study)


def pictures() -> list[Case]:
    coins = generator(0, "coins").integers(0, 2, CASES)
    made = []
    for number, coin in enumerate(coins):
        image = picture(0, number).image[:, ::2, ::2]
        image = (image - image.mean()) / image.std()
        made.append(
            Case(CaseRef(f"{number}", f"{number}"), image, Target(classes=np.eye(2, dtype=np.float32)[coin]), np.eye(4))
        )
    return made


def attacked(epsilon: float | None, shadows: int) -> list[Found]:
    built, cases = parts(epsilon), pictures()
    study, half = built.study, len(cases) // 2
    start = built.like()
    made = train(
        built.module(), built.task, cases[:half], study.cases, study.training, Piece(STEPS, 0, STEPS, 1, ("attacked",)),
        start, noisy=built.noisy,
    )  # fmt: skip
    losses = membership.losses_of(built, made.arrays, cases, 1)
    found = [membership.found("loss", -losses[:half], -losses[half:])]
    if shadows:
        taken, seen = membership.shadows(built, start, cases, shadows, STEPS, 1, lambda *_: None)
        score = membership.likelihood(taken, seen, membership.confidence(losses))
        found.append(membership.found(f"LiRA, {shadows} models", score[:half], score[half:]))
    return found


def main(shadows: int) -> None:
    torch.set_num_threads(1)
    for epsilon in (None, 8.0):
        print("without noise" if epsilon is None else f"dp_sgd, epsilon {epsilon:g} at delta 1e-5")
        for each in attacked(epsilon, shadows):
            for line in each.lines():
                print(f"  {line}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
