"""Engine `ray`: how many workers fit, and what is said where they do not; Ray itself is not started here."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrounds_common.errors import MachineError
from fedrounds_server.engines.ray import (
    KEPT_FREE,
    Actor,
    Cluster,
    _reach,
    _store_bytes,
    fitting,
    most_together,
    share_of_gpu,
)

GIB = 2**30


def test_workers_fit_machine_by_machine() -> None:
    # 3 processors each: 5 of 2 and 4 hold 0 + 1, not 6 // 3 = 2
    assert fitting([{"CPU": 2.0}, {"CPU": 4.0}], cpus=3, gpus=0) == 1


def test_a_machine_without_a_gpu_holds_no_worker_that_takes_a_share_of_one() -> None:
    assert fitting([{"CPU": 16.0}, {"CPU": 4.0, "GPU": 1.0}], cpus=1, gpus=0.5) == 2


def test_the_scarcer_of_processors_and_gpus_counts() -> None:
    assert fitting([{"CPU": 3.0, "GPU": 2.0}], cpus=1, gpus=0.25) == 3  # of 2 × 4 by memory
    assert fitting([{"CPU": 64.0, "GPU": 2.0}], cpus=1, gpus=0.25) == 8


def test_of_the_workers_of_a_cluster_as_many_may_share_a_machine_as_fit_onto_it() -> None:
    machines = [{"CPU": 16.0, "GPU": 1.0}, {"CPU": 4.0}]
    assert most_together(20, machines, cpus=1, gpus=0) == 16
    assert most_together(3, machines, cpus=1, gpus=0) == 3
    assert most_together(4, machines, cpus=1, gpus=0.25) == 4  # twelve of its processors are left


def test_what_is_left_of_two_gpus_is_no_share() -> None:
    # 0.4 fits twice into one GPU, so four times into two; 2 / 0.4 would say five
    assert fitting([{"CPU": 64.0, "GPU": 2.0}], cpus=1, gpus=0.4) == 4
    assert fitting([{"CPU": 64.0, "GPU": 4.0}], cpus=1, gpus=2) == 2


def test_a_tenth_of_a_processor_each_makes_ten() -> None:
    assert fitting([{"CPU": 1.0}], cpus=0.1, gpus=0) == 10  # 1 / 0.1 is 9.99… in floating point on some machines


def test_a_client_that_takes_20_of_80_gib_leaves_room_for_two_more() -> None:
    # nine tenths of 80 are 72: three times 20
    share = share_of_gpu(20 * GIB, 80 * GIB)
    assert share == 0.3333
    assert fitting([{"CPU": 64.0, "GPU": 1.0}], cpus=1, gpus=share) == 3


def test_a_client_that_takes_no_gpu_memory_gets_no_gpu() -> None:
    assert share_of_gpu(0, 80 * GIB) == 0.0


def test_a_client_larger_than_the_gpu_is_refused_with_both_sizes() -> None:
    with pytest.raises(MachineError, match=r"FR-E24 one client takes 75.0 GiB of GPU memory; at most 72.0 of its 80.0"):
        share_of_gpu(75 * GIB, 80 * GIB)


@given(st.integers(1, 200), st.integers(1, 200))
def test_as_many_as_share_a_gpu_fit_into_it(one: int, total: int) -> None:
    if one > KEPT_FREE * total:
        return
    share = share_of_gpu(one * GIB, total * GIB)
    many = fitting([{"CPU": 1e6, "GPU": 1.0}], cpus=1, gpus=share)
    assert many * one <= total
    assert (many + 1) * one > KEPT_FREE * total  # and one more would not


def test_a_container_with_docker_s_shared_memory_is_told_how_to_get_more(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="FR-E23 0 MiB free in .*; 160 MiB; .*--shm-size=1g"):
        _store_bytes(tmp_path / "none")


def test_an_address_that_nobody_listens_at_is_told_of_within_seconds() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(MachineError, match=f"FR-E22 nobody answers at 127.0.0.1:{port}"):
        _reach(f"127.0.0.1:{port}")


@pytest.fixture
def ray_gone(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What stands for Ray in this process: once `gone`, it refuses everything, as Ray without its cluster."""

    class RayError(Exception): ...

    def refuses(*_: object, **__: object) -> Any:
        if ray.gone:
            raise RayError("Ray has not been started yet.")
        return SimpleNamespace(options=refuses, remote=refuses)

    ray = ModuleType("ray")
    ray.__dict__.update(
        exceptions=SimpleNamespace(RayError=RayError), remote=lambda _: refuses(), kill=refuses, gone=False
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def test_where_ray_has_gone_its_workers_are_gone_and_none_can_be_started(ray_gone: ModuleType) -> None:
    actor = Actor(Cluster(), lambda: pytest.fail("made where it is asked for"), {})
    assert actor.alive
    ray_gone.__dict__["gone"] = True
    actor.kill()
    assert not actor.alive
    with pytest.raises(MachineError, match="FR-E20 Ray starts no worker: RayError: Ray has not been started yet"):
        Actor(Cluster(), lambda: pytest.fail("made where it is asked for"), {})


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:http", ":6379"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(MachineError, match="FR-E22 simulation.ray.address"):
        _reach(address)
