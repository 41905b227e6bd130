"""`make faults`: every fault made for real against real processes, and a table of what became of the study.

    python tests/real/faults.py [NAME …] [--json FILE] [--markdown FILE]

Each row runs a small study between a coordinator and hospitals on networks of their own, breaks something in the
middle of it, and compares the consensus with the one of a rehearsal without any fault, or with a rehearsal of the
sites that answered in each round, as the run's own history names them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fedworld import World, may_be_apart, wait_until
from flwr.app import Error, Message

import fedrounds
import fedrounds.playing
from fedrounds_common.leaving import Ask, from_wire
from fedrounds_common.wire import parts_of
from fedrounds_server.coordinator.pki import make_authority, renew_server
from fedrounds_server.engines.inline import InlineGrid
from fedrounds_server.folder import RunFolder, worker_pid

STUDY = Path(__file__).resolve().parents[2] / "studies" / "three-hospitals.toml"
PATIENCE_S = 420.0
SAME, ANSWERED = "equal to the fault-free one", "equal to that of the sites that answered"


class NotHere(Exception):
    """This machine cannot make the fault; why."""


@dataclass(frozen=True)
class Row:
    """`lost`: rounds of the study without a consensus. `right`: whether all is as it must be."""

    name: str
    fault: str
    happened: str
    rounds: int
    lost: int
    digest: str
    seconds: float
    right: bool


# ---------------------------------------------------------------- the consensus there should be


class Missing:
    """An InlineGrid whose sites do not answer in some rounds ("absent"), or one round late ("late")."""

    waits = True

    def __init__(self, grid: InlineGrid, missing: Mapping[tuple[str, int], str]) -> None:
        self.grid, self.missing, self.names, self.run_config = grid, missing, grid.names, grid.run_config
        self.round = 0
        self.late: dict[str, int] = {}  # message → its round
        self.held: list[Message] = []
        self.ready: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return self.grid.get_node_ids()

    def abandon(self, numbers: Iterable[str]) -> None:
        self.grid.abandon([number for number in numbers if number.isdigit()])

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [number for message in messages for number in self._push(message)]

    def _push(self, message: Message) -> Iterable[str]:
        ask = from_wire(*parts_of(message.content))
        assert isinstance(ask, Ask)
        if ask.kind == "train" and ask.round > self.round:
            self.round = ask.round
            self.ready, self.held = self.ready + self.held, []
        site = self.names[message.metadata.dst_node_id]
        state = self.missing.get((site, ask.round)) if ask.kind == "train" else None
        if state == "absent":
            number = f"absent-{site}-{ask.round}"
            message.metadata.__dict__["_message_id"] = number
            self.ready.append(Message(Error(1, "FR-R03"), reply_to=message))
            return [number]
        numbers = list(self.grid.push_messages([message]))
        if state == "late":
            self.late |= dict.fromkeys(numbers, ask.round)
        return numbers

    def pull_messages(self, numbers: Iterable[str]) -> Iterable[Message]:
        found, self.ready = self.ready, []
        for reply in [] if found else self.grid.pull_messages(numbers):
            is_early = self.late.get(reply.metadata.reply_to_message_id) == self.round
            (self.held if is_early else found).append(reply)
        return found


@cache
def _expected(settings: tuple[str, ...], missing: tuple[tuple[str, int, str], ...]) -> str:
    states = {(site, round_): state for site, round_, state in missing}
    with (
        tempfile.TemporaryDirectory() as runs,
        patch.object(fedrounds.playing, "InlineGrid", lambda *words: Missing(InlineGrid(*words), states)),
    ):
        words = [*settings, "simulation.report=false"]
        return str(fedrounds.simulate(STUDY, overrides=words, runs=Path(runs)).status["consensus"])


# ---------------------------------------------------------------- one world, one study


def study(*more: str, sites: Sequence[str] = ("s1", "s2"), rounds: int = 2) -> tuple[str, ...]:
    """Settings over the file: small enough that a round is mostly the start of processes."""
    names = ",".join(f'"{site}"' for site in sites)
    return (
        f"cohort.sites=[{names}]", "cohort.minimum=1", f"training.rounds={rounds}", "training.local_steps=4",
        "evaluation.local_validation=0", *more,
    )  # fmt: skip


def phantom(site: str) -> tuple[str, ...]:
    return (
        "--reader", "phantom_glioma", "--set", "data.profile=eight", "--set", "data.scale=0.3",
        "--set", "data.spacing_mm=5.0", "--set", f"data.only={site}",
        "--set", "policy.minimum_cases=1", "--set", "policy.rounds=500", "--cases", "20",
    )  # fmt: skip


@dataclass
class Bench:
    """A world that is up, and the runs that are done in it one after the other."""

    world: World
    told: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.told.append(line)

    # ------------------------------------------------------------ a run

    def submit(self, settings: tuple[str, ...], *sites: str) -> Path:
        words = [word for setting in settings for word in ("-s", setting)]
        run = self.world.submit(str(STUDY), *words)
        digest = json.loads((run / "status.json").read_text())["study"]
        for site in sites or ("s1", "s2"):
            self.allow(site, digest)
        return run

    def allow(self, site: str, digest: str) -> None:
        home = self.world.home(site)
        if (home / "permits" / f"{digest}.json").exists():
            return
        wait_until((home / "waiting" / f"{digest}.json").exists, f"{site} was asked", PATIENCE_S)
        self.world.call(site, "site", "allow", digest, "--rounds", "500", "--site", str(home))

    def resume(self, run: Path) -> None:
        self.world.call("co", "coordinator", "resume", run.name, "--folder", str(self.world.coordinator))

    def ended(self, run: Path) -> dict[str, Any]:
        return self.world.ended(run, PATIENCE_S)

    def history(self, run: Path) -> list[dict[str, Any]]:
        file = run / "history.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def states(self, run: Path, site: str) -> list[str]:
        return [one["state"] for entry in self.history(run) for one in entry["sites"] if one["site"] == site]

    # ------------------------------------------------------------ moments

    def in_round(self, run: Path, number: int) -> None:
        mark = RunFolder(run).round(number) / "round.json"
        wait_until(mark.exists, f"round {number} begins", PATIENCE_S)

    def training(self, run: Path, site: str, number: int) -> int:
        """The process that trains at a site, in mid-round: it has loaded torch."""
        self.in_round(run, number)

        def busy() -> int:
            for pid in self.children(site):
                with contextlib.suppress(OSError):
                    if "libtorch_cpu" in Path(f"/proc/{pid}/maps").read_text():
                        return pid
            return 0

        return int(wait_until(busy, f"{site} trains", PATIENCE_S))

    def children(self, site: str) -> list[int]:
        return self.world.pids("fedrounds_client.apart", f"{self.world.home(site)} ")

    def answered(self, run: Path, site: str, number: int) -> None:
        file = RunFolder(run).updates(number) / f"{site}.answer"
        wait_until(file.exists, f"{site} has answered", PATIENCE_S)

    @contextlib.contextmanager
    def held(self, run: Path, site: str, number: int) -> Iterator[None]:
        """Within, this site is in the middle of its training and the other has answered: the middle of a round."""
        with self.stopped(self.training(run, site, number)):
            self.answered(run, "s1", number)
            yield

    @contextlib.contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """Within, this process stands still."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def rejoin(self, site: str) -> None:
        self.world.start(site, site, "site", "join", "--site", str(self.world.home(site)))

    # ------------------------------------------------------------ the verdict

    def compare(self, run: Path, settings: tuple[str, ...], status: Mapping[str, Any]) -> tuple[int, int, str]:
        """Rounds, rounds lost, and what the digest is equal to."""
        history = self.history(run)
        asked = int(next(word for word in settings if word.startswith("training.rounds")).partition("=")[2])
        waits = "cohort.late='next'" in settings
        missing = tuple(
            (one["site"], entry["round"], "late" if waits and one["state"] == "late" and not one["part"] else "absent")
            for entry in history
            for one in entry["sites"]
            if one["state"] != "ok"
        )
        found = status.get("consensus")
        if found is None:
            return asked, asked - len(history), f"none: {status.get('state')} {status.get('code', '')}"
        word = ANSWERED if missing else SAME
        if found != _expected(settings, missing):
            word = f"NOT {word}"
        return asked, asked - len(history), word


