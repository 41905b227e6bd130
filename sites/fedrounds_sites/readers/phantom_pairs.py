"""`phantom_pairs`: two scans of the same simulated patient, and the true displacement between them.

Nothing is read from disk but the shipped templates. A pair depends on (seed, site, patient) and the reader's own fields
alone. The heads are those of `phantom_glioma`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import ConfigDict, Field

from fedrounds_common import rng
from fedrounds_common.case import F32, F64, U8, Case, CaseRef, Target
from fedrounds_common.errors import DataError
from fedrounds_common.plugins import STRICT, choice_message
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.phantom import VERSION
from fedrounds_sites.phantom.ct import HEAD_MM
from fedrounds_sites.phantom.fields import Motion
from fedrounds_sites.phantom.hospital import population
from fedrounds_sites.phantom.motion import motion, true_field, true_field_over
from fedrounds_sites.phantom.patients import PARTS, Change, Visit, visit
from fedrounds_sites.phantom.scanner import Scanner, scanner
from fedrounds_sites.reader import Reader
from fedrounds_sites.readers.phantom_glioma import ALL_CHANNELS, PhantomGlioma, index_of, site_of
from fedrounds_sites.targets import STACKS, one_slice, stack_of_slices

Contrast = Literal["t1", "t1ce", "t2", "flair", "ct"]
LANDMARKS, APART_MM = 16, 12.0


@final
@dataclass(frozen=True)
class PhantomPairs(Reader):
    """Pairs for registration: channels of the fixed image, then as many of the moving one.

    `Target.voxels` and `moving` are label maps of both, `field` the true displacement, `landmarks` places in the brain.
    Labels are any of white, grey, csf, ventricles, tumour; "target" is the ventricles. A study of dims = 2 gets the axial slice where the tumour is
    widest, displaced within itself.

    `profile`, `scale`, `seed`, `spacing_mm`: as of `phantom_glioma`.
    `fixed`, `moving`: what each channel of the two images is; the moving one as the fixed one if left out.
    `motion_mm`: standard deviation of the smooth displacement; `turn_deg`, `shift_mm`: of turning and shifting the head.
    `tumour`: whether patients have one.
    `other_scanner`: True takes the moving image on another scanner, drawn for each patient.
    `skull`: True leaves skull and scalp in the MR images.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: ClassVar[Literal["real", "phantom"]] = "phantom"

    profile: str = "eight"
    scale: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int = 1
    spacing_mm: Annotated[float, Field(ge=1, le=10)] = 5.0
    generator: int = VERSION
    fixed: tuple[Contrast, ...] = ("t1",)
    moving: tuple[Contrast, ...] = ()
    motion_mm: Annotated[float, Field(ge=0, le=4)] = 3.0
    turn_deg: Annotated[float, Field(ge=0, le=4)] = 2.0
    shift_mm: Annotated[float, Field(ge=0, le=10)] = 1.0
    tumour: bool = True
    other_scanner: bool = False
    skull: bool = False

    @property
    def version(self) -> str:
        return self._heads.version

    @property
    def own_form(self) -> CaseForm:
        return CaseForm(channels=("fixed", "moving"), labels={"ventricles": 1})

    def cases(self, form: CaseForm) -> tuple[CaseRef, ...]:
        self._check(form)
        return self._heads.cases(self._heads.own_form)

    def load(self, ref: CaseRef, form: CaseForm) -> Case:
        site = site_of(ref)
        scans = self._heads.scanner_of(site, ref)
        second = self._second(site, ref) if self.other_scanner else scans
        draws = rng.generator(self.seed, "phantom", VERSION, "motion", site, ref.patient)
        moved = motion(draws, self.motion_mm, self.turn_deg, self.shift_mm, axial=form.dims == 2)
        still = self._visit(ref, scans, self.fixed, None)
        again = self._visit(ref, second, self.moving or self.fixed, moved)
        image = np.concatenate([_channels(still, self.fixed), _channels(again, self.moving or self.fixed)])
        case = Case(ref, image, Target(_as_in_study(still, form), moving=_as_in_study(again, form)), still.affine)
        index = index_of(still.level_mm, case) if form.dims == 2 else None
        places = _places(still, index, rng.generator(self.seed, "phantom", VERSION, "places", site, ref.patient))
        there = places + true_field(moved, places.astype(np.float32))
        field = _field(moved, case, index)
        assert case.target is not None
        truth = replace(case.target, field=field, landmarks=np.stack([places, there], axis=1))
        return case.with_image(image, truth) if index is None else _flat(case.with_image(image, truth), index)

    def stamp(self, ref: CaseRef, form: CaseForm) -> str:
        # slices have had a place in the world since 2: what was kept of them before has none
        return hashlib.sha256(f"{self.version}|{self}|{ref}|2".encode()).hexdigest()

    @property
    def _heads(self) -> PhantomGlioma:
        return PhantomGlioma(self.profile, self.scale, self.seed, self.spacing_mm, self.generator, skull=self.skull)

    def _second(self, site: str, ref: CaseRef) -> Scanner:
        drawn = scanner(self.seed, f"{site}, second scanner of {ref.patient}")
        return replace(drawn, margin_mm=HEAD_MM) if self.skull else drawn

    def _visit(self, ref: CaseRef, scans: Scanner, contrasts: tuple[str, ...], moved: Motion | None) -> Visit:
        again, site = "" if moved is None else " again", site_of(ref)
        change = Change(self.tumour, motion=moved, again=again, ct="ct" in contrasts, parts=True, level=True)
        return visit(self.seed, site, ref.patient, scans, population(self.seed, site), self.spacing_mm, change)

    def _check(self, form: CaseForm) -> None:
        moving = self.moving or self.fixed
        if len(self.fixed) != len(moving) or len(form.channels) != 2 * len(self.fixed):
            found = f"{len(form.channels)} channels for {len(self.fixed)} fixed and {len(moving)} moving"
            raise DataError("FR-P05", found, wanted="as many moving as fixed, and a channel of [cases] for each")
        for name in form.labels:
            if name not in (*PARTS, "target"):
                raise DataError("FR-P05", f"labels: {choice_message(name, PARTS)}")


