"""docker-compose.yml and the Dockerfiles: valid, apart, rootless, without secrets, and they start."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import jsonschema
import nibabel as nib
import numpy as np
import pytest
import yaml

from fedrounds.environment import SILENCE

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DOCKERFILES = ("docker/server.Dockerfile", "docker/site.Dockerfile")
SITES = ("site-a", "site-b", "site-c", "site-d")
WRITTEN = "/var/lib/fedrounds"
Accepts = Callable[[Sequence[str]], None]


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


def test_no_two_sites_share_a_network_and_none_has_a_way_out(compose: dict[str, Any]) -> None:
    networks = {site: set(compose["services"][site]["networks"]) for site in SITES}
    assert [pair for pair in combinations(SITES, 2) if networks[pair[0]] & networks[pair[1]]] == []
    reached = set().union(*networks.values())
    assert reached <= set(compose["services"]["coordinator"]["networks"])
    assert all(compose["networks"][name]["internal"] for name in reached)


def test_every_service_is_shut_in(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode", "userns_mode"} & set(service), (
            name
        )
        # what is written goes to one volume and to memory
        written = [volume for volume in service["volumes"] if not volume.endswith(":ro")]
        assert [volume.split(":")[1] for volume in written] == [WRITTEN], name
        assert [place.split(":")[0] for place in service["tmpfs"]] == ["/tmp"], name


def test_every_volume_is_named_and_of_one_service(compose: dict[str, Any]) -> None:
    named = [
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service["volumes"]
        if not volume.endswith(":ro")
    ]
    assert sorted(named) == sorted(compose["volumes"])


def test_sites_open_no_port_and_the_coordinator_only_on_this_machine(compose: dict[str, Any]) -> None:
    assert all("ports" not in compose["services"][site] for site in SITES)
    (port,) = compose["services"]["coordinator"]["ports"]
    assert port == "${FEDROUNDS_LISTEN:-127.0.0.1}:8443:8443"


def test_a_sites_images_are_mounted_read_only(compose: dict[str, Any]) -> None:
    assert all(compose["services"][site]["volumes"][0].endswith(":/data:ro") for site in SITES)


def test_a_service_is_asked_for_the_folder_that_it_serves(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        _, program, path, kind, folder = service["healthcheck"]["test"]
        assert (program, path) == ("python", "/opt/fedrounds/health.py")
        assert kind == ("coordinator" if name == "coordinator" else "site")
        assert folder in service["command"]


def test_every_command_is_one_of_ours(compose: dict[str, Any], accepts: Accepts) -> None:
    for service in compose["services"].values():
        accepts(service["command"])
    with pytest.raises(click.ClickException):
        accepts([*compose["services"]["coordinator"]["command"], "--insecure"])


def test_no_secret_stands_in_what_is_deployed() -> None:
    word = re.compile(r"(?i)(password|passwd|secret|token|api[_-]?key|private[_-]?key)\s*[=:]")
    for name in ("docker-compose.yml", *DOCKERFILES):
        assert word.search((REPO / name).read_text("utf-8")) is None, name


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_runs_without_root_from_held_versions(name: str) -> None:
    lines = (REPO / name).read_text("utf-8").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users, "an image without USER runs as root"
    assert users[-1].split(":")[0] not in {"root", "0"}
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)
    for label in ("title", "description", "version", "revision", "licenses", "vendor", "base.name"):
        assert any(f"org.opencontainers.image.{label}=" in line for line in lines), label


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_is_made_from_one_version_and_fetches_nothing_once_it_runs(name: str) -> None:
    text = (REPO / name).read_text("utf-8")
    (base,) = re.findall(r"^ARG BASE=(.+)$", text, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base), "a tag that moves"
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}
    assert f'image.base.name="{base}"' in text
    for switch in SILENCE | {"FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1"}:
        assert re.search(rf"^(ENV)? +{switch}=", text, re.MULTILINE), switch
    # only what is written at run time is the account's own
    assert "install -d -m 0700 -o 10001 -g 10001 /var/lib/fedrounds" in text


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


def quiet(home: Path) -> dict[str, str]:
    """The environment of a service: nothing of ours is inherited."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "FEDROUNDS_"))}
    return {**clean, "HOME": str(home)}


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        listeners = [held.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]


