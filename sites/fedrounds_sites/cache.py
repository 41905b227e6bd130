"""Prepared cases on disk, mapped into memory: prepared once, shared by processes, read in pages as needed.

One file a case: a line that says what follows and its checksum, then the image as `packed` keeps it and the labels as
they lie in memory. A file that is not whole is as good as none: it is made again. Only the account that made them may
open folder and files: they hold patients' images.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import math
import mmap
import os
import re
import struct
import time
import weakref
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.disk import remove_file, write_whole
from fedrounds_common.packed import Packed, PackedChannel, PackedLabels, pack, pack_labels
from fedrounds_common.sampling import content_box
from fedrounds_sites.prepare import VERSION

FORMAT = 5
SUFFIX = ".case"
LABEL_MAPS = ("voxels", "moving")  # of a target
STALE_S = 3600.0  # a half-written file older than this is nobody's any more
_MAGIC = b"fr-case\n"
_LEAD = struct.Struct("<8sII")  # magic, bytes of the header, CRC-32 of the header
_ALIGN = 64
_HEADER = 1024  # bytes, about
_NAME = re.compile(rf"\.?[0-9a-f]{{40}}{re.escape(SUFFIX)}")
_NO_MAP = ctypes.c_void_p(-1).value


def case_key(*parts: object) -> str:
    """One digest over everything a prepared case depends on, and the version of `prepare`.

    Args:
        parts: strings, numbers, None, paths, frozen dataclasses, mappings and sequences of these:
            reader, `reader.stamp(ref, form)`, ref, form, unlike, site, seed.
    """
    text = json.dumps([VERSION, FORMAT, *map(_plain, parts)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _plain(part: object) -> Any:
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if isinstance(part, Path):
        return str(part)
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {field.name: _plain(getattr(part, field.name)) for field in dataclasses.fields(part)}
        return {"": f"{type(part).__module__}.{type(part).__qualname__}"} | fields
    if isinstance(part, Mapping):
        return {f"{type(name).__name__}:{name}": _plain(value) for name, value in part.items()}
    if isinstance(part, Sequence):
        return [_plain(value) for value in part]
    # repr could hold an address, and then nothing would ever be found again
    raise TypeError(f"{type(part).__name__} cannot be part of a key")


def stored_bytes(case: Case) -> int:
    """What a prepared case takes on disk, and in memory when all of it is used; its header is reckoned."""
    known = {} if case.target is None else _known(case.target)
    return _HEADER + sum(_aligned(array.nbytes) for array in _arrays(_packed(case), known))


@final
@dataclass(frozen=True)
class CaseStore:
    """Prepared cases in one folder, by key; safe for several processes.

    A stored case's arrays are read-only and C-contiguous. They hold no open file, so a process may
    keep thousands.
    """

    folder: Path

    def get(self, key: str, *, checked: bool = False) -> Case | None:
        """The case that was put under `key`, or None: never put, not whole, or of another format.

        Args:
            checked: read all of it and hold it against its checksum, as befits a file of long ago.
        """
        file = self._file(key)
        try:
            found = _opened(file, checked=checked)
        except FileNotFoundError:
            return None
        return None if found is None or found[0].get("key") != key else _case(*found)

    def put(self, key: str, case: Case) -> None:
        """Keep a case, whole or not at all.

        Raises:
            OSError: the disk is full or may not be written; nothing is left behind.
        """
        write_whole(self._file(key), *_parts(key, case), private=True)

    def refs(self) -> Iterator[tuple[Path, CaseRef | None]]:
        """Each file, and whose it is; None: it cannot be read as a case."""
        for file in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                header = _header_of(file)
            except FileNotFoundError:
                continue  # another process has just deleted it: two runs of one site forget the same patients
            yield file, None if header is None else CaseRef(*header["ref"])

    @property
    def bytes(self) -> int:
        """What all files here take."""
        return sum(file.stat().st_size for file in self.folder.glob(f"*{SUFFIX}"))

    def damaged(self) -> tuple[Path, ...]:
        """Every file that is not what was written, all of it read and held against its checksum."""
        return tuple(file for file, _ in self.refs() if _opened(file, checked=True) is None)

    def forget(self, meant: Collection[str] | Callable[[Collection[CaseRef]], Collection[str]]) -> int:
        """Delete every case of some patients, and what cannot be read as a case; returns how many files went.

        Args:
            meant: the patients, or a function from the cases that are here to them.
        """
        found = list(self.refs())
        patients = meant([ref for _, ref in found if ref is not None]) if callable(meant) else meant
        gone = [file for file, ref in found if ref is None or ref.patient in patients]
        for file in gone:
            remove_file(file)
        return len(gone)

    def clear(self) -> int:
        """Delete every case, and what a crash left of one; returns how many files went. No file of another's name goes."""
        found = (*self.folder.glob(f"*{SUFFIX}"), *self.folder.glob(f".*{SUFFIX}.*.part"))
        gone = [file for file in found if _NAME.match(file.name)]
        for file in gone:
            remove_file(file)
        return len(gone)

    def sweep(self) -> None:
        """Delete what crashes left half written."""
        for part in self.folder.glob(f".*{SUFFIX}.*.part"):
            with suppress(FileNotFoundError):  # its process may have just finished it
                if time.time() - part.stat().st_mtime > STALE_S:
                    remove_file(part)

    def _file(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:40]}{SUFFIX}"


