"""`fedrounds site join` and `fedrounds site doctor`: become part of a federation, and stay part of it."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrounds.cli.doctor import STYLE
from fedrounds.cli.frame import SITE_FOLDER, Answer, Settings, say, table, verb
from fedrounds_common.errors import DONE, FedroundsError, NetworkError, UsageError

if TYPE_CHECKING:
    from fedrounds_client.home import SiteHome
    from fedrounds_client.join.invitation import Invitation

Folder = Annotated[Path | None, SITE_FOLDER]


def register(site: typer.Typer) -> None:
    _register_join(site)
    _register_doctor(site)


def _register_join(site: typer.Typer) -> None:
    @verb(site, "join")
    def join(
        invitation: Annotated[
            Path | None, typer.Argument(metavar="INVITATION", help="What the coordinator sent; left out: the one kept.")
        ] = None,
        folder: Folder = None,
        reader: Annotated[str, typer.Option("--reader", help="For a new site: how its images are stored.")] = "",
        data: Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Where they lie.")] = None,
        settings: Settings = None,
        cases: Annotated[
            int, typer.Option("--cases", min=0, help="The most it brings into a round; 0: as many as the reader lists.")
        ] = 0,
        detach: Annotated[bool, typer.Option("--detach", help="Go on in the background.")] = False,
        systemd: Annotated[
            bool, typer.Option("--systemd", help="Write a unit for systemd, and start nothing.")
        ] = False,
    ) -> Answer:
        """Join a federation and stay joined: enrol once, then answer the coordinator until this is ended.

        Only outgoing connections are made, to the one address in the invitation. Nothing is allowed by joining:
        a study asks first (`site review`, `site allow`).
        """
        from fedrounds_client.join.supernode import accept
        from fedrounds_client.join.unit import unit_of

        os.umask(0o077)
        home = _home(folder, invitation, reader, data, settings or [])
        kept = accept(home, invitation or home.invitation)
        _introduce(home, kept)
        if systemd:
            file = home.folder / f"fedrounds-{kept.site}.service"
            file.write_text(unit_of(home, pwd.getpwuid(os.getuid()).pw_name), encoding="utf-8")
            return Answer({"unit": file}, f"{file}\ncopy it to /etc/systemd/system/ and enable it; its head says how")
        brought = cases or _listed(home)
        facts = {"site": kept.site, "folder": home.folder, "fingerprint": home.key.public.fingerprint, "cases": brought}
        return _detached(home, facts) if detach else _stay(home, facts)


def _home(folder: Path | None, file: Path | None, reader: str, data: Path | None, settings: list[str]) -> SiteHome:
    """The site's folder; made if it is not there and the invitation says whose it is."""
    from fedrounds_client.founding import found
    from fedrounds_client.home import SiteHome
    from fedrounds_client.join.invitation import read_invitation

    here = folder or Path()
    if (here / "site.toml").is_file():
        if reader or data or settings:
            raise UsageError(
                "FR-C28", "a site is here already", do="change its site.toml by hand", where=str(here.resolve())
            )
        return SiteHome(here.resolve())
    if file is None or not (reader or settings):
        raise UsageError(
            "FR-C23", "there is no site.toml", wanted="a site's folder", where=str(here.resolve()),
            do="name it with --site; or for a new one: INVITATION --reader NAME --data DIR",
        )  # fmt: skip
    name = read_invitation(file).site
    root = [f"data.root={data.resolve()}"] if data is not None else []
    return found(folder or Path(name), name, reader or "nifti_folder", [*root, *settings])


def _introduce(home: SiteHome, invitation: Invitation) -> None:
    say(f"site {invitation.site} in {home.folder}; coordinator at {invitation.address}")
    say("Compare both by telephone, with a number that did not come with the invitation:")
    say(f"  the coordinator's key  {invitation.coordinator.fingerprint}")
    say(f"  this site's key        {home.key.public.fingerprint}")


def _listed(home: SiteHome) -> int:
    """How many cases the site's reader lists, of this site's own group."""
    from fedrounds_sites.simulation import READERS

    settings = home.read_settings()
    try:
        reader = READERS.load(settings.data, settings.plugins)
        refs = reader.cases(reader.own_form)
    except FedroundsError as error:
        raise UsageError(
            "FR-C33", f"how many cases it could bring cannot be counted: {error}", do="mend that, or say it: --cases N"
        ) from error
    only, apart = settings.only, reader.set_apart
    return sum(ref.site == only if only else ref.site not in apart for ref in refs)


def _stay(home: SiteHome, facts: dict[str, object]) -> Answer:
    from fedrounds_client.join.supernode import run, stopping

    with stopping() as stop:
        run(home, say, stop, int(str(facts["cases"])))
    return Answer(facts, "ended; the site is still enrolled, and `fedrounds site join` goes on")


def _detached(home: SiteHome, facts: dict[str, object]) -> Answer:
    from fedrounds_client.join.supernode import runs

    if runs(home):
        raise UsageError("FR-E46", "this site is joined already by another process", where=str(home.folder))
    log = home.folder / "join.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedrounds_client.join.supernode", str(home.folder), str(facts["cases"])],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    made = {**facts, "process": process.pid, "log": log}
    return Answer(made, f"goes on as process {process.pid}; what it says is in {log}\nto end it: kill {process.pid}")


def _register_doctor(site: typer.Typer) -> None:
    @verb(site, "doctor")
    def doctor(
        folder: Folder = None,
        up: Annotated[bool, typer.Option("--up", help="Only: is it joined and connected? For a health check.")] = False,
    ) -> Answer:
        """Check this site: files, keys, clock, certificate, memory, disk, walls, and the way to the coordinator."""
        from rich.text import Text

        from fedrounds.health_site import examine_site, is_up, status_of
        from fedrounds_client.home import SiteHome

        home = SiteHome((folder or Path()).resolve())
        if up:
            joined = is_up(home)
            status = DONE if joined else NetworkError.exit_status
            return Answer({"up": joined}, "connected" if joined else "not connected", status)
        findings = examine_site(home)
        rows = [(Text(f.level, STYLE[f.level]), f.what, f.found, f.do) for f in findings]
        shown = table(("", "what", "found", "do"), rows)
        return Answer({"findings": [asdict(f) for f in findings]}, shown, status_of(findings))
