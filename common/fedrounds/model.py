"""A trained model as it is used after its run: the weights, the study they belong to, and where they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from fedrounds.origin import has_origin, origin_of
from fedrounds.run import Run, refuse_without_objects
from fedrounds_client.site import Parts, build_parts
from fedrounds_common.arrays import Arrays, digest, into_module, of_module
from fedrounds_common.errors import RunFileError, UsageError
from fedrounds_common.network import Network
from fedrounds_common.study.canonical import agreed_tables, study_from_canonical
from fedrounds_common.study.canonical import digest as study_digest
from fedrounds_common.study.check import plain
from fedrounds_common.study.parse import read_study
from fedrounds_common.study.study import Study
from fedrounds_common.study.tables import CaseForm, Table
from fedrounds_common.task import Task
from fedrounds_server.checkpoint import load_arrays
from fedrounds_server.folder import RunFolder, read_json
from fedrounds_server.release import read_model

if TYPE_CHECKING:
    from torch import nn

Source = Run | Path | str


@final
@dataclass(frozen=True)
class Model:
    """`name`: consensus, or the file's stem. `digest` of the weights; `study_digest` of the study they are used with.

    `run`: the folder of the run it came from, if it lies in one. `reader`: the table with which the run
    or the study reads cases, {} if none is known. `phantom`: it was trained on simulated images.
    """

    name: str
    file: Path
    arrays: Arrays
    digest: str
    rounds: int
    parts: Parts
    study_digest: str
    run: Path | None = None
    reader: Table = field(default_factory=dict)
    plugins: tuple[Path, ...] = ()
    phantom: bool = False

    @property
    def study(self) -> Study:
        return self.parts.study

    def module(self) -> nn.Module:
        """The network with these weights, in evaluation mode."""
        network = self.parts.module()
        into_module(network, self.arrays)
        return network.eval()


def open_model(
    source: Source,
    study: Path | str | None = None,
    *,
    plugins: Sequence[Path | str] = (),
    task: Task | None = None,
    network: Network | None = None,
) -> Model:
    """Open a run's consensus, or one file of weights.

    Args:
        source: a run, its folder, or a `.safetensors` of ours; one that lies in a run's folder needs no study.
        study: the study a file was trained with, where the file lies by itself.
        plugins: the user's own folders, beside those that the run names.
        task, network: objects instead of what the study names, as given to `simulate`.

    Raises:
        RunFileError: missing, damaged, of another network, trained on cases of another form, or made
            with an object that is not handed in.
        UsageError: a file by itself, and no study.
    """
    if isinstance(source, Run):
        task, network = task or source.task, network or source.network
    path = source.path if isinstance(source, Run) else Path(source)
    if not path.exists():
        raise RunFileError(
            "FR-F30", "there is no such run or file", do="`fedrounds runs list` names the runs", where=str(path)
        )
    file = RunFolder(path).consensus if path.is_dir() else path
    run = path if path.is_dir() else _run_around(path)
    folders = tuple(Path(folder).resolve() for folder in plugins)
    if run is not None and study is None:
        origin = origin_of(run)
        folders += origin.plugins
        refuse_without_objects(run, task=task, network=network)
        read = study_from_canonical(origin.text, folders)
        parts, says_study = build_parts(read, folders, task, network), origin.found_digest
        reader, phantom = origin.simulation.get("reader", {}), _is_phantom(run)
    elif study is not None:
        given = read_study(study, (), folders)
        parts, says_study = build_parts(given.study, folders, task, network), study_digest(given.study)
        reader, phantom = _reader_of(given.simulation), False
    else:
        raise UsageError(
            "FR-U50", f"{file.name} lies by itself, outside a run's folder", wanted="the study it was trained with",
            do="name the run's folder instead, or give the study",
        )  # fmt: skip
    arrays, rounds = _weights(file, parts)
    return Model(
        file.stem, file, arrays, digest(arrays), rounds, parts, says_study,
        None if run is None else run.resolve(), reader, folders, phantom,
    )  # fmt: skip


def _run_around(file: Path) -> Path | None:
    """The run folder that this file lies in, at most two folders up (`baselines/`, `checkpoints/`)."""
    return next((folder for folder in list(file.resolve().parents)[:2] if has_origin(folder)), None)


def _is_phantom(run: Path) -> bool:
    record = RunFolder(run).record
    return record.is_file() and read_json(record).get("data") == "phantom"


def _reader_of(simulation: Mapping[str, Any]) -> Table:
    reader = simulation.get("reader", {})
    return {"name": reader} if isinstance(reader, str) else dict(reader)


def _weights(file: Path, parts: Parts) -> tuple[Arrays, int]:
    says = load_arrays(file)[1]
    _refuse_other_cases(file, says, parts.study)
    return read_model(file, of_module(parts.module())), int(says.get("rounds", 0))


def _refuse_other_cases(file: Path, says: Mapping[str, Any], study: Study) -> None:
    """Weights of one shape may still mean other channels, labels or voxels, and would be wrong without a word."""
    ours, theirs = agreed_tables(study)["cases"], says.get("cases")
    if not isinstance(theirs, Mapping):
        raise RunFileError("FR-F15", f"{file.name} does not say what cases it is for", wanted="a model file of a run")
    # what a file does not speak of was not yet there when it was written: then its default is what was done
    theirs = {**plain(CaseForm()), **theirs}
    other = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    if other:
        found = ", ".join(f"{key} = {theirs.get(key)!r}" for key in other)
        wanted = ", ".join(f"{key} = {ours.get(key)!r}" for key in other)
        raise RunFileError(
            "FR-F15", f"{file.name} was trained on cases with {found}", wanted=f"{wanted}, as this study says",
            do="use the study this model was trained with",
        )  # fmt: skip
