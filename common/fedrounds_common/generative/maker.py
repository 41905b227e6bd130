"""What a network that makes images is to the task: a module that knows its own losses and how it is sampled.

Shapes: B examples, C channels, Q channels that say what is wanted (classes, label maps), *grid. Images lie in [-1, 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, final

from torch import nn

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Method = Literal["gan", "vae", "diffusion"]


@final
@dataclass(frozen=True)
class Settings:
    """What of the task's table the losses and the sampling read; see `tasks/generation.py`."""

    penalty: float
    divergence: float
    adversarial: float
    levels: int
    steps: int


class Maker(nn.Module, ABC):
    """A module that makes images of one size from noise, and from what is wanted of them."""

    method: ClassVar[Method]

    def __init__(self, grid: Sequence[int], channels: int) -> None:
        super().__init__()
        self.grid, self.channels = tuple(grid), channels

    def leave_judge_out(self) -> None:
        """Drop the discriminator, if it is there for a term of the loss that the study leaves out."""

    @abstractmethod
    def loss(self, image: Tensor, wanted: Tensor, turn: str, rng: torch.Generator, settings: Settings) -> Tensor:
        """image (B, C, *grid) and wanted (B, Q, *grid) → one value per example, (B,)."""

    @abstractmethod
    def make(self, wanted: Tensor, rng: torch.Generator, settings: Settings) -> Tensor:
        """wanted (B, Q, *grid) → images (B, C, *grid) in [-1, 1]; the same generator gives the same images."""
