"""What a site keeps between rounds: optimiser moments, the strategy's state, the codec's residual, and the weights
that its task never sends; by round.

A message for round r starts from the state of round r − 1 and writes that of round r, so a round
asked twice gives the same update. The last four are kept. Written whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedrounds_common.arrays import Array, Arrays
from fedrounds_common.disk import remove_file, write_whole
from fedrounds_common.errors import RunFileError
from fedrounds_common.tensorfile import file_parts

# The coordinator keeps three checkpoints. Gone back from round r + 1 to the oldest, r − 2, it asks for round
# r − 1 again, which starts from the state of r − 2: with fewer kept, that round would start afresh without a word.
KEPT_FILES = 4
FORMAT = "1"


@final
@dataclass(frozen=True)
class SiteState:
    moments: Arrays = field(default_factory=dict)
    kept: Arrays = field(default_factory=dict)
    residual: Arrays = field(default_factory=dict)
    own: Arrays = field(default_factory=dict)


def _file(folder: Path, round_: int) -> Path:
    return folder / f"round-{round_:04d}.safetensors"


def read_state(folder: Path, round_: int) -> SiteState:
    """The state after `round_`; empty if this site did not take part in it.

    A site that missed rounds goes on from the newest state before `round_` + 1.

    Raises:
        RunFileError: the file is damaged.
    """
    older = [n for n in _rounds(folder) if n <= round_]
    if not older:
        return SiteState()
    file = _file(folder, older[-1])
    parts: dict[str, dict[str, Array]] = {"moments": {}, "kept": {}, "residual": {}, "own": {}}
    try:
        for key, array in load_file(file).items():
            part, name = key.split("|", 1)
            parts[part][name] = array
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise RunFileError(
            "FR-F10", f"{file.name} cannot be read", wanted="the state as this site wrote it",
            do="put it back, or take the site's state folder away: it then starts afresh",
        ) from error  # fmt: skip
    return SiteState(**parts)


def write_state(folder: Path, round_: int, state: SiteState) -> None:
    parts = {"moments": state.moments, "kept": state.kept, "residual": state.residual, "own": state.own}
    flat = {f"{part}|{name}": array for part, arrays in parts.items() for name, array in arrays.items()}
    if not flat and not _rounds(folder):
        return  # nothing is what a site without a file starts from; an older file must not stand for this round
    write_whole(_file(folder, round_), *file_parts(flat, {"format": FORMAT}))
    # by count, not by age: a site drawn in rounds 1 and 5 needs round 1's state if round 5 is asked again
    for old in _rounds(folder)[:-KEPT_FILES]:
        remove_file(_file(folder, old))


def _rounds(folder: Path) -> list[int]:
    return sorted(int(file.stem.split("-")[1]) for file in folder.glob("round-*.safetensors"))
