"""deploy/kubernetes: what Pod Security calls restricted, closed to the network, without secrets, and consistent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "deploy/kubernetes"
FILES = ("coordinator.yaml", "site.yaml")
# https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
ALLOWED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
Table = dict[str, Any]
Accepts = Callable[[Sequence[str]], None]


def objects(name: str) -> list[Table]:
    return [each for each in yaml.safe_load_all((FOLDER / name).read_text("utf-8")) if each is not None]


def of_kind(name: str, kind: str) -> list[Table]:
    return [each for each in objects(name) if each["kind"] == kind]


def workload(name: str) -> Table:
    (found,) = of_kind(name, "StatefulSet")
    return found


def pod(name: str) -> Table:
    spec: Table = workload(name)["spec"]["template"]["spec"]
    return spec


def containers(name: str) -> Iterator[Table]:
    yield from pod(name).get("initContainers", [])
    yield from pod(name)["containers"]


def test_every_manifest_is_tested() -> None:
    assert sorted(file.name for file in FOLDER.glob("*.yaml")) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_everything_lies_in_one_namespace_that_enforces_the_restricted_standard(name: str) -> None:
    (space,) = of_kind(name, "Namespace")
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [each for each in objects(name) if each["kind"] != "Namespace"]
    assert {each["metadata"]["namespace"] for each in others} == {space["metadata"]["name"]}


@pytest.mark.parametrize("name", FILES)
def test_the_pod_is_what_the_restricted_standard_asks_for(name: str) -> None:
    spec = pod(name)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for volume in spec["volumes"]:
        assert set(volume) - {"name"} <= ALLOWED_VOLUMES
    for container in containers(name):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert all("hostPort" not in port for port in container.get("ports", []))


@pytest.mark.parametrize("name", FILES)
def test_more_than_the_standard_nothing_of_the_image_is_written_and_no_token_is_mounted(name: str) -> None:
    assert all(each["automountServiceAccountToken"] is False for each in of_kind(name, "ServiceAccount"))
    assert pod(name)["automountServiceAccountToken"] is False
    assert pod(name)["serviceAccountName"] in {each["metadata"]["name"] for each in of_kind(name, "ServiceAccount")}
    for container in containers(name):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", FILES)
def test_a_disk_that_is_mounted_again_does_not_open_its_keys_to_the_group(name: str) -> None:
    assert pod(name)["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    # and the folder with the keys is not the disk's root, which the group may read
    assert "/var/lib/fedrounds" in {mount["mountPath"] for each in containers(name) for mount in each["volumeMounts"]}
    assert all("/var/lib/fedrounds" not in container["command"] for container in containers(name))


@pytest.mark.parametrize("name", FILES)
def test_there_is_one_of_each_always(name: str) -> None:
    assert workload(name)["spec"]["replicas"] == 1


@pytest.mark.parametrize("name", FILES)
def test_what_no_policy_names_is_closed(name: str) -> None:
    closed = [each["spec"] for each in of_kind(name, "NetworkPolicy") if each["spec"]["podSelector"] == {}]
    assert closed == [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}]


def test_a_site_is_dialled_by_nobody_and_dials_one_address() -> None:
    opened = [each["spec"] for each in of_kind("site.yaml", "NetworkPolicy") if each["spec"]["podSelector"]]
    assert not of_kind("site.yaml", "Service")
    assert all("ingress" not in spec for spec in opened)
    rules = [rule for spec in opened for rule in spec["egress"]]
    dialled = [rule for rule in rules if any("ipBlock" in peer for peer in rule["to"])]
    assert [peer["ipBlock"]["cidr"].partition("/")[2] for rule in dialled for peer in rule["to"]] == ["32"]
    # the rest is the cluster's own name service
    assert all(port["port"] == 53 for rule in rules if rule not in dialled for port in rule["ports"])


def test_the_coordinator_is_dialled_on_one_port_and_dials_nobody() -> None:
    opened = [each["spec"] for each in of_kind("coordinator.yaml", "NetworkPolicy") if each["spec"]["podSelector"]]
    assert all("egress" not in spec for spec in opened)
    assert [port["port"] for spec in opened for rule in spec["ingress"] for port in rule["ports"]] == ["front"]


def test_a_sites_images_are_mounted_read_only() -> None:
    for container in containers("site.yaml"):
        assert all(
            mount["readOnly"]
            for mount in container["volumeMounts"]
            if mount["name"] != "state" and mount["name"] != "tmp"
        )
    (images,) = [volume for volume in pod("site.yaml")["volumes"] if volume["name"] == "images"]
    assert images["persistentVolumeClaim"]["readOnly"] is True


@pytest.mark.parametrize("name", FILES)
def test_secrets_are_named_and_none_is_written_here(name: str) -> None:
    assert of_kind(name, "Secret") == []
    assert "PRIVATE KEY" not in (FOLDER / name).read_text("utf-8")
    # an environment can be read by whoever describes the pod
    given = [entry for container in containers(name) for entry in container.get("env", [])]
    assert all("valueFrom" not in entry for entry in given)
    assert all("envFrom" not in container for container in containers(name))


@pytest.mark.parametrize("name", FILES)
def test_every_name_that_is_used_is_there(name: str) -> None:
    spec, labels = workload(name)["spec"], workload(name)["spec"]["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels
    there = {volume["name"] for volume in pod(name)["volumes"]}
    there |= {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    used = {mount["name"] for container in containers(name) for mount in container["volumeMounts"]}
    assert used == there
    ports = {port["name"] for container in containers(name) for port in container.get("ports", [])}
    for service in of_kind(name, "Service"):
        assert service["spec"]["selector"] == labels
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for policy in of_kind(name, "NetworkPolicy"):
        assert policy["spec"]["podSelector"] in ({}, {"matchLabels": labels})


@pytest.mark.parametrize("name", FILES)
def test_the_commands_are_ours(name: str, accepts: Accepts) -> None:
    (main,) = pod(name)["containers"]
    accepts(main["command"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        words = main[probe]["exec"]["command"]
        assert words[:2] == ["python", "/opt/fedrounds/health.py"]
        assert words[3] in main["command"], "another folder than the one that is served"


def first_start(name: str, places: Table) -> None:
    """Run what the pod runs before its container starts, twice: a pod that starts again finds its folder."""
    (first,) = pod(name)["initContainers"]
    given = {entry["name"]: replaced(entry["value"], places) for entry in first["env"]}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for start in (1, 2):
        words = [replaced(word, places) for word in first["command"]]
        done = subprocess.run(
            words, env={**os.environ, "PATH": path, **given}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (start, done.stderr)


def test_the_sites_settings_have_no_fault_and_its_folder_is_made_of_them(tmp_path: Path) -> None:
    from fedrounds_client.home import SiteHome

    (settings,) = of_kind("site.yaml", "ConfigMap")
    for folder in ("etc", "state"):
        (tmp_path / folder).mkdir()
    (tmp_path / "etc/site.toml").write_text(settings["data"]["site.toml"], "utf-8")
    first_start("site.yaml", {"/etc/fedrounds": str(tmp_path / "etc"), "/var/lib/fedrounds": str(tmp_path / "state")})
    home = SiteHome(tmp_path / "state/site")
    assert home.read_settings().data["root"] == "/data"
    assert home.site_toml.read_text("utf-8") == settings["data"]["site.toml"]
    assert home.site_toml.stat().st_mode & 0o777 == 0o600


def test_the_coordinators_folder_is_made_once_and_listens_where_the_service_leads(tmp_path: Path) -> None:
    from fedrounds_server.coordinator.folder import CoordinatorFolder, read_settings

    first_start("coordinator.yaml", {"/var/lib/fedrounds": str(tmp_path)})
    settings = read_settings(CoordinatorFolder(tmp_path / "coordinator"))
    (main,) = pod("coordinator.yaml")["containers"]
    assert settings.bind == f"0.0.0.0:{main['ports'][0]['containerPort']}"


def replaced(word: str, places: Table) -> str:
    for old, new in places.items():
        word = word.replace(old, new)
    return word


@pytest.mark.parametrize("name", FILES)
def test_kubernetes_own_types_know_every_field(name: str, tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    given = workload(name)
    # what kubectl does not know is lost when it reads the file as its own type and writes it again
    assert sorted(paths(given) - paths(written_again(kubectl, FOLDER / name))) == []
    given["spec"]["template"]["spec"]["hostNetwrk"] = True
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(given), "utf-8")
    assert sorted(paths(given) - paths(written_again(kubectl, wrong))) == ["/spec/template/spec/hostNetwrk"]


def written_again(kubectl: str, file: Path) -> Any:
    """The workload of a file as kubectl's own types hold it; no cluster is asked."""
    words = ["set", "resources", "--local", "-f", str(file), "--limits=memory=1Mi", "-o", "json"]
    # it ends with 1 where a file also holds kinds that have no resources to set
    return json.loads(subprocess.run([kubectl, *words], capture_output=True, check=False, timeout=120).stdout)


def paths(value: Any, at: str = "") -> set[str]:
    if isinstance(value, dict):
        # an empty table may be left out by whoever writes it again
        return {path for key, entry in value.items() for path in paths(entry, f"{at}/{key}")}
    if isinstance(value, list):
        return {path for number, entry in enumerate(value) for path in paths(entry, f"{at}/{number}")}
    return {at}
