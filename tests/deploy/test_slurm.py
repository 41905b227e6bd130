"""deploy/slurm: what Slurm would run is run here, with an `scontrol` of our own that does what Slurm does."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "deploy/slurm"
SCRIPTS = ("simulate.sbatch", "site.sbatch")
# https://slurm.schedmd.com/sbatch.html
OPTIONS = {
    "job-name", "nodes", "ntasks", "cpus-per-task", "mem", "time", "signal", "requeue", "open-mode", "output",
    "dependency", "gres",
}  # fmt: skip
# as Slurm: the job's processes are ended, here all that its shell has started
SCONTROL = '#!/bin/sh\necho "$@" >> "$0.asked"\nkill -9 "$(cat "/proc/$PPID/task/$PPID/children" | cut -d" " -f1)"\n'
Accepts = Callable[[Sequence[str]], None]
Cubes = Callable[..., Path]


def test_every_script_is_tested() -> None:
    assert sorted(file.name for file in FOLDER.iterdir()) == sorted(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_whole_and_asks_slurm_for_what_it_knows(name: str) -> None:
    subprocess.run(["bash", "-n", FOLDER / name], check=True)
    lines = (FOLDER / name).read_text("utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    asked = [line for line in lines if line.startswith("#SBATCH")]
    assert asked
    assert {re.fullmatch(r"#SBATCH --([a-z-]+)(=\S+)?", line)[1] for line in asked} <= OPTIONS  # type: ignore[index]
    # Slurm reads no option after the first command
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(number < first for number, line in enumerate(lines) if line.startswith("#SBATCH"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_commands_are_ours(name: str, accepts: Accepts) -> None:
    lines = re.findall(
        r'^"\$VENV/bin/(fedrounds .*?) &$',
        (FOLDER / name).read_text("utf-8").replace('bin/fedrounds"', "bin/fedrounds"),
        re.MULTILINE,
    )
    assert lines
    for line in lines:
        words = [word for word in shlex.split(line) if word != "${what[@]}"]
        accepts(words)


def job(tmp_path: Path, study: Path) -> dict[str, str]:
    (tmp_path / "bin").mkdir(exist_ok=True)
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(SCONTROL)
    scontrol.chmod(0o755)
    given = {
        "PATH": f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}",
        "VENV": str(Path(sys.executable).parents[1]),
        "STUDY": str(study),
        "SLURM_JOB_ID": "17",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_CPUS_PER_TASK": "1",
    }
    return {**os.environ, **given}


@pytest.mark.slow
def test_a_job_whose_time_is_up_is_put_back_and_ends_with_the_same_bits(tmp_path: Path, cubes: Cubes) -> None:
    study = cubes(tmp_path, rounds=6)
    words = ["bash", str(FOLDER / "simulate.sbatch"), "--plugins", str(REPO / "tests/data/cubes")]
    undisturbed = job(tmp_path, study) | {"RUNS": str(tmp_path / "undisturbed")}
    subprocess.run(words, env=undisturbed, check=True, capture_output=True, timeout=240)
    runs = tmp_path / "runs-17"
    shell = subprocess.Popen(words, env=job(tmp_path, study), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    end = time.monotonic() + 200
    while not any(runs.glob("*/checkpoints/*")) and shell.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    shell.send_signal(signal.SIGUSR1)
    said = shell.communicate(timeout=100)[0].decode()
    assert "back into the queue" in said
    assert (tmp_path / "bin/scontrol.asked").read_text() == "requeue 17\n"
    assert shell.returncode == 128 + signal.SIGKILL
    subprocess.run(words, env=job(tmp_path, study), check=True, capture_output=True, timeout=240)
    (status,) = [json.loads(file.read_text()) for file in runs.glob("0*/status.json")]
    (whole,) = [json.loads(file.read_text()) for file in (tmp_path / "undisturbed").glob("0*/status.json")]
    assert status["consensus"] == whole["consensus"]


def test_a_job_without_a_study_says_what_is_missing(tmp_path: Path) -> None:
    given = {name: value for name, value in job(tmp_path, tmp_path).items() if name != "STUDY"}
    said = subprocess.run(["bash", FOLDER / "simulate.sbatch"], env=given, capture_output=True, text=True, check=False)
    assert said.returncode != 0
    assert "set STUDY" in said.stderr


# a client that stays up until it is told to end
CLIENT = """#!{python}
import pathlib, signal, sys
def end(*_):
    pathlib.Path({place!r}, "ended").write_text(" ".join(sys.argv[1:]))
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
signal.pause()
"""


def test_a_sites_job_is_put_back_after_its_client_was_told_to_end(tmp_path: Path) -> None:
    given = job(tmp_path, tmp_path) | {"VENV": str(tmp_path), "SITE": "/data/fedrounds-site"}
    (tmp_path / "bin/scontrol").write_text('#!/bin/sh\necho "$@" >> "$0.asked"\n')
    client = tmp_path / "bin/fedrounds"
    client.write_text(CLIENT.format(python=sys.executable, place=str(tmp_path)))
    client.chmod(0o755)
    shell = subprocess.Popen(["bash", FOLDER / "site.sbatch"], env=given, stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    assert shell.stdout.readline() == "up\n"
    shell.send_signal(signal.SIGUSR1)
    said = shell.communicate(timeout=60)[0]
    assert (shell.returncode, "back into the queue" in said) == (0, True)
    assert (tmp_path / "bin/scontrol.asked").read_text() == "requeue 17\n"
    assert (tmp_path / "ended").read_text() == "site join --site /data/fedrounds-site"
