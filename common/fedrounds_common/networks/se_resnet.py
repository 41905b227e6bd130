"""SE-ResNet (Hu et al. 2017, arXiv:1709.01507) of MONAI, for pictures and for volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from fedrounds_common.network import ScoresNetwork

if TYPE_CHECKING:
    from torch import nn

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
FEATURES = 2048


@final
@dataclass(frozen=True)
class SEResNet(ScoresNetwork):
    """`stem = "small"`: no stride before the first block, for images of about 32 voxels."""

    depth: Literal[50, 101, 152] = 50
    stem: Literal["standard", "small"] = "standard"
    running_statistics: bool = False

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        from monai.networks.nets.senet import SEResNet50
        from torch import nn

        from fedrounds_common import layers, scores

        built = SEResNet50(layers=BLOCKS[self.depth], spatial_dims=dims, in_channels=inputs, num_classes=outputs)
        if self.stem == "small":
            built.layer0.get_submodule("conv1").stride = (1,) * dims  # type: ignore[assignment]  # torch's stubs: tensors only
            built.layer0.pool = nn.Identity()
        names = ("layer0", "layer1", "layer2", "layer3", "layer4")
        body = layers.without_in_place(scores.named((name, built.get_submodule(name)) for name in names))
        if not self.running_statistics:
            body = scores.with_group_norm(body)
        head = scores.head(self.head, FEATURES, self.hidden, outputs, self.dropout)
        return scores.Scorer(body, head, self.dropout, 1 if self.stem == "small" else 3, "se_resnet")

    def first_layers(self) -> tuple[str, ...]:
        return ("body.layer0.", "body.layer1.")

    def public_names(self) -> tuple[tuple[str, str], ...]:
        """Cadene's."""
        return (
            (r"^(layer[1-4]\.\d+\.conv\d\.)(\w+)$", r"body.\1conv.\2"),
            (r"^(layer[1-4]\.\d+\.)bn(\d\.)(\w+)$", r"body.\1conv\2adn.N.\3"),
            (r"^(layer[1-4]\.\d+\.)se_module\.fc1\.(\w+)$", r"body.\1se_layer.fc.0.\2"),
            (r"^(layer[1-4]\.\d+\.)se_module\.fc2\.(\w+)$", r"body.\1se_layer.fc.2.\2"),
            (r"^(layer[1-4]\.\d+\.)downsample\.0\.(\w+)$", r"body.\1project.conv.\2"),
            (r"^(layer[1-4]\.\d+\.)downsample\.1\.(\w+)$", r"body.\1project.adn.N.\2"),
            (r"^(?=layer0\.)", "body."),
        )