def _channels(made: Visit, contrasts: tuple[str, ...]) -> F32:
    return np.ascontiguousarray(made.images[[ALL_CHANNELS.index(name) for name in contrasts]])


def _as_in_study(made: Visit, form: CaseForm) -> U8:
    """Parts of the brain as the study's values, by name; what it does not name becomes background."""
    assert made.parts is not None  # asked for
    table = np.zeros(len(PARTS) + 1, np.uint8)
    for place, name in enumerate(PARTS):
        table[place + 1] = form.labels.get(name, form.labels.get("target", 0) if name == "ventricles" else 0)
    return np.asarray(table[made.parts], np.uint8)


def _field(moved: Motion, case: Case, index: int | None) -> F32:
    """(3, *grid) in mm; zeros outside the axial slice `index` if that is all that is wanted."""
    x, y, z = (
        (case.affine[axis, 3] + case.affine[axis, axis] * np.arange(size)).astype(np.float32)
        for axis, size in enumerate(case.grid)
    )
    field = np.zeros((3, *case.grid), np.float32)
    wanted = slice(None) if index is None else slice(index, index + 1)
    field[..., wanted] = np.moveaxis(true_field_over(moved, (x, y, z[wanted])), -1, 0)
    return field


def _places(made: Visit, index: int | None, random: np.random.Generator) -> F64:
    """(n, 3) centres of voxels of the brain in RAS mm, no two near each other; of one axial slice if `index` is given."""
    assert made.parts is not None  # asked for
    brain = made.parts > 0
    if index is not None:
        brain = brain & (np.arange(brain.shape[2]) == index)
    voxels = random.permutation(np.argwhere(brain)) * made.affine[0, 0] + made.affine[:3, 3]
    chosen = list(voxels[:1])
    for place in voxels[1:]:
        if len(chosen) == LANDMARKS:
            break
        if min(float(np.linalg.norm(place - other)) for other in chosen) >= APART_MM:
            chosen.append(place)
    return np.array(chosen, np.float64).reshape(-1, 3)


def _flat(case: Case, index: int) -> Case:
    """One axial slice where it lies in the world: rows run backwards, columns to the left, so that R and L are known.

    Its field and its landmarks are in mm along the world's first two axes, to the right and to the front.
    """
    stack = stack_of_slices(case, STACKS["axial"])
    flat = one_slice(stack, index)
    assert flat.target is not None
    assert flat.target.field is not None
    assert flat.target.landmarks is not None
    target = replace(
        flat.target,
        field=np.ascontiguousarray(flat.target.field[:2]),
        landmarks=np.ascontiguousarray(flat.target.landmarks[..., :2]),
    )
    return flat.with_image(flat.image, target)
