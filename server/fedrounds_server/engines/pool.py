"""Pools: where the jobs of a simulation are done, in this process, in worker processes, or on Ray.

A job is a kind, some scalars and one buffer, and so is its result; nothing of ours is pickled. The
coordinator's side knows no more than that: what a job does is the handler's, which the front door
brings (`fedrounds.worker`).
"""

from __future__ import annotations

import json
import os
import queue
import struct
import subprocess
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Self, final

from fedrounds_common import spans
from fedrounds_common.errors import MachineError

Ticket = int


@final
@dataclass(frozen=True)
class Job:
    """`lane`: jobs of one lane (one site) prefer one worker, whose cases are open already."""

    kind: str
    scalars: Mapping[str, Any]
    buffer: bytes = b""
    lane: str = ""


@final
@dataclass(frozen=True)
class Done:
    """`error` is "" or the code of what went wrong; a worker that died says "FR-R02".

    `spent`: of a worker that is timed, seconds by kind since it last said so.
    """

    scalars: Mapping[str, Any]
    buffer: bytes = b""
    error: str = ""
    spent: Mapping[str, float] = field(default_factory=dict)


Handler = Callable[[Job], Done]


class Pool(ABC):
    """Hand in jobs, take out results as they come; close when finished."""

    @abstractmethod
    def submit(self, job: Job) -> Ticket: ...

    @abstractmethod
    def next_done(self, wait_s: float) -> tuple[Ticket, Done] | None:
        """One result, or None if none came within `wait_s`."""

    @abstractmethod
    def abandon(self, tickets: Sequence[Ticket]) -> None:
        """Give these up: a worker that is at one is killed and another takes its place."""

    @abstractmethod
    def close(self) -> None: ...

    @property
    def workers(self) -> int:
        """How many processes work beside this one."""
        return 0

    @property
    def spent(self) -> Mapping[str, float]:
        """What its workers said they had spent, seconds by kind, where they are timed."""
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@final
class InProcess(Pool):
    """Jobs are done when their result is asked for, in the order they came: a debugger works."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._waiting: deque[tuple[Ticket, Job]] = deque()
        self._count = 0

    def submit(self, job: Job) -> Ticket:
        self._count += 1
        self._waiting.append((self._count, job))
        return self._count

    def next_done(self, wait_s: float) -> tuple[Ticket, Done] | None:
        if not self._waiting:
            return None
        ticket, job = self._waiting.popleft()
        return ticket, self._handler(job)

    def abandon(self, tickets: Sequence[Ticket]) -> None:
        self._waiting = deque(entry for entry in self._waiting if entry[0] not in tickets)

    def close(self) -> None:
        self._waiting.clear()


class Hand(ABC):
    """One worker of a pool: does one job at a time, may die of it, and can be ended from another thread."""

    @abstractmethod
    def do(self, job: Job) -> Done:
        """The job's result; raises, whatever it is, when the worker has died."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, whatever it is at."""

    @abstractmethod
    def wait(self) -> None:
        """Until one that was killed is gone."""

    @property
    @abstractmethod
    def alive(self) -> bool: ...


@final
class Program(Hand):
    """A process of this machine that `serve`s jobs which come on its stdin, with results on its stdout."""

    def __init__(self, command: Sequence[str]) -> None:
        """Raises MachineError FR-E20: it cannot be started."""
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=dict(os.environ),
                process_group=0,  # Ctrl-C is for the coordinator, which then ends its workers
            )
        except OSError as error:
            raise MachineError("FR-E20", f"a worker cannot be started: {error}", do="use workers = 0") from error

    def do(self, job: Job) -> Done:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        send_frame(stdin, {"kind": job.kind, "scalars": dict(job.scalars), "lane": job.lane}, job.buffer)
        head, buffer = receive_frame(stdout)
        return Done(head["scalars"], buffer, head["error"], head.get("spent", {}))

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> None:
        self._process.wait()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None


def programs(command: Sequence[str]) -> Callable[[], Hand]:
    """Starts one such process at each call."""
    return lambda: Program(command)


