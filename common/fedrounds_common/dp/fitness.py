"""Whether noise can protect patients in a network: nothing in it may mix one example with another, or remember any.

A batch norm gives every example something of the others beside it, and its running mean and variance leave the site
with no noise at all. What counts is what a layer does and not what it is called: the network is run and looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fedrounds_common.errors import UsageError
from fedrounds_common.rng import seeded, torch_generator
from fedrounds_common.task import Batch, Task

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

CLOSE = 1e-4  # of the largest value: what rounding in another order can do
INSTEAD = "a network without batch norm: see `fedrounds list networks`, running_statistics = false, or freeze the layer"


def check_fit(network: nn.Module, task: Task, batch: Batch) -> None:
    """Refuse a network in which one example's result depends on those beside it, or that keeps something of them.

    Args:
        network: in training mode, on the batch's device; it is as before afterwards.
        batch: one example, of the shapes that training has; its image is not looked at, noise takes its place.

    Raises:
        UsageError: FR-U95 naming the layer.
    """
    draws = torch_generator(0, "fitness")
    first, one, other = (torch.rand(batch.image.shape, generator=draws).to(batch.image) for _ in range(3))
    target = torch.cat([batch.target, batch.target])
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    try:
        beside_one = _looked_at(network, task, Batch(torch.cat([first, one]), target))
        kept = next((name for name, tensor in network.named_buffers() if not torch.equal(tensor, before[name])), None)
        if kept is not None:
            raise _unfit(f"{kept} keeps something of the images", network, kept.rpartition(".")[0])
        beside_other = _looked_at(network, task, Batch(torch.cat([first, other]), target))
    finally:
        for name, tensor in network.named_buffers():
            tensor.copy_(before[name])
    if not _alike(beside_one[""], beside_other[""]):
        pairs = ((name, beside_one[name], beside_other.get(name)) for name in beside_one if name)
        layer = next((name for name, one_, other_ in pairs if other_ is None or not _alike(one_, other_)), "")
        raise _unfit("an example's loss depends on the examples beside it", network, layer)


def _looked_at(network: nn.Module, task: Task, batch: Batch) -> dict[str, Tensor]:
    """What each innermost layer made of the first example, in the order in which they ran; "" is its loss."""
    found: dict[str, Tensor] = {}
    # the same seed and the same shapes: dropout drops the same
    with torch.no_grad(), seeded(0), _watched(network, found):
        loss = task.loss(network, batch, "", torch_generator(0, "loss"))
    return {**found, "": loss.detach()[:1].float()}


@contextmanager
def _watched(network: nn.Module, found: dict[str, Tensor]) -> Iterator[None]:
    handles: list[RemovableHandle] = []
    for name, layer in network.named_modules():
        if name and next(layer.children(), None) is None:
            handles.append(layer.register_forward_hook(_noting(name, found)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _noting(name: str, found: dict[str, Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def note(_: nn.Module, __: Any, made: Any) -> None:
        # a layer that runs twice is looked at once: where it first differs
        if isinstance(made, Tensor) and made.ndim and name not in found:
            found[name] = made.detach()[:1].float()

    return note


def _alike(one: Tensor, other: Tensor) -> bool:
    size = one.abs().max().clamp_min(1e-12) if one.numel() else one.new_ones(())
    return one.shape == other.shape and bool(((one - other).abs() <= CLOSE * size).all())


def _unfit(found: str, network: nn.Module, layer: str) -> UsageError:
    kind = type(network.get_submodule(layer)).__name__
    where = f"{layer} ({kind})" if layer else kind
    return UsageError(
        "FR-U95",
        f"{where}: {found}",
        wanted="layers that see each example by itself and keep nothing of it",
        do=INSTEAD,
    )
