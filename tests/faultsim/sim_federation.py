"""One seed: a coordinator and its sites, from the first hello to the last round, whatever is drawn against them."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

from sim_disk import Crash, Disks, FaultyDisk, Happens, Loss
from sim_hospital import (
    CASES,
    START,
    Hospital,
    SiteTime,
    ToyParts,
    ToyTask,
    copy_home,
    key_of,
    make_home,
    settings_of,
    toy_gather,
    toy_own,
    toy_train,
)
from sim_network import AtOnce, SimGrid, SuperLink
from sim_oracle import Oracle, Watched, WatchedSums
from sim_world import START_S, Violation, World

from fedrounds_client import boundary, enrolled, home, permit
from fedrounds_client import rounds as site_rounds
from fedrounds_client.settings import Policy
from fedrounds_common.arrays import digest
from fedrounds_common.codec import Codec
from fedrounds_common.disk import through
from fedrounds_common.errors import NetworkError, RunFileError, TooFewSites
from fedrounds_common.leaving import Ask
from fedrounds_common.shelves import STRATEGIES
from fedrounds_common.signing import PublicKey
from fedrounds_common.strategy import Strategy
from fedrounds_common.study.canonical import canonical_text
from fedrounds_common.study.canonical import digest as digest_of_study
from fedrounds_common.study.parse import read_study
from fedrounds_common.study.study import Study
from fedrounds_common.tasks.segmentation import Segmentation
from fedrounds_server import greeting, pulling
from fedrounds_server.app import Afterwards, carry_out
from fedrounds_server.clock import Clock
from fedrounds_server.coordinator.register import Enrolled
from fedrounds_server.folder import RunFolder
from fedrounds_server.keys import Keys
from fedrounds_server.plan import Plan
from fedrounds_server.release import read_model

CUBES = Path(__file__).parents[1] / "data" / "cubes" / "cubes.toml"
_SHM = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
MEMORY = Path(os.environ.get("FAULTSIM_MEMORY", _SHM))
RUN = "0001-cubes"
SUMS_EVERY = 5  # in each fifth seed the task asks for sums too: the events of the others are what they were without
LONGEST_S = 6000.0  # after calm, within which every run must have come to its end
PATIENT = ("cohort.deadline_s=25", "cohort.wait_s=60")
# sites, rounds, strategy, and what else the study says
PLAIN: tuple[tuple[str, int, str, tuple[str, ...]], ...] = (
    ("ABC", 3, "fedavg", ("cohort.minimum=1",)),
    ("ABC", 3, "fedavg", ("cohort.minimum=2", 'cohort.late="next"')),
    ("ABCDE", 3, "fedavg", ("cohort.minimum=2", "cohort.per_round=3", "cohort.over_select=0.5")),
    ("ABCD", 3, "fedavg", ("cohort.minimum=1", "cohort.minimum_cases_share=0.6")),
    ("ABCD", 4, "fedavgm", ("cohort.minimum=1", 'cohort.late="next"', "cohort.late_factor=0.25")),
    ("ABCD", 3, "fedavg", ("cohort.minimum=3",)),
)
# the same again with updates and consensus packed, in each fourth seed: the events of the others are what they were
PACKED_EVERY = 4
WIRES = (("int8", "int8"), ("top_k", "top_k"), ("float16", "float16"))
PACKED = tuple(
    (sites, rounds, strategy, (*more, f'wire.name="{up}"', f'wire.down="{down}"'))
    for (sites, rounds, strategy, more), (up, down) in zip(PLAIN, (*WIRES, *WIRES[::-1]), strict=True)
)
STUDIES = (*PLAIN, *PACKED)
HELD = "held copy damaged"  # of the consensus that differences are from; only where there is one


@final
@dataclass(frozen=True)
class Result:
    seed: int
    violation: str
    digest: str
    drawn: dict[str, int]
    trace: list[str]
    steps: int = 0
    starts: int = 0
    seconds: float = 0.0  # of this process's work


@final
@dataclass(frozen=True)
class Prepared:
    study: Study
    text: str
    strategy: Strategy
    up: Codec
    down: Codec


@cache
def prepared(number: int) -> Prepared:
    sites, rounds, strategy, more = STUDIES[number]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cubes.toml"
        text = CUBES.read_text("utf-8").format(rounds=rounds, workers=0, strategy=f'name = "{strategy}"', reader="")
        file.write_text(text, "utf-8")
        listed = f"cohort.sites={list(sites)}".replace("'", '"')
        study = read_study(file, (*PATIENT, listed, *more), [CUBES.parent]).study
    loaded = STRATEGIES.load({"name": strategy})
    return Prepared(study, canonical_text(study), loaded, study.build_codec(), study.build_down())


@cache
def templates(number: int, permitted: int) -> Path:
    """The sites' folders as they are when the run begins; one set a process."""
    folder = Path(tempfile.mkdtemp(prefix=f"faultsim-{os.getpid()}-", dir=MEMORY))
    for name in STUDIES[number][0]:
        make_home(folder / name, name, prepared(number).text, permitted)
    return folder


