"""What a dishonest hospital runs: its own fedrounds, changed. Python reads this file where PYTHONPATH names its folder.

In each round another lie, signed with the site's own key where that helps it: `LIES`. The honest work is done
first, so that every lie is as near to the truth as it can be.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

Signed = tuple[str, bytes, bytes]  # header, buffer, signature
MARK = "announce-only"  # a file in the site's folder: the next answer is announced and not uploaded


class Liar:
    """One answer that was honest; every method makes another lie of it."""

    def __init__(self, honest: Signed, home: Path) -> None:
        from fedrounds_common.signing import SigningKey

        self.header, self.buffer, self.signature = honest
        self.home, self.key = home, SigningKey.load(home / "keys" / "signing.key")

    def signed(self, header: str, buffer: bytes) -> Signed:
        from fedrounds_common.leaving import signed_bytes

        return header, buffer, self.key.sign(signed_bytes(header, buffer))

    def with_fields(self, **fields: Any) -> str:
        return json.dumps({**json.loads(self.header), **fields}, sort_keys=True)

    def with_arrays(self, change: Callable[[str, Any], Any]) -> Signed:
        """`change` of every tensor by name, signed."""
        from dataclasses import replace

        from fedrounds_common.leaving import from_wire, to_wire

        update = from_wire(self.header, self.buffer)
        return self.signed(*to_wire(replace(update, arrays={k: change(k, a) for k, a in update.arrays.items()})))

    def unsigned(self) -> Signed:
        (self.home / "kept").write_bytes(pickle.dumps((self.header, self.buffer, self.signature)))  # for `replayed`
        return self.header, self.buffer, b""

    def one_bit(self) -> Signed:
        return self.header, bytes([self.buffer[0] ^ 1]) + self.buffer[1:], self.signature

    def replayed(self) -> Signed:
        return pickle.loads((self.home / "kept").read_bytes())

    def as_another(self) -> Signed:
        return self.signed(self.with_fields(site="s1"), self.buffer)

    def other_shape(self) -> Signed:
        return self.with_arrays(lambda name, array: array.reshape(-1))

    def other_dtype(self) -> Signed:
        return self.with_arrays(lambda name, array: array.astype("float64"))

    def not_finite(self) -> Signed:
        return self.with_arrays(lambda name, array: array * float("nan"))

    def thousandfold(self) -> Signed:
        return self.with_arrays(lambda name, array: array * 1000)

    def more_cases(self) -> Signed:
        return self.signed(self.with_fields(cases=3000), self.buffer)

    def ten_gigabytes(self) -> Signed:
        return self.signed(self.with_fields(arrays=[["w", "float32", [2_500_000_000]]]), self.buffer)

    def objects(self) -> Signed:
        return self.signed(self.with_fields(arrays=[["w", "|O", [1]]]), pickle.dumps(object()))

    def announced(self) -> Signed:
        (self.home / MARK).touch()
        return self.header, self.buffer, self.signature


LIES: Sequence[Callable[[Liar], Signed]] = (
    Liar.unsigned, Liar.one_bit, Liar.replayed, Liar.as_another, Liar.other_shape, Liar.other_dtype, Liar.not_finite,
    Liar.thousandfold, Liar.more_cases, Liar.ten_gigabytes, Liar.objects, Liar.announced,
)  # fmt: skip


def lie_in_every_round(apart: ModuleType) -> None:
    honest = apart.answer_apart

    def answer(header: str, buffer: bytes, signature: bytes, home: Path) -> Signed:
        said: Signed = honest(header, buffer, signature, home)
        asked = json.loads(header)
        if asked["kind"] != "train" or json.loads(said[0])["type"] != "update":
            return said
        return LIES[asked["round"] - 1](Liar(said, home))

    apart.answer_apart = answer


def announce_only(supernode: ModuleType) -> None:
    upload = supernode.push_object_contents_from_iterable

    def push(*args: Any, **named: Any) -> Any:
        mark = Path(sys.argv[1]) / MARK
        if mark.exists():
            mark.unlink()
            return None
        return upload(*args, **named)

    supernode.push_object_contents_from_iterable = push


CHANGES: dict[str, Callable[[ModuleType], None]] = {
    "fedrounds_client.apart": lie_in_every_round,
    "flwr.supernode.start_client_internal": announce_only,
}


class Changed(importlib.abc.MetaPathFinder):
    """Finds modules as Python does, and changes those of `CHANGES` once they are read."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname not in CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.loader is not None
        loader: Any = spec.loader
        read = loader.exec_module

        def read_changed(module: ModuleType) -> None:
            read(module)
            CHANGES[fullname](module)

        loader.exec_module = read_changed
        return spec


sys.meta_path.insert(0, Changed())