class Service:
    """A service of the compose file as a process: its own command and health check, its volume a folder here."""

    def __init__(self, table: dict[str, Any], volume: Path) -> None:
        self.table, self.volume = table, volume
        volume.mkdir(mode=0o700)
        self.log = volume.with_suffix(".log")

    def here(self, words: Sequence[str]) -> list[str]:
        return [word.replace(WRITTEN, str(self.volume)) for word in words]

    def run(self, *words: str) -> str:
        """A command in the service, as `docker compose run` or `exec` would start it."""
        done = subprocess.run(
            [BIN / words[0], *self.here(words[1:])], env=quiet(self.volume), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def up(self) -> Iterator[None]:
        words = self.here(self.table["command"])
        with self.log.open("wb") as out:
            process = subprocess.Popen(
                [str(BIN / words[0]), *words[1:]], stdout=out, stderr=out, env=quiet(self.volume), cwd=self.volume
            )
            try:
                yield
            finally:
                process.terminate()
                try:
                    process.wait(timeout=40)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def healthy(self, *more: str) -> bool:
        words = self.here(self.table["healthcheck"]["test"])
        assert words[:3] == ["CMD", "python", "/opt/fedrounds/health.py"]
        asked = [sys.executable, str(REPO / "docker/health.py"), *words[3:], *more]
        return subprocess.run(asked, capture_output=True, check=False, env=quiet(self.volume)).returncode == 0

    def wait_until_healthy(self, seconds: float, *more: str) -> None:
        end = time.monotonic() + seconds
        while not self.healthy(*more):
            assert time.monotonic() < end, self.log.read_text("utf-8")[-3000:]
            time.sleep(0.5)


@pytest.mark.slow
def test_coordinator_and_a_site_come_up_by_these_very_commands_and_are_healthy_when_they_serve(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    for folder, kind in (("images", np.float32), ("labels", np.uint8)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), kind), np.eye(4)), tmp_path / "data" / folder / "a.nii.gz")
    front, superlink = free_ports(2)
    coordinator = Service(compose["services"]["coordinator"], tmp_path / "coordinator")
    site = Service(compose["services"]["site-a"], tmp_path / "site-a")
    place = ("--folder", f"{WRITTEN}/coordinator")
    address = (f"127.0.0.1:{front}", "--superlink-port", str(superlink))
    coordinator.run("fedrounds", "coordinator", "init", *address, *place)
    assert not coordinator.healthy()
    with coordinator.up():
        coordinator.wait_until_healthy(120)
        coordinator.run("fedrounds", "coordinator", "invite", "site-a", "--out", WRITTEN, *place)
        shutil.copy(coordinator.volume / "site-a.invitation", site.volume / "invitation")
        data = f"data.root={tmp_path / 'data'}"
        site.run("fedrounds", "site", "init", f"{WRITTEN}/site", "--name", "site-a", "-s", data)
        assert not site.healthy("--alive")
        with site.up():
            site.wait_until_healthy(60, "--alive")
            assert not site.healthy(), "a site that waits to be enrolled is not connected"
            told = site.run("fedrounds", "site", "doctor", "--site", f"{WRITTEN}/site", "--format", "json")
            (key,) = [each for each in json.loads(told)["data"]["findings"] if each["what"] == "keys"]
            let_in = ("--fingerprint", key["found"], "--wait", "60")
            coordinator.run("fedrounds", "coordinator", "enrol", "site-a", *let_in, *place)
            site.wait_until_healthy(120)
        assert not site.healthy("--alive")
    assert not coordinator.healthy()
