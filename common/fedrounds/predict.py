"""`fedrounds predict`: what a model says of a folder of images, each on the grid of its own file, as its task writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from fedrounds.evaluation import faults_as_dicts
from fedrounds.judge import open_cases
from fedrounds.model import Model, Source, open_model
from fedrounds.why import explained
from fedrounds_client.output import write_label_file, write_prediction, write_tables
from fedrounds_client.outside import Folder, Outside, judges_cases, none_usable, open_folder, predict_each
from fedrounds_common.disk import write_json, write_whole
from fedrounds_common.errors import DONE, PARTIAL, CaseError, DataError, UsageError
from fedrounds_common.network import Network
from fedrounds_common.pictures import png_of, side_by_side
from fedrounds_common.study.tables import Table
from fedrounds_common.task import Task
from fedrounds_common.written import LabelImage, ScalarImages, Values, Written
from fedrounds_server.plan import Listener, nobody

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1


@final
@dataclass(frozen=True)
class Predictions:
    """`files`: case → what was written of it. `outputs`: the volumes of a probability file, in order.

    `tables`: files with a line for each case.
    """

    folder: Path
    title: str
    files: Mapping[str, tuple[Path, ...]]
    outputs: tuple[str, ...]
    left_out: Mapping[str, CaseError] = field(default_factory=dict)
    tables: tuple[Path, ...] = ()

    @property
    def exit(self) -> int:
        return PARTIAL if self.left_out else DONE

    def rows(self) -> tuple[tuple[str, str], ...]:
        """Case and its files below the folder, and those that hold a line for it."""
        return tuple(
            (case, ", ".join(str(file.relative_to(self.folder)) for file in (*files, *self.tables)))
            for case, files in self.files.items()
        )

    def text(self) -> str:
        lines = [self.title, *(f"  {case}: {files}" for case, files in self.rows())]
        if self.left_out:
            lines += ["left out:", *(f"  {error}" for error in self.left_out.values())]
        return "\n".join([*lines, f"written to {self.folder}; for research only, not for diagnosis or treatment"])

    def as_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "folder": str(self.folder),
            "outputs": list(self.outputs),
            "tables": [str(file.relative_to(self.folder)) for file in self.tables],
            "files": {case: [str(file.relative_to(self.folder)) for file in f] for case, f in self.files.items()},
            "left_out": faults_as_dicts(self.left_out),
            "exit": self.exit,
        }


def predict(
    source: Source,
    inputs: Path | str | None,
    output: Path | str,
    *,
    reader: Table | str | None = None,
    settings: Sequence[str] = (),
    study: Path | str | None = None,
    plugins: Sequence[Path | str] = (),
    task: Task | None = None,
    network: Network | None = None,
    probabilities: bool = True,
    why: Sequence[str] = (),
    force: bool = False,
    listen: Listener = nobody,
) -> Predictions:
    """Predict every case of a folder; references are not needed, and not looked at where cases are judged one by one.

    Of a task that judges pairs, the pairs that `evaluate` would judge; labels that are there go with the moving image.

    Args:
        source: a run, its folder, or a model file (then with `study`, unless it lies in a run's folder).
        inputs: the folder of images. None: with a reader that makes its own.
        output: the folder that is written; see `fedrounds_client.output` for what goes into it.
        reader, settings: as `evaluate`.
        probabilities: False leaves maps of probabilities out.
        why: methods, or "all": what each answer rests on is drawn into `why/`, and written there on the case's grid.
        force: write into a folder that holds something, over files of the same name.

    Returns:
        What was written; `exit` is 9 if cases were left out.

    Raises:
        RunFileError: the model cannot be used. DataError: no case can. UsageError: as `evaluate`; FR-U82, FR-U83 no
            such explanation.
    """
    model = open_model(source, study, plugins=plugins, task=task, network=network)
    folder = _opened(model, None if inputs is None else Path(inputs), reader, settings)
    target = Path(output).resolve()
    _refuse_to_overwrite(target, None if inputs is None else Path(inputs).resolve(), force)
    files: dict[str, tuple[Path, ...]] = {}
    rows: dict[str, Mapping[str, Written]] = {}
    kinds: dict[str, Written] = {}  # of the first case: all of a task's cases are written alike
    form, known = model.study.cases, frozenset(folder.refs)
    left_out: dict[str, CaseError] = {}
    module = model.module()
    for number, each in enumerate(predict_each(module, model.parts, folder, labelled=False), start=1):
        if each.case is not None and each.prediction is not None:
            made = dict(model.parts.task.files(each.prediction, each.case, form))
            drawn, maps = _why(target, model, module, each, why)
            files[each.ref.name] = drawn + write_prediction(
                target, folder.reader, each.case, {**made, **maps}, form,
                of_file=each.ref in known, probabilities=probabilities,
            )  # fmt: skip
            kinds = kinds or made
            rows[each.ref.name] = {name: table for name, table in made.items() if isinstance(table, Values)}
        elif each.fault is not None:
            left_out[each.ref.name] = each.fault
        facts = {
            "number": number,
            "of": max(number, len(folder.refs)),
            "case": each.ref.name,
            "site": folder.site_of(each.ref),
        }
        listen("case", {**facts, "state": f"error:{each.fault.code}" if each.fault else "ok"})
    if not files:
        raise none_usable(left_out, folder.name)
    if any(isinstance(each, LabelImage) for each in kinds.values()):
        write_label_file(target / "labels.txt", form)
    chances = [each.images for each in kinds.values() if isinstance(each, ScalarImages) and each.of == "probabilities"]
    outputs = tuple(chances[0]) if chances and probabilities else ()
    found = Predictions(target, _title(model, folder), files, outputs, left_out, write_tables(target, rows))
    write_json(target / "predictions.json", _says(found, model, folder))
    return found


def _why(
    target: Path, model: Model, network: nn.Module, each: Outside, methods: Sequence[str]
) -> tuple[tuple[Path, ...], Mapping[str, Written]]:
    """The picture that was drawn, and the maps that are still to be written; nothing where nothing is asked for."""
    if not methods:
        return (), {}
    assert each.case is not None
    assert each.prepared is not None
    found = explained(model, network, each.prepared, methods)
    file = target / "why" / f"{each.ref.name}.png"
    write_whole(file, png_of(side_by_side(found.picture)))
    return (file,), found.files(each.prepared, each.case)


def _opened(model: Model, inputs: Path | None, reader: Table | str | None, settings: Sequence[str]) -> Folder:
    if judges_cases(model.parts):
        return open_cases(model, inputs, reader, settings, labelled=False)
    try:
        folder = open_cases(model, inputs, reader, settings, labelled=True)
    except (DataError, UsageError):
        return open_cases(model, inputs, reader, settings, labelled=False)
    if not hasattr(folder.reader, "labels_required"):
        return folder
    return open_folder({**folder.table, "labels_required": False}, model.study.cases, model.plugins)


def _refuse_to_overwrite(target: Path, inputs: Path | None, force: bool) -> None:
    if target == inputs:
        raise UsageError("FR-U54", "input and output are one folder", do="name another for the output")
    if target.exists() and not target.is_dir():
        raise UsageError("FR-U54", "the output is a file", wanted="a folder", where=str(target))
    if target.is_dir() and any(target.iterdir()) and not force:
        raise UsageError(
            "FR-U54", "there is something in the output folder", do="name an empty one, or force to write over it",
            where=str(target),
        )  # fmt: skip


def _title(model: Model, folder: Folder) -> str:
    whose = f"{model.name} of {model.run.name}" if model.run else f"{model.file.name} ({model.study.name})"
    return f"{whose} on the cases of {folder.name}"


def _says(found: Predictions, model: Model, folder: Folder) -> dict[str, Any]:
    return {
        **found.as_dict(),
        "folder": found.folder.name,
        "format": FORMAT,
        "fedrounds": version("fedrounds"),
        "model": {"name": model.name, "digest": model.digest, "rounds": model.rounds},
        "run": None if model.run is None else model.run.name,
        "study": {"name": model.study.name, "digest": model.study_digest},
        "labels": dict(model.study.cases.labels),
        "reader": {key: value for key, value in folder.table.items() if key != "root"},
        "grid": "each input's own",
    }
