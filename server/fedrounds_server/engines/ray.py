"""Engine `ray`: a pool whose workers are Ray actors, on this machine or on a cluster that is there already.

What an actor does is what a worker process does; the Grid, the ServerApp and the ClientApp are those of every
other engine. Ray is imported here and nowhere else, when it is used. Why not Flower's own simulation runtime:
docs/decisions/0015.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, final

from fedrounds_common import spans
from fedrounds_common.errors import MachineError
from fedrounds_common.neighbours import VARIABLE
from fedrounds_server.engines.pool import Done, Hand, Handler, Job, Workers

SHARED = Path("/dev/shm")
LEAST_SHARED_BYTES = 160 * 2**20  # Ray takes no object store below 75 MiB, and half of what is here is left to others
LOOK_S = 5.0  # for a cluster's address to answer
START_S = 180.0  # for every worker to be there: it has to import torch, on a busy machine
ATTEMPTS = 3
KEPT_FREE = 0.9  # of a GPU's memory; the rest is left for what is not seen while one client is measured
LONGEST_PATH = 60  # of Ray's folder: the sockets below it may have 107 letters in all


@final
@dataclass(frozen=True)
class Cluster:
    """Where and with what: `address` of a running cluster ("" starts one here and ends it afterwards).

    `workers`: 0 takes as many as fit. `cpus`, `gpus`: what one worker takes of its machine.
    """

    address: str = ""
    workers: int = 0
    cpus: float = 1.0
    gpus: float = 0.0


Resources = Mapping[str, float]


def fitting(machines: Iterable[Resources], cpus: float, gpus: float) -> int:
    """How many workers fit, machine by machine: one cannot take half of its processors from each of two."""
    return sum(_fitting_one(each, cpus, gpus) for each in machines)


def most_together(count: int, machines: Iterable[Resources], cpus: float, gpus: float) -> int:
    """How many of so many workers Ray may put onto one machine."""
    return min(count, max(_fitting_one(each, cpus, gpus) for each in machines))


def _fitting_one(machine: Resources, cpus: float, gpus: float) -> int:
    by_cpu = math.floor(machine.get("CPU", 0.0) / cpus + 1e-9)
    if not gpus:
        return by_cpu
    # of one GPU each takes a share; shares of two GPUs are no whole
    whole = machine.get("GPU", 0.0)
    by_gpu = math.floor(whole) * math.floor(1 / gpus + 1e-9) if gpus <= 1 else math.floor(whole / gpus)
    return min(by_cpu, by_gpu)


def share_of_gpu(one_bytes: int, total_bytes: int) -> float:
    """Which share of a GPU one worker takes, where one worker was seen to need `one_bytes` of `total_bytes`.

    1/n for the n that fit into nine tenths of it; 0 for one that needs none.

    Raises:
        MachineError: FR-E24 not even one fits.
    """
    if not one_bytes:
        return 0.0
    many = math.floor(KEPT_FREE * total_bytes / one_bytes)
    if many < 1:
        raise MachineError(
            "FR-E24", f"one client takes {one_bytes / 2**30:.1f} GiB of GPU memory",
            wanted=f"at most {KEPT_FREE * total_bytes / 2**30:.1f} of its {total_bytes / 2**30:.1f}",
            do="a smaller patch or batch takes less",
        )  # fmt: skip
    # cut and not rounded: four times 0.2501 would be more than there is
    return math.floor(1e4 / many) / 1e4


@final
class Player:
    """What lives in an actor's process: the handler of jobs, made there."""

    def __init__(self, made: Callable[[], Handler]) -> None:
        spans.begin_worker()
        self._handle = made()

    def ready(self, file: str) -> dict[str, Any]:
        """Whether this machine sees the run's folder, and which fedrounds it has."""
        return {"sees": Path(file).exists(), "fedrounds": metadata.version("fedrounds"), "host": socket.gethostname()}

    def do(self, kind: str, scalars: str, buffer: bytes, lane: str) -> tuple[str, bytes, str, dict[str, float]]:
        spans.job_begins()
        done = self._handle(Job(kind, json.loads(scalars), buffer, lane))
        return json.dumps(dict(done.scalars)), bytes(done.buffer), done.error, spans.job_ends()


