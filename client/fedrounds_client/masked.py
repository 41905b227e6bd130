"""A site's steps in a secure sum: the update stays here until it is under masks, and what a round knows is kept between messages.

    masks/round.json     this round's keys and what came, for this account only; what is secret in it goes with the last step
    masks/update         the update that was trained, until its sum is made
    peers.json           fingerprints of the hospitals' keys, as first met (where the study does not name them)
    sums.jsonl           for each update that is in a sum, with which sites: never in a second sum with others

The last two are of the site and not of a run: a coordinator that calls a run by another name must find them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np

from fedrounds_client.home import SiteHome, read_table
from fedrounds_client.site import Site
from fedrounds_common.arrays import Arrays, digest
from fedrounds_common.averaging import weight_of
from fedrounds_common.channels.secure_sum import SecureSum
from fedrounds_common.disk import add_line, locked, remove_file, write_json, write_whole
from fedrounds_common.errors import NetworkError, RefusedError, RunFileError, UpdateError
from fedrounds_common.leaving import Ask, Share, Update, from_wire, to_wire
from fedrounds_common.letter import letter_parts, unpack_letter
from fedrounds_common.masking import site as steps
from fedrounds_common.masking.masks import add_masks
from fedrounds_common.masking.site import Rules, SiteRound
from fedrounds_common.signing import PublicKey, SigningKey
from fedrounds_common.spans import timed

FOLDER, LIST = "masks", "list"


@final
@dataclass(frozen=True)
class Kept:
    """One round at this site. `use`: what the update was trained from; `mark`: its name in `sums.jsonl`; `weight`: what it
    counts in the sum. `whole`: what the site keeps of the round's training is on disk too; `withdrawn`: so many cases had
    left when it was trained."""

    state: SiteRound
    nonce: str
    use: str
    mark: str
    weight: float
    cases: int
    steps: int
    seconds: float
    withdrawn: int = 0
    whole: bool = False


def trained(ask: Ask, site: Site) -> Update | None:
    """The update of this very request, of an attempt that was broken off before its sum: nobody trains for it again."""
    kept = _read(site)
    if kept is None or not kept.whole or (kept.use, kept.withdrawn) != (_use(ask), site.withdrawn):
        return None
    if not _update_file(site).exists():
        return None
    update = _update(site)
    return replace(update, nonce=ask.nonce) if update.run == ask.run else None


def is_whole(site: Site) -> None:
    """Note that what the site keeps of this training is on disk."""
    kept = _read(site)
    assert kept is not None, "begun before"
    _write(site, replace(kept, whole=True))


def begin(ask: Ask, site: Site, update: Update) -> Share:
    """The first step, with the update trained: it stays, and a notice of fresh keys leaves.

    Raises:
        UpdateError: FR-R80 the update, or the number of cases, has no room in the sum.
    """
    channel = _channel(site)
    weights = site.parts.strategy.folds()
    if weights is None:
        raise UpdateError("FR-R10", "a strategy that says no weights", wanted="one that a secure sum can carry out")
    if update.cases > channel.cases:
        raise UpdateError(
            "FR-R80", f"{update.cases} cases", wanted=f"at most wire.channel.cases = {channel.cases}"
        )  # fmt: skip
    decoded = site.parts.codec.decode(update.arrays, ask.arrays)
    weight = weight_of(update.cases, weights)
    channel.numbers.numbers(decoded, weight)  # what has no room is refused now, and not when others wait for it
    state = steps.begin(site.name, steps.session_of(ask.digest, ask.run, ask.round, ask.nonce))
    kept = Kept(
        state, ask.nonce, _use(ask), _mark(ask), weight, update.cases, update.steps, update.seconds, site.withdrawn
    )
    remove_file(site.folder / FOLDER / "round.json")  # after a crash no other update may go under the old keys
    write_whole(_update_file(site), *letter_parts((*to_wire(replace(update, arrays=decoded)), b"")), private=True)
    _write(site, kept)
    return _said(ask, site, kept, "keys", {"notice": steps.notice_of(state, identity_of(site))})


def go_on(ask: Ask, site: Site) -> Share:
    """The next step, of the round that was begun last.

    Raises:
        RefusedError: FR-C77 it is of another round, or does not follow; FR-C78 too few sites; FR-C79 unknown keys.
        UpdateError: FR-R81 what came cannot be used.
    """
    kept = _read(site)
    nonce, _, phase = ask.nonce.rpartition(".")
    session = steps.session_of(ask.digest, ask.run, ask.round, nonce)
    if kept is None or (kept.nonce, kept.state.session, ask.purpose) != (nonce, session, phase):
        raise RefusedError("FR-C77", "a step of a round that was not begun here", wanted="the round begun last")
    came = {name: np.asarray(array, np.uint8).tobytes() for name, array in ask.arrays.items()}
    does = {"shares": _share, "masked": _mask, "agree": _agree, "unmask": _reveal}
    if phase not in does:
        raise RefusedError("FR-C77", f"a step {phase!r}", wanted=", ".join(does))
    state, leaves = does[phase](kept, site, came)
    kept = replace(kept, state=state)
    _write(site, kept)  # before it leaves: what it answered, it must know
    if state.done:
        remove_file(_update_file(site))
    return _said(ask, site, kept, phase, leaves)


Leaves = Mapping[str, "bytes | np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"]


def _share(kept: Kept, site: Site, came: Mapping[str, bytes]) -> tuple[SiteRound, Leaves]:
    own, named = steps.notice_of(kept.state, identity_of(site)), _named_keys(site)
    known = _met(site, came) if named is None else named
    state, sealed = steps.share(kept.state, _rules(site), came, own, known)
    if named is None:
        write_json(_books(site) / "peers.json", {**_peers(site), **known})
    return state, sealed


@timed("serialise")
def _mask(kept: Kept, site: Site, came: Mapping[str, bytes]) -> tuple[SiteRound, Leaves]:
    channel = _channel(site)
    state, keys = steps.mask_keys(kept.state, _rules(site), came)
    numbers = channel.numbers.numbers(_update(site).arrays, kept.weight)
    add_masks(numbers, keys)
    return state, {"numbers": channel.numbers.packed(numbers)}


def _agree(kept: Kept, site: Site, came: Mapping[str, bytes]) -> tuple[SiteRound, Leaves]:
    shared, survivors = _lists(came)
    before = _sums(site).get(kept.mark)
    state, signature = steps.agree(
        kept.state, _rules(site), shared, survivors, identity_of(site), before
    )  # fmt: skip
    return state, {"signature": signature}


def _reveal(kept: Kept, site: Site, came: Mapping[str, bytes]) -> tuple[SiteRound, Leaves]:
    file = _books(site) / "sums.jsonl"
    with locked(file):  # two runs may have signed a list each before either gets here
        before = _sums(site).get(kept.mark)
        state, given = steps.reveal(kept.state, _rules(site), came, before)
        if before is None:
            add_line(file, {"mark": kept.mark, "sites": list(state.survivors)})
    return state, given


# ---------------------------------------------------------------- what is known of others


def identity_of(site: Site) -> SigningKey:
    """The site's own key, which the coordinator enrolled; of a rehearsal one that is made once a run."""
    if site.books is not None:
        return SiteHome(site.books).key
    file = site.folder / FOLDER / "identity.key"
    if not file.exists():
        SigningKey.create().save(file)
    return SigningKey.load(file)


