"""Safetensors files written from the arrays where they lie: the format's own library copies every tensor twice first.

Format: https://huggingface.co/docs/safetensors: the header's length (8 bytes, little-endian), the header as JSON, and
the tensors end to end, the widest numbers first and then by name, as the library orders them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import numpy as np

from fedrounds_common.arrays import Arrays, bytes_of
from fedrounds_common.disk import Data

# in the order in which tensors of each stand in a file
_KINDS = {
    "u8": "U64", "i8": "I64", "f8": "F64", "f4": "F32", "u4": "U32", "i4": "I32", "f2": "F16", "u2": "U16", "i2": "I16",
    "i1": "I8", "u1": "U8", "b1": "BOOL",
}  # fmt: skip
_RANKS = {kind: rank for rank, kind in enumerate(_KINDS)}
_LENGTH = struct.Struct("<Q")


def file_parts(arrays: Arrays, metadata: Mapping[str, str]) -> list[Data]:
    """The parts of such a file, one after the other; nothing is copied of arrays in C order.

    Raises:
        ValueError: a dtype that the format has not.
    """
    for name, array in arrays.items():
        if array.dtype.str[1:] not in _KINDS or array.dtype.byteorder == ">":
            raise ValueError(f"{name} is {array.dtype}, which safetensors has not")
    ordered = sorted(arrays, key=lambda name: (_RANKS[arrays[name].dtype.str[1:]], name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name in ordered:
        array, end = arrays[name], start + arrays[name].nbytes
        header[name] = {"dtype": _KINDS[array.dtype.str[1:]], "shape": list(array.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [_LENGTH.pack(len(text)) + text, *(bytes_of(np.asarray(arrays[name])) for name in ordered)]
