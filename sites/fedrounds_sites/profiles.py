"""Profiles: named federations of hospitals (`sites/profiles/*.toml`): sizes, roles, scanners, faults.

A profile is data. Its digest goes into a run's record, so that two runs can be told to rest on the same
hospitals; its version changes when its numbers do.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, final

from pydantic import Field, TypeAdapter, ValidationError

from fedrounds_common.errors import DataError
from fedrounds_common.plugins import STRICT, choice_message
from fedrounds_common.study.tables import Count, Name
from fedrounds_sites.places import profiles_folder

Role = Literal["train", "initial", "held-out"]
Fault = Literal["swapped-channels", "shifted-labels", "label-convention-3", "empty-case", "corrupt-file"]
Timing = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)]]


@final
@dataclass(frozen=True)
class SiteProfile:
    """One hospital. `scanner` overrides single fields of the drawn `phantom.scanner.Scanner`.

    Role "initial" trains too: its public data also trained the model that round 1 starts from.
    """

    __pydantic_config__ = STRICT

    cases: Count
    role: Role = "train"
    scanner: dict[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


@final
@dataclass(frozen=True)
class Timings:
    """Measured (mean, standard deviation) in seconds, one entry a measured hospital; may be empty."""

    __pydantic_config__ = STRICT

    train_s_per_case: tuple[Timing, ...] = ()
    validate_s_per_case: tuple[Timing, ...] = ()
    download_s: tuple[Timing, ...] = ()
    upload_s: tuple[Timing, ...] = ()


@final
@dataclass(frozen=True)
class Profile:
    """A federation: its hospitals by name, in the file's order."""

    __pydantic_config__ = STRICT

    name: Name
    version: Count
    sites: dict[Name, SiteProfile]
    timings: Timings = Timings()

    @property
    def digest(self) -> str:
        """SHA-256 over everything but the order of the hospitals."""
        text = json.dumps(TypeAdapter(Profile).dump_python(self, mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def names(self, *roles: Role) -> tuple[str, ...]:
        """The hospitals of these roles (all, if none is named), in the profile's order."""
        return tuple(name for name, site in self.sites.items() if not roles or site.role in roles)

    def counts(self, scale: float = 1.0) -> dict[str, int]:
        """Cases a hospital, scaled in proportion.

        Scaled down, every hospital keeps at least 2 cases, so that one can train and one can judge;
        at scale 1 the numbers are the profile's own, hospitals with a single case included.
        """
        least = 1 if scale == 1 else 2
        return {name: max(least, round(scale * site.cases)) for name, site in self.sites.items()}


def names() -> tuple[str, ...]:
    """The profiles that are shipped."""
    return tuple(sorted(file.stem for file in profiles_folder().glob("*.toml")))


@cache
def load(name: str) -> Profile:
    """A shipped profile by name, or any by the path of its .toml file.

    Raises:
        DataError: there is no such profile, or its file has faults.
    """
    file = profiles_folder() / f"{name}.toml" if name in names() else Path(name)
    if not file.is_file() or file.suffix != ".toml":
        raise DataError(
            "FR-P01", f"profile = {choice_message(name, names())}", do="name one of these, or the path of a .toml file"
        )
    return _read(file)


def _read(file: Path) -> Profile:
    try:
        table: Mapping[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        return TypeAdapter(Profile).validate_python(table)
    except tomllib.TOMLDecodeError as error:
        raise DataError("FR-P02", str(error), wanted="a profile in TOML", where=file.name) from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}" for e in error.errors())
        raise DataError("FR-P02", faults, wanted="the keys of the shipped profiles", where=file.name) from error
