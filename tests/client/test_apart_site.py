"""A real site answered apart: whatever goes wrong in the process that trains, a signed answer with a code goes back."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fedrounds_client.apart import answer_apart
from fedrounds_client.jail import can_be_walled
from fedrounds_common.errors import StudyError
from fedrounds_common.leaving import Ask, Hello, Leaving, Refusal, Update, from_wire, signed_bytes, to_wire
from fedrounds_common.letter import Letter

pytestmark = pytest.mark.slow

READER = '''
"""Cubes whose next reading does what a file says."""
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from typing import final
from fedrounds_sites.reader import Reader
from fedrounds_sites.simulation import READERS

@final
@dataclass(frozen=True)
class Trouble(Reader):
    root: str = ""
    orders: str = ""

    @property
    def _cubes(self):
        return READERS.load({"name": "cubes"}, [Path(CUBES)])

    def cases(self, form):
        return self._cubes.cases(form)

    def load(self, ref, form):
        orders, _, rest = Path(self.orders).read_text().partition(" ")
        if orders == "hang":
            time.sleep(600)
        if orders == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if orders == "write":
            Path(self.root, "left-behind").touch()
        if orders == "block":
            Path(self.orders).write_text(rest)
            Path(self.orders).with_name("pid").write_text(str(os.getpid()))
            Path(self.orders).with_name("gate").read_bytes()
        if orders == "memory":
            Path(self.orders).write_text(rest)
            kept = [bytearray(10**9) for _ in range(5)]
        return self._cubes.load(ref, form)

    def stamp(self, ref, form):
        return str(time.monotonic_ns())
'''


@pytest.fixture
def trouble(enrolled: Callable[..., Any], tmp_path: Path) -> Callable[[str], Any]:
    """Site A with a reader that is told what to do; its data folder is `images`."""
    plugins, orders, images = tmp_path / "plugins", tmp_path / "orders", tmp_path / "images"
    (plugins / "readers").mkdir(parents=True)
    cubes = Path(__file__).parents[1] / "data" / "cubes"
    (plugins / "readers" / "trouble.py").write_text(READER.replace("CUBES", repr(str(cubes))))
    images.mkdir()
    orders.write_text("fine")
    site = enrolled(name="trouble", orders=str(orders), root=str(images))
    site.set(f'plugins=["{plugins}", "{cubes}"]')

    def order(words: str) -> Any:
        orders.write_text(words)
        return site

    return order


def packed(site: Any, ask: Ask) -> Letter:
    header, buffer = to_wire(ask)
    return answer_apart(header, buffer, site.coordinator.sign(signed_bytes(header, buffer)), site.home.folder)


def answered(site: Any, ask: Ask) -> Ask | Leaving:
    said = packed(site, ask)
    assert site.home.key.public.holds(signed_bytes(*said[:2]), said[2])
    return from_wire(*said[:2])


def purposes(site: Any) -> list[str]:
    return [json.loads(line)["purpose"] for line in site.home.outbox.read_text().splitlines()]


def refusal(site: Any, ask: Ask) -> str:
    said = answered(site, ask)
    assert isinstance(said, Refusal)
    assert not said.refused
    return said.code


def test_a_site_that_hangs_is_ended_at_the_study_s_deadline_and_answers_the_next_round(
    trouble: Callable[[str], Any], study_ask: Callable[..., Ask]
) -> None:
    site, brief = trouble("hang"), study_ask(overrides=("cohort.deadline_s=20",))
    site.allow(brief)
    started = time.monotonic()
    assert refusal(site, brief) == "FR-E40"
    assert 20 <= time.monotonic() - started < 60
    trouble("fine")
    # a study with time enough, however busy this machine is
    unhurried = study_ask(run="0002-cubes")
    site.allow(unhurried)
    assert isinstance(answered(site, unhurried), Update)


def test_a_crash_is_a_code_and_nothing_of_it_leaves(
    trouble: Callable[[str], Any], study_ask: Callable[..., Ask]
) -> None:
    site = trouble("crash")
    site.allow(study_ask())
    assert refusal(site, study_ask()) == "FR-E42"
    left = [json.loads(line) for line in site.home.outbox.read_text().splitlines()]
    assert [line["kind"] for line in left] == ["refusal"]


def test_memory_that_runs_out_once_is_tried_in_pieces_and_twice_is_refused(
    trouble: Callable[[str], Any], study_ask: Callable[..., Ask]
) -> None:
    site = trouble("memory fine")
    site.set("machine.memory_gb=4")
    site.allow(study_ask())
    assert isinstance(answered(site, study_ask("hello", 0)), Hello)
    assert len(site.journal("smaller batches")) == 1
    trouble("memory memory fine")
    assert refusal(site, study_ask()) == "FR-E41"
    assert len(site.journal("smaller batches")) == 2


@pytest.mark.skipif(bool(can_be_walled()), reason="this machine allows no walls")
def test_a_reader_that_writes_into_the_data_folder_cannot(
    trouble: Callable[[str], Any], study_ask: Callable[..., Ask], tmp_path: Path
) -> None:
    site = trouble("write")
    site.allow(study_ask())
    assert isinstance(answered(site, study_ask()), Refusal)
    assert list((tmp_path / "images").iterdir()) == []
    assert "Read-only file system" in "".join(file.read_text() for file in site.home.folder.rglob("log"))


def test_a_site_that_cannot_tell_its_own_name_raises_its_code_and_sends_nothing(
    trouble: Callable[[str], Any], study_ask: Callable[..., Ask]
) -> None:
    site = trouble("fine")
    site.set("machine.memory_gb=-1")
    with pytest.raises(StudyError) as raised:  # `app.py` lets its code out, and no text
        answered(site, study_ask())
    assert raised.value.code == "FR-S01"
    assert not site.home.outbox.exists()


# ---------------------------------------------------------------- asked again while it trains


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def gate(aside: ThreadPoolExecutor, tmp_path: Path) -> Iterator[Callable[[], int]]:
    """Waits until the site's reader stands at a pipe, and returns the handle that holds it there until it is closed."""
    pipe = tmp_path / "gate"
    os.mkfifo(pipe)
    yield lambda: int(patiently(lambda: os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "nobody reads"))
    os.close(os.open(pipe, os.O_RDWR))  # whoever still stands there goes on, and the threads end


