"""Time and size one site's work on this machine, in memory, so that a whole run can be estimated."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from fedrounds.simulation import Prepared
from fedrounds_client.outside import none_usable
from fedrounds_client.site import Parts
from fedrounds_client.training import Piece, Result, train
from fedrounds_common.arrays import Arrays, of_module, size_bytes
from fedrounds_common.case import Case, CaseRef, Cases
from fedrounds_common.downwards import pack_down, pack_half
from fedrounds_common.errors import CaseError, to_keep
from fedrounds_common.leaving import Ask, Update, to_wire
from fedrounds_common.privacy import NoisySteps
from fedrounds_common.rng import derive
from fedrounds_common.strategy import Trained
from fedrounds_sites.cache import stored_bytes
from fedrounds_sites.keeping import acquired
from fedrounds_sites.prepare import prepare
from fedrounds_sites.reader import Reader

if TYPE_CHECKING:
    from torch import nn

CASES = 4  # that are read: enough for a mean, few enough to wait for
STEPS = 3
_KIB = 1024  # Linux counts resident memory in these


@final
@dataclass(frozen=True)
class Down:
    """Bytes of a request with a model in it, as it travels: in round 1, to who was sent the last one too, to who missed
    that, and unpacked, as models travel to be judged."""

    first: int
    next: int
    missed: int
    unpacked: int


@final
@dataclass(frozen=True)
class Measured:
    """What one site's work takes here, one process, seconds and bytes.

    `step_s`: of a round, with its noise where the study has any, of so many `patients` as are drawn on average; 0: of
    none. `plain_step_s`: without noise, as baselines take it.
    `message_s`: a round's work besides its steps. `floor_s`: trying every untrained rule on one case.
    `case_bytes`: a prepared case, mean. `process_bytes`: the largest this process has been, its
    libraries included, and `base_bytes` what it was before anything was trained.
    """

    site: str
    cases: int
    parameters: int
    load_s: float
    step_s: float
    plain_step_s: float
    patients: int
    message_s: float
    predict_s: float
    start_s: float
    floor_s: float
    down: Down
    up_bytes: int
    model_bytes: int
    state_bytes: int
    case_bytes: int
    process_bytes: int
    base_bytes: int


def measure(prepared: Prepared, site: str, refs: Sequence[CaseRef], training: Sequence[CaseRef]) -> Measured:
    """Read up to four cases, take three warm steps, predict one case; nothing is written.

    Args:
        refs: the site's cases; `training`: those of them that it trains on.

    Raises:
        DataError: none of the cases can be used. RoundError: the loss is not finite.
        UsageError: FR-U95 noise cannot protect patients in this network.
    """
    parts, study = prepared.parts, prepared.study
    cases, load_s = _read(prepared, site, refs)
    base, started = _resident(), time.perf_counter()
    network = parts.module()
    build_s = time.perf_counter() - started
    start = of_module(network)

    def steps(count: int, cases: Cases, noisy: NoisySteps | None) -> Result:
        piece = Piece(count, 0, count, study.seed, ("measure", count))
        return train(network, parts.task, cases, study.cases, study.training, piece, start, noisy=noisy)

    plain = _stepped(lambda count: steps(count, cases, None)) if study.training.rounds else _Stepped(Result(start))
    drawn, stepped, noisy = tuple[Case, ...](), plain, parts.noisy
    if noisy is not None and study.training.rounds:
        drawn, noisy = _drawn(cases, training, noisy), replace(noisy, rate=1.0, patients=1)
        stepped = _stepped(lambda count: steps(count, drawn, noisy))
    result = stepped.result
    judged = _judged(parts, cases)
    down, up, kept = _sizes(parts, start, result.arrays, prepared.text)
    return Measured(
        site=site,
        cases=len(cases),
        parameters=sum(weights.numel() for weights in network.parameters()),
        load_s=load_s,
        step_s=stepped.step_s,
        plain_step_s=plain.step_s,
        patients=len(drawn),
        message_s=stepped.beside_s + build_s,
        predict_s=_timed(lambda: _judge(parts, network, judged)) / max(len(judged), 1),
        start_s=_start_s() if prepared.simulation.workers else 0.0,
        floor_s=_timed(lambda: parts.task.guessed(judged, study.cases, study.evaluation)) / max(len(judged), 1)
        if "floor" in prepared.simulation.baselines
        else 0.0,
        down=down,
        up_bytes=up,
        model_bytes=size_bytes(start),
        state_bytes=size_bytes(result.moments) + kept,
        case_bytes=round(statistics.mean(stored_bytes(case) for case in cases)),
        process_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB,
        base_bytes=base,
    )


@final
@dataclass(frozen=True)
class _Stepped:
    """Seconds of a step, and of what a round takes besides; and what one step came to."""

    result: Result
    step_s: float = 1e-6
    beside_s: float = 0.0


def _stepped(steps: Callable[[int], Result]) -> _Stepped:
    result = steps(1)  # the first of all is slow: libraries choose their ways
    one_s, several_s = _timed(lambda: steps(1)), _timed(lambda: steps(1 + STEPS))
    step_s = max((several_s - one_s) / STEPS, 1e-6)
    return _Stepped(result, step_s, max(one_s - step_s, 0.0))


def _drawn(cases: Sequence[Case], training: Sequence[CaseRef], noisy: NoisySteps) -> tuple[Case, ...]:
    """As many patients as a noisy step of this site draws on average, at least one; the cases read stand for them.

    All of them take part in each step that is timed: of chance draws three would tell nothing.
    """
    patients = round(noisy.rate * len({ref.patient for ref in training}))
    return tuple(
        replace(cases[n % len(cases)], ref=replace(cases[n % len(cases)].ref, patient=f"{n}"))
        for n in range(max(patients, 1))
    )


def _read(prepared: Prepared, site: str, refs: Sequence[CaseRef]) -> tuple[list[Case], float]:
    """Up to four usable cases, and seconds a case."""
    study, reader = prepared.study, prepared.simulation.build_reader(prepared.plugins)
    reader.cases(study.cases)  # listing the folder is no part of reading a case
    cases, seconds, bad = list[Case](), list[float](), dict[str, CaseError]()
    for ref in refs:
        started = time.perf_counter()
        try:
            cases.append(_prepared(prepared, reader, site, ref))
        except CaseError as error:
            bad[ref.name] = to_keep(error)
            continue
        seconds.append(time.perf_counter() - started)
        if len(cases) == CASES:
            break
    if not cases:
        raise none_usable(bad, site)
    # the first of all waits for libraries and templates, which the others find in memory
    again = seconds[1:] or [_timed(lambda: _prepared(prepared, reader, site, cases[0].ref))]
    return cases, statistics.mean(again)


def _prepared(prepared: Prepared, reader: Reader, site: str, ref: CaseRef) -> Case:
    return prepare(acquired(ref, reader, prepared.simulation, prepared.study, site), prepared.study.cases)


def _judged(parts: Parts, cases: Sequence[Case]) -> Sequence[Case]:
    """One case as it is judged: of a task that judges pairs, a pair; none where no pair can be made."""
    form, seed = parts.study.cases, derive(parts.study.seed, "judged")
    return parts.task.judged(cases[:1], form, seed)[:1] or parts.task.judged(cases, form, seed)[:1]


def _judge(parts: Parts, network: nn.Module, cases: Sequence[Case]) -> None:
    study = parts.study
    for case in cases:
        made = parts.task.predict(network, case, study.cases, study.training, study.evaluation)
        parts.task.score(made, case, study.cases, study.evaluation)


def _sizes(parts: Parts, start: Arrays, trained: Arrays, text: str) -> tuple[Down, int, int]:
    """Bytes of a round's message to a site, of its answer, and of what the site keeps besides moments."""
    consensus = parts.strategy.begin(start)
    ask = Ask("train", "run", 1, "0" * 16, text, "0" * 64, arrays=consensus.arrays, shared=consensus.shared)
    leaving, kept = parts.strategy.send(Trained(start, trained, 1, 1), consensus, {})
    travelling, residual = parts.codec.encode(leaving, {}, 0)
    codec = str(parts.study.wire["name"])
    update = Update("site", "run", 1, "0" * 16, "0" * 64, 1, 1, 0.1, 0.1, codec, travelling)
    return _down(parts, ask, trained), _bytes_of(update), size_bytes(kept) + size_bytes(residual)


