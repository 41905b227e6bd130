"""A federation of real processes: a coordinator and hospitals, each on a network of its own where that is allowed.

    coordinator   10.77.0.1 on loopback, one cable to each hospital
    hospital i    10.77.i.2, a route to 10.77.0.1 and to nothing else: hospitals cannot see each other

Where namespaces are not permitted, `World(apart=False)` plays all of it on loopback: the same programs, one network.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COORDINATOR = "10.77.0.1"
FEDROUNDS = Path(sys.executable).with_name("fedrounds")
OWNER = "FEDROUNDS_WORLD_OWNER"  # in the environment of all that a World starts: whose it is
DISK = "fedrounds-test"  # and the owner's number: what a disk is called in the list of mounts


def may_be_apart() -> bool:
    """Whether this machine lets us make network namespaces with names."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    made = subprocess.run(["ip", "netns", "add", "fr-try"], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "del", "fr-try"], capture_output=True, check=False)
    return made


def free_port() -> int:
    with socket.socket() as any_socket:
        any_socket.bind(("127.0.0.1", 0))
        return int(any_socket.getsockname()[1])


def wait_until(true: Callable[[], Any], what: str, seconds: float) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.25)
    raise AssertionError(f"{what}: not within {seconds:g} s")


@dataclass(frozen=True)
class Process:
    """`words`: command line and environment."""

    pid: int
    command: bytes
    words: bytes


