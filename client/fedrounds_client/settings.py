"""`site.toml`: what a site is and what it allows. Written by the site's own people; nothing that comes changes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

from pydantic import ConfigDict, Field

from fedrounds_common import shelves
from fedrounds_common.errors import Fault, StudyError, UsageError
from fedrounds_common.plugins import STRICT, Shelf, choice_message, validate
from fedrounds_common.study.check import impossible_values
from fedrounds_common.study.lines import lines_of
from fedrounds_common.study.parse import placed, tables_of, text_of
from fedrounds_common.study.tables import Count, Name, OrNone, Positive, Table
from fedrounds_sites import simulation

FORMAT = 1
HOURS = r"^([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)$"
TABLES = ("data", "policy", "machine")


@final
@dataclass(frozen=True)
class Policy:
    """`[policy]`: the bounds within which a person here may say yes. What is left out has its strictest value.

    `tasks`, `networks`: of which a study may name one. `minimum_cases`: an answer that stands for fewer
    does not leave. `minimum_privacy`: whom a study must protect by noise; `maximum_epsilon`: at most so
    much of it over all rounds of one study; `budget_epsilon`: at most so much at `budget_delta` over all studies that
    were ever trained with noise in this folder. `hours`: local time in which work is done, e.g. "19:00-07:00". `gpu`: the
    number of the one that may be used, or "none". `disk_gb`: of all runs together. `rounds`: the most that
    can be allowed at once, and `days` how long that lasts at most. `outgoing`: the kinds of answers that may leave.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    tasks: tuple[Name, ...] = ()
    networks: tuple[Name, ...] = ()
    minimum_cases: Count = 10
    minimum_privacy: Literal["none", "hospital", "patient"] = "patient"
    maximum_epsilon: OrNone[Positive] = None
    budget_epsilon: OrNone[Positive] = None
    budget_delta: Annotated[float, Field(gt=0, le=0.01)] = 1e-5
    hours: Annotated[str, Field(pattern=HOURS)] = "00:00-24:00"
    gpu: Annotated[str, Field(pattern=r"^(none|\d{1,3})$")] = "none"
    disk_gb: Positive = 10.0
    rounds: Count = 1
    days: Count = 30
    outgoing: tuple[Literal["hello", "update", "scores", "statistics"], ...] = ()

    @property
    def digest(self) -> str:
        """What a permit names: a yes that was given under another policy is none."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@final
@dataclass(frozen=True)
class Machine:
    """`[machine]`: `memory_gb` of the training process (0: no limit), its network, and the way to the coordinator.

    `cache`: a folder, relative to this file, that keeps prepared cases from run to run; "": they go with their run.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    memory_gb: Annotated[float, Field(ge=0)] = 0.0
    network: Literal["none", "host"] = "none"
    proxy: str = ""
    cache: str = ""


@final
@dataclass(frozen=True)
class _Head:
    name: Name
    format: int = FORMAT
    plugins: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class SiteSettings:
    """`data`: the reader's table, its paths absolute; `only`: which of the reader's own groups this site is ("": all)."""

    name: str
    data: Table
    only: str = ""
    policy: Policy = field(default_factory=Policy)
    machine: Machine = field(default_factory=Machine)
    plugins: tuple[Path, ...] = ()
    folder: Path = Path()

    @property
    def cache(self) -> Path | None:
        """Where prepared cases are kept from run to run; None: nowhere."""
        place = self.machine.cache
        return (self.folder / Path(place).expanduser()).resolve() if place else None


def read_settings(file: Path) -> SiteSettings:
    """Read and check a `site.toml`.

    Raises:
        UsageError: there is none. StudyError: every fault of the file at once, each with its line.
    """
    if not file.is_file():
        raise UsageError(
            "FR-C23", "there is no site.toml", wanted="a site's folder",
            do="`fedrounds site init DIR` makes one; name it with --site", where=str(file.parent),
        )  # fmt: skip
    text = text_of(file)
    settings, faults = settings_of(tables_of(text, file), file.parent)
    if settings is None:
        lines = lines_of(text)
        raise StudyError(str(file), [placed(fault, lines) for fault in faults])
    return settings


def settings_of(raw: Table, folder: Path) -> tuple[SiteSettings | None, list[Fault]]:
    """The settings and no faults, or None and all of them; relative paths count from `folder`."""
    faults = list(impossible_values(raw, ""))
    faults += [Fault(key, f"{raw[key]!r}: must be a table, [{key}]") for key in TABLES if not _is_table(raw, key)]
    tables = {key: raw.get(key, {}) if _is_table(raw, key) else {} for key in TABLES}
    head, found = validate(_Head, {key: value for key, value in raw.items() if key not in TABLES}, "")
    faults += [Fault(fault.key.removeprefix("."), fault.message) for fault in found]
    if head is not None and head.format != FORMAT:
        faults.append(Fault("format", f"{head.format}: this fedrounds reads format {FORMAT}"))
    plugins = tuple((folder / Path(part).expanduser()).resolve() for part in (head.plugins if head else ()))
    policy, found = validate(Policy, tables["policy"], "policy")
    faults += found + _unknown(tables["policy"], plugins)
    machine, found = validate(Machine, tables["machine"], "machine")
    faults += found
    data, only, found = _data(tables["data"], folder, plugins)
    faults += found
    if faults or head is None or policy is None or machine is None:
        seen: dict[str, Fault] = {}
        for fault in faults:
            seen.setdefault(fault.key, fault)
        return None, list(seen.values())
    return SiteSettings(head.name, data, only, policy, machine, plugins, folder), []


def _is_table(raw: Mapping[str, Any], key: str) -> bool:
    return isinstance(raw.get(key, {}), dict)


def _data(table: Table, folder: Path, plugins: Sequence[Path]) -> tuple[Table, str, list[Fault]]:
    """The reader's own table with its paths made absolute, the group, and what is wrong with either."""
    only = table.get("only", "")
    faults = [] if isinstance(only, str) else [Fault("data.only", f"{only!r}: must be text in quotes")]
    reader = simulation.placed({key: value for key, value in table.items() if key != "only"}, folder)
    if not any(impossible_values(reader, "")):
        faults += simulation.READERS.build(reader, "data", plugins)[1]
    return reader, str(only), faults


def _unknown(policy: Table, plugins: Sequence[Path]) -> list[Fault]:
    """Names of the policy that no plug-in has: a misspelt one would refuse for ever, without a word."""
    shelf: tuple[tuple[str, Shelf[Any]], ...] = (("tasks", shelves.TASKS), ("networks", shelves.NETWORKS))
    return [
        Fault(f"policy.{key}.{number}", choice_message(name, known.names(plugins)))
        for key, known in shelf
        if isinstance(policy.get(key), list)
        for number, name in enumerate(policy[key])
        if name not in known.names(plugins)
    ]
