"""`fedrounds coordinator …`: run a federation of real hospitals.

From nothing to a running federation: init, invite, start, enrol, submit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrounds.cli import coordinator_runs
from fedrounds.cli.coordinator_folder import HERE, Folder, agreed_half, at, flower_of
from fedrounds.cli.frame import Answer, group, say, verb
from fedrounds_common.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from fedrounds_server.coordinator.enrolment import Request
    from fedrounds_server.coordinator.folder import CoordinatorFolder

SiteNames = Annotated[list[str], typer.Argument(metavar="SITE…", help="Names of hospitals.")]


def register(app: typer.Typer) -> None:
    coordinator = group("Run a federation of real hospitals: init, invite, start, enrol, submit.")
    app.add_typer(coordinator, name="coordinator", rich_help_panel="The jobs")
    _register_init(coordinator)
    _register_invite(coordinator)
    _register_start(coordinator)
    _register_enrol(coordinator)
    coordinator_runs.register(coordinator)
    _register_revoke(coordinator)
    _register_renew(coordinator)


def _register_init(coordinator: typer.Typer) -> None:
    @verb(coordinator, "init")
    def init(
        address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="What hospitals will dial.")],
        folder: Folder = HERE,
        name: Annotated[str, typer.Option(help="Of the coordinator, as hospitals will read it.")] = "",
        bind: Annotated[
            str, typer.Option(metavar="HOST:PORT", help="Where to listen; else every address, that port.")
        ] = "",
        superlink_port: Annotated[int, typer.Option(help="For Flower, on this machine's loopback only.")] = 39092,
        also: Annotated[
            list[str] | None,
            typer.Option("--also", metavar="NAME", help="Another host name or address of this machine."),
        ] = None,
    ) -> Answer:
        """Make the coordinator's folder: its certificate authority, its certificate, its signing key."""
        from fedrounds_server.coordinator.setup import create

        made = create(at(folder), address, name, bind, superlink_port, also or ())
        print_at = made.public.fingerprint
        return Answer(
            {"folder": str(folder), "address": address, "fingerprint": print_at},
            f"{folder} is made. Hospitals will ask for this coordinator's fingerprint by telephone:\n  {print_at}\n"
            "Back up keys/ where nobody else can read it. Next: fedrounds coordinator invite SITE…",
        )


def _register_invite(coordinator: typer.Typer) -> None:
    @verb(coordinator, "invite")
    def invite(
        sites: SiteNames,
        folder: Folder = HERE,
        out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go.")] = Path(),
        study: Annotated[
            str | None, typer.Option(metavar="STUDY", help="The study it is for; others stay possible.")
        ] = None,
        days: Annotated[float, typer.Option(min=0.01, max=365, help="How long an invitation may be used.")] = 14,
    ) -> Answer:
        """Write a signed invitation for each hospital; each works once."""
        from fedrounds_common.study.canonical import digest
        from fedrounds_server.coordinator.folder import checked_site
        from fedrounds_server.coordinator.invitation import invite as written

        for site in sites:
            checked_site(site)
        asked = "" if study is None else digest(agreed_half(study).study)
        files = {site: written(at(folder), site, out, asked, days) for site in sites}
        lines = [f"  {site}: {file}" for site, file in files.items()]
        return Answer(
            {"invitations": {site: str(file) for site, file in files.items()}},
            "\n".join([*lines, "Send each to its hospital only. There: fedrounds site join FILE"]),
        )


def _register_start(coordinator: typer.Typer) -> None:
    @verb(coordinator, "start")
    def start(
        folder: Folder = HERE,
        detach: Annotated[
            bool, typer.Option("--detach", help="Return once all is up; it goes on without a terminal.")
        ] = False,
    ) -> Answer:
        """Start the SuperLink on loopback and the front for hospitals, and keep both up."""
        from fedrounds_server.coordinator.supervisor import keep_up

        here = at(folder)
        if detach:
            return _started(here)
        keep_up(here, say)
        return Answer({"folder": str(folder), "state": "stopped"}, "The coordinator is down.")


def _started(folder: CoordinatorFolder) -> Answer:
    """A supervisor of its own session, once it is ready; or what it said when it ended."""
    from fedrounds_server.coordinator.supervisor import check_before_start, wait_until_up

    settings, warned = check_before_start(folder)
    for line in warned:
        say(f"warning: {line}")
    log = folder.logs / "supervisor.log"
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedrounds_server.coordinator.supervisor", str(folder.path)],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    wait_until_up(folder, process, log)
    return Answer(
        {"folder": str(folder.path), "state": "up", "pid": process.pid, "address": settings.address},
        f"{settings.name} is up: hospitals dial {settings.address}. It ends with: fedrounds coordinator stop",
    )


