"""Take the pictures of the terminal on the page for data managers: a real federation of two hospitals.

`python docs/screens.py FOLDER` plays it below FOLDER, a new one, and writes `docs/images/site-*.svg`. The
coordinator and both sites are processes over TLS; the images are phantom brains, written as NIfTI files in the
way of BraTS, so that the hospitals' commands are those of a hospital. Takes some minutes.
"""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.simulation import READERS

IMAGES = Path(__file__).resolve().parent / "images"
WIDTH = 118
PATIENCE_S = 900.0
SITES = {"oslo": "s1", "lund": "s2"}  # each a hospital of the phantom
CHANNELS = ("t1", "t1ce", "t2", "flair")
PHANTOM = {"name": "phantom_glioma", "profile": "eight", "scale": 1.0, "spacing_mm": 5.0}
STUDY = """\
format = 1
name = "glioma-two"
seed = 1

[cases]
dims = 3
channels = ["t1", "t1ce", "t2", "flair"]
labels = { necrosis = 1, oedema = 2, enhancing = 4 }
regions = { ET = ["enhancing"], TC = ["enhancing", "necrosis"], WT = ["enhancing", "necrosis", "oedema"] }
spacing_mm = [5.0, 5.0, 5.0]

[model]
name = "tiny_unet"
channels = [16, 32]

[training]
rounds = 3
local_steps = 6
batch = 2
patch = [24, 24, 24]
learning_rate = 3e-3

[cohort]
sites = ["lund", "oslo"]
minimum = 2
deadline_s = 300.0

[evaluation]
local_validation = 0.5
"""
# no font is fetched from anywhere, and unlike in rich's own frame the last line keeps its descenders
THEME = TerminalTheme(
    (252, 252, 250), (40, 42, 46),
    [(40, 42, 46), (179, 38, 30), (36, 113, 63), (138, 98, 0), (32, 91, 160), (122, 62, 157), (0, 110, 120), (90, 92, 96)],
)  # fmt: skip
SVG = """\
<svg class="terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<style>
.{unique_id}-matrix {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: {char_height}px; \
line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
"""


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    for site, group in SITES.items():
        write_images(folder / site / "images", group)
    (folder / "glioma-two.toml").write_text(STUDY, "utf-8")
    coordinator = folder / "coordinator"
    front, superlink = free_ports(2)
    quiet(
        folder,
        "coordinator",
        "init",
        f"127.0.0.1:{front}",
        "--superlink-port",
        str(superlink),
        "--name",
        "Demo",
        "--folder",
        coordinator,
    )
    quiet(folder, "coordinator", "start", "--detach", "--folder", coordinator)
    try:
        quiet(folder, "coordinator", "invite", *SITES, "--folder", coordinator)
        play(folder, coordinator)
    finally:
        quiet(folder, "coordinator", "stop", "--folder", coordinator)


def play(folder: Path, coordinator: Path) -> None:
    oslo, lund = (folder / site for site in SITES)
    for site in SITES:
        shutil.copy(folder / f"{site}.invitation", folder / site)
    options = ("--reader", "nifti_folder", "-s", "data.root=images", "-s", "data.layout=brats")
    shot("site-init", oslo, "site", "init", "site", "--name", "oslo", *options)
    quiet(lund, "site", "init", "site", "--name", "lund", *options, "-s", "policy.minimum_cases=5")
    for place in (oslo, lund):
        settings = place / "site/site.toml"
        settings.write_text(
            settings.read_text("utf-8").replace('root = "images"', f'root = "{place / "images"}"'), "utf-8"
        )
    with joined(lund, "lund"), joined(oslo, "oslo") as said:
        wait_for(lambda: "waiting to be enrolled" in said(), "both sites to ask")
        prints = [fingerprint(place / "site") for place in (oslo, lund)]
        given = [word for each in prints for word in ("--fingerprint", each)]
        quiet(folder, "coordinator", "enrol", *SITES, *given, "--wait", "60", "--folder", coordinator)
        wait_for(lambda: "connected to" in said(), "oslo to be connected")
        draw("site-join", f"fedrounds site join oslo.invitation --site site\n{said()}")
        shot("site-doctor", oslo, "site", "doctor", "--site", "site")
        quiet(folder, "coordinator", "submit", "glioma-two.toml", "--folder", coordinator)
        for place in (oslo, lund):
            wait_for(lambda place=place: any((place / "site/waiting").glob("*.json")), f"{place.name} to be asked")  # type: ignore[misc]
        shot("site-review", oslo, "site", "review", "--site", "site")
        shot("site-try", oslo, "site", "review", "--try", "--site", "site", last=4)
        draw_page("site-try-page", next((oslo / "site/tries").glob("*/page.html")))
        shot("site-allow", oslo, "site", "allow", "--all", "--rounds", "3", "--site", "site")
        quiet(lund, "site", "allow", "--all", "--site", "site")
        wait_for(lambda: ended(coordinator), "the run to end")
        shot("coordinator-status", folder, "coordinator", "status", "--folder", "coordinator")
        shot("site-outbox", oslo, "site", "outbox", "--site", "site")
        shot("site-journal", oslo, "site", "journal", "--site", "site", last=14)
        shot("site-verify", oslo, "site", "journal", "--verify", "--site", "site")
        shot("site-lineage", oslo, "lineage", patient(oslo / "images"), "--site", "site")
        shot("site-pause", oslo, "site", "pause", "--site", "site")


