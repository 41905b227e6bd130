"""What sums amount to, written into a model: `Task.settle`, held to what it must not change.

The same for the coordinator, which has the sum over all sites, and for a baseline, which has its own cases' only.
"""

from __future__ import annotations

import numpy as np

from fedrounds_common.arrays import Arrays, is_float, manifest
from fedrounds_common.errors import RoundError
from fedrounds_common.study.tables import CaseForm
from fedrounds_common.task import Tally, Task


def purposes(task: Task) -> tuple[str, ...]:
    """What a run asks sums for, in order: before round 1, then after the last."""
    return (*task.before, *task.after)


def settled(task: Task, purpose: str, total: Tally, arrays: Arrays, form: CaseForm) -> Arrays:
    """The model with these sums written into it.

    Args:
        total: the sum over all cases, float64.

    Raises:
        RoundError: FR-R05 what came of it is not this model, or not finite.
    """
    result = task.settle(purpose, total, arrays, form)
    found, wanted = manifest(result), manifest(arrays)
    if found != wanted:
        odd = [entry for entry in found if entry not in wanted] or [entry for entry in wanted if entry not in found]
        what = f"{odd[0][0]} {odd[0][1]} {odd[0][2]} has no match" if odd else "the tensors come in another order"
        raise RoundError("FR-R05", f"{purpose}: {what}", wanted="the model's own tensors")
    for name, array in result.items():
        if is_float(array) and not np.isfinite(array).all():
            raise RoundError(
                "FR-R05", f"{purpose}: {name} is not finite", wanted="finite numbers",
                do="are there enough cases of each kind?",
            )  # fmt: skip
    return result
