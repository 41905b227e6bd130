"""A message is answered in a process of its own: killed at the deadline, limited in memory, without network."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedrounds_client.apart import LONGEST_S, Bounds, ask_child, deadline_of
from fedrounds_client.jail import Walls, can_be_walled
from fedrounds_client.memory import out_of_memory
from fedrounds_common.chain import verify
from fedrounds_common.errors import CaseError, MachineError

WALLED = can_be_walled()
MESSAGE = (json.dumps({"run": "0001-cubes", "round": 2}), b"\x00\x01" * 300_000, b"signature")
# a child of the shape of ours: walls, then an answer made of the message
START = """
import json, os, signal, socket, sys, time
from pathlib import Path
from fedrounds_client import apart, jail
from fedrounds_common import letter
home, pieces, wanted = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
walls = jail.Walls(wanted["network"], wanted["memory_gb"], tuple(Path(f) for f in wanted["read_only"]))
for line in jail.shut_in(walls): print(line, file=sys.stderr)
message = letter.unpack_letter(sys.stdin.buffer.read())
def say(text): sys.stdout.buffer.write(letter.pack_letter((text, message[1], message[2]))); sys.stdout.flush(); sys.exit(0)
"""

Program = Callable[[str], tuple[str, ...]]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    def write(body: str) -> tuple[str, ...]:
        file = tmp_path / "child.py"
        file.write_text(START + body)
        return (sys.executable, str(file))

    return write


def asked(home: Path, program: tuple[str, ...], deadline_s: float = 60.0, **walls: object) -> tuple[str, bytes, bytes]:
    return ask_child(MESSAGE, home, Bounds(deadline_s, Walls(**walls)), program)  # type: ignore[arg-type]


def code(home: Path, program: tuple[str, ...], deadline_s: float = 60.0, **walls: object) -> str:
    with pytest.raises(MachineError) as raised:
        asked(home, program, deadline_s, **walls)
    return raised.value.code


def test_the_message_comes_whole_and_the_answer_goes_back_whole(tmp_path: Path, program: Program) -> None:
    said = asked(tmp_path, program("say('answer to ' + message[0])"))
    assert said == ("answer to " + MESSAGE[0], MESSAGE[1], MESSAGE[2])


def test_what_a_library_prints_is_no_part_of_the_answer(tmp_path: Path) -> None:
    # the real child, asked by a header that no boundary could read: it says nothing, and its talk is in the log
    with pytest.raises(MachineError, match="FR-E42"):
        ask_child(("", b"", b""), tmp_path, Bounds(60.0))
    assert "Error" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_child_that_hangs_is_killed_at_the_deadline_with_all_it_started(tmp_path: Path, program: Program) -> None:
    body = "child = os.fork()\n(home / f'pid-{os.getpid()}').touch()\ntime.sleep(600)"
    started = time.monotonic()
    assert code(tmp_path, program(body), deadline_s=15.0) == "FR-E40"
    assert time.monotonic() - started < 60
    pids = [int(file.name.removeprefix("pid-")) for file in tmp_path.glob("pid-*")]
    assert len(pids) == 2
    end = time.monotonic() + 30  # the system takes its time to end what was killed
    while any(is_running(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert [pid for pid in pids if is_running(pid)] == []
    # and the site is free for the next
    assert asked(tmp_path, program("say('next')"))[0] == "next"


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_memory_that_ran_out_is_tried_once_more_in_two_pieces(tmp_path: Path, program: Program) -> None:
    body = "sys.exit(apart.NO_MEMORY) if pieces == 1 else say(f'in {pieces} pieces')"
    assert asked(tmp_path, program(body))[0] == "in 2 pieces"
    assert "FR-E41 run 0001-cubes round 2: memory ran out" in (tmp_path / "log").read_text()
    assert verify(tmp_path / "journal.jsonl")[0] == 1
    assert json.loads((tmp_path / "journal.jsonl").read_text())["facts"]["round"] == "2"


def test_memory_that_runs_out_twice_is_a_refusal(tmp_path: Path, program: Program) -> None:
    body = "(home / f'tried-{pieces}').touch()\nsys.exit(apart.NO_MEMORY)"
    assert code(tmp_path, program(body)) == "FR-E41"
    assert sorted(file.name for file in tmp_path.glob("tried-*")) == ["tried-1", "tried-2"]


@pytest.mark.parametrize("signal_", ["SIGKILL", "SIGSEGV"])
def test_a_crash_is_a_code_and_is_not_tried_again(tmp_path: Path, program: Program, signal_: str) -> None:
    body = f"(home / f'tried-{{pieces}}').touch()\nos.kill(os.getpid(), signal.{signal_})"
    assert code(tmp_path, program(body)) == "FR-E42"
    assert [file.name for file in tmp_path.glob("tried-*")] == ["tried-1"]


def test_half_an_answer_is_a_crash(tmp_path: Path, program: Program) -> None:
    assert code(tmp_path, program("sys.stdout.buffer.write(b'x' * 40); sys.stdout.flush()")) == "FR-E42"


@pytest.mark.slow
def test_the_memory_limit_holds_for_python_numpy_and_torch(tmp_path: Path, program: Program) -> None:
    body = """
