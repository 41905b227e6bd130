"""A reader of made exams: two series of a few slices each, of which only the first shows the finding."""

from dataclasses import dataclass
from typing import final

import numpy as np

from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_sites.reader import Reader


@final
@dataclass(frozen=True)
class Exams(Reader):
    """A bright square in one slice of the first series of every second exam, at sites A and B."""

    cases_a_site: int = 12

    def cases(self, form):
        return tuple(
            CaseRef(f"{site}{number:02}", f"{site}{number:02}", site)
            for site in "AB"
            for number in range(self.cases_a_site)
        )

    def load(self, ref, form):
        number = int(ref.name[1:])
        rng = np.random.default_rng([ord(ref.site), number])
        image = rng.normal(0, 0.5, (2, 4, 16, 16)).astype(np.float32)
        if number % 2:
            image[0, int(rng.integers(4)), 4:12, 4:12] += 3
        classes = np.array([1 - number % 2, number % 2], np.float32)
        return Case(ref, image, Target(classes=classes), np.eye(4))
