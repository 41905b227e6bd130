"""Cases from a table: a row an image, with its labels and, as there are, its patient, site and split."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal, final

from pydantic import ConfigDict, Field

from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.plugins import STRICT
from fedrounds_common.study.tables import CaseForm, Name
from fedrounds_sites import listing
from fedrounds_sites.classes import class_target, unknown_class
from fedrounds_sites.images import Reading, read_channels
from fedrounds_sites.listing import plain
from fedrounds_sites.reader import Reader

KNOWN = ("patient", "site", "split")  # taken where the table has a column so called
YES, NO = frozenset({"1", "1.0"}), frozenset({"0", "0.0", ""})


@final
@dataclass(frozen=True)
class Row:
    """One line of the table; `files` below the folder, `cells` by column."""

    line: int
    ref: CaseRef
    files: tuple[str, ...]
    cells: Mapping[str, str]


@final
@dataclass(frozen=True)
class TableCsv(Reader):
    """Pictures, NIfTI volumes and DICOM stills that a CSV file names.

    Args:
        file: the table, with a line of column names.
        folder: where its paths count from, itself counted from the table's own folder.
        image: the column with the image's path; or several, one a channel in the study's order.
        label: the column with the name of the class, or several joined by "|" in a study with multi_label.
            "" reads a column of 0 and 1 for each of the study's classes, by its name (or by class_map).
        class_map: what the table calls it → the study's class.
        patient, site, split: columns; "" takes one called `patient`, `site`, `split` if there is one. What is split
            is the patient, or each image where none is told.
        apart: what the split's column says of cases that are a site of that name, for the study to hold out; others
            are dealt out together.
        delimiter: between columns.
        grey_from_rgb: what becomes of colour in a study of one channel, unless its colours are equal.
        spacing_mm: between rows and between columns of a picture (else 1).
        follow_links: True reads through symbolic links to files.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    file: Path
    folder: str = ""
    image: str | tuple[str, ...] = "image"
    label: str = "label"
    class_map: dict[str, str] = field(default_factory=dict)
    patient: str = ""
    site: str = ""
    split: str = ""
    apart: tuple[Name, ...] = ("test",)
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    grey_from_rgb: Literal["refuse", "luminance"] = "refuse"
    spacing_mm: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(max_length=2)] = ()
    follow_links: bool = False

    @property
    def split_by(self) -> Literal["patient", "image"]:
        return "patient" if self._column("patient", self._table[0]) else "image"

    @property
    def own_form(self) -> CaseForm:
        return CaseForm(dims=2)

    @property
    def set_apart(self) -> frozenset[str]:
        return frozenset(self.apart if self._column("split", self._table[0]) else ())

    def cases(self, form: CaseForm) -> tuple[CaseRef, ...]:
        self.__dict__.pop("_table", None)  # the table may have changed since it was read
        if len(self._images) not in (1, len(form.channels)):
            wanted = f"one column, or one for each of {', '.join(form.channels)}"
            raise self._wrong("FR-D33", f"{len(self._images)} columns of images", wanted)
        for row in self._table[1].values():
            self._indices(row, form)
        return tuple(sorted(row.ref for row in self._table[1].values()))

    def load(self, ref: CaseRef, form: CaseForm) -> Case:
        row = self._row(ref)
        files = [self._folder / name for name in row.files]
        for name, path in zip(row.files, files, strict=True):
            if not path.exists() and not path.is_symlink():
                do = "put the file there, or take its line out of the table"
                where = f"{self.file}:{row.line}"
                raise CaseError("FR-D44", f"{name}: there is no such file", case=ref.name, do=do, where=where)
        case = read_channels(files, ref, form, Reading(self.grey_from_rgb, self.spacing_mm, self.follow_links))
        return case.with_image(case.image, self._target(row, form))

    def stamp(self, ref: CaseRef, form: CaseForm) -> str:
        row = self._row(ref)
        return listing.stamp([Path(self.file), *(self._folder / name for name in row.files)])

    @property
    def _images(self) -> tuple[str, ...]:
        return (self.image,) if isinstance(self.image, str) else self.image

    @property
    def _folder(self) -> Path:
        return Path(self.file).parent / self.folder

    def _target(self, row: Row, form: CaseForm) -> Target | None:
        indices = self._indices(row, form)
        return None if indices is None else class_target(indices, form)

    def _indices(self, row: Row, form: CaseForm) -> list[int] | None:
        """The classes of a case, by their places in the study's list; None in a study without classes.

        Raises:
            DataError: FR-D41 a class that the study does not know; FR-D44 a cell that says neither 0 nor 1, no class,
                or more than the one that the study allows.
        """
        if not form.classes:
            return None
        where = f"{self.file}:{row.line}"
        if self.label:
            words = row.cells[self.label].split("|") if form.multi_label else [row.cells[self.label]]
            names = [self.class_map.get(word.strip(), word.strip()) for word in words if word.strip()]
        else:
            names = self._ticked(row, form)
        for name in names:
            if name not in form.classes:
                do = "name its class in class_map, correct the line, or add it to [cases] classes"
                raise unknown_class(name, form, do, where)
        if len(set(names)) != 1 and not form.multi_label:
            said = f"{len(set(names))} classes{': ' if names else ''}{', '.join(names)}"
            do = "correct the line, or set multi_label = true in [cases]"
            raise DataError("FR-D44", said, wanted="one", do=do, where=where)
        return [form.classes.index(name) for name in names]

    def _ticked(self, row: Row, form: CaseForm) -> list[str]:
        called = {theirs: ours for theirs, ours in self.class_map.items() if theirs in row.cells}
        columns = {name: name for name in form.classes if name in row.cells} | called
        if missing := [name for name in form.classes if name not in columns.values()]:
            wanted = f"one of 0 and 1 for each of {', '.join(form.classes)}"
            raise self._wrong("FR-D44", f"no column for {', '.join(missing)}", wanted)
        for column in columns:
            if row.cells[column] not in YES | NO:
                where = f"{self.file}:{row.line}"
                raise DataError("FR-D44", f"{column} is {row.cells[column]!r}", wanted="0 or 1", where=where)
        return [name for column, name in columns.items() if row.cells[column] in YES]

    def _row(self, ref: CaseRef) -> Row:
        row = self._table[1].get(ref.name)
        if row is None:
            do = "list the cases again: the table may have changed"
            raise CaseError("FR-D18", f"no case named {ref.name}", case=ref.name, do=do, where=str(self.file))
        return row

    def _column(self, what: str, header: Sequence[str]) -> str:
        """The column that says it; "" if none does."""
        return str(getattr(self, what)) or (what if what in header else "")

    @cached_property
    def _table(self) -> tuple[tuple[str, ...], dict[str, Row]]:
        """The names of the columns, and the rows by name of their case."""
        header, lines = self._lines()
        missing = [
            name
            for name in (*self._images, self.label, self.patient, self.site, self.split)
            if name and name not in header
        ]
        if missing:
            raise self._wrong(
                "FR-D44", f"no column {', '.join(missing)}", f"one of {', '.join(header)}, as the reader's table says"
            )
        rows: dict[str, Row] = {}
        seen: dict[tuple[str, ...], int] = {}
        for line, cells in lines:
            row = self._as_row(line, cells, header)
            files = tuple(PurePosixPath(name).as_posix() for name in row.files)
            if (first := seen.setdefault(files, line)) != line:
                said = f"lines {first} and {line} both name {', '.join(row.files)}"
                raise self._wrong("FR-D07", said, "a line an image")
            if row.ref.name in rows:
                said = f"lines {rows[row.ref.name].line} and {line} would be one case, {row.ref.name}"
                raise self._wrong("FR-D07", said, "paths that differ in more than their endings and slashes")
            rows[row.ref.name] = row
        if not rows:
            raise self._wrong("FR-D02", "no line below the names of the columns", "a line an image")
        return header, rows

    def _lines(self) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]]]:
        try:
            text = Path(self.file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise self._wrong("FR-D44", f"cannot be read ({error})", "a table in UTF-8") from None
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=True)
        lines: list[tuple[int, dict[str, str]]] = []
        try:
            header = tuple(name.strip() for name in next(reader, []))
            if len(set(header)) != len(header):
                raise self._wrong("FR-D44", "a column's name stands twice", "each once")
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    said = f"line {reader.line_num}: {len(cells)} cells"
                    raise self._wrong("FR-D44", said, f"{len(header)}, as there are columns")
                lines.append((reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))))
        except csv.Error as error:
            raise self._wrong("FR-D44", f"line {reader.line_num}: {error}", "values between delimiters") from None
        return header, lines

    def _as_row(self, line: int, cells: Mapping[str, str], header: Sequence[str]) -> Row:
        files = tuple(cells[column] for column in self._images)
        empty = [column for column in self._images if not cells[column]]
        told = {what: cells[column] for what in KNOWN if (column := self._column(what, header))}
        empty += [what for what in ("patient", "site") if told.get(what) == "" and told.get("split") not in self.apart]
        if empty:
            raise self._wrong("FR-D44", f"line {line}: no {', '.join(empty)}", "one in every line")
        for name in files:
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise self._wrong("FR-D44", f"line {line}: {name}", "a path below the folder, with no ..")
        path = PurePosixPath(files[0])
        stem = path.name[:-3] if path.name.lower().endswith(".nii.gz") else path.name
        name = "_".join(map(plain, (*path.parent.parts, PurePosixPath(stem).stem)))
        lead = f"{plain(told['site'])}_" if told.get("site") else ""
        patient = lead + plain(told["patient"]) if told.get("patient") else name
        split = told.get("split")
        site = split if split in self.apart else plain(told["site"]) if told.get("site") else None
        return Row(line, CaseRef(name, patient, site), files, cells)

    def _wrong(self, code: str, found: str, wanted: str) -> DataError:
        return DataError(code, found, wanted=wanted, do="correct the table, or the reader's", where=str(self.file))
