"""The permit: whether this site answers a request. Nothing is allowed that a person here did not allow."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, final

from fedrounds_client import budget, lineage, policy
from fedrounds_client.home import SiteHome
from fedrounds_client.permits import Said, heard
from fedrounds_client.settings import SiteSettings
from fedrounds_client.site import Site
from fedrounds_common.errors import RefusedError
from fedrounds_common.leaving import Ask, Leaving
from fedrounds_common.settling import purposes
from fedrounds_common.study.study import Study

# of one study: what leaves with each is a sum over cases, and enough sums of chosen models give a case away
JUDGINGS_A_ROUND = 4
SUMS_A_PURPOSE = 4


class Permission(Protocol):
    """What the boundary asks before, during and after a request is carried out; each raises RefusedError."""

    def check(self, ask: Ask) -> None:
        """Before anything is opened."""
        ...

    def check_cases(self, ask: Ask, site: Site) -> None:
        """With the cases open, before anything is computed from them."""
        ...

    def check_leaving(self, message: Leaving) -> None:
        """With the answer made, before it leaves."""
        ...


@final
@dataclass(frozen=True)
class Permit:
    """A rehearsal's: `studies` are digests of the agreed halves that may be played."""

    studies: frozenset[str]

    def check(self, ask: Ask) -> None:
        """Raises RefusedError unless the very text that came is permitted."""
        if checked_digest(ask) not in self.studies:
            raise not_permitted(ask.digest)

    def check_cases(self, ask: Ask, site: Site) -> None:
        pass

    def check_leaving(self, message: Leaving) -> None:
        pass


def checked_digest(ask: Ask) -> str:
    """The digest of the text that came. Raises RefusedError FR-C01: the message names another."""
    digest = hashlib.sha256(ask.study.encode()).hexdigest()
    if digest != ask.digest:
        raise RefusedError("FR-C01", "the study's text and its digest do not agree", wanted="one study, unchanged")
    return digest


def not_permitted(digest: str) -> RefusedError:
    return RefusedError("FR-C02", f"study {digest[:12]} is not permitted here", wanted="a permit for this digest")


@final
@dataclass(frozen=True)
class SitePermit:
    """A real site's: what a person signed, within what the policy says today. `now` has a time zone."""

    home: SiteHome
    settings: SiteSettings
    study: Study
    now: datetime

    def check(self, ask: Ask) -> None:
        """Raises RefusedError with the first rule that stands against it; a study without a rule for it is refused."""
        self._check_here()
        said = self._said(checked_digest(ask))
        self._check_policy(ask)
        self._check_used(ask, said)

    def check_again(self, ask: Ask) -> None:
        """With the work done, before its result leaves: somebody may have paused, refused or used rounds up meanwhile.

        The hours are not asked again: what began within them may end.
        """
        self._check_here()
        self._check_used(ask, self._said(ask.digest))

    def _said(self, digest: str) -> Said:
        said = heard(self.home, self.settings.name, digest)
        if said is None:
            raise not_permitted(digest)
        self._check_said(said)
        return said

    def _check_here(self) -> None:
        if self.home.has_left():
            raise RefusedError("FR-C06", "this site has left", do="a new invitation would have to be accepted")
        if self.home.paused.exists():
            raise RefusedError("FR-C05", "this site is paused", do="`fedrounds site resume` ends that")

    def _check_said(self, said: Said) -> None:
        if not said.allowed:
            raise RefusedError("FR-C21", f"{said.who} said no on {said.when}", do="allow it, if that has changed")
        if said.coordinator != self.home.coordinator().fingerprint:
            raise RefusedError(
                "FR-C32", f"it was allowed to the coordinator with the key {said.coordinator}",
                do="review and allow the study again, if this one may do it too",
            )  # fmt: skip
        if said.policy != self.settings.policy.digest:
            raise RefusedError("FR-C08", "site.toml's policy has changed since", do="review and allow the study again")
        if self.now >= datetime.fromisoformat(said.until):
            raise RefusedError("FR-C09", f"the permit ended on {said.until}", do="review and allow the study again")

    def _check_policy(self, ask: Ask) -> None:
        rules = self.settings.policy
        for broken in policy.broken_by(rules, self.study, self.settings.plugins):
            raise broken
        policy.check_answer(rules, ask.kind)
        policy.check_hours(rules, self.now.astimezone())
        policy.check_disk(rules, self.home.runs, self.settings.cache)

    def _check_used(self, ask: Ask, said: Said) -> None:
        """The same request again is none more; another run, or other weights in the same round, is."""
        if ask.kind in ("hello", "mask"):  # a step of a secure sum goes on with what was trained
            return
        event = lineage.EVENTS[ask.kind]
        if lineage.use_of(ask) in lineage.uses(self.home, ask.digest, event):
            return
        rounds = min(said.rounds, self.settings.policy.rounds)
        most = self._most(ask, rounds)
        used = len(lineage.uses(self.home, ask.digest, event, said.when))
        if used >= most:
            raise RefusedError("FR-C10", f"{used} of {most} times {event}", do="allow more rounds, if that is meant")

    def check_noisy(self, ask: Ask) -> None:
        """Before noisy steps are taken: of the same request twice the noise differs, and their mean has less of it.

        Raises:
            RefusedError: FR-C10 the study has been given all the noisy rounds that this permit allows.
        """
        said = self._said(ask.digest)
        most = min(said.rounds, self.settings.policy.rounds)
        used = budget.rounds_of(self.home, ask.digest, datetime.fromisoformat(said.when))
        if used >= most:
            raise RefusedError(
                "FR-C10",
                f"{used} of {most} noisy rounds",
                do="allow more rounds, if that is meant: each costs its noise",
            )

    def _most(self, ask: Ask, rounds: int) -> int:
        """How often the like may be asked for under a permit of so many rounds."""
        if ask.kind == "train":
            return rounds
        if ask.kind == "score":
            return JUDGINGS_A_ROUND * (rounds + 1)
        runs = max(rounds // max(self.study.training.rounds, 1), 1)
        return SUMS_A_PURPOSE * len(purposes(self.study.build_task(self.settings.plugins))) * runs

    def check_cases(self, ask: Ask, site: Site) -> None:
        """Raises RefusedError FR-C19: too few cases stand behind what is asked for."""
        if ask.kind == "mask":
            return
        if ask.kind in ("score", "statistics"):
            policy.check_cases(self.settings.policy, len(site.cases_behind(ask)))
            return
        opened = site.hospital.open_all()
        policy.check_cases(self.settings.policy, len(opened.training) + len(opened.held_out))

    def check_leaving(self, message: Leaving) -> None:
        policy.check_leaving(self.settings.policy, message)
