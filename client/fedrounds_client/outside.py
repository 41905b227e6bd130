"""A trained model on cases of a folder outside any run: predicted, and brought back to the files' own grid.

Scores of a run are on the prepared grid. What is saved, and what is judged here, lies on the grid
the file was read from, because that is where a reader of scans will look at it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, final, overload

import numpy as np

from fedrounds_client.site import Parts
from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.errors import CaseError, DataError, no_exit, to_keep
from fedrounds_common.rng import derive
from fedrounds_common.study.tables import CaseForm, Table
from fedrounds_common.task import Prediction
from fedrounds_sites.listing import plain
from fedrounds_sites.prepare import prepare, restore
from fedrounds_sites.reader import Reader, load_case
from fedrounds_sites.simulation import READERS

if TYPE_CHECKING:
    from torch import nn

KEPT = 4  # cases of a site that stay in memory where a task judges several together


@final
@dataclass(frozen=True)
class Folder:
    """Cases that some reader finds. `name` stands for the whole where the reader names no sites."""

    name: str
    reader: Reader
    table: Table
    refs: tuple[CaseRef, ...]

    def site_of(self, ref: CaseRef) -> str:
        return ref.site or self.name


@final
@dataclass(frozen=True)
class Outside:
    """One case as read, what the model was shown of it, and what it says, on the grid of the case's file; or why that
    could not be."""

    ref: CaseRef
    case: Case | None = None
    prediction: Prediction | None = None
    fault: CaseError | None = None
    prepared: Case | None = None


def open_folder(table: Table, form: CaseForm, plugins: Sequence[Path] = ()) -> Folder:
    """List the cases that the reader of this table finds.

    Raises:
        UsageError: the table has faults. DataError: the folder is missing, or nothing in it is a case.
    """
    reader = READERS.load(table, plugins)
    name = plain(Path(str(table["root"])).name) if "root" in table else str(table["name"])
    return Folder(name or "site", reader, dict(table), reader.cases(form))


def predict_each(network: nn.Module, parts: Parts, folder: Folder, *, labelled: bool) -> Iterator[Outside]:
    """Everything that is judged of the folder, in order of name; what cannot be used is named and passed over.

    Each case by itself, one in memory at a time; of a task that judges something else, such as pairs, what it makes
    of the cases of each site.

    Args:
        labelled: a case that lacks what it is judged by is one that cannot be used.
    """
    usable: dict[str, list[CaseRef]] = {}
    by_case = judges_cases(parts)
    for ref in folder.refs:
        try:
            case = load_case(folder.reader, ref, parts.study.cases)
            lacks = parts.task.lacks(case, parts.study.cases) if labelled else ""
            if lacks:
                raise CaseError(
                    "FR-D04", f"an image without {lacks}", case=ref.name, wanted="a reference to judge against",
                    do=f"add {lacks}, or predict only",
                )  # fmt: skip
            if by_case:
                prepared = prepare(case, parts.study.cases)
                with no_exit(ref.name):
                    made = _on_own_grid(network, parts, case, prepared)
                yield Outside(ref, case, made, prepared=prepared)
            else:
                prepare(case, parts.study.cases)
                usable.setdefault(folder.site_of(ref), []).append(ref)
        except CaseError as error:
            yield Outside(ref, fault=to_keep(error))
    for site in sorted(usable):
        yield from _predict_of_site(network, parts, folder, usable[site])


def judges_cases(parts: Parts) -> bool:
    """Whether this task judges the very cases it is given: then none of them is asked for here."""
    cases = _Unread()
    try:
        return parts.task.judged(cases, parts.study.cases, 0) is cases
    except _Read:
        return False


@final
class _Read(Exception):
    """Somebody looked into `_Unread`."""


@final
class _Unread(Sequence[Case]):
    """Cases that must not be looked into."""

    def __len__(self) -> int:
        return 2

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Case]: ...
    def __getitem__(self, index: int | slice) -> Case | Sequence[Case]:
        raise _Read


@final
class _Lazily(Sequence[Case]):
    """Cases that are read when they are asked for; the last few stay in memory."""

    def __init__(self, refs: Sequence[CaseRef], load: Callable[[CaseRef], Case]) -> None:
        self._refs = tuple(refs)
        self._load = lru_cache(maxsize=KEPT)(load)

    def __len__(self) -> int:
        return len(self._refs)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Case]: ...
    def __getitem__(self, index: int | slice) -> Case | Sequence[Case]:
        if isinstance(index, slice):
            return [self._load(ref) for ref in self._refs[index]]
        return self._load(self._refs[index])


def _predict_of_site(network: nn.Module, parts: Parts, folder: Folder, refs: Sequence[CaseRef]) -> Iterator[Outside]:
    """What the task judges of these cases, drawn twice alike: as they are read, and as they are prepared."""
    study, form = parts.study, parts.study.cases
    seed = derive(study.seed, "judged")
    read = _Lazily(refs, lambda ref: load_case(folder.reader, ref, form))
    made_ready = _Lazily(refs, lambda ref: prepare(load_case(folder.reader, ref, form), form))
    for case, prepared in zip(
        parts.task.judged(read, form, seed), parts.task.judged(made_ready, form, seed), strict=True
    ):
        try:
            with no_exit(case.ref.name):
                yield Outside(case.ref, case, _on_own_grid(network, parts, case, prepared), prepared=prepared)
        except CaseError as error:
            yield Outside(case.ref, fault=to_keep(error))


def _on_own_grid(network: nn.Module, parts: Parts, case: Case, prepared: Case) -> Prediction:
    """The prediction on the case's own grid.

    Outputs that lie on a grid are brought back and decided upon there, so that a mask is what its probabilities
    say; where the two grids meet voxel by voxel, both are exactly those of the prepared case.
    """
    study = parts.study
    made = parts.task.predict(network, prepared, study.cases, study.training, study.evaluation)
    if made.outputs.shape[1:] != prepared.grid:
        return made  # of the case as a whole: it lies on no grid
    same = prepared.grid == case.grid and np.array_equal(prepared.affine, case.affine)
    if same and made.image is None:
        return made
    # an image that was made of the case is made again of its own intensities, not of the prepared ones
    return parts.task.decide(made.outputs if same else restore(made.outputs, prepared, case), case, study.cases)


def case_digest(case: Case) -> str:
    """SHA-256 of what was read: grid, affine, voxels, labels; the same wherever the files lie."""
    digest = hashlib.sha256(repr((case.image.shape, np.asarray(case.affine, np.float64).tolist())).encode())
    digest.update(np.ascontiguousarray(case.image, np.float32).data)
    for entry in fields(Target) if case.target is not None else ():
        known = getattr(case.target, entry.name)
        if known is not None:
            digest.update(np.ascontiguousarray(known).data)
    return digest.hexdigest()


def none_usable(faults: Mapping[str, CaseError], where: str) -> DataError:
    """What to say when there is not one case to go on with: the first few, with their reasons."""
    lines = [f"  {error}" for error in list(faults.values())[:8]]
    more = [f"  and {len(faults) - 8} more"] if len(faults) > 8 else []
    found = f"none of {len(faults)} cases can be used; mend them, or name the reader that reads them"
    return DataError("FR-D72", "\n".join([found, *lines, *more]), where=where)
