"""The pieces that codecs are made of: few flat arrays in place of one a tensor, and each checked before it is used.

    halves       float16, each tensor times its own power of two, so that nothing over- or underflows
    levels       int8, −127 … 127, times the scale of their block (a bfloat16, two bytes), rounded up or down by chance
    counts       integer buffers, as they are

A flat array for all tensors together spares the name and shape of each, which of a small network are a tenth of a
message. Whoever unpacks knows names and shapes from the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.arrays import Array, Arrays, is_float
from fedrounds_common.case import F32
from fedrounds_common.errors import UpdateError

Packed = dict[str, Array]
I8 = NDArray[np.int8]
U16 = NDArray[np.uint16]
TOP = 127  # the highest level
HIGHEST, LOWEST = 111, -112  # exponents of a tensor's power of two: 65504 · 2^111 is still finite in float32
MOST = (
    0x7B80  # 2^120 as a bfloat16's bits: TOP of it are finite in float32; those above are large, infinite or negative
)


def large(arrays: Arrays) -> list[str]:
    """Tensors of two axes or more: nearly all of a network. The others scale, shift and count, and take rounding ill."""
    return [name for name, array in arrays.items() if is_float(array) and array.ndim > 1]


def small(arrays: Arrays) -> list[str]:
    return [name for name, array in arrays.items() if is_float(array) and array.ndim < 2]


def size_of(arrays: Arrays, names: Sequence[str]) -> int:
    return sum(arrays[name].size for name in names)


def with_residual(arrays: Arrays, residual: Arrays) -> dict[str, Array]:
    """Floats plus what was kept of them, in float32 or wider.

    Raises:
        UpdateError: FR-R12 a value is not finite.
    """
    total: dict[str, Array] = {}
    for name, array in arrays.items():
        if not is_float(array):
            continue
        total[name] = np.asarray(array, np.promote_types(array.dtype, np.float32))
        if name in residual:
            total[name] = np.asarray(total[name] + residual[name])
        bad = array.size - int(np.count_nonzero(np.isfinite(total[name])))
        if bad:
            raise UpdateError("FR-R12", f"{name} has {bad} values that are not finite", wanted="finite numbers")
    return total


def left_over(total: Arrays, decoded: Arrays) -> dict[str, Array]:
    """What the packing lost of each float: it stays, and is added the next time."""
    return {name: np.asarray(array - decoded[name]) for name, array in total.items()}


# ---------------------------------------------------------------- what came


def take(arrays: Arrays, name: str, dtype: Any, size: int) -> Array:
    """The flat array of that name. Raises UpdateError FR-R11: it is not there, or of another dtype or size."""
    found = arrays.get(name)
    if found is None or found.dtype != np.dtype(dtype) or found.shape != (size,):
        what = "missing" if found is None else f"{found.dtype} {found.shape}"
        raise UpdateError("FR-R11", f"{name} is {what}, not {np.dtype(dtype)} ({size},)", wanted="what the codec packs")
    return found


def only(arrays: Arrays, names: Sequence[str]) -> None:
    """Raises UpdateError FR-R11: something came that the codec does not pack."""
    odd = sorted(set(arrays) - set(names))
    if odd:
        raise UpdateError("FR-R11", f"{len(odd)} arrays unknown {odd[:3]}", wanted="what the codec packs")


# ---------------------------------------------------------------- counts


def pack_counts(arrays: Arrays) -> Packed:
    """Integer buffers end to end, those of one dtype together, as they are."""
    return {
        key: np.concatenate([np.ravel(arrays[name]) for name in names]) for key, names in _count_names(arrays).items()
    }


def unpack_counts(arrays: Arrays, like: Arrays) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for key, names in _count_names(like).items():
        flat = take(arrays, key, like[names[0]].dtype, size_of(like, names))
        found |= parted(flat, like, names)
    return found


def count_keys(like: Arrays) -> list[str]:
    return list(_count_names(like))


def _count_names(arrays: Arrays) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for name, array in arrays.items():
        if not is_float(array):
            kinds.setdefault(f"counts.{array.dtype.name}", []).append(name)
    return kinds


def parted(flat: Array, like: Arrays, names: Sequence[str]) -> dict[str, Array]:
    """A flat array cut into tensors: each a view where its dtype is the model's."""
    found, start = {}, 0
    for name in names:
        end = start + like[name].size
        found[name] = flat[start:end].reshape(like[name].shape).astype(like[name].dtype, copy=False)
        start = end
    return found


def ordered(parts: Mapping[str, Array], like: Arrays) -> dict[str, Array]:
    return {name: parts[name] for name in like}


# ---------------------------------------------------------------- halves


def pack_halves(arrays: Arrays, names: Sequence[str], key: str) -> Packed:
    """float16, each tensor times the power of two that brings its largest value near 2^15.

    A value loses at most 2^-11 of itself, or, where it is far smaller than the tensor's largest, 2^-39 of that.
    """
    halves = np.empty(size_of(arrays, names), np.float16)
    exponents = np.empty(len(names), np.int8)
    start = 0
    for place, name in enumerate(names):
        flat = np.ravel(arrays[name])
        exponents[place] = exponent = _exponent(flat, name)
        np.multiply(flat, 2.0**-exponent, out=halves[start : start + flat.size], casting="same_kind", dtype=flat.dtype)
        start += flat.size
    return {key: halves, f"{key}.exponents": exponents}


