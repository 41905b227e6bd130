"""START: from the shell to the end of a first trivial round, two sites, with the files of the libraries warm.

    python benchmarks/start.py [--pairs N] [--without-installing]

Ours is the command that a user types, `fedrounds simulate STUDY`, with a network of our own and with one of MONAI;
Flower's and NVFlare's are a program of theirs with the same network in plain torch, as their pages show it.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from our_side import OFF, PLUGINS, study
from pairs import Side, Wanted, arguments, compare, write
from sides import HERE, OURS, path_of, start_file, theirs
from workload import Work

SHOWN = ("wall", "cpu", "peak_mib")
# the network of our own in MONAI's words; strides halve the grid as often
MONAI = 'name = "unet"\nchannels = [8, 16, 32]\nstrides = [2, 2]'
SHELL = '"$@" > said.json && echo "{}"'
PROGRAM = "from fedrounds.cli.main import run; run()"


def command(name: str, text: str, folder: Path) -> Side:
    file = folder / f"{name.split()[-1]}.toml"
    file.write_text(text, encoding="utf-8")
    words = ("simulate", str(file), "--plugins", str(PLUGINS), "--runs", "runs", "--format", "json")
    return Side(
        name, ("/bin/sh", "-c", SHELL, "sh", sys.executable, "-c", PROGRAM, *words), path_of(HERE, *OURS),
        tuple(off for off in OFF if off != "gradient clipping"),
    )  # fmt: skip


def main() -> None:
    given = arguments(__doc__, without_installing=(False, "take a peer that is there, and install none"))
    install = not given.without_installing
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = Work("unet", 2, 1, 1, 1, 2, 16)
        work = replace(work, start=str(start_file(work, folder)))
        own = study(work, 0, "inline", folder / "none").replace(f'initial_weights = "{folder / "none"}"\n', "")
        ours_own = command("fedrounds, tiny_unet", own, folder)
        head, _, rest = own.partition("[model]\n")
        ours_monai = command(
            "fedrounds, MONAI's unet", head + f"[model]\n{MONAI}\n[training]" + rest.partition("[training]")[2], folder
        )
        flower = theirs("flwr", work, install=install)
        rows = [
            compare("START", ours_own, flower, given.pairs, [Wanted("wall", most=2.5, alone=True)]),
            compare("START", ours_monai, flower, given.pairs, [Wanted("wall", most=4.5, alone=True)]),
            compare("START", ours_own, theirs("nvflare", work, 2, install), given.pairs),
        ]
    write("start", rows, {"sites": work.sites, "rounds": 1, "steps": 1, "grid": "16³"}, given.output, SHOWN)


if __name__ == "__main__":
    main()
