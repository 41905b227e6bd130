"""SUM: what a secure sum costs one site and the coordinator, beside plain updates.

    python benchmarks/secure_sum.py [--sites 3,10,71,200] [--entries 100000,29135703] [--neighbours 40]

Bytes are of whole messages, header and all, of one round without the consensus, which goes down either way. Seconds are
of the processor, of one site's own work between training and the end of the round; plain: to check and pack the update.
Every site of a round is played, with keys and shares; one of them masks an update of each size. What the coordinator does
is measured once (to add one update, to open all secrets) and counted for all sites; taking off masks costs what putting
them on does, one a site.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from pairs import arguments, machine, machine_in_words, versions

from fedrounds_common.arrays import Arrays, norm, packed
from fedrounds_common.channels.secure_sum import SecureSum
from fedrounds_common.leaving import Ask, Share, Update, to_wire
from fedrounds_common.masking import site as at_site
from fedrounds_common.masking.field import FIRST
from fedrounds_common.masking.masks import add_masks
from fedrounds_common.masking.site import SiteRound
from fedrounds_common.signing import SigningKey
from fedrounds_server.unmasking import Unmasking

T = TypeVar("T")
DIGEST, RUN, NONCE = "a" * 64, "0001-benchmark", "0123456789abcdef"
STUDY = " " * 3000  # of about the length of a study's canonical text, which goes with every request


@dataclass(frozen=True)
class Line:
    """Bytes of a round without the consensus; processor seconds. `neighbours`: with how many a site masks."""

    sites: int
    neighbours: int
    entries: int
    up: int
    down: int
    plain_up: int
    keys_s: float
    masks_s: float
    plain_s: float
    coordinator_s: float

    @property
    def words(self) -> str:
        return (
            f"| {self.sites} | {self.neighbours} | {self.entries:,} | {self.up / 1e6:,.2f} MB | {self.plain_up / 1e6:,.2f} MB | "
            f"{self.down / 1e6:,.3f} MB | {self.keys_s:.3f} s | {self.masks_s:.2f} s | {self.plain_s:.2f} s | "
            f"{self.coordinator_s:.1f} s |"
        )


HEAD = (
    "| sites | masks with | entries | up | up, plain | down, besides | site: keys, shares | site: masks | site: plain | coordinator |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.process_time()
    found = work()
    return found, time.process_time() - started


class Round:
    """A round of so many sites; `s001` is the one that is looked at. `spent`: its seconds besides the masks."""

    def __init__(self, sites: int, neighbours: int) -> None:
        self.channel = SecureSum(neighbours=neighbours, sites=max(sites, 200))
        self.rules, self.session = self.channel.rules(1), at_site.session_of(DIGEST, RUN, 1, NONCE)
        self.names = [f"s{number:03d}" for number in range(1, sites + 1)]
        self.identities = {name: SigningKey.create() for name in self.names}
        self.coordinator = Unmasking(self.rules, self.session, FIRST)
        self.states: dict[str, SiteRound] = {}
        self.spent, self.up, self.down, self.open_s = 0.0, 0, 0, 0.0
        self.first = self.names[0]

    def of(self, name: str, work: Callable[[], T], own: bool = True) -> T:
        """Do what this site does; the first one's time is counted."""
        found, seconds = timed(work)
        self.spent += seconds if own and name == self.first else 0.0
        return found

    def play(self) -> list[tuple[bytes, int]]:
        """All steps, with updates of no entries; the keys of the first site's masks."""
        known = {name: key.public.fingerprint for name, key in self.identities.items()}
        notices: dict[str, bytes] = {}
        for name in self.names:
            self.states[name] = self.of(name, lambda name=name: at_site.begin(name, self.session))
            notices[name] = self.of(name, lambda name=name: at_site.notice_of(self.states[name], self.identities[name]))
            self.coordinator.hear(name, notices[name])
        self.up += said("keys", {"notice": notices[self.first]})
        self.coordinator.close_keys()
        self.down += asked("shares", notices)
        for name in self.names:
            state, sealed = self.of(
                name, lambda name=name: at_site.share(self.states[name], self.rules, notices, notices[name], known)
            )
            self.states[name] = state
            self.coordinator.take_sealed(name, sealed)
            self.up += said("shares", sealed) if name == self.first else 0
        self.down += asked("masked", self.coordinator.sealed_for(self.first))
        keys: list[tuple[bytes, int]] = []
        for name in self.names:
            boxes = self.coordinator.sealed_for(name)
            self.states[name], found = self.of(
                name, lambda name=name, boxes=boxes: at_site.mask_keys(self.states[name], self.rules, boxes)
            )
            keys = keys or found
            numbers = np.zeros(FIRST, np.uint64)
            add_masks(numbers, found)
            self.coordinator.add(name, self.rules.field.packed(numbers))
        self._end()
        return keys

    def _end(self) -> None:
        lists = json.dumps({"shared": self.names, "survivors": self.names}).encode()
        self.down += asked("agree", {"list": lists})
        for name in self.names:
            state, signature = self.of(
                name,
                lambda name=name: at_site.agree(
                    self.states[name], self.rules, self.names, self.names, self.identities[name]
                ),
            )
            self.states[name], self.coordinator.signatures[name] = state, signature
        self.up += said("agree", {"signature": signature})
        self.down += asked("unmask", self.coordinator.signatures)
        for name in self.names:
            _, given = self.of(
                name, lambda name=name: at_site.reveal(self.states[name], self.rules, self.coordinator.signatures)
            )
            self.coordinator.take_given(name, given)
            self.up += said("unmask", given) if name == self.first else 0
        total, self.open_s = timed(self.coordinator.sum)
        assert total[0] == 0, "masks that do not cancel"


