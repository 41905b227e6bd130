"""GPU: patches a second of the FeTS network at 128³, and the share of the GPU's dense bf16 peak, beside MONAI's SegResNet.

    python benchmarks/gpu.py [--pairs N] [--peak TFLOPS] [--batch N]

Ours is the program's own training of `fets_resunet`: batches drawn and augmented on the processor, bfloat16, channels last,
torch.compile, AdamW. The other side is MONAI's SegResNet, compiled, in a loop of its own on patches that never leave
the GPU, which flatters it. The share is 6 x multiply-adds x patches a second over the peak of dense bfloat16,
which is known of some GPUs and said with --peak of any other. Without a GPU it says so and ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from pairs import Side, Wanted, arguments, compare, write

SIDE = Path(__file__).resolve().with_name("gpu_side.py")
SHOWN = ("patches_per_s", "share_of_peak", "step_ms", "gmac", "gpu_mib")
# dense bf16 with float32 sums, without sparsity, from the makers' data sheets; by a part of the name, the longest first
PEAK_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
}


def peak_of(name: str) -> float:
    """0 where it is not known."""
    return next((PEAK_TFLOPS[part] for part in sorted(PEAK_TFLOPS, key=len, reverse=True) if part in name), 0.0)


def main() -> None:
    given = arguments(
        __doc__, patch=(128, "side of a patch"), batch=(2, "patches a step"), steps=(30, "that are timed"),
        peak=(0.0, "TFLOPS of dense bfloat16; 0: as its name says"),
        device=("cuda", "cpu: only to see whether it runs"), plain=(False, "without compiling: only to see whether it runs"),
    )  # fmt: skip
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing was measured")
        return
    name = torch.cuda.get_device_name() if given.device == "cuda" else "processor"
    peak = given.peak or peak_of(name)

    def side(kind: str, shown: str) -> Side:
        how = "plain" if given.plain else "compiled"
        words = (kind, given.patch, given.batch, given.steps, given.device, peak, how)
        return Side(shown, (sys.executable, str(SIDE), *map(str, words)), {"OMP_NUM_THREADS": "4"})

    wanted = [Wanted("share_of_peak", least=0.4, alone=True), Wanted("share_of_peak", least=1)]
    row = compare(
        "GPU", side("fedrounds", "fedrounds, fets_resunet"), side("monai", "MONAI SegResNet, compiled"), given.pairs, wanted,
        note="" if peak else "the peak of this device is not known: no share can be given",
    )  # fmt: skip
    settings = {"device": name, "peak TFLOPS": peak, "patch": given.patch, "batch": given.batch}
    write("gpu", [row], settings, given.output, SHOWN)


if __name__ == "__main__":
    main()
