"""The peers of the benchmarks, each from the registry into a virtual environment of its own below build/peers.

    python benchmarks/peers.py [flwr] [nvflare] [pfl] [--again]

Installs what is missing, one after another, and prints what is there. A peer that cannot be installed is printed
as such with pip's last line; `--again` tries those once more.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import final

REPO = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("FEDROUNDS_PEERS", REPO / "build" / "peers"))
# as their own pages say to install them; torch is pinned as ours, for a step must cost the same on both sides
WANTED = {
    "flwr": ("flwr[simulation]==1.41.0",),
    "nvflare": ("nvflare==2.9.*",),
    "pfl": ("pfl[pytorch]==0.6.*",),
}


@final
@dataclass(frozen=True)
class Peer:
    """`python`: its interpreter. `fault`: why there is none; "" where there is."""

    name: str
    python: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    fault: str = ""


def ours(package: str) -> str:
    """A version here without its local part: `2.13.0+cpu` is one of the builds of 2.13.0."""
    return importlib.metadata.version(package).partition("+")[0]


def wanted(name: str) -> tuple[str, ...]:
    return (*WANTED[name], f"torch=={ours('torch')}")


def peer(name: str, install: bool = True, again: bool = False) -> Peer:
    """The peer, installed first where it is missing and `install` says so."""
    found = _read(name)
    if found is not None and (not found.fault or not again):
        return found
    if not install:
        return Peer(name, fault=f"not installed: python benchmarks/peers.py {name}")
    print(f"installing {name} into {FOLDER / name} (minutes, once)", file=sys.stderr)
    made = _install(name)
    note = {"wanted": wanted(name), "versions": made.versions, "fault": made.fault}
    _note(name).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    return made


def _note(name: str) -> Path:
    return FOLDER / f"{name}.json"


def _read(name: str) -> Peer | None:
    """What an earlier call made; None of another version, or of an environment that is gone."""
    try:
        note = json.loads(_note(name).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if note["wanted"] != list(wanted(name)):
        return None
    python = FOLDER / name / "bin" / "python"
    if note["fault"]:
        return Peer(name, fault=note["fault"])
    return Peer(name, str(python), tuple((a, b) for a, b in note["versions"])) if python.exists() else None


def _install(name: str) -> Peer:
    folder = FOLDER / name
    venv.create(folder, with_pip=True, clear=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted(name)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        return Peer(name, fault=f"pip: {lines[-1] if lines else f'exit status {done.returncode}'}")
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    named = {entry["name"].lower(): entry["version"] for entry in json.loads(listed.stdout)}
    shown = [name, "torch", "numpy", "ray"]
    return Peer(name, python, tuple((package, named[package]) for package in shown if package in named))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PEER", help=f"among {', '.join(WANTED)}; all by default")
    parser.add_argument("--again", action="store_true", help="try once more what could not be installed")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(WANTED)):
        parser.error(f"{', '.join(unknown)}: wanted among {', '.join(WANTED)}")
    os.umask(0o022)
    found = [peer(name, again=given.again) for name in given.names or WANTED]
    for each in found:
        print(f"{each.name:<8} {each.fault or ', '.join(f'{name} {version}' for name, version in each.versions)}")
    return 1 if any(each.fault for each in found) else 0


if __name__ == "__main__":
    sys.exit(main())
