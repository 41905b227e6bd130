"""What a person at a site decides: yes or no to a study, a pause, leaving; each signed or noted in the journal."""

from __future__ import annotations

import getpass
import os
import shutil
from datetime import UTC, datetime, timedelta

from fedrounds_client import budget, policy, waiting
from fedrounds_client.caches import caches, not_there
from fedrounds_client.home import SiteHome
from fedrounds_client.journal import note
from fedrounds_client.permits import Said, heard, say
from fedrounds_client.settings import Policy, SiteSettings
from fedrounds_common.disk import write_text
from fedrounds_common.errors import RefusedError, UsageError
from fedrounds_common.privacy import rounds_of
from fedrounds_common.study.canonical import digest_of_text, study_from_canonical
from fedrounds_sites.cache import CaseStore


def who() -> str:
    """The account that decides."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's account may have no name
        return f"uid {os.getuid()}"


def text_of(home: SiteHome, settings: SiteSettings, start: str) -> str:
    """The text of the study whose digest begins so: one that waits, or one of which something was said before.

    Raises:
        UsageError: FR-C24 there is none, or more than one.
    """
    known = sorted(home.permits.glob("*.json"))
    if start and not any(each.study.startswith(start.lower()) for each in waiting.waiting(home)):
        found = [file.stem for file in known if file.stem.startswith(start.lower())]
        said = heard(home, settings.name, found[0]) if len(found) == 1 else None
        if said is not None:
            return said.text
    return waiting.find(home, start).text


def allow(
    home: SiteHome, settings: SiteSettings, text: str, rounds: int | None = None, until: datetime | None = None,
    now: datetime | None = None,
) -> Said:  # fmt: skip
    """Say yes to exactly this text.

    Args:
        rounds: from now on; by default the study's own number, or the policy's if that is smaller.
        until: by default as many days as the policy allows.

    Raises:
        RefusedError: the site's own policy forbids the study, so many rounds, or so long.
        BudgetError: so many rounds would cost its patients more than the policy's budget has left.
    """
    now, rules = now or datetime.now(UTC), settings.policy
    study = study_from_canonical(text, settings.plugins)
    for broken in policy.broken_by(rules, study, settings.plugins):
        raise broken
    count = min(max(study.training.rounds, 1), rules.rounds) if rounds is None else rounds
    latest = now + timedelta(days=rules.days)
    end = latest if until is None else until
    _check_bounds(rules, count, end, now, latest)
    if study.training.rounds:
        policy.check_epsilon(rules, study, budget.rounds_of(home, digest_of_text(text)) + count, settings.plugins)
        budget.check(home, rules, rounds_of(study.costs_a_round(settings.plugins), count))
    said = say(home, settings, text, who(), now, True, count, end)
    waiting.drop(home, said.study)
    return said


def _check_bounds(rules: Policy, rounds: int, until: datetime, now: datetime, latest: datetime) -> None:
    if rounds < 1 or until <= now:
        found = f"{rounds} rounds until {until.isoformat(timespec='minutes')}"
        raise UsageError("FR-C30", found, wanted="at least one round, and a time that is still to come")
    if rounds > rules.rounds:
        raise RefusedError("FR-C15", f"{rounds} rounds", wanted=f"at most policy.rounds = {rules.rounds}")
    if until > latest:
        raise RefusedError(
            "FR-C15",
            f"until {until.isoformat(timespec='minutes')}",
            wanted=f"at most policy.days = {rules.days} from now",
        )


def refuse(home: SiteHome, settings: SiteSettings, text: str) -> Said:
    """Say no to this text; it is told so from now on, and waits no more."""
    said = say(home, settings, text, who(), datetime.now(UTC), False)
    waiting.drop(home, said.study)
    return said


def pause(home: SiteHome) -> bool:
    """Answer nothing until `resume`; False: it was paused already."""
    if home.paused.exists():
        return False
    write_text(home.paused, f"{who()}\n")
    note(home, "paused", who=who())
    return True


def resume(home: SiteHome) -> bool:
    """End the pause; False: there was none."""
    if not home.paused.exists():
        return False
    home.paused.unlink()
    note(home, "resumed", who=who())
    return True


def leave(home: SiteHome) -> int:
    """Answer nobody any more, and delete what runs have left here: prepared images, received models, states.

    A new invitation, accepted here, would begin anew. Every folder is emptied that `[machine] cache` ever named.
    Keys, permits, journal, ledger and lineage stay, because they say what happened. Returns the bytes deleted.
    """
    write_text(home.left, f"{home.mark_of_invitation()}\n")
    freed = 0
    for folder in (home.runs, home.tries, home.waiting):
        freed += policy.used_bytes(folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
    for store in map(CaseStore, caches(home, home.read_settings().cache)):
        freed += store.bytes
        store.clear()
    note(home, "left", who=who(), bytes_deleted=freed, **not_there(home))
    return freed
