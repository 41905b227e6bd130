"""One side of `loading.py`: keep prepared cases, draw patches from them for some epochs, say how fast and how large.

    python benchmarks/loading_side.py ours|cache|cache-no-copy|persistent FOLDER PATCH EPOCHS

A batch is two patches and their labels as tensors, in float32 and uint8 or what the peer makes of labels by itself. The
first epoch is not counted. `memory_mib` is what the process holds of its own (RssAnon) and the files that it keeps.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from volumes import kept

BATCH = 2
MIB = 2**20
Loader = Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]


def ours(folder: Path, patch: tuple[int, ...]) -> tuple[Loader, Callable[[], int], Callable[[], float]]:
    """The cases as a run keeps them; an epoch, the bytes of their files, and a sum over all voxels."""
    from fedrounds_client.training import stacked
    from fedrounds_common import sampling
    from fedrounds_common.allocator import keep_freed_memory
    from fedrounds_common.case import Case

    keep_freed_memory()
    (cases, _, store), rng = kept(folder), np.random.default_rng(0)
    for case in cases:
        sampling.index_of(case)  # where labels and content are: looked for once a process, like the first epoch

    def drawn(case: Case) -> tuple[np.ndarray, ...]:
        start = sampling.patch_start(None, sampling.index_of(case).box, patch, case.grid, rng)
        return sampling.patch_of(case, start, patch), sampling.labels_of(case, start, patch)[None]

    def epoch() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = rng.permutation(len(cases))
        for first in range(0, len(order), BATCH):
            chosen = [cases[place] for place in order[first : first + BATCH]]
            made = stacked((drawn(case) for case in chosen), len(chosen))
            yield torch.from_numpy(made.pop(0)), torch.from_numpy(made.pop())

    return (
        epoch,
        lambda: store.bytes,
        lambda: float(np.mean([np.abs(case.image).mean(dtype=float) for case in cases])),
    )


def monais(kind: str, folder: Path, patch: tuple[int, ...]) -> tuple[Loader, Callable[[], int], Callable[[], float]]:
    """The same of MONAI's: its own transforms, in the order of its tutorials, and its own loader in this process."""
    from monai import data, transforms

    both = ["image", "label"]
    steps = [
        transforms.LoadImaged(keys=both),
        transforms.EnsureChannelFirstd(keys=["image"], channel_dim=-1),
        transforms.EnsureChannelFirstd(keys=["label"], channel_dim="no_channel"),
        transforms.CropForegroundd(keys=both, source_key="image", allow_smaller=True),
        transforms.NormalizeIntensityd(keys="image", nonzero=True, channel_wise=True),
        transforms.RandSpatialCropd(keys=both, roi_size=patch, random_size=False),
    ]
    files = [
        {"image": str(file), "label": str(folder / "labels" / file.name)}
        for file in sorted((folder / "images").iterdir())
    ]
    place = folder / "persistent"
    found: Any
    if kind == "persistent":
        found = data.PersistentDataset(files, transforms.Compose(steps), cache_dir=place)
    else:
        found = data.CacheDataset(
            files, transforms.Compose(steps), cache_rate=1.0, num_workers=0, progress=False, copy_cache=kind == "cache"
        )
    loader = data.DataLoader(found, batch_size=BATCH, shuffle=True, num_workers=0)

    def epoch() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in loader:
            yield batch.pop("image"), batch.pop("label")

    def mean() -> float:
        whole = transforms.Compose(steps[:-1])
        return float(np.mean([np.abs(whole(file)["image"].numpy()).mean(dtype=float) for file in files]))

    return epoch, lambda: sum(file.stat().st_size for file in place.rglob("*") if file.is_file()), mean


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def main() -> None:
    kind, folder, size, epochs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    patch = (size, size, size)
    epoch, files, mean = ours(folder, patch) if kind == "ours" else monais(kind, folder, patch)

    def look() -> int:
        """Draw an epoch, and let each batch go before the next is made, on every side alike."""
        seen = 0
        for images, labels in epoch():
            assert images.shape[2:] == labels.shape[2:] == patch, images.shape
            seen += len(images)
            del images, labels
        return seen

    drawn = look()
    before, busy = time.perf_counter(), time.process_time()
    for _ in range(epochs):
        look()
    seconds, cpu = time.perf_counter() - before, time.process_time() - busy
    own = anonymous_bytes()
    said = {
        "cases_per_s": epochs * drawn / seconds,
        "cases_per_cpu_s": epochs * drawn / cpu,
        "memory_mib": (own + files()) / MIB,
        "anonymous_mib": own / MIB,
        "files_mib": files() / MIB,
        "cases": drawn,
        "mean": mean(),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
