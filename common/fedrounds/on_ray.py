"""A simulation's workers on Ray: what an actor is made of, and how much of a GPU one client needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fedrounds.environment import SILENCE, THREADS
from fedrounds.health import usable_cores
from fedrounds.measure import measure
from fedrounds.simulation import prepared_of
from fedrounds_client.site import Parts
from fedrounds_common.errors import MachineError
from fedrounds_common.spans import VARIABLE
from fedrounds_server.engines.pool import Done, Handler, Job, Workers
from fedrounds_server.engines.ray import Cluster, ray_pool, share_of_gpu
from fedrounds_sites.hospitals import open_hospital, read_rehearsal
from fedrounds_sites.simulation import Simulation

KIND = "memory"  # of the job in `worker.py`


def pool_on_ray(simulation: Simulation, run: Path) -> Workers:
    """All workers of the study's `[simulation]`, ready.

    Raises:
        MachineError: FR-E21 to FR-E25, see `ray_pool`.
    """
    wanted = simulation.ray
    cluster = Cluster(wanted.address, simulation.workers, wanted.cpus, wanted.gpus or 0.0)
    # one thread as everywhere, whatever the machines of the cluster have set: other threads give other bits
    environment = {**THREADS, **SILENCE, **({VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {})}
    share = _share if wanted.gpus is None and simulation.device != "cpu" else None
    return ray_pool(cluster, partial(played, run), environment, run / "rehearsal.json", share, usable_cores())


def played(run: Path) -> Handler:
    """What an actor does; torch is imported there, and not where this function is named."""
    from fedrounds.worker import handler

    return handler(run)


def _share(do: Callable[[Job], Done]) -> float:
    done = do(Job(KIND, {}))
    if done.error:
        raise MachineError(
            "FR-E24", f"one client could not be measured on a GPU ({done.error})",
            do="see the run's logs, or set simulation.ray.gpus",
        )  # fmt: skip
    return share_of_gpu(done.scalars["one"], done.scalars["total"])


def memory_job(run: Path, parts: Parts, job: Job) -> Done:
    """GPU memory that one client takes, its CUDA context included, and what there is: it trains and predicts here.

    0 of a client whose network never was on the GPU.
    """
    import torch

    prepared = prepared_of(run)
    roles = read_rehearsal(run / "rehearsal.json").sites
    site = next(name for name, role in sorted(roles.items()) if role == "train")
    refs = open_hospital(run, site).refs
    measure(prepared, site, refs, refs)
    if not torch.cuda.is_available() or not torch.cuda.max_memory_reserved():
        return Done({"one": 0, "total": 0})
    # torch keeps what it once took, so what is not free now is what was taken at most
    free, total = torch.cuda.mem_get_info()
    return Done({"one": total - free, "total": total})