Made = tuple[Path, tuple[str, ...], str]
Fault = Callable[[Bench], Made]
FAULTS: dict[str, tuple[str, Fault, tuple[str, ...], Callable[[World], None]]] = {}


def nothing(world: World) -> None:
    """Nothing is prepared before the coordinator is made."""


def fault(
    name: str, says: str, sites: tuple[str, ...] = ("s1", "s2"), before: Callable[[World], None] = nothing
) -> Callable[[Fault], Fault]:
    def keep(function: Fault) -> Fault:
        FAULTS[name] = says, function, sites, before
        return function

    return keep


def must(true: bool, what: str) -> None:
    if not true:
        raise AssertionError(what)


# ---------------------------------------------------------------- the coordinator dies


def _updates_sent(bench: Bench, run: Path, site: str) -> int:
    lines = [json.loads(line) for line in (bench.world.home(site) / "outbox.jsonl").read_text().splitlines()]
    return sum(line["kind"] == "update" and line["says"].get("run") == run.name for line in lines)


def _killed(bench: Bench, kill: Callable[[Path], None], again: Callable[[Path], None]) -> Made:
    settings = study()
    run = bench.submit(settings)
    with bench.held(run, "s2", 2):
        kill(run)
        again(run)
    status = bench.ended(run)
    must(status["state"] == "done", str(status))
    asked_again = _updates_sent(bench, run, "s1") - 2
    return run, settings, f"round 2 went on with what s1 had sent; s1 was asked again {asked_again} times"


