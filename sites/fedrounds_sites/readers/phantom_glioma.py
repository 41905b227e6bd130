"""`phantom_glioma`: brain MRI with glioma at simulated hospitals, made when asked for.

Nothing is read from disk but the shipped templates. A case depends on (seed, site, patient) alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from fedrounds_common.case import U8, Case, CaseRef, Target
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.plugins import STRICT, choice_message
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites import profiles
from fedrounds_sites.phantom import VERSION
from fedrounds_sites.phantom.faults import spoil
from fedrounds_sites.phantom.hospital import population
from fedrounds_sites.phantom.patients import LABELS, visit
from fedrounds_sites.phantom.scanner import CHANNELS, FIELDS, Scanner, scanner
from fedrounds_sites.profiles import Fault, Profile, SiteProfile
from fedrounds_sites.reader import Reader

ABOUT = 400  # cases, where a study does not say


@final
@dataclass(frozen=True)
class PhantomGlioma(Reader):
    """Simulated hospitals of a profile.

    `scale`: the share of the profile's cases; scaled down, every hospital keeps at least 2. Left out:
    all of them, or about 400 where the profile has more.
    `seed`: the phantom's own; another seed gives other hospitals and other patients.
    `generator`: the version of the phantom a study was written for; numbers of another one are void.
    `faults`: spoil hospitals on purpose, besides what the profile says.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: ClassVar[Literal["real", "phantom"]] = "phantom"

    profile: str = "fets71"
    scale: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int = 1
    spacing_mm: Annotated[float, Field(ge=1, le=10)] = 5.0
    generator: int = VERSION
    faults: dict[str, tuple[Fault, ...]] = field(default_factory=dict)

    @property
    def version(self) -> str:
        profile = self._profile()
        return f"phantom {VERSION}, seed {self.seed}; profile {profile.name} {profile.version}, {profile.digest[:16]}"

    @property
    def own_form(self) -> CaseForm:
        return CaseForm(channels=CHANNELS, labels=dict(LABELS))

    def cases(self, form: CaseForm) -> tuple[CaseRef, ...]:
        self._check(form)
        profile = self._profile()
        counts = profile.counts(self.scale or min(1.0, ABOUT / sum(profile.counts().values())))
        return tuple(
            sorted(
                CaseRef(f"{site}-{number:04d}", f"{site}-{number:04d}", site)
                for site, count in counts.items()
                for number in range(count)
            )
        )

    def load(self, ref: CaseRef, form: CaseForm) -> Case:
        site = ref.site or ref.name.rsplit("-", 1)[0]
        hospital = self._profile().sites.get(site)
        if hospital is None:
            raise CaseError("FR-P11", f"no hospital {site!r} in profile {self.profile}", case=ref.name)
        scans = self._scanner(site, hospital)
        made = visit(self.seed, site, ref.patient, scans, population(self.seed, site), self.spacing_mm)
        faults = (*hospital.faults, *self.faults.get(site, ()))
        made = spoil(made, faults, first=ref.name.endswith("-0000"), case=ref.name)
        image = np.ascontiguousarray(made.images[[CHANNELS.index(channel) for channel in form.channels]])
        return Case(ref, image, Target(_as_in_study(made.labels, form, ref)), made.affine)

    def stamp(self, ref: CaseRef, form: CaseForm) -> str:
        return hashlib.sha256(
            f"{self.version}|{self.spacing_mm}|{sorted(self.faults.items())}|{ref}".encode()
        ).hexdigest()

    def _profile(self) -> Profile:
        return profiles.load(self.profile)

    def _scanner(self, site: str, hospital: SiteProfile) -> Scanner:
        """The scanner drawn for this hospital, with what the profile fixes."""
        drawn = scanner(self.seed, site)
        unknown = [name for name in hospital.scanner if name not in FIELDS]
        if unknown:
            raise DataError("FR-P03", f"{site}.scanner.{choice_message(unknown[0], FIELDS)}", where=self.profile)
        try:
            return TypeAdapter(Scanner).validate_python({**asdict(drawn), **hospital.scanner})
        except ValidationError as error:
            faults = "; ".join(f"{e['loc'][0]} = {e['input']!r}: {e['msg']}" for e in error.errors())
            raise DataError("FR-P03", f"{site}.scanner.{faults}", where=self.profile) from error

    def _check(self, form: CaseForm) -> None:
        """Raise DataError where the phantom cannot give what the study asks for."""
        if self.generator != VERSION:
            raise DataError(
                "FR-P04",
                f"generator = {self.generator}",
                wanted=f"{VERSION}, the phantom of this program",
                do="numbers made with another version do not compare: change it and run again",
            )
        if form.dims != 3:
            raise DataError("FR-P05", f"dims = {form.dims}", wanted="3: the phantom makes volumes")
        for channel in form.channels:
            if channel not in CHANNELS:
                raise DataError("FR-P05", f"channels: {choice_message(channel, CHANNELS)}")
        for name in form.labels:
            if name not in LABELS:
                raise DataError("FR-P05", f"labels: {choice_message(name, tuple(LABELS))}")
        for site in self.faults:
            if site not in self._profile().sites:
                raise DataError("FR-P06", f"faults: {choice_message(site, tuple(self._profile().sites))}")


def _as_in_study(labels: U8, form: CaseForm, ref: CaseRef) -> U8:
    """BraTS values (1, 2, 4) to the study's, by name; names the study does not ask for become background.

    Raises:
        CaseError: a value that the BraTS convention does not have.
    """
    table = np.zeros(256, np.uint8)
    for name, value in LABELS.items():
        table[value] = form.labels.get(name, 0)
    unknown = sorted(set(np.unique(labels).tolist()) - {0, *LABELS.values()})
    if unknown:
        raise CaseError(
            "FR-P12",
            f"label {unknown[0]} in the reference",
            case=ref.name,
            wanted="0, 1 (necrosis), 2 (oedema) or 4 (enhancing)",
            do="ask the hospital which convention its labels follow",
        )
    return np.asarray(table[labels], np.uint8)
