"""`fedrounds sample`: images of nobody, made by a trained generator, with their labels and a contact sheet.

synthetic-0001-CLASS.png        of a study of pictures, 8 bits; one a channel where there are several
synthetic-0001-CLASS.nii.gz     of a study of volumes, float32, the channels one after the other
synthetic-0001-labels.png       the label map an image was made for (.nii.gz of volumes)
conditions.csv                  a line a case: its files, its class, the seed
contact-sheet.png               all of them, up to 64, in one picture
synthetic.json                  which model made them, and what they are not for
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

from numpy.typing import NDArray

from fedrounds.judge import open_cases
from fedrounds.model import Model, Source, open_model
from fedrounds_common.case import Case, Cases
from fedrounds_common.disk import write_json, write_text, write_whole
from fedrounds_common.errors import CaseError, UsageError
from fedrounds_common.generative.drawing import NOTE, contact_sheet, eight_bits, named
from fedrounds_common.network import Network
from fedrounds_common.pictures import png_of
from fedrounds_common.study.tables import CaseForm, Table
from fedrounds_common.task import Task
from fedrounds_sites.nifti import write_nifti
from fedrounds_sites.prepare import prepare
from fedrounds_sites.reader import load_case

FORMAT = 1
SHOWN = 64  # images of a contact sheet
COLUMNS = ("case", "class", "images", "labels", "seed", "synthetic")


@final
@dataclass(frozen=True)
class Samples:
    """`files`: case → what was written of it; `sheet`: the contact sheet."""

    folder: Path
    title: str
    files: Mapping[str, tuple[Path, ...]]
    sheet: Path

    def text(self) -> str:
        return "\n".join(
            [
                self.title,
                f"  {len(self.files)} synthetic cases, their conditions in conditions.csv",
                f"  contact sheet: {self.sheet}",
                f"written to {self.folder}; nobody was scanned: for research only, not for diagnosis or treatment",
            ]
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "folder": str(self.folder),
            "files": {case: [file.name for file in files] for case, files in self.files.items()},
            "sheet": str(self.sheet),
            "synthetic": True,
        }


def sample(
    source: Source,
    output: Path | str,
    number: int = 64,
    *,
    kind: str = "",
    seed: int = 0,
    inputs: Path | str | None = None,
    reader: Table | str | None = None,
    settings: Sequence[str] = (),
    study: Path | str | None = None,
    plugins: Sequence[Path | str] = (),
    task: Task | None = None,
    network: Network | None = None,
    force: bool = False,
) -> Samples:
    """Make `number` synthetic cases with a run's generator.

    Args:
        source: a run, its folder, or a model file (then with `study`, unless it lies in a run's folder).
        kind: the class that all are to be of; "" is each class in turn.
        seed: the same one gives the same images.
        inputs, reader, settings: where the label maps come from that a model of label maps makes images for.
        force: write into a folder that holds something, over files of the same name.

    Raises:
        UsageError: the model makes no images from nothing, or none of what was asked for.
        RunFileError: the model cannot be used. DataError: no label map can.
    """
    if number < 1:
        raise UsageError("FR-U77", f"{number} images", wanted="one or more")
    model = open_model(source, study, plugins=plugins, task=task, network=network)
    target = Path(output).resolve()
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not force):
        raise UsageError(
            "FR-U54", "there is something in the output folder", do="name an empty one, or force to write over it",
            where=str(target),
        )  # fmt: skip
    form = model.study.cases
    given = () if inputs is None and reader is None else _given(model, inputs, reader, settings, number)
    made = model.parts.task.sample(model.module(), form, number, seed, kind, given)
    files = {case.ref.name: _write(target, case, form) for case in made}
    _write_table(target / "conditions.csv", made, files, form, seed)
    sheet = target / "contact-sheet.png"
    write_whole(sheet, png_of(contact_sheet(made[:SHOWN], form), {"Comment": NOTE}))
    found = Samples(
        target, f"{model.name} of {model.run.name if model.run else model.file.name}, seed {seed}", files, sheet
    )
    write_json(target / "synthetic.json", _says(found, model, kind, seed))
    return found


def _given(
    model: Model, inputs: Path | str | None, reader: Table | str | None, settings: Sequence[str], number: int
) -> Cases:
    """Prepared cases whose label maps are asked for; those that have none are passed over."""
    folder = open_cases(model, None if inputs is None else Path(inputs), reader, settings, labelled=True)
    found: list[Case] = []
    for ref in folder.refs:
        try:
            case = load_case(folder.reader, ref, model.study.cases)
            if not model.parts.task.lacks(case, model.study.cases):
                found.append(prepare(case, model.study.cases))
        except CaseError:
            continue
        if len(found) == number:
            break
    return found


def _write(folder: Path, case: Case, form: CaseForm) -> tuple[Path, ...]:
    """The image files first, then that of the labels."""
    stem = "-".join(filter(None, [case.ref.name, named(case, form)]))
    labels = case.labels
    if form.dims == 3:
        files = [folder / f"{stem}.nii.gz"]
        write_nifti(files[0], case.image if len(case.image) > 1 else case.image[0], case.affine, says=NOTE)
        if labels is not None:
            files.append(folder / f"{case.ref.name}-labels.nii.gz")
            write_nifti(files[-1], labels, case.affine, says=NOTE)
        return tuple(files)
    names = [stem] if len(form.channels) == 1 else [f"{stem}-{channel}" for channel in form.channels]
    wanted: dict[Path, NDArray[Any]] = {
        folder / f"{name}.png": eight_bits(plane) for name, plane in zip(names, case.image, strict=True)
    }
    if labels is not None:
        wanted[folder / f"{case.ref.name}-labels.png"] = labels
    for file, pixels in wanted.items():
        write_whole(file, png_of(pixels, {"Comment": NOTE}))
    return tuple(wanted)


def _write_table(file: Path, made: Cases, files: Mapping[str, Sequence[Path]], form: CaseForm, seed: int) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for case in made:
        mine = [each.name for each in files[case.ref.name]]
        labels = [name for name in mine if "-labels." in name]
        images = [name for name in mine if name not in labels]
        writer.writerow([case.ref.name, named(case, form), " ".join(images), " ".join(labels), seed, "yes"])
    write_text(file, stream.getvalue())


def _says(found: Samples, model: Model, kind: str, seed: int) -> dict[str, Any]:
    return {
        **found.as_dict(),
        "folder": found.folder.name,
        "sheet": found.sheet.name,
        "format": FORMAT,
        "fedrounds": version("fedrounds"),
        "for": NOTE,
        "class": kind,
        "seed": seed,
        "model": {"name": model.name, "digest": model.digest, "rounds": model.rounds},
        "run": None if model.run is None else model.run.name,
        "study": {"name": model.study.name, "digest": model.study_digest},
        "trained_on_phantoms": model.phantom,
    }