@fault("serverapp", "kill -9 of the ServerApp in mid-round, then `resume`")
def serverapp(bench: Bench) -> Made:
    def kill(run: Path) -> None:
        os.kill(worker_pid(RunFolder(run)) or 0, signal.SIGKILL)
        wait_until(lambda: worker_pid(RunFolder(run)) is None, "the ServerApp is gone", 30)

    return _killed(bench, kill, bench.resume)


@fault("superlink", "kill -9 of the SuperLink in mid-round; its supervisor starts it again; then `resume`")
def superlink(bench: Bench) -> Made:
    def kill(run: Path) -> None:
        os.kill(bench.world.pids("flower-superlink")[0], signal.SIGKILL)
        log = bench.world.coordinator / "logs" / "supervisor.log"
        wait_until(lambda: f"{run.name} was cut off" in log.read_text(), "the supervisor says so", 90)

    return _killed(bench, kill, bench.resume)


@fault("supervisor", "kill -9 of the supervisor in mid-round")
def supervisor(bench: Bench) -> Made:
    where = ("--folder", str(bench.world.coordinator))

    def kill(run: Path) -> None:
        os.kill(bench.world.pids("fedrounds_server.coordinator.supervisor")[0], signal.SIGKILL)

    made = _killed(bench, kill, lambda run: None)
    bench.world.call("co", "coordinator", "start", "--detach", *where)
    must(bench.world.call("co", "coordinator", "status", *where)["data"]["up"], "the coordinator is up again")
    return *made[:2], "SuperLink and front went on and so did the run; `start` took them over afterwards"


@fault("power-cut", "kill -9 of supervisor, SuperLink, front and ServerApp at once; `start`, `resume`")
def power_cut(bench: Bench) -> Made:
    def kill(run: Path) -> None:
        words = ("coordinator.supervisor", "flower-superlink", "flower-superexec", "fedrounds_server.front")
        for word in words:
            for pid in bench.world.pids(word, str(bench.world.coordinator)):
                os.kill(pid, signal.SIGKILL)
        os.kill(worker_pid(RunFolder(run)) or 0, signal.SIGKILL)

    def again(run: Path) -> None:
        bench.world.call("co", "coordinator", "start", "--detach", "--folder", str(bench.world.coordinator))
        bench.resume(run)

    return _killed(bench, kill, again)


@fault("helper", "kill -9 of Flower's own helper (flower-superexec), which starts ServerApps; a study submitted then")
def helper(bench: Bench) -> Made:
    settings = study(rounds=1)
    os.kill(bench.world.pids("flower-superexec", str(bench.world.coordinator))[0], signal.SIGKILL)
    run = bench.submit(settings)
    bench.ended(run)
    return run, settings, "the supervisor started the SuperLink again; the submitted study began then"


# ---------------------------------------------------------------- a site dies


