"""Everything that can leave a hospital, in one file.

    Leaving = Hello | Update | Scores | Statistics | Share | Refusal

A site sends one of these six in answer to an `Ask`, and nothing else: no image, no label, no score
of a single case, no file name, no error text. Each turns into scalars plus one flat buffer, so that
what is on the wire can be listed, measured and written down (`fedrounds_client.ledger`).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, final

import numpy as np

from fedrounds_common.arrays import Arrays, buffers, manifest, norm, pack, unpack
from fedrounds_common.case import F64
from fedrounds_common.errors import CODE, UpdateError
from fedrounds_common.flat import Buffer, Entry, layout_of
from fedrounds_common.spans import timed

FORMAT = 1
SIGNED_AS = b"fedrounds-message-1\0"  # so that nothing else these keys sign can be taken for a message
MAX_CASES = 10_000_000
MAX_NORM = 1e4  # an update of a healthy round moves weights by a few units; a thousandfold is a fault or an attack
Kind = Literal["hello", "train", "score", "statistics", "mask"]
Scalars = dict[str, Any]


@final
@dataclass(frozen=True)
class Ask:
    """What the coordinator asks of one site. `study` is the agreed half's canonical text.

    `purpose`: which of the task's sums are wanted, where statistics are, or which step of a secure sum. `form`: how `arrays` travel
    (`downwards.py`); `base`: digest of what they are a difference from; `holds`: of what the site then holds.
    """

    kind: Kind
    run: str
    round: int
    nonce: str
    study: str
    digest: str
    model: str = "consensus"
    trained_at: str = "all"
    cohort: str = ""
    arrays: Arrays = field(default_factory=dict)
    shared: Arrays = field(default_factory=dict)
    purpose: str = ""
    form: str = ""
    base: str = ""
    holds: str = ""


@final
@dataclass(frozen=True)
class Hello:
    """A site's name and how many cases it would bring; `left_out` counts bad cases by error code.

    `holds`: digest of the consensus that it was sent last, where the study sends differences from that.
    """

    site: str
    versions: Mapping[str, str]
    training_cases: int
    validation_cases: int
    held_out_cases: int
    steps: int
    left_out: Mapping[str, int]
    run: str = ""
    nonce: str = ""
    study: str = ""
    holds: str = ""
    kind: ClassVar[str] = "hello"


@final
@dataclass(frozen=True)
class Update:
    """The *difference* from the consensus exactly as this site received it, and what stands behind it.

    `below`: where hospitals are hidden by a clip that follows them, half a count of whether this one is below it.
    """

    site: str
    run: str
    round: int
    nonce: str
    study: str
    cases: int
    steps: int
    loss: float
    seconds: float
    codec: str
    arrays: Arrays
    below: float = 0.0
    kind: ClassVar[str] = "update"


@final
@dataclass(frozen=True)
class Scores:
    """Sums over a site's cases of one cohort, as `Task.tally` made them; never the score of one case."""

    site: str
    run: str
    round: int
    nonce: str
    model: str
    cohort: str
    cases: int
    tally: Mapping[str, F64]
    study: str = ""
    kind: ClassVar[str] = "scores"


@final
@dataclass(frozen=True)
class Statistics:
    """Sums over the cases a site trains on, or validates on, as `Task.gather` made them for one purpose."""

    site: str
    run: str
    round: int
    nonce: str
    study: str
    purpose: str
    cases: int
    tally: Mapping[str, F64]
    kind: ClassVar[str] = "statistics"


@final
@dataclass(frozen=True)
class Share:
    """One step of a secure sum, in place of an update: keys, sealed shares, numbers under masks, a signature, shares.

    `cases`, `steps`, `seconds`: as an update has them. `arrays`: bytes by name, see `masking/site.py`.
    """

    site: str
    run: str
    round: int
    nonce: str
    study: str
    phase: str
    cases: int
    steps: int
    seconds: float
    arrays: Arrays
    kind: ClassVar[str] = "share"


@final
@dataclass(frozen=True)
class Refusal:
    """The site could not or would not: a code of `fedrounds explain`, and where its own log tells more."""

    site: str
    run: str
    round: int
    nonce: str
    code: str
    reference: str
    refused: bool = False
    kind: ClassVar[str] = "refusal"


