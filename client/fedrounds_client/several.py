"""Quicker ways to the same gradients of each patient: several patients at once, or one beside its own copy.

At once: `torch.func.vmap` over patients of the gradient of each one's mean loss, so that a patient's examples stay one
unit. Before it is relied on, the gradient of every trained weight is held against autograd's, patient by patient, in
float64, where rounding hides nothing. Beside a copy of no weight: at batch 1 torch takes slow 3D convolutions on a
processor, and at batch 2 fast ones. Which way is taken, the clock says: each is tried and the quickest kept.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from fedrounds_common.errors import RoundError
from fedrounds_common.rng import torch_generator
from fedrounds_common.task import Batch

Way = Literal["alone", "twice", "together"]
Losses = Callable[[nn.Module, Batch], Tensor]  # (B,), one an example
Named = Mapping[str, nn.Parameter]

CLOSE = 1e-4  # of a weight's largest gradient, as far as rounding can take it even in float64
SMALL = 1e-3  # of the largest gradient of all: a weight with smaller ones is held against that
BUDGET = 512 * 2**20  # bytes for what several patients need at once, on a processor
SHARE = 0.25  # of a GPU's free memory for the same
MOST = 32  # patients at once: beyond, nothing is gained
TRIALS = 2  # the first of which pays for whatever is set up once
# what torch and networks raise where vmap cannot follow: a value that decides, a change in place, no rule for a layer
CANNOT = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


@final
class Whole(nn.Module):
    """A network with its loss: (B, C, *grid) and targets → the mean loss of these examples."""

    def __init__(self, network: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.network, self.losses = network, losses

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        return self.losses(self.network, Batch(image, target)).float().mean()


@final
@dataclass(frozen=True)
class Found:
    """What a look at a network found: so many patients at once, 1 where `why` speaks against more; `copies` too."""

    most: int
    copies: bool
    why: str


@final
@dataclass
class Pace:
    """Seconds a patient, of each way that was tried; of patients at once by how many they were, to a factor of 2.

    `found`: by the first look at a network of this kind.
    """

    seconds: dict[tuple[Way, int], list[float]] = field(default_factory=dict)
    found: Found | None = None

    def quickest(self, ways: Sequence[Way], count: int) -> Way:
        """The way to take next: one that was not tried enough, else the quickest."""
        tried = {way: self.seconds.get(_key(way, count), []) for way in ways}
        return min(ways, key=lambda way: min(tried[way]) if len(tried[way]) >= TRIALS else 0.0)

    def note(self, way: Way, count: int, seconds: float) -> None:
        kept = self.seconds.setdefault(_key(way, count), [])
        kept.append(seconds / count)
        del kept[: -2 * TRIALS]


def _key(way: Way, count: int) -> tuple[Way, int]:
    return way, count.bit_length() if way == "together" else 1


@lru_cache(maxsize=64)
def pace(kind: str) -> Pace:
    """The same one for the same words: rounds of one network go on with what the first of them found."""
    return Pace()


@final
@dataclass(frozen=True)
class Several:
    """What one study's network allows at a site, and what is quickest there."""

    whole: Whole
    pace: Pace
    found: Found
    new: bool = True  # the look was made for this one

    @staticmethod
    def of(network: nn.Module, losses: Losses, named: Named, probe: Batch, examples: int, study: str = "") -> Several:
        """Look at the network and at what a patient needs; it is as before afterwards.

        Args:
            losses: of the network that it is given, which may be a copy. named: what is trained, by name.
            probe: one example, as training has them; of its image only the shape counts.
            examples: of each patient.
            study: what else the loss depends on. Of the same network and words, shapes and device, a process looks once.
        """
        draws = torch_generator(0, "several")
        images = torch.rand((2, examples, *probe.image.shape[1:]), generator=draws).to(probe.image)
        targets = probe.target[None].expand(2, examples, *probe.target.shape[1:])
        layers = [(type(layer).__module__, layer.training) for layer in network.modules()]
        size = f"{tuple(images.shape)} {tuple(targets.shape)} {images.device} {torch.get_num_threads()}"
        kept = pace(f"{network}|{layers}|{list(named)}|{study}|{size}")
        whole = Whole(network, losses)
        new = kept.found is None
        found = kept.found or _found(whole, named, images, targets)
        kept.found = found
        return Several(whole, kept, found, new)

    @property
    def most(self) -> int:
        return self.found.most

    def chunks(self, batches: Sequence[Batch]) -> list[Sequence[Batch]]:
        """Patients that may go through together: of one shape, `most` at a time, no chunk much smaller than another."""
        like: dict[tuple[torch.Size, torch.Size], list[Batch]] = {}
        for batch in batches:
            like.setdefault((batch.image.shape, batch.target.shape), []).append(batch)
        found: list[Sequence[Batch]] = []
        for same in like.values():
            parts = math.ceil(len(same) / self.most)
            edges = [round(part * len(same) / parts) for part in range(parts + 1)]
            found += [same[start:end] for start, end in pairwise(edges)]
        return found

    def way(self, count: int) -> Way:
        """How so many patients are taken next."""
        ways: list[Way] = ["alone"]
        if self.found.copies:
            ways.append("twice")
        if count > 1:
            ways.append("together")
        return self.pace.quickest(ways, count) if len(ways) > 1 else "alone"

    def note(self, way: Way, count: int, started: float) -> None:
        self.pace.note(way, count, time.perf_counter() - started)

    def together(self, named: Named, batches: Sequence[Batch]) -> dict[str, Tensor] | None:
        """The gradients of each patient, (P, *shape) by name; None where one or its loss is not finite, or it cannot be."""
        images, targets = (torch.stack([getattr(batch, name) for batch in batches]) for name in ("image", "target"))
        try:
            gradients, losses = _at_once(self.whole, named, images, targets)
        except CANNOT:
            return None
        return gradients if bool(torch.isfinite(losses).all()) else None

    def twice(self, batch: Batch) -> None:
        """Add the gradients of the batch's mean loss, run beside its own copy. Raises RoundError FR-R30: it is not finite."""
        losses = self.whole.losses(self.whole.network, Batch(_doubled(batch.image), _doubled(batch.target)))
        loss = losses.float()[: len(batch.image)].mean()
        if not torch.isfinite(loss):
            raise RoundError("FR-R30", f"the loss became {loss.item()}")
        loss.backward()  # type: ignore[no-untyped-call]