def said(phase: str, blobs: Mapping[str, bytes]) -> int:
    """Bytes of one answer."""
    arrays = {name: np.frombuffer(data, np.uint8) for name, data in blobs.items()}
    return length(Share("s001", RUN, 1, NONCE, DIGEST, phase, 100, 100, 1.0, arrays))


def asked(phase: str, blobs: Mapping[str, bytes]) -> int:
    arrays = {name: np.frombuffer(data, np.uint8) for name, data in blobs.items()}
    return length(Ask("mask", RUN, 1, f"{NONCE}.{phase}", STUDY, DIGEST, purpose=phase, arrays=arrays))


def length(message: Ask | Share | Update) -> int:
    header, buffer = to_wire(message)
    return len(header.encode()) + len(buffer)


def line(round_: Round, keys: list[tuple[bytes, int]], entries: int) -> Line:
    field, difference = round_.rules.field, update_of(entries)

    def plain() -> int:
        assert np.isfinite(norm(difference))
        return length(Update("s001", RUN, 1, NONCE, DIGEST, 100, 100, 0.1, 1.0, "float32", difference))

    plain_up, plain_s = timed(plain)

    def masked() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        numbers = field.numbers(difference, 100.0)
        add_masks(numbers, keys)
        return field.packed(numbers)

    sent, masks_s = timed(masked)
    up = length(Share("s001", RUN, 1, NONCE, DIGEST, "masked", 100, 100, 1.0, {"numbers": sent}))
    total = np.zeros(FIRST + entries, np.uint64)
    _, add_s = timed(lambda: field.add_packed(total, sent))
    _, one_s = timed(lambda: add_masks(total, keys[:1]))
    sites = len(round_.names)
    coordinator_s = round_.open_s + sites * (add_s + one_s)
    return Line(
        sites, len(keys) - 1, entries, round_.up + up, round_.down, plain_up, round_.spent, masks_s, plain_s, coordinator_s
    )  # fmt: skip


def update_of(entries: int) -> Arrays:
    drawn = np.random.default_rng(1).standard_normal(entries, np.float32)
    drawn *= np.float32(1e-3)
    return packed({"weights": drawn})


def write(lines: list[Line], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found, written = machine(), datetime.now(UTC).isoformat(timespec="seconds")
    whole = {
        "format": 1, "name": "secure_sum", "written": written,
        "machine": found, "versions": versions(), "rows": [asdict(each) for each in lines],
    }  # fmt: skip
    (folder / "secure_sum.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    table = "\n".join([HEAD, *(each.words for each in lines)])
    end = f"{written[:10]}, {machine_in_words(found)}."
    (folder / "secure_sum.md").write_text(f"# secure_sum\n\n{table}\n\n{end}\n", encoding="utf-8")
    print(f"{table}\n\n{end}")


def main() -> None:
    given = arguments(
        __doc__, sites=("3,10,71,200", "several with commas"), entries=("100000,29135703", "of an update; several with commas"),
        neighbours=(40, "of a graph that is measured too, where there are more sites; 0: none"),
    )  # fmt: skip
    lines = []
    for sites in map(int, given.sites.split(",")):
        for neighbours in (0, given.neighbours) if 0 < given.neighbours < sites - 1 else (0,):
            round_ = Round(sites, neighbours)
            keys = round_.play()
            lines += [line(round_, keys, int(entries)) for entries in given.entries.split(",")]
    write(lines, given.output)


if __name__ == "__main__":
    main()
