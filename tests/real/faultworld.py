"""What the rows of the fault table share: a small study, a federation that is up, and the consensus there should be."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fedworld import World, wait_until
from flwr.app import Error, Message

import fedrounds
import fedrounds.playing
from fedrounds_common.leaving import Ask, from_wire
from fedrounds_common.wire import parts_of
from fedrounds_server.engines.inline import InlineGrid
from fedrounds_server.folder import RunFolder

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


# ---------------------------------------------------------------- a row of the table


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
