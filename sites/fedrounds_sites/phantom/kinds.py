"""What a simulated patient is a case of: the classes that a study may ask for, and whose share has no tumour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from fedrounds_common import rng
from fedrounds_common.case import Target
from fedrounds_common.errors import DataError
from fedrounds_common.plugins import choice_message
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.classes import class_target
from fedrounds_sites.phantom import VERSION
from fedrounds_sites.phantom.hospital import Population, population
from fedrounds_sites.phantom.patients import Visit

CLASSES = ("no_tumour", "tumour", "non_enhancing", "enhancing", "atrophy")
# a case is exactly one of each of these
WHOLE = (
    frozenset({"no_tumour", "tumour"}),
    frozenset({"no_tumour", "non_enhancing", "enhancing"}),
    frozenset({"non_enhancing", "enhancing"}),
)
ATROPHIED = 0.5  # share of the cortex lost to fluid where it is near
_LIKENESS = 8.0  # hospitals' shares vary as those of a beta distribution with this sum of its two numbers


@final
@dataclass(frozen=True)
class Mix:
    """Whom the hospitals see: mean shares of patients without tumour, and of tumours without enhancement; None: as is."""

    without_tumour: float | None = None
    without_enhancement: float | None = None

    def tumour_free(self, seed: int, site: str, name: str, form: CaseForm) -> bool:
        """Whether this patient has no tumour; with nothing said, half have none where the study asks for such."""
        mean = self.without_tumour
        if mean is None:
            mean = 0.5 if "no_tumour" in form.classes or ("tumour" in form.classes and form.multi_label) else 0.0
        draw = rng.share(seed, "phantom", VERSION, "without-tumour", site, name)
        return draw < _of_hospital(mean, seed, site, "without-tumour")

    def population(self, seed: int, site: str) -> Population:
        drawn = population(seed, site)
        if self.without_enhancement is None:
            return drawn
        share = _of_hospital(self.without_enhancement, seed, site, "without-enhancement")
        return replace(drawn, without_enhancement=share)


def check_classes(form: CaseForm) -> None:
    """Raises DataError FR-P05: the phantom cannot tell these classes apart."""
    for name in form.classes:
        if name not in CLASSES:
            raise DataError("FR-P05", f"classes: {choice_message(name, CLASSES)}")
    if form.classes and not form.multi_label and frozenset(form.classes) not in WHOLE:
        wanted = "; ".join(", ".join(name for name in CLASSES if name in each) for each in WHOLE)
        found = f"classes {', '.join(form.classes)}"
        do = "name one of these lists, or set multi_label = true"
        raise DataError("FR-P05", found, wanted=f"what each patient is exactly one of: {wanted}", do=do)


def kinds(made: Visit, tumour: bool, form: CaseForm) -> Target:
    """`Target.classes` of one patient."""
    facts: Mapping[str, bool] = {
        "no_tumour": not tumour,
        "tumour": tumour,
        "non_enhancing": tumour and not made.patient.enhancing,
        "enhancing": tumour and made.patient.enhancing,
        "atrophy": made.atrophy > ATROPHIED,
    }
    return class_target([index for index, name in enumerate(form.classes) if facts[name]], form)


def _of_hospital(mean: float, seed: int, site: str, what: str) -> float:
    if mean in (0.0, 1.0):
        return mean
    draws = rng.generator(seed, "phantom", VERSION, what, site)
    return float(draws.beta(_LIKENESS * mean, _LIKENESS * (1 - mean)))
