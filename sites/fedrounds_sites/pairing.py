"""Which picture belongs to which patient, and which mask to which picture, by their names alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import PurePosixPath
from string import Formatter
from typing import final

from fedrounds_common.case import CaseRef
from fedrounds_common.errors import CaseError, DataError
from fedrounds_sites.listing import plain

GROUPS = ("patient", "site", "slice")
Names = Mapping[str, str]  # group → what it matched, for the groups that matched


@final
@dataclass(frozen=True)
class MaskRule:
    """Where the mask of a picture lies: "{stem}_mask.png" beside it, or with a "/" counted from the root.

    Fields: the pattern's groups, `{stem}` (the picture's name without suffix), `{folder}` (its folder).
    """

    text: str

    def fields(self) -> tuple[str, ...]:
        """Raises ValueError where the braces do not close, or hold more than a plain name."""
        parts = list(Formatter().parse(self.text))
        if any(name is not None and (spec or conversion or not name) for _, name, spec, conversion in parts):
            raise ValueError("only plain names in braces")
        return tuple(name for _, name, _, _ in parts if name is not None)

    def mask_of(self, picture: str, names: Names) -> str:
        path = PurePosixPath(picture)
        folder = "" if str(path.parent) == "." else str(path.parent)
        values = {**dict.fromkeys(self.fields(), ""), **names, "stem": path.stem, "folder": folder}
        mask = self.text.format_map(values)
        if "/" not in self.text and folder:
            mask = f"{folder}/{mask}"
        return str(PurePosixPath(mask.lstrip("/")))

    def stem_in(self, file: str) -> str | None:
        """The `{stem}` that would make this file a mask, with its folder; None if no name could.

        A rule without {stem} gives the file's own name for any file of its shape.
        """
        folder, name = str(PurePosixPath(file).parent), PurePosixPath(file).name
        subject = file if "/" in self.text else name
        # at the root {folder} is empty, and the path lacks the "/" that follows it in the rule
        found = re.fullmatch(self._shape(), subject) or re.fullmatch(self._shape(), f"/{subject}")
        if found is None:
            return None
        stem = found.groupdict().get("stem", PurePosixPath(name).stem)
        place = found.groupdict().get("folder", "" if folder == "." or "/" in self.text else folder)
        return f"{place}/{stem}" if place else stem

    def _shape(self) -> str:
        seen: set[str] = set()
        shape = ""
        for text, name, _, _ in Formatter().parse(self.text):
            shape += re.escape(text)
            if name is not None:
                anything = ".*" if name == "folder" else "[^/]+"
                shape += f"(?P={name})" if name in seen else f"(?P<{name}>{anything})"
                seen.add(name)
        return shape


@final
@dataclass(frozen=True)
class Pair:
    """One picture and, if there is one, its mask; paths from the root. `number` orders a patient's slices."""

    picture: str
    mask: str | None = None
    number: int = 0


@final
@dataclass(frozen=True)
class Entry:
    """A case as its file names tell it; `fault` is raised when it is loaded."""

    ref: CaseRef
    pairs: tuple[Pair, ...]
    stacked: bool
    fault: CaseError | None = None


@final
@dataclass(frozen=True)
class Paired:
    """`entries` by name of the case, in order; `others`: files that are neither a case's picture nor a mask."""

    entries: dict[str, Entry]
    others: tuple[str, ...]


def pair_up(files: Sequence[str], pattern: re.Pattern[str], rule: MaskRule | None, *, masks_required: bool) -> Paired:
    """What cannot be paired becomes an entry with a fault, so that it is counted.

    Raises:
        DataError: a site's name cannot stand in a study, or two differ in upper and lower case only.
    """
    matched = {file: _names(file, found) for file in files if (found := pattern.search(file))}
    named = {file: rule.mask_of(file, names) for file, names in matched.items()} if rule else {}
    # "masks/1_2_3.png" fits a pattern made for "images/1_2_3.png" too, and is then the mask it names
    wanted = {file: mask for file, mask in named.items() if mask != file}
    claims = Counter(wanted.values())
    masks = set(claims) & set(files)
    if named and masks_required:
        _refuse_rule(wanted, masks)
    entries: dict[str, Entry] = {}
    others: list[str] = []
    for file in files:
        if file in masks:
            continue
        mask = wanted.get(file)
        if rule is not None and mask not in masks and rule.stem_in(file) is not None:
            entry = _stray_entry(file, pattern, rule)
        elif file in matched:
            entry = _entry(file, matched[file], mask if mask in masks else None)
            if masks_required and mask is not None and mask not in masks:
                entry = _faulty(entry, "FR-D04", f"{file} has no mask", mask, "add the mask, or take the image out")
        else:
            others.append(file)
            continue
        entries[entry.ref.name] = _joined(entries.get(entry.ref.name), entry)
    _refuse_alike(entry.ref.site for entry in entries.values())
    shared = {mask for mask in masks if claims[mask] > 1}
    twins = alike_but_for_case(entries)
    return Paired({name: _checked(entries[name], twins, shared) for name in sorted(entries)}, tuple(others))


