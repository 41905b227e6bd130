"""Networks of our own, in plain torch, so that nothing of MONAI is imported for them.

Shapes: x (B, C, *grid). The classes stand here and not in `networks/`, whose files must load without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv(dims: int, inputs: int, outputs: int, kernel: int, stride: int = 1, *, bias: bool = True) -> nn.Module:
    kind = nn.Conv3d if dims == 3 else nn.Conv2d
    return kind(inputs, outputs, kernel, stride, kernel // 2, bias=bias)


def instance_norm(dims: int, channels: int, *, running_statistics: bool = False) -> nn.Module:
    kind = nn.InstanceNorm3d if dims == 3 else nn.InstanceNorm2d
    return kind(channels, affine=True, track_running_stats=running_statistics)


def without_in_place(network: nn.Module) -> nn.Module:
    """The network itself, its activations set to keep their inputs: hooks and per-sample gradients read them."""
    for module in network.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.inplace = False  # type: ignore[assignment]  # torch's stubs know modules and tensors only
    return network


def without_batch_norm(network: nn.Module, dims: int) -> nn.Module:
    """The network itself, every batch norm replaced by an affine instance norm of as many channels."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(parent, name, instance_norm(dims, child.num_features))
    return network


@final
class ConvNorm(nn.Module):
    """Convolution, instance norm, leaky ReLU. The norm makes a bias useless, so there is none."""

    def __init__(self, dims: int, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = conv(dims, inputs, outputs, 3, stride, bias=False)
        self.norm = instance_norm(dims, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.norm(self.conv(x)), 0.01)


@final
class TinyUNet(nn.Module):
    """A U-Net whose levels start at half resolution, beside one full-resolution convolution of the input.

    Full resolution is where a 3D network's time goes: one step of (16, 32, 64) on 32³ at batch 2
    takes 28 ms on one core this way, 70 ms with two convolutions at full resolution.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, channels: Sequence[int]) -> None:
        super().__init__()
        first = channels[0]
        steps = list(pairwise((inputs, *channels)))
        self.stem = ConvNorm(dims, inputs, first)
        self.down = nn.ModuleList(nn.Sequential(ConvNorm(dims, a, b, stride=2), ConvNorm(dims, b, b)) for a, b in steps)
        self.narrow = nn.ModuleList(conv(dims, b, a, 1) for a, b in pairwise(channels))
        self.up = nn.ModuleList(ConvNorm(dims, a, a) for a in channels[:-1])
        transposed = nn.ConvTranspose3d if dims == 3 else nn.ConvTranspose2d
        self.full = transposed(first, first, 2, 2)
        self.head = conv(dims, first, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine, skips = self.stem(x), []
        for level in self.down:
            x = level(x)
            skips.append(x)
        for narrow, up, skip in zip(reversed(self.narrow), reversed(self.up), reversed(skips[:-1]), strict=True):
            x = up(functional.interpolate(narrow(x), scale_factor=2.0, mode="nearest") + skip)
        logits: Tensor = self.head(functional.leaky_relu(self.full(x) + fine, 0.01))
        return logits


@final
class FetsResUNet(nn.Module):
    """The FeTS study's 3D ResU-Net (BrainMaGe); only the dropout, norms and multiplier vary.

    Each block is pre-activated: norm, leaky ReLU, convolution. Each input is standardised over all
    its values, and the logits are `multiplier` times the last convolution (sigmoid(20 x) in the study).

    Source: fets/models/pytorch/pt_3dresunet (FeTS-AI) and brainmage/seg_modules.py (CBICA).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        base: int,
        *,
        dropout: float = 0.3,
        multiplier: float = 20.0,
        running_statistics: bool = False,
    ) -> None:
        super().__init__()
        self.multiplier = multiplier
        widths = [base * 2**level for level in range(5)]

        def activated(a: int, b: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
            norm = instance_norm(3, a, running_statistics=running_statistics)
            return [norm, nn.LeakyReLU(0.01), conv(3, a, b, kernel, stride)]

        def residual(width: int, drop: float) -> nn.Module:
            dropped: list[nn.Module] = [nn.Dropout3d(drop)] if drop else []
            return nn.Sequential(*activated(width, width), *dropped, *activated(width, width))

        self.first = conv(3, inputs, base, 3)
        self.first_residual = residual(base, dropout)
        # the study's strided convolutions are not pre-activated: norm and ReLU follow them
        self.down = nn.ModuleList(conv(3, a, b, 3, 2) for a, b in pairwise(widths))
        self.down_after = nn.ModuleList(
            nn.Sequential(instance_norm(3, b, running_statistics=running_statistics), nn.LeakyReLU(0.01))
            for b in widths[1:]
        )
        self.down_residual = nn.ModuleList(residual(b, dropout) for b in widths[1:])
        self.narrow = nn.ModuleList(conv(3, b, a, 1) for a, b in pairwise(widths))
        self.merge = nn.ModuleList(nn.Sequential(*activated(2 * a, a)) for a in widths[:-1])
        self.up_residual = nn.ModuleList(residual(a, 0.0) for a in widths[:-1])
        self.last = nn.Sequential(*activated(base, outputs, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        # over each example, where the study took the batch: it trained at batch 1, where both are one
        axes = tuple(range(1, x.ndim))
        x = (x - x.mean(axes, keepdim=True)) / x.std(axes, keepdim=True).clamp_min(1e-6)
        x = self.first(x)
        x = x + self.first_residual(x)
        skips = []
        for down, after, residual in zip(self.down, self.down_after, self.down_residual, strict=True):
            skips.append(x)
            x = after(down(x))
            x = x + residual(x)
        levels = list(zip(self.narrow, self.merge, self.up_residual, skips, strict=True))
        for narrow, merge, residual, skip in reversed(levels):
            # the study narrows after upsampling: the same sum, since both are linear, at 8 times the work
            x = functional.interpolate(narrow(x), scale_factor=2.0, mode="trilinear", align_corners=True)
            x = merge(torch.cat([x, skip], dim=1))
            x = x + residual(x)
        logits: Tensor = self.multiplier * self.last(x)
        return logits
