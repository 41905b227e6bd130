"""Every command answers in one form and fails in one form, and opens quickly."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import typer

from fedrounds import environment
from fedrounds.cli.frame import Answer, group, jsonable, verb
from fedrounds.cli.main import app
from fedrounds_common.errors import MachineError, StudyError, TooFewSites

FEDROUNDS = [sys.executable, "-c", "from fedrounds.cli.main import run; run()"]


def child(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COV_")}
    return subprocess.run(
        [*FEDROUNDS, *arguments], capture_output=True, text=True, check=False, env=clean | variables, timeout=60
    )


def every_command(group_: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name, each in group_.commands.items():
        found += every_command(each, (*path, name)) if isinstance(each, click.Group) else [((*path, name), each)]
    return found


TOP = typer.main.get_command(app)
assert isinstance(TOP, click.Group)
COMMANDS = every_command(TOP)


@pytest.mark.parametrize(("path", "each"), COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS])
def test_every_verb_has_help_and_a_format(path: tuple[str, ...], each: click.Command, fedrounds: Any) -> None:
    assert (each.help or "").strip().endswith("."), "one sentence that says what it does"
    assert any("--format" in parameter.opts for parameter in each.params)
    assert [parameter.name for parameter in each.params if not getattr(parameter, "help", None)] == []
    said = fedrounds(*path, "-h")
    assert said.status == 0
    assert "--format" in said.out


def test_help_imports_nothing_but_the_frame() -> None:
    program = (
        "import sys; before = set(sys.modules)\n"
        "from fedrounds.cli.main import main\n"
        "main(['--help'])\n"
        "outside = {name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(sorted(outside), file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    light = {"fedrounds", "fedrounds_common", "typer", "typing_extensions", "click", "rich", "shellingham", "markdown_it",
             "mdurl", "pygments", "attr", "linkify_it", "uc_micro", "annotated_doc", "_typer", "colorama"}  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert set(eval_list(ran.stderr.splitlines()[-1])) <= light


def eval_list(text: str) -> list[str]:
    return list(json.loads(text.replace("'", '"')))


def test_help_takes_less_than_four_tenths_of_a_second() -> None:
    child("--help")  # once, so that the compiled files are there
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert child("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # processor time: the clock on the wall also counts the wait for a busy core
    assert min(times) < 0.4


@pytest.mark.parametrize("words", [[], ["study"]])
def test_no_verb_at_all_prints_the_verbs(words: list[str], fedrounds: Any) -> None:
    said = fedrounds(*words)
    assert said.status == 2
    assert "Usage: fedrounds" in said.out


def test_a_verb_that_is_misspelt_names_the_nearest(fedrounds: Any) -> None:
    said = fedrounds("stduy")
    assert said.status == 2
    assert said.err == "FR-U08 fedrounds: No such command 'stduy'. Did you mean 'study'? See `fedrounds -h`.\n"
    assert said.out == ""


def test_a_usage_error_is_an_envelope_too(fedrounds: Any) -> None:
    said = fedrounds("study", "check", "--format", "json")
    assert said.status == 2
    assert said.envelope["error"]["code"] == "FR-U08"
    assert said.err == ""


@pytest.mark.parametrize("spelt", [["--format", "json"], ["--format=json"]])
def test_the_envelope_has_the_same_keys_for_good_and_for_bad(fedrounds: Any, spelt: list[str]) -> None:
    good, bad = fedrounds("explain", "FR-S01", *spelt).envelope, fedrounds("explain", "XX", *spelt).envelope
    assert set(good) == set(bad) == {"schema", "status", "exit", "data", "error"}
    assert (good["status"], good["exit"], good["error"]) == ("ok", 0, None)
    assert (bad["status"], bad["exit"], bad["data"]) == ("error", 2, None)


def failing(error: BaseException | Answer) -> typer.Typer:
    made = group("Made for a test.")

    @verb(made, "fail")
    def fail() -> Answer:
        """Do what the test says."""
        if isinstance(error, Answer):
            return error
        raise error

    @verb(made, "other")
    def other() -> Answer:
        """Stand beside it, so that there is a group."""
        return Answer({}, "")

    return made


def called(error: BaseException | Answer, fedrounds: Any, *more: str) -> Any:
    return fedrounds("fail", *more, commands=failing(error))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MachineError("FR-E01", "no memory"), 5),
        (TooFewSites("FR-R01", "1 of 3 sites"), 11),
        (StudyError("study.toml", []), 3),
        (MemoryError(), 5),
        (OSError(28, "No space left on device"), 5),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("by zero"), 1),
    ],
)
def test_an_error_has_its_exit_status_and_never_a_traceback(error: BaseException, status: int, fedrounds: Any) -> None:
    said = called(error, fedrounds)
    assert said.status == status
    assert said.out == ""
    assert "Traceback" not in said.err


def test_an_interrupt_is_told_in_both_forms(fedrounds: Any) -> None:
    assert called(KeyboardInterrupt(), fedrounds).err.startswith("FR-U14 interrupted; a run goes on")
    said = called(KeyboardInterrupt(), fedrounds, "--format", "json")
    assert (said.status, said.envelope["status"], said.envelope["error"]["code"]) == (130, "error", "FR-U14")


def test_a_fault_of_ours_is_one_line_that_names_the_file_of_the_trace(fedrounds: Any) -> None:
    said = called(ZeroDivisionError("by zero"), fedrounds)
    (line,) = said.err.splitlines()
    assert line.startswith("FR-U09 a fault in fedrounds: ZeroDivisionError: by zero; the trace is in ")
    trace = Path(line.rpartition(" ")[2])
    assert "ZeroDivisionError: by zero" in trace.read_text()
    trace.unlink()


@pytest.mark.parametrize(("status", "word"), [(0, "ok"), (9, "partial"), (10, "partial"), (4, "error")])
def test_an_answer_keeps_its_own_status(status: int, word: str, fedrounds: Any) -> None:
    said = called(Answer({"a": 1}, "text", status), fedrounds, "--format", "json")
    assert (said.status, said.envelope["status"], said.envelope["exit"]) == (status, word, status)


def test_the_text_of_an_answer_is_printed_as_it_is(fedrounds: Any) -> None:
    line = "[bold]" + "x" * 300 + " :smile: 0.5"
    assert called(Answer({}, line), fedrounds).out == line + "\n"


def test_json_has_no_nan_and_no_paths() -> None:
    value = {"a": float("nan"), "b": [np.float64(0.5), Path("x/y"), None, True], 3: (1, float("inf"))}
    assert jsonable(value) == {"a": None, "b": [0.5, "x/y", None, True], "3": [1, None]}


def test_nobody_reading_on_is_no_error() -> None:
    ran = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "from fedrounds.cli.main import run; run()" explain | head -n 1'],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stderr == ""
    assert ran.stdout.startswith("code")


def test_a_pipe_has_no_colours_and_no_color_is_heard() -> None:
    assert "\x1b" not in child("list", "codecs", FORCE_COLOR="").stdout
    assert "\x1b[1m" in child("list", "codecs", FORCE_COLOR="1").stdout  # bold headings
    assert "\x1b[3" not in child("-h", FORCE_COLOR="1", NO_COLOR="1").stdout


def test_the_version_is_told(fedrounds: Any) -> None:
    said = fedrounds("--version")
    assert (said.status, said.out.split()[0]) == (0, "fedrounds")


def test_shells_can_complete_it() -> None:
    answered = child(_FEDROUNDS_COMPLETE="complete_bash", COMP_WORDS="fedrounds study ", COMP_CWORD="2")
    assert set(answered.stdout.split()) == {"new", "check", "show", "landmarks", "dpia"}


def test_nothing_is_sent_home_and_one_thread_is_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*environment.THREADS, *environment.SILENCE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    environment.quiet()
    assert {name: os.environ[name] for name in environment.SILENCE} == dict(environment.SILENCE)
    assert os.environ["OMP_NUM_THREADS"] == "4"
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