@fault("site-training", "kill -9 of a site's training process in mid-training")
def site_training(bench: Bench) -> Made:
    settings = study("training.moments='fresh'")
    run = bench.submit(settings)
    os.kill(bench.training(run, "s2", 1), signal.SIGKILL)
    bench.ended(run)
    states = bench.states(run, "s2")
    must(states == ["error:FR-E42", "ok"], str(states))
    return run, settings, "s2 excluded in round 1 as error:FR-E42, back in round 2"


@fault("site-node", "kill -9 of a site's SuperNode in mid-training")
def site_node(bench: Bench) -> Made:
    settings = study()
    run = bench.submit(settings)
    bench.training(run, "s2", 1)
    os.kill(bench.world.pids("fedrounds_client.join.node", str(bench.world.home("s2")))[0], signal.SIGKILL)
    bench.ended(run)
    states = bench.states(run, "s2")
    return run, settings, f"the launcher started it again by itself; s2 was {', '.join(states)}"


@fault("site-helper", "kill -9 of Flower's own helper at a site (flower-superexec), which starts what answers")
def site_helper(bench: Bench) -> Made:
    settings, home = study(rounds=1), bench.world.home("s2")
    node = bench.world.pids("fedrounds_client.join.node", str(home))[0]
    for pid in bench.world.pids("flower-superexec", f"--parent-pid {node} "):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: node not in bench.world.pids("fedrounds_client.join.node"), "the SuperNode ends too", 60)
    run = bench.submit(settings)
    bench.ended(run)
    return run, settings, f"the launcher started the SuperNode again; s2 was {', '.join(bench.states(run, 's2'))}"


@fault("site-launcher", "kill -9 of a site's launcher in mid-training; `site join` again")
def site_launcher(bench: Bench) -> Made:
    settings = study()
    run = bench.submit(settings)
    bench.training(run, "s2", 1)
    bench.world.kill("s2")
    wait_until(lambda: not bench.children("s2"), "what it had started ended with it", 60)
    bench.rejoin("s2")
    bench.ended(run)
    return run, settings, f"all that it had started ended with it; s2 was {', '.join(bench.states(run, 's2'))}"


# ---------------------------------------------------------------- the network


CUT = "table inet cut { chain i { type filter hook input priority 0; iifname wan drop; }; \
chain o { type filter hook output priority 0; oifname wan drop; }; }"
LOSS = "table inet cut { chain i { type filter hook input priority 0; iifname wan numgen random mod 100 < 20 drop; }; \
chain o { type filter hook output priority 0; oifname wan numgen random mod 100 < 20 drop; }; }"


def _needs(bench: Bench, program: str) -> None:
    if not bench.world.apart:
        raise NotHere("network namespaces are not permitted here")
    if shutil.which(program) is None:
        raise NotHere(f"{program} is not installed here")


@contextlib.contextmanager
def rules(bench: Bench, site: str, text: str) -> Iterator[None]:
    _needs(bench, "nft")
    bench.world.nft(site, text)
    try:
        yield
    finally:
        bench.world.nft(site, "flush ruleset")


@fault("cut", "network of a site cut for 60 s in mid-round (nftables)")
def cut(bench: Bench, seconds: float = 60.0) -> Made:
    _needs(bench, "nft")
    settings = study()
    run = bench.submit(settings)
    bench.training(run, "s2", 1)
    with rules(bench, "s2", CUT):
        time.sleep(seconds)
    bench.ended(run)
    return run, settings, f"it connected again by itself; s2 was {', '.join(bench.states(run, 's2'))}"


@fault("loss", "20 % of a site's packets lost, in and out, for the whole run (nftables)")
def loss(bench: Bench) -> Made:
    settings = study()
    with rules(bench, "s2", LOSS):
        run = bench.submit(settings)
        bench.ended(run)
    return run, settings, f"slower; s2 was {', '.join(bench.states(run, 's2'))}"


