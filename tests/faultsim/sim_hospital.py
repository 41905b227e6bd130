"""The sites: the real boundary, permit, books and state of a hospital, on its own disk; only the training is a toy.

What a toy trains depends on what it received, on the round, on the site, and on the moments it kept from the round
before. So an update of another round, of another consensus or from another state has other bits.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import numpy as np
from sim_disk import FaultyDisk

from fedrounds_client import boundary
from fedrounds_client.home import SiteHome
from fedrounds_client.permits import say
from fedrounds_client.settings import Policy, SiteSettings
from fedrounds_client.training import Piece, Result
from fedrounds_common.arrays import Array, Arrays
from fedrounds_common.codec import Codec
from fedrounds_common.disk import write_json, write_private
from fedrounds_common.errors import MachineError
from fedrounds_common.signing import SigningKey, sign_json
from fedrounds_common.study.study import Study
from fedrounds_sites.hospitals import Opened
from fedrounds_sites.own import OwnHospital

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
CASES = {"A": 3, "B": 5, "C": 8, "D": 2, "E": 6}
# float64 among them: a sum in another order shows there, and is rounded away in float32
START: dict[str, Array] = {
    "w": np.linspace(-1, 1, 6, dtype=np.float32),
    "d": np.linspace(0.1, 3, 40, dtype=np.float64).reshape(5, 8),
    "seen": np.array(0, np.int64),
}
Letter = tuple[str, bytes, bytes]


@cache
def key_of(name: str) -> SigningKey:
    """The same key in every process, so that a seed gives the same bytes."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return SigningKey(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


# ---------------------------------------------------------------- the toy


