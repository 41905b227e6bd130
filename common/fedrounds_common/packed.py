"""An image as a store keeps it: each channel in as few bytes as give back its very bits, within the content box.

A channel of at most 256 values is kept as one byte a voxel and the list of its values; one whose values are whole
multiples of a power of two, fifteen bits and a sign, as two bytes a voxel; any other as float32. `rounded` brings
a channel to such multiples, where that moves no voxel by more than a stated share of its spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

LEVELS = 256
MOST = 32767  # of a two-byte code, either sign
FINE = 1 / 500  # of a channel's spread: the most that rounding may move a voxel
_LOOK = 4096  # values looked at before a channel is searched for all it holds
_SAMPLE = 65536  # values of which the spread is taken


@final
@dataclass(frozen=True)
class PackedChannel:
    """Of one channel the voxels within the box, (*box): uint8 places in `levels`, int16 multiples of `step`, or float32.

    `outside`: what every voxel outside the box holds.
    """

    codes: NDArray[Any]
    outside: float
    step: float = 1.0
    levels: F32 | None = None

    def unpack(self, spans: tuple[slice, ...], into: F32) -> None:
        """Write the voxels of a part of the box, which has the shape of `into`."""
        part = self.codes[spans]
        if self.levels is not None:
            np.take(self.levels, part, out=into, mode="clip")
        elif part.dtype == np.int16:
            np.multiply(part, np.float32(self.step), out=into)
        else:
            into[...] = part

    def as_table(self) -> dict[str, Any]:
        """All but the arrays, as a header says it; of the levels how many there are."""
        levels = 0 if self.levels is None else len(self.levels)
        return {"dtype": self.codes.dtype.str, "outside": self.outside, "step": self.step, "levels": levels}


@final
@dataclass(frozen=True)
class Packed:
    """An image (C, *grid): `box` holds every voxel that differs from its channel's corner."""

    grid: tuple[int, ...]
    box: tuple[slice, ...]
    channels: tuple[PackedChannel, ...]

    @property
    def bytes(self) -> int:
        return sum(channel.codes.nbytes for channel in self.channels)

    def whole(self) -> F32:
        """The image (C, *grid), unpacked anew each time."""
        return self.cut((0,) * len(self.grid), self.grid)

    def cut(self, start: Sequence[int], size: Sequence[int]) -> F32:
        """(C, *size), whose first voxel is the grid's `start`; zeros where it reaches beyond the grid."""
        result = np.empty((len(self.channels), *size), np.float32)
        inside = _overlap(start, size, [slice(0, have) for have in self.grid])
        content = _overlap(start, size, self.box)
        if not _covers(inside, start, size):
            result[...] = 0
        if not _covers(content, start, size):
            place = _from(inside, start)
            for values, channel in zip(result, self.channels, strict=True):
                values[place] = channel.outside
        if all(span.start < span.stop for span in content):
            spans, place = _from(content, [span.start for span in self.box]), _from(content, start)
            for values, channel in zip(result, self.channels, strict=True):
                channel.unpack(spans, values[place])
        return result


@final
@dataclass(frozen=True)
class PackedLabels:
    """A label map (*grid) of which only the box that holds labels is kept: `codes` (*box); 0 outside."""

    grid: tuple[int, ...]
    box: tuple[slice, ...]
    codes: NDArray[np.uint8]

    def whole(self) -> NDArray[np.uint8]:
        """(*grid), unpacked anew each time."""
        return self.cut((0,) * len(self.grid), self.grid)

    def cut(self, start: Sequence[int], size: Sequence[int]) -> NDArray[np.uint8]:
        """(*size), whose first voxel is the grid's `start`; zeros where it reaches beyond the grid."""
        result = np.zeros(tuple(size), np.uint8)
        found = _overlap(start, size, self.box)
        if all(span.start < span.stop for span in found):
            result[_from(found, start)] = self.codes[_from(found, [span.start for span in self.box])]
        return result


def pack_labels(labels: NDArray[np.uint8]) -> PackedLabels:
    spans = []
    for axis in range(labels.ndim):
        there = np.flatnonzero(labels.any(axis=tuple(other for other in range(labels.ndim) if other != axis)))
        spans.append(slice(int(there[0]), int(there[-1]) + 1) if there.size else slice(0, 0))
    box = tuple(spans)
    return PackedLabels(tuple(labels.shape), box, np.ascontiguousarray(labels[box]))


