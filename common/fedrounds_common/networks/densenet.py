"""DenseNet (Huang et al. 2016, arXiv:1608.06993) of MONAI, for pictures and for volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from fedrounds_common.network import ScoresNetwork
from fedrounds_common.study.tables import Count

if TYPE_CHECKING:
    from torch import nn

# Huang et al., table 1: layers of the four blocks
BLOCKS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32), 264: (6, 12, 64, 48)}


@final
@dataclass(frozen=True)
class DenseNet(ScoresNetwork):
    """`growth`: channels that each layer adds. `stem = "small"`: no stride before the first block.

    Pools keep the voxels left over where a size is odd; where every size is even it is MONAI's network.
    """

    depth: Literal[121, 169, 201, 264] = 121
    growth: Count = 32
    stem: Literal["standard", "small"] = "standard"
    running_statistics: bool = False

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from monai.networks.nets.densenet import DenseNet as MonaiDenseNet
        from torch import nn

        from fedrounds_common import layers, scores

        built = MonaiDenseNet(
            dims, inputs, outputs, init_features=2 * self.growth, growth_rate=self.growth,
            block_config=BLOCKS[self.depth],
        )  # fmt: skip
        body = layers.without_in_place(scores.with_rounded_up_pools(built.features))
        features = int(body.get_submodule("norm5").num_features)  # type: ignore[arg-type]  # torch's stubs: any attribute is a tensor
        if self.stem == "small":
            body.get_submodule("conv0").stride = (1,) * dims  # type: ignore[assignment]  # as above
            body.pool0 = nn.Identity()
        body.relu5 = nn.ReLU()  # MONAI's stands in its head
        if not self.running_statistics:
            body = scores.with_group_norm(body)
        head = scores.head(self.head, features, self.hidden, outputs, self.dropout)
        # torch's 3D average pool takes no window that sticks out of a map of one voxel
        least = 1 if dims == 2 else 5 if self.stem == "small" else 17
        return scores.Scorer(body, head, self.dropout, least, "densenet")

    def first_layers(self) -> tuple[str, ...]:
        return ("body.conv0.", "body.norm0.", "body.denseblock1.", "body.transition1.")

    def public_names(self) -> tuple[tuple[str, str], ...]:
        """torchvision's, old and new: `denselayer1.norm.1` was once what is `denselayer1.norm1`."""
        return (
            (r"^features\.", "body."),
            (r"(denselayer\d+\.)(norm|conv)\.?([12]\.)", r"\1layers.\2\3"),
        )
