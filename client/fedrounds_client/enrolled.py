"""A real site: opened from its own folder. Of the coordinator's words only the signed request counts, and never its run
configuration."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fedrounds_client.caches import remember
from fedrounds_client.home import SiteHome, read_table
from fedrounds_client.lineage import secret_of
from fedrounds_client.permit import SitePermit, checked_digest
from fedrounds_client.settings import SiteSettings
from fedrounds_client.site import Parts, Site, parts_of_text
from fedrounds_client.waiting import drop, keep
from fedrounds_client.withdrawn import forget_withdrawn, withdrawn_patients
from fedrounds_common.disk import write_json
from fedrounds_common.errors import RefusedError
from fedrounds_common.leaving import Ask, signed_bytes
from fedrounds_sites.own import Own, open_own

if TYPE_CHECKING:
    from fedrounds_client.device import Device

# a person has to look (again): not permitted, policy changed, expired, used up
ASKS_AGAIN = {"FR-C02", "FR-C08", "FR-C09", "FR-C10", "FR-C32"}


def check_sender(home: SiteHome, header: str, buffer: bytes, signature: bytes) -> None:
    """Before a byte of a request is read. Raises RefusedError FR-C11: the coordinator's key did not sign it."""
    key = home.coordinator()
    if not key.holds(signed_bytes(header, buffer), signature):
        raise RefusedError(
            "FR-C11", "a request that the coordinator's key did not sign", wanted=f"a signature of {key.fingerprint}",
            do="tell the coordinator: somebody else may be sending in its place",
        )  # fmt: skip


def permitted(home: SiteHome, ask: Ask, now: datetime) -> tuple[SiteSettings, Parts, SitePermit]:
    """The site's settings, the study's parts and its permit, for a request whose sender was checked.

    Raises:
        RefusedError: it is not permitted; a study that a person has to look at (again) is kept waiting.
    """
    settings = home.read_settings()
    show_gpu(settings)
    checked_digest(ask)
    parts = parts_of_text(ask.study, settings.plugins, device_at(settings))
    permit = SitePermit(home, settings, parts.study, now)
    try:
        permit.check(ask)
    except RefusedError as error:
        if error.code in ASKS_AGAIN:
            keep(home, ask, home.coordinator().fingerprint, error.code, now)
        raise
    drop(home, ask.digest)
    return settings, parts, permit


def open_enrolled(home: SiteHome, ask: Ask, now: datetime | None = None, pieces: int = 1) -> tuple[Site, SitePermit]:
    """The site as it is today, for a request whose sender was checked; what is not permitted opens nothing.

    Raises:
        RefusedError: the permit, or what waits for one. DataError: the site's cases cannot be listed.
    """
    settings, parts, permit = permitted(home, ask, now or datetime.now(UTC))
    patients = withdrawn_patients(home)
    forget_withdrawn(home, patients, settings.cache)
    remember(home, settings.cache)
    folder = _run_folder(home, ask)
    own = open_own(own_of(settings), parts.study, folder, patients)
    site = Site(
        settings.name, folder, own.hospital, parts, pieces=pieces, books=home.folder, withdrawn=own.withdrawn,
        secret=secret_of(home, "replicates"),
    )  # fmt: skip
    return site, permit


def show_gpu(settings: SiteSettings) -> None:
    """Let this process see the GPU that the policy names and no other; it holds until CUDA is first used."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if settings.policy.gpu == "none" else settings.policy.gpu


def device_at(settings: SiteSettings) -> Device:
    """Where this site's networks run: on the GPU that its policy names, or on none."""
    return "cpu" if settings.policy.gpu == "none" else "cuda"


def check_again(home: SiteHome, ask: Ask) -> None:
    """As the permit, the policy and the clock are now that the work is done. Raises RefusedError: it must not leave."""
    settings = home.read_settings()
    study = parts_of_text(ask.study, settings.plugins).study
    SitePermit(home, settings, study, datetime.now(UTC)).check_again(ask)


def own_of(settings: SiteSettings) -> Own:
    return Own(settings.name, settings.data, settings.only, settings.plugins, settings.cache)


def _run_folder(home: SiteHome, ask: Ask) -> Path:
    """`runs/RUN`, which belongs to one study: its state must not become another's.

    Raises:
        RefusedError: FR-C22 the run has no name, or another study's files lie there.
    """
    folder, mark = home.runs / ask.run, home.runs / ask.run / "study.json"
    known = read_table(mark)
    if not ask.run or (known is not None and known.get("study") != ask.digest):
        raise RefusedError(
            "FR-C22", f"run {ask.run!r} of study {ask.digest[:12]}", wanted="a run name of this study's own",
            do="the coordinator must give every run another name",
        )  # fmt: skip
    if known is None:
        write_json(mark, {"study": ask.digest})
    return folder