@final
class Actor(Hand):
    """A Ray actor as a worker. What is sent to it are texts and bytes, and nothing of ours is pickled."""

    def __init__(self, cluster: Cluster, made: Callable[[], Handler], environment: Mapping[str, str]) -> None:
        """Raises MachineError FR-E20: Ray cannot start it, or has gone."""
        import ray

        self._ray = ray
        options = {
            "num_cpus": cluster.cpus,
            "num_gpus": cluster.gpus,
            "max_restarts": 0,  # who takes a dead one's place is our own pool's business
            "runtime_env": {"env_vars": dict(environment)},
        }
        try:
            # what Ray makes of a class has no type
            self.handle: Any = ray.remote(Player).options(**options).remote(made)
        except ray.exceptions.RayError as error:
            raise MachineError(
                "FR-E20", f"Ray starts no worker: {_short(error)}", do="see whether it still runs: `ray status`"
            ) from error
        self._ended = False

    def do(self, job: Job) -> Done:
        try:
            sent = self.handle.do.remote(job.kind, json.dumps(dict(job.scalars)), bytes(job.buffer), job.lane)
            scalars, buffer, error, spent = self._ray.get(sent)
        except Exception:
            self._ended = True
            raise
        return Done(json.loads(scalars), buffer, error, spent)

    def kill(self) -> None:
        self._ended = True
        # no_restart=True: killed for good. An actor that has gone already is no error of Ray's; where Ray itself has gone,
        # so have its actors.
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self.handle, no_restart=True)

    def wait(self) -> None:
        """Ray ends it by itself."""

    @property
    def alive(self) -> bool:
        return not self._ended


def ray_pool(
    cluster: Cluster, made: Callable[[], Handler], environment: Mapping[str, str], sees: Path,
    share: Callable[[Callable[[Job], Done]], float] | None = None, cores: int = 1,
) -> Workers:  # fmt: skip
    """Workers on Ray, all of them there.

    Args:
        made: makes the handler inside an actor; pickled by name, so it must be a function of a module.
        environment: variables that must be set before torch is imported there.
        sees: a file of the run's folder that every worker must find.
        share: called, where the cluster has GPUs, with a function that does one job on a whole GPU; which share
            of one a worker takes. None: `cluster.gpus` as it is.
        cores: how many processors of this machine may be used.

    Raises:
        MachineError: FR-E21 Ray is not installed or does not start; FR-E22 the address does not answer; FR-E23
            too little shared memory; FR-E24 no worker fits; FR-E25 a worker finds no run folder, or another version.
    """
    with _started(cluster, cores) as (ray, end):
        if share is not None and any(machine.get("GPU") for machine in _machines(ray)):
            cluster = Cluster(
                cluster.address, cluster.workers, cluster.cpus, _measured(cluster, made, environment, share)
            )
        machines = _machines(ray)
        count = _count(cluster, machines)
        told = {**environment, VARIABLE: str(most_together(count, machines, cluster.cpus, cluster.gpus))}
        begun: list[Actor] = []

        def start() -> Hand:
            begun.append(Actor(cluster, made, told))
            return begun[-1]

        pool = Workers(start, count, end)
    try:
        _check_ready(ray, begun[:count], sees)
    except BaseException:
        pool.close()
        raise
    return pool


def _measured(
    cluster: Cluster, made: Callable[[], Handler], environment: Mapping[str, str],
    share: Callable[[Callable[[Job], Done]], float],
) -> float:  # fmt: skip
    """The share that one client was seen to need, with a whole GPU to itself."""
    alone = Actor(Cluster(cpus=cluster.cpus, gpus=1.0), made, environment)
    try:
        return share(alone.do)
    finally:
        alone.kill()


def _count(cluster: Cluster, machines: list[Resources]) -> int:
    fit = fitting(machines, cluster.cpus, cluster.gpus)
    if fit < max(cluster.workers, 1):
        cpus = sum(each.get("CPU", 0.0) for each in machines)
        gpus = sum(each.get("GPU", 0.0) for each in machines)
        raise MachineError(
            "FR-E24", f"{len(machines)} machines with {cpus:g} CPUs and {gpus:g} GPUs, which hold {fit} workers",
            wanted=f"{max(cluster.workers, 1)} of {cluster.cpus:g} CPUs and {cluster.gpus:g} GPUs each",
            do="set simulation.workers, simulation.ray.cpus or simulation.ray.gpus",
        )  # fmt: skip
    return cluster.workers or fit