def _down(parts: Parts, ask: Ask, trained: Arrays) -> Down:
    whole = _bytes_of(ask)
    if parts.down.exact:
        return Down(whole, whole, whole, whole)

    def packed(form: str, coded: Arrays) -> int:
        base = "0" * 64 if form == "difference" else ""
        return _bytes_of(replace(ask, arrays=coded, form=form, base=base, holds="0" * 64))

    form, coded, held = pack_down(parts.down, ask.arrays, None, 0)
    first = packed(form, coded)
    if not parts.down.differences:
        return Down(first, first, first, whole)
    form, coded, held = pack_down(parts.down, trained, held, 0)
    half = pack_half(held)
    return Down(first, packed(form, coded), whole if half is None else packed("half", half), whole)


def _bytes_of(message: Ask | Update) -> int:
    header, buffer = to_wire(message)
    return len(header.encode()) + len(buffer)


def _start_s() -> float:
    """How long a worker process takes until it is ready."""
    command = [sys.executable, "-c", "import fedrounds.worker"]
    return _timed(lambda: subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _resident() -> int:
    """Bytes of memory this process holds now; its largest so far where that cannot be told."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def finished_after(jobs: Sequence[float], workers: int) -> float:
    """When the last of these jobs ends, each given to whoever is free first, the longest first."""
    ends = [0.0] * max(workers, 1)
    for job in sorted(jobs, reverse=True):
        ends[ends.index(min(ends))] += job
    return max(ends)
