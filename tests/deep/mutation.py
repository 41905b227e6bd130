"""Change the code in hundreds of small ways and count how many changes a test notices.

`python tests/deep/mutation.py --at-least 0.80`; minutes. A mutant that no test runs, or that
survives, counts against the score; one that a test kills or that runs into its time limit counts for
it. Exit status 1 if any group of files is below the share asked for.

mutmut wants one source folder, and we have five packages in four: the wheel is that one folder, so
the wheel is built, unpacked and mutated under `build/mutation/GROUP`, and nothing in the tree is touched.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@final
@dataclass(frozen=True)
class Group:
    """Files that are changed (globs in the wheel), and the tests that must notice."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


GROUPS: Mapping[str, Group] = {
    "aggregation": Group(
        ("fedrounds_common/averaging.py", "fedrounds_common/strategies/fedavg*.py"), ("tests/common/test_averaging.py",)
    ),
    "guard": Group(
        ("fedrounds_server/guard.py", "fedrounds_common/leaving.py"),
        ("tests/server/test_guard.py", "tests/common/test_leaving.py"),
    ),
    "metrics": Group(("fedrounds_common/metrics/*.py",), ("tests/common/test_metrics_*.py",)),
    "splits": Group(("fedrounds_sites/splits.py",), ("tests/sites/test_splits.py",)),
}
NOTICED = {"killed", "timeout", "caught by type check"}
# no verdict on the code: the mutant was never meant to run
LEFT_OUT = {"skipped"}
SPINNER = re.compile(r"Generating mutants|Running (stats|clean tests|forced fail)")

SETTINGS = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = [{files}]
# whether an error is raised is changed and must be noticed; the words of its message are not
do_not_mutate_patterns = ['\\braise \\w+\\(', '^\\s*(found|wanted|do|where)=']
pytest_add_cli_args = ["-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
pytest_add_cli_args_test_selection = [{tests}]
"""


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--at-least", type=float, default=0.80, help="share of mutants to notice, 0 to 1")
    words.add_argument("--workers", type=int, default=2)
    words.add_argument("--group", choices=sorted(GROUPS), action="append", help="only this one; may be repeated")
    asked = words.parse_args()
    print(f"{'group':<14}{'mutants':>8}{'noticed':>9}{'score':>8}   what was not", flush=True)
    enough = [score_of(name, asked.workers) >= asked.at_least for name in asked.group or GROUPS]
    print(f"asked for: {asked.at_least:.0%} in each; what was not noticed: build/mutation/GROUP/unnoticed.txt,")
    print("and there `mutmut show NAME` shows the change")
    return 0 if all(enough) else 1


def score_of(name: str, workers: int) -> float:
    """Mutate one group and print its line; the share of mutants that a test noticed."""
    work = REPO / "build/mutation" / name
    lay_out(work, GROUPS[name])
    run(work, "run", "--max-children", str(workers))
    verdicts = verdicts_of(run(work, "results", "--all", "true"))
    unnoticed = sorted(mutant for mutant, verdict in verdicts.items() if verdict not in NOTICED)
    (work / "unnoticed.txt").write_text("\n".join(unnoticed) + "\n", "utf-8")
    counts = Counter(verdicts.values())
    total, noticed = len(verdicts), len(verdicts) - len(unnoticed)
    missed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if verdict not in NOTICED)
    score = noticed / total if total else 0.0
    print(f"{name:<14}{total:>8}{noticed:>9}{score:>8.1%}   {missed}", flush=True)
    return score


def lay_out(work: Path, group: Group) -> None:
    """Unpack the wheel to `src/`, put the tests beside it, and write mutmut's settings."""
    shutil.rmtree(work, ignore_errors=True)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(work / "wheel")]
    subprocess.run(build, cwd=REPO, check=True, capture_output=True)
    with zipfile.ZipFile(next((work / "wheel").glob("*.whl"))) as wheel:
        wheel.extractall(work / "src")
    # there before Python starts: a folder that it once missed on its path stays unseen
    (work / "mutants/src").mkdir(parents=True)
    shutil.copytree(REPO / "tests", work / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    tests = sorted(test.relative_to(REPO).as_posix() for glob in group.tests for test in REPO.glob(glob))
    if not tests:
        sys.exit(f"no tests are called {', '.join(group.tests)}")
    text = SETTINGS.format(files=quoted([f"src/{glob}" for glob in group.files]), tests=quoted(tests))
    (work / "pyproject.toml").write_text((REPO / "pyproject.toml").read_text("utf-8") + text, "utf-8")


def quoted(words: Sequence[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def run(work: Path, *words: str) -> str:
    """Run mutmut in the work folder; returns what it printed."""
    # first on the path, also for child processes: an editable install would be found before it
    environment = {**os.environ, "PYTHONPATH": str(work / "mutants/src"), "COLUMNS": "120"}
    log = work / f"mutmut-{words[0]}.log"
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(
            [str(BIN / "mutmut"), *words], cwd=work, env=environment, check=False, stdout=out, stderr=subprocess.STDOUT
        )
    printed = log.read_text("utf-8")
    if done.returncode != 0:
        lines = [line for line in re.split(r"[\r\n]+", printed) if line.strip() and not SPINNER.search(line)]
        sys.exit("\n".join(lines[-30:]) + f"\nmutmut {words[0]} ended with {done.returncode}: do the tests pass?")
    return printed


def verdicts_of(printed: str) -> dict[str, str]:
    """Mutant → verdict, from lines such as `fedrounds_server.guard.x_norm__mutmut_3: survived`."""
    verdicts = {}
    for line in printed.splitlines():
        if "__mutmut_" in line:
            name, verdict = line.strip().rsplit(": ", 1)
            if verdict not in LEFT_OUT:
                verdicts[name] = verdict
    return verdicts


if __name__ == "__main__":
    sys.exit(main())
