"""`fedrounds coordinator submit | status | stop | resume`: a federation's runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrounds.cli.coordinator_folder import HERE, Folder, agreed_half, at, flower_of
from fedrounds.cli.frame import Answer, Settings, say, table, verb
from fedrounds.cli.runs import run_path
from fedrounds.cli.study import StudyName

if TYPE_CHECKING:
    from fedrounds_server.coordinator.flower import Flower
    from fedrounds_server.coordinator.status import Status

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, its number, or latest.")]


def register(coordinator: typer.Typer) -> None:
    _register_submit(coordinator)
    _register_status(coordinator)
    _register_stop(coordinator)
    _register_resume(coordinator)


def _register_submit(coordinator: typer.Typer) -> None:
    @verb(coordinator, "submit")
    def submit(
        study: StudyName,
        folder: Folder = HERE,
        initial: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Weights that round 1 starts from: a model of ours, or a state dict."),
        ] = None,
        initial_name: Annotated[
            list[str] | None,
            typer.Option(metavar="THEIRS=OURS", help="What its names begin with, and what stands for it here."),
        ] = None,
        initial_adapt: Annotated[
            bool, typer.Option("--initial-adapt", help="Average a first convolution that was made for other channels.")
        ] = False,
        settings: Settings = None,
        wait: Annotated[bool, typer.Option("--wait", help="Follow the run to its end; exit as it does.")] = False,
        prepare: Annotated[
            bool, typer.Option("--prepare", help="Make the run's folder only, and print the `flwr run` that starts it.")
        ] = False,
    ) -> Answer:
        """Start a study with the enrolled hospitals. Each still decides for itself."""
        from fedrounds_server.coordinator.submit import Start, prepare_run, start_run

        here = at(folder)
        flower = flower_of(here)
        names = dict(_pair(each) for each in initial_name or ())
        start = None if initial is None else Start(initial, names, "mean" if initial_adapt else "no")
        prepared = prepare_run(here, agreed_half(study, settings), start)
        if prepared.origin is not None:
            say(f"warning: {prepared.origin}")
        for site in prepared.missing:
            say(f"warning: {site} is in the study and not enrolled")
        data: dict[str, Any] = {"run": prepared.path.name, "path": str(prepared.path), "study": prepared.digest}
        if prepare:
            line = f"FLWR_HOME={here.flower_home} flwr run . coordinator --run-config {prepared.config}"
            return Answer(
                data | {"command": line},
                f"{prepared.path.name} is prepared. In the source tree of fedrounds:\n  {line}",
            )
        flower_run = start_run(here, prepared, flower)
        data |= {"flower_run": flower_run}
        text = f"{prepared.path.name} is submitted; study {prepared.digest[:12]}. Hospitals that have not allowed it are asked."
        return _followed(prepared.path, flower_run, flower, data) if wait else Answer(data, text)


def _pair(text: str) -> tuple[str, str]:
    theirs, equals, ours = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r}: THEIRS=OURS wanted, e.g. encoder.=body.")
    return theirs, ours


def _register_status(coordinator: typer.Typer) -> None:
    @verb(coordinator, "status")
    def status(folder: Folder = HERE) -> Answer:
        """Runs, rounds, every hospital with its fingerprint and when it was last seen, certificates."""
        from fedrounds_server.coordinator.status import status_of

        found = status_of(at(folder))
        for line in (*found.warnings, *([found.note] if found.note else [])):
            say(f"warning: {line}")
        return Answer(found.as_dict(), _status_text(found))


def _status_text(found: Status) -> Any:
    from rich.console import Group

    head = (
        f"{found.name} at {found.address} is {'up' if found.up else 'down'}\n  fingerprint {found.fingerprint}\n"
        + "\n".join(f"  {what} certificate until {until[:10]}" for what, until in found.certificates.items())
        + f"\n  journal: {found.journal[0]} lines, {found.journal[1][:16]}\n"
    )
    sites = table(
        ("site", "state", "last seen", "cases", "fingerprint"),
        [
            (one.site, one.state, one.last_seen, "" if one.cases is None else one.cases, one.fingerprint)
            for one in found.sites
        ],
    )
    runs = table(
        ("run", "state", "exit", "round", "sites in the last round"),
        [
            (one.name, one.state, "" if one.exit is None else one.exit, one.round,
             ", ".join(f"{site} {state}" for site, state in one.sites.items()))
            for one in found.runs
        ],
    )  # fmt: skip
    waits = [
        f"{one.name} waits until {one.waits_until} for "
        + ", ".join(f"{site}: {why}" for site, why in one.waits_for.items())
        for one in found.runs
        if one.waits_for
    ]
    return Group(
        head, *([sites] if found.sites else ["No site was invited."]), *(["", runs] if found.runs else []), *waits
    )


def _register_stop(coordinator: typer.Typer) -> None:
    @verb(coordinator, "stop")
    def stop(
        run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run; without one, the coordinator.")] = None,
        folder: Folder = HERE,
    ) -> Answer:
        """Stop a run, or the whole coordinator. A run can be resumed."""
        from fedrounds_server.coordinator.submit import stop_run
        from fedrounds_server.coordinator.supervisor import end_supervisor

        here = at(folder)
        if run is None:
            end_supervisor(here)
            return Answer({"folder": str(folder), "state": "stopped"}, "The coordinator is down.")
        path = run_path(run, here.runs)
        state = stop_run(path, flower_of(here))
        here.note("run stopped", run=path.name)
        again = f"fedrounds coordinator resume {path.name}"
        return Answer({"run": path.name, "state": state}, f"{path.name} is {state}. To go on: {again}")


def _register_resume(coordinator: typer.Typer) -> None:
    @verb(coordinator, "resume")
    def resume(
        run: RunArgument,
        folder: Folder = HERE,
        wait: Annotated[bool, typer.Option("--wait", help="Follow the run to its end; exit as it does.")] = False,
        anew: Annotated[
            bool,
            typer.Option("--anew", help="Begin with round 1 if every checkpoint is damaged; else that is refused."),
        ] = False,
    ) -> Answer:
        """Go on with a run that was stopped or cut off, from its last checkpoint."""
        from fedrounds_server.coordinator.submit import resume_run

        here = at(folder)
        flower, path = flower_of(here), run_path(run, here.runs)
        flower_run = resume_run(here, path, flower, anew=anew)
        data: dict[str, Any] = {"run": path.name, "path": str(path), "flower_run": flower_run}
        return _followed(path, flower_run, flower, data) if wait else Answer(data, f"{path.name} goes on.")


def _followed(path: Path, flower_run: int, flower: Flower, data: dict[str, Any]) -> Answer:
    from fedrounds_server import history
    from fedrounds_server.coordinator.submit import follow
    from fedrounds_server.folder import RunFolder, read_json

    told = 0

    def listen(status: dict[str, Any]) -> None:
        nonlocal told
        for line in history.read(RunFolder(path).history)[told:]:
            told += 1
            what = f"round {line.round}" if line.kind == history.ROUND else f"sums for {line.purpose}"
            say(f"{what}: {len(line.ok)} of {len(line.sites)} sites, {line.seconds:.0f} s")

    status = follow(path, flower_run, flower, listen)
    listen({})
    ended = read_json(RunFolder(path).status)
    message = str(ended.get("message", "")) or f"consensus {str(ended.get('consensus', ''))[:12]}"
    return Answer(data | {"status": ended}, f"{path.name}: {ended.get('state')}; {message}\n{path}", status)