def forget_templates() -> None:
    """Take what this process has in memory away."""
    templates.cache_clear()
    for folder in MEMORY.glob(f"faultsim-{os.getpid()}-*"):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def swapped(place: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


_holds = lru_cache(maxsize=10_000)(PublicKey.holds)
_version, _versions = cache(version), cache(greeting.own_versions)
_digest = cache(Policy.digest.fget)  # type: ignore[attr-defined]


@contextmanager
def simulated(world: World, disks: Disks) -> Iterator[None]:
    """Within, time, chance, disks and training are the scheduler's; all else is the program's own."""
    parts = {
        each.text: ToyParts(each.study, each.strategy, each.up, each.down)
        for each in map(prepared, range(len(STUDIES)))
    }
    with ExitStack() as stack:
        for place, name, value in (
            (pulling, "Aside", partial(AtOnce, world)),
            (secrets, "token_hex", lambda count: f"{world.nonces.getrandbits(8 * count):0{2 * count}x}"),
            (boundary, "datetime", SiteTime),
            (enrolled, "datetime", SiteTime),
            (enrolled, "open_own", toy_own),
            (enrolled, "parts_of_text", lambda text, plugins, device="cpu": parts[text]),
            (enrolled, "show_gpu", lambda settings: None),
            (home, "read_settings", lambda file: settings_of(file.parent.name)),
            (site_rounds, "train", toy_train),
            (site_rounds, "gather_sums", toy_gather),
            (permit, "purposes", lambda task: (*ToyTask.before, *ToyTask.after)),
            # pure, and asked thousands of times
            (site_rounds, "version", _version),
            (greeting, "own_versions", _versions),
            (PublicKey, "holds", _holds),
            (Policy, "digest", property(_digest)),
            (site_rounds, "time", SimpleNamespace(monotonic=lambda: 0.0)),
        ):
            stack.enter_context(swapped(place, name, value))
        stack.enter_context(through(disks))
        yield


@final
@dataclass
class Federation:
    """`at`: in place of chance, the number of a disk step of the coordinator's or of a site's, and what happens there."""

    world: World
    number: int
    folder: Path
    at: tuple[str, int, Happens, Loss] | None = None
    starts: int = 0
    _hospitals: list[Hospital] = field(default_factory=list)

    def __post_init__(self) -> None:
        ready = prepared(self.number)
        sites, rounds, _, _ = STUDIES[self.number]
        self.study = ready.study
        if self.number >= len(PLAIN) and self.world.rates:
            self.world.rates[HELD] = 0.5
        # a checkpoint that is damaged on purpose makes a round anew, of which the sites know nothing
        permitted = rounds * (4 if "checkpoint damaged" in self.world.rates else 1)
        template = templates(self.number, permitted)
        self.disk = FaultyDisk(self.folder / "coordinator", self._draw("coordinator"))
        self.run_folder = RunFolder(self.disk.root / "runs" / RUN)
        self.run_folder.path.mkdir(parents=True)
        for count, name in enumerate(sites):
            place = copy_home(template / name, self.folder / name)
            self._hospitals.append(Hospital(name, place, FaultyDisk(place.folder, self._draw(name)), 10 + count))
        sums = self.world.seed % SUMS_EVERY == SUMS_EVERY - 1
        self.oracle = Oracle(
            self.world, self.run_folder, self.study.cohort, self.study.seed, rounds, permitted, ready.strategy,
            ready.up, ready.down, sums,
        )  # fmt: skip
        self.link = SuperLink(
            self.world, self._hospitals, self.oracle.answered, self.oracle.asked, self._before, self._fallen
        )
        self.skew = {hospital.name: self.world.rng.choice([0.0, -3000.0, 4000.0]) for hospital in self._hospitals}
        register = {name: Enrolled(name, key_of(name).public, CASES[name], None, False) for name in sites}
        self.plan = Plan(
            ready.study, ready.text, digest_of_study(ready.study), self.run_folder,
            WatchedSums(self.oracle) if sums else Segmentation(),
            Watched(ready.strategy, self.oracle), ready.up, dict(START), down=ready.down, listen=self.oracle.listen,
            keys=Keys(key_of("coordinator"), lambda: register), clock=Clock(lambda: self.world.now, self._sleep),
        )  # fmt: skip

    @property
    def disks(self) -> Disks:
        return Disks((self.disk, *(hospital.disk for hospital in self._hospitals)))

    # ------------------------------------------------------------ what goes wrong

    def _draw(self, machine: str) -> Callable[[str, Path], Happens]:
        world, who = self.world, "coordinator" if machine == "coordinator" else "site"

        def draw(step: str, file: Path) -> Happens:
            if self.at is not None:
                name, number, happens, _ = self.at
                disk = self.disk if machine == "coordinator" else self._at(machine).disk
                if (name, number) == (machine, disk.steps):
                    world.say(f"FAULT crash {happens} {step} {file.name}")
                    return happens
                return ""
            about = f"{machine}: {step} {file.name}"
            if world.draws(f"{who} crash at a write", about):
                return world.rng.choice(["before", "after", "torn"])
            if world.draws(f"{who} disk full", about):
                return "broken" if step.startswith("fsync") else "full"
            return ""

        return draw

    def _at(self, name: str) -> Hospital:
        return next(hospital for hospital in self._hospitals if hospital.name == name)

    def _loss(self) -> Loss:
        return self.at[3] if self.at else self.world.rng.choice(["killed", "power", "power", "least"])

    def _sleep(self, seconds: float) -> None:
        self.world.sleep(seconds)
        if self.world.draws("coordinator killed while it waits"):
            self.disk.down = True
            raise Crash

    def _before(self, hospital: Hospital, ask: Ask | None) -> None:
        SiteTime.seconds = self.world.now - START_S + self.skew[hospital.name]
        self.oracle.before(hospital, ask)

    def _fallen(self, hospital: Hospital) -> None:
        loss = self._loss()
        hospital.disk.restart(loss, self.world.rng)
        self.world.say(f"{hospital.name} has crashed ({loss})")
        held = sorted((hospital.home.runs / RUN / "held").glob("*.safetensors"))
        if held and self.world.draws(HELD, f"of {hospital.name}"):
            self._damage(held[-1])
        self.oracle.fallen(hospital)

    def _restart(self) -> None:
        loss = self._loss()
        self.disk.restart(loss, self.world.rng)
        self.world.say(f"the coordinator has crashed ({loss})")
        kept = sorted(self.run_folder.rounds.glob("*/updates/*.answer"))
        points = sorted(self.run_folder.checkpoints.glob("round-*.safetensors"))
        for kind, files in (("kept answer damaged", kept), ("checkpoint damaged", points)):
            if files and self.world.draws(kind, files[-1].name):
                self.oracle.hurt(files[-1])
                self._damage(files[-1])

    def _damage(self, file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[self.world.rng.randrange(len(data))] ^= 16
        file.write_bytes(bytes(data))

    # ------------------------------------------------------------ from the first hello to the last round

    def carry_out(self) -> str:
        """Start the coordinator, again after each crash, until the run has ended; the digest of its consensus."""
        world, anew = self.world, False
        while world.now < world.calm_at + LONGEST_S:
            self.starts += 1
            world.say(f"start {self.starts}")
            plan = replace(self.plan, resume=self.starts > 1, anew=anew)
            try:
                outcome = carry_out(SimGrid(self.link), plan, lambda grid, plan, outcome: Afterwards())
            except Crash:
                self._restart()
            except (TooFewSites, NetworkError, OSError) as error:
                world.say(f"the run stopped: {error}")
            except RunFileError as error:
                if error.code != "FR-R57" or not self.oracle.damaged:
                    world.violated(f"the run cannot go on: {error}")
                anew = True
            except Exception:  # noqa: BLE001  (whatever it is, it must not come out of a run)
                world.violated(f"the run ended by a bug: {traceback.format_exc()}")
            else:
                self.oracle.ended(read_model(self.run_folder.consensus, START))
                return digest(outcome.consensus.arrays)
            world.sleep(world.rng.uniform(1.0, 20.0))
        world.violated("the run never came to its end, long after the last fault")
        raise AssertionError


def play(
    seed: int, number: int | None = None, at: tuple[str, int, Happens, Loss] | None = None, faults: bool = True,
) -> Result:  # fmt: skip
    """Carry one seed out. Nothing but the seed decides what happens."""
    began, world = time.process_time(), World(seed, faults)
    if number is None:
        number = world.rng.randrange(len(PLAIN)) + (len(PLAIN) if seed % PACKED_EVERY == PACKED_EVERY - 1 else 0)
    folder = Path(tempfile.mkdtemp(prefix=f"faultsim-{os.getpid()}-", dir=MEMORY))
    violation, found = "", ""
    umask = os.umask(0o077)
    federation = Federation(world, number, folder, at)
    try:
        with simulated(world, federation.disks):
            found = federation.carry_out()
    except Violation as error:
        violation = str(error)
    except Crash:
        violation = "a crash came out where nothing had crashed"
    finally:
        os.umask(umask)
        shutil.rmtree(folder, ignore_errors=True)
    took = time.process_time() - began
    return Result(
        seed, violation, found, dict(world.drawn), world.trace, federation.disk.steps, federation.starts, took
    )
