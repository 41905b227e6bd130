"""From a word or number in a site's files to the study's classes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fedrounds_common import rng
from fedrounds_common.case import F32, Target
from fedrounds_common.errors import DataError
from fedrounds_common.study.tables import CaseForm


def class_target(indices: Iterable[int], form: CaseForm) -> Target:
    """A case that is of these classes, by their places in the study's list."""
    values: F32 = np.zeros(len(form.classes), np.float32)
    values[list(indices)] = 1
    return Target(classes=values)


def unknown_class(name: str, form: CaseForm, do: str, where: str) -> DataError:
    """FR-D41: the files call a case what the study does not know."""
    return DataError("FR-D41", f"class {name!r}", wanted=f"one of {', '.join(form.classes)}", do=do, where=where)


def set_apart(share: float, patients_by_class: dict[str, list[str]], seed_word: str) -> frozenset[str]:
    """This share of each class's patients, always the same ones: who is chosen rests on their names alone."""
    chosen: set[str] = set()
    for patients in patients_by_class.values():
        order = sorted(patients, key=lambda patient: (rng.derive(0, seed_word, "test", patient), patient))
        chosen |= set(order[: round(share * len(order))])
    return frozenset(chosen)
