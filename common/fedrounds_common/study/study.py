"""The study: the half that every side must share, as one frozen object.

Each plug-in's table stays a plain table here, checked and with its defaults filled in, so that the
study can be compared, written and sent; `build_*` makes the object from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from fedrounds_common import shelves
from fedrounds_common.channel import Channel
from fedrounds_common.codec import Codec
from fedrounds_common.network import Network
from fedrounds_common.privacy import Cost, NoisySteps, NoisySum, Privacy
from fedrounds_common.strategy import Strategy
from fedrounds_common.study.tables import CaseForm, Cohort, Evaluation, Table, Training
from fedrounds_common.task import Task

FORMAT = 1  # of the study file; a newer one is refused

# what a study means that does not name its task, network, strategy, codec or channel
DEFAULT_NAMES = {
    "task": "segmentation",
    "model": "unet",
    "strategy": "fedavg",
    "wire": "float32",
    "wire.channel": "plain",
    "wire.down": "float32",
}
WIRES = ("channel", "down")  # tables inside `[wire]`, whose other keys are the codec's


@final
@dataclass(frozen=True)
class Study:
    """Field names are the file's keys. `folders`, where given, hold the user's own plug-ins."""

    name: str
    task: Table
    model: Table
    strategy: Table
    wire: Table
    privacy: tuple[Table, ...] = ()
    cases: CaseForm = field(default_factory=CaseForm)
    training: Training = field(default_factory=Training)
    cohort: Cohort = field(default_factory=Cohort)
    evaluation: Evaluation = field(default_factory=Evaluation)
    seed: int = 0
    format: int = FORMAT

    def build_task(self, folders: Sequence[Path] = ()) -> Task:
        return shelves.TASKS.load(self.task, folders)

    def build_network(self, folders: Sequence[Path] = ()) -> Network:
        return shelves.NETWORKS.load(self.model, folders)

    def build_strategy(self, folders: Sequence[Path] = ()) -> Strategy:
        return shelves.STRATEGIES.load(self.strategy, folders)

    def build_codec(self, folders: Sequence[Path] = ()) -> Codec:
        """How updates travel."""
        return shelves.CODECS.load({key: value for key, value in self.wire.items() if key not in WIRES}, folders)

    def build_down(self, folders: Sequence[Path] = ()) -> Codec:
        """How the consensus travels."""
        return shelves.CODECS.load(self.wire["down"], folders)

    def build_channel(self) -> Channel:
        """Who sees an update on its way. Ours only: no other is carried out."""
        return shelves.CHANNELS.load(self.wire["channel"])

    def build_privacy(self, folders: Sequence[Path] = ()) -> tuple[Privacy, ...]:
        """The measures, in the order in which they are applied."""
        return tuple(shelves.PRIVACY.load(table, folders) for table in self.privacy)

    def noisy_steps(self, folders: Sequence[Path] = ()) -> NoisySteps | None:
        """How each step of local training is taken, where one of the measures says so."""
        found = [measure.steps(self.training) for measure in self.build_privacy(folders)]
        return next((steps for steps in found if steps is not None), None)

    def noisy_sum(self, folders: Sequence[Path] = ()) -> NoisySum | None:
        """How each round's sum over hospitals is made, where one of the measures says so."""
        found = [measure.sum(self.training, self.cohort) for measure in self.build_privacy(folders)]
        return next((each for each in found if each is not None), None)

    def smallest_group(self, folders: Sequence[Path] = ()) -> int:
        """Of how few cases a site tells no scores and no sums; 0: of any."""
        return max((measure.smallest() for measure in self.build_privacy(folders)), default=0)

    def costs_a_round(self, folders: Sequence[Path] = ()) -> tuple[Cost, ...]:
        """What each round costs a site's patients, and the site: each is a bill of its own."""
        steps, sum_ = self.noisy_steps(folders), self.noisy_sum(folders)
        of_steps = steps and Cost("patient", steps.multiplier, steps.rate, self.training.local_steps or 0)
        of_sum = sum_ and Cost("hospital", sum_.whole, 1.0, 1)
        return tuple(cost for cost in (of_steps, of_sum) if cost is not None)
