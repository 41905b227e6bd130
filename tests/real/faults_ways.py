"""Rows of the fault table in which what lies between processes fails: the network, a disk, the time."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from faultworld import PATIENCE_S, Bench, Made, NotHere, fault, study
from fedworld import World, wait_until

from fedrounds_server.folder import RunFolder, worker_pid

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
    return run, settings, f"the run {said.get('state')}: {said.get('message', said)}"


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