def write_images(folder: Path, group: str) -> None:
    """One hospital's phantom cases in the folders and names of BraTS."""
    reader = READERS.load(PHANTOM, ())
    form = CaseForm(channels=CHANNELS, labels={"necrosis": 1, "oedema": 2, "enhancing": 4})
    for ref in reader.cases(form):
        if ref.site != group:
            continue
        case, name = reader.load(ref, form), ref.name.replace("/", "_")
        place = folder / name
        place.mkdir(parents=True)
        for channel, image in zip(CHANNELS, case.image, strict=True):
            nib.save(nib.Nifti1Image(image, case.affine), place / f"{name}_{channel}.nii.gz")
        nib.save(nib.Nifti1Image(np.asarray(case.target.voxels, np.uint8), case.affine), place / f"{name}_seg.nii.gz")


def patient(images: Path) -> str:
    return min(place.name for place in images.iterdir())


def fingerprint(site: Path) -> str:
    from fedrounds_client.home import SiteHome

    return SiteHome(site).key.public.fingerprint


def ended(coordinator: Path) -> bool:
    from fedrounds_server.folder import RunFolder, read_json

    runs = sorted((coordinator / "runs").glob("0*"))
    return bool(runs) and RunFolder(runs[-1]).status.exists() and "exit" in read_json(RunFolder(runs[-1]).status)


@contextmanager
def joined(place: Path, site: str) -> Iterator[Callable[[], str]]:
    """A site that stays joined; what it has said so far, as a terminal shows it."""
    said = place / "join.txt"
    with said.open("wb") as out:
        words = command("site", "join", f"{site}.invitation", "--site", "site")
        process = subprocess.Popen(words, cwd=place, stdout=out, stderr=out, start_new_session=True, env=environment())
        try:
            yield lambda: said.read_text("utf-8")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def wait_for(there: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not there():
        if time.monotonic() > end:
            sys.exit(f"waited {PATIENCE_S:.0f} s for {what}")
        time.sleep(0.2)


def command(*words: object) -> list[str]:
    return [str(Path(sys.executable).with_name("fedrounds")), *map(str, words)]


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FEDROUNDS_")}
    return {**clean, "TERM": "xterm-256color", "COLUMNS": str(WIDTH)}


def quiet(place: Path, *words: object) -> None:
    subprocess.run(command(*words), cwd=place, check=True, env=environment(), stdout=subprocess.DEVNULL)


def shot(name: str, place: Path, *words: object, last: int = 0) -> None:
    """Run a command in a terminal and draw what it showed; with `last`, the end of it only."""
    typed = " ".join(["fedrounds", *map(str, words)])
    lines = in_terminal(place, command(*words)).splitlines()
    if last and len(lines) > last:
        lines = ["…", *lines[-last:]]
    draw(name, "\n".join([typed, *lines]))


def in_terminal(place: Path, words: list[str]) -> str:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, WIDTH, 0, 0))
    process = subprocess.Popen(words, cwd=place, stdin=theirs, stdout=theirs, stderr=theirs, env=environment())
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's way of saying that nobody writes any more
            break
        if not part:
            break
        said += part
    process.wait()
    os.close(ours)
    return said.decode("utf-8", "replace").replace("\r\n", "\n")


def draw(name: str, text: str) -> None:
    """A prompt, what was typed, and what came, as SVG."""
    typed, _, said = text.partition("\n")
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True, highlight=False)
    console.print(Text.assemble(("$ ", "bold"), (typed, "bold")))
    console.print(Text.from_ansi(said.rstrip("\n")))
    console.save_svg(
        str(IMAGES / f"{name}.svg"), title=name.replace("-", " "), theme=THEME, code_format=SVG, unique_id=name
    )


def draw_page(name: str, page: Path) -> None:
    """What a browser shows of a page, if there is one here."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        return
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,900")
    subprocess.run(
        [browser, *options, f"--screenshot={IMAGES / name}.png", page.as_uri()], check=True, capture_output=True
    )


def free_ports(count: int) -> list[int]:
    holders = [socket.socket() for _ in range(count)]
    for holder in holders:
        holder.bind(("127.0.0.1", 0))
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: screens.py FOLDER")
    main(Path(sys.argv[1]).resolve())
