"""A network: a name in the study, and how to build it for so many inputs and outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import nn


# What a network's module gives: "maps" one logit per class and voxel, "scores" one logit per class and case.
Makes = Literal["maps", "scores"]


class Network(ABC):
    """A frozen dataclass in `networks/x.py`; its fields are the study's `[model]` table.

    `makes`: what the module gives; a task refuses a network that makes something else.
    """

    makes: ClassVar[Makes] = "maps"

    @abstractmethod
    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        """(B, inputs, *grid) → logits (B, outputs, *grid). Without running statistics unless a field asks.

        Initialisation draws from torch's global generator: the caller wraps this in `rng.seeded`.
        """

    def divisor(self, dims: int) -> int:
        """Grid sizes must be multiples of this; the task pads."""
        return 16
