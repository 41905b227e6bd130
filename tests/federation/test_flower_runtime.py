"""The same ServerApp and ClientApp under Flower's own simulation runtime (Ray) give the inline digest."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

CUBES = Path(__file__).parents[1] / "data" / "cubes"
REPO = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as here:
        here.bind(("127.0.0.1", 0))
        return int(here.getsockname()[1])


def toml_of(config: dict[str, object]) -> str:
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in config.items()) + "\n"


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_flowers_simulation_runtime_gives_the_inline_digest(tmp_path: Path, cubes: Callable[..., Path]) -> None:
    from fedrounds.layout import lay_out
    from fedrounds.series import simulate
    from fedrounds.simulation import prepare
    from fedrounds_server.folder import RunFolder
    from fedrounds_sites.hospitals import assign

    study = cubes(tmp_path, rounds=1)
    two = ['simulation.reader.sites="AB"']
    inline = simulate(study, overrides=two, plugins=[CUBES], runs=tmp_path / "runs").status["consensus"]

    prepared = prepare(study, two, plugins=[CUBES])
    sites = assign(prepared.simulation, prepared.study, prepared.plugins)
    folder = RunFolder(tmp_path / "flower")
    folder.path.mkdir()
    lay_out(prepared, folder, sites)
    config = {
        "study": prepared.text, "run": str(folder.path), "simulation": str(folder.path / "rehearsal.json"),
        "plugins": str(CUBES), "resume": False,
    }  # fmt: skip
    (tmp_path / "config.toml").write_text(toml_of(config))
    environment = {
        **os.environ,
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [
        str(Path(sys.executable).parent / "flwr"), "run", str(REPO), "-c", str(tmp_path / "config.toml"),
        "--federation-config", "num-supernodes=2 client-resources-num-cpus=1", "--stream",
    ]  # fmt: skip
    try:
        # `flwr run` ends with 0 whether or not the run failed: what the run itself wrote decides
        for _ in range(4):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
            # Flower gives its own SuperLink 15 s to start, which a busy machine may not have
            if "Failed to start local SuperLink" not in done.stdout + done.stderr:
                break
        end = time.monotonic() + 60
        while time.monotonic() < end and not _ended(folder):
            time.sleep(0.5)
        assert _ended(folder), (done.stdout + done.stderr)[-3000:]
        assert json.loads(folder.status.read_text())["consensus"] == inline
    finally:
        # Flower leaves its local SuperLink running; it is told by its own home folder
        subprocess.run(["pkill", "-f", str(tmp_path / "flwr")], check=False)


def _ended(folder: object) -> bool:
    status = folder.status  # type: ignore[attr-defined]
    return bool(status.exists()) and json.loads(status.read_text()).get("state") != "running"
