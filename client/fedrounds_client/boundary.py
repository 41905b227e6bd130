"""The outermost layer of a site: permit before, guard and ledger after, and no error text over the wire.

An exception's text can hold a patient's name in a path. Only its code and a reference cross; the
text stays in the site's own log under that reference. Nothing here imports torch before a request is permitted.
"""

from __future__ import annotations

import hashlib
import json
import os
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fedrounds_client import budget, lineage
from fedrounds_client.home import SiteHome
from fedrounds_client.journal import note, note_once
from fedrounds_client.ledger import enter, enter_packed, enter_signed, payload_digest
from fedrounds_client.memory import out_of_memory
from fedrounds_client.replies import alone, keep_reply, kept_reply
from fedrounds_common.arrays import digest
from fedrounds_common.disk import add_text, locked
from fedrounds_common.errors import BudgetError, FedroundsError, RefusedError, UpdateError, code_of, no_exit
from fedrounds_common.leaving import Ask, Kind, Leaving, Refusal, Share, Update, check_update, from_wire
from fedrounds_common.letter import Letter

if TYPE_CHECKING:
    from fedrounds_client.permit import Permission
    from fedrounds_client.site import Site

EMPTY = Ask("hello", "", 0, "", "", "")  # what a request says of which nothing can be believed
EVENTS: dict[Kind, str] = {
    "hello": "greeted", "train": "trained", "score": "judged", "statistics": "summed", "mask": "masked",
}  # fmt: skip
NO_JOURNAL = {"FR-C02"}  # "asked" is in the journal already, and a coordinator goes on asking


def answer(ask: Ask, site: Site, permit: Permission) -> tuple[str, bytes]:
    """Answer one message in a rehearsal; whatever happens, the answer is one of `leaving.py`.

    Returns:
        Header and buffer as they travel; the ledger has them already.
    """
    books = site.books or site.folder
    try:
        with no_exit():
            permit.check(ask)
            message = _do(ask, site, permit)
    except Exception as error:  # noqa: BLE001  (no exception's text may reach Flower, which would send it)
        message = _refusal(ask, site.name, books / "log", error)
    return enter(books / "outbox.jsonl", message, _purpose(ask))


def _do(ask: Ask, site: Site, permit: Permission) -> Leaving:
    if ask.kind == "mask":
        return _next_step(ask, site, permit)
    from fedrounds_client.receiving import received
    from fedrounds_client.rounds import gather, greet, judge, most_of, take_part
    from fedrounds_client.state import write_state
    from fedrounds_client.steady import rates, steady_of

    permit.check_cases(ask, site)
    if ask.kind == "train":
        ask = received(ask, site)
        steady, (rate, peak) = steady_of(site), rates(site.parts.study.training, ask.round)
        steady.check(ask.round, ask.arrays, peak)
        if (before := _trained_before(ask, site, permit)) is not None:
            return before
        message, state = take_part(ask, site)
        decoded = replace(message, arrays=site.parts.codec.decode(message.arrays, ask.arrays))
        check_update(decoded, ask.arrays, most_of(site, ask))
        permit.check_leaving(message)
        leaves = _begun(ask, site, message)
        write_state(site.folder / "state", ask.round, state)
        steady.keep(ask.round, ask.arrays, decoded.arrays, rate)
        return _settled(leaves, site)
    makes: Mapping[Kind, Callable[[Ask, Site], Leaving]] = {"hello": greet, "score": judge, "statistics": gather}
    other = makes[ask.kind](ask, site)
    permit.check_leaving(other)
    return other


def _begun(ask: Ask, site: Site, update: Update) -> Leaving:
    """The update itself, or where sums hide it the first step of one."""
    if not site.parts.study.build_channel().hides_sites:
        return update
    from fedrounds_client.masked import begin

    return begin(ask, site, update)


def _settled(leaves: Leaving, site: Site) -> Leaving:
    """With what this site keeps on disk: a sum that is broken off from here on needs no other update."""
    if isinstance(leaves, Share):
        from fedrounds_client.masked import is_whole

        is_whole(site)
    return leaves


def _trained_before(ask: Ask, site: Site, permit: Permission) -> Leaving | None:
    """Of a secure sum that was broken off, the first step of another with the same update."""
    if not site.parts.study.build_channel().hides_sites:
        return None
    from fedrounds_client.masked import trained

    update = trained(ask, site)
    if update is None:
        return None
    permit.check_leaving(update)
    return _settled(_begun(ask, site, update), site)


def _next_step(ask: Ask, site: Site, permit: Permission) -> Leaving:
    """Of a secure sum: nothing is computed from a case any more."""
    from fedrounds_client.masked import go_on

    message = go_on(ask, site)
    permit.check_leaving(message)
    return message


def answer_enrolled(header: str, buffer: bytes, signature: bytes, home: Path, pieces: int = 1) -> Letter:
    """Answer one request at a real site: who sent it, permit, work, guard, signature, ledger, in this order.

    Args:
        home: the site's folder. pieces: into how many each batch is cut, after memory ran out.

    Raises:
        MemoryError, or torch's own: memory ran out; nothing is entered yet, so it can be tried in smaller pieces.
        FedroundsError: not even a refusal can be made, for the site's key or books cannot be used.
    """
    os.umask(0o077)
    site_home, ask = SiteHome(home), EMPTY
    with ExitStack() as held:
        try:
            ask = _heard(header, buffer, signature, site_home)
            held.enter_context(alone(site_home, ask))  # until the answer is kept: who asks again gets the same
            with no_exit():
                before = _answered_before(ask, site_home)
                message = _done(ask, site_home, pieces) if before is None else None
        except Exception as error:
            if out_of_memory(error):
                raise
            return _refuse(ask if ask is not EMPTY else _claimed(header), site_home, error)
        if message is None:
            assert before is not None
            return _leave_again(ask, before, site_home)
        return _leave(ask, message, site_home)


