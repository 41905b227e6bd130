"""What-if twins: the same simulated patient, other in one respect. Cause is told from correlation by what they change.

A patient's parts are drawn from streams of their own, so a twin differs in nothing else: the same head, the same
vessels and noise; of a 2D study, the same slice. Only a phantom has twins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from fedrounds_common.case import Case, CaseRef
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.readers.phantom_glioma import PhantomGlioma


@final
class Twins:
    """The twins of a reader's cases, as acquired: prepare them as the cases themselves."""

    def __init__(self, reader: PhantomGlioma, form: CaseForm) -> None:
        reader.cases(form)  # refuses a form that the phantom cannot give
        self._reader, self._form = reader, form

    def as_it_is(self, ref: CaseRef) -> Case:
        return self._reader.load(ref, self._form)

    def with_tumour(self, ref: CaseRef) -> Case:
        """With the tumour that this patient has, or would have had."""
        return self._reader.changed(ref, self._form, tumour=True)

    def without_tumour(self, ref: CaseRef) -> Case:
        """The same head before the tumour grew, and before it pushed anything aside."""
        return self._reader.changed(ref, self._form, tumour=False)

    def resized(self, ref: CaseRef, factor: float) -> Case:
        """With a tumour whose core's radius and whose oedema's reach are so many times as large.

        Where bone or fluid is in the way, less comes of it.
        """
        return self._reader.changed(ref, self._form, tumour=True, size=factor)

    def scanned_at(self, ref: CaseRef, site: str) -> Case:
        """Scanned at another hospital, on its scanner.

        Raises:
            CaseError: FR-P11 the profile has no such hospital.
        """
        return self._reader.changed(ref, self._form, scanned_at=site)

    def of(self, ref: CaseRef, site: str, factor: float = 0.6) -> Mapping[str, Case]:
        """`with_tumour`, and that patient again: `without_tumour`, `resized` by the factor, `scanned_at` the site."""
        changed = self._reader.changed
        return {
            "with_tumour": self.with_tumour(ref),
            "without_tumour": self.without_tumour(ref),
            "resized": self.resized(ref, factor),
            "scanned_at": changed(ref, self._form, tumour=True, scanned_at=site),
        }
