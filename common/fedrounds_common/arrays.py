"""Named arrays: a model's weights, a difference, an optimiser's moments. And their one digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[Any]
Arrays = Mapping[str, Array]  # float32 or integer, by state-dict name, in the model's own order


def is_float(array: Array) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def of_module(module: nn.Module) -> dict[str, Array]:
    """A copy of the module's state dict as NumPy arrays, in the model's order.

    Raises:
        UsageError: FR-U57 an entry of a kind that no difference and no mean can be made of, such as bool.
    """
    state = module.state_dict()
    _refuse_what_cannot_travel(state)
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()}


def _refuse_what_cannot_travel(state: Mapping[str, Tensor]) -> None:
    import torch

    whole = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    kinds = {*whole, torch.float16, torch.float32, torch.float64}
    odd = {
        name: str(tensor.dtype).removeprefix("torch.") for name, tensor in state.items() if tensor.dtype not in kinds
    }
    if odd:
        named = ", ".join(f"{name} ({kind})" for name, kind in list(odd.items())[:4])
        raise UsageError(
            "FR-U57", f"the network's state holds {named}{' …' if len(odd) > 4 else ''}",
            wanted="float16, float32, float64 or whole numbers: of others no difference can be sent and no mean made",
            do="register a buffer that never changes with persistent=False, or keep it as torch.uint8",
        )  # fmt: skip


def into_module(module: nn.Module, arrays: Arrays) -> None:
    """Set every entry of the state dict, in place. Names and shapes must match (`strict`)."""
    import torch

    module.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, strict=True)


def difference(trained: Arrays, start: Arrays) -> dict[str, Array]:
    """What training added to float arrays; integer buffers travel as their difference too."""
    return {name: trained[name] - start[name] for name in start}


def norm(arrays: Arrays) -> float:
    """The L2 norm over all float entries together, in float64."""
    squares = (float(np.sum(np.square(a, dtype=np.float64))) for a in arrays.values() if is_float(a))
    return float(np.sqrt(sum(squares)))


def size_bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())


def manifest(arrays: Arrays) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of each array, in order: what an update of this model must look like."""
    return [(name, array.dtype.str, tuple(array.shape)) for name, array in arrays.items()]


def digest(arrays: Arrays) -> str:
    """SHA-256 over manifest and bytes, names sorted: equal iff every bit is."""
    result = hashlib.sha256(json.dumps(sorted(manifest(arrays))).encode())
    for name in sorted(arrays):
        result.update(np.asarray(arrays[name], order="C").tobytes())
    return result.hexdigest()


def pack(arrays: Arrays) -> bytes:
    """All arrays end to end in one buffer, in order; `manifest` says how to read it."""
    return b"".join(np.asarray(array, order="C").tobytes() for array in arrays.values())


def unpack(buffer: bytes, entries: list[tuple[str, str, tuple[int, ...]]]) -> dict[str, Array]:
    """The inverse of `pack`; the arrays are read-only views of `buffer`.

    Raises:
        ValueError: the buffer is shorter or longer than the manifest says.
    """
    arrays: dict[str, Array] = {}
    offset = 0
    for name, dtype, shape in entries:
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(buffer, dtype=np.dtype(dtype), count=count, offset=offset).reshape(shape)
        offset += arrays[name].nbytes
    if offset != len(buffer):
        raise ValueError(f"{len(buffer)} bytes, where the manifest describes {offset}")
    return arrays