def _doubled(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor])


def _at_once(whole: Whole, named: Named, images: Tensor, targets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients (P, *shape) by name, and losses (P,), of images (P, E, C, *grid)."""
    weights = {f"network.{name}": parameter.detach() for name, parameter in named.items()}

    def one(given: Mapping[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
        # tied, a module that stands under two names would be left with these tensors for its weights
        made: Tensor = functional_call(whole, dict(given), (image, target), tie_weights=False)
        return made

    with torch.no_grad():  # of what is around: the gradient is taken inside
        found, losses = vmap(grad_and_value(one), in_dims=(None, 0, 0), randomness="different")(
            weights, images, targets
        )
    return {name: found[f"network.{name}"] for name in named}, losses


def _found(whole: Whole, named: Named, images: Tensor, targets: Tensor) -> Found:
    device = images.device.type
    room, needed = _room(device), _needed(whole, named, images[0], targets[0])
    copies = device == "cpu" and images.ndim == 6 and images.shape[1] == 1 and 2 * needed <= room
    most = min(MOST, room // needed)
    why = "memory" if most < 2 else _unlike(whole, named, images, targets)
    return Found(1 if why else most, copies, why)


def _room(device: str) -> int:
    return int(SHARE * torch.cuda.mem_get_info()[0]) if device == "cuda" else BUDGET


def _needed(whole: Whole, named: Named, image: Tensor, target: Tensor) -> int:
    """Bytes that one patient more takes: what its forward pass keeps, its gradients, and as much again in between."""
    own = {parameter.data_ptr() for parameter in whole.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        whole(image, target)
    gradients = sum(parameter.numel() * parameter.element_size() for parameter in named.values())
    return max(1, 2 * (sum(kept.values()) + gradients))


def _unlike(whole: Whole, named: Named, images: Tensor, targets: Tensor) -> str:
    """Why these patients at once are not the same as one at a time, naming the layer; "" where they are."""
    if whole.network._compiled_call_impl is not None:
        return "it is compiled"
    network = copy.deepcopy(whole.network).double()
    for layer in network.modules():
        # what draws at random, dropout and the like, has no weights; drawn differently it could not be compared
        if next(layer.children(), None) is None and next(layer.parameters(recurse=False), None) is None:
            layer.eval()
    twin = Whole(network, whole.losses)
    there = dict(network.named_parameters())
    trained = {name: there[name] for name in named}
    images, targets = images.double(), targets.double()
    try:
        at_once, _ = _at_once(twin, trained, images, targets)
    except CANNOT as error:
        return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
    for place in range(len(images)):
        wanted = torch.autograd.grad(twin(images[place], targets[place]), list(trained.values()), allow_unused=True)
        largest = max((float(each.abs().max()) for each in wanted if each is not None), default=0.0)
        for (name, found), right in zip(at_once.items(), wanted, strict=True):
            right = torch.zeros_like(found[place]) if right is None else right
            bound = CLOSE * max(float(right.abs().max()), SMALL * largest)
            if not bool(((found[place] - right).abs() <= bound).all()):
                return f"{name}: its gradient is not that of one patient at a time"
    return ""