def toy_round(site: str, round_: int, arrays: Arrays, moments: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
    """Where this site's training ends, and the moments that it keeps."""
    number = sum(map(ord, site)) + 10 * round_
    m = 0.5 * moments.get("m", np.zeros((5, 8))) + np.cos(number + arrays["d"] * (1 + number / 7))
    w = arrays["w"] + np.float32(0.1) * np.cos(np.float32(number) + arrays["w"])
    return {"w": w, "d": arrays["d"] + 0.1 * m, "seen": arrays["seen"] + np.int64(1)}, {"m": m}


def toy_sums(site: str, purpose: str, arrays: Arrays) -> dict[str, Array]:
    """What this site answers when asked for sums; they depend on the model, and their last bits on the order of sites."""
    number = sum(map(ord, site)) + len(purpose)
    return {"d": CASES[site] * np.sin(number + arrays["d"]), "cases": np.array([float(CASES[site])])}


def toy_settle(total: Mapping[str, Array], arrays: Arrays) -> dict[str, Array]:
    return {**arrays, "d": arrays["d"] + total["d"] / total["cases"]}


@final
@dataclass(frozen=True)
class ToyTask:
    """In the place of the study's task, where a seed asks for sums before round 1 and after the last."""

    before = ("first",)
    after = ("last",)
    of_validation = ()

    def network(self, network: Any, form: Any) -> None:
        return None

    def at_site(self, names: Any) -> tuple[str, ...]:
        return ()

    def gather(self, purpose: str, network: Any, cases: Any, form: Any, training: Any) -> dict[str, Array]:
        return {"d": np.zeros((5, 8)), "cases": np.zeros(1)}

    def settle(self, purpose: str, total: Mapping[str, Array], arrays: Arrays, form: Any) -> dict[str, Array]:
        return toy_settle(total, arrays)


def toy_gather(parts: Any, purpose: str, arrays: Arrays, cases: Any) -> dict[str, Array]:
    """In the place of `fedrounds_client.gathering.gather_sums`."""
    return toy_sums(cases[0].ref.patient[0], purpose, arrays)


def toy_train(
    network: Any, task: Any, cases: Any, form: Any, training: Any, piece: Piece, start: Arrays,
    moments: Arrays | None = None, correct: Any = None, pieces: int = 1, beside: bool = False, noisy: None = None,
) -> Result:  # fmt: skip
    """In the place of `fedrounds_client.training.train`."""
    _, round_, site = piece.labels
    arrays, kept = toy_round(str(site), int(round_), start, moments or {})
    return Result(arrays, kept, 0.5)


@final
@dataclass(frozen=True)
class ToyHospital:
    name: str
    pictures: int = 0
    simulation: Any = field(default_factory=lambda: SimpleNamespace(workers=0, cache=None))

    def open_all(self) -> Opened:
        cases: Any = tuple(
            SimpleNamespace(ref=SimpleNamespace(patient=f"{self.name}{number}")) for number in range(CASES[self.name])
        )
        return Opened(cases, (), (), {})


@final
@dataclass(frozen=True)
class ToyParts:
    """Like `fedrounds_client.site.Parts`, without a network."""

    study: Study
    strategy: Any
    codec: Codec
    down: Codec
    task: Any = ToyTask()
    noisy: None = None
    noisy_sum: None = None
    smallest: int = 0

    def module(self) -> Any:
        trained = [(name, SimpleNamespace(requires_grad=True)) for name in START]
        return SimpleNamespace(named_parameters=lambda: iter(trained))

    def like(self) -> Arrays:
        return START


# ---------------------------------------------------------------- a site


@cache
def settings_of(name: str) -> SiteSettings:
    policy = Policy(
        ("segmentation",), ("tiny_unet",), minimum_cases=1, minimum_privacy="none", rounds=100,
        outgoing=("hello", "update", "statistics"),
    )  # fmt: skip
    return SiteSettings(name, {}, policy=policy)


def make_home(folder: Path, name: str, study_text: str, rounds: int) -> SiteHome:
    """A site that joined and said yes to the study, for so many rounds."""
    home = SiteHome(folder)
    home.folder.mkdir(parents=True)
    for place in (home.waiting, home.permits, home.runs):
        place.mkdir()
    key_of(name).save(home.signing_key)
    write_private(home.lineage_key, hashlib.sha256(b"lineage" + name.encode()).digest())
    write_private(home.withdrawn, b"patient\n")
    coordinator = key_of("coordinator")
    table = {"format": 1, "kind": "invitation", "site": name, "coordinator": coordinator.public.text}
    write_json(home.invitation, sign_json(coordinator, table))
    before = EPOCH - timedelta(days=1)
    say(home, settings_of(name), study_text, "ada", before, True, rounds, EPOCH + timedelta(days=300))
    return home


@final
@dataclass
class Hospital:
    """One site's machine. `generation` grows with every crash: what was being done then is never finished."""

    name: str
    home: SiteHome
    disk: FaultyDisk
    node: int
    up: bool = True
    busy: bool = False
    generation: int = 0
    inbox: list[str] = field(default_factory=list)
    sent: list[Letter] = field(default_factory=list)  # answers that left, as an eavesdropper has them

    def answer(self, letter: Letter) -> Letter:
        """What the real boundary says; raises Crash where the machine dies in the middle."""
        return boundary.answer_enrolled(*letter, self.home.folder)

    def too_late(self, letter: Letter) -> Letter:
        """What the ClientApp's own process says when the child was killed at its deadline."""
        error = MachineError("FR-E40", "no answer in time", do="the next round can come")
        return boundary.refuse_enrolled(letter[0], self.home.folder, error)


class SiteTime:
    """`datetime` as the sites' modules know it: now is what the scheduler says, and a little off at each site."""

    seconds = 0.0

    @classmethod
    def now(cls, zone: Any = None) -> datetime:
        return EPOCH + timedelta(seconds=cls.seconds)


def toy_own(own: Any, study: Study, folder: Path, withdrawn: Any = ()) -> OwnHospital:
    """In the place of `fedrounds_sites.own.open_own`."""
    hospital: Any = ToyHospital(own.name)
    return OwnHospital(hospital, 0)


def copy_home(template: Path, folder: Path) -> SiteHome:
    shutil.copytree(template, folder, copy_function=shutil.copy)
    return SiteHome(folder)


def rounds_kept(home: SiteHome, run: str) -> list[int]:
    """Of which rounds the site has its state on disk."""
    return sorted(int(file.stem.split("-")[1]) for file in (home.runs / run / "state").glob("round-*.safetensors"))


Moments = Mapping[str, Array]
