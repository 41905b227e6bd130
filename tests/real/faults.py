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
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import faults_ends
import faults_trust
import faults_ways
from faultworld import ANSWERED, FAULTS, SAME, Bench, NotHere, Row, nothing, phantom
from fedworld import World, may_be_apart

ROWS = (faults_ends, faults_ways, faults_trust)  # each puts its rows into FAULTS


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


def ordered() -> list[str]:
    """All rows, those that want the same world one after the other."""
    return sorted(FAULTS, key=lambda name: (len(FAULTS[name][2]), FAULTS[name][3] is not nothing))


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
    for row in table(given.names or ordered(), lambda line: print(line, flush=True), given.keep):
        rows.append(row)
        if given.json:
            given.json.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n")
    print(markdown(rows))
    if given.markdown:
        given.markdown.write_text(markdown(rows))
    return 0 if all(row.right for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
