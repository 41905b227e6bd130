"""`fedrounds study landmarks`: learn a study's histogram standard from the cases that its sites train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from fedrounds.simulation import Prepared
from fedrounds_common.case import F64, Case
from fedrounds_common.errors import DONE, PARTIAL, CaseError, DataError
from fedrounds_common.study.tables import LANDMARKS
from fedrounds_sites.histogram import landmark_sums, standard
from fedrounds_sites.hospitals import assign, leave_one_out
from fedrounds_sites.keeping import acquired
from fedrounds_sites.prepare import prepare


@final
@dataclass(frozen=True)
class Learned:
    """Channel → landmarks; how many cases of how many sites they were learned from, and how many could not be read."""

    landmarks: Mapping[str, tuple[float, ...]]
    cases: int
    sites: int
    bad: int

    @property
    def exit(self) -> int:
        return PARTIAL if self.bad else DONE

    def as_toml(self) -> str:
        """The lines for `[cases]`."""
        each = ", ".join(f"{name} = {list(values)}" for name, values in self.landmarks.items())
        return f'intensity = "histogram"\nlandmarks = {{ {each} }}'


def learn_landmarks(prepared: Prepared) -> Learned:
    """Sums of the sites that train, each on its own and then added, as they would be between hospitals.

    Raises:
        DataError: the folder cannot be used; FR-D47 no case can be read, or a channel has no contrast.
    """
    study = prepared.study
    form = replace(study.cases, intensity="none", landmarks={})
    sites = assign(prepared.simulation, study, prepared.plugins)
    cohort = leave_one_out(study, tuple(sites)).cohort
    reader = prepared.simulation.build_reader(prepared.plugins)
    training = [name for name in sites if name not in cohort.held_out and (not cohort.sites or name in cohort.sites)]
    sums, used, bad = np.zeros((len(form.channels), LANDMARKS + 1)), 0, 0
    for name in training:
        for ref in sites[name]:
            try:
                sums += _of(prepare(acquired(ref, reader, prepared.simulation, study, name), form))
                used += 1
            except CaseError:
                bad += 1
    if not used:
        raise DataError("FR-D47", f"none of {bad} cases can be read", wanted="one at least", do="study check --data")
    return Learned(standard(sums, form), used, len(training), bad)


def _of(case: Case) -> F64:
    return landmark_sums([case])