def _heard(header: str, buffer: bytes, signature: bytes, home: SiteHome) -> Ask:
    from fedrounds_client.enrolled import check_sender

    check_sender(home, header, buffer, signature)
    ask = from_wire(header, buffer)
    if not isinstance(ask, Ask):
        raise UpdateError("FR-R10", "a message that asks nothing", wanted="an Ask")
    return ask


def _answered_before(ask: Ask, home: SiteHome) -> Letter | None:
    """What was answered to this very request, if it may still leave: a crash must not make a site train twice."""
    from fedrounds_client.enrolled import permitted

    reply = kept_reply(home, ask)
    if reply is not None:
        message = from_wire(*reply[:2])
        assert not isinstance(message, Ask)
        permitted(home, ask, datetime.now(UTC))[2].check_leaving(message)
    return reply


def _done(ask: Ask, home: SiteHome, pieces: int) -> Leaving:
    """The answer, allowed to leave; which patients' images it was made with is written down before it can."""
    from fedrounds_client.enrolled import check_again, open_enrolled
    from fedrounds_client.rounds import beside_judged
    from fedrounds_sites.cache_lock import in_use

    site, permit = open_enrolled(home, ask, pieces=pieces)
    costs = site.parts.study.costs_a_round(home.read_settings().plugins) if ask.kind == "train" else ()
    if ask.kind == "train":  # before an hour's work
        budget.check(home, home.read_settings().policy, costs)
    if costs:
        permit.check_noisy(ask)
    with in_use(site.hospital.simulation.cache):
        message = _do(ask, site, permit)
    # one at a time: of two requests for the last round that a permit allows, one must find it used up
    with locked(home.lineage):
        check_again(home, ask)
        if costs:
            permit.check_noisy(ask)
            budget.charge(home, ask, home.read_settings().policy, costs, datetime.now(UTC))
        if ask.kind not in ("hello", "mask"):
            seen = (*site.cases_behind(ask), *beside_judged(ask, site))
            lineage.see(home, ask, {case.ref.patient for case in seen}, datetime.now(UTC))
    return message


def _leave(ask: Ask, message: Leaving, home: SiteHome) -> Letter:
    """Sign and write down: what has left must never be missing from the books."""
    signed = enter_signed(home.outbox, message, _purpose(ask), home.key)
    facts = {"run": ask.run, "round": ask.round, "study": ask.digest, "sent": payload_digest(*signed[:2])}
    if isinstance(message, Update):
        note(home, "trained", **facts, cases=message.cases, update=digest(message.arrays))
    else:
        note(home, EVENTS[ask.kind], **facts, **({"step": message.phase} if isinstance(message, Share) else {}))
    if ask.kind == "mask":  # asked again it is made again, from what is kept of the round
        return signed
    with suppress(OSError):  # a full disk: asked again, it is made again
        keep_reply(home, ask, signed)
    return signed


def _leave_again(ask: Ask, signed: Letter, home: SiteHome) -> Letter:
    """The same bytes once more: a line in the books, and no round more."""
    message = from_wire(*signed[:2])
    assert not isinstance(message, Ask)
    enter_packed(home.outbox, message, f"{_purpose(ask)} again", signed)
    sent = payload_digest(*signed[:2])
    note(home, "sent again", run=ask.run, round=ask.round, study=ask.digest, kind=ask.kind, sent=sent)
    return signed


def refuse_enrolled(header: str, home: Path, error: FedroundsError) -> Letter:
    """A signed refusal of a request whose work was stopped from outside: deadline, memory, a crash."""
    os.umask(0o077)
    return _refuse(_claimed(header), SiteHome(home), error)


def _refuse(ask: Ask, home: SiteHome, error: Exception) -> Letter:
    name = home.read_settings().name
    message = _refusal(ask, name, home.log, error)
    signed = enter_signed(home.outbox, message, _purpose(ask), home.key)
    if message.code not in NO_JOURNAL:
        event = "refused" if message.refused else "failed"
        note_once(home, event, run=ask.run, round=ask.round, study=ask.digest, kind=ask.kind, code=message.code)
    return signed


def _claimed(header: str) -> Ask:
    """Run, round and nonce as a request claims them, so that its refusal can be told from others; no array is read."""
    try:
        scalars = json.loads(header)
        bare = {**scalars, "arrays": [], "shared": []}
        ask = from_wire(json.dumps(bare), b"")
    except (FedroundsError, ValueError, TypeError, RecursionError):
        return EMPTY
    return ask if isinstance(ask, Ask) else EMPTY


def _refusal(ask: Ask, name: str, log: Path, error: Exception) -> Refusal:
    code = code_of(error)
    reference = hashlib.sha256(f"{ask.run}/{ask.round}/{ask.nonce}/{name}".encode()).hexdigest()[:10]
    # of a refusal the way through our code says nothing, and a coordinator may go on asking for days
    refused = isinstance(error, RefusedError | BudgetError)
    detail = str(error) if refused else "".join(traceback.format_exception(error))
    add_text(log, f"{reference} {code} round {ask.round} {ask.kind}\n{detail}")
    return Refusal(name, ask.run, ask.round, ask.nonce, code, reference, refused=refused)


def _purpose(ask: Ask) -> str:
    return f"round {ask.round}: {ask.kind} {ask.purpose}".rstrip()
