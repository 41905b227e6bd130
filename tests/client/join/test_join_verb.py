"""`fedrounds site join` and `site doctor` as a data manager types them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fedrounds.cli.frame import group
from fedrounds.cli.main import main
from fedrounds.cli.site_join import _listed, register
from fedrounds.health import Finding
from fedrounds.health_site import WHATS, examine_site, status_of
from fedrounds_client.founding import found
from fedrounds_client.home import SiteHome
from fedrounds_client.jail import can_be_walled
from fedrounds_client.join import node
from fedrounds_client.join.reach import Way
from fedrounds_client.join.supernode import Marks, accept, environment, runs
from fedrounds_client.join.unit import unit_of
from fedrounds_common.errors import UsageError

Make = Callable[..., Path]
Serve = Callable[..., Any]


@pytest.fixture
def site(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`site("join", …)` in an empty folder: exit status, what was answered, what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDROUNDS_SITE", raising=False)
    commands = group("of a site")
    register(commands)

    def call(*arguments: object) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        status = main([*(str(argument) for argument in arguments), "--format", "json"], commands)
        printed = capsys.readouterr()
        return status, json.loads(printed.out), printed.err

    return call


def test_joining_from_nothing_makes_the_site_and_says_both_fingerprints(
    site: Callable[..., Any], invitation_of: Make, coordinator_key: Any, tmp_path: Path
) -> None:
    status, answer, said = site("join", invitation_of(), "--reader", "phantom_glioma", "--systemd")
    assert status == 0
    home = SiteHome(tmp_path / "A")
    assert home.read_settings().name == "A"
    assert coordinator_key.public.fingerprint in said
    assert home.key.public.fingerprint in said
    assert Path(answer["data"]["unit"]).is_file()
    assert [place for place in (home.folder, *home.folder.rglob("*")) if place.stat().st_mode & 0o077] == []


@pytest.mark.parametrize(
    ("changed", "code", "status"),
    [
        ({"expires": "2020-01-01T00:00:00+00:00"}, "FR-C81", 6),
        ({"site": "B"}, "FR-C82", 6),
        ({"kind": "x"}, "FR-C80", 2),
    ],
)
def test_an_invitation_that_does_not_fit_is_refused_at_once(
    site: Callable[..., Any], home: SiteHome, invitation_of: Make, changed: dict[str, str], code: str, status: int
) -> None:
    got, answer, _ = site("join", invitation_of(**changed), "--site", home.folder)
    assert (got, answer["error"]["code"]) == (status, code)


def test_a_tampered_invitation_is_refused_and_makes_no_folder(
    site: Callable[..., Any], invitation_of: Make, tmp_path: Path
) -> None:
    file = invitation_of()
    file.write_text(file.read_text().replace("127.0.0.1", "127.0.0.2"))
    status, answer, _ = site("join", file, "--reader", "phantom_glioma")
    assert (status, answer["error"]["code"]) == (6, "FR-C90")
    assert not (tmp_path / "A").exists()


def test_joining_without_a_site_or_an_invitation_says_what_to_type(site: Callable[..., Any]) -> None:
    status, answer, _ = site("join")
    assert (status, answer["error"]["code"]) == (2, "FR-C23")
    assert "--reader" in answer["error"]["do"]


@pytest.mark.parametrize("reader", ["phantom_glioma", "image_pairs"])
def test_how_many_cases_a_site_could_bring_is_counted_with_its_readers_own_channels(
    reader: str, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        for name in (f"A_{number}_1.png", f"A_{number}_1_mask.png"):
            Image.new("L", (4, 4)).save(tmp_path / "images" / name)
    of_phantom = ["data.profile=fets71", "data.only=s01"]
    where = of_phantom if reader == "phantom_glioma" else [f"data.root={tmp_path / 'images'}"]
    home = found(tmp_path / "A", "A", reader, where)
    assert _listed(home) == (3 if reader == "image_pairs" else 52)


def test_cases_that_cannot_be_counted_say_what_to_do(tmp_path: Path) -> None:
    home = found(tmp_path / "A", "A", "nifti_folder", [f"data.root={tmp_path / 'nowhere'}"])
    with pytest.raises(UsageError, match="FR-C33 .*say it: --cases N"):
        _listed(home)


def test_a_site_that_is_there_is_not_made_over(site: Callable[..., Any], home: SiteHome, invitation_of: Make) -> None:
    status, answer, _ = site("join", invitation_of(), "--site", home.folder, "--reader", "nifti_folder")
    assert (status, answer["error"]["code"]) == (2, "FR-C28")


@pytest.mark.parametrize("address", ["", "no-such"])
def test_what_nobody_can_wait_for_ends_joining_with_6(
    site: Callable[..., Any], home: SiteHome, invitation_of: Make, serve: Serve, address: str, authority: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    # plain HTTP at that port, or a certificate for another name
    front = serve(authority.issue(tmp_path, address="fl.example.org")) if address else serve()
    status, answer, _ = site("join", invitation_of(address=front.address), "--site", home.folder, "--cases", "3")
    assert (status, answer["error"]["code"]) == (6, "FR-C87" if address else "FR-C88")
    assert runs(home) == 0


@pytest.mark.slow
def test_joining_waits_to_be_enrolled_and_ends_politely(
    home: SiteHome, invitation_of: Make, serve: Serve, authority: Any, tmp_path: Path
) -> None:
    front = serve(authority.issue(tmp_path))
    file = invitation_of(address=front.address)
    program = [sys.executable, "-c", "import sys; from fedrounds.cli.main import main; sys.exit(main(sys.argv[1:]))"]
    command = [*program, "site", "join", str(file), "--site", str(home.folder), "--cases", "3"]
    with (tmp_path / "said").open("w") as said:
        first = subprocess.Popen(command, stdout=said, stderr=said)
        until(lambda: "waiting to be enrolled" in (tmp_path / "said").read_text())
        assert runs(home) == first.pid
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (again.returncode, "FR-E46" in again.stderr) == (2, True)
        front.answers = [(200, {"state": "enrolled"})]
        until(lambda: Marks(home.flwr).enrolled.exists())
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 0
    assert json.loads(front.bodies[0])["cases"] == 3
    assert runs(home) == 0


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 90
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


# ---------------------------------------------------------------- doctor


def of(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


@pytest.fixture
def whole(home: SiteHome, invitation_of: Make, serve: Serve, authority: Any, tmp_path: Path) -> tuple[SiteHome, Any]:
    """A site that could join: its coordinator answers, with its own certificate."""
    front = serve(authority.issue(tmp_path))
    accept(home, invitation_of(address=front.address))
    return home, front


def test_a_whole_site_has_no_fault_and_every_check_is_there(whole: tuple[SiteHome, Any]) -> None:
    findings = examine_site(whole[0])
    faults = [finding for finding in findings if finding.level == "fault"]
    if can_be_walled():
        faults = [finding for finding in faults if finding.what != "walls"]
    assert faults == []
    assert tuple(finding.what for finding in findings) == WHATS
    assert [finding.what for finding in findings if (finding.level != "ok") != bool(finding.do)] == []


def test_a_file_that_others_may_read_is_named_with_the_command_that_mends_it(whole: tuple[SiteHome, Any]) -> None:
    home, _ = whole
    home.invitation.chmod(0o644)
    finding = of(examine_site(home))["folder"]
    assert (finding.level, finding.found) == ("fault", "others may open 1: invitation.json")
    assert subprocess.run(finding.do, shell=True, check=False).returncode == 0
    assert of(examine_site(home))["folder"].level == "ok"


def test_a_broken_journal_a_missing_key_and_bad_settings_are_faults_of_this_machine(
    whole: tuple[SiteHome, Any],
) -> None:
    home, _ = whole
    home.journal.write_text('{"n": 1}\n')
    home.journal.chmod(0o600)
    home.signing_key.unlink()
    home.site_toml.write_text('format = 1\nname = "A"\n\n[data]\nname = "nifti_foldr"\n')
    found = of(examine_site(home))
    assert [found[what].level for what in ("journal", "keys", "settings")] == ["fault"] * 3
    assert "nifti_foldr" in found["settings"].found
    assert status_of(tuple(found.values())) == 5


def test_a_coordinator_that_is_away_is_6_and_a_clock_too(whole: tuple[SiteHome, Any]) -> None:
    from datetime import UTC, datetime, timedelta

    home, front = whole
    front.date = datetime.now(UTC) + timedelta(hours=1)
    findings = [finding for finding in examine_site(home) if finding.what != "walls"]
    assert [finding.what for finding in findings if finding.level == "fault"] == ["clock"]
    assert status_of(findings) == 6


def test_a_certificate_of_another_ca_and_one_about_to_end(
    home: SiteHome, invitation_of: Make, serve: Serve, authority: Any, another_authority: Any, tmp_path: Path
) -> None:
    accept(home, invitation_of(address=serve(another_authority.issue(tmp_path)).address))
    assert of(examine_site(home))["certificate"].found.startswith("FR-C85")
    accept(home, invitation_of(address=serve(authority.issue(tmp_path, last=10)).address))
    soon = of(examine_site(home))["certificate"]
    assert soon.level == "advice"
    assert "renew" in soon.do


def test_a_data_folder_that_is_gone_is_a_fault(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    home = found(tmp_path / "B", "B", "nifti_folder", [f"data.root={images}"])
    assert of(examine_site(home))["data"].level in ("ok", "advice")
    images.rmdir()
    assert of(examine_site(home))["data"].level == "fault"


def test_doctor_answers_for_a_folder_without_a_site(site: Callable[..., Any], tmp_path: Path) -> None:
    status, answer, _ = site("doctor", "--site", tmp_path / "nowhere")
    assert status == 5
    assert {f["what"] for f in answer["data"]["findings"] if f["level"] == "fault"} >= {"folder", "settings"}


def test_the_health_check_is_6_until_it_is_connected(site: Callable[..., Any], home: SiteHome) -> None:
    assert site("doctor", "--up", "--site", home.folder)[0] == 6


# ---------------------------------------------------------------- unit, environment, Flower


def test_the_unit_gives_no_rights_and_the_data_read_only(tmp_path: Path) -> None:
    images = tmp_path / "ima ges%"
    images.mkdir()
    home = found(tmp_path / "B", "B", "nifti_folder", [f"data.root={images}", "machine.memory_gb=8"])
    unit = unit_of(home, "fedrounds", ("/bin/true",))
    lines = unit.splitlines()
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=", "UMask=0077",
                 "MemoryMax=8000000000", "Restart=always", f'ReadOnlyPaths="{str(images).replace("%", "%%")}"'):  # fmt: skip
        assert line in lines
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here to read the unit")
    file = tmp_path / "fedrounds-B.service"
    file.write_text(unit.replace("User=fedrounds", "User=root"))
    read = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False)
    assert [line for line in read.stderr.splitlines() if file.name in line] == []


def test_flower_is_told_to_send_nothing_home_and_to_install_nothing(
    home: SiteHome, authority: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet")
    told = environment(home, Way("fl.example.org:443", authority.pem, "http://proxy:3128"))
    assert told["FLWR_TELEMETRY_ENABLED"] == "0"
    assert told["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert told["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert told["FLWR_HOME"] == str(home.flwr)
    assert (told["HTTPS_PROXY"], told["NO_PROXY"]) == ("http://proxy:3128", "127.0.0.1,localhost,::1")
    assert environment(home, Way("fl.example.org:443", authority.pem))["NO_PROXY"] == "intranet,127.0.0.1,localhost,::1"
    assert told["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_every_function_of_flower_s_that_is_wrapped_is_where_it_was() -> None:
    import inspect

    from flwr.supercore.constant import VERSION_INCOMPATIBILITY_MESSAGE_METADATA_KEY
    from flwr.supernode import start_client_internal as supernode
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    # what an error says is taken out where it is sent, and uploaded there
    source = inspect.getsource(supernode._push_messages)
    assert "ids_obj_to_send, session_id = send(message, object_tree, clientapp_runtime)" in source
    assert list(inspect.signature(supernode._push_messages).parameters) == [
        "state",
        "object_store",
        "send",
        "push_object",
    ]
    source = inspect.getsource(supernode.start_client_internal)
    assert (
        "receive,\n            send,\n            get_run,\n            get_fab,\n            pull_object,\n            push_object,"
        in source
    )
    source = inspect.getsource(supernode._pull_and_store_message)
    # a refused bundle is answered before it is opened: verified first, the configuration in it read later
    order = [
        "get_fab(",
        'fab.verifications.get("valid_license"',
        "_verify_fab(fab, trusted_entities)",
        "get_fused_config",
    ]
    assert [source.index(text) for text in order] == sorted(source.index(text) for text in order)
    assert list(inspect.signature(supernode._verify_fab).parameters) == ["fab", "trusted_entities"]
    connection = inspect.getsource(supernode.http_request_response)
    assert (
        "get_fab,\n                pull_object,\n                push_object,\n                confirm_message_received,\n            )"
        in connection
    )
    assert list(inspect.signature(NodeAuthHttpInterceptor.intercept).parameters) == ["self", "context", "call_next"]
    assert VERSION_INCOMPATIBILITY_MESSAGE_METADATA_KEY == node.VERSION_HEADER
    assert node.ACTIVATE in inspect.getsource(FleetHttpClient.ActivateNode)


@pytest.mark.slow
def test_a_node_ends_with_its_helper_so_that_the_launcher_starts_both_again() -> None:
    begin = "import subprocess, sys, time; from fedrounds_client.join import node; node.watch_helper(0.05); "
    begin += "helper = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE); "
    ended = subprocess.run([sys.executable, "-c", f"{begin} helper.kill(); time.sleep(60)"], check=False)
    assert ended.returncode == node.HELPER_ENDED
    stays = subprocess.run([sys.executable, "-c", f"{begin} time.sleep(0.5); sys.exit(7)"], check=False)
    assert stays.returncode == 7


def test_a_node_that_comes_back_stays_away_for_as_long_as_it_takes_to_be_seen_away(home: SiteHome) -> None:
    slept: list[float] = []
    node.stay_away(home, slept.append)
    assert slept == []  # nobody was there before
    home.flwr.mkdir(exist_ok=True)
    mark = home.flwr / node.LEFT
    for later, wanted in ((0.0, node.AWAY_S), (5.0, node.AWAY_S - 5), (60.0, 0.0), (-3600.0, node.AWAY_S)):
        mark.touch()
        left = mark.stat().st_mtime
        node.stay_away(home, slept.append, lambda left=left, later=later: left + later)
        assert slept.pop() == pytest.approx(wanted)
        assert not mark.exists()


def test_a_node_that_gives_up_ends_although_a_thread_of_flowers_goes_on() -> None:
    program = "import threading, time; from fedrounds_client.join import node; "
    program += "threading.Thread(target=time.sleep, args=(100,)).start(); node.to_the_end(lambda: 1 / 0)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode == node.GAVE_UP
    assert "ZeroDivisionError" in ended.stderr