def processes() -> Iterator[Process]:
    """All but this one and those that end while they are looked at."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            yield Process(int(entry.name), command, command + (entry / "environ").read_bytes())
        except OSError:
            continue


def end_all(ours: Callable[[Process], bool]) -> None:
    """SIGKILL until none is left: what dies last may have started another meanwhile."""
    for _ in range(20):
        found = [process.pid for process in processes() if process.command and ours(process)]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.1)


def sweep() -> None:
    """Take away what Worlds have left whose owner is dead: it was killed before it could clean up."""
    end_all(_is_orphan)
    for line in Path("/proc/mounts").read_text().splitlines():
        disk, place = line.split()[:2]
        if (owner := re.fullmatch(rf"{DISK}-(\d+)", disk)) and not Path("/proc", owner[1]).exists():
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)
    nets = Path("/run/netns")
    for name in [entry.name for entry in nets.iterdir()] if nets.is_dir() else []:
        if (owner := re.fullmatch(r"fr(\d+)-.*", name)) and not Path("/proc", owner[1]).exists():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _is_orphan(process: Process) -> bool:
    owner = re.search(rb"\b%s=(\d+)\0" % OWNER.encode(), process.words)
    return owner is not None and not Path("/proc", owner[1].decode()).exists()


@dataclass
class World:
    """`commands`: every command a person would have typed, in order."""

    folder: Path
    sites: Sequence[str]
    apart: bool
    port: int = field(default_factory=free_port)
    superlink_port: int = field(default_factory=free_port)
    commands: list[str] = field(default_factory=list)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    disks: list[Path] = field(default_factory=list)
    extra: dict[str, dict[str, str]] = field(default_factory=dict)  # of the environment, by who

    @property
    def coordinator(self) -> Path:
        return self.folder / "coordinator"

    @property
    def host(self) -> str:
        return COORDINATOR if self.apart else "127.0.0.1"

    def home(self, site: str) -> Path:
        return self.folder / site

    def net(self, who: str) -> str:
        return f"fr{os.getpid()}-{who}"

    # ------------------------------------------------------------ cables

    def __enter__(self) -> World:
        sweep()
        if self.apart:
            self._lay("add", self.net("co"))
            self.ip("co", "link set lo up")
            self.ip("co", f"addr add {COORDINATOR}/32 dev lo")
            for number, site in enumerate(self.sites, 1):
                self._lay("add", self.net(site))
                self.ip("co", f"link add to{number} type veth peer name wan netns {self.net(site)}")
                self.ip("co", f"addr add 10.77.{number}.1/24 dev to{number}")
                self.ip("co", f"link set to{number} up")
                for words in ("link set lo up", f"addr add 10.77.{number}.2/24 dev wan", "link set wan up",
                              f"route add {COORDINATOR}/32 via 10.77.{number}.1"):  # fmt: skip
                    self.ip(site, words)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.processes):
            self.kill(name)
        # what the supervisors started has sessions of its own: what works in this folder is ours
        end_all(lambda process: str(self.folder).encode() in process.words)
        for place in self.disks:
            subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)
        if self.apart:
            for who in ("co", *self.sites):
                self._lay("del", self.net(who))

    def pids(self, *words: str) -> list[int]:
        """Our processes whose command line has all these words, oldest first."""
        wanted = [word.encode() for word in words]
        mine = [one for one in processes() if str(self.folder).encode() in one.words]
        return sorted(one.pid for one in mine if all(word in one.command for word in wanted))

    def disk(self, place: Path, megabytes: int) -> None:
        """A disk of its own for a folder that nobody works in yet."""
        place.mkdir(mode=0o700)
        words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", f"{DISK}-{os.getpid()}", str(place)]
        subprocess.run(words, check=True, capture_output=True)
        self.disks.append(place)

    def _lay(self, what: str, name: str) -> None:
        subprocess.run(["ip", "netns", what, name], check=what == "add", capture_output=True)

    def ip(self, who: str, words: str) -> None:
        subprocess.run(["ip", "-n", self.net(who), *words.split()], check=True, capture_output=True)

    def nft(self, who: str, rules: str) -> None:
        """nftables rules in one network; "flush ruleset" takes them away."""
        self.inside(who, ["nft", "-f", "-"], typed=rules)

    # ------------------------------------------------------------ commands

    def inside(self, who: str, words: Sequence[str], typed: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [*self._enter(who), *words]
        return subprocess.run(
            command, input=typed, capture_output=True, text=True, check=True, env=self.environment(who), timeout=300
        )

    def _enter(self, who: str) -> list[str]:
        return ["ip", "netns", "exec", self.net(who)] if self.apart else []

    def environment(self, who: str) -> dict[str, str]:
        names = ("PATH", "LANG", "LC_ALL", "VIRTUAL_ENV")
        # which kernels the linear algebra takes decides on last bits, so it is the same here as in the rehearsal
        kept = {name: text for name, text in os.environ.items() if name in names or "BLAS" in name or "MKL" in name}
        path = f"{FEDROUNDS.parent}{os.pathsep}{kept.get('PATH', '')}"
        return {**kept, "PATH": path, "HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1",
                "OMP_WAIT_POLICY": "PASSIVE", "FEDROUNDS_WORLD": str(self.folder),
                OWNER: str(os.getpid()), **self.extra.get(who, {})}  # fmt: skip

    def call(self, who: str, *words: str, expect: int | None = 0, seconds: float = 240) -> dict[str, Any]:
        """One command as a person types it; what it answers as JSON. `expect` None: any exit status."""
        self.commands.append(" ".join(["fedrounds", *words]))
        (self.folder / "home").mkdir(exist_ok=True)
        done = subprocess.run(
            [*self._enter(who), str(FEDROUNDS), *words, "--format", "json"], cwd=self.folder, text=True,
            capture_output=True, env=self.environment(who), timeout=seconds, check=False,
        )  # fmt: skip
        if expect is not None and done.returncode != expect:
            raise AssertionError(f"{words} ended {done.returncode}\n{done.stdout}\n{done.stderr}")
        try:
            return {**json.loads(done.stdout), "status": done.returncode, "said": done.stderr}
        except ValueError:
            return {"status": done.returncode, "said": done.stdout + done.stderr}

    def start(self, name: str, who: str, *words: str) -> None:
        """A command that goes on; what it says goes to a log of its own."""
        self.commands.append(" ".join(["fedrounds", *words]))
        (self.folder / "home").mkdir(exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self._enter(who), str(FEDROUNDS), *words], cwd=self.folder, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, env=self.environment(who), start_new_session=True,
            )  # fmt: skip

    def kill(self, name: str, how: int = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        process.wait(30)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    # ------------------------------------------------------------ the usual way from nothing to a running federation

    def open(self, data: Mapping[str, Sequence[str]]) -> None:
        """Coordinator up, every site enrolled. `data`: site → the words of `site join` that name its cases."""
        where = ("--folder", str(self.coordinator))
        self.call("co", "coordinator", "init", f"{self.host}:{self.port}", *where,
                  "--superlink-port", str(self.superlink_port), "--bind", f"{self.host}:{self.port}")  # fmt: skip
        self.call("co", "coordinator", "invite", *self.sites, *where, "--out", str(self.folder))
        self.call("co", "coordinator", "start", "--detach", *where)
        for site in self.sites:
            self.join(site, *data[site])
        prints = [self.fingerprint(site) for site in self.sites]
        told = [word for one in prints for word in ("--fingerprint", one)]
        self.call("co", "coordinator", "enrol", *self.sites, *where, *told, "--wait", "60")

    def join(self, site: str, *data: str) -> None:
        invitation = str(self.folder / f"{site}.invitation")
        self.start(site, site, "site", "join", invitation, "--site", str(self.home(site)), *data)

    def fingerprint(self, site: str) -> str:
        """As the site's data manager reads it out: from the site's own key, not from what the coordinator shows."""
        from fedrounds_common.signing import SigningKey

        file = self.home(site) / "keys" / "signing.key"
        wait_until(file.exists, f"{site} has its key", 60)
        return SigningKey.load(file).public.fingerprint

    def allow(self, site: str, seconds: float = 120) -> None:
        """Say yes at a site, as soon as the study has asked there."""
        home = str(self.home(site))
        wait_until(lambda: list((self.home(site) / "waiting").glob("*.json")), f"{site} was asked", seconds)
        self.call(site, "site", "allow", "--all", "--site", home)

    def submit(self, study: str, *words: str) -> Path:
        said = self.call("co", "coordinator", "submit", study, "--folder", str(self.coordinator), *words)
        return Path(said["data"]["path"])

    def status(self, run: Path) -> dict[str, Any]:
        found = json.loads((run / "status.json").read_text())
        assert isinstance(found, dict)
        return found

    def ended(self, run: Path, seconds: float = 900) -> dict[str, Any]:
        going = ("submitted", "running")
        wait_until(lambda: self.status(run).get("state") not in going, f"{run.name} ends", seconds)
        return self.status(run)
