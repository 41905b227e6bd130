"""Judging a model on a site's cases. Scores of single cases and pictures stay in the site's folder."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedrounds_client.site import Parts
from fedrounds_client.threads import threads
from fedrounds_common.arrays import Arrays, into_module
from fedrounds_common.case import Case, Cases
from fedrounds_common.disk import write_json, write_text, write_whole
from fedrounds_common.errors import no_exit
from fedrounds_common.leaving import Ask
from fedrounds_common.numbered import by_number
from fedrounds_common.pictures import png_of, side_by_side
from fedrounds_common.rng import derive
from fedrounds_common.spans import timed
from fedrounds_common.task import CaseScore, Picture, Prediction, Task

SCORE_COLUMNS = ("round", "model", "trained_at", "cohort", "case", "patient", "region", "metric", "value", "state")


@no_exit()
@timed("evaluate")
def score_cases(
    models: Sequence[Arrays], cases: Cases, parts: Parts, pictures: int = 0, beside: Cases = ()
) -> tuple[list[CaseScore], list[tuple[CaseScore, Picture]]]:
    """Score each case; with several models, by the mean of their probabilities (an ensemble).

    Args:
        beside: training cases that the task wants to look at too, as `Task.beside` chose them; never drawn.

    Returns:
        One score a case, in the cases' order and then those beside, and pictures of the `pictures` worst.
    """
    study, task = parts.study, parts.task
    networks = []
    for arrays in models:
        network = parts.module()
        into_module(network, arrays)
        networks.append(network.eval())
    judged = task.judged(cases, study.cases, derive(study.seed, "judged"))
    cases = [*judged, *beside]
    scores: list[CaseScore] = []
    worst: list[tuple[float, int, Prediction]] = []
    for index, case in enumerate(cases):
        with threads(study.training.threads):
            predictions = [task.predict(net, case, study.cases, study.training, study.evaluation) for net in networks]
        prediction = predictions[0] if len(predictions) == 1 else _mean(parts, case, predictions)
        score = task.score(prediction, case, study.cases, study.evaluation)
        scores.append(score)
        if index >= len(judged):
            continue
        worst = sorted(
            [*worst, (_primary(score, study.evaluation.primary, task), index, prediction)], key=lambda w: w[:2]
        )
        del worst[pictures:]
    drawn = [(scores[index], task.picture(cases[index], prediction, study.cases)) for _, index, prediction in worst]
    return scores, drawn


def _mean(parts: Parts, case: Case, predictions: Sequence[Prediction]) -> Prediction:
    mean = np.mean(np.stack([prediction.outputs for prediction in predictions]), axis=0)
    return parts.task.decide(np.asarray(mean, np.float32), case, parts.study.cases)


def _primary(score: CaseScore, metric: str, task: Task) -> float:
    """Higher is better; a case without a number sorts last among the good ones, so it is never called worst."""
    metric = task.by_case or metric
    of_all = score.values.get("mean") or next(iter(score.values.values()), {})
    value = of_all.get(metric, math.nan)
    if math.isnan(value):
        return math.inf
    return -value if metric in task.measures and task.measures[metric].lower_is_better else value


@timed("evaluate")
def write_scores(
    folder: Path, ask: Ask, scores: Sequence[CaseScore], pictures: Sequence[tuple[CaseScore, Picture]]
) -> None:
    """One file per model and cohort, so that a repeated request replaces and never doubles."""
    name = f"{ask.round:04d}-{ask.model}-{ask.trained_at}-{ask.cohort}"
    write_text(folder / "scores" / f"{name}.csv", _csv(ask, scores))
    for score, picture in pictures:
        _write_picture(folder / "pictures" / f"{ask.model}-{score.case}", ask, score, picture)


def _csv(ask: Ask, scores: Sequence[CaseScore]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(SCORE_COLUMNS)
    for score in scores:
        for region, values in score.values.items():
            for metric, value in values.items():
                text = "" if math.isnan(value) else repr(float(value))
                writer.writerow(
                    [ask.round, ask.model, ask.trained_at, ask.cohort, score.case, score.patient, region, metric, text,
                     score.state.get(region, "scored")]
                )  # fmt: skip
    return stream.getvalue()


def assemble_cases_csv(folder: Path) -> Path:
    """Join the files of `scores/` into the site's `cases.csv`."""
    lines = [",".join(SCORE_COLUMNS)]
    for file in by_number((folder / "scores").glob("*.csv")):
        lines += file.read_text(encoding="utf-8").splitlines()[1:]
    target = folder / "cases.csv"
    write_text(target, "\n".join(lines) + "\n")
    return target


def _write_picture(stem: Path, ask: Ask, score: CaseScore, picture: Picture) -> None:
    write_whole(stem.parent / f"{stem.name}.png", png_of(side_by_side(picture)))
    says = {
        "title": picture.title, "case": score.case, "model": ask.model, "cohort": ask.cohort, "round": ask.round,
        "panels": list(picture.panels), "values": {r: dict(v) for r, v in score.values.items()},
    }  # fmt: skip
    write_json(stem.parent / f"{stem.name}.json", says)
