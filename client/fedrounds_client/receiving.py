"""The consensus as it comes in: put together with what is held here, and checked to be what was sent.

A study may send differences from the consensus that a site received before. So a site keeps the last few that it was
sent, by digest, below its run's folder. What a difference is from is named by its digest, and so is what has to come
out: a site that lacks the one says so and is sent the whole, and one that comes to something else does not train on it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fedrounds_common.arrays import Arrays, digest, manifest
from fedrounds_common.disk import remove_file, write_whole
from fedrounds_common.downwards import unpack_down
from fedrounds_common.errors import UpdateError
from fedrounds_common.leaving import Ask
from fedrounds_common.numbered import by_number

if TYPE_CHECKING:
    from fedrounds_client.site import Site

FOLDER = "held"
KEPT_FILES = 2  # the coordinator, gone back by a round, asks for one again; from further back it sends the whole


def received(ask: Ask, site: Site) -> Ask:
    """The same request with the consensus in it as this site holds it from now on.

    Raises:
        UpdateError: FR-R70 what came is a difference from what is not held here; FR-R71 it comes to something else than
            what was sent; FR-R11 it cannot be read.
    """
    if not ask.holds:  # it travels as it is, as in every other round
        return ask
    like, folder = site.parts.like(), site.folder / FOLDER
    held = _held(folder, ask.base, like) if ask.form in ("difference", "held") else None
    arrays = unpack_down(ask.form, site.parts.down, ask.arrays, held, like)
    if digest(arrays) != ask.holds:
        if held is not None:
            raise _not_held(ask.base)
        raise UpdateError("FR-R71", "the consensus that came is not the one that was sent", wanted=ask.holds[:12])
    if site.parts.down.differences:
        _keep(folder, ask.round, ask.holds, arrays)
    return replace(ask, arrays=arrays, form="", base="")


def newest_held(folder: Path) -> str:
    """The digest of the consensus that this site was sent last; "" if it keeps none. What it is worth is seen on use."""
    files = _files(folder / FOLDER)
    return _digest_of(files[-1]) if files else ""


def _held(folder: Path, base: str, like: Arrays) -> Arrays:
    file = next((file for file in _files(folder) if _digest_of(file) == base), None)
    if file is None:
        raise _not_held(base)
    try:
        found = load_file(file)
        arrays = {name: found[name] for name in like}
    except (SafetensorError, OSError, ValueError, KeyError):
        arrays = {}
    if digest(arrays) != base or manifest(arrays) != manifest(like):
        remove_file(file)  # damaged: the next one comes whole
        raise _not_held(base)
    return arrays


def _not_held(base: str) -> UpdateError:
    return UpdateError(
        "FR-R70", f"the consensus {base[:12]} is not held here", wanted="the whole, in place of a difference"
    )


def _keep(folder: Path, round_: int, name: str, arrays: Arrays) -> None:
    file = folder / f"round-{round_:04d}-{name}.safetensors"
    if not file.exists():
        flat = {key: np.asarray(array, order="C") for key, array in arrays.items()}
        write_whole(file, save(flat))
    for old in [other for other in _files(folder) if other != file][: 1 - KEPT_FILES]:
        remove_file(old)


def _files(folder: Path) -> list[Path]:
    return by_number(folder.glob("round-*.safetensors"))


def _digest_of(file: Path) -> str:
    return file.stem.rsplit("-", 1)[1]
