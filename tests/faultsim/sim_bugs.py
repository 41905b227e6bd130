"""Six bugs, each put in the place of the program's own code, that the simulation must find."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sim_federation import swapped

from fedrounds_client import boundary, lineage
from fedrounds_common import disk
from fedrounds_common.errors import TooFewSites, UpdateError
from fedrounds_common.leaving import Ask
from fedrounds_common.strategy import SiteUpdate
from fedrounds_server.cohort import need
from fedrounds_server.collecting import Collection
from fedrounds_server.conduct import Conduct
from fedrounds_server.guard import Guard
from fedrounds_server.updates import UpdateStore


@contextmanager
def sum_in_order_of_arrival() -> Iterator[None]:
    def in_order(self: UpdateStore) -> Iterator[SiteUpdate]:
        for site in self._cases:
            yield SiteUpdate(site, self._arrays(site), self._cases[site])

    with swapped(UpdateStore, "__iter__", in_order):
        yield


@contextmanager
def rename_before_fsync() -> Iterator[None]:
    own = disk.write_whole

    def hasty(file: Path, *parts: disk.Data) -> None:
        disk._make_folders(file.parent)
        part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
        handle = disk._steps.open(part, disk.NEW, 0o666)
        try:
            for data in parts:
                disk._steps.write(handle, data)
            disk._steps.rename(part, file)
            disk._steps.sync_folder(file.parent)
            disk._steps.sync(handle)
        finally:
            disk._steps.close(handle)

    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("fedrounds") and getattr(module, "write_whole", None) is own:
                stack.enter_context(swapped(module, "write_whole", hasty))
        yield


@contextmanager
def budget_charged_after_release() -> Iterator[None]:
    """There is no privacy budget yet: what is charged is the round, against the permit (`lineage.see`)."""
    own_see, own_answer = lineage.see, boundary.answer_enrolled
    owed: list[tuple[Any, ...]] = []

    def answer(*given: Any) -> Any:
        while owed:  # of the answer before, which has left by now
            own_see(*owed.pop())
        return own_answer(*given)

    with swapped(lineage, "see", lambda *given: owed.append(given)), swapped(boundary, "answer_enrolled", answer):
        yield


@contextmanager
def nonce_unchecked() -> Iterator[None]:
    def check(self: Guard, name: str, run: str, round_: int, nonce: str, ask: Ask, site: str) -> None:
        if name != site or run != ask.run:
            raise UpdateError("FR-R17", f"{site} answered as {name!r}", wanted="its own name")

    with swapped(Guard, "_check_answers", check):
        yield


@contextmanager
def late_reply_counted_twice() -> Iterator[None]:
    """What stood in for a site once goes on doing so."""
    own = Collection.stand_in
    kept: dict[Path, dict[str, Any]] = {}

    def stand_in(self: Collection) -> None:
        mine = kept.setdefault(self.plan.folder.path, {})
        self.late = {**mine, **self.late}
        mine |= self.late
        own(self)

    with swapped(Collection, "stand_in", stand_in):
        yield


@contextmanager
def quorum_by_sites_present() -> Iterator[None]:
    def short(self: Conduct, collection: Collection, sites: Any, opened: Any) -> TooFewSites | None:
        try:
            need(len(sites.training), self.plan.study.cohort.minimum, "are there", {})
        except TooFewSites as error:
            return error
        return None

    with swapped(Conduct, "_short", short):
        yield


BUGS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "sum in order of arrival": sum_in_order_of_arrival,
    "rename before fsync": rename_before_fsync,
    "budget charged after release": budget_charged_after_release,
    "nonce unchecked": nonce_unchecked,
    "late reply counted twice": late_reply_counted_twice,
    "quorum by sites present": quorum_by_sites_present,
}