def _parts(key: str, case: Case) -> list[bytes | memoryview]:
    """A case's file, in pieces."""
    packed, known = _packed(case), {} if case.target is None else _known(case.target)
    content: list[bytes | memoryview] = []
    for array in _arrays(packed, known):
        # of no byte there is no view
        content += [array.data.cast("B") if array.size else b"", b"\0" * (-array.nbytes % _ALIGN)]
    checksum = 0
    for part in content:
        checksum = zlib.crc32(part, checksum)
    header = {
        "format": FORMAT,
        "key": key,
        "ref": [case.ref.name, case.ref.patient, case.ref.site],
        "grid": list(packed.grid),
        "box": [[span.start, span.stop] for span in packed.box],
        "channels": [channel.as_table() for channel in packed.channels],
        "affine": np.asarray(case.affine, np.float64).ravel().tolist(),
        "target": None if case.target is None else {name: _told(part) for name, part in known.items()},
        "checksum": checksum,
    }
    text = json.dumps(header, sort_keys=True).encode()
    lead = _LEAD.pack(_MAGIC, len(text), zlib.crc32(text)) + text
    return [lead.ljust(_aligned(len(lead)), b"\0"), *content]


def _packed(case: Case) -> Packed:
    if case.packed is not None:
        return case.packed
    image = np.ascontiguousarray(case.image, np.float32)
    return pack(image, content_box(image))


def _arrays(packed: Packed, known: Mapping[str, NDArray[Any] | PackedLabels]) -> list[NDArray[Any]]:
    """In the order of the file, as `_layout` tells it."""
    levels = [channel.levels for channel in packed.channels if channel.levels is not None]
    return [*(channel.codes for channel in packed.channels), *levels, *map(_codes, known.values())]


def _header_of(file: Path) -> dict[str, Any] | None:
    with file.open("rb") as stream:
        return _header(stream.read(_LEAD.size), stream.read)


def _opened(file: Path, *, checked: bool) -> tuple[dict[str, Any], memoryview, int] | None:
    """A file's header, its bytes and where its arrays begin; None: it is not whole. Raises FileNotFoundError."""
    with file.open("rb") as stream:
        header = _header(stream.read(_LEAD.size), stream.read)
        if header is None:
            return None
        start = _aligned(stream.tell())
        size = start + sum(_aligned(_bytes(*entry)) for entry in _layout(header))
        if os.fstat(stream.fileno()).st_size != size:
            return None
        content = _mapped(stream.fileno(), size)
    if checked and zlib.crc32(content[start:]) != header["checksum"]:
        return None
    return header, content, start


