"""Find and build what a study names: one file is one plug-in, and its class's fields are its table.

The only file that may import by name. A shelf is bound to one of our packages, so a study can pick
among our files and never run code of its own; a person at the keyboard can add folders of the same
shape (`DIR/strategies/mine.py`), in simulation or in a site's own `site.toml`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedrounds_common.errors import Fault, UsageError

T = TypeVar("T")

PACKAGES = {
    "tasks": "fedrounds_common.tasks",
    "networks": "fedrounds_common.networks",
    "strategies": "fedrounds_common.strategies",
    "codecs": "fedrounds_common.codecs",
    "channels": "fedrounds_common.channels",
    "privacy": "fedrounds_common.privacy",
}
# Only `fedrounds_sites` makes shelves of these; the coordinator's process never imports them.
SITE_PACKAGES = {"readers": "fedrounds_sites.readers", "partitions": "fedrounds_sites.partitions"}

STRICT = ConfigDict(extra="forbid")  # of every table of a study, and of every plug-in of ours


@final
@dataclass(frozen=True)
class Shelf(Generic[T]):
    """All plug-ins of one kind. `base` is the abstract class each file makes one final class of."""

    kind: str
    base: type[Any]  # type[T], but T is abstract, and mypy takes type[T] to mean a class that can be made

    def names(self, folders: Sequence[Path] = ()) -> tuple[str, ...]:
        return tuple(self.files(folders))

    def files(self, folders: Sequence[Path] = ()) -> dict[str, Path]:
        """Name → file of every plug-in, sorted by name; nothing of them is imported. The user's folders win."""
        package = importlib.import_module(_package(self.kind))
        ours = [Path(place) for place in package.__path__]
        # the first folder wins, as in `find`
        places = [*ours, *(folder / self.kind for folder in reversed(folders))]
        files = {file.stem: file for place in places for file in sorted(place.glob("*.py"))}
        return {name: files[name] for name in sorted(files) if not name.startswith("_")}

    def find(self, name: str, folders: Sequence[Path] = ()) -> type[T]:
        """The class named `name`; the user's folders are looked through first.

        Raises:
            UsageError: no such file, or the file does not hold exactly one class of this kind.
        """
        module = self._module(name, folders)
        ours: list[type[Any]] = [
            member
            for _, member in inspect.getmembers(module, inspect.isclass)
            if issubclass(member, self.base) and member.__module__ == module.__name__
        ]
        found: list[type[T]] = [member for member in ours if not inspect.isabstract(member)]
        if len(found) != 1:
            missing = sorted({name for member in ours for name in getattr(member, "__abstractmethods__", ())})
            raise UsageError(
                "FR-U02",
                f"{module.__file__} holds {len(found)} classes of {self.base.__name__}",
                wanted="exactly one",
                do=f"still to be written in it: {', '.join(missing)}" if missing else "",
            )
        return found[0]

    def build(self, table: Mapping[str, Any], key: str, folders: Sequence[Path] = ()) -> tuple[T | None, list[Fault]]:
        """Make the plug-in that `table["name"]` names from the table's other entries.

        Returns:
            The object and no faults, or None and every fault with its dotted key below `key`.
        """
        name = table.get("name")
        known = self.names(folders)
        if name is None and known:
            return None, [Fault(f"{key}.name", f"must be given: one of {', '.join(known)}")]
        if name not in known:
            return None, [Fault(f"{key}.name", choice_message(name, known))]
        kind = self.find(str(name), folders)
        fields = {entry: value for entry, value in table.items() if entry != "name"}
        return validate(kind, fields, key)

    def load(self, table: Mapping[str, Any], folders: Sequence[Path] = ()) -> T:
        """As `build`, for a table that has been checked before."""
        built, faults = self.build(table, self.kind, folders)
        if built is None:
            raise UsageError("FR-U03", "; ".join(str(fault) for fault in faults))
        return built

    def _module(self, name: str, folders: Sequence[Path]) -> ModuleType:
        for folder in folders:
            file = folder / self.kind / f"{name}.py"
            if file.is_file():
                return _module_of_file(file, self.kind)
        if name not in self.names():
            raise UsageError("FR-U01", f"{self.kind}: {choice_message(name, self.names(folders))}")
        return importlib.import_module(f"{_package(self.kind)}.{name}")


def _package(kind: str) -> str:
    return PACKAGES.get(kind) or SITE_PACKAGES[kind]


