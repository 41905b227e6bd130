"""Sums over cases, as the task makes them for one purpose: at a site over its own, in a baseline over its cases."""

from __future__ import annotations

from fedrounds_client.site import Parts
from fedrounds_client.threads import threads
from fedrounds_common.arrays import Arrays, into_module
from fedrounds_common.case import Cases
from fedrounds_common.errors import no_exit
from fedrounds_common.leaving import check_tally
from fedrounds_common.rng import derive, seeded
from fedrounds_common.task import Tally


@no_exit()
def gather_sums(parts: Parts, purpose: str, arrays: Arrays, cases: Cases) -> Tally:
    """What `Task.gather` makes of these cases with this model, and of the same names and shapes as of no case.

    Raises:
        UpdateError: FR-R04 the sums are of a form that depends on the cases, or not finite: they must not leave.
    """
    study, network = parts.study, parts.module()
    into_module(network, arrays)
    network.eval()
    with seeded(derive(study.seed, "gather", purpose)), threads(study.training.threads):
        tally = parts.task.gather(purpose, network, cases, study.cases, study.training)
        like = parts.task.gather(purpose, network, (), study.cases, study.training)
    check_tally(tally, like)
    return tally
