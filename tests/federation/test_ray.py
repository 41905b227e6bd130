"""Engine `ray`: the same study on Ray's processes gives the same bits, and nothing of Ray is left afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_common.errors import MachineError
from fedrounds_common.neighbours import VARIABLE
from fedrounds_server.engines.pool import Job
from fedrounds_server.engines.ray import Cluster, ray_pool

Cubes = Callable[..., Path]
MINE = Path(__file__).parents[1] / "data" / "cubes"
ON_RAY = ("-s", "simulation.engine=ray", "--plugins", str(MINE))
SAYS = """
import os, time
from fedrounds_server.engines.pool import Done
def made():
    def handle(job):
        if job.kind == "die":
            os._exit(3)
        if job.kind == "hang":
            open(job.scalars["began"], "w").close()
            time.sleep(600)
        told = {name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "FEDROUNDS_WORKERS_HERE")}
        return Done({"pid": os.getpid(), **job.scalars, **told}, job.buffer[::-1])
    return handle
"""
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _ray_starts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A machine on which Ray cannot start says nothing about our code: a container with 64 MB of shared memory."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    code = (
        "from fedrounds_server.engines.ray import Cluster, _started\n"
        "with _started(Cluster(workers=1), 1) as (_, end): end()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=200)
    if done.returncode:
        pytest.skip(f"Ray cannot start here: {done.stderr.strip().splitlines()[-1:]}")


def run_of(study: Path, *overrides: str) -> Run:
    return simulate(study, overrides=overrides, plugins=[MINE], runs=study.parent / "runs")


def command(study: Path, *more: str) -> list[str]:
    program = [sys.executable, "-c", "from fedrounds.cli.main import run; run()"]
    return [*program, "simulate", str(study), "--runs", str(study.parent / "runs"), *more]


def marked(mark: str) -> list[str]:
    """The processes that inherited this variable, whoever their parent is now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.fixture
def mark() -> Iterator[str]:
    made = uuid.uuid4().hex
    yield made
    end = time.monotonic() + 20
    while marked(made) and time.monotonic() < end:  # what was told to end may still be at it
        time.sleep(0.1)
    assert marked(made) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_on_ray_the_consensus_has_the_same_bits(tmp_path: Path, cubes: Cubes, workers: int) -> None:
    study = cubes(tmp_path, rounds=2)
    inline = run_of(study)
    on_ray = run_of(
        study, "simulation.engine=ray", f"simulation.workers={workers}", "simulation.baselines=['local-only']"
    )
    assert on_ray.exit == 0
    assert on_ray.status["consensus"] == inline.status["consensus"]
    assert on_ray.folder.consensus.read_bytes() == inline.folder.consensus.read_bytes()
    assert json.loads(on_ray.folder.record.read_text())["engine"]["name"] == "ray"


def test_a_site_that_raises_costs_one_site(tmp_path: Path, cubes: Cubes) -> None:
    run = run_of(cubes(tmp_path, rounds=1, reader='raises = "A"'), "simulation.engine=ray")
    assert run.exit == 9
    assert run.status["failed"] == {"A": "error:FR-R01"}


def test_the_command_ends_with_its_run_and_leaves_no_process_and_no_folder(
    tmp_path: Path, cubes: Cubes, mark: str
) -> None:
    study, place = cubes(tmp_path, rounds=1), Path("/tmp") / f"e{mark[:6]}"  # short: sockets have 107 letters
    place.mkdir()
    try:
        done = subprocess.run(
            command(study, *ON_RAY, "--format", "json"), capture_output=True, text=True, check=False, timeout=250,
            env={**os.environ, "MARK": mark, "TMPDIR": str(place)},
        )  # fmt: skip
        left = [path.name for path in place.glob("fedrounds-ray-*")]
    finally:
        shutil.rmtree(place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"]["status"]["state"] == "done"
    assert "FutureWarning" not in done.stderr
    assert left == []


def test_interrupted_it_ends_with_130_and_goes_on_to_the_same_bits(tmp_path: Path, cubes: Cubes, mark: str) -> None:
    study = cubes(tmp_path, rounds=4)
    whole = run_of(study).status["consensus"]
    process = subprocess.Popen(
        command(study, *ON_RAY, "--name", "stopped"), env={**os.environ, "MARK": mark}, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    folder = tmp_path / "runs" / "0002-stopped"
    end = time.monotonic() + 200
    while not (folder / "checkpoints" / "round-0001.safetensors").exists() and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    resumed = simulate(
        study, overrides=["simulation.engine=ray"], plugins=[MINE], runs=tmp_path / "runs", resume=folder
    )
    assert resumed.status["consensus"] == whole


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """A handler that an actor can import: it says what it runs in, hangs, or dies."""
    (tmp_path / "says_where.py").write_text(SAYS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import says_where

    return partial(says_where.made)


def test_a_worker_has_one_passive_thread_and_one_that_dies_or_hangs_is_replaced(
    tmp_path: Path, says: Callable[[], object]
) -> None:
    environment = {**THREADS, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    with ray_pool(Cluster(workers=1), says, environment, tmp_path) as pool:
        ticket = pool.submit(Job("say", {"n": 3}, b"abc", "A"))
        first = taken(pool)
        assert first[0] == ticket
        assert first[1].buffer == b"cba"
        assert (first[1].scalars["OMP_NUM_THREADS"], first[1].scalars["OMP_WAIT_POLICY"]) == ("1", "PASSIVE")
        assert first[1].scalars[VARIABLE] == "1"
        pool.submit(Job("die", {}))
        assert taken(pool)[1].error == "FR-R02"
        hangs = pool.submit(Job("hang", {"began": str(tmp_path / "began")}))
        end = time.monotonic() + 100
        while not (tmp_path / "began").exists() and time.monotonic() < end:
            time.sleep(0.05)
        pool.abandon([hangs])
        pool.submit(Job("say", {"n": 4}))
        after = taken(pool)[1]
        assert after.scalars["n"] == 4
        assert after.scalars["pid"] != first[1].scalars["pid"]


def taken(pool: object) -> tuple[int, object]:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = pool.next_done(0.5)
        if found is not None:
            return found
    raise AssertionError("no result came")


def test_a_machine_of_the_cluster_that_does_not_see_the_run_is_refused(
    tmp_path: Path, says: Callable[[], object]
) -> None:
    environment = {**THREADS, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    with pytest.raises(MachineError, match="FR-E25 .* does not see .*; put the run onto a shared disk"):
        ray_pool(Cluster(workers=1), says, environment, tmp_path / "elsewhere" / "rehearsal.json")


def test_more_than_the_cluster_holds_is_refused_and_an_existing_one_is_used_and_left(
    tmp_path: Path, cubes: Cubes
) -> None:
    study = cubes(tmp_path, rounds=1)
    head = (
        "import ray, sys\n"
        "found = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8, _node_ip_address='127.0.0.1')\n"
        "print(found.address_info['gcs_address'], flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", head],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        if not address:
            pytest.skip("this machine is too busy for Ray's own 30 s to begin in")
        # in processes of their own: Ray looks for its machine's address, and a test may open loopback only
        there = command(study, *ON_RAY, "-s", f'simulation.ray.address="{address}"')
        too_many = subprocess.run([*there, "-s", "simulation.ray.cpus=3"], capture_output=True, text=True, check=False)
        assert too_many.returncode == MachineError.exit_status
        assert "FR-E24 1 machines with 2 CPUs and 0 GPUs, which hold 0 workers" in " ".join(too_many.stderr.split())
        done = subprocess.run(there, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert cluster.poll() is None
        cluster.stdin.close()
        cluster.wait(timeout=60)
