"""One small 3D training step with and without freed memory kept in the process: CPU time, as a ratio.

    python benchmarks/allocator.py

Runs itself twice as a child, in the order A B B A, and prints each run's milliseconds and the ratio.
"""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median

STEPS = 12


def child(keep: bool) -> float:
    """CPU milliseconds (user and system) of one step, the first three left out."""
    import resource

    import torch

    from fedrounds_common.allocator import keep_freed_memory
    from fedrounds_common.layers import TinyUNet

    if keep:
        keep_freed_memory()
    network = TinyUNet(3, 1, 3, (16, 32, 64))
    optimiser = torch.optim.AdamW(network.parameters())
    images = torch.zeros(4, 1, 32, 48, 32)
    before = 0.0
    for step in range(STEPS + 3):
        if step == 3:
            used = resource.getrusage(resource.RUSAGE_SELF)
            before = used.ru_utime + used.ru_stime
        optimiser.zero_grad()
        network(images).square().mean().backward()
        optimiser.step()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime - before) / STEPS * 1e3


def main() -> None:
    if len(sys.argv) > 1:
        print(child(sys.argv[1] == "keep"))
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    found: dict[str, list[float]] = {"give back": [], "keep": []}
    for which in ("give back", "keep", "keep", "give back"):
        done = subprocess.run(
            [sys.executable, __file__, which], env=environment, capture_output=True, text=True, check=True
        )
        found[which].append(float(done.stdout))
    for which, values in found.items():
        print(f"{which:<10} {', '.join(f'{value:.0f}' for value in values)} ms CPU a step")
    print(f"ratio      {median(found['keep']) / median(found['give back']):.2f}")


if __name__ == "__main__":
    main()