def to_halves(arrays: Arrays) -> dict[str, Array]:
    """The floats as they come out of `pack_halves`, so that packing them again changes no bit."""
    return {name: _to_halves(array, name) if is_float(array) else array for name, array in arrays.items()}


def _to_halves(array: Array, name: str) -> Array:
    flat, exponent = np.ravel(array), None
    # twice where the largest value was rounded up to the next power of two: it is then packed by that one
    while exponent != (found := _exponent(flat, name)):
        exponent = found
        halves = np.multiply(flat, 2.0**-exponent, dtype=flat.dtype).astype(np.float16)
        flat = np.multiply(halves, np.float32(2.0**exponent), dtype=np.float32).astype(array.dtype, copy=False)
    return flat.reshape(array.shape)


def _exponent(flat: Array, name: str) -> int:
    largest = float(np.abs(flat).max(initial=0.0))
    exponent = int(np.frexp(largest)[1]) - 15 if largest > 0 else 0
    if exponent > HIGHEST:
        raise UpdateError("FR-R12", f"{name} has a value of {largest:.4g}", wanted="numbers that can be packed")
    return max(exponent, LOWEST)


def unpack_halves(arrays: Arrays, like: Arrays, names: Sequence[str], key: str) -> dict[str, Array]:
    """Raises UpdateError FR-R11: another dtype or size, an exponent out of range, a value that is not finite."""
    halves = take(arrays, key, np.float16, size_of(like, names))
    exponents = take(arrays, f"{key}.exponents", np.int8, len(names))
    _check_halves(halves, exponents, key)
    found: dict[str, Array] = {}
    for (name, part), exponent in zip(_parted_raw(halves, like, names), exponents.tolist(), strict=True):
        values = np.multiply(part, np.float32(2.0**exponent), dtype=np.float32)
        found[name] = values.reshape(like[name].shape).astype(like[name].dtype, copy=False)
    return found


def _check_halves(halves: Array, exponents: Array, key: str) -> None:
    if exponents.size and not LOWEST <= int(exponents.min()) <= int(exponents.max()) <= HIGHEST:
        raise UpdateError("FR-R11", f"{key}.exponents is out of range", wanted=f"{LOWEST} to {HIGHEST}")
    if not np.isfinite(halves).all():
        raise UpdateError("FR-R11", f"{key} has values that are not finite", wanted="finite numbers")


def _parted_raw(flat: Array, like: Arrays, names: Sequence[str]) -> list[tuple[str, Array]]:
    ends = np.cumsum([like[name].size for name in names])
    return list(zip(names, np.split(flat, ends[:-1]) if len(names) else [], strict=True))


# ---------------------------------------------------------------- levels


def blocks_in(sizes: Sequence[int], block: int) -> int:
    """How many blocks tensors of these sizes have: each begins with one of its own."""
    return sum(-(-size // block) for size in sizes)


def pack_levels(tensors: Sequence[Array], block: int, rng: np.random.Generator) -> tuple[I8, U16]:
    """Each block over its own scale, rounded up or down by chance so that the mean is the value itself.

    A value loses less than one level: 1/127 of the largest of its block, and the 2^-7 of that by which the scale
    was rounded up to two bytes.

    Source: stochastic rounding as in QSGD, Alistarh et al. 2017 (arXiv:1610.02132), by block as there.
    """
    sizes = [tensor.size for tensor in tensors]
    levels, scales = np.empty(sum(sizes), np.int8), np.empty(blocks_in(sizes, block), np.uint16)
    start = place = 0
    for tensor in tensors:
        flat = np.ravel(tensor)
        count = -(-flat.size // block)
        scales[place : place + count] = bits = _scales_of(flat, block)
        drawn = rng.random(flat.size, np.float32)
        drawn += flat / np.repeat(np.where(bits, _values_of(bits), 1), block)[: flat.size]
        np.floor(drawn, out=drawn)
        np.clip(drawn, -TOP, TOP, out=drawn)  # TOP itself plus nearly 1 is rounded to the next in float32
        levels[start : start + flat.size] = drawn
        start, place = start + flat.size, place + count
    return levels, scales


def unpack_levels(levels: Array, scales: Array, sizes: Sequence[int], block: int) -> F32:
    """The values of all tensors end to end; what came is known to have the right sizes.

    Raises:
        UpdateError: FR-R11 a level or a scale that none of ours is.
    """
    if scales.size and int(scales.max()) > MOST:
        raise UpdateError("FR-R11", "a scale is negative, not finite or too large", wanted="what the codec packs")
    if levels.size and int(levels.min()) < -TOP:
        raise UpdateError("FR-R11", f"a level is {int(levels.min())}", wanted=f"-{TOP} to {TOP}")
    values, start, place = levels.astype(np.float32), 0, 0
    for size in sizes:
        count = -(-size // block)
        values[start : start + size] *= np.repeat(_values_of(scales[place : place + count]), block)[:size]
        start, place = start + size, place + count
    return values


def _scales_of(flat: Array, block: int) -> U16:
    """Of each block its largest value over TOP, as the first half of a float32, rounded up: no value is above TOP."""
    largest = np.maximum.reduceat(np.abs(flat), np.arange(0, flat.size, block)) if flat.size else flat
    if largest.size and float(largest.max()) > 2.0**126:
        raise UpdateError("FR-R12", f"a value of {float(largest.max()):.4g}", wanted="numbers that can be packed")
    bits = np.ascontiguousarray(largest / TOP, np.float32).view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16)


def _values_of(bits: Array) -> F32:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