def _register_enrol(coordinator: typer.Typer) -> None:
    @verb(coordinator, "enrol")
    def enrol(
        sites: Annotated[
            list[str], typer.Argument(metavar="SITE|FILE…", help="Hospitals whose requests wait, or requests as files.")
        ],
        folder: Folder = HERE,
        fingerprint: Annotated[
            list[str] | None,
            typer.Option(
                "--fingerprint", metavar="4f1c-…", help="As the hospital reads it out; one for each site, in order."
            ),
        ] = None,
        wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Wait so long for requests to come.")] = 0,
    ) -> Answer:
        """Let hospitals in, once their fingerprint was compared by telephone."""
        from fedrounds_common.signing import SigningKey
        from fedrounds_server.coordinator.enrolment import (
            carried_request,
            check_fingerprint,
            check_version,
            unlike_versions,
            waiting_request,
        )
        from fedrounds_server.coordinator.enrolment import enrol as let_in

        here = at(folder)
        flower = flower_of(here)
        given = _one_each(sites, fingerprint)
        own = SigningKey.load(here.signing_key).public.fingerprint
        requests = [
            carried_request(here, Path(one)) if _is_file(one) else waiting_request(here, one, wait) for one in sites
        ]
        for request, told in zip(requests, given, strict=True):
            if told is not None:
                check_fingerprint(request, told)  # all before the first is let in
            check_version(request)
            for line in unlike_versions(request):
                say(f"warning: {request.site} has {line}: results may differ in their last bits")
        done = []
        for request, told in zip(requests, given, strict=True):
            done.append(let_in(here, request, told if told is not None else _confirmed(request, own), flower))
        lines = [f"{one.site} is enrolled: {one.key.fingerprint}, at most {one.cases} cases a round" for one in done]
        return Answer(
            {"sites": [{"site": one.site, "fingerprint": one.key.fingerprint, "cases": one.cases} for one in done]},
            "\n".join(lines),
        )


def _one_each(sites: Sequence[str], fingerprints: Sequence[str] | None) -> Sequence[str | None]:
    if not fingerprints:
        return [None] * len(sites)
    if len(fingerprints) != len(sites):
        raise UsageError(
            "FR-U74",
            f"{len(fingerprints)} fingerprints for {len(sites)} sites",
            wanted="--fingerprint for each, in order",
        )
    return fingerprints


def _is_file(word: str) -> bool:
    return "/" in word or Path(word).is_file()


def _confirmed(request: Request, own: str) -> str:
    """Ask the operator to compare; the fingerprint if the answer is yes."""
    say(f"{request.site} asks to be enrolled, with at most {request.cases} cases a round.")
    say(f"  its versions:     {', '.join(f'{name} {found}' for name, found in sorted(request.versions.items()))}")
    say(f"  its fingerprint:  {request.key.fingerprint}")
    say(f"  ours, for them:   {own}")
    if not sys.stdin.isatty():
        raise UsageError("FR-U74", "nobody can be asked here", wanted="a terminal", do="or give it with --fingerprint")
    if not typer.confirm(
        f"Does somebody at {request.site} whom you know read out the same two?", default=False, err=True
    ):
        raise RefusedError("FR-U74", f"{request.site} is not enrolled", do="nothing was changed")
    return request.key.fingerprint


def _register_revoke(coordinator: typer.Typer) -> None:
    @verb(coordinator, "revoke")
    def revoke(sites: SiteNames, folder: Folder = HERE) -> Answer:
        """Believe nothing of a hospital's keys from now on."""
        from fedrounds_server.coordinator.enrolment import revoke as taken_off
        from fedrounds_server.coordinator.register import entry_of

        here = at(folder)
        flower = flower_of(here)
        entries = [entry_of(here, site) for site in sites]
        for entry in entries:
            _, trouble = taken_off(here, entry, flower)
            if trouble:
                say(f"warning: {entry.site} is off the register, and off Flower's list at the next start: {trouble}")
        return Answer(
            {"revoked": list(sites)},
            "\n".join(f"{site} is revoked: nothing that its keys sign is used any more." for site in sites),
        )


def _register_renew(coordinator: typer.Typer) -> None:
    @verb(coordinator, "renew")
    def renew(folder: Folder = HERE) -> Answer:
        """Make a new server certificate of the same authority. Hospitals need do nothing."""
        from fedrounds_server.coordinator.setup import renew as renewed

        end, told = renewed(at(folder))
        then = "The front shows it from now on." if told else "The next start shows it."
        return Answer(
            {"until": end.until.isoformat(timespec="seconds"), "front_restarted": told},
            f"The server certificate is new, until {end.until:%Y-%m-%d}. {then}",
        )
