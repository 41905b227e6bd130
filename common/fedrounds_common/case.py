"""A case: one visit's images, its target and its geometry. What is scored, and never leaves a site.

Axes. `image` is (C, *grid): (C, X, Y, Z) for volumes, whose affine maps voxel (i, j, k) to RAS
millimetres; (C, H, W) for a single picture, rows then columns; (C, S, H, W) for the stacked slices
of one patient in a 2D study. A picture without geometry has the identity affine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fedrounds_common.packed import Packed, PackedLabels

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))  # of each anatomical direction


@final
@dataclass(frozen=True, order=True)
class CaseRef:
    """Pseudonyms only. `name` is unique within its reader; `patient` groups what is split together."""

    name: str
    patient: str
    site: str | None = None


@final
@dataclass(frozen=True)
class Target:
    """The reference of a case: what is known of it besides its images, as far as its task asks for it.

    `voxels` (*grid): the study's label values, 0 is background. `classes` (K,): 1 for each class that the case
    is of, in the order of the study's classes. Of a case that is a pair of images, of which the first half of the
    channels is the fixed one and the other half the moving one, `voxels` lie on the fixed image, `moving` (*grid)
    are the labels of the moving one, and `field` (A, *grid) is the true displacement in mm along the world's axes
    (of a picture: rows, columns), such that fixed(x) = moving(x + field(x)). `landmarks` (N, 2, A): places in mm in
    the fixed image and the same ones in the moving.
    """

    # without a default that the class itself would have: what an instance lacks, `__getattr__` is asked for
    voxels: U8 | None = dataclasses.field(default_factory=lambda: None)
    classes: F32 | None = None
    moving: U8 | None = dataclasses.field(default_factory=lambda: None)
    field: F32 | None = None
    landmarks: F64 | None = None
    # no field, so that whoever goes through the fields sees what is known and nothing else; a kept one has its own
    packed: ClassVar[Mapping[str, PackedLabels]] = MappingProxyType({})

    @staticmethod
    def kept(packed: Mapping[str, PackedLabels], **known: NDArray[Any]) -> Target:
        """A target some of whose label maps are as a store keeps them, and are unpacked when somebody looks at them."""
        target = Target(**known)
        for name in packed:
            object.__delattr__(target, name)
        object.__setattr__(target, "packed", packed)
        return target

    if not TYPE_CHECKING:  # a checker would let every misspelt name pass

        def __getattr__(self, name: str) -> U8:
            packed = self.__dict__.get("packed", {})
            if name in packed:
                return packed[name].whole()
            raise AttributeError(name)

    def has(self, name: str) -> bool:
        """Whether this is known; nothing is unpacked to tell."""
        return name in self.packed or getattr(self, name) is not None


@final
@dataclass(frozen=True)
class Case:
    """`packed`: the image as a store keeps it, in place of an array; `image` then unpacks all of it anew each time."""

    ref: CaseRef
    image: F32
    target: Target | None
    affine: F64
    packed: Packed | None = field(default=None, init=False, repr=False, compare=False)

    @staticmethod
    def kept(ref: CaseRef, packed: Packed, target: Target | None, affine: F64) -> Case:
        """A case whose image is unpacked when somebody looks at it, and of which a patch can be had without the rest."""
        case = object.__new__(Case)
        for name, value in (("ref", ref), ("target", target), ("affine", affine), ("packed", packed)):
            object.__setattr__(case, name, value)
        return case

    if not TYPE_CHECKING:  # a checker would let every misspelt name pass

        def __getattr__(self, name: str) -> F32:
            # asked only for what is not there, and of a kept case that is its image
            if name == "image" and self.packed is not None:
                return self.packed.whole()
            raise AttributeError(name)

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(self.image.shape[1:]) if self.packed is None else self.packed.grid

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size along each grid axis, in mm. Stacked slices: (between slices, row, column)."""
        return spacing_of(self.affine, len(self.grid))

    @property
    def orientation(self) -> str:
        """Where each grid axis points, e.g. "RAS"."""
        return orientation_of(self.affine)[: len(self.grid)]

    @property
    def labels(self) -> U8 | None:
        """The reference label map (*grid), where there is one; of a stored case unpacked anew each time."""
        return None if self.target is None else self.target.voxels

    @property
    def labelled(self) -> bool:
        return self.target is not None and self.target.has("voxels")

    def with_image(self, image: F32, target: Target | None = None, affine: F64 | None = None) -> Case:
        return replace(self, image=image, target=target, affine=self.affine if affine is None else affine)


def spacing_of(affine: F64, axes: int) -> tuple[float, ...]:
    """Column lengths of the affine, in mm."""
    return tuple(float(np.linalg.norm(affine[:3, axis])) for axis in range(axes))


def orientation_of(affine: F64) -> str:
    """The closest anatomical direction of each voxel axis, each direction used once."""
    cosines = affine[:3, :3] / np.maximum(np.linalg.norm(affine[:3, :3], axis=0), 1e-12)
    codes, free = ["?"] * 3, [0, 1, 2]
    # the steepest axis chooses first, so that a tilted volume never names one direction twice
    for axis in sorted(range(3), key=lambda axis: -float(np.abs(cosines[:, axis]).max())):
        world = max(free, key=lambda row: abs(float(cosines[row, axis])))
        free.remove(world)
        codes[axis] = ("RAS" if cosines[world, axis] >= 0 else "LPI")[world]
    return "".join(codes)


Cases = Sequence[Case]