def pack(image: F32, box: tuple[slice, ...]) -> Packed:
    """Keep an image (C, *grid) as it is, bit for bit (of a zero, not its sign).

    Args:
        box: outside it every voxel holds its channel's first one's value.
    """
    return Packed(tuple(image.shape[1:]), box, tuple(_kept(channel, channel[box]) for channel in image))


def rounded(channel: F32) -> F32:
    """One channel (*grid) in values that take two bytes each; as it was where that would lose too much.

    Rounded to multiples of a power of two, such that the largest has 15 bits: a voxel moves by less than one step. It
    is as it was if a step is more than `FINE` of the spread of what differs from the corner (half of what lies between
    its 16th and 84th percentile: one voxel of metal must not widen it), or if it holds no more than 256 values,
    which are kept exactly anyway. Zeros stay zero, and nothing else becomes zero: it would be taken for background.
    """
    step = _step(channel)
    if step is None or _few(channel) is not None:
        return channel
    content = channel[channel != channel.flat[0]]
    low, high = np.percentile(content[:: max(1, content.size // _SAMPLE)], (16, 84))
    if not step <= FINE * (high - low) / 2:
        return channel
    codes: F32 = np.rint(channel * np.float32(1 / step))
    lost = (codes == 0) & (channel != 0)
    codes[lost] = np.sign(channel[lost])
    codes *= np.float32(step)
    codes += 0  # no zero keeps a sign
    return codes


def _kept(whole: F32, inside: F32) -> PackedChannel:
    outside = float(whole.flat[0])
    levels = _few(inside)
    if levels is not None:
        return PackedChannel(np.searchsorted(levels, inside).astype(np.uint8), outside, levels=levels)
    step = _step(inside)
    if step is not None:
        multiples = np.rint(inside * np.float32(1 / step))
        if bool((multiples * np.float32(step) == inside).all()):
            return PackedChannel(multiples.astype(np.int16), outside, step)
    return PackedChannel(np.ascontiguousarray(inside), outside)


def _step(channel: F32) -> float | None:
    """The power of two of which the largest value is at most `MOST` multiples and more than half of them.

    None where float32 cannot hold it or its inverse, and where values are not finite.
    """
    largest = max(float(channel.max()), -float(channel.min()))
    if not (math.isfinite(largest) and largest > 0):
        return None
    step = 2.0 ** math.ceil(math.log2(largest / MOST))
    if largest > MOST * step:  # the logarithm was rounded down
        step *= 2
    return step if 2.0**-100 < step < 2.0**100 else None


def _few(channel: F32) -> F32 | None:
    """All values, sorted, if there are at most 256 (and all finite)."""
    flat = channel.ravel()
    some = np.unique(flat[:: max(1, flat.size // _LOOK)])
    if len(some) > LEVELS or not np.isfinite(some).all():
        return None
    while True:
        # what is not among the values known so far, in parts: sorting all of a volume takes a second
        places = np.minimum(np.searchsorted(some, flat), len(some) - 1)
        other = flat[some[places] != flat]
        if not other.size:
            return some
        some = np.unique(np.concatenate([some, other[:: max(1, other.size // _LOOK)]]))
        if len(some) > LEVELS or not np.isfinite(some).all():
            return None


def _overlap(start: Sequence[int], size: Sequence[int], box: Sequence[slice]) -> tuple[slice, ...]:
    """What a patch and a box share, counted as the box is; a span that ends where it begins where they share nothing."""
    spans = []
    for low, length, span in zip(start, size, box, strict=True):
        first = min(max(low, span.start), span.stop)
        spans.append(slice(first, max(min(low + length, span.stop), first)))
    return tuple(spans)


def _covers(spans: Sequence[slice], start: Sequence[int], size: Sequence[int]) -> bool:
    return all(
        span.start == low and span.stop == low + length for span, low, length in zip(spans, start, size, strict=True)
    )


def _from(spans: Sequence[slice], origin: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(span.start - low, span.stop - low) for span, low in zip(spans, origin, strict=True))
