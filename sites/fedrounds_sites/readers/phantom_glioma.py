"""`phantom_glioma`: brain MRI with glioma at simulated hospitals, made when asked for.

Nothing is read from disk but the shipped templates. A case depends on (seed, site, patient) alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from fedrounds_common.case import U8, Case, CaseRef, Target
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.plugins import STRICT, choice_message
from fedrounds_common.study.tables import CaseForm, Share
from fedrounds_sites import profiles
from fedrounds_sites.phantom import VERSION
from fedrounds_sites.phantom.ct import HEAD_MM
from fedrounds_sites.phantom.faults import spoil
from fedrounds_sites.phantom.kinds import Mix, check_classes, kinds
from fedrounds_sites.phantom.patients import LABELS, Change, visit
from fedrounds_sites.phantom.scanner import CHANNELS, FIELDS, Scanner, scanner
from fedrounds_sites.profiles import Fault, Profile, SiteProfile
from fedrounds_sites.reader import Reader
from fedrounds_sites.targets import STACKS, one_slice, stack_of_slices

ALL_CHANNELS = (*CHANNELS, "ct")
WHOLE = ("tumour", "target")  # a label called so is all of the tumour; "target" is what a study means that names none
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
    `slice`: what a study of dims = 2 gets: the axial slice where the "tumour" is widest (or would be, in a patient
    without one), or the "stack" of all slices.
    `without_tumour`: mean share of a hospital's patients that have none, look-alikes and all; left out: half where the
    study's classes ask for such, else nobody. `without_enhancement`: mean share of tumours that do not enhance; left
    out: each hospital's own, about an eighth.
    `skull`: True leaves skull and scalp in the MR images; else each scanner's own stripping. CT always has them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: ClassVar[Literal["real", "phantom"]] = "phantom"

    profile: str = "fets71"
    scale: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int = 1
    spacing_mm: Annotated[float, Field(ge=1, le=10)] = 5.0
    generator: int = VERSION
    faults: dict[str, tuple[Fault, ...]] = field(default_factory=dict)
    slice: Literal["tumour", "stack"] = "tumour"
    without_tumour: Share | None = None
    without_enhancement: Share | None = None
    skull: bool = False

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
        return self.changed(ref, form)

    def changed(
        self, ref: CaseRef, form: CaseForm, *, tumour: bool | None = None, size: float = 1.0, scanned_at: str = ""
    ) -> Case:
        """The case, other than it is in one respect: see `phantom.twins`.

        Args:
            tumour: whether there is one; None as it is.
            size: of the tumour, as a factor of its core's radius and of its oedema's reach.
            scanned_at: the hospital whose scanner is used; "" the patient's own.
        """
        site = site_of(ref)
        hospital = self._hospital(site, ref)
        scans = self.scanner_of(scanned_at or site, ref)
        if tumour is None:
            tumour = not self._mix.tumour_free(self.seed, site, ref.patient, form)
        change = Change(tumour, size, ct="ct" in form.channels, level=form.dims == 2)
        made = visit(
            self.seed, site, ref.patient, scans, self._mix.population(self.seed, site), self.spacing_mm, change
        )
        faults = (*hospital.faults, *self.faults.get(site, ()))
        made = spoil(made, faults, first=ref.name.endswith("-0000"), case=ref.name)
        image = np.ascontiguousarray(made.images[[ALL_CHANNELS.index(channel) for channel in form.channels]])
        target = Target(_as_in_study(made.labels, form, ref))
        if form.classes:
            target = replace(target, classes=kinds(made, tumour, form).classes)
        case = Case(ref, image, target, made.affine)
        if form.dims == 3:
            return case
        stack = stack_of_slices(case, STACKS["axial"])
        return stack if self.slice == "stack" else one_slice(stack, index_of(made.level_mm, case))

    def stamp(self, ref: CaseRef, form: CaseForm) -> str:
        own = (self.slice, self.without_tumour, self.without_enhancement, self.skull)
        more = "" if own == ("tumour", None, None, False) else f"|{own}"
        return hashlib.sha256(
            f"{self.version}|{self.spacing_mm}|{sorted(self.faults.items())}|{ref}{more}".encode()
        ).hexdigest()

    def scanner_of(self, site: str, ref: CaseRef) -> Scanner:
        """Raises CaseError FR-P11: the profile has no such hospital."""
        scans = self._scanner(site, self._hospital(site, ref))
        return replace(scans, margin_mm=HEAD_MM) if self.skull else scans

    @property
    def _mix(self) -> Mix:
        return Mix(self.without_tumour, self.without_enhancement)

    def _hospital(self, site: str, ref: CaseRef) -> SiteProfile:
        hospital = self._profile().sites.get(site)
        if hospital is None:
            raise CaseError("FR-P11", f"no hospital {site!r} in profile {self.profile}", case=ref.name)
        return hospital

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
        for channel in form.channels:
            if channel not in ALL_CHANNELS:
                raise DataError("FR-P05", f"channels: {choice_message(channel, ALL_CHANNELS)}")
        for name in form.labels:
            if name not in (*LABELS, *WHOLE):
                raise DataError("FR-P05", f"labels: {choice_message(name, (*LABELS, *WHOLE))}")
        check_classes(form)
        for site in self.faults:
            if site not in self._profile().sites:
                raise DataError("FR-P06", f"faults: {choice_message(site, tuple(self._profile().sites))}")


def site_of(ref: CaseRef) -> str:
    return ref.site or ref.name.rsplit("-", 1)[0]


def index_of(level_mm: float, case: Case) -> int:
    """The axial slice nearest to a height; the volume's third axis points up."""
    index = round((level_mm - case.affine[2, 3]) / case.affine[2, 2])
    return int(np.clip(index, 0, case.grid[2] - 1))


def _as_in_study(labels: U8, form: CaseForm, ref: CaseRef) -> U8:
    """BraTS values (1, 2, 4) to the study's, by name; those that it does not name become its `tumour`, or background.

    Raises:
        CaseError: a value that the BraTS convention does not have.
    """
    table = np.zeros(256, np.uint8)
    whole = next((form.labels[name] for name in WHOLE if name in form.labels), 0)
    for name, value in LABELS.items():
        table[value] = form.labels.get(name, whole)
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
