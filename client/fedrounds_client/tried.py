"""See it before you allow it: one round on the site's own cases, without network, its very payload in a folder.

    tries/DIGEST/update.json, update.bin    header and buffer of the update, as they would travel
    tries/DIGEST/scores.json, scores.bin    of judging the start weights, where the site has cases for it
    tries/DIGEST/statistics-PURPOSE.json, … of each kind of sums that the task asks for, with the start weights
    tries/DIGEST/page.html                  every tensor, number and byte of them all
    tries/DIGEST/try.json                   digests, seconds, bytes on disk, and whether the network was off

The work is done by a process of its own, behind the walls that answers are made behind; nothing is sent.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedrounds_client.apart import walls_of
from fedrounds_client.home import SiteHome, read_table
from fedrounds_client.jail import bare_environment, shut_in
from fedrounds_client.journal import note
from fedrounds_client.ledger import payload_digest
from fedrounds_client.waiting import Waiting, find
from fedrounds_common.arrays import of_module
from fedrounds_common.disk import write_json, write_text, write_whole
from fedrounds_common.dp.sums import with_clip
from fedrounds_common.errors import MachineError, code_of
from fedrounds_common.leaving import Ask, check_update, to_wire
from fedrounds_common.settling import purposes

if TYPE_CHECKING:
    from fedrounds_client.site import Site

OFF_THE_WIRE = "try"  # in place of run and nonce


def try_out(home: SiteHome, asked: Waiting) -> Path:
    """Do it in a process of its own; returns the page.

    Raises:
        MachineError: FR-C29 it failed, with the code that it failed with.
    """
    folder = folder_of(home, asked.study)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    command = [sys.executable, "-m", "fedrounds_client.tried", str(home.folder), asked.study]
    with (folder / "log").open("ab") as log:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=bare_environment(), check=False
        )  # fmt: skip
    page, said = folder / "page.html", read_table(folder / "try.json") or {}
    if done.returncode != 0 or not page.is_file():
        raise MachineError(
            "FR-C29", f"the try ended with {said.get('code', f'status {done.returncode}')}", wanted="one round, done",
            do="see the log, and `fedrounds explain CODE`", where=str(folder / "log"),
        )  # fmt: skip
    note(home, "tried", study=asked.study, network_off=said["network_off"], update=said["update"])
    return page


def folder_of(home: SiteHome, study: str) -> Path:
    return home.tries / study[:12]


def network_is_off() -> bool:
    """Whether this process has no way out: no device but the one to itself (Linux); elsewhere nobody can tell: False."""
    try:
        lines = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()[2:]
    except OSError:
        return False
    return {line.split(":")[0].strip() for line in lines} <= {"lo"}


# ---------------------------------------------------------------- the process of its own


def work(home: SiteHome, study: str, walls: Sequence[str]) -> None:
    """One round and one judging, from the study's own start weights; everything into the folder, images away again but
    for those that `[machine] cache` keeps."""
    from fedrounds_client.caches import remember
    from fedrounds_client.enrolled import device_at, own_of, show_gpu
    from fedrounds_client.lineage import secret_of
    from fedrounds_client.page import page_of
    from fedrounds_client.site import Site, parts_of_text
    from fedrounds_client.withdrawn import withdrawn_patients
    from fedrounds_sites.cache import stored_bytes
    from fedrounds_sites.own import open_own

    settings, asked = home.read_settings(), find(home, study)
    show_gpu(settings)
    folder, parts = folder_of(home, study), parts_of_text(asked.text, settings.plugins, device_at(settings))
    inside = folder / "run"
    remember(home, settings.cache)
    try:
        own = open_own(own_of(settings), parts.study, inside, withdrawn_patients(home))
        site = Site(
            settings.name, inside, own.hospital, parts, withdrawn=own.withdrawn, secret=secret_of(home, "replicates")
        )
        opened = own.hospital.open_all()  # reading and preparing is done once, not in every round
        started = time.monotonic()
        payloads = _payloads(site, asked)
        seconds = time.monotonic() - started
        # of this study's cases: a cache that outlasts runs holds other studies' too
        disk = sum(map(stored_bytes, (*opened.training, *opened.validation, *opened.held_out)))
    finally:
        shutil.rmtree(inside, ignore_errors=True)
    said = {
        "study": study, "network_off": network_is_off(), "walls": list(walls), "seconds": seconds,
        "disk_bytes": disk, "update": payload_digest(*payloads["update"]) if "update" in payloads else "",
    }  # fmt: skip
    for kind, (header, buffer) in payloads.items():
        write_text(folder / f"{kind}.json", header)
        write_whole(folder / f"{kind}.bin", buffer)
    write_text(folder / "page.html", page_of(settings.name, asked, payloads, said))
    write_json(folder / "try.json", said)


def _payloads(site: Site, asked: Waiting) -> dict[str, tuple[str, bytes]]:
    """Header and buffer by kind: what the very code of a round makes, up to where it would be signed."""
    from fedrounds_client.rounds import gather, judge, most_of, take_part

    parts = site.parts
    consensus = parts.strategy.begin(of_module(parts.module()))
    ask = Ask(
        "train", OFF_THE_WIRE, 1, OFF_THE_WIRE, asked.text, asked.study, arrays=consensus.arrays,
        shared=with_clip(consensus.shared, parts.noisy_sum),
    )  # fmt: skip
    payloads = {}
    if parts.study.training.rounds:
        update, _ = take_part(ask, site)
        decoded = parts.codec.decode(update.arrays, ask.arrays)
        check_update(replace(update, arrays=decoded), ask.arrays, most_of(site, ask))
        payloads["update"] = to_wire(update)
    for purpose in purposes(parts.task):
        asks = replace(ask, kind="statistics", round=0, shared={}, purpose=purpose)
        if len(site.cases_behind(asks)) >= max(1, parts.smallest):
            payloads[f"statistics-{purpose}"] = to_wire(gather(asks, site))
    if len(site.hospital.cohort("local-val")) >= max(1, parts.smallest):
        payloads["scores"] = to_wire(judge(replace(ask, kind="score", cohort="local-val"), site))
    return payloads


def main(arguments: Sequence[str]) -> int:
    """`HOME STUDY`; what goes wrong is told by its code in try.json, and in full in the log."""
    os.umask(0o077)
    home, study = SiteHome(Path(arguments[0])), arguments[1]
    walls = shut_in(replace(walls_of(home), network=True))  # whatever site.toml says
    try:
        work(home, study, walls)
    except Exception as error:
        write_json(folder_of(home, study) / "try.json", {"code": code_of(error)})
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
