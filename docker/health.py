"""Is it up? `health.py coordinator COORD` or `health.py site SITE`; exit status 0 only if it serves.

A coordinator serves when Flower answers on loopback and the front shows our certificate to hospitals. A
site serves when its launcher runs and is connected; with `--alive` it is enough that it runs: one that
cannot reach its coordinator tries again by itself, and starting it anew would not help.
"""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path


def coordinator_serves(path: Path) -> str:
    """What is wrong with a coordinator that should be up; empty if it serves."""
    from fedrounds_common.errors import FedroundsError
    from fedrounds_server.coordinator.folder import CoordinatorFolder, read_settings
    from fedrounds_server.coordinator.processes import front_serves, superlink_serves

    folder = CoordinatorFolder(path)
    try:
        settings = read_settings(folder)
    except FedroundsError as error:
        return f"{error.code} {error.found}"
    if not superlink_serves(folder, settings.superlink_port):
        return "Flower's SuperLink does not answer"
    return "" if front_serves(folder, settings) else "the front does not answer"


def site_serves(path: Path, *, alive: bool) -> str:
    """What is wrong with a site that should be joined; empty if it is well.

    The two files are those of `fedrounds_client.join.supernode`; importing that would load all of Flower
    for each look.
    """
    lock = path / "flwr" / "lock"
    if not lock.is_file() or not _held(lock):
        return "the launcher does not run"
    return "" if alive or (path / "flwr" / "connected").exists() else "not connected"


def _held(lock: Path) -> bool:
    with lock.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def main(words: list[str]) -> str:
    match words:
        case ["coordinator", folder]:
            return coordinator_serves(Path(folder))
        case ["site", folder, *rest] if rest in ([], ["--alive"]):
            return site_serves(Path(folder), alive=bool(rest))
    return "usage: health.py coordinator DIR | site DIR [--alive]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or 0)
