"""One side of `gpu.py`: training steps on random patches, and which share of the GPU's dense bf16 peak they use.

    python benchmarks/gpu_side.py fedrounds|monai PATCH BATCH STEPS cpu|cuda PEAK_TFLOPS compiled|plain

`fedrounds` is the FeTS network through the program's own training, with compiling and bfloat16, on cases in memory;
`monai` a compiled SegResNet in a loop of its own, on patches that lie on the device already. Of either the multiply-adds
of its convolutions are counted; a step takes six floating-point operations of each: two forward, four back.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from volumes import CHANNELS, REGIONS, in_regions

from fedrounds_client.device import device_of, placed
from fedrounds_client.training import Piece, train
from fedrounds_common import losses
from fedrounds_common.arrays import of_module
from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.networks.fets_resunet import FetsResUNet
from fedrounds_common.rng import seeded
from fedrounds_common.study.tables import Training
from fedrounds_common.tasks.segmentation import Segmentation

FORM = in_regions()


def _amp(device: torch.device) -> Literal["off", "bf16"]:
    """bfloat16 where it is meant for: on a processor torch's is not the same twice, and may not be finite."""
    return "bf16" if device.type == "cuda" else "off"


def multiply_adds(network: nn.Module, patch: int) -> int:
    """Of all convolutions, for one patch."""
    count = 0

    def add(layer: nn.Conv3d | nn.ConvTranspose3d, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal count
        kernel = math.prod(layer.kernel_size)
        # each voxel of the output takes a kernel of the inputs; of a transposed one each of the input's gives one
        voxels, others = (
            (inputs[0], layer.out_channels) if isinstance(layer, nn.ConvTranspose3d) else (output, layer.in_channels)
        )
        count += voxels.numel() * kernel * others // layer.groups

    hooks = [
        layer.register_forward_hook(add)
        for layer in network.modules()
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d)
    ]
    with torch.no_grad():
        network.eval()(torch.zeros(1, len(CHANNELS), patch, patch, patch))
    for hook in hooks:
        hook.remove()
    return count


def fedrounds(patch: int, batch: int, device: torch.device, compiled: bool) -> tuple[int, Callable[[int], None]]:
    task, rng = Segmentation(), np.random.default_rng(0)
    training = Training(patch=(patch,) * 3, batch=batch, learning_rate=5e-5, amp=_amp(device), compile=compiled)
    with seeded(0):
        network = task.network(FetsResUNet(), FORM)
    counted = multiply_adds(network, patch)
    start, network = of_module(network), placed(network, device, compiled=compiled)
    grid = (patch + 8,) * 3
    cases = [
        Case(
            CaseRef(name, name), rng.normal(size=(len(CHANNELS), *grid)).astype(np.float32),
            Target(rng.integers(0, 4, grid).astype(np.uint8)), np.eye(4),
        )
        for name in ("a", "b")
    ]  # fmt: skip

    def steps(count: int) -> None:
        piece = Piece(count, 0, count, 0, ("gpu",))
        train(network, task, cases, FORM, training, piece, start, beside=True)

    return counted, steps


def monai(patch: int, batch: int, device: torch.device, compiled: bool) -> tuple[int, Callable[[int], None]]:
    from monai.networks.nets.segresnet import SegResNet

    with seeded(0):
        # not a Module to the type checker, whose `to` would know no memory format
        network: Any = SegResNet(3, 32, len(CHANNELS), len(REGIONS), blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1))
    counted = multiply_adds(network, patch)
    network = network.train().to(device, memory_format=torch.channels_last_3d)
    if compiled:
        network.compile()
    optimiser = torch.optim.AdamW(network.parameters(), 1e-4, fused=device.type == "cuda")
    shape = (batch, len(CHANNELS), patch, patch, patch)
    image = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last_3d)
    truth = (torch.rand((batch, len(REGIONS), *shape[2:]), device=device) > 0.9).float()

    def steps(count: int) -> None:
        for _ in range(count):
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=_amp(device) == "bf16"):
                logits = network(image)
            losses.loss("dice+ce", logits.float(), truth, exclusive=False, smooth=1.0, gamma=2.0).mean().backward()
            optimiser.step()

    return counted, steps


def main() -> None:
    kind, patch, batch, count, wanted, peak = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5], float(sys.argv[6])
    device = device_of("cpu" if wanted == "cpu" else "cuda")
    counted, steps = (fedrounds if kind == "fedrounds" else monai)(patch, batch, device, sys.argv[7] == "compiled")

    def timed(number: int) -> float:
        started = time.perf_counter()
        steps(number)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    timed(3)  # compiles, and looks for the fastest kernels
    # the difference: what is done once for each call of `train` (copying 29 million weights twice) is not a step
    few, many = timed(2), timed(2 + count)
    seconds = (many - few) / count
    said = {
        "patches_per_s": batch / seconds,
        "share_of_peak": 6 * counted * batch / seconds / (peak * 1e12) if peak else 0.0,
        "step_ms": seconds * 1e3,
        "gmac": counted / 1e9,
        "gpu_mib": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