import numpy, torch
from fedrounds_client.memory import out_of_memory
seen = []
for ask in (lambda: bytearray(3 * 10**9), lambda: numpy.ones(10**9), lambda: torch.ones(10**9)):
    try:
        ask()
    except Exception as error:
        seen.append(out_of_memory(error))
say(str(seen))
"""
    assert asked(tmp_path, program(body), memory_gb=2.0)[0] == "[True, True, True]"


def test_every_kind_of_memory_error_is_recognised_and_nothing_else() -> None:
    import torch

    with pytest.raises(MemoryError) as numpys:
        np.empty((10**9, 10**6))
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(10**18)
    assert out_of_memory(numpys.value)
    assert out_of_memory(torchs.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    wrapped = CaseError("FR-D20", "cannot be read")
    wrapped.__cause__ = MemoryError()
    assert out_of_memory(wrapped)
    assert not out_of_memory(CaseError("FR-D20", "cannot be read"))
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not out_of_memory(None)


@pytest.mark.skipif(bool(WALLED), reason=f"this machine allows no walls: {WALLED}")
def test_the_child_has_no_network_and_cannot_take_it_back(tmp_path: Path, program: Program) -> None:
    body = """
found = []
try:
    socket.create_connection(("127.0.0.1", 9), timeout=5)
except OSError as error:
    found.append(type(error).__name__ if not isinstance(error, ConnectionRefusedError) else "refused")
found.append([line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]])
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
try:
    with open(f"/proc/{os.getppid()}/ns/net") as other:
        found.append(libc.setns(other.fileno(), 0))
except PermissionError:
    found.append(-1)
say(json.dumps(found))
"""
    # loopback is there but down: connecting is "unreachable", not "refused"
    error, devices, back = json.loads(asked(tmp_path, program(body))[0])
    assert error == "OSError"
    assert devices == ["lo"]
    assert back == -1


@pytest.mark.skipif(bool(WALLED), reason=f"this machine allows no walls: {WALLED}")
def test_the_data_cannot_be_written_and_the_site_s_folder_can(tmp_path: Path, program: Program) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "scan").write_text("voxels")
    body = f"""
data, found = Path({str(data)!r}), []
for act in (lambda: (data / "new").touch(), lambda: (data / "scan").write_text("x"), lambda: (data / "scan").unlink()):
    try:
        act()
    except OSError as error:
        found.append(error.errno)
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
found.append(libc.mount(None, os.fsencode(data), None, 32 | 4096, None))
(home / "own").touch()
say(json.dumps([found, (data / "scan").read_text()]))
"""
    errors, text = json.loads(asked(tmp_path, program(body), read_only=(data,))[0])
    assert errors == [30, 30, 30, -1]  # EROFS, and no way to mount it again
    assert text == "voxels"
    assert (tmp_path / "own").exists()
    (data / "scan").write_text("outside the walls nothing has changed")


def test_the_child_knows_no_proxy(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:3128")
    monkeypatch.setenv("FLWR_HOME", "/somewhere")
    said = asked(tmp_path, program("say(json.dumps(sorted(os.environ)))"))[0]
    assert not {"HTTPS_PROXY", "FLWR_HOME"} & set(json.loads(said))


@pytest.mark.parametrize(
    ("cohort", "seconds"),
    [({"deadline_s": 90.5}, 90.5), ({"deadline_s": None}, LONGEST_S), ({}, LONGEST_S), ({"deadline_s": -1}, LONGEST_S),
     ({"deadline_s": float("inf")}, LONGEST_S), ({"deadline_s": 1e9}, LONGEST_S), ("no table", LONGEST_S)],
)  # fmt: skip
def test_the_deadline_is_the_study_s_and_never_endless(cohort: object, seconds: float) -> None:
    header = json.dumps({"study": json.dumps({"cohort": cohort})})
    assert deadline_of(header) == seconds
    assert deadline_of("no header") == LONGEST_S
