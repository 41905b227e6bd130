"""Convolutional bodies of our own, 2D and 3D: (B, C, *grid) → maps (B, F, *small).

Their entries are numbered as in torchvision's networks, so that files of those can be read into them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import nn

from fedrounds_common.layers import conv
from fedrounds_common.scores import Residual, drawn_for_relu, named, norm

# Simonyan and Zisserman 2014 (arXiv:1409.1556), table 1: convolutions in each of the five blocks
VGG_BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
VGG_WIDTHS = (64, 128, 256, 512, 512)
# Sandler et al. 2018 (arXiv:1801.04381), table 2: expansion, channels, repeats, stride
MOBILE_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
MOBILE_FIRST, MOBILE_LAST = 32, 1280


def max_pool(dims: int, kernel: int, stride: int) -> nn.Module:
    return (nn.MaxPool3d if dims == 3 else nn.MaxPool2d)(kernel, stride, ceil_mode=True)


def tiny(dims: int, inputs: int, channels: Sequence[int], stride: int, *, running_statistics: bool) -> nn.Module:
    """A convolution, then in each level a step to half the size and a residual convolution."""

    def block(a: int, b: int, step: int) -> nn.Module:
        layers = [conv(dims, a, b, 3, step, bias=False), norm(dims, b, running_statistics=running_statistics)]
        return nn.Sequential(*layers, nn.LeakyReLU(0.01))

    levels = [nn.Sequential(block(a, b, 2), Residual(block(b, b, 1))) for a, b in pairwise(channels)]
    return drawn_for_relu(nn.Sequential(block(inputs, channels[0], stride), *levels))


def alexnet(dims: int, inputs: int, *, small: bool, norms: bool, running_statistics: bool) -> nn.Module:
    """Krizhevsky 2014 (arXiv:1404.5997), as torchvision numbers it: 256 maps."""
    kind = nn.Conv3d if dims == 3 else nn.Conv2d
    first = kind(inputs, 64, 5, 1, 2) if small else kind(inputs, 64, 11, 4, 2)
    # number in torchvision's sequence, kernel, channels
    later = ((3, 5, 64, 192), (6, 3, 192, 384), (8, 3, 384, 256), (10, 3, 256, 256))
    convolutions = [(0, 64, first), *((number, b, conv(dims, a, b, kernel)) for number, kernel, a, b in later)]

    def parts() -> Iterator[tuple[str, nn.Module]]:
        for number, width, convolution in convolutions:
            yield str(number), convolution
            if norms:
                yield f"{number}_norm", norm(dims, width, running_statistics=running_statistics)
            yield str(number + 1), nn.ReLU()
            if number in (0, 3, 10):
                yield str(number + 2), max_pool(dims, 2 if small else 3, 2)

    return drawn_for_relu(named(parts()))


def vgg(dims: int, inputs: int, depth: int, *, norms: bool, running_statistics: bool) -> nn.Module:
    """512 maps. With norms it is numbered as torchvision's `vgg19_bn`, without them as its `vgg19`."""
    parts: list[nn.Module] = []
    for width, count in zip(VGG_WIDTHS, VGG_BLOCKS[depth], strict=True):
        for _ in range(count):
            parts.append(conv(dims, inputs, width, 3))
            parts += [norm(dims, width, running_statistics=running_statistics)] if norms else []
            parts.append(nn.ReLU())
            inputs = width
        parts.append(max_pool(dims, 2, 2))
    return drawn_for_relu(nn.Sequential(*parts))


def rounded(channels: float) -> int:
    """To a multiple of 8, by at most a tenth down: the authors' `_make_divisible`."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def mobilenet(dims: int, inputs: int, width: float, *, small: bool, running_statistics: bool) -> nn.Module:
    """MobileNet V2. `small`: the first two steps to half the size are left out."""
    kind = nn.Conv3d if dims == 3 else nn.Conv2d

    def block(a: int, b: int, kernel: int, stride: int = 1, *, depthwise: bool = False) -> nn.Module:
        convolution = kind(a, b, kernel, stride, kernel // 2, groups=a if depthwise else 1, bias=False)
        return nn.Sequential(convolution, norm(dims, b, running_statistics=running_statistics), nn.ReLU6())

    def inverted(a: int, b: int, stride: int, expansion: int) -> nn.Module:
        between = a * expansion
        layers = [block(a, between, 1)] if expansion != 1 else []
        layers += [block(between, between, 3, stride, depthwise=True), conv(dims, between, b, 1, bias=False)]
        layers.append(norm(dims, b, running_statistics=running_statistics))
        inner = nn.Sequential(*layers)
        return Residual(inner) if stride == 1 and a == b else named([("conv", inner)])

    last = rounded(MOBILE_FIRST * width)
    layers: list[nn.Module] = [block(inputs, last, 3, 1 if small else 2)]
    for number, (expansion, channels, repeats, stride) in enumerate(MOBILE_STAGES):
        for repeat in range(repeats):
            step = stride if repeat == 0 and not (small and number == 1) else 1
            layers.append(inverted(last, rounded(channels * width), step, expansion))
            last = rounded(channels * width)
    return drawn_for_relu(nn.Sequential(*layers, block(last, mobile_features(width), 1)))


def mobile_features(width: float) -> int:
    return rounded(MOBILE_LAST * max(1.0, width))
