"""Our messages inside Flower's: one record of text and one flat buffer. No other file builds Flower records."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedrounds_common.errors import UpdateError
from fedrounds_common.leaving import Ask, Leaving, from_wire, to_wire
from fedrounds_common.spans import timed

TEXT, BUFFER, SIGNATURE = "fedrounds", "arrays", "signature"


def to_record(message: Ask | Leaving) -> RecordDict:
    return record_of(*to_wire(message))


@timed("serialise")
def record_of(header: str, buffer: bytes, signature: bytes = b"") -> RecordDict:
    """One message as Flower carries it; in a simulation nobody signs."""
    texts: dict[str, str | bytes] = {"header": header}
    if signature:
        texts[SIGNATURE] = signature
    array = Array(dtype="uint8", shape=(len(buffer),), stype="fedrounds.flat", data=buffer)
    return RecordDict({TEXT: ConfigRecord(dict(texts)), BUFFER: ArrayRecord({"flat": array})})


@timed("serialise")
def parts_of(record: RecordDict) -> tuple[str, bytes]:
    """Header and buffer of a record made by `record_of`.

    Raises:
        UpdateError: the record holds something else.
    """
    texts, arrays = record.get(TEXT), record.get(BUFFER)
    if not isinstance(texts, ConfigRecord) or not isinstance(arrays, ArrayRecord):
        raise UpdateError("FR-R10", "a record without our two entries", wanted="a message of leaving.py")
    header, flat = texts.get("header"), arrays.get("flat")
    if not isinstance(header, str) or flat is None or not isinstance(flat.data, bytes):
        raise UpdateError("FR-R10", "a record of other types", wanted="text and bytes")
    return header, flat.data


def signature_of(record: RecordDict) -> bytes:
    """The signature of a message, over `leaving.signed_bytes`; empty if it has none."""
    texts = record.get(TEXT)
    found = texts.get(SIGNATURE, b"") if isinstance(texts, ConfigRecord) else b""
    return found if isinstance(found, bytes) else b""


def from_record(record: RecordDict) -> Ask | Leaving:
    return from_wire(*parts_of(record))
