"""ResNet (He et al. 2015, arXiv:1512.03385) of MONAI, for pictures and for volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from fedrounds_common.network import ScoresNetwork

if TYPE_CHECKING:
    from torch import nn

# He et al., table 1; 10 layers as in Med3D (Chen et al. 2019, arXiv:1904.00625)
BLOCKS = {
    10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3),
}  # fmt: skip
WIDTHS = (64, 128, 256, 512)


@final
@dataclass(frozen=True)
class ResNet(ScoresNetwork):
    """`stem = "small"`: a first convolution of 3 without stride and no pool, for images of about 32 voxels.

    Every step to half the size has a convolution beside it; MONAI's own 18 and 34 layers stop gradients there.
    """

    depth: Literal[10, 18, 34, 50, 101, 152] = 18
    stem: Literal["standard", "small"] = "standard"
    running_statistics: bool = False

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from monai.networks.nets.resnet import ResNet as MonaiResNet

        from fedrounds_common import layers, scores

        small, bottleneck = self.stem == "small", self.depth >= 50
        built = MonaiResNet(
            block="bottleneck" if bottleneck else "basic",
            layers=list(BLOCKS[self.depth]),
            block_inplanes=list(WIDTHS),
            spatial_dims=dims,
            n_input_channels=inputs,
            conv1_t_size=3 if small else 7,
            conv1_t_stride=1 if small else 2,
            shortcut_type="B",
            bias_downsample=False,
            feed_forward=False,
        )
        for number in range(1, 5):
            layer = built.get_submodule(f"layer{number}")
            for name, block in layer.named_children():
                layer.add_module(name, scores.ResNetBlock(block))
        parts = ("conv1", "bn1", "act", *(() if small else ("maxpool",)), "layer1", "layer2", "layer3", "layer4")
        body = layers.without_in_place(scores.named((name, built.get_submodule(name)) for name in parts))
        if not self.running_statistics:
            body = scores.with_group_norm(body)
        head = scores.head(self.head, WIDTHS[-1] * (4 if bottleneck else 1), self.hidden, outputs, self.dropout)
        return scores.Scorer(body, head, self.dropout, name="resnet")

    def first_layers(self) -> tuple[str, ...]:
        return ("body.conv1.", "body.bn1.", "body.layer1.")

    def public_names(self) -> tuple[tuple[str, str], ...]:
        return ((r"^(?=conv1\.|bn1\.|layer[1-4]\.)", "body."),)