def _machines(ray: Any) -> list[Resources]:
    """What each machine of the cluster has; those that have gone are still listed, with nothing."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"]]


def _check_ready(ray: Any, actors: list[Actor], sees: Path) -> None:
    asked = [actor.handle.ready.remote(str(sees)) for actor in actors]
    there, missing = ray.wait(asked, num_returns=len(asked), timeout=START_S)
    if missing:
        raise MachineError(
            "FR-E24", f"{len(there)} of {len(asked)} workers were there after {START_S:.0f} s", wanted="all of them",
            do="others may be using the cluster: set simulation.workers lower",
        )  # fmt: skip
    try:
        told = ray.get(there)
    except ray.exceptions.RayError as error:
        raise MachineError(
            "FR-E25", f"a worker cannot start: {_short(error)}", do="is fedrounds installed on every machine of it?"
        ) from error
    own = metadata.version("fedrounds")
    for each in told:
        if not each["sees"]:
            raise MachineError(
                "FR-E25", f"{each['host']} does not see {sees.parent}", wanted="a folder that every machine shares",
                do="put the run onto a shared disk with --runs",
            )  # fmt: skip
        if each["fedrounds"] != own:
            raise MachineError(
                "FR-E25", f"{each['host']} has fedrounds {each['fedrounds']}", wanted=f"fedrounds {own}, as here"
            )


# ---------------------------------------------------------------- Ray itself


@contextmanager
def _started(cluster: Cluster, cores: int) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Ray, and what ends it; it is ended here where anything goes wrong meanwhile."""
    try:
        import ray
    except ImportError as error:
        raise MachineError("FR-E21", f"Ray cannot be imported: {error}", do='pip install "flwr[simulation]"') from error
    end = _start(ray, cluster, cores)
    try:
        yield ray, end
    except BaseException:
        end()
        raise


def _start(ray: Any, cluster: Cluster, cores: int) -> Callable[[], None]:
    if ray.is_initialized():  # a notebook's own: it is used, and left as it was
        return lambda: None
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    if cluster.address:
        _reach(cluster.address)
        del quiet["include_dashboard"]  # of a cluster that is there, not ours to say
        return _initialised(ray, {"address": cluster.address, **quiet}, None)
    folder = Path(tempfile.mkdtemp(prefix="fedrounds-ray-"))
    place: dict[str, Any] = {"_temp_dir": str(folder)} if len(str(folder)) <= LONGEST_PATH else {}
    cpus = max(cores, math.ceil(cluster.workers * cluster.cpus))
    size = {"object_store_memory": _store_bytes(), "num_cpus": cpus}
    return _initialised(ray, {"address": "local", **size, **place, **quiet}, folder)


def _initialised(ray: Any, options: Mapping[str, Any], folder: Path | None) -> Callable[[], None]:
    before = signal.getsignal(signal.SIGTERM)
    try:
        _patiently(ray, options)
    except Exception as error:
        ray.shutdown()
        _remove(folder)
        code = "FR-E22" if folder is None else "FR-E21"
        do = "is it the same Python and Ray?" if folder is None else "`fedrounds doctor` says what is missing here"
        raise MachineError(code, f"Ray does not start: {_short(error)}", do=do) from error
    if current_thread() is main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray puts its own, which ends this process without a word to ours

    def end() -> None:
        ray.shutdown()
        _remove(folder)

    return end


def _patiently(ray: Any, options: Mapping[str, Any]) -> None:
    """Start or reach Ray. It gives its own processes 30 s to begin, which a very busy machine may not have."""
    for left in reversed(range(ATTEMPTS)):
        try:
            with warnings.catch_warnings():
                # a tip on what a later Ray will do of its own: that workers without a share of a GPU see it
                warnings.simplefilter("ignore", FutureWarning)
                ray.init(**options)
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
        else:
            return


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _reach(address: str) -> None:
    """Ray tries an address that nobody listens at for a minute, and then tells of something else.

    Raises:
        MachineError: FR-E22.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise MachineError("FR-E22", f"simulation.ray.address = {address!r}", wanted='"auto", or HOST:PORT of its head')
    try:
        socket.create_connection((host, int(port)), LOOK_S).close()
    except OSError as error:
        raise MachineError(
            "FR-E22", f"nobody answers at {address} ({error})", wanted="the head of a running Ray cluster",
            do="start one with `ray start --head`, or leave the address out",
        ) from error  # fmt: skip


def _store_bytes(place: Path = SHARED) -> int:
    """How much shared memory Ray's objects may take: half of what is free, 2 GiB at most.

    Raises:
        MachineError: FR-E23 too little of it.
    """
    free = shutil.disk_usage(place).free if place.is_dir() else 0
    if free < LEAST_SHARED_BYTES:
        raise MachineError(
            "FR-E23", f"{free / 2**20:.0f} MiB free in {place}", wanted=f"{LEAST_SHARED_BYTES / 2**20:.0f} MiB",
            do="start the container with --shm-size=1g, or use engine inline",
        )  # fmt: skip
    return min(free // 2, 2 * 2**30)


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]