def _refuse_rule(wanted: Names, masks: set[str]) -> None:
    if masks:
        return
    picture, mask = min(wanted.items(), default=("", ""))
    raise DataError(
        "FR-D04",
        f"none of {len(wanted)} images has a mask" if wanted else "the rule for masks names each image itself",
        wanted=f"e.g. {mask} for {picture}" if wanted else "another file",
        do='correct `mask` in the reader\'s table; mask = "" reads images without masks',
    )


def _names(file: str, found: re.Match[str]) -> dict[str, str]:
    names = {group: value for group, value in found.groupdict().items() if value is not None}
    empty = [group for group in GROUPS if group in found.re.groupindex and not names.get(group)]
    if empty or not names.get("slice", "0").isdecimal():
        group = empty[0] if empty else "slice"
        raise DataError(
            "FR-D35",
            f"the group {group} of the pattern is {names.get(group, '')!r}",
            wanted="digits for a slice, and no empty patient or site",
            do="correct `pattern` in the reader's table",
            where=file,
        )
    return names


def _entry(file: str, names: Names, mask: str | None) -> Entry:
    site = plain(names["site"]) if "site" in names else None
    # a hospital numbers its own patients: 001 here and 001 there are two people
    person = "_".join([*([site] if site else []), plain(names["patient"])]) if "patient" in names else ""
    stacked = "slice" in names
    name = person if stacked else _alone(file)
    pair = Pair(file, mask, int(names.get("slice", "0")))
    return Entry(CaseRef(name, person or name, site), (pair,), stacked)


def _alone(file: str) -> str:
    """The name of a case that is one file."""
    return plain(str(PurePosixPath(file).with_suffix("")).replace("/", "_"))


def _stray_entry(mask: str, pattern: re.Pattern[str], rule: MaskRule) -> Entry:
    """A mask by its name, and of no picture: a fault of the case it would belong to, as far as its name tells."""
    picture = f"{rule.stem_in(mask)}{PurePosixPath(mask).suffix}"
    found = pattern.search(picture)
    if found is not None:
        entry = replace(_entry(picture, _names(picture, found), None), pairs=())
    else:
        entry = Entry(CaseRef(_alone(mask), _alone(mask)), (), False)
    return _faulty(
        entry, "FR-D05", f"{mask} is the mask of no image", "an image with it", "add it, or take the mask out"
    )


def _joined(before: Entry | None, more: Entry) -> Entry:
    if before is None:
        return more
    return Entry(before.ref, before.pairs + more.pairs, more.stacked, before.fault or more.fault)


def _checked(entry: Entry, twins: Sequence[str], shared: set[str]) -> Entry:
    """The entry with its slices in order, and a fault where two files claim one place."""
    pairs = tuple(sorted(entry.pairs, key=lambda pair: (pair.number, pair.picture)))
    entry = replace(entry, pairs=pairs)
    for before, after in pairwise(pairs):
        if before.number == after.number:
            what = f"slice {after.number}" if entry.stacked else "this case"
            found = f"{before.picture} and {after.picture} are both {what}"
            return _faulty(entry, "FR-D07", found, "one file for each", "take one out, or correct `pattern`")
    for pair in pairs:
        if pair.mask in shared:
            found = f"{pair.mask} is the mask of several images"
            return _faulty(entry, "FR-D07", found, "one mask an image", "correct `mask`")
    if entry.ref.name in twins:
        names = [name for name in twins if name.casefold() == entry.ref.name.casefold()]
        found = f"{' and '.join(names)} differ in upper and lower case only"
        return _faulty(entry, "FR-D36", found, "names that differ otherwise", "rename the files of one of them")
    return entry


def alike_but_for_case(names: Iterable[str]) -> tuple[str, ...]:
    """The names that another name equals when upper and lower case are not told apart."""
    folded: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        folded.setdefault(name.casefold(), []).append(name)
    return tuple(name for group in folded.values() if len(group) > 1 for name in group)


def _faulty(entry: Entry, code: str, found: str, wanted: str, do: str) -> Entry:
    if entry.fault is not None:
        return entry
    return replace(entry, fault=CaseError(code, found, case=entry.ref.name, wanted=wanted, do=do))


def _refuse_alike(sites: Iterable[str | None]) -> None:
    alike = alike_but_for_case(site for site in sites if site is not None)
    if alike:
        raise DataError(
            "FR-D36",
            f"sites are called {' and '.join(alike)}",
            wanted="names that differ otherwise than in upper and lower case",
            do="rename the files, or correct the group `site` of `pattern`",
        )
