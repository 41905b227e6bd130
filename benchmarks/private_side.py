"""One side of `private_steps.py`: so many steps of one network, without noise, with ours, or with Opacus' hooks.

    python benchmarks/private_side.py plain|ours|opacus --network NAME --dims D --size N --batch B --steps S

Prints CPU seconds a step, the memory that the steps added, and what ours and Opacus made of one batch, cut and summed
without noise: the same numbers, to rounding.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fedrounds_common.rng import seeded, torch_generator
from fedrounds_common.shelves import NETWORKS

CLIP, MULTIPLIER, RATE = 0.5, 1.0, 1e-6


def loss_of(made: Tensor) -> Tensor:
    return made.flatten(1).square().mean(1)


def plain(network: nn.Module, image: Tensor) -> tuple[Callable[[], None], list[float]]:
    optimiser = torch.optim.SGD(network.parameters(), lr=RATE)

    def step() -> None:
        optimiser.zero_grad()
        loss_of(network(image)).mean().backward()
        optimiser.step()

    return step, []


def ours(network: nn.Module, image: Tensor) -> tuple[Callable[[], None], list[float]]:
    from fedrounds_client.private import PatientSteps
    from fedrounds_common.privacy import NoisySteps
    from fedrounds_common.task import Batch

    optimiser, named = torch.optim.SGD(network.parameters(), lr=RATE), dict(network.named_parameters())
    batches = [Batch(one, one) for one in image.split(1)]

    def back(batch: Batch) -> None:
        loss_of(network(batch.image)).mean().backward()

    def step_with(multiplier: float) -> Callable[[], None]:
        steps = PatientSteps(NoisySteps(1.0, CLIP, multiplier, len(image)), [])

        def step() -> None:
            optimiser.zero_grad()
            steps.gradients(named, batches, back)
            optimiser.step()

        return step

    step_with(0.0)()
    probe = [float(each.grad.norm()) * len(image) for each in named.values() if each.grad is not None]
    return step_with(MULTIPLIER), probe


def opacus(network: nn.Module, image: Tensor) -> tuple[Callable[[], None], list[float]]:
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    hooked = GradSampleModule(network)

    def step_with(multiplier: float) -> Callable[[], None]:
        optimiser = DPOptimizer(
            torch.optim.SGD(hooked.parameters(), lr=RATE), noise_multiplier=multiplier, max_grad_norm=CLIP,
            expected_batch_size=len(image), secure_mode=False,
        )  # fmt: skip

        def step() -> None:
            optimiser.zero_grad()
            loss_of(hooked(image)).mean().backward()
            optimiser.step()

        return step

    step_with(0.0)()
    probe = [float(each.grad.norm()) * len(image) for each in hooked.parameters() if each.grad is not None]
    return step_with(MULTIPLIER), probe


def main() -> None:
    said = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    said.add_argument("who", choices=("plain", "ours", "opacus"))
    said.add_argument("--network", default="tiny_unet")
    for name, default in (("dims", 3), ("size", 32), ("batch", 1), ("steps", 10)):
        said.add_argument(f"--{name}", type=int, default=default)
    given = said.parse_args()
    torch.set_num_threads(1)
    with seeded(1):
        network = NETWORKS.load({"name": given.network}).build(given.dims, 1, 2).train()
    shape = (given.batch, 1, *(given.size,) * given.dims)
    image = torch.randn(shape, generator=torch_generator(1, "image"))
    makes: dict[str, Any] = {"plain": plain, "ours": ours, "opacus": opacus}
    before = _peak_mib()
    step, probe = makes[given.who](network, image)
    step()
    busy = time.process_time()
    for _ in range(given.steps):
        step()
    cpu_s = (time.process_time() - busy) / given.steps
    print(json.dumps({"cpu_s_a_step": cpu_s, "added_mib": _peak_mib() - before, "probe": probe}))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