def _header(lead: bytes, read: Any) -> dict[str, Any] | None:
    if len(lead) < _LEAD.size:
        return None
    magic, length, checksum = _LEAD.unpack(lead)
    if magic != _MAGIC or length > 2**20:
        return None
    text = read(length)
    if zlib.crc32(text) != checksum:
        return None
    header: dict[str, Any] = json.loads(text)
    return header if header["format"] == FORMAT else None


def _layout(header: Mapping[str, Any]) -> list[tuple[str, Sequence[int]]]:
    """Type and shape of each array, in the order of the file: each channel's codes, the levels of some, what is known."""
    inside = [stop - start for start, stop in header["box"]]
    image: list[tuple[str, Sequence[int]]] = [(channel["dtype"], inside) for channel in header["channels"]]
    image += [("<f4", (channel["levels"],)) for channel in header["channels"] if channel["levels"]]
    return [*image, *((part["dtype"], part["shape"]) for part in (header["target"] or {}).values())]


def _bytes(dtype: str, shape: Sequence[int]) -> int:
    return np.dtype(dtype).itemsize * math.prod(shape)


def _known(target: Target) -> dict[str, NDArray[Any] | PackedLabels]:
    """What there is of a target, by name, each in one piece; in the names' order, which is that of the header.

    Label maps by what holds labels in them: most of a tumour's is background.
    """
    known: dict[str, NDArray[Any] | PackedLabels] = {}
    for name in sorted(entry.name for entry in dataclasses.fields(target)):
        if name in target.packed:
            known[name] = target.packed[name]
            continue
        array = getattr(target, name)
        if array is not None and array.size:
            known[name] = pack_labels(array) if name in LABEL_MAPS else np.ascontiguousarray(array)
    return known


def _codes(known: NDArray[Any] | PackedLabels) -> NDArray[Any]:
    return known.codes if isinstance(known, PackedLabels) else known


def _told(known: NDArray[Any] | PackedLabels) -> dict[str, Any]:
    """Of one part of a target, as the header says it."""
    codes = _codes(known)
    told: dict[str, Any] = {"dtype": codes.dtype.str, "shape": list(codes.shape)}
    if isinstance(known, PackedLabels):
        told |= {"grid": list(known.grid), "box": [[span.start, span.stop] for span in known.box]}
    return told


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN


def _case(header: Mapping[str, Any], content: memoryview, start: int) -> Case:
    arrays: list[NDArray[Any]] = []
    for dtype, shape in _layout(header):
        arrays.append(np.frombuffer(content, np.dtype(dtype), math.prod(shape), start).reshape(shape))
        start += _aligned(_bytes(dtype, shape))
    there = iter(arrays)
    codes = [next(there) for _ in header["channels"]]
    channels = tuple(
        PackedChannel(own, table["outside"], table["step"], next(there) if table["levels"] else None)
        for table, own in zip(header["channels"], codes, strict=True)
    )
    box = tuple(slice(low, high) for low, high in header["box"])
    packed = Packed(tuple(header["grid"]), box, channels)
    target = None if header["target"] is None else _target(header["target"], there)
    affine = np.array(header["affine"], np.float64).reshape(4, 4)
    return Case.kept(CaseRef(*header["ref"]), packed, target, affine)


def _target(told: Mapping[str, Any], arrays: Iterator[NDArray[Any]]) -> Target:
    known, packed = dict[str, NDArray[Any]](), dict[str, PackedLabels]()
    for (name, part), array in zip(told.items(), arrays, strict=True):
        if "box" in part:
            packed[name] = PackedLabels(tuple(part["grid"]), tuple(slice(*span) for span in part["box"]), array)
        else:
            known[name] = array
    return Target.kept(packed, **known)


def _mapped(handle: int, size: int) -> memoryview:
    """The file's bytes, read-only; unmapped when the last array on them goes.

    Not Python's own mmap: before 3.13 that keeps a file handle a map, and a process may have about
    1,000 of those where a federation has 6,000 cases.
    """
    address = _libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE, handle, 0)
    if address in (None, _NO_MAP):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    content = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(content, _libc().munmap, address, size)
    return memoryview(content).cast("B").toreadonly()


def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    ]  # fmt: skip
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library