def patiently(found: Callable[[], Any], otherwise: str) -> Any:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with suppress(OSError):
            if answer := found():
                return answer
        time.sleep(0.05)
    raise AssertionError(otherwise)


def one_waits(site: Any, run: str) -> None:
    """Return once a process waits for the lock that another of this run holds, by the system's own word."""
    file = site.home.locks / f".{run}.lock"

    def waits() -> bool:
        node = f":{file.stat().st_ino} "
        return any(" -> " in line and node in line for line in Path("/proc/locks").read_text().splitlines())

    patiently(waits, "nobody waits for the lock")


def test_asked_again_while_it_trains_a_site_trains_once_and_gives_the_same_bytes_twice(
    trouble: Callable[[str], Any], study_ask: Callable[..., Ask], gate: Callable[[], int], aside: ThreadPoolExecutor
) -> None:
    site, ask = trouble("block fine"), study_ask()
    site.allow(ask)
    first = aside.submit(packed, site, ask)
    held = gate()
    second = aside.submit(packed, site, ask)
    one_waits(site, ask.run)
    os.close(held)
    assert first.result(120) == second.result(120)  # `seconds` too
    assert isinstance(from_wire(*first.result()[:2]), Update)
    assert purposes(site) == ["round 1: train", "round 1: train again"]
    assert [line["event"] for line in site.journal()] == ["permitted", "trained", "sent again"]


def test_when_the_one_that_trains_is_killed_the_one_that_waits_trains(
    trouble: Callable[[str], Any],
    study_ask: Callable[..., Ask],
    gate: Callable[[], int],
    aside: ThreadPoolExecutor,
    tmp_path: Path,
) -> None:
    site, ask = trouble("block fine"), study_ask()
    site.allow(ask)
    first = aside.submit(answered, site, ask)
    held = gate()
    second = aside.submit(answered, site, ask)
    one_waits(site, ask.run)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    os.close(held)
    refused, trained = first.result(120), second.result(120)
    assert isinstance(refused, Refusal)
    assert refused.code == "FR-E42"
    assert isinstance(trained, Update)


def test_while_it_trains_a_site_says_hello_and_answers_another_run(
    trouble: Callable[[str], Any], study_ask: Callable[..., Ask], gate: Callable[[], int], aside: ThreadPoolExecutor
) -> None:
    site, ask = trouble("block fine"), study_ask()
    site.allow(ask)
    first = aside.submit(answered, site, ask)
    held = gate()
    assert isinstance(answered(site, study_ask("hello", 0)), Hello)
    assert isinstance(answered(site, study_ask(run="0002-cubes")), Update)
    assert not first.done()
    os.close(held)
    assert isinstance(first.result(120), Update)
