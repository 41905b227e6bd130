"""The outermost layer of a site: permit before, guard and ledger after, and no error text over the wire.

An exception's text can hold a patient's name in a path. Only its code and a reference cross; the
text stays in the site's own log under that reference.
"""

from __future__ import annotations

import hashlib
import traceback
from dataclasses import replace

from fedrounds_client.ledger import enter
from fedrounds_client.permit import Permit
from fedrounds_client.rounds import greet, judge, take_part
from fedrounds_client.site import Site
from fedrounds_client.state import write_state
from fedrounds_common.disk import add_text
from fedrounds_common.errors import RefusedError, code_of
from fedrounds_common.leaving import Ask, Leaving, Refusal, check_update


def answer(ask: Ask, site: Site, permit: Permit) -> tuple[str, bytes]:
    """Answer one message of the coordinator; whatever happens, the answer is one of `leaving.py`.

    Returns:
        Header and buffer as they travel; the ledger has them already.
    """
    try:
        permit.check(ask)
        message = _do(ask, site)
    except Exception as error:  # noqa: BLE001  (no exception's text may reach Flower, which would send it)
        message = _refusal(ask, site, error)
    return enter(site.folder / "outbox.jsonl", message, f"round {ask.round}: {ask.kind}")


def _do(ask: Ask, site: Site) -> Leaving:
    if ask.kind == "hello":
        return greet(ask, site)
    if ask.kind == "score":
        return judge(ask, site)
    update, state = take_part(ask, site)
    check_update(replace(update, arrays=site.parts.codec.decode(update.arrays)), ask.arrays, site.max_norm)
    write_state(site.folder / "state", ask.round, state)
    return update


def _refusal(ask: Ask, site: Site, error: Exception) -> Refusal:
    code = code_of(error)
    reference = hashlib.sha256(f"{ask.run}/{ask.round}/{ask.nonce}/{site.name}".encode()).hexdigest()[:10]
    detail = "".join(traceback.format_exception(error))
    add_text(site.folder / "log", f"{reference} {code} round {ask.round} {ask.kind}\n{detail}")
    return Refusal(site.name, ask.run, ask.round, ask.nonce, code, reference, refused=isinstance(error, RefusedError))