Leaving = Hello | Update | Scores | Statistics | Share | Refusal
_KINDS: dict[str, type[Any]] = {kind.kind: kind for kind in (Hello, Update, Scores, Statistics, Share, Refusal)}
_ARRAY_FIELDS = {"arrays", "shared", "tally"}
# by annotation: what a scalar may be once it has come as JSON
_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,), "Kind": (str,), "int": (int,), "float": (int, float), "bool": (bool,),
}  # fmt: skip
_MAPPINGS = {"Mapping[str, str]": "str", "Mapping[str, int]": "int"}
# by field: these become file names, or stand in the history of a run
_TEXTS = {
    "kind": re.compile(r"hello|train|score|statistics|mask"),
    "phase": re.compile(r"keys|shares|masked|agree|unmask"),
    "purpose": re.compile(r"|[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"),
    "site": re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"),
    "run": re.compile(r"|[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"),
    "nonce": re.compile(r"[\w.-]{0,64}"),
    "form": re.compile(r"|whole|difference|opening|half|held"),
    "base": re.compile(r"|[0-9a-f]{64}"),
    "holds": re.compile(r"|[0-9a-f]{64}"),
    "code": CODE,
    "reference": re.compile(r"\w{0,64}"),
}


@timed("serialise")
def to_wire(message: Ask | Leaving) -> tuple[str, bytes]:
    """Scalars as JSON (with the manifests), and all arrays end to end in one buffer: copied once, or not at all."""
    scalars: Scalars = {"format": FORMAT, "type": "ask" if isinstance(message, Ask) else message.kind}
    parts: list[Arrays] = []
    for entry in fields(message):
        value = getattr(message, entry.name)
        if entry.name in _ARRAY_FIELDS:
            scalars[entry.name] = manifest(value)
            parts += [value] if value else []
        else:
            scalars[entry.name] = _scalar(value)
    whole = pack(parts[0]) if len(parts) == 1 else b"".join(each for part in parts for each in buffers(part))
    return json.dumps(scalars, sort_keys=True), whole


@timed("serialise")
def from_wire(header: str, buffer: Buffer) -> Ask | Leaving:
    """The inverse of `to_wire`; arrays are read-only views of `buffer`.

    Raises:
        UpdateError: anything about the message is not as it must be; nothing in it was used.
    """
    try:
        scalars = json.loads(header)
        if scalars.pop("format") != FORMAT:
            raise ValueError("another format of messages")
        name = scalars.pop("type")
        kind: type[Any] = Ask if name == "ask" else _KINDS[name]
        values = {entry.name: scalars[entry.name] for entry in fields(kind)}
        odd = [entry.name for entry in fields(kind) if not _fits(entry.name, values[entry.name], str(entry.type))]
        if odd:
            raise ValueError(f"{odd[0]} of another type")
        return kind(**_with_arrays(values, buffer))  # type: ignore[no-any-return]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise UpdateError(
            "FR-R10", f"a message that cannot be read ({type(error).__name__})", wanted="one of leaving.py"
        ) from error


def signed_bytes(header: str, buffer: Buffer) -> bytes:
    """What a signature of a message is made over: the header names run, round, nonce, study and sender."""
    return SIGNED_AS + hashlib.sha256(header.encode()).digest() + hashlib.sha256(buffer).digest()


def _fits(name: str, value: object, wanted: str) -> bool:
    """Whether a value is what its field says: of that type, no count below 0, no name that is a path."""
    if wanted in _MAPPINGS:
        return isinstance(value, dict) and all(_fits("", each, _MAPPINGS[wanted]) for each in value.values())
    if wanted not in _PLAIN:
        return True  # arrays, which are read by themselves
    if not isinstance(value, _PLAIN[wanted]) or (isinstance(value, bool) and wanted != "bool"):
        return False
    if isinstance(value, str):
        return name not in _TEXTS or _TEXTS[name].fullmatch(value) is not None
    return wanted != "int" or not isinstance(value, int) or value >= 0


