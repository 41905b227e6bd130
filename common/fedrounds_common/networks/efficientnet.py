"""EfficientNet b0 to b7 (Tan and Le 2019, arXiv:1905.11946) of MONAI, for pictures and for volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field

from fedrounds_common.network import ScoresNetwork

if TYPE_CHECKING:
    from torch import nn


@final
@dataclass(frozen=True)
class EfficientNet(ScoresNetwork):
    """`size`: b0 to b7, which sets widths and depths. `drop_connect`: share of residual blocks that are left out.

    MONAI pads for one size of image; here the padding goes by the image, so that every size is taken.
    """

    size: Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"] = "b0"
    drop_connect: Annotated[float, Field(ge=0, lt=1)] = 0.2
    stem: Literal["standard", "small"] = "standard"
    running_statistics: bool = False

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from monai.networks.nets.efficientnet import EfficientNetBN, MBConvBlock
        from torch import nn

        from fedrounds_common import layers, scores

        built = EfficientNetBN(f"efficientnet-{self.size}", False, False, dims, inputs, outputs)
        built.set_swish(memory_efficient=False)  # the other one hides its input from hooks
        blocks = [module for module in built.modules() if isinstance(module, MBConvBlock)]
        for number, block in enumerate(blocks):
            block.drop_connect_rate = self.drop_connect * number / len(blocks)
            depthwise = block._depthwise_conv
            block._depthwise_conv_padding = scores.SamePadded(depthwise.kernel_size[0], depthwise.stride[0])
        stride = 1 if self.stem == "small" else 2
        built._conv_stem.stride = (stride,) * dims
        body: nn.Module = scores.named(
            [
                ("_pad", scores.SamePadded(3, stride)), ("_conv_stem", built._conv_stem), ("_bn0", built._bn0),
                ("_swish0", nn.SiLU()), ("_blocks", built._blocks), ("_conv_head", built._conv_head),
                ("_bn1", built._bn1), ("_swish1", nn.SiLU()),
            ]
        )  # fmt: skip
        body = layers.without_in_place(body)
        if not self.running_statistics:
            body = scores.with_group_norm(body)
        head = scores.head(self.head, built._conv_head.out_channels, self.hidden, outputs, self.dropout)
        return scores.Scorer(body, head, self.dropout, name="efficientnet")

    def first_layers(self) -> tuple[str, ...]:
        return ("body._conv_stem.", "body._bn0.", "body._blocks.0.", "body._blocks.1.")

    def public_names(self) -> tuple[tuple[str, str], ...]:
        """Melas-Kyriazi's, which number the blocks through; MONAI's are numbered within each stage too."""
        return ((r"^_blocks\.(\d+)\.(?=_)", r"body._blocks.*.\1."), (r"^(?=_)", "body."))