@fault("thin-line", "a site's line of 256 kbit/s both ways (tc tbf)")
def thin_line(bench: Bench) -> Made:
    _needs(bench, "tc")
    settings = study()
    ends = (("s2", "wan"), ("co", "to2"))
    words = ["root", "tbf", "rate", "256kbit", "burst", "16kb", "latency", "400ms"]
    for who, device in ends:
        bench.world.inside(who, ["tc", "qdisc", "add", "dev", device, *words])
    try:
        run = bench.submit(settings)
        bench.ended(run)
    finally:
        for who, device in ends:
            bench.world.inside(who, ["tc", "qdisc", "del", "dev", device, "root"])
    moved = [one for entry in bench.history(run) for one in entry["sites"] if one["site"] == "s2"]
    size = sum(one["bytes_up"] + one["bytes_down"] for one in moved) / len(moved) / 1000
    return run, settings, f"{size:.0f} kB a round over it; s2 was {', '.join(bench.states(run, 's2'))}"


# ---------------------------------------------------------------- disks


@contextlib.contextmanager
def full(place: Path, left: int = 1 << 16) -> Iterator[None]:
    """Within, this disk has room for a few words and for no model."""
    ballast = place / "ballast"
    with ballast.open("wb") as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(1 << 16))
            stream.flush()
    os.truncate(ballast, max(ballast.stat().st_size - left, 0))
    try:
        yield
    finally:
        ballast.unlink()


def _own_disk(who: str) -> Callable[[World], None]:
    def before(world: World) -> None:
        if os.geteuid() != 0:
            raise NotHere("only root may mount a disk here")
        world.disk(world.coordinator if who == "co" else world.home(who), 48)

    return before


@fault("disk-coordinator", "disk full at the coordinator in mid-round; room made; `resume`", before=_own_disk("co"))
def disk_coordinator(bench: Bench) -> Made:
    settings = study()
    run = bench.submit(settings)
    pid = bench.training(run, "s2", 2)
    os.kill(pid, signal.SIGSTOP)
    bench.answered(run, "s1", 2)
    with full(bench.world.coordinator):
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: worker_pid(RunFolder(run)) is None, "the run ends", PATIENCE_S)
        said = bench.world.status(run)
    bench.resume(run)
    bench.ended(run)
    return run, settings, f"the run ended: {said.get('state')} {said.get('code', '')} {said.get('message', '')}"


@fault("disk-site", "disk full at a site in mid-training; room made later", before=_own_disk("s2"))
def disk_site(bench: Bench) -> Made:
    settings = study("training.moments='fresh'")
    run = bench.submit(settings)
    bench.training(run, "s2", 1)
    with full(bench.world.home("s2")):
        wait_until(lambda: len(bench.history(run)) >= 1, "round 1 ends", PATIENCE_S)
    bench.ended(run)
    return run, settings, f"s2 was {', '.join(bench.states(run, 's2'))}"


# ---------------------------------------------------------------- late


def _late(bench: Bench, policy: str) -> Made:
    """Round 1's answer of s2 is made in time, and comes when its deadline is over: its network was cut."""
    settings = study(f"cohort.late='{policy}'", "cohort.deadline_s=90", "training.moments='fresh'")
    run = bench.submit(settings)
    bench.training(run, "s2", 1)
    with rules(bench, "s2", CUT):
        wait_until(lambda: len(bench.history(run)) >= 1, "round 1 ends", PATIENCE_S)
    if policy == "next":  # s2 is not asked in round 2, for it is away as that begins: its answer of round 1 stands in
        late = RunFolder(run).updates(2) / "s2.late"
        with bench.stopped(bench.training(run, "s1", 2)):
            wait_until(late.exists, "s2's late answer comes in round 2", PATIENCE_S)
    bench.ended(run)
    parts = [one for entry in bench.history(run) for one in entry["sites"] if one["site"] == "s2"]
    return run, settings, "s2 was " + ", ".join(f"{one['state']} {one['part']}".strip() for one in parts)


@fault("late-drop", "an answer past the round's deadline, late = drop")
def late_drop(bench: Bench) -> Made:
    return _late(bench, "drop")


@fault("late-next", "an answer past the round's deadline, late = next, and the site is away as the next round begins")
def late_next(bench: Bench) -> Made:
    return _late(bench, "next")


# ---------------------------------------------------------------- who is let in


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


# ---------------------------------------------------------------- many at once


