"""A round of a secure sum between sites that are functions here, and a coordinator that can be told to lose some of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from fedrounds_common.channels.secure_sum import SecureSum
from fedrounds_common.masking import site as at_site
from fedrounds_common.masking.masks import U64, add_masks
from fedrounds_common.masking.site import SiteRound
from fedrounds_common.signing import SigningKey
from fedrounds_server.unmasking import Unmasking

IDENTITIES = {f"s{number:03d}": SigningKey.create() for number in range(1, 201)}
KNOWN = {name: key.public.fingerprint for name, key in IDENTITIES.items()}


@dataclass
class Village:
    """`numbers`: what each site would add. Each step goes as far as its name says, without those in `lost`."""

    channel: SecureSum
    numbers: Mapping[str, U64]
    session: str = "study/run/1/nonce"
    states: dict[str, SiteRound] = field(default_factory=dict)
    own: dict[str, bytes] = field(default_factory=dict)
    masked: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rules = self.channel.rules(1)
        count = len(next(iter(self.numbers.values())))
        self.coordinator = Unmasking(self.rules, self.session, count)
        self.known = {name: KNOWN[name] for name in self.numbers}

    def keys(self, lost: Collection[str] = ()) -> None:
        for name in self._left(self.numbers, lost):
            self.states[name] = at_site.begin(name, self.session)
            self.own[name] = at_site.notice_of(self.states[name], IDENTITIES[name])
            self.coordinator.hear(name, self.own[name])
        self.coordinator.close_keys()

    def shares(self, lost: Collection[str] = ()) -> None:
        for name in self._left(self.coordinator.notices, lost):
            self.states[name], sealed = at_site.share(
                self.states[name], self.rules, self.coordinator.notices, self.own[name], self.known
            )
            self.coordinator.take_sealed(name, sealed)

    def mask(self, lost: Collection[str] = ()) -> None:
        for name in self._left(self.coordinator.sealed, lost):
            self.masked[name] = self.mask_one(name)
            self.coordinator.add(name, self.masked[name])

    def mask_one(self, name: str) -> np.ndarray:
        sealed = self.coordinator.sealed_for(name)
        self.states[name], keys = at_site.mask_keys(self.states[name], self.rules, sealed)
        vector = self.numbers[name].copy()
        add_masks(vector, keys)
        return self.rules.field.packed(vector)

    def agree_one(self, name: str, survivors: Collection[str], before: Collection[str] | None = None) -> bytes:
        state, signature = at_site.agree(
            self.states[name], self.rules, list(self.coordinator.sealed), survivors, IDENTITIES[name], before
        )
        self.states[name] = state
        return signature

    def agree(self, lost: Collection[str] = ()) -> None:
        stayed = sorted(self.coordinator.survivors)
        for name in self._left(stayed, lost):
            self.coordinator.signatures[name] = self.agree_one(name, stayed)

    def reveal(self, lost: Collection[str] = ()) -> None:
        for name in self._left(self.coordinator.survivors, lost):
            self.states[name], given = at_site.reveal(self.states[name], self.rules, self.coordinator.signatures)
            self.coordinator.take_given(name, given)

    def play(self, **lost: Collection[str]) -> np.ndarray:
        """All phases; `lost`: phase → who does not answer in it any more."""
        gone: set[str] = set()
        for phase in ("keys", "shares", "mask", "agree", "reveal"):
            gone |= set(lost.get(phase, ()))
            getattr(self, phase)(gone)
        return self.coordinator.sum()

    @staticmethod
    def _left(names: Collection[str], lost: Collection[str]) -> list[str]:
        return [name for name in sorted(names) if name not in lost]


@pytest.fixture
def village():
    """Sites and entries → a village whose sites each hold numbers of their own, small enough to add up exactly."""

    def make(sites: int, count: int = 50, **table: object) -> Village:
        channel = SecureSum(**table)
        half = 2 ** (channel.numbers.bits - 1) // channel.sites
        draw = np.random.default_rng(sites)
        numbers = {
            f"s{number:03d}": draw.integers(-half, half, count).view(np.uint64) for number in range(1, sites + 1)
        }
        return Village(channel, numbers)

    return make


@pytest.fixture
def updated():
    """Sites and entries → a village whose sites hold updates of float32, of 1 to 5,000 cases; the updates and the cases."""

    def make(sites: int, count: int, **table: object) -> tuple[Village, dict[str, np.ndarray], dict[str, int]]:
        channel, draw = SecureSum(**table), np.random.default_rng([sites, count])
        names = [f"s{number:03d}" for number in range(1, sites + 1)]
        cases = dict(zip(names, np.geomspace(1, 5000, sites).round().astype(int).tolist(), strict=True))
        updates = {name: draw.normal(0, 0.05, count).astype(np.float32) for name in names}
        numbers = {name: channel.numbers.numbers({"w": updates[name]}, float(cases[name])) for name in names}
        return Village(channel, numbers), updates, cases

    return make


@pytest.fixture
def plain_sum():
    def add(village: Village, names: Collection[str]) -> np.ndarray:
        return sum(village.numbers[name].view(np.int64) for name in names)

    return add
