"""`fedrounds study new | check | show | landmarks | dpia`: write a study, find its faults, see every value it has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from fedrounds.cli.files import built_in_studies, open_study, study_path
from fedrounds.cli.frame import Answer, Plugins, Settings, console, group, verb
from fedrounds.cli.steps import Steps
from fedrounds_common.errors import StudyError, UsageError

TEMPLATES = Path(__file__).parent / "templates"
LIKE = tuple(sorted(file.stem for file in TEMPLATES.glob("*.toml")))  # a new one is one file

StudyName = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study file, or the name of a built-in study.", autocompletion=built_in_studies)
]  # fmt: skip
OptionalStudy = Annotated[
    str | None, typer.Argument(metavar="STUDY", help="A study file, or the name of a built-in study.", autocompletion=built_in_studies)
]  # fmt: skip


def register(app: typer.Typer) -> None:
    study = group("Write a study, find its faults, see every value it has.")
    app.add_typer(study, name="study", rich_help_panel="Studies")
    _register_new(study)
    _register_check(study)
    _register_show(study)
    _register_landmarks(study)
    _register_dpia(study)


def _register_new(study: typer.Typer) -> None:
    @verb(study, "new")
    def new(
        file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("study.toml"),
        like: Annotated[
            str,
            typer.Option(click_type=click.Choice(LIKE), help="Where the images come from, or what is learned of them."),
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
        file: StudyName,
        data: Annotated[bool, typer.Option("--data", help="Also build the network and read every case.")] = False,
        strict: Annotated[bool, typer.Option("--strict", help="Take advice for faults.")] = False,
        settings: Settings = None,
        plugins: Plugins = None,
    ) -> Answer:
        """List every fault of a study, with line, value and what is wanted."""
        from fedrounds_common.study.advice import advice
        from fedrounds_common.study.canonical import digest

        read, _ = open_study(file, settings, plugins)
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
        return _with_data(file, settings, plugins, answer, lines)


def _with_data(
    file: str, settings: list[str] | None, plugins: list[Path] | None, answer: dict[str, Any], lines: list[str]
) -> Answer:
    from fedrounds.checking import check_data
    from fedrounds.simulation import prepare

    prepared = prepare(study_path(file), settings or (), plugins or ())
    with Steps(console(sys.stderr)) as listen:
        found = check_data(prepared, listen)
    return Answer(answer | found.as_dict(), "\n".join([*lines, found.text()]), found.exit)


def _register_show(study: typer.Typer) -> None:
    @verb(study, "show")
    def show(file: StudyName, settings: Settings = None, plugins: Plugins = None) -> Answer:
        """Print every value of a study with where it comes from: a line, a default, the command line."""
        from fedrounds_common.study.canonical import agreed_tables, digest, resolved_toml
        from fedrounds_common.study.check import plain

        read, simulation = open_study(file, settings, plugins)
        rehearsal = plain(simulation)
        # each plug-in's own defaults too, as the agreed half has them
        rehearsal["reader"] = {"name": rehearsal["reader"]["name"], **plain(simulation.build_reader(plugins or ()))}
        rehearsal["partition"] = {
            "name": rehearsal["partition"]["name"],
            **plain(simulation.build_partition(plugins or ())),
        }
        text = resolved_toml(read.study, rehearsal, read.origins)
        values = agreed_tables(read.study) | {"simulation": rehearsal}
        return Answer({"study": values, "origins": dict(read.origins), "digest": digest(read.study)}, text)


def _register_landmarks(study: typer.Typer) -> None:
    @verb(study, "landmarks")
    def landmarks(file: StudyName, settings: Settings = None, plugins: Plugins = None) -> Answer:
        """Learn a histogram standard (Nyúl and Udupa) from the cases that train, as lines for [cases]."""
        from fedrounds.simulation import prepare
        from fedrounds.standard import learn_landmarks

        found = learn_landmarks(prepare(study_path(file), settings or (), plugins or ()))
        bad = f"; {found.bad} could not be read: `fedrounds study check {file} --data`" if found.bad else ""
        said = f"# learned from {found.cases} cases of {found.sites} sites{bad}\n{found.as_toml()}"
        answer = {"landmarks": {name: list(values) for name, values in found.landmarks.items()}, "cases": found.cases}
        return Answer(answer | {"sites": found.sites, "bad": found.bad}, said, found.exit)


def _register_dpia(study: typer.Typer) -> None:
    @verb(study, "dpia")
    def dpia(
        file: StudyName,
        site: Annotated[
            Path | None, typer.Option("--site", metavar="DIR", help="A site's folder: what its books say goes in too.")
        ] = None,
        out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write it there.")] = None,
        settings: Settings = None,
        plugins: Plugins = None,
    ) -> Answer:
        """Fill in a data protection impact assessment (GDPR Art. 35) as far as study and books know."""
        from fedrounds.assessment import assessment
        from fedrounds_common.disk import write_text

        if out is not None and out.exists():
            raise UsageError("FR-U10", "there is a file already", do="name another", where=str(out))
        text = assessment(open_study(file, settings, plugins)[0].study, plugins or (), site)
        if out is None:
            return Answer({"text": text}, text)
        write_text(out, text)
        return Answer({"text": text, "file": str(out)}, f"{out} is written; what is marked TO FILL IN, people know")
