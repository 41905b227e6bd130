"""One side of `private_steps.py`: so many steps of one network, without noise, with ours, or with Opacus' hooks.

    python benchmarks/private_side.py plain|ours|alone|opacus --network NAME --dims D --size N --batch B --steps S

`ours` takes patients as a site does, at once or beside a copy where that is quicker, `alone` always one at a time.
Prints CPU seconds a step, the memory that the steps added, with what and which way they were taken, and what ours and
Opacus made of one batch, cut and summed without noise: the same numbers, to rounding. A few steps before the first that
is timed are for what is set up once; in them ours tries its ways.
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
WARM = 8  # steps that are not timed


def loss_of(made: Tensor) -> Tensor:
    return made.flatten(1).square().mean(1)


Prepared = tuple[Callable[[], None], list[float], Callable[[], str]]  # a step, the probe, and which way it takes


def plain(network: nn.Module, image: Tensor) -> Prepared:
    optimiser = torch.optim.SGD(network.parameters(), lr=RATE)

    def step() -> None:
        optimiser.zero_grad()
        loss_of(network(image)).mean().backward()
        optimiser.step()

    return step, [], lambda: "whole batch"


def alone(network: nn.Module, image: Tensor) -> Prepared:
    return ours(network, image, quicker=False)


def ours(network: nn.Module, image: Tensor, quicker: bool = True) -> Prepared:
    from fedrounds_client.private import PatientSteps
    from fedrounds_client.several import Several
    from fedrounds_common.privacy import NoisySteps
    from fedrounds_common.task import Batch

    optimiser, named = torch.optim.SGD(network.parameters(), lr=RATE), dict(network.named_parameters())
    batches = [Batch(one, one) for one in image.split(1)]

    def losses(whole: nn.Module, batch: Batch) -> Tensor:
        return loss_of(whole(batch.image))

    def back(batch: Batch) -> None:
        losses(network, batch).mean().backward()

    several = Several.of(network, losses, named, batches[0], 1) if quicker else None

    def way() -> str:
        if several is None:
            return "one patient at a time"
        counts = [len(chunk) for chunk in several.chunks(batches)]
        return ", ".join(f"{several.way(count)} ({count})" for count in dict.fromkeys(counts))

    def step_with(multiplier: float) -> Callable[[], None]:
        steps = PatientSteps(NoisySteps(1.0, CLIP, multiplier, len(image)), [])

        def step() -> None:
            optimiser.zero_grad()
            steps.gradients(named, batches, back, several)
            optimiser.step()

        return step

    step_with(0.0)()
    probe = [float(each.grad.norm()) * len(image) for each in named.values() if each.grad is not None]
    return step_with(MULTIPLIER), probe, way


def opacus(network: nn.Module, image: Tensor) -> Prepared:
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
    return step_with(MULTIPLIER), probe, lambda: "hooks"


def backend(device: torch.device) -> str:
    """What computes: torch and the library of its convolutions."""
    if device.type == "cuda":
        return f"torch {torch.__version__}, cuDNN on {torch.cuda.get_device_name(device)}"
    library = "oneDNN" if torch.backends.mkldnn.is_available() else "torch's own convolutions"
    return f"torch {torch.__version__}, {library}, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    said = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    said.add_argument("who", choices=("plain", "ours", "alone", "opacus"))
    said.add_argument("--network", default="tiny_unet")
    for name, default in (("dims", 3), ("size", 32), ("batch", 1), ("steps", 10)):
        said.add_argument(f"--{name}", type=int, default=default)
    said.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    given = said.parse_args()
    torch.set_num_threads(1)
    device = torch.device(given.device)
    with seeded(1):
        network = NETWORKS.load({"name": given.network}).build(given.dims, 1, 2).train().to(device)
    shape = (given.batch, 1, *(given.size,) * given.dims)
    image = torch.randn(shape, generator=torch_generator(1, "image")).to(device)
    makes: dict[str, Any] = {"plain": plain, "ours": ours, "alone": alone, "opacus": opacus}
    before = _peak_mib()
    step, probe, way = makes[given.who](network, image)
    for _ in range(WARM):
        step()
    seconds, cpu_s = _timed(step, given.steps, device)
    found = {
        "cpu_s_a_step": cpu_s,
        "s_a_step": seconds,
        "added_mib": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else _peak_mib() - before,
        "backend": backend(device),
        "way": way(),
        "probe": probe,
    }
    print(json.dumps(found))


def _timed(step: Callable[[], None], steps: int, device: torch.device) -> tuple[float, float]:
    """Seconds a step by the wall's clock, and CPU seconds a step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started, busy = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps, (time.process_time() - busy) / steps


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
