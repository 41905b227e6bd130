"""`fedrounds site …`: what a hospital is, what asks to run there, what is allowed, and what has left."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrounds.cli import site_join
from fedrounds.cli.frame import SITE_FOLDER, Answer, Settings, group, table, verb
from fedrounds_common.errors import UsageError

if TYPE_CHECKING:
    from fedrounds_client.home import SiteHome
    from fedrounds_client.permits import Said

Folder = Annotated[Path, SITE_FOLDER]
Studies = Annotated[str, typer.Argument(metavar="STUDY", help="The beginning of the study's digest.")]
OptionalStudy = Annotated[
    str, typer.Argument(metavar="STUDY", help="The beginning of the study's digest; left out: all that wait.")
]
HERE = Path()


def register(app: typer.Typer) -> None:
    site = group("Run a hospital's side: who asks, what is allowed, what has left.")
    app.add_typer(site, name="site", rich_help_panel="The jobs")
    _register_init(site)
    site_join.register(site)
    _register_review(site)
    _register_answers(site)
    _register_stops(site)
    _register_books(site)
    _register_lineage(app)


def _opened(folder: Path) -> SiteHome:
    from fedrounds_client.home import SiteHome

    os.umask(0o077)  # nothing of a site is other accounts' to read
    home = SiteHome(folder.resolve())
    home.read_settings()
    return home


def _register_init(site: typer.Typer) -> None:
    @verb(site, "init")
    def init(
        folder: Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder, empty or new.")],
        name: Annotated[str, typer.Option("--name", help="The site's name, as the study names it.")],
        reader: Annotated[str, typer.Option("--reader", help="How the images are stored.", show_default=True)] = (
            "nifti_folder"
        ),
        settings: Settings = None,
    ) -> Answer:
        """Make a site's folder: site.toml, keys, and nothing that is allowed yet.

        -s data.root=/images says where the images are; every other value can be set so too, or later in site.toml.
        """
        from fedrounds_client.founding import found

        os.umask(0o077)
        home = found(folder, name, reader, settings or [])
        data = {"folder": home.folder, "name": name, "fingerprint": home.key.public.fingerprint}
        text = (
            f"site {name} in {home.folder}\n"
            f"its key: {home.key.public.fingerprint}\n"
            f"next: look through {home.site_toml.name}, then `fedrounds site join INVITATION --site {folder}`"
        )
        return Answer(data, text)


def _register_review(site: typer.Typer) -> None:
    @verb(site, "review")
    def review(
        study: OptionalStudy = "",
        folder: Folder = HERE,
        tried: Annotated[
            bool, typer.Option("--try", help="Do one round without network and write the very bytes into a folder.")
        ] = False,
    ) -> Answer:
        """Show which studies ask to run here: who asks, which cases, what would leave, what it costs."""
        from fedrounds_client.consent import screen
        from fedrounds_client.review import review as look
        from fedrounds_client.tried import try_out
        from fedrounds_client.waiting import find, waiting

        home = _opened(folder)
        settings = home.read_settings()
        asked = [find(home, study)] if study else list(waiting(home))
        pages = {each.study: str(try_out(home, each)) for each in asked} if tried else {}
        found = [look(home, settings, each) for each in asked]
        screens = [
            screen(each) + (f"\ntried: open {pages[each.study]}" if each.study in pages else "") for each in found
        ]
        data = {"site": settings.name, "waiting": [asdict(each) for each in found], "pages": pages}
        return Answer(data, "\n\n".join(screens) or "no study waits; one that asks will be shown here")


def _register_answers(site: typer.Typer) -> None:
    @verb(site, "allow")
    def allow(
        study: OptionalStudy = "",
        folder: Folder = HERE,
        everything: Annotated[bool, typer.Option("--all", help="Every study that waits.")] = False,
        rounds: Annotated[int | None, typer.Option("--rounds", help="At most so many from now on.")] = None,
        until: Annotated[str, typer.Option("--until", metavar="DATE", help="Until then, e.g. 2027-03-31.")] = "",
    ) -> Answer:
        """Allow a study, as it is to the byte, for a number of rounds and a time; signed with the site's key."""
        from fedrounds_client.deciding import allow as say_yes
        from fedrounds_client.deciding import text_of
        from fedrounds_client.waiting import waiting

        if bool(study) == everything:
            raise UsageError("FR-C31", "a study and --all, or neither", wanted="STUDY, or --all")
        home, end = _opened(folder), _date(until)
        settings = home.read_settings()
        texts = [each.text for each in waiting(home)] if everything else [text_of(home, settings, study)]
        return _answered([say_yes(home, settings, text, rounds, end) for text in texts])

    @verb(site, "refuse")
    def refuse(study: Studies, folder: Folder = HERE) -> Answer:
        """Refuse a study; the coordinator is told so, and it waits no more."""
        from fedrounds_client.deciding import refuse as say_no
        from fedrounds_client.deciding import text_of

        home = _opened(folder)
        settings = home.read_settings()
        return _answered([say_no(home, settings, text_of(home, settings, study))])


