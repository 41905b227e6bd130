"""The volumes of `benchmarks/workload.py` as cases: a cube in noise, made and not read."""

from dataclasses import dataclass
from typing import final

import numpy as np

from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_sites.reader import Reader


@final
@dataclass(frozen=True)
class MadeVolumes(Reader):
    """`number` sites of `cases_a_site` volumes of `grid`³."""

    number: int = 8
    cases_a_site: int = 4
    grid: int = 32

    def cases(self, form):
        return tuple(
            CaseRef(f"s{site:05d}-{case:02d}", f"s{site:05d}-{case:02d}", f"s{site:05d}")
            for site in range(self.number)
            for case in range(self.cases_a_site)
        )

    def load(self, ref, form):
        import workload

        site, case = (int(part) for part in ref.name[1:].split("-"))
        image, labels = workload.volume(site, case, self.grid)
        return Case(ref, image, Target(labels), np.eye(4))
