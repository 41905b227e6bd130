"""Whether a consensus can be one that updates have made: a coordinator that alters weights to read images is refused.

A coordinator decides what weights a site starts from, and by some a single image shows in what leaves: a head that is
already sure of every class but one lets through the gradient of that class alone (Wen et al. 2022, arXiv:2202.00580);
first layers can be set as traps (Boenisch et al. 2021, arXiv:2112.02918). Networks cannot be altered, they come from
the hospital's own program. Weights can, but not by little. So a site keeps of each tensor, by a sketch of 256 numbers,
where the consensus was that it was sent last, signed, and how far its own updates carried it. A mean of updates goes
no farther than the farthest of them; what has moved ten times as far as any update from here, in any tensor, is
refused. What moves less passes: of that, noise and secure sums take care. Honest ones are let pass where sites differ:
lengths are counted at the learning rate that a round had, so that what warms up is not taken for an attack, and a
tensor that hardly moves here (a class that this site has no case of) may move as this site's weights do on average.

A consensus in which noise hides hospitals moves by that noise, and is not looked at. Nor is the first of a run, which
comes from the study's seed or from a file: its digest is in the lineage, and sites can compare theirs. In a rehearsal
nobody is there to be kept out.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedrounds_common.arrays import Array, Arrays, is_float
from fedrounds_common.case import F64
from fedrounds_common.disk import write_whole
from fedrounds_common.errors import RefusedError
from fedrounds_common.rng import generator
from fedrounds_common.tensorfile import file_parts

if TYPE_CHECKING:
    from fedrounds_client.site import Site
    from fedrounds_common.study.tables import Training

FILE = "steady.safetensors"
WIDTH = 256  # numbers of a sketch: a distance between two is right to 9 %
BLOCK = 2**20
SLOWEST = 0.01  # share of the learning rate: a slower round tells nothing of faster ones
FARTHER = 10.0  # than the largest of this site's own updates: sites differ, and a server's momentum adds up


def steady_of(site: Site) -> Steady:
    return Steady(site.folder, looks=site.books is not None and site.parts.noisy_sum is None)


@final
class Steady:
    """What one run's folder keeps of the consensus; made anew where it cannot be read. `looks`: False, and it does nothing."""

    def __init__(self, folder: Path, *, looks: bool = True) -> None:
        self._file, self._looks = folder / FILE, looks
        self._round, self._seen, self._own, self._even = 0, dict[str, F64](), dict[str, float](), 0.0
        try:
            found = load_file(self._file) if looks and self._file.is_file() else {}
            self._round = int(found["round"][0]) if found else 0
            self._even = float(found["even"][0]) if found else 0.0
            for key, array in found.items():
                kind, _, name = key.partition("|")
                if kind == "seen":
                    self._seen[name] = array
                elif kind == "own":
                    self._own[name] = float(array[0])
        except (SafetensorError, OSError, ValueError, KeyError, IndexError):
            self._round, self._seen, self._own, self._even = 0, {}, {}, 0.0

    def check(self, round_: int, arrays: Arrays, rate: float = 1.0) -> None:
        """Raises RefusedError FR-C38 naming the tensor: it has moved as updates cannot have moved it.

        Args:
            rate: the highest learning rate of any round so far, as a share of the study's.
        """
        if not self._round:
            return
        rounds = max(1, abs(round_ - self._round))
        for name, own in self._own.items():
            if own <= 0 or name not in arrays or name not in self._seen:
                continue
            moved = float(np.linalg.norm(sketch(name, arrays[name]) - self._seen[name]))
            own = rate * max(own, self._even * math.sqrt(arrays[name].size))
            if moved > FARTHER * own * rounds:
                raise RefusedError(
                    "FR-C38",
                    f"{name} has moved by {moved:.3g} in {rounds} round{'s' * (rounds > 1)}",
                    wanted=f"at most {FARTHER:g} times the {own:.3g} of this site's own updates",
                    do=f"ask what was done to the weights; if that is right, {FILE} in the run's folder may go",
                )

    def keep(self, round_: int, received: Arrays, update: Arrays, rate: float = 1.0) -> None:
        """Write down the consensus that was answered, and how far the update from it goes.

        Args:
            rate: the mean learning rate of this round, as a share of the study's.
        """
        if not self._looks:
            return
        floats = [name for name, array in received.items() if is_float(array)]
        own = {
            name: float(np.linalg.norm(np.asarray(update[name], np.float64))) / rate
            for name in floats
            if name in update
        }
        entries = sum(update[name].size for name in own)
        self._even = max(self._even, math.sqrt(math.fsum(length**2 for length in own.values()) / max(entries, 1)))
        self._own = {name: max(length, self._own.get(name, 0.0)) for name, length in own.items()}
        self._round, self._seen = round_, {name: sketch(name, received[name]) for name in floats}
        kept: dict[str, Array] = {f"seen|{name}": array for name, array in self._seen.items()}
        kept |= {f"own|{name}": np.array([length]) for name, length in self._own.items()}
        write_whole(
            self._file,
            *file_parts({**kept, "round": np.array([round_]), "even": np.array([self._even])}, {"format": "1"}),
        )


def rates(training: Training, round_: int) -> tuple[float, float]:
    """The mean rate of this round and the highest of any until now, as shares of the study's `learning_rate`."""
    from fedrounds_client.training import learning_rate

    points, total = 16, 16 * training.rounds  # of a round; how many steps it has does not change the schedule
    each = [learning_rate(training, step, total) / training.learning_rate for step in range(points * round_)]
    return max(SLOWEST, float(np.mean(each[-points:]))), max(each)


def sketch(name: str, array: Array) -> F64:
    """(WIDTH,): each entry into one of so many sums, with a sign, both by its place: the length of a difference of two
    sketches is about that of the tensors' difference (Charikar, Chen, Farach-Colton 2002)."""
    flat, made = np.asarray(array).reshape(-1), np.zeros(WIDTH, np.float64)
    for start in range(0, len(flat), BLOCK):
        part = flat[start : start + BLOCK].astype(np.float64)
        words = generator(0, "steady", name, start).integers(0, 2 * WIDTH, len(part), np.int32)
        made += np.bincount(words >> 1, weights=part * (1.0 - 2.0 * (words & 1)), minlength=WIDTH)
    return made
