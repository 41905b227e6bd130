"""Rows of the fault table in which a process is killed: the coordinator's, a site's, or those of many sites."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

from faultworld import PATIENCE_S, Bench, Made, fault, must, study
from fedworld import wait_until

from fedrounds_server.folder import RunFolder, worker_pid

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
