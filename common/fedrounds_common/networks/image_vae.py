"""A small variational autoencoder: down to a vector, and up from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, final

from pydantic import ConfigDict, Field

from fedrounds_common.network import Makes, Network
from fedrounds_common.plugins import STRICT

if TYPE_CHECKING:
    from torch import nn

Count = Annotated[int, Field(ge=1)]


@final
@dataclass(frozen=True)
class ImageVae(Network):
    """`grid`: the size of its images, by default 32 on each axis. `widths`: channels of each level, smallest first,
    each twice as large as the one before. `latent`: numbers that an image is coded by."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    makes: ClassVar[Makes] = "images"

    grid: Annotated[tuple[Count, ...], Field(max_length=3)] = ()
    widths: Annotated[tuple[Count, ...], Field(min_length=2)] = (64, 48, 32, 16)
    latent: Count = 32

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        """`inputs`: channels that say what is wanted, 0 for none. `outputs`: channels of the images."""
        from fedrounds_common.generative.grids import grid_of
        from fedrounds_common.generative.vae import Vae

        return Vae(grid_of(self.grid, dims), inputs, outputs, self.latent, self.widths)

    def divisor(self, dims: int) -> int:
        return 1
