"""One side of `loading.py`: train on kept cases as a round does, and say which share of it waited for data.

python benchmarks/waiting_side.py FOLDER PATCH STEPS usual|all beside|before
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import get_args

from volumes import kept

from fedrounds_client.ahead import spare_core
from fedrounds_client.training import Piece, train
from fedrounds_common.allocator import keep_freed_memory
from fedrounds_common.arrays import digest, of_module
from fedrounds_common.networks.tiny_unet import TinyUNet
from fedrounds_common.rng import seeded
from fedrounds_common.study.tables import Augmentation, Training
from fedrounds_common.tasks.segmentation import Segmentation


def main() -> None:
    folder, size, steps, which, how = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
    keep_freed_memory()
    cases, form, _ = kept(folder)
    names = get_args(Augmentation) if which == "all" else Training().augment
    training, task = Training(patch=(size,) * 3, batch=2, augment=names), Segmentation()
    with seeded(0):
        network = task.network(TinyUNet(), form)
    start = of_module(network)
    beside = how == "beside" and spare_core(training.threads)
    train(network, task, cases, form, training, Piece(2, 0, 2, 0, ("warm",)), start, beside=beside)
    before, busy = time.perf_counter(), time.process_time()
    result = train(network, task, cases, form, training, Piece(steps, 0, steps, 0, ("timed",)), start, beside=beside)
    seconds, cpu = time.perf_counter() - before, time.process_time() - busy
    said = {
        "waiting_share": result.waiting / seconds,
        "step_ms": seconds / steps * 1e3,
        "cpu_ms_a_step": cpu / steps * 1e3,
        "digest": digest(result.arrays),
        "beside": beside,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
