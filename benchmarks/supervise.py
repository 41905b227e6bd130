"""Run one command and say what it cost, with everything that it started.

    python supervise.py FILE.json SECONDS COMMAND …

After so many seconds it is ended. Writes FILE.json: `status`, `wall` (s, until the command itself ends), `cpu` (s, user
and system, of all its processes, those that left their parents included), `peak_mib`, `processes` (most at one time) and
`left` (how many were still there when it had ended; they are then ended). The command has this process' stdin, stdout
and stderr.

`peak_mib` is the largest sum seen of VmHWM over the processes alive at one time, looked at every quarter of a
second; of a single process it is exact, for the kernel keeps that. Linux only.
"""

import ctypes
import json
import os
import signal
import sys
import time

EVERY_S = 0.25
GRACE_S = 5.0
PR_SET_CHILD_SUBREAPER = 36
TICKS = os.sysconf("SC_CLK_TCK")


class Tree:
    """All descendants of this process, as /proc shows them."""

    def __init__(self) -> None:
        self.peak_kib = 0
        self.most = 0
        self._cpu: dict[tuple[int, str], float] = {}  # by pid and start: pids come round again

    def look(self) -> list[int]:
        """The descendants now; what they have used and held is noted."""
        parents: dict[int, int] = {}
        stats: dict[int, list[str]] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat") as stream:
                        fields = stream.read().rpartition(")")[2].split()
                except OSError:  # it has ended
                    continue
                parents[int(entry)], stats[int(entry)] = int(fields[1]), fields
        members: set[int] = set()
        more = {os.getpid()}
        while more:
            more = {pid for pid, parent in parents.items() if parent in more}
            members |= more
        held = 0
        for pid in members:
            fields = stats[pid]
            self._cpu[pid, fields[19]] = (int(fields[11]) + int(fields[12])) / TICKS
            held += _high_water_kib(pid)
        self.peak_kib = max(self.peak_kib, held)
        self.most = max(self.most, len(members))
        return sorted(members)

    @property
    def cpu(self) -> float:
        """Seconds that were seen; what a process used after it was last looked at is not among them."""
        return sum(self._cpu.values())


def _high_water_kib(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status") as stream:
            for line in stream:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def _reap(cpu_of: list[float], rss: list[int], wanted: int = 0) -> int | None:
    """Take in every process that has ended; the exit status of `wanted`, if it is among them."""
    status = None
    while True:
        try:
            pid, code, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        cpu_of[0] += used.ru_utime + used.ru_stime
        rss[0] = max(rss[0], used.ru_maxrss)
        if pid == wanted:
            status = os.waitstatus_to_exitcode(code)


def _end(tree: Tree, cpu: list[float], rss: list[int]) -> int:
    """End whatever is left, kindly first; how many there were."""
    left = tree.look()
    for kind in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + GRACE_S
        for pid in tree.look():
            try:
                os.kill(pid, kind)
            except ProcessLookupError:
                continue
        while time.monotonic() < until:
            _reap(cpu, rss)
            if not tree.look():
                return len(left)
            time.sleep(0.05)
    return len(left)


def supervise(command: list[str], longest_s: float) -> dict[str, float | int | None]:
    """Run it to its end, or for so many seconds; `status` is then None."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # who loses its parent becomes a child of ours
    tree, cpu, rss = Tree(), [0.0], [0]
    status: int | None = None
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # so that none is missed between two waits
    started = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ, setsigmask=())
    try:
        while status is None and time.monotonic() - started < longest_s:
            signal.sigtimedwait({signal.SIGCHLD}, EVERY_S)
            status = _reap(cpu, rss, child)
            tree.look()
    finally:
        wall = time.monotonic() - started
        left = _end(tree, cpu, rss)
    _reap(cpu, rss)
    return {
        "status": status,
        "wall": wall,
        # whoever told the kernel to forget its children has hidden what they used: then what was seen is more
        "cpu": max(cpu[0], tree.cpu),
        "peak_mib": max(tree.peak_kib, rss[0]) / 1024,
        "processes": tree.most,
        "left": left,
    }


if __name__ == "__main__":
    file, seconds, *words = sys.argv[1:]
    found = supervise(words, float(seconds))
    with open(file, "w") as stream:
        json.dump(found, stream)
