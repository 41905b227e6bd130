"""Sites whose kinds of target differ: each stratum is dealt out in shares drawn from a Dirichlet distribution."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import numpy as np
from pydantic import ConfigDict, Field

from fedrounds_common import rng
from fedrounds_common.case import CaseRef
from fedrounds_common.errors import DataError
from fedrounds_common.plugins import STRICT
from fedrounds_sites.partition import Assignment, Partition, by_patient, gathered, numbered, shuffled, too_few

_DRAWS = 1000


@final
@dataclass(frozen=True)
class Dirichlet(Partition):
    """Label skew over equal chances: small alpha, few kinds a site; large alpha, all alike.

    Source: Hsu et al. 2019 (arXiv:1909.06335); drawn again until every site holds `at_least`, as in
    Li et al. 2022 (NIID-Bench, arXiv:2102.02079).

    Args:
        sites: how many.
        alpha: concentration, above 0.
        at_least: patients a site.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    needs_strata: ClassVar[bool] = True

    sites: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 0.5
    at_least: Annotated[int, Field(ge=1)] = 1

    def assign(self, refs: Sequence[CaseRef], seed: int, strata: Mapping[str, int] | None = None) -> Assignment:
        """Raises DataError FR-D22: too few patients; FR-D24: no strata, or no draw that fills every site."""
        cases = by_patient(refs)
        if len(cases) < self.sites * self.at_least:
            raise too_few(len(cases), self.sites * self.at_least, f"{self.sites} sites of at least {self.at_least}")
        kinds = _by_stratum(shuffled(cases, seed, "dirichlet"), strata or {})
        draws = rng.generator(seed, "partition", "dirichlet", self.sites)
        names = numbered(self.sites)
        for _ in range(_DRAWS):
            patients = self._draw(kinds, names, draws)
            if min(len(patients[name]) for name in names) >= self.at_least:
                return gathered(patients, cases)
        raise DataError(
            "FR-D24",
            f"in {_DRAWS} draws some site always had fewer than {self.at_least} patients",
            wanted=f"{len(cases)} patients over {self.sites} sites at alpha {self.alpha:g}",
            do="raise alpha, ask for fewer sites, or lower at_least",
        )

    def _draw(
        self, kinds: Mapping[int, Sequence[str]], names: Sequence[str], draws: np.random.Generator
    ) -> dict[str, list[str]]:
        patients: dict[str, list[str]] = {name: [] for name in names}
        for stratum in sorted(kinds):
            own = kinds[stratum]
            shares = draws.dirichlet(np.full(len(names), self.alpha))
            if not np.isfinite(shares).all():  # at a tiny alpha the gamma draws all round to 0
                shares = np.eye(len(names))[draws.integers(len(names))]
            ends = np.rint(np.cumsum(shares) * len(own)).astype(int)
            for name, start, end in zip(names, [0, *ends[:-1]], ends, strict=True):
                patients[name].extend(own[start:end])
        return patients


def _by_stratum(patients: Sequence[str], strata: Mapping[str, int]) -> dict[int, list[str]]:
    unknown = sorted(set(patients) - set(strata))
    if unknown:
        raise DataError(
            "FR-D24",
            f"{len(unknown)} patients without a target to sort by ({', '.join(unknown[:5])})",
            wanted="a target for every patient",
            do="add the missing masks, or choose another partition",
        )
    kinds: dict[int, list[str]] = defaultdict(list)
    for patient in patients:
        kinds[strata[patient]].append(patient)
    return kinds
