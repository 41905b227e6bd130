"""`fedrounds coordinator …` as an operator types it, where no process need be up."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedrounds_common.chain import read
from fedrounds_common.signing import SigningKey
from fedrounds_server.coordinator.folder import CoordinatorFolder
from fedrounds_server.coordinator.register import Enrolled, write_entry

ADDRESS = "fl.example.org:8443"


@pytest.fixture
def made(fedrounds: Any, tmp_path: Path) -> CoordinatorFolder:
    said = fedrounds("coordinator", "init", ADDRESS, "--name", "University X")
    assert said.status == 0, said.err
    return CoordinatorFolder(tmp_path / "coordinator")


def test_init_prints_the_fingerprint_that_hospitals_ask_for(fedrounds: Any, made: CoordinatorFolder) -> None:
    fingerprint = SigningKey.load(made.signing_key).public.fingerprint
    assert fingerprint in fedrounds("coordinator", "status").out
    again = fedrounds("coordinator", "init", ADDRESS, "--folder", "other", "--format", "json").envelope["data"]
    assert again["fingerprint"] == SigningKey.load(Path("other/keys/signing.key")).public.fingerprint != fingerprint


def test_init_twice_and_a_wrong_address_are_usage_errors(fedrounds: Any, made: CoordinatorFolder) -> None:
    said = fedrounds("coordinator", "init", ADDRESS)
    assert (said.status, "FR-U61" in said.err, said.out) == (2, True, "")
    assert "FR-U62" in fedrounds("coordinator", "init", "https://fl.example.org", "--folder", "other").err


@pytest.mark.parametrize(
    "verb", ["invite A", "start", "start --detach", "enrol A", "status", "stop", "revoke A", "renew"]
)
def test_every_verb_says_where_it_looked_for_the_folder(fedrounds: Any, verb: str) -> None:
    said = fedrounds("coordinator", *verb.split())
    assert said.status == 2
    assert "FR-U60" in said.err or "FR-U68" in said.err
    assert said.out == ""


def test_the_folder_may_come_from_the_environment(
    fedrounds: Any, made: CoordinatorFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert fedrounds("coordinator", "status").status == 2
    monkeypatch.setenv("FEDROUNDS_COORDINATOR", str(made.path))
    assert fedrounds("coordinator", "status").status == 0


def test_invite_writes_a_closed_file_for_each_hospital(fedrounds: Any, made: CoordinatorFolder, study: Any) -> None:
    said = fedrounds("coordinator", "invite", "A", "B", "--study", study(), "--format", "json")
    files = {site: Path(file) for site, file in said.envelope["data"]["invitations"].items()}
    assert set(files) == {"A", "B"}
    tables = [json.loads(file.read_text()) for file in files.values()]
    assert len({table["token"] for table in tables}) == 2
    assert {len(table["study"]) for table in tables} == {64}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files.values()} == {0o600}


def test_one_bad_name_among_several_invites_nobody(fedrounds: Any, made: CoordinatorFolder) -> None:
    assert fedrounds("coordinator", "invite", "A", "../B").status == 2
    assert list(Path().glob("*.invitation")) == []
    assert [line["event"] for line in read(made.journal)] == ["made"]


def test_enrolling_a_site_that_did_not_ask_names_those_that_did(fedrounds: Any, made: CoordinatorFolder) -> None:
    said = fedrounds("coordinator", "enrol", "A")
    assert (said.status, "FR-U66 no request of A has come; waiting: none" in said.err) == (2, True)


def test_fingerprints_come_one_for_each_site(fedrounds: Any, made: CoordinatorFolder) -> None:
    assert "FR-U74" in fedrounds("coordinator", "enrol", "A", "B", "--fingerprint", "4f1c").err


def test_a_study_is_not_submitted_without_hospitals(fedrounds: Any, made: CoordinatorFolder, study: Any) -> None:
    said = fedrounds("coordinator", "submit", study('[cases]\nlabels = { x = 1 }\nchannels = ["t1"]\n'))
    assert (said.status, "FR-U73" in said.err) == (2, True)


def test_a_faulty_study_is_told_with_its_lines(fedrounds: Any, made: CoordinatorFolder, study: Any) -> None:
    said = fedrounds("coordinator", "submit", study("[training]\nroundz = 3\n"))
    assert said.status == 3
    assert "did you mean" in said.err


def test_prepare_prints_the_line_that_a_plain_flower_user_types(
    fedrounds: Any, made: CoordinatorFolder, study: Any
) -> None:
    write_entry(made, Enrolled("A", SigningKey.create().public, 10, None, False))
    file = study('[cases]\nlabels = { x = 1 }\nchannels = ["t1"]\n[cohort]\nsites = ["A", "B"]\n')
    said = fedrounds("coordinator", "submit", file, "--prepare")
    assert said.status == 0
    assert "warning: B is in the study and not enrolled" in said.err
    config = made.runs / "0001-small" / "run-config.toml"
    assert f"FLWR_HOME={made.flower_home} flwr run . coordinator --run-config {config}" in said.out


def test_renew_says_when_the_new_certificate_is_shown(fedrounds: Any, made: CoordinatorFolder) -> None:
    before = (made.keys / "server.pem").read_bytes(), (made.keys / "ca.pem").read_bytes()
    said = fedrounds("coordinator", "renew")
    assert (said.status, "The next start shows it" in said.out) == (0, True)
    after = (made.keys / "server.pem").read_bytes(), (made.keys / "ca.pem").read_bytes()
    assert (after[0] != before[0], after[1] == before[1]) == (True, True)


def test_an_unknown_run_names_where_runs_are(fedrounds: Any, made: CoordinatorFolder) -> None:
    said = fedrounds("coordinator", "resume", "7")
    assert (said.status, "FR-U12" in said.err) == (2, True)


def test_help_of_the_coordinator_imports_nothing_heavy() -> None:
    heavy = ["torch", "numpy", "flwr", "pydantic", "cryptography", "fedrounds_server", "fedrounds_sites", "httpx"]
    program = (
        "import sys, json; from fedrounds.cli.main import main; status = main(['coordinator', '--help']); "
        f"sys.stderr.write(json.dumps([status, [name for name in {heavy!r} if name in sys.modules]]))"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(child.stderr) == [0, []]
    assert all(verb in child.stdout for verb in ("init", "invite", "start", "enrol", "submit", "revoke", "renew"))


def test_status_tells_who_a_run_waits_for(fedrounds: Any, made: CoordinatorFolder) -> None:
    run = made.runs / "0001-brains"
    run.mkdir()
    waiting = {"for": {"B": "has not permitted the study yet (FR-C02)"}, "until": "2026-11-20T12:00:00+00:00"}
    (run / "status.json").write_text(json.dumps({"format": 1, "state": "running", "waiting": waiting}))
    told = " ".join(fedrounds("coordinator", "status").out.split())
    until = "2026-11-20T12:00:00+00:00"
    assert f"0001-brains waits until {until} for B: has not permitted the study yet (FR-C02)" in told
    (one,) = fedrounds("coordinator", "status", "--format", "json").envelope["data"]["runs"]
    assert (one["waits_for"], one["waits_until"]) == (waiting["for"], waiting["until"])
