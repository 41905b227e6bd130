"""Rows of the fault table about who is let in: versions, certificates, keys, replays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from faultworld import Bench, Made, fault, must, study
from fedworld import World, wait_until

from fedrounds_server.coordinator.pki import make_authority, renew_server


@fault("version", "another version of fedrounds at a site")
def version(bench: Bench) -> Made:
    from importlib.metadata import version as version_of

    settings = study(rounds=1)
    home, other = bench.world.home("s2"), bench.world.folder / "other"
    info = other / "fedrounds-0.0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fedrounds\nVersion: 0.0.1\n")
    bench.world.kill("s2")
    bench.world.extra["s2"] = {"PYTHONPATH": str(other)}
    bench.rejoin("s2")
    wait_until((home / "flwr" / "connected").exists, "s2 is connected", 90)
    run = bench.submit((*settings, "cohort.wait_s=150"))
    status = bench.ended(run)
    bench.world.extra.clear()
    bench.world.kill("s2")
    bench.rejoin("s2")
    said = [line for line in status.get("warnings", []) if "0.0.1" in line and version_of("fedrounds") in line]
    must(bool(said), f"no warning names both versions: {status}")
    return run, (*settings, "cohort.wait_s=150"), f"{status['failed'].get('s2')}: {said[0]}"


def _other_certificate(bench: Bench, make: Callable[[Path], None], code: str) -> Made:
    """In mid-training the front is started again and shows a certificate that no site may take; then `renew`."""
    settings, world = study(rounds=1), bench.world
    run = bench.submit(settings)
    bench.training(run, "s2", 1)
    make(world.coordinator / "keys")
    for pid in world.pids("fedrounds_server.front", str(world.coordinator)):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: _front_shows(world), "the front is up again", 90)
    said = json.dumps(world.call("s2", "site", "doctor", "--site", str(world.home("s2")), expect=None))
    must(code in said, f"`site doctor` does not name {code}: {said[:600]}")
    must(not bench.history(run), "the round ended with nobody able to answer")
    world.call("co", "coordinator", "renew", "--folder", str(world.coordinator))
    bench.ended(run)
    return run, settings, f"`site doctor` names {code}; after `renew` both sites went on by themselves"


def _front_shows(world: World) -> bool:
    """Whether something speaks TLS there, whatever its certificate."""
    dial = "import ssl, sys; ssl.get_server_certificate((sys.argv[1], int(sys.argv[2])), timeout=5)"
    try:
        world.inside("co", [sys.executable, "-c", dial, world.host, str(world.port)])
    except subprocess.CalledProcessError:
        return False
    return True


@fault("expired", "the coordinator's certificate has expired, in mid-training; `renew`")
def expired(bench: Bench) -> Made:
    long_ago = datetime.now(UTC) - timedelta(days=3000)
    return _other_certificate(bench, lambda keys: _reissue(keys, bench.world.host, long_ago), "FR-C86")


def _reissue(keys: Path, host: str, when: datetime) -> None:
    renew_server(keys, host, when)


@fault("other-ca", "another CA's certificate at the coordinator's address, in mid-training; `renew`")
def other_ca(bench: Bench) -> Made:
    def swap(keys: Path) -> None:
        other = bench.world.folder / f"other-ca-{time.time_ns()}"
        other.mkdir()
        make_authority(other, "somebody else", bench.world.host, ())
        for name in ("server.pem", "server.key"):
            shutil.copyfile(other / name, keys / name)

    return _other_certificate(bench, swap, "FR-C85")


REPLAY = '''
"""A site that cheats: it sends its first update again and again, with the signature that it had."""
import json
from pathlib import Path

import fedrounds_client.apart as apart

real, kept = apart.answer_apart, Path({kept!r})


def replayed(header, buffer, signature, home):
    said = real(header, buffer, signature, home)
    if json.loads(header)["kind"] != "train":
        return said
    if kept.exists():
        first = kept.read_bytes().split(b"\\n", 2)
        return first[0].decode(), first[2], bytes.fromhex(first[1].decode())
    kept.write_bytes(said[0].encode() + b"\\n" + said[2].hex().encode() + b"\\n" + said[1])
    return said


apart.answer_apart = replayed
'''


@fault("replayed", "a site that sends its first, rightly signed update again in every round")
def replayed(bench: Bench) -> Made:
    settings = study("training.moments='fresh'")
    cheat = bench.world.folder / "cheat"
    cheat.mkdir()
    (cheat / "sitecustomize.py").write_text(REPLAY.format(kept=str(cheat / "kept")))
    bench.world.kill("s2")
    bench.world.extra["s2"] = {"PYTHONPATH": str(cheat)}
    bench.rejoin("s2")
    run = bench.submit(settings)
    bench.ended(run)
    bench.world.extra.clear()
    bench.world.kill("s2")
    bench.rejoin("s2")
    states = bench.states(run, "s2")
    must(states[0] == "ok" and all(state.startswith("error:") for state in states[1:]), str(states))
    return run, settings, f"s2 was {', '.join(states)}"


def alone(world: World) -> None:
    """Nothing is prepared, and no other row wants this world after a site is shut out of it for good."""


@fault("not-enrolled", "a site whose key nobody enrolled dials in past its launcher", ("s1", "s2", "s3"), alone)
def not_enrolled(bench: Bench) -> Made:
    settings, world = study(rounds=1), bench.world
    where = ("--folder", str(world.coordinator))
    world.call("co", "coordinator", "revoke", "s3", *where)
    run = bench.submit(settings)
    log = world.folder / "s3.log"
    wait_until(lambda: "FR-E43" in log.read_text(), "s3 is told", 120)
    bench.ended(run)
    must("FR-E43" in log.read_text() and not bench.states(run, "s3"), "s3 took part")
    return run, settings, "Flower lets it pull and push nothing; s3 says FR-E43; the run went on without it"
