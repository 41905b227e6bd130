"""Prepared cases on disk, mapped into memory: prepared once, shared by processes, read in pages as needed.

One file a case: a line that says what follows and its checksum, then image and labels as they lie in
memory. A file that is not whole is as good as none: it is made again.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import math
import mmap
import os
import struct
import weakref
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.disk import write_whole
from fedrounds_sites.prepare import VERSION

FORMAT = 3
_MAGIC = b"fr-case\n"
_LEAD = struct.Struct("<8sII")  # magic, bytes of the header, CRC-32 of the header
_ALIGN = 64
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


def estimate_bytes(channels: int, grid: Sequence[int], *, labelled: bool = True) -> int:
    """What one prepared case takes on disk, and in memory when all of it is used."""
    return math.prod(grid) * (4 * channels + labelled) + 4096


@final
@dataclass(frozen=True)
class CaseStore:
    """Prepared cases in one folder, by key; safe for several processes.

    A stored case's arrays are read-only and C-contiguous. They hold no open file, so a process may
    keep thousands.
    """

    folder: Path

    def get(self, key: str) -> Case | None:
        """The case that was put under `key`, or None: never put, not whole, or of another format."""
        file = self._file(key)
        try:
            with file.open("rb") as stream:
                header = _header(stream.read(_LEAD.size), stream.read)
                if header is None or header.get("key") != key:
                    return None
                start = _aligned(stream.tell())
                if os.fstat(stream.fileno()).st_size != start + _content_bytes(header):
                    return None
                return _case(header, _mapped(stream.fileno(), start + _content_bytes(header)), start)
        except FileNotFoundError:
            return None

    def put(self, key: str, case: Case) -> None:
        """Keep a case, whole or not at all.

        Raises:
            OSError: the disk is full or may not be written; nothing is left behind.
        """
        image = np.ascontiguousarray(case.image, np.float32)
        known = {} if case.target is None else _known(case.target)
        header = {
            "format": FORMAT,
            "key": key,
            "ref": [case.ref.name, case.ref.patient, case.ref.site],
            "shape": list(image.shape),
            "affine": np.asarray(case.affine, np.float64).ravel().tolist(),
            "target": None
            if case.target is None
            else {name: [array.dtype.str, list(array.shape)] for name, array in known.items()},
        }
        text = json.dumps(header, sort_keys=True).encode()
        lead = _LEAD.pack(_MAGIC, len(text), zlib.crc32(text)) + text
        parts: list[bytes | memoryview] = [lead.ljust(_aligned(len(lead)), b"\0"), image.data.cast("B")]
        for array in known.values():
            parts += [b"\0" * -(sum(map(len, parts)) % -_ALIGN), array.data.cast("B")]
        write_whole(self._file(key), *parts)

    def forget(self, patients: Collection[str]) -> int:
        """Delete every case of these patients, and what cannot be read as a case; returns how many files went."""
        gone = 0
        for file in sorted(self.folder.glob("*.case")):
            with file.open("rb") as stream:
                header = _header(stream.read(_LEAD.size), stream.read)
            if header is None or header["ref"][1] in patients:
                file.unlink(missing_ok=True)
                gone += 1
        return gone

    def _file(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:40]}.case"


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


def _content_bytes(header: Mapping[str, Any]) -> int:
    size = 4 * int(math.prod(header["shape"]))
    for dtype, shape in (header["target"] or {}).values():
        size = _aligned(size) + np.dtype(dtype).itemsize * math.prod(shape)
    return size


def _known(target: Target) -> dict[str, NDArray[Any]]:
    """What there is of a target, by name, each in one piece; in the names' order, which is that of the header."""
    names = sorted(entry.name for entry in dataclasses.fields(target))
    found = {name: getattr(target, name) for name in names}
    return {name: np.ascontiguousarray(array) for name, array in found.items() if array is not None and array.size}


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN


def _case(header: Mapping[str, Any], content: memoryview, start: int) -> Case:
    shape = tuple(header["shape"])
    name, patient, site = header["ref"]
    image = np.frombuffer(content, np.float32, math.prod(shape), start).reshape(shape)
    known: dict[str, Any] = {}
    end = start + image.nbytes
    for part, (dtype, extent) in (header["target"] or {}).items():
        end = _aligned(end)
        known[part] = np.frombuffer(content, np.dtype(dtype), math.prod(extent), end).reshape(extent)
        end += known[part].nbytes
    target = None if header["target"] is None else Target(**known)
    affine = np.array(header["affine"], np.float64).reshape(4, 4)
    return Case(CaseRef(name, patient, site), image, target, affine)


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
