"""Cases from a folder of NIfTI files: by pattern, or laid out as MSD, nnU-Net and BraTS lay theirs out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal, final

from pydantic import ConfigDict, Field

from fedrounds_common.case import F64, U8, Case, CaseRef, Target
from fedrounds_common.errors import CaseError
from fedrounds_common.plugins import STRICT
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites import listing
from fedrounds_sites.fitting import only_file, same_grid, stacked
from fedrounds_sites.masks import labels_of, map_labels, study_values, whole
from fedrounds_sites.nifti import LIMIT_VOXELS, Volume, read_volume
from fedrounds_sites.reader import Reader
from fedrounds_sites.readers._layouts import LAYOUTS, Layout
from fedrounds_sites.targets import STACKS, stack_of_slices


@final
@dataclass(frozen=True)
class NiftiFolder(Reader):
    """One 3D file a channel, or one 4D file with channels last; masks beside them.

    Args:
        root: the folder; a relative one is taken from the current folder.
        layout: a ready-made pair of patterns; "pattern" is images/CASE.nii.gz, labels/CASE.nii.gz.
        images, labels: regular expressions over the path below `root` in place of the layout's; groups
            `case`, and `channel`, `patient`, `site` as there are.
        channels: what file names call a channel → the study's name for it.
        label_map: stored value → the study's value, and then nothing but these and 0 may occur; 0
            drops a label. Left empty: BraTS layouts map by the labels' names, the others store the
            study's values.
        labels_required: False lets cases come without a mask, to predict on.
        slices: in a 2D study, how volumes are cut.
        tolerance_mm: by how much the corners of channels and mask may lie apart.
        limit_voxels: of one file; more is refused before it is read.
        follow_links: True reads through symbolic links to files.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    root: Path
    layout: Literal["pattern", "msd", "nnunet", "brats", "brats-gli"] = "pattern"
    images: str = ""
    labels: str = ""
    channels: dict[str, str] = field(default_factory=dict)
    label_map: dict[int, Annotated[int, Field(ge=0, le=255)]] = field(default_factory=dict)
    labels_required: bool = True
    slices: Literal["axial", "coronal", "sagittal"] = "axial"
    tolerance_mm: Annotated[float, Field(ge=0)] = 0.1
    limit_voxels: Annotated[int, Field(ge=1)] = LIMIT_VOXELS
    follow_links: bool = False

    @property
    def own_form(self) -> CaseForm:
        return CaseForm(labels=labels_of(self.label_map))

    def cases(self, form: CaseForm) -> tuple[CaseRef, ...]:
        self._label_values(form)
        self.__dict__.pop("_index", None)  # look again: files may have come since
        return tuple(files.ref for files in self._index.cases.values())

    @property
    def split_by(self) -> Literal["patient", "image"]:
        return "patient" if "(?P<patient>" in (self.images or self._layout.images) else "image"

    @property
    def passed_over(self) -> Mapping[str, int]:
        return listing.counted(self._index.others)

    @property
    def passed_over_names(self) -> Mapping[str, tuple[str, ...]]:
        return listing.named(self._index.others)

    def load(self, ref: CaseRef, form: CaseForm) -> Case:
        files = self._files(ref)
        volumes = [self._read(path, ref) for path in self._image_paths(files, form)]
        image = stacked(volumes, self._image_paths(files, form), form, ref, self.tolerance_mm)
        affine = volumes[0].affine
        voxels = self._labels(files, form, image.shape[1:], affine)
        if form.dims == 2:
            return stack_of_slices(Case(ref, image, _label_map(voxels), affine), STACKS[self.slices])
        return Case(ref, image, _label_map(voxels), affine)

    def stamp(self, ref: CaseRef, form: CaseForm) -> str:
        files = self._files(ref)
        return listing.stamp([path for paths in (*files.images.values(), files.labels) for path in paths])

    def source(self, ref: CaseRef, form: CaseForm) -> Path:
        """The first channel's file: what a prediction is written like (`nifti.write_like`).

        Raises:
            CaseError: as `load`, for missing and doubled images.
        """
        return self._image_paths(self._files(ref), form)[0]

    @cached_property
    def _index(self) -> listing.Listed:
        images = listing.compiled(self.images or self._layout.images, "images")
        labels = listing.compiled(self.labels or self._layout.labels, "labels")
        return listing.group(Path(self.root), images, labels)

    @property
    def _layout(self) -> Layout:
        return LAYOUTS[self.layout]

    def _files(self, ref: CaseRef) -> listing.Files:
        files = self._index.cases.get(ref.name)
        if files is None:
            raise CaseError(
                "FR-D18",
                f"no case named {ref.name}",
                case=ref.name,
                wanted=f"one of the {len(self._index.cases)} of this folder",
                do="list the cases again: files may have gone",
                where=str(self.root),
            )
        return files

    def _read(self, path: Path, ref: CaseRef) -> Volume:
        return read_volume(path, case=ref.name, limit_voxels=self.limit_voxels, follow_links=self.follow_links)

    def _image_paths(self, files: listing.Files, form: CaseForm) -> list[Path]:
        """One file a channel in the study's order, or the only file, which holds them all."""
        name = files.ref.name
        if not files.images:
            raise CaseError(
                "FR-D05",
                "a mask without an image",
                case=name,
                wanted="an image of the same case",
                do="add the image or take the mask away",
                where=str(files.labels[0]),
            )
        if set(files.images) == {""}:
            return [only_file(files.images[""], name)]
        named: dict[str, list[Path]] = {}
        for token, paths in files.images.items():
            named.setdefault(self._channel(token, form), []).extend(paths)
        missing = [channel for channel in form.channels if channel not in named]
        if missing:
            raise CaseError(
                "FR-D06",
                f"no file for channel {', '.join(missing)}; there are {', '.join(sorted(files.images))}",
                case=name,
                wanted=f"one file each for {', '.join(form.channels)}",
                do="add the file, or name the channel in the reader's channels table",
                where=str(next(iter(files.images.values()))[0].parent),
            )
        return [only_file(named[channel], name) for channel in form.channels]

    def _channel(self, token: str, form: CaseForm) -> str:
        known = self.channels.get(token) or self._layout.channels.get(token) or token
        if known not in form.channels and known.isdecimal() and int(known) < len(form.channels):
            return form.channels[int(known)]
        return known

    def _label_values(self, form: CaseForm) -> dict[int, int]:
        """Stored value → the study's value, 0 included; raises DataError FR-D20 as `masks.study_values`."""
        named = {stored: form.labels[name] for stored, name in self._layout.values.items() if name in form.labels}
        return study_values(self.label_map or named, form)

    def _labels(self, files: listing.Files, form: CaseForm, grid: tuple[int, ...], affine: F64) -> U8 | None:
        name = files.ref.name
        if not files.labels:
            if not self.labels_required:
                return None
            raise CaseError(
                "FR-D04",
                "an image without a mask",
                case=name,
                wanted="a mask of the same case",
                do="add the mask, or set labels_required = false to predict",
                where=str(next(iter(files.images.values()))[0]),
            )
        path = only_file(files.labels, name)
        mask = self._read(path, files.ref)
        if mask.voxels.ndim == 4:
            raise CaseError(
                "FR-D17",
                f"a mask with {mask.voxels.shape[3]} volumes",
                case=name,
                wanted="one volume of label values",
                do="merge them into one file of label values",
                where=str(path),
            )
        same_grid(grid, affine, mask.voxels.shape, mask.affine, path, name, self.tolerance_mm)
        return map_labels(whole(mask.voxels, name, str(path)), self._label_values(form), name, str(path))


def _label_map(voxels: U8 | None) -> Target | None:
    return None if voxels is None else Target(voxels)
