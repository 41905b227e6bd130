"""Is a generator that repeats its patients found out? `python benchmarks/memorised.py [SEEDS]`

An autoencoder is trained on twenty pictures, six hundred steps long, until it repeats them; and one just like it, as
long, on four hundred. Of each, images are made from a public seed, and training cases are counted that lie far closer
to one of them than pictures do that nothing was trained on. Pictures are made: five soft blobs each. Three minutes of CPU time for five seeds.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from fedrounds_client.training import Piece, train
from fedrounds_common.arrays import into_module, of_module
from fedrounds_common.case import Case, CaseRef
from fedrounds_common.generative import copies, synthesis
from fedrounds_common.networks.image_vae import ImageVae
from fedrounds_common.rng import generator, seeded
from fedrounds_common.study.tables import CaseForm, Evaluation, Training
from fedrounds_common.tasks.generation import TRAINED, Generation

SIDE = 28
FORM = CaseForm(dims=2, intensity="unit")
TRAINING = Training(augment=(), batch=16, learning_rate=3e-3, weight_decay=0.0, optimiser="adam")
RULE = Evaluation(primary="fid", resamples=0)
STEPS, DIVERGENCE, LATENT = 600, 1e-3, 4  # the same for both: what differs is how many pictures there are to repeat
CASES = {"overfitted on 20": 20, "trained on 400": 400}
UNTRAINED = 60


def picture(seed: int, number: int, site: str | None = None) -> Case:
    draws = generator(seed, "blob", number)
    rows, columns = np.indices((SIDE, SIDE))
    image = np.zeros((SIDE, SIDE))
    for _ in range(5):
        y, x, size = draws.uniform(3, SIDE - 3), draws.uniform(3, SIDE - 3), draws.uniform(1.5, 4)
        image += draws.uniform(0.3, 1) * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * size**2))
    return Case(
        CaseRef(f"{number}", f"{number}", site), (image / image.max())[None].astype(np.float32), None, np.eye(4)
    )


def counted(seed: int, cases: int) -> tuple[int, int, float, float]:
    """Memorised, of how many; and the median distance of untrained and of trained cases to the nearest made image."""
    task = Generation(method="vae", divergence=DIVERGENCE, pool=256)
    with seeded(seed):
        network = task.network(ImageVae(grid=(SIDE, SIDE), widths=(64, 32, 16), latent=LATENT), FORM)
    trained = [picture(seed, number, TRAINED) for number in range(cases)]
    result = train(
        network, task, trained, FORM, TRAINING, Piece(STEPS, 0, STEPS, seed, ("copies",)), of_module(network)
    )
    into_module(
        network, task.settle("codes", task.gather("codes", network, trained, FORM, TRAINING), result.arrays, FORM)
    )
    judged = [picture(seed, 10_000 + number) for number in range(UNTRAINED)]
    found = task.tally(
        [task.score(task.predict(network.eval(), case, FORM, TRAINING, RULE), case, FORM, RULE) for case in [*judged, *trained]],
        FORM, RULE, 0,
    )  # fmt: skip
    return (*copies.memorised(found), *(copies.quantile(found[name][0], 0.5) for name in ("untrained", "trained")))


def main(seeds: int) -> int:
    torch.set_num_threads(1)
    right = True
    for name, cases in CASES.items():
        for seed in range(seeds):
            start = time.process_time()
            memorised, of, untrained, near = counted(seed, cases)
            right &= (memorised > 0) == (name != "trained on 400")
            print(
                f"{name}, seed {seed}: {memorised} of {of} memorised; distance {near:.3f} of trained, {untrained:.3f} of "
                f"untrained cases; {time.process_time() - start:.0f} s of CPU time",
                flush=True,
            )
            synthesis.forget()
    print("every overfitted one was found out, and no other" if right else "NOT as it should be")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
