"""A reader turns a site's files into cases. One file in `readers/` each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from fedrounds_common.case import Case, CaseRef
from fedrounds_common.errors import no_exit
from fedrounds_common.study.tables import CaseForm


def load_case(reader: Reader, ref: CaseRef, form: CaseForm) -> Case:
    """What `reader.load` gives; a reader that calls sys.exit fails at this case and no further."""
    with no_exit(ref.name):
        return reader.load(ref, form)


class Reader(ABC):
    """A frozen dataclass whose fields are its table in `[simulation.reader]` or in `site.toml`.

    The study says what form cases have (`form`); the reader says where the files are and how their
    names and values map to it. Cases come as acquired: `prepare.py` brings them to the study's grid.
    """

    kind: ClassVar[Literal["real", "phantom"]] = "real"

    @property
    def version(self) -> str:
        """What a run's record says of the data itself, e.g. a generator's version and digest."""
        return ""

    @property
    def split_by(self) -> Literal["patient", "image"]:
        """What is split and resampled: "image" where nothing tells whose a case is, and each counts as a patient."""
        return "patient"

    @property
    def set_apart(self) -> frozenset[str]:
        """Sites that the data themselves set apart, e.g. an archive's own test part, once `cases` was asked.

        Their cases keep this site whatever deals out the others, and no study may train on them.
        """
        return frozenset()

    @property
    def own_form(self) -> CaseForm:
        """A form in which this reader can list its cases before any study has asked for one; to count them only."""
        return CaseForm()

    @property
    def passed_over(self) -> Mapping[str, int]:
        """Why a file below the root belongs to no case → how many such files there are, once `cases` was asked."""
        return {}

    @property
    def passed_over_names(self) -> Mapping[str, tuple[str, ...]]:
        """Why → the paths below the root of a few of these files: for the machine that holds them, and no other."""
        return {}

    @abstractmethod
    def cases(self, form: CaseForm) -> tuple[CaseRef, ...]:
        """Every case, sorted by name; a case that looks incomplete is listed and fails in `load`.

        Raises:
            DataError: the root is missing, or nothing in it is a case.
        """

    @abstractmethod
    def load(self, ref: CaseRef, form: CaseForm) -> Case:
        """Read one case: float32 image with `form.channels` in order, label values as in the study.

        Raises:
            CaseError: with a code, the file's name, what was found and what was wanted.
        """

    def stamp(self, ref: CaseRef, form: CaseForm) -> str:
        """A digest that changes when the files behind a case do, without reading them; part of a cache's key."""
        return ""
