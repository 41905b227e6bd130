"""Arrays end to end in one buffer, as every message carries them: a pass over a model is a pass over a buffer.

A network has dozens of tensors, most of them small. Hashing, checking or adding a model tensor by tensor costs a
call each; over the stretches of one dtype that lie side by side it costs a few calls for all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview
Entry = tuple[str, str, tuple[int, ...]]  # name, dtype, shape

MOST_AXES = 32
# of a dtype, as NumPy writes it; anything else NumPy would parse, and "," or "(2," is a SyntaxError to it
_KIND = re.compile(r"[<>|=]?[A-Za-z?][0-9]{0,9}")
MOST_ENTRIES = 2**48  # of one array; with more, NumPy's own sums of sizes could overflow


@final
@dataclass(frozen=True)
class Place:
    """Where one array lies: `start` in bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    count: int


@final
@dataclass(frozen=True)
class Run:
    """Neighbouring arrays of one dtype: `count` entries from byte `start` on, the first being the model's `first`."""

    dtype: np.dtype[Any]
    start: int
    count: int
    first: int

    @property
    def is_float(self) -> bool:
        return self.dtype.kind == "f"


@final
@dataclass(frozen=True)
class Layout:
    """How arrays lie in a buffer of `size` bytes. `places`: by name, in order; `firsts`: entries before each."""

    entries: tuple[Entry, ...]
    places: Mapping[str, Place]
    firsts: Mapping[str, int]
    runs: tuple[Run, ...]
    size: int
    count: int


@lru_cache(maxsize=16)
def layout_of(entries: tuple[Entry, ...]) -> Layout:
    """The layout of arrays of these names, dtypes and shapes.

    Raises:
        ValueError, TypeError: a dtype or shape that no array of ours has, or one name twice.
    """
    places, firsts, runs = dict[str, Place](), dict[str, int](), list[Run]()
    start = first = 0
    for name, kind, shape in entries:
        if not _KIND.fullmatch(kind):
            raise ValueError("a dtype no array of ours has")
        dtype = np.dtype(kind)
        if dtype.hasobject or dtype.subdtype is not None or not dtype.itemsize:
            raise ValueError("a dtype no array of ours has")
        if len(shape) > MOST_AXES or min(shape, default=0) < 0 or math.prod(n or 1 for n in shape) > MOST_ENTRIES:
            raise ValueError("a shape no array of ours has")
        if name in places:
            raise ValueError("one name twice")
        count = math.prod(shape)
        places[name], firsts[name] = Place(dtype, tuple(shape), start, count), first
        if runs and runs[-1].dtype == dtype:
            runs[-1] = Run(dtype, runs[-1].start, runs[-1].count + count, runs[-1].first)
        elif count:
            runs.append(Run(dtype, start, count, first))
        start, first = start + count * dtype.itemsize, first + count
    return Layout(entries, places, firsts, tuple(runs), start, first)


@final
@dataclass(frozen=True, eq=False)
class Flat(Mapping[str, Array]):
    """Named arrays that are views of one buffer, made when they are asked for. Read-only where the buffer is."""

    buffer: Buffer
    layout: Layout
    _made: dict[str, Array] = field(default_factory=dict, repr=False)
    _known: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if len(self.buffer) != self.layout.size:
            raise ValueError(f"{len(self.buffer)} bytes, where the manifest describes {self.layout.size}")

    def __getitem__(self, name: str) -> Array:
        if name not in self._made:
            place = self.layout.places[name]
            self._made[name] = np.ndarray(place.shape, place.dtype, self.buffer, place.start)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.places)

    def __len__(self) -> int:
        return len(self.layout.places)

    def once(self, what: str, work: Callable[[], str]) -> str:
        """What was worked out of all the bytes before, or what `work` does now."""
        if what not in self._known:
            self._known[what] = work()
        return self._known[what]

    def read(self, run: Run, start: int = 0, count: int | None = None) -> Array:
        """`count` entries of a run from its entry `start` on; all the others by default. Nothing is copied."""
        count = run.count - start if count is None else count
        return np.ndarray(count, run.dtype, self.buffer, run.start + start * run.dtype.itemsize)