def _module_of_file(file: Path, kind: str) -> ModuleType:
    # the digest in the name lets a changed file be loaded beside the old one in a long notebook session
    name = f"fedrounds_user_{kind}_{file.stem}_{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError("FR-U04", f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # of the user's own code: whatever it raises is a mistake in their file
        del sys.modules[name]
        found = f"{type(error).__name__}: {error}"
        raise UsageError("FR-U04", found, wanted="a file that can be imported", where=str(file)) from error
    return module


def digest_of_folders(folders: Sequence[Path]) -> str:
    """SHA-256 over the names and bytes of every Python file below, so that a record says what code ran."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def choice_message(value: object, allowed: Sequence[str]) -> str:
    """What was found, what is allowed, and the nearest of them."""
    if not allowed:
        return f"{value!r}: none is there yet"
    near = get_close_matches(str(value), allowed, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{value!r} is not one of {', '.join(allowed)}{hint}"


def validate(kind: type[T], fields: Mapping[str, Any], key: str) -> tuple[T | None, list[Fault]]:
    """Build a frozen dataclass from a TOML table; unknown keys are faults with the nearest known one."""
    unknown = [Fault(f"{key}.{name}", _no_such_key(name, kind)) for name in fields if name not in field_names(kind)]
    known = {name: value for name, value in fields.items() if name in field_names(kind)}
    try:
        built = _checked(kind, known)
    except ValidationError as error:
        return None, unknown + _faults(error, kind, known, key)
    return (None, unknown) if unknown else (built, [])


@final
class RulesBroken(ValueError):
    """Raised in a table's own validator: every rule its fields break together, so that all are shown at once.

    Each rule is the fields it reads, the one to point at first, and what to say.
    """

    def __init__(self, rules: Sequence[tuple[tuple[str, ...], str]]) -> None:
        self.rules = tuple(rules)
        super().__init__("; ".join(message for _, message in rules))


def _checked(kind: type[T], fields: Mapping[str, Any]) -> T:
    # strict, and by way of JSON: "5" is no number and 5.0 no count, yet a list may stand for a tuple
    built: T = _adapter(kind).validate_json(json.dumps(fields, default=str), strict=True)
    return built


def _faults(error: ValidationError, kind: type[Any], fields: Mapping[str, Any], key: str) -> list[Fault]:
    """Faults of single fields, then the rules that hold between the fields that are right by themselves."""
    entries = error.errors()
    wrong = {str(entry["loc"][0]) for entry in entries if entry["loc"]}
    faults = [_fault(entry, key, kind) for entry in entries if not _rules(entry)]
    try:
        _checked(kind, {name: value for name, value in fields.items() if name not in wrong})
    except ValidationError as left:
        entries = left.errors()
    broken = [rule for entry in entries for rule in _rules(entry) if not wrong & set(rule[0])]
    return faults + [Fault(f"{key}.{reads[0]}", message) for reads, message in broken]


def _rules(entry: Any) -> tuple[tuple[tuple[str, ...], str], ...]:
    cause = entry.get("ctx", {}).get("error")
    return cause.rules if isinstance(cause, RulesBroken) else ()


def field_names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind) if field.init)


_adapters: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    # made once a class: a study has some thirty tables and plug-ins, and is read several times in a run
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def _no_such_key(name: str, kind: type[Any]) -> str:
    near = get_close_matches(name, field_names(kind), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(field_names(kind)) or 'none'}"
    return f"there is no such key{hint}"


_PLAIN_WORDS = {
    "Input should be": "must be",
    "a valid array": "a list",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text in quotes",
    "a valid boolean": "true or false",
    "a valid dictionary": "a table",
    "an object": "a table",
}


def _fault(entry: Any, key: str, kind: type[Any]) -> Fault:
    path = [str(part) for part in entry["loc"] if not str(part).startswith(("function-", "tuple", "dict", "[key]"))]
    dotted = ".".join([key, *path])
    if entry["type"] == "literal_error":
        allowed = [word.strip(" '") for word in entry["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return Fault(dotted, choice_message(entry["input"], allowed))
    if entry["type"] == "unexpected_keyword_argument":
        return Fault(dotted, "there is no such key")
    if entry["type"] in ("missing", "missing_argument"):
        return Fault(dotted, "must be given")
    message = entry["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    for theirs, ours in _PLAIN_WORDS.items():
        message = message.replace(theirs, ours)
    found = entry["input"]
    # a rule about the whole table already says what it saw; printing the table again hides it
    return Fault(dotted, message if isinstance(found, dict) else f"{found!r}: {message[0].lower()}{message[1:]}")