def _with_arrays(values: Scalars, buffer: Buffer) -> Scalars:
    entries = {name: _entries(values[name]) for name in values if name in _ARRAY_FIELDS}
    sizes = {name: layout_of(found).size for name, found in entries.items()}
    if sum(sizes.values()) != len(buffer):
        raise ValueError(f"{len(buffer)} bytes, where the manifests describe {sum(sizes.values())}")
    split, start = {}, 0
    for name, found in entries.items():
        whole = sizes[name] == len(buffer)  # the bytes themselves, which can be sent on as they are
        split[name] = unpack(buffer if whole else memoryview(buffer)[start : start + sizes[name]], found)
        start += sizes[name]
    return {**values, **split}


def _entries(said: Any) -> tuple[Entry, ...]:
    return tuple((str(key), str(dtype), tuple(int(n) for n in shape)) for key, dtype, shape in said)


def check_update(update: Update, model: Arrays, max_norm: float) -> float:
    """Refuse an update that must not be averaged. Runs at the site before it leaves, and again at the coordinator.

    Args:
        model: the consensus it is a difference from: names, shapes and dtypes must be the same.
        max_norm: the largest L2 norm over all float entries that is believed.

    Returns:
        That norm.

    Raises:
        UpdateError: with the first reason found; the message names tensors, never a case.
    """
    if manifest(update.arrays) != manifest(model):
        raise UpdateError("FR-R11", _manifest_difference(update.arrays, model), wanted="the model's own tensors")
    size = norm(update.arrays)
    if not math.isfinite(size):  # only now is it worth a look which of them it is
        _check_finite(update.arrays)
    if size > max_norm:
        raise UpdateError("FR-R13", f"the update's norm is {size:.4g}", wanted=f"at most {max_norm:.4g}")
    if isinstance(update.cases, bool) or not isinstance(update.cases, int) or not 1 <= update.cases <= MAX_CASES:
        raise UpdateError("FR-R14", f"cases = {update.cases!r}", wanted="a whole number of 1 or more")
    for name, number in (("loss", update.loss), ("seconds", update.seconds), ("below", update.below)):
        if not isinstance(number, float | int) or not math.isfinite(number):
            raise UpdateError("FR-R15", f"{name} = {number!r}", wanted="a finite number")
    return size


def _check_finite(arrays: Arrays) -> None:
    for name, array in arrays.items():
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise UpdateError("FR-R12", f"{name} has {bad} values that are not finite", wanted="finite numbers")


def check_tally(tally: Mapping[str, F64], like: Mapping[str, F64]) -> None:
    """Refuse sums that cannot be added to other sites'.

    Args:
        like: what the task makes of no case at all: the same names, dtypes and shapes.

    Raises:
        UpdateError: with the first reason found; the message names sums, never a case.
    """
    found, wanted = sorted(manifest(tally)), sorted(manifest(like))
    if found != wanted:
        odd = next((entry for entry in found if entry not in wanted), None) or next(e for e in wanted if e not in found)
        raise UpdateError("FR-R04", f"{odd[0]} {odd[1]} {odd[2]} has no match", wanted="the sums of this study's task")
    for name, array in tally.items():
        if array.dtype != np.float64:
            raise UpdateError(
                "FR-R04", f"{name} is {array.dtype}", wanted="float64, so that sums are the same anywhere"
            )
        if not np.isfinite(array).all():
            raise UpdateError("FR-R04", f"{name} holds numbers that are not finite", wanted="finite sums")


def _manifest_difference(arrays: Arrays, model: Arrays) -> str:
    missing, extra = sorted(set(model) - set(arrays)), sorted(set(arrays) - set(model))
    if missing or extra:
        return f"{len(missing)} tensors missing {missing[:3]}, {len(extra)} unknown {extra[:3]}"
    for name in model:
        if arrays[name].shape != model[name].shape or arrays[name].dtype != model[name].dtype:
            return f"{name} is {arrays[name].dtype} {arrays[name].shape}, not {model[name].dtype} {model[name].shape}"
    return "the tensors come in another order"


def scalars_of(message: Leaving) -> Scalars:
    """The message without its arrays: what a log or a ledger shows of it."""
    names = [entry.name for entry in fields(message) if entry.name not in _ARRAY_FIELDS]
    return {name: _scalar(getattr(message, name)) for name in names}


def _scalar(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
