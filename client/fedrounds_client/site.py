"""One site as the ClientApp sees it: its name, its own folder, its cases, and the study's plug-ins built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, final

from fedrounds_common.arrays import Arrays, of_module
from fedrounds_common.case import Cases
from fedrounds_common.codec import Codec
from fedrounds_common.freezing import freeze
from fedrounds_common.leaving import MAX_NORM, Ask
from fedrounds_common.network import Network
from fedrounds_common.privacy import NoisySteps, NoisySum
from fedrounds_common.rng import derive, seeded
from fedrounds_common.strategy import Strategy
from fedrounds_common.study.canonical import study_from_canonical
from fedrounds_common.study.study import Study
from fedrounds_common.task import Task
from fedrounds_sites.hospitals import Hospital

if TYPE_CHECKING:
    from torch import nn

    from fedrounds_client.device import Device


@final
@dataclass(frozen=True)
class Parts:
    """What the study names, built: from our files, from a person's own folders, or handed in as objects.

    `device`: where its networks run. `noisy`: how steps are taken, where the study protects patients; `noisy_sum`: how the
    sum over hospitals is made, where it protects these; `smallest`: of how few cases no scores are told.
    """

    study: Study
    task: Task
    network: Network
    strategy: Strategy
    codec: Codec
    down: Codec
    device: Device = "cpu"
    noisy: NoisySteps | None = None
    noisy_sum: NoisySum | None = None
    smallest: int = 0

    def like(self) -> Arrays:
        """Arrays of the study's network: their names, shapes and dtypes are those of everything that comes and goes."""
        return of_module(self.module())

    def module(self) -> nn.Module:
        """The network for this study's cases, its weights drawn from the study's seed; what is frozen does not train.

        Raises:
            UsageError: FR-U49 `training.freeze` names what the network has not.
            MachineError: FR-E61 a GPU is wanted and none is seen.
        """
        from fedrounds_client.device import device_of, placed

        training = self.study.training
        with seeded(derive(self.study.seed, "weights")):
            module = self.task.network(self.network, self.study.cases)
        frozen = freeze(module, self.network, training.freeze)
        return placed(frozen, device_of(self.device), compiled=training.compile)


@final
@dataclass(frozen=True)
class Site:
    """`folder` holds what one run keeps here. `books`: where ledger and log are, if not there too.

    `pieces`: each batch goes through the network in so many, once memory has run out (`apart.py`).
    `withdrawn`: cases that are left out because their patients withdrew. `secret`: what replicates are drawn from at a real
    site (`metrics/hiding.py`); empty in a simulation, which draws them from the study's seed.
    """

    name: str
    folder: Path
    hospital: Hospital
    parts: Parts
    max_norm: float = MAX_NORM
    pieces: int = 1
    books: Path | None = None
    withdrawn: int = 0
    secret: bytes = field(default=b"", repr=False)

    def cases_behind(self, ask: Ask) -> Cases:
        """The cases that an answer to this request is made with; none of a hello."""
        if ask.kind in ("hello", "mask"):
            return ()
        if ask.kind == "score":
            return self.hospital.cohort(ask.cohort)
        opened = self.hospital.open_all()
        validates = ask.kind == "statistics" and ask.purpose in self.parts.task.of_validation
        return opened.validation if validates else opened.training


def build_parts(
    study: Study,
    plugins: Sequence[Path] = (),
    task: Task | None = None,
    network: Network | None = None,
    strategy: Strategy | None = None,
    device: Device = "cpu",
) -> Parts:
    """Objects win over the study's names: only a simulation can hand them in."""
    return Parts(
        study,
        task or study.build_task(plugins),
        network or study.build_network(plugins),
        strategy or study.build_strategy(plugins),
        study.build_codec(plugins),
        study.build_down(plugins),
        device,
        study.noisy_steps(plugins),
        study.noisy_sum(plugins),
        study.smallest_group(plugins),
    )


@lru_cache(maxsize=8)
def parts_of_text(text: str, plugins: tuple[Path, ...], device: Device = "cpu") -> Parts:
    """The parts of a study as it came in a message; built once a process."""
    return build_parts(study_from_canonical(text, plugins), plugins, device=device)
