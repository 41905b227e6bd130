"""`fedrounds evaluate`: how good a model is, on cases its run never saw or on those its run kept back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrounds.evaluation import OUTSIDE, CaseRow, Evaluation, write_evaluation
from fedrounds.model import Model, Source, open_model
from fedrounds.run import Run
from fedrounds.seen import seen_by
from fedrounds_client.outside import Folder, Outside, case_digest, none_usable, open_folder, predict_each
from fedrounds_common.errors import CaseError, UsageError
from fedrounds_common.network import Network
from fedrounds_common.rng import derive
from fedrounds_common.study.overrides import override
from fedrounds_common.study.tables import Table
from fedrounds_common.task import CaseScore, Task
from fedrounds_server.folder import RunFolder, read_json
from fedrounds_server.judging import table_rows
from fedrounds_server.measures import Measures
from fedrounds_server.plan import Listener, nobody
from fedrounds_server.tables import ALL, COHORTS, final_rows
from fedrounds_sites.guess import has_root, placed_at, reader_for


def evaluate(
    source: Source,
    data: Path | str | None = None,
    *,
    reader: Table | str | None = None,
    settings: Sequence[str] = (),
    study: Path | str | None = None,
    plugins: Sequence[Path | str] = (),
    task: Task | None = None,
    network: Network | None = None,
    name: str | None = None,
    out: Path | str | None = None,
    force: bool = False,
    listen: Listener = nobody,
) -> Evaluation:
    """Judge a model on the cases of a folder, or show how its own run judged it.

    Args:
        source: a run, its folder, or a model file (then with `study`, unless it lies in a run's folder).
        data: a folder of images with references. None: the run's own table of held-out and local cases.
        reader: the table (or name) of the reader that reads it; otherwise guessed from the files.
        settings: `key=value` each, set over the table of that reader, or of the run's own.
        name: of the folder `evaluation/NAME` in the run's; otherwise the data folder's.
        out: write there instead.
        force: replace what was written before.
        listen: called with "case" and its number, name and state after each case.

    Returns:
        Tables; scores are on the grid of each file. `exit` is 9 if cases were left out.

    Raises:
        RunFileError: the model cannot be used, e.g. is another network's. DataError: no case can.
        UsageError: the folder does not say how it is to be read, or results would be overwritten.
    """
    if data is None and reader is None:
        return shown_again(source if isinstance(source, Run) else Run(Path(source)))
    model = open_model(source, study, plugins=plugins, task=task, network=network)
    folder = open_cases(model, None if data is None else Path(data), reader, settings, labelled=True)
    target = Path(out) if out is not None else (model.run or Path()) / "evaluation" / (name or folder.name)
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not force):
        raise UsageError(
            "FR-U53", "there is an evaluation already", do="give another name, or force to replace it",
            where=str(target),
        )  # fmt: skip
    return _judge(model, folder, target, listen)


def open_cases(
    model: Model, data: Path | None, reader: Table | str | None, settings: Sequence[str], *, labelled: bool
) -> Folder:
    """The cases of a folder, read as `reader` says, or as its files suggest.

    Settings without a reader go over the one that the run's own cases were read with.

    Raises:
        UsageError: reader and folder do not go together, or one of them is wanted and not there.
    """
    form, plugins = model.study.cases, model.plugins
    table = {"name": reader} if isinstance(reader, str) else dict(reader or (model.reader if settings else {}))
    if not table and data is not None and not settings:
        return open_folder(reader_for(data, form, model.reader, labelled=labelled, plugins=plugins), form, plugins)
    if "name" not in table:
        found = "settings, and no reader that they belong to" if settings else "neither a folder nor a reader"
        raise UsageError("FR-U51", found, do="name the reader, or the folder alone")
    if data is not None and not has_root(table, plugins):
        raise UsageError("FR-U51", f"{table['name']} reads no folder, and {data.name} is given", do="name a reader")
    placed = override(placed_at(table, data, labelled=labelled, plugins=plugins), settings)[0]
    if has_root(table, plugins) and "root" not in placed:
        raise UsageError("FR-U51", f"{table['name']} reads a folder, and none is given", do="name the folder")
    return open_folder(placed, form, plugins)


def shown_again(run: Run) -> Evaluation:
    """The run's own last table of its consensus: every site, held-out and local-val."""
    rows = tuple(row for row in final_rows(run.metrics) if row.model == "consensus" and row.cohort in COHORTS)
    record = RunFolder(run.path).record
    phantom = record.is_file() and read_json(record).get("data") == "phantom"
    title = f"consensus of {run.path.resolve().name}, as the run judged it on its prepared grids"
    return Evaluation(title, run.study.evaluation.primary, run.measures, rows, phantom=phantom)


def _judge(model: Model, folder: Folder, target: Path, listen: Listener) -> Evaluation:
    parts, scores = model.parts, dict[str, list[CaseScore]]()
    left_out: dict[str, CaseError] = {}
    digests: list[tuple[str, str, str, str]] = []
    for number, each in enumerate(predict_each(model.module(), parts, folder, labelled=True), start=1):
        site = folder.site_of(each.ref)
        if each.fault is not None:
            left_out[each.ref.name] = each.fault
        else:
            score = _score(model, each)
            scores.setdefault(site, []).append(score)
            assert each.case is not None
            digests.append((each.ref.site or "", each.ref.name, each.ref.patient, case_digest(each.case)))
        facts = {"number": number, "of": max(number, len(folder.refs)), "case": each.ref.name, "site": site}
        listen("case", {**facts, "state": f"error:{each.fault.code}" if each.fault else "ok"})
    if not scores:
        raise none_usable(left_out, folder.name)
    tallies = {
        (site, OUTSIDE): parts.task.tally(
            of_site, model.study.cases, model.study.evaluation, derive(model.study.seed, "bootstrap", site)
        )
        for site, of_site in scores.items()
    }
    rows = table_rows(parts.task, model.study, tallies, model.rounds, model.name, ALL)
    found = Evaluation(
        _title(model, folder), model.study.evaluation.primary, Measures.of(parts.task), rows, _case_rows(scores), left_out,
        _warnings(model, folder), target, folder.reader.kind == "phantom",
    )  # fmt: skip
    write_evaluation(found, _says(model, folder, digests))
    return found


def _score(model: Model, each: Outside) -> CaseScore:
    assert each.prediction is not None
    assert each.case is not None
    return model.parts.task.score(each.prediction, each.case, model.study.cases, model.study.evaluation)


def _title(model: Model, folder: Folder) -> str:
    whose = f"{model.name} of {model.run.name}" if model.run else f"{model.file.name} ({model.study.name})"
    return f"{whose} on the cases of {folder.name}, each on the grid of its own file"


def _warnings(model: Model, folder: Folder) -> tuple[str, ...]:
    if model.run is None:
        return ("the model came without its run: whether it was trained on these cases cannot be told",)
    warnings = seen_by(model.run, model.study, folder).warnings
    if model.phantom and folder.reader.kind != "phantom":
        warnings += ("the model was trained on phantom images, which no patient is behind",)
    return warnings


def _case_rows(scores: Mapping[str, Sequence[CaseScore]]) -> tuple[CaseRow, ...]:
    return tuple(
        CaseRow(site, score.case, score.patient, region, metric, float(value), score.state.get(region, "scored"))
        for site in sorted(scores)
        for score in scores[site]
        for region, values in score.values.items()
        for metric, value in values.items()
    )


def _says(model: Model, folder: Folder, digests: Sequence[tuple[str, str, str, str]]) -> dict[str, Any]:
    """What was judged, on what: digests of model, study and cases."""
    return {
        "model": {"name": model.name, "digest": model.digest, "rounds": model.rounds},
        "run": None if model.run is None else model.run.name,
        "study": {"name": model.study.name, "digest": model.study_digest, "seed": model.study.seed},
        "data": {
            "name": folder.name,
            "kind": folder.reader.kind,
            "version": folder.reader.version,
            "reader": {key: value for key, value in folder.table.items() if key != "root"},
            "cases": len(folder.refs),
            "digest": hashlib.sha256(json.dumps(sorted(digests)).encode()).hexdigest(),
        },
        "grid": "each file's own",
    }
