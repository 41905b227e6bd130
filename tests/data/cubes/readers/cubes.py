"""A reader of made cases, some of whose sites go wrong in the ways real ones do."""

from dataclasses import dataclass
from typing import final

import numpy as np

from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.errors import CaseError
from fedrounds_sites.reader import Reader


@final
@dataclass(frozen=True)
class Cubes(Reader):
    """Bright cubes in noise at sites A to D; some sites go wrong on purpose."""

    raises: str = ""
    corrupt: str = ""
    empty: str = ""
    cases_a_site: int = 6
    sites: str = "ABCD"

    def cases(self, form):
        return tuple(
            CaseRef(f"{site}{number}", f"{site}{number}", site)
            for site in self.sites
            for number in range(self.cases_a_site)
        )

    def load(self, ref, form):
        if ref.site == self.raises:
            raise FileNotFoundError("/pacs/DOE^JANE_1961/t1.nii.gz")
        if (ref.site == self.corrupt and ref.name.endswith("0")) or ref.site == self.empty:
            raise CaseError("FR-D12", "cannot be opened", case=ref.name, wanted="a whole file")
        rng = np.random.default_rng([ord(ref.site), int(ref.name[1:])])
        image = rng.normal(0, 1, (1, 16, 16, 16)).astype(np.float32)
        labels = np.zeros((16, 16, 16), np.uint8)
        x, y, z = rng.integers(2, 9, 3)
        labels[x : x + 5, y : y + 5, z : z + 5] = 1
        image[0][labels == 1] += 3
        return Case(ref, image, Target(labels), np.eye(4))
