"""What is allowed and yet seldom meant; `fedrounds study check --strict` takes it for faults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedrounds_common.errors import Fault
from fedrounds_common.shelves import CODECS

if TYPE_CHECKING:
    from fedrounds_common.study.parse import StudyFile
    from fedrounds_common.study.study import Study


def advice(file: StudyFile) -> list[Fault]:
    return [Fault(key, message, _line(file.origins.get(key, ""))) for key, message in _advice(file.study)]


def _advice(study: Study) -> Iterator[tuple[str, str]]:
    cases, training, judged = study.cases, study.training, study.evaluation
    if not study.cohort.held_out and judged.local_validation == 0 and judged.folds == 0:
        yield "evaluation.local_validation", "0, no held-out site and no folds: no case is left to judge the model on"
    if cases.dims == 3 and training.patch is None:
        yield "training.patch", "not given: whole volumes are trained on, which takes much memory; e.g. [48, 48, 48]"
    if cases.dims == 3 and training.batch == 1:
        yield "training.batch", "1: on a CPU a 3D step with a batch of 2 is often faster than with 1"
    if study.cohort.sites and study.cohort.minimum < (len(study.cohort.sites) + 1) // 2:
        few = f"{study.cohort.minimum} of {len(study.cohort.sites)} sites are enough for a round"
        yield "cohort.minimum", f"{few}: a consensus of so few may say who took part"
    drawn, sites = study.cohort.per_round, len(study.cohort.sites)
    if 0 < 2 * drawn < sites and _sends_differences(study):
        few = f"{drawn} of {sites} sites are drawn a round"
        yield (
            "wire.down.name",
            f"{few}: most missed the one before and are sent half a model; float16 sends everybody that",
        )


def _sends_differences(study: Study) -> bool:
    name = str(study.wire["down"]["name"])
    return name in CODECS.names() and CODECS.find(name).differences


def _line(origin: str) -> int:
    return int(origin.removeprefix("line ")) if origin.startswith("line ") else 0
