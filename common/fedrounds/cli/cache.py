"""`fedrounds cache FOLDER`: prepared cases that are kept from run to run: how many, whole or not, and away with them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedrounds.cli.frame import SITE_FOLDER, Answer, say, verb
from fedrounds_common.errors import DONE, DataError, UsageError


def register(app: typer.Typer) -> None:
    @verb(app, "cache", "Help")
    def cache(
        folder: Annotated[
            Path | None, typer.Argument(metavar="FOLDER", help="What [simulation] cache names; else the site's.")
        ] = None,
        site: Annotated[Path, SITE_FOLDER] = Path(),
        check: Annotated[
            bool, typer.Option("--check", help="Read every case and hold it against its checksum.")
        ] = False,
        clear: Annotated[bool, typer.Option("--clear", help="Delete them all; the next run prepares anew.")] = False,
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask before deleting.")] = False,
    ) -> Answer:
        """Show what a folder keeps of prepared cases: patients' images, for the account alone that made them."""
        from fedrounds_client.consent import size
        from fedrounds_sites.cache import CaseStore
        from fedrounds_sites.cache_lock import unused

        if check and clear:
            raise UsageError("FR-U13", "--check and --clear", wanted="one of the two")
        store = CaseStore(folder if folder is not None else _of_site(site))
        if not store.folder.is_dir():
            raise UsageError(
                "FR-U92", "there is no such folder", wanted="one that keeps cases", where=str(store.folder)
            )
        refs = [ref for _, ref in store.refs()]
        patients, held = len({ref.patient for ref in refs if ref is not None}), store.bytes
        data = {"folder": store.folder, "cases": len(refs), "patients": patients, "bytes": held}
        text = f"{store.folder}\n{len(refs)} prepared cases of {patients} patients, {size(held)}"
        if check:
            damaged = store.damaged()
            data["damaged"] = list(damaged)
            text += (
                f"\n{len(damaged)} are damaged, and are made anew when a run asks for them"
                if damaged
                else "\nall whole"
            )
            return Answer(data, text, DataError.exit_status if damaged else DONE)
        if clear:
            with unused(store.folder):
                if not yes:
                    _confirm(text)
                data["deleted"] = store.clear()
            text += f"\n{data['deleted']} files deleted"
        return Answer(data, text)


def _confirm(what: str) -> None:
    """Raises UsageError FR-U97: nobody can be asked, or the answer is no."""
    say(what)
    if not sys.stdin.isatty():
        raise UsageError("FR-U97", "nobody can be asked here", wanted="a terminal", do="or delete them with --yes")
    if not typer.confirm("Delete them all?", default=False, err=True):
        raise UsageError("FR-U97", "they are kept", do="nothing was changed")


def _of_site(site: Path) -> Path:
    from fedrounds_client.home import SiteHome

    found = SiteHome(site.resolve()).read_settings().cache
    if found is None:
        raise UsageError("FR-U92", "this site keeps no cases between runs", wanted="[machine] cache in site.toml")
    return found