@final
class Workers(Pool):
    """`count` workers, each started by `start`; `closed` is called when all have ended.

    A worker that dies costs its job; another takes its place, or where none can be started, the others do its work.
    """

    def __init__(self, start: Callable[[], Hand], count: int, closed: Callable[[], None] = lambda: None) -> None:
        self._start = start
        self._at_the_end = closed
        self._lanes: dict[str, int] = {}
        self._queues: list[deque[tuple[Ticket, Job]]] = [deque() for _ in range(count)]
        self._results: queue.Queue[tuple[Ticket, Done]] = queue.Queue()
        self._busy: dict[int, Ticket] = {}
        self._lock = threading.Condition()
        self._closed = False
        self._given_up: set[Ticket] = set()
        self._count = 0
        self._spent: dict[str, float] = {}
        self._hands = list[Hand]()
        for _ in range(count):
            self._hands.append(self._first())
        self._threads = [threading.Thread(target=self._serve, args=(n,), daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> Ticket:
        with self._lock:
            self._count += 1
            self._queues[self._home(job.lane)].append((self._count, job))
            self._lock.notify_all()
            return self._count

    @property
    def workers(self) -> int:
        return len(self._hands)

    @property
    def spent(self) -> Mapping[str, float]:
        return self._spent

    @spans.timed("idle")
    def next_done(self, wait_s: float) -> tuple[Ticket, Done] | None:
        """As `Pool.next_done`.

        Raises:
            MachineError: there is no worker any more, and none can be started.
        """
        try:
            ticket, done = self._results.get(timeout=wait_s)
        except queue.Empty:
            if not any(thread.is_alive() for thread in self._threads) and self._results.empty():
                raise MachineError(
                    "FR-E20", "every worker died and none can be started", do="see `fedrounds doctor`, or use fewer"
                ) from None
            return None
        for kind, seconds in done.spent.items():
            self._spent[kind] = self._spent.get(kind, 0.0) + seconds
        return None if ticket in self._given_up else (ticket, done)

    def abandon(self, tickets: Sequence[Ticket]) -> None:
        with self._lock:
            self._given_up |= set(tickets)
            for waiting in self._queues:
                kept = [entry for entry in waiting if entry[0] not in self._given_up]
                waiting.clear()
                waiting.extend(kept)
            for number, ticket in self._busy.items():
                if ticket in self._given_up:
                    _kill(self._hands[number])

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()
            for hand in self._hands:
                _kill(hand)
        for hand in self._hands:
            hand.wait()
        for thread in self._threads:
            thread.join(timeout=5)
        self._at_the_end()

    def _home(self, lane: str) -> int:
        # dealt round in the order lanes are first seen: sites come by name, so the homes are always the same
        if lane not in self._lanes:
            self._lanes[lane] = len(self._lanes) % len(self._queues)
        return self._lanes[lane]

    def _first(self) -> Hand:
        """A worker to begin with; where it cannot be started, those that were are ended."""
        try:
            return self._start()
        except MachineError:
            for hand in self._hands:
                _kill(hand)
                hand.wait()
            raise

    def _serve(self, number: int) -> None:
        """The thread of one worker: it hands the worker jobs for as long as there is a worker."""
        there = True
        while there and (entry := self._next(number)) is not None:
            ticket, job = entry
            done = self._work(number, job)
            there = self._mended(number, ticket)
            self._results.put((ticket, done))

    def _next(self, number: int) -> tuple[Ticket, Job] | None:
        """Waits for a job; None when the pool is closed."""
        with self._lock:
            while not self._closed:
                entry = self._take(number)
                if entry is not None:
                    self._busy[number] = entry[0]
                    return entry
                self._lock.wait()
        return None

    def _take(self, number: int) -> tuple[Ticket, Job] | None:
        """The worker's own queue first; then the last of the longest other one, so that none stands idle."""
        if self._queues[number]:
            return self._queues[number].popleft()
        longest = max(self._queues, key=len)
        return longest.pop() if longest else None

    def _work(self, number: int, job: Job) -> Done:
        hand = self._hands[number]
        try:
            return hand.do(job)
        except Exception:  # noqa: BLE001  (a thread that ends without a result leaves the run waiting for ever)
            _kill(hand)
            hand.wait()
            return Done({}, b"", "FR-R02")

    def _mended(self, number: int, ticket: Ticket) -> bool:
        """Put another worker in the place of one that died; False where there is none to go on with."""
        with self._lock:
            self._busy.pop(number, None)
            if self._closed:
                return False
            if ticket in self._given_up:
                # killed while its result was on the way: it may not have ended yet, and would take the next job along
                _kill(self._hands[number])
                self._hands[number].wait()
            if self._hands[number].alive:
                return True
            try:
                self._hands[number] = self._start()
            except Exception:  # noqa: BLE001  (as in `_work`: the result is still to be handed out)
                self._lock.notify_all()  # the other workers take over what waits for this one
                return False
            return True


def _kill(hand: Hand) -> None:
    """Whatever keeps it from being ended, the others go on: one that cannot be reached any more does no job."""
    with suppress(Exception):
        hand.kill()


def serve(stdin: IO[bytes], stdout: IO[bytes], handle: Handler) -> None:
    """A worker's side: does one job after another until stdin closes, and then ends the process, even in mid-job.

    Stdin closes when the coordinator ends, however it does. What it asked for is then wanted by nobody: a worker
    that trained on would slow the run that is resumed beside it.
    """
    jobs: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(stdin, jobs), daemon=True).start()
    while True:
        head, buffer = jobs.get()
        spans.job_begins()
        done = handle(Job(head["kind"], head["scalars"], buffer, head["lane"]))
        said = {"scalars": dict(done.scalars), "error": done.error}
        if spent := spans.job_ends():
            said["spent"] = spent
        send_frame(stdout, said, done.buffer)


def _listen(stdin: IO[bytes], jobs: queue.SimpleQueue[tuple[dict[str, Any], bytes]]) -> None:
    try:
        while True:
            jobs.put(receive_frame(stdin))
    finally:
        os._exit(0)  # sys.exit would end this thread alone


def send_frame(stream: IO[bytes], head: Mapping[str, Any], buffer: bytes) -> None:
    """Two lengths (8 bytes each, big-endian), a JSON head, a buffer."""
    text = json.dumps(head).encode()
    stream.write(struct.pack(">QQ", len(text), len(buffer)))
    stream.write(text)
    stream.write(buffer)
    stream.flush()


def receive_frame(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Raises EOFError when the other side has gone."""
    text_size, buffer_size = struct.unpack(">QQ", _exactly(stream, 16))
    return json.loads(_exactly(stream, text_size)), _exactly(stream, buffer_size)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError
    return data
