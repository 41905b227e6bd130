"""Where a network runs: this machine's processor, or a GPU that it lends. On the processor nothing here changes a bit.

On a GPU a 3D network's weights and its batches lie channels last, and batches come from memory that the GPU may read
by itself. None of that has been tried on a GPU by this project's own tests, which have none.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedrounds_common.errors import MachineError

Device = Literal["cpu", "cuda", "auto"]


def device_of(wanted: Device) -> torch.device:
    """The device of that name; "auto" is a GPU where one is seen.

    Raises:
        MachineError: FR-E61 a GPU is wanted and none is seen.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if wanted == "auto":
        return torch.device("cpu")
    raise MachineError(
        "FR-E61", "no GPU is seen", wanted="one that torch can use",
        do="see `fedrounds doctor`; or let the processor do it (device = \"cpu\", [policy] gpu = \"none\")",
    )  # fmt: skip


def placed(network: nn.Module, device: torch.device, *, compiled: bool = False) -> nn.Module:
    """The network itself, on that device; with `compiled` its forward pass is compiled when it is first called."""
    if device.type != "cpu":
        torch.backends.cudnn.benchmark = True  # patches are of one size: look for the fastest kernel once
        network.to(device)
        for parameter in network.parameters():
            parameter.data = _laid_out(parameter.data)
    if compiled:
        network.compile()  # in place: names in the state dict stay
    return network


def carried(tensor: Tensor, device: torch.device) -> Tensor:
    """The batch's tensor where the network is."""
    if device.type == "cpu":
        return tensor
    return _laid_out(tensor.pin_memory().to(device, non_blocking=True))


def _laid_out(tensor: Tensor) -> Tensor:
    """Channels last, of what has channels and three or two axes of a grid."""
    formats: dict[int, Any] = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.contiguous(memory_format=formats[tensor.ndim]) if tensor.ndim in formats else tensor
