"""Named arrays: a model's weights, a difference, an optimiser's moments. And their one digest."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedrounds_common.errors import UsageError
from fedrounds_common.flat import Array as Array
from fedrounds_common.flat import Buffer, Entry, Flat, Layout, layout_of

if TYPE_CHECKING:
    from torch import Tensor, nn

Arrays = Mapping[str, Array]  # float32 or integer, by state-dict name, in the model's own order
# Arrays of a message are read-only; `into_module` reads them, and copies once instead of twice. For good and not within a
# block: what `catch_warnings` puts back is the process's, and a thread draws the next batch meanwhile.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)

BLOCK = 2**17  # entries of one pass: a MiB of float64, which stays in a core's own cache


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

    tensors = {name: torch.from_numpy(_tensor_like(array)) for name, array in arrays.items()}
    module.load_state_dict(tensors, strict=True)


def _tensor_like(array: Array) -> Array:
    found = np.asarray(array, order="C")
    return found if found.flags.aligned else found.copy()


def difference(trained: Arrays, start: Arrays) -> dict[str, Array]:
    """What training added to float arrays; integer buffers travel as their difference too."""
    return {name: trained[name] - start[name] for name in start}


def norm(arrays: Arrays) -> float:
    """The L2 norm over all float entries together, in float64; not finite if any of them is not."""
    flats = _runs(arrays) if isinstance(arrays, Flat) else map(np.ravel, arrays.values())
    return float(np.sqrt(sum(_sum_of_squares(flat) for flat in flats if is_float(flat))))


def _runs(arrays: Flat) -> Iterator[Array]:
    return (arrays.read(run) for run in arrays.layout.runs)


def _sum_of_squares(flat: Array) -> float:
    wide, total = np.empty(min(flat.size, BLOCK)), 0.0
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        block = wide[: part.size]
        np.copyto(block, part)
        total += float(np.dot(block, block))
    return total


def size_bytes(arrays: Arrays) -> int:
    return arrays.layout.size if isinstance(arrays, Flat) else sum(array.nbytes for array in arrays.values())


def manifest(arrays: Arrays) -> list[Entry]:
    """Name, dtype and shape of each array, in order: what an update of this model must look like."""
    if isinstance(arrays, Flat):
        return list(arrays.layout.entries)
    return [(name, array.dtype.str, tuple(array.shape)) for name, array in arrays.items()]


def digest(arrays: Arrays) -> str:
    """SHA-256 over manifest and bytes, names sorted: equal iff every bit is. Of one message worked out once."""
    if isinstance(arrays, Flat) and isinstance(arrays.buffer, bytes):  # which nobody can write into
        return arrays.once("digest", lambda: _digest(arrays))
    return _digest(arrays)


def _digest(arrays: Arrays) -> str:
    result = hashlib.sha256(json.dumps(sorted(manifest(arrays))).encode())
    for name in sorted(arrays):
        result.update(bytes_of(arrays[name]))
    return result.hexdigest()


def pack(arrays: Arrays) -> bytes:
    """All arrays end to end in one buffer, in order; `manifest` says how to read it. What was unpacked is not copied."""
    if isinstance(arrays, Flat) and isinstance(arrays.buffer, bytes):
        return arrays.buffer
    return b"".join(buffers(arrays))


def buffers(arrays: Arrays) -> list[Buffer]:
    """The bytes of the arrays, in order; nothing is copied of those that lie in C order."""
    return [arrays.buffer] if isinstance(arrays, Flat) else [bytes_of(array) for array in arrays.values()]


def bytes_of(array: Array) -> memoryview:
    """Its bytes in C order; not copied where they lie so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def unpack(buffer: Buffer, entries: Sequence[Entry]) -> Flat:
    """The inverse of `pack`; the arrays are views of `buffer`, read-only where that is.

    Raises:
        ValueError: the buffer is shorter or longer than the manifest says, or no array has such an entry.
    """
    return Flat(buffer, layout_of(tuple(entries)))


def packed(arrays: Arrays) -> Flat:
    """The same arrays, end to end in one buffer and read-only; not copied if they are already."""
    if isinstance(arrays, Flat) and isinstance(arrays.buffer, bytes):
        return arrays
    return unpack(pack(arrays), manifest(arrays))


def like(layout: Layout) -> Flat:
    """Arrays of that layout in a buffer of their own, to be written into; what is in them is not set."""
    return Flat(np.empty(layout.size, np.uint8).data, layout)
