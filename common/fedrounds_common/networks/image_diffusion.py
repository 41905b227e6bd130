"""MONAI's DiffusionModelUNet, small."""

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
class ImageDiffusion(Network):
    """`grid`: the size of its images, by default 32 on each axis. `widths`: channels of each level, full size first.
    `attention`: whether the last level looks at all of the image at once."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    makes: ClassVar[Makes] = "images"

    grid: Annotated[tuple[Count, ...], Field(max_length=3)] = ()
    widths: Annotated[tuple[Annotated[int, Field(ge=8, multiple_of=8)], ...], Field(min_length=2)] = (16, 32, 64)
    blocks: Count = 1
    attention: bool = True

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        """`inputs`: channels that say what is wanted, 0 for none. `outputs`: channels of the images."""
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

        from fedrounds_common.generative.diffusion import Diffusion
        from fedrounds_common.generative.grids import grid_of
        from fedrounds_common.layers import without_in_place

        grid = grid_of(self.grid, dims, self.divisor(dims))
        levels = len(self.widths)
        unet = DiffusionModelUNet(
            dims, outputs + inputs, outputs, num_res_blocks=self.blocks, channels=self.widths, norm_num_groups=8,
            attention_levels=(*(False,) * (levels - 1), self.attention), num_head_channels=8,
        )  # fmt: skip
        return Diffusion(grid, outputs, without_in_place(unet))

    def divisor(self, dims: int) -> int:
        return int(2 ** (len(self.widths) - 1))
