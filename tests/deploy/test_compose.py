"""docker-compose.yml and the Dockerfiles: valid, apart, rootless, without secrets, and they start."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DOCKERFILES = ("docker/server.Dockerfile", "docker/site.Dockerfile")
SITES = ("site-a", "site-b")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((REPO / "docker-compose.yml").read_text("utf-8"))
    return loaded


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    text = (REPO / "tests/data/compose-spec/compose-spec.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def test_the_compose_file_is_valid_against_the_compose_schema(compose: dict[str, Any], schema: dict[str, Any]) -> None:
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    assert [error.message for error in validator(schema).iter_errors(compose)] == []


def test_the_compose_schema_catches_a_wrong_key(compose: dict[str, Any], schema: dict[str, Any]) -> None:
    services = {**compose["services"], "coordinator": {**compose["services"]["coordinator"], "prots": []}}
    with pytest.raises(jsonschema.ValidationError, match="prots"):
        jsonschema.validate({**compose, "services": services}, schema)


def test_docker_itself_accepts_the_compose_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    asked = subprocess.run(
        [docker, "compose", "-f", str(REPO / "docker-compose.yml"), "config", "-q"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr


def test_two_sites_share_no_network(compose: dict[str, Any]) -> None:
    first, second = (set(compose["services"][site]["networks"]) for site in SITES)
    assert not first & second
    assert first | second <= set(compose["services"]["coordinator"]["networks"])
    assert all(compose["networks"][name]["internal"] for name in first | second)


def test_sites_open_no_port_and_the_coordinator_only_on_this_machine(compose: dict[str, Any]) -> None:
    assert all("ports" not in compose["services"][site] for site in SITES)
    assert all(port.startswith("127.0.0.1:") for port in compose["services"]["coordinator"]["ports"])


def test_a_sites_images_are_mounted_read_only_and_its_state_is_its_own(compose: dict[str, Any]) -> None:
    states = []
    for site in SITES:
        images, state = compose["services"][site]["volumes"]
        assert images.endswith(":/data:ro")
        states.append(state.split(":")[0])
    assert len(set(states)) == 2


def test_every_service_says_how_it_is(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        address = service["healthcheck"]["test"][-1]
        assert f"--health-server-address={address}" in service["command"]


def test_no_secret_stands_in_what_is_deployed() -> None:
    word = re.compile(r"(?i)(password|passwd|secret|token|api[_-]?key|private[_-]?key)\s*[=:]")
    for name in ("docker-compose.yml", *DOCKERFILES):
        assert word.search((REPO / name).read_text("utf-8")) is None, name


@pytest.mark.parametrize("program", ["flower-superlink", "flower-supernode"])
def test_every_flag_is_known_to_the_installed_flower(compose: dict[str, Any], program: str) -> None:
    commands = [service["command"] for service in compose["services"].values() if service["command"][0] == program]
    assert commands
    helped = subprocess.run([BIN / program, "--help"], capture_output=True, text=True, check=True, env=quiet())
    known = set(re.findall(r"--[a-z][a-z-]+", helped.stdout))
    assert {flag.split("=")[0] for command in commands for flag in command[1:]} - known == set()


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_runs_without_root_from_held_versions(name: str) -> None:
    lines = (REPO / name).read_text("utf-8").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users, "an image without USER runs as root"
    assert users[-1].split(":")[0] not in {"root", "0"}
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)
    assert any("org.opencontainers.image.licenses" in line for line in lines)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_gets_everything_the_wheel_is_made_of(name: str) -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))
    wanted = {path.split("/")[0] for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]}
    wanted |= {"pyproject.toml", *project["project"]["license-files"]}
    if "readme" in project["project"]:
        wanted.add(project["project"]["readme"])
    copied: set[str] = set()
    for line in (REPO / name).read_text("utf-8").splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert wanted <= copied
    assert all((REPO / source).exists() for source in copied)
    let_in = {line[1:] for line in (REPO / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    assert copied <= let_in


def quiet(home: Path | None = None) -> dict[str, str]:
    """The environment of a Flower process that neither reports nor writes home."""
    # Flower's programs start each other by name
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    extra = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "PATH": path}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COV_")}
    return {**clean, **extra, **({"FLWR_HOME": str(home), "HOME": str(home)} if home else {})}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def started(command: list[str], log: Path, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], stdout=out, stderr=subprocess.STDOUT, env=quiet(home), cwd=home
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def healthy(address: str, seconds: int) -> bool:
    command = [sys.executable, str(REPO / "docker/health.py"), address, str(seconds)]
    return subprocess.run(command, capture_output=True, check=False, env=quiet()).returncode == 0


@pytest.mark.slow
def test_coordinator_and_site_start_with_these_very_flags(compose: dict[str, Any], tmp_path: Path) -> None:
    link, link_health, node, node_health = (free_port() for _ in range(4))
    here = {
        "--host=0.0.0.0": "--host=127.0.0.1",
        "--port=9092": f"--port={link}",
        "--port=9094": f"--port={node}",
        "--superlink=coordinator:9092": f"--superlink=127.0.0.1:{link}",
        "--database=/var/lib/fedrounds/superlink.db": f"--database={tmp_path / 'superlink.db'}",
    }
    health = "--health-server-address=127.0.0.1:9099"
    coordinator = [here.get(word, word) for word in compose["services"]["coordinator"]["command"]]
    coordinator[coordinator.index(health)] = f"--health-server-address=127.0.0.1:{link_health}"
    site = [here.get(word, word) for word in compose["services"]["site-a"]["command"]]
    site[site.index(health)] = f"--health-server-address=127.0.0.1:{node_health}"
    assert not healthy(f"127.0.0.1:{link_health}", 1), "something else answers on this port"
    with started(coordinator, tmp_path / "coordinator.log", tmp_path):
        assert healthy(f"127.0.0.1:{link_health}", 90), (tmp_path / "coordinator.log").read_text()[-2000:]
        with started(site, tmp_path / "site.log", tmp_path):
            assert healthy(f"127.0.0.1:{node_health}", 90), (tmp_path / "site.log").read_text()[-2000:]
