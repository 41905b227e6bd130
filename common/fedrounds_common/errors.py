"""Every error of fedrounds, in one tree; each carries a code that `fedrounds explain CODE` describes.

    FedroundsError            1   our bug, unless a branch below says otherwise
    ├── UsageError            2   the command or call was written wrongly
    ├── StudyError            3   the study file has faults (all are listed at once)
    ├── DataError             4   a data folder cannot be used
    │   └── CaseError         4   one case cannot be used; the others go on
    ├── MachineError          5   this machine lacks something (memory, disk, a library)
    ├── NetworkError          6   a peer or a certificate
    ├── RefusedError          7   a site said no
    ├── BudgetError           8   the privacy budget would be passed
    ├── RunFileError          4   a file of a run folder is missing, damaged or of another kind
    └── RoundError                one round
        ├── UpdateError           one site's update is not fit to be averaged
        └── TooFewSites       11  fewer sites than the study's minimum: no consensus

The number is the exit status. Statuses without an error: 0 done, 9 finished but not with all sites,
cases or models, 10 stopped by a limit, 130 interrupted with a checkpoint written.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, final

DONE = 0
PARTIAL = 9
STOPPED = 10
INTERRUPTED = 130

CODE = re.compile(r"FR-[A-Z]\d{2}")


class FedroundsError(Exception):
    """What was found, what was wanted, what to do; `where` names a file or a key, never a patient.

    A message may hold a path of the machine it is raised on, so it stays there:
    over the wire only `code` and a reference id cross (see `fedrounds_client.boundary`).
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, code: str, found: str, *, wanted: str = "", do: str = "", where: str = "") -> None:
        self.code, self.found, self.wanted, self.do, self.where = code, found, wanted, do, where
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        parts = "; ".join(part for part in (self.found, self.wanted, self.do) if part)
        return f"{self.code} {place}{parts}"

    def __reduce__(self) -> tuple[object, ...]:
        # the default rebuilds from args alone, and an error must survive the trip from a worker process
        return _rebuild, (type(self), self.__dict__.copy())


def code_of(error: BaseException) -> str:
    """The code that may be told of an error: its own, FR-E01 of a full disk, or FR-R01 of what is not ours or has made
    one up."""
    if disk_is_full(error):
        return "FR-E01"
    return error.code if isinstance(error, FedroundsError) and CODE.fullmatch(error.code) else "FR-R01"


def disk_is_full(error: BaseException) -> bool:
    """Whether the system had no more room for a file, or this account has used up its own."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _rebuild(kind: type[FedroundsError], fields: dict[str, object]) -> FedroundsError:
    error = kind.__new__(kind)
    error.__dict__.update(fields)
    Exception.__init__(error, str(error))
    return error


@final
class UsageError(FedroundsError):
    exit_status = 2


@final
@dataclass(frozen=True)
class Fault:
    """One fault of a study file: where (line from 1, 0 if unknown; dotted key), what, and the mend."""

    key: str
    message: str
    line: int = 0

    def __str__(self) -> str:
        place = f"line {self.line}" if self.line else "-"
        return f"{place:<9} {self.key}: {self.message}"


@final
class StudyError(FedroundsError):
    """Carries every fault of the file, ordered by line."""

    exit_status = 3

    def __init__(self, where: str, faults: Sequence[Fault]) -> None:
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.line, fault.key)))
        count = f"{len(self.faults)} fault" + ("s" if len(self.faults) != 1 else "")
        super().__init__("FR-S01", f"{count}\n" + "\n".join(f"  {fault}" for fault in self.faults), where=where)


class DataError(FedroundsError):
    exit_status = 4


@final
class CaseError(DataError):
    """One case cannot be used; it is left out, named and counted. `case` is its pseudonym."""

    def __init__(
        self, code: str, found: str, *, case: str = "", wanted: str = "", do: str = "", where: str = ""
    ) -> None:
        self.case = case
        super().__init__(code, found, wanted=wanted, do=do, where=where or case)


@contextmanager
def no_exit(case: str = "") -> Iterator[None]:
    """Around code that may not be ours: one that calls sys.exit must not end us, which no `except Exception` sees.

    Raises:
        DataError: FR-H20 it called sys.exit; with `case`, a CaseError of that case.
    """
    try:
        yield
    except SystemExit as error:
        found, wanted = f"a plug-in called sys.exit({error.code!r})", "an error that it raises"
        if case:
            raise CaseError("FR-H20", found, case=case, wanted=wanted) from error
        raise DataError("FR-H20", found, wanted=wanted) from error


def to_keep(error: CaseError) -> CaseError:
    """The error without its traceback, which holds every array of every frame on its way for as long as the error is kept."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


@final
class MachineError(FedroundsError):
    exit_status = 5


@final
class NetworkError(FedroundsError):
    exit_status = 6


@final
class RefusedError(FedroundsError):
    exit_status = 7


@final
class BudgetError(FedroundsError):
    exit_status = 8


@final
class RunFileError(FedroundsError):
    exit_status = 4


class RoundError(FedroundsError):
    exit_status = 1


@final
class UpdateError(RoundError):
    pass


@final
class TooFewSites(RoundError):
    exit_status = 11