def _named_keys(site: Site) -> dict[str, str] | None:
    """Site → fingerprint as the study names them. None: it names none, or this is a rehearsal, which has none of their keys."""
    keys = _channel(site).keys
    return dict(keys) if keys and site.books is not None else None


def _met(site: Site, notices: Mapping[str, bytes]) -> dict[str, str]:
    """Site → fingerprint: those met before and, of who is new, that of the key which its notice names. Only of sites that
    the study lists, where it lists them."""
    listed = site.parts.study.cohort.sites
    found = {**{name: _named(data) for name, data in notices.items()}, **_peers(site)}
    return {name: key for name, key in found.items() if not listed or name in listed}


def _peers(site: Site) -> dict[str, str]:
    return {str(name): str(key) for name, key in (read_table(_books(site) / "peers.json") or {}).items()}


def _named(notice: bytes) -> str:
    try:
        return PublicKey.of_text(str(json.loads(notice)["identity"])).fingerprint
    except (ValueError, KeyError, TypeError, RecursionError, NetworkError):
        return ""


def _lists(came: Mapping[str, bytes]) -> tuple[list[str], list[str]]:
    """Who sent shares, and whose update came."""
    try:
        said = json.loads(came[LIST])
        return [str(name) for name in said["shared"]], [str(name) for name in said["survivors"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UpdateError("FR-R10", "no list of who stayed", wanted="two lists of sites") from error


def _sums(site: Site) -> dict[str, list[str]]:
    """Mark of an update → the sites that are in a sum with it."""
    file = _books(site) / "sums.jsonl"
    found: dict[str, list[str]] = {}
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            line = json.loads(text)
            found[str(line["mark"])] = [str(name) for name in line["sites"]]
        except (ValueError, KeyError, TypeError):
            continue  # cut short by a crash, before anything left
    return found


def _mark(ask: Ask) -> str:
    """The same for every update of this study and round, in a run of whatever name and from whatever weights: from weights one
    bit apart come nearly the same updates, and two sums of them with other sites would tell one nearly."""
    return hashlib.sha256(json.dumps([ask.digest, ask.round]).encode()).hexdigest()


def _use(ask: Ask) -> str:
    """What an update is trained from: study, round and weights."""
    words = [ask.digest, ask.round, ask.holds or digest(ask.arrays), digest(ask.shared)]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


# ---------------------------------------------------------------- what is kept


def _channel(site: Site) -> SecureSum:
    channel = site.parts.study.build_channel()
    if not isinstance(channel, SecureSum):
        raise RefusedError("FR-C77", "a step of a secure sum, of a study that has none", wanted="this study's channel")
    return channel


def _rules(site: Site) -> Rules:
    return _channel(site).rules(site.parts.study.cohort.minimum)


def _books(site: Site) -> Path:
    return site.books or site.folder


def _update_file(site: Site) -> Path:
    return site.folder / FOLDER / "update"


def _write(site: Site, kept: Kept) -> None:
    table = {**vars(kept), "state": kept.state.to_bytes().decode()}
    write_whole(site.folder / FOLDER / "round.json", json.dumps(table).encode(), private=True)


def _read(site: Site) -> Kept | None:
    table = read_table(site.folder / FOLDER / "round.json")
    if table is None:
        return None
    try:
        return Kept(**{**table, "state": SiteRound.of_bytes(table["state"].encode())})
    except (TypeError, KeyError, AttributeError) as error:
        raise RunFileError("FR-F10", "the round's keys cannot be read", wanted="as this site wrote them") from error


def _update(site: Site) -> Update:
    try:
        update = from_wire(*unpack_letter(_update_file(site).read_bytes())[:2])
    except (OSError, ValueError) as error:
        raise RunFileError("FR-F10", "the update of this round cannot be read", wanted="as it was trained") from error
    assert isinstance(update, Update)
    return update


def _said(ask: Ask, site: Site, kept: Kept, phase: str, leaves: Leaves) -> Share:
    arrays: Arrays = {
        name: data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8) for name, data in leaves.items()
    }
    return Share(
        site.name, ask.run, ask.round, ask.nonce, ask.digest, phase, kept.cases, kept.steps, kept.seconds, arrays
    )  # fmt: skip
