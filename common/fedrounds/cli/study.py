"""`fedrounds study new | check | show`: write a study, find its faults, see every value it has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from fedrounds.cli.files import built_in_studies, open_study
from fedrounds.cli.frame import Answer, Plugins, Settings, group, say, table, verb
from fedrounds_common.errors import DONE, StudyError, UsageError

if TYPE_CHECKING:
    from fedrounds_common.study.parse import StudyFile
    from fedrounds_sites.simulation import Simulation

TEMPLATES = Path(__file__).parent / "templates"
LIKE = ("phantom", "nifti", "pairs", "dicom")

File = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study file, or the name of a built-in study.", autocompletion=built_in_studies)
]  # fmt: skip


def register(app: typer.Typer) -> None:
    study = group("Write a study, find its faults, see every value it has.")
    app.add_typer(study, name="study", rich_help_panel="Studies")
    _register_new(study)
    _register_check(study)
    _register_show(study)


def _register_new(study: typer.Typer) -> None:
    @verb(study, "new")
    def new(
        file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("study.toml"),
        like: Annotated[
            str, typer.Option(click_type=click.Choice(LIKE), help="Where the images come from.")
        ] = "phantom",
        force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    ) -> Answer:
        """Write a study that is valid as it stands, with a comment on every choice."""
        text = (TEMPLATES / f"{like}.toml").read_text(encoding="utf-8")
        if file.exists() and not force:
            raise UsageError("FR-U10", "there is a file already", do="name another, or add --force", where=str(file))
        if not file.parent.is_dir():
            raise UsageError("FR-U11", "there is no such folder", do="make it first", where=str(file.parent))
        file.write_text(text, encoding="utf-8")
        then = f"fedrounds study check {file}{'' if like == 'phantom' else ' --data'}"
        return Answer({"file": file, "like": like}, f"{file} is written. Change what you like, then: {then}")


def _register_check(study: typer.Typer) -> None:
    @verb(study, "check")
    def check(
        file: File,
        data: Annotated[bool, typer.Option("--data", help="Also build the network and read every case.")] = False,
        strict: Annotated[bool, typer.Option("--strict", help="Take advice for faults.")] = False,
        settings: Settings = None,
        plugins: Plugins = None,
    ) -> Answer:
        """List every fault of a study, with line, value and what is wanted."""
        from fedrounds_common.study.advice import advice
        from fedrounds_common.study.canonical import digest

        read, simulation = open_study(file, settings, plugins)
        advised = advice(read)
        if strict and advised:
            raise StudyError(str(read.path), advised)
        answer = {"file": str(read.path), "digest": digest(read.study), "advice": [str(fault) for fault in advised]}
        lines = [
            f"{read.path}: no faults; digest {digest(read.study)[:12]}",
            *(f"  advice: {fault}" for fault in advised),
        ]
        if not data:
            return Answer(answer, "\n".join(lines))
        return _with_data(read, simulation, list(plugins or ()), answer, lines)


def _with_data(
    read: StudyFile, simulation: Simulation, folders: list[Path], answer: dict[str, Any], lines: list[str]
) -> Answer:
    from fedrounds.check import check_data
    from fedrounds_common.errors import DataError

    say("building the network and reading every case …")
    found = check_data(read.study, simulation, folders)
    rows = [(site.name, site.cases, site.cases - len(site.bad)) for site in found.sites]
    bad = [(site.name, error) for site in found.sites for error in site.bad]
    answer |= {
        "parameters": found.parameters,
        "sites": [{"name": name, "cases": cases, "usable": usable} for name, cases, usable in rows],
        "bad": [{"site": site, "case": error.case, "code": error.code, "message": str(error)} for site, error in bad],
    }
    from rich.console import Group

    tail = f"{len(bad)} of {sum(row[1] for row in rows)} cases cannot be used" if bad else "every case can be used"
    text = Group(
        "\n".join(lines),
        f"network: {found.parameters:,} parameters",
        table(("site", "cases", "usable"), rows),
        *(f"{site}: {error}" for site, error in bad),
        tail,
    )
    return Answer(answer, text, DataError.exit_status if bad else DONE)


def _register_show(study: typer.Typer) -> None:
    @verb(study, "show")
    def show(file: File, settings: Settings = None, plugins: Plugins = None) -> Answer:
        """Print every value of a study with where it comes from: a line, a default, the command line."""
        from fedrounds_common.study.canonical import agreed_tables, digest, resolved_toml
        from fedrounds_common.study.check import plain

        read, simulation = open_study(file, settings, plugins)
        rehearsal = plain(simulation)
        # each plug-in's own defaults too, as the agreed half has them
        rehearsal["reader"] = {"name": rehearsal["reader"]["name"], **plain(simulation.build_reader(plugins or ()))}
        rehearsal["partition"] = {"name": rehearsal["partition"]["name"], **plain(simulation.build_partition())}
        text = resolved_toml(read.study, rehearsal, read.origins)
        values = agreed_tables(read.study) | {"simulation": rehearsal}
        return Answer({"study": values, "origins": dict(read.origins), "digest": digest(read.study)}, text)
