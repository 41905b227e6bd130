"""One side of `sliding_window.py`: a whole volume predicted by the same trained network, and how alike the answers are.

    python benchmarks/sliding_side.py prepare|patch|content|monai FOLDER PATCH BATCH|STEPS

`prepare` trains the network and keeps MONAI's answer on the full grid; the others predict the first volume. `dice` is
of the labels against that answer, the mean over the three regions; `batch` windows go through the network at once.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from safetensors.numpy import load_file, save_file
from volumes import in_regions, table_of

from fedrounds_client.training import Piece, train
from fedrounds_common import windows
from fedrounds_common.allocator import keep_freed_memory
from fedrounds_common.arrays import into_module, of_module
from fedrounds_common.case import F32, U8, Case
from fedrounds_common.metrics.overlap import mask_of
from fedrounds_common.networks.tiny_unet import TinyUNet
from fedrounds_common.rng import seeded
from fedrounds_common.study.tables import Evaluation, Training
from fedrounds_common.tasks.segmentation import Segmentation
from fedrounds_sites.prepare import prepare
from fedrounds_sites.simulation import READERS

FORM = in_regions()
TASK = Segmentation()
OVERLAP = 0.25


def opened(folder: Path, most: int) -> list[Case]:
    """The first volumes, prepared, on their full grid."""
    reader = READERS.load(table_of(folder))
    return [prepare(reader.load(ref, FORM), FORM) for ref in reader.cases(FORM)[:most]]


def network(folder: Path) -> torch.nn.Module:
    with seeded(0):
        module = TASK.network(TinyUNet(), FORM)
    file = folder / "network.safetensors"
    if file.exists():
        into_module(module, load_file(file))
    return module.eval()


def on_full_grid(module: torch.nn.Module, image: F32, patch: int, batch: int) -> F32:
    """Probabilities of MONAI's inferer over the whole grid."""
    with torch.no_grad():
        made = sliding_window_inference(
            torch.from_numpy(image)[None], (patch,) * 3, batch, lambda x: windows.padded(module, x).sigmoid(),
            overlap=OVERLAP, mode="gaussian",
        )  # fmt: skip
    return np.asarray(made[0].numpy())


def dice(ours: U8, theirs: U8) -> float:
    found = []
    for members in FORM.scored.values():
        a, b = mask_of(ours, members), mask_of(theirs, members)
        found.append(2 * np.count_nonzero(a & b) / max(np.count_nonzero(a) + np.count_nonzero(b), 1))
    return float(np.mean(found))


def train_network(folder: Path, patch: int, steps: int) -> None:
    """Train on the volumes, and keep what MONAI predicts of the first one.

    On patches as large as the windows: instance norm asks for that. Trained on smaller ones, the network's answers
    depend so much on where a window begins that two gratings agree by a Dice of 0.90 only.
    """
    cases = opened(folder, 4)
    training = Training(patch=(patch,) * 3, batch=2, learning_rate=3e-3, augment=())
    module = network(folder)
    result = train(module, TASK, cases, FORM, training, Piece(steps, 0, steps, 1, ("sliding",)), of_module(module))
    save_file(dict(result.arrays), folder / "network.safetensors")
    probabilities = on_full_grid(module.eval(), cases[0].image, patch, 1)
    np.save(folder / "full-grid.npy", TASK.decide(probabilities, cases[0], FORM).labels)
    made = TASK.score(TASK.decide(probabilities, cases[0], FORM), cases[0], FORM, Evaluation())
    print(json.dumps({"loss": result.loss, "dice_of_reference": made.values["mean"]["dice"]}))


def main() -> None:
    kind, folder, patch, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    keep_freed_memory()
    if kind == "prepare":
        return train_network(folder, patch, number)
    (case,), module = opened(folder, 1), network(folder)
    training = Training(patch=(patch,) * 3)
    evaluation = Evaluation(overlap=OVERLAP, window="content" if kind == "content" else "patch")
    before, busy = time.perf_counter(), time.process_time()
    if kind == "monai":
        outputs = on_full_grid(module, case.image, patch, number)
        seconds, cpu = time.perf_counter() - before, time.process_time() - busy
        labels = TASK.decide(outputs, case, FORM).labels
    else:
        labels = TASK.predict(module, case, FORM, training, evaluation).labels
        seconds, cpu = time.perf_counter() - before, time.process_time() - busy
    said = {"seconds": seconds, "cpu_s": cpu, "dice": dice(labels, np.load(folder / "full-grid.npy"))}
    print(json.dumps(said))
    return None


if __name__ == "__main__":
    main()
