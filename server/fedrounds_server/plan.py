"""A run as the coordinator sees it, before it begins: the study, its plug-ins built, and where everything goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from fedrounds_common.arrays import Arrays
from fedrounds_common.codec import Codec
from fedrounds_common.codecs.float32 import Float32
from fedrounds_common.network import Network
from fedrounds_common.privacy import Privacy
from fedrounds_common.strategy import Strategy
from fedrounds_common.study.study import Study
from fedrounds_common.task import Task
from fedrounds_server.clock import Clock
from fedrounds_server.folder import RunFolder
from fedrounds_server.keys import Keys
from fedrounds_server.updates import BUDGET_BYTES

if TYPE_CHECKING:
    from torch import nn

Listener = Callable[[str, Mapping[str, Any]], None]


def nobody(event: str, facts: Mapping[str, Any]) -> None:
    """The listener of a run that nobody watches."""


@final
@dataclass(frozen=True)
class Plan:
    """`text` is the study's canonical text, `digest` its digest; `initial` the weights that round 1 starts from.

    `start_model`: what stands in the tables for these, "untrained" or "initial".
    `anew`: begin with round 1 where every checkpoint is damaged, which is otherwise refused.
    `keys`: between hospitals, who may say what; None in a simulation, where nobody signs.
    `durable`: what a round has received is on disk before it counts; always so where there are keys.
    `network`: where it is not the one that the study names. `codec`, `down`: how updates and the consensus travel.
    `trained`: the names of the weights that train and leave; None: every float array of the model.
    `measures`: the study's privacy measures.
    """

    study: Study
    text: str
    digest: str
    folder: RunFolder
    task: Task
    strategy: Strategy
    codec: Codec
    initial: Arrays
    start_model: str = "untrained"
    resume: bool = False
    listen: Listener = nobody
    update_budget_bytes: int = BUDGET_BYTES
    anew: bool = False
    keys: Keys | None = None
    durable: bool = False
    clock: Clock = field(default_factory=Clock)
    network: Network | None = None
    down: Codec = field(default_factory=Float32)
    trained: frozenset[str] | None = None
    measures: tuple[Privacy, ...] = ()

    def module(self) -> nn.Module:
        """The network for this study's cases, with any weights: what sums of no case are made of."""
        return self.task.network(self.network or self.study.build_network(), self.study.cases)

    @property
    def keeps(self) -> bool:
        """Whether each update is on disk before it counts."""
        return self.durable or self.keys is not None