@fault(
    "thirty-percent", "30 % of the sites die each round at random (SIGKILL in training), 10 rounds", ("s1", "s2", "s3")
)
def thirty_percent(bench: Bench) -> Made:
    sites = bench.world.sites
    settings = study("training.moments='fresh'", sites=sites, rounds=10)
    run = bench.submit(settings, *sites)
    draw = random.Random(1)
    killed = 0
    for number in range(1, 11):
        out = [site for site in sites if draw.random() < 0.3]
        for site in out if len(out) < len(sites) else out[1:]:
            os.kill(bench.training(run, site, number), signal.SIGKILL)
            killed += 1
        wait_until(lambda done=number: len(bench.history(run)) >= done, f"round {number} ends", PATIENCE_S)
    bench.ended(run)
    bad = sum(state != "ok" for site in sites for state in bench.states(run, site))
    must(bad == killed, f"{killed} killed, {bad} answers missing")
    return run, settings, f"{killed} of 30 answers lost, each named in its round"


@fault("not-enrolled", "a site whose key nobody enrolled dials in past its launcher", sites=("s1", "s2", "s3"))
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


# ---------------------------------------------------------------- the table


def play(name: str, bench: Bench) -> Row:
    """Make one fault in a world that is up. Whatever goes wrong is a row of the table too."""
    says, function, _, _ = FAULTS[name]
    started = time.monotonic()
    try:
        run, settings, happened = function(bench)
        status = bench.ended(run)
        rounds, lost, digest = bench.compare(run, settings, status)
        right = lost == 0 and digest in (SAME, ANSWERED)
    except NotHere as error:
        return Row(name, says, f"skipped: {error}", 0, 0, "", 0.0, True)
    except (AssertionError, subprocess.SubprocessError, OSError, KeyError, StopIteration) as error:
        rounds, lost, digest, right = 0, 0, "", False
        happened = f"FAILED: {type(error).__name__} {' '.join(str(error).split())[:300]}"
    return Row(name, says, happened, rounds, lost, digest, time.monotonic() - started, right)


@contextlib.contextmanager
def bench_for(name: str, folder: Path) -> Iterator[Bench]:
    _, _, sites, before = FAULTS[name]
    with World(folder, sites, may_be_apart()) as world:
        before(world)
        world.open({site: phantom(site) for site in sites})
        yield Bench(world)


def table(names: Sequence[str], say: Callable[[str], None], keep: Path | None = None) -> Iterator[Row]:
    """A world lasts while rows want the same one and come out right."""
    waiting = list(names)
    while waiting:
        kind = FAULTS[waiting[0]][2:]
        folder = Path(tempfile.mkdtemp(prefix="fr-faults-", dir=keep))
        try:
            with bench_for(waiting[0], folder) as bench:
                while waiting and FAULTS[waiting[0]][2:] == kind:
                    row = play(waiting.pop(0), bench)
                    say(
                        f"{'ok ' if row.right else 'BAD'} {row.name}: {row.happened}; {row.digest}; {row.seconds:.0f} s"
                    )
                    yield row
                    if not row.right or kind[1] is not nothing:
                        break
        except NotHere as error:
            name = waiting.pop(0)
            yield Row(name, FAULTS[name][0], f"skipped: {error}", 0, 0, "", 0.0, True)
        finally:
            if keep is None:
                shutil.rmtree(folder, ignore_errors=True)


def markdown(rows: Sequence[Row]) -> str:
    head = "| Fault | What happened | Rounds | Lost | Consensus | Seconds |\n|---|---|---|---|---|---|\n"
    return head + "".join(
        f"| {row.fault} | {row.happened.replace('|', '/')} | {row.rounds} | {row.lost} | {row.digest} | {row.seconds:.0f} |\n"
        for row in rows
    )


def main(arguments: list[str]) -> int:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FAULTS)}; all if none is given")
    words.add_argument("--json", type=Path)
    words.add_argument("--markdown", type=Path)
    words.add_argument("--keep", type=Path, help="leave every world's folder in here")
    given = words.parse_args(arguments)
    # ended from outside, it still takes its processes with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows: list[Row] = []
    for row in table(given.names or list(FAULTS), lambda line: print(line, flush=True), given.keep):
        rows.append(row)
        if given.json:
            given.json.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n")
    print(markdown(rows))
    if given.markdown:
        given.markdown.write_text(markdown(rows))
    return 0 if all(row.right for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
