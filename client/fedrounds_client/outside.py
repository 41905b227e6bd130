"""A trained model on cases of a folder outside any run: predicted, and brought back to the files' own grid.

Scores of a run are on the prepared grid. What is saved, and what is judged here, lies on the grid
the file was read from, because that is where a reader of scans will look at it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from fedrounds_client.site import Parts
from fedrounds_common.case import F32, Case, CaseRef, Target
from fedrounds_common.errors import CaseError, DataError, no_exit, to_keep
from fedrounds_common.study.tables import CaseForm, Table
from fedrounds_common.task import Prediction
from fedrounds_sites.listing import plain
from fedrounds_sites.prepare import prepare, restore
from fedrounds_sites.reader import Reader, load_case
from fedrounds_sites.simulation import READERS

if TYPE_CHECKING:
    from torch import nn


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
    """One case as read, and what the model says of it on the grid of its file; or why that could not be."""

    ref: CaseRef
    case: Case | None = None
    prediction: Prediction | None = None
    fault: CaseError | None = None


def open_folder(table: Table, form: CaseForm, plugins: Sequence[Path] = ()) -> Folder:
    """List the cases that the reader of this table finds.

    Raises:
        UsageError: the table has faults. DataError: the folder is missing, or nothing in it is a case.
    """
    reader = READERS.load(table, plugins)
    name = plain(Path(str(table["root"])).name) if "root" in table else str(table["name"])
    return Folder(name or "site", reader, dict(table), reader.cases(form))


def predict_each(network: nn.Module, parts: Parts, folder: Folder, *, labelled: bool) -> Iterator[Outside]:
    """Every case in order of name, one in memory at a time; what cannot be used is named and passed over.

    Args:
        labelled: a case without a reference is one that cannot be used.
    """
    for ref in folder.refs:
        try:
            case = load_case(folder.reader, ref, parts.study.cases)
            if labelled and case.target is None:
                raise CaseError(
                    "FR-D04", "an image without a mask", case=ref.name, wanted="a reference to judge against",
                    do="add the mask, or predict only",
                )  # fmt: skip
            with no_exit(ref.name):
                made = predict(network, parts, case)
            yield Outside(ref, case, made)
        except CaseError as error:
            yield Outside(ref, fault=to_keep(error))


def predict(network: nn.Module, parts: Parts, case: Case) -> Prediction:
    """The prediction on the case's own grid.

    Probabilities are brought back and decided upon there, so that the mask is what its probabilities
    say; where the two grids meet voxel by voxel, both are exactly those of the prepared case.

    Raises:
        CaseError: the case cannot be prepared.
    """
    study = parts.study
    prepared = prepare(case, study.cases)
    made = parts.task.predict(network, prepared, study.cases, study.training, study.evaluation)
    if made.outputs.shape[1:] == case.grid and np.array_equal(prepared.affine, case.affine):
        return made
    return parts.task.decide(restore(made.outputs, prepared, case), case, study.cases)


def outputs(probabilities: F32, form: CaseForm) -> dict[str, F32]:
    """Region or label → its probabilities (*grid). A softmax's background, which is the rest, is left out."""
    names = list(form.scored)
    if len(probabilities) not in (len(names), len(names) + 1):
        raise DataError(
            "FR-D71", f"{len(probabilities)} outputs", wanted=f"one for each of {', '.join(names)}",
            do="this task's predictions have no probability maps: leave them out",
        )  # fmt: skip
    return dict(zip(names, probabilities[-len(names) :], strict=True))


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
