"""Change the code in hundreds of small ways and count how many changes a test notices.

`python tests/deep/mutation.py --at-least 0.80`; takes a while. A mutant that no test runs, or that
survives, counts against the score; one that a test kills or that runs into its time limit counts for
it. Exit status 1 if any group of files is below the share asked for.

mutmut wants one source folder, and we have five packages in four: the wheel is that one folder, so
the wheel is built, unpacked and mutated under `build/mutation/GROUPS`, and nothing in the tree is touched.
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
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

GROUPS: Mapping[str, tuple[str, ...]] = {
    "aggregation": ("src/fedrounds_common/strategies/fedavg*.py", "src/fedrounds_common/averaging.py"),
    "guard": ("src/fedrounds_server/guard.py", "src/fedrounds_common/leaving.py"),
    "metrics": ("src/fedrounds_common/metrics/*.py",),
    "splits": ("src/fedrounds_sites/splits.py",),
}
TESTS = ("tests/common", "tests/sites", "tests/server", "tests/client")
NOTICED = {"killed", "timeout", "caught by type check"}
# no verdict on the code: the mutant was never meant to run
LEFT_OUT = {"skipped"}

SPINNER = re.compile(r"Generating mutants|Running (stats|clean tests|forced fail)")

SETTINGS = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = [{patterns}]
# whether an error is raised is changed and must be noticed; the words of its message are not
do_not_mutate_patterns = ['\\braise \\w+\\(', '^\\s*(found|wanted|do|where)=']
also_copy = ["studies", "pyproject.toml", "Makefile", "constraints.txt"]
pytest_add_cli_args = ["-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
pytest_add_cli_args_test_selection = [{tests}]
"""


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--at-least", type=float, default=0.80, help="share of mutants to notice, 0 to 1")
    words.add_argument("--workers", type=int, default=2)
    words.add_argument("--group", choices=sorted(GROUPS), action="append", help="only this one; may be repeated")
    words.add_argument("--tests", action="append", help="only these, e.g. tests/sites/test_splits.py; may be repeated")
    asked = words.parse_args()
    groups = {name: GROUPS[name] for name in asked.group or GROUPS}
    work = REPO / "build/mutation" / "-".join(groups)
    lay_out(work, [pattern for patterns in groups.values() for pattern in patterns], asked.tests or list(TESTS))
    print(f"changing {', '.join(groups)} and running tests; this takes a while", flush=True)
    run(work, "run", "--max-children", str(asked.workers))
    verdicts = verdicts_of(run(work, "results", "--all", "true"))
    unnoticed = sorted(name for name, verdict in verdicts.items() if verdict not in NOTICED | LEFT_OUT)
    (work / "unnoticed.txt").write_text("\n".join(unnoticed) + "\n", "utf-8")
    return report(verdicts, groups, asked.at_least, work)


def lay_out(work: Path, patterns: list[str], tests: list[str]) -> None:
    """Unpack the wheel to `src/`, put the tests beside it, and write mutmut's settings."""
    shutil.rmtree(work, ignore_errors=True)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(work / "wheel")]
    subprocess.run(build, cwd=REPO, check=True, capture_output=True)
    with zipfile.ZipFile(next((work / "wheel").glob("*.whl"))) as wheel:
        wheel.extractall(work / "src")
    # there before Python starts: a folder that it once missed on its path stays unseen
    (work / "mutants/src").mkdir(parents=True)
    shutil.copytree(REPO / "tests", work / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPO / "studies", work / "studies")
    for name in ("Makefile", "constraints.txt"):
        shutil.copy(REPO / name, work / name)
    there = [test for test in tests if (REPO / test).exists()]
    text = SETTINGS.format(patterns=quoted(patterns), tests=quoted(there))
    (work / "pyproject.toml").write_text((REPO / "pyproject.toml").read_text("utf-8") + text, "utf-8")


def quoted(words: list[str]) -> str:
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
            verdicts[name] = verdict
    return verdicts


def report(verdicts: Mapping[str, str], groups: Mapping[str, tuple[str, ...]], at_least: float, work: Path) -> int:
    print(f"\n{'group':<14}{'mutants':>8}{'noticed':>9}{'score':>8}   what was not")
    enough = True
    for group, patterns in groups.items():
        modules = [pattern.removeprefix("src/").removesuffix(".py").replace("/", ".") + ".*" for pattern in patterns]
        counts = Counter(
            verdict
            for name, verdict in verdicts.items()
            if verdict not in LEFT_OUT and any(fnmatch(name, module) for module in modules)
        )
        total, noticed = sum(counts.values()), sum(counts[verdict] for verdict in NOTICED)
        score = noticed / total if total else 0.0
        enough = enough and score >= at_least
        missed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if verdict not in NOTICED)
        print(f"{group:<14}{total:>8}{noticed:>9}{score:>8.1%}   {missed}")
    print(f"asked for: {at_least:.0%} in each; `mutmut show NAME` in {work.relative_to(REPO)}, names in unnoticed.txt")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