def _date(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        raise UsageError("FR-C30", f"--until {text!r}", wanted="a date, e.g. 2027-03-31") from error


def _answered(said: list[Said]) -> Answer:
    lines = [
        f"{'allowed' if each.allowed else 'refused'} {each.study[:12]}"
        + (f" for {each.rounds} rounds until {each.until[:16]} UTC" if each.allowed else "")
        for each in said
    ]
    shown = [{name: value for name, value in asdict(each).items() if name != "text"} for each in said]
    return Answer({"said": shown}, "\n".join(lines) or "no study waits: nothing was allowed")


def _register_stops(site: typer.Typer) -> None:
    @verb(site, "pause")
    def pause(folder: Folder = HERE) -> Answer:
        """Answer no request until `resume`; what runs now ends by itself."""
        from fedrounds_client.deciding import pause as stop

        new = stop(_opened(folder))
        return Answer({"paused": True, "changed": new}, "paused" if new else "it was paused already")

    @verb(site, "resume")
    def resume(folder: Folder = HERE) -> Answer:
        """End a pause."""
        from fedrounds_client.deciding import resume as go_on

        ended = go_on(_opened(folder))
        return Answer({"paused": False, "changed": ended}, "goes on" if ended else "it was not paused")

    @verb(site, "leave")
    def leave(folder: Folder = HERE) -> Answer:
        """Leave for good: answer nobody, and delete prepared images and received models.

        What was summed into a consensus cannot be taken out again. Journal, ledger and permits stay.
        """
        from fedrounds_client.consent import size
        from fedrounds_client.deciding import leave as go

        freed = go(_opened(folder))
        return Answer({"left": True, "bytes_deleted": freed}, f"left; {size(freed)} deleted, journal and ledger kept")


def _register_books(site: typer.Typer) -> None:
    @verb(site, "outbox")
    def outbox(folder: Folder = HERE) -> Answer:
        """List every payload that left this site: purpose, bytes, SHA-256."""
        from fedrounds_client.ledger import entries

        lines = entries(_opened(folder).outbox)
        rows = [(line["kind"], line["says"].get("run", ""), line["purpose"], line["bytes"], line["sha256"][:16])
                for line in lines]  # fmt: skip
        text = table(("kind", "run", "purpose", "bytes", "sha256"), rows) if rows else "nothing has left"
        return Answer({"payloads": lines, "bytes": sum(line["bytes"] for line in lines)}, text)

    @verb(site, "journal")
    def journal(
        folder: Folder = HERE,
        verify: Annotated[bool, typer.Option("--verify", help="Check every line, permit and payload.")] = False,
    ) -> Answer:
        """Show what was asked, allowed, refused and done here; --verify says whether anything was changed since."""
        from fedrounds_client.journal import read_journal
        from fedrounds_client.verifying import verify_books

        home = _opened(folder)
        if verify:
            books = verify_books(home)
            text = (
                f"whole: {books.lines} lines, {books.permits} permits, {books.payloads} payloads\n"
                f"the last line's sum, to be kept elsewhere: {books.head}"
            )
            return Answer(asdict(books), text)
        lines = read_journal(home)
        rows = [(line["n"], line["time"], line["event"], _facts(line["facts"])) for line in lines]
        return Answer({"lines": lines}, table(("", "time", "event", ""), rows) if rows else "nothing happened yet")


def _facts(facts: dict[str, object]) -> str:
    from fedrounds_client.consent import plain

    long = {"study", "sent", "update"}  # digests: twelve digits tell them apart
    return plain("  ".join(f"{name} {str(value)[:12] if name in long else value}" for name, value in facts.items()))


def _register_lineage(app: typer.Typer) -> None:
    @verb(app, "lineage", "The jobs")
    def lineage(
        pseudonym: Annotated[str, typer.Argument(help="A patient, as the site's reader names them.")],
        folder: Folder = HERE,
    ) -> Answer:
        """Say which rounds trained on a patient's images, and so which versions of a consensus hold a trace of them."""
        from fedrounds_client.lineage import sights

        found = sights(_opened(folder), pseudonym)
        trained: dict[str, int] = {}
        for each in found:
            if each.event == "trained":
                trained[each.run] = min(each.round, trained.get(each.run, each.round))
        lines = [
            f"run {run}: the consensus of round {first} and of every later round" for run, first in trained.items()
        ]
        text = "\n".join(lines) or "no round here has trained on this patient's images"
        judged = sum(each.event == "judged" for each in found)
        more = f"\n{judged} judgings used them, which changes no model" if judged else ""
        for run, round_ in sorted({(each.run, each.round) for each in found if each.event == "summed"}):
            into = (
                f"after round {round_}, and so in the model of its end" if round_ else "before round 1, and so in all"
            )
            more += f"\nrun {run}: in what sums over all sites settled {into}"
        return Answer({"sights": [asdict(each) for each in found], "first_round": trained}, text + more)
