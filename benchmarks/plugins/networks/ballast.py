"""A network as large as is asked for whose step costs next to nothing: what it carries takes part in no computation."""

import itertools
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from fedrounds_common.network import Network


@final
@dataclass(frozen=True)
class Ballast(Network):
    """`megabytes` in `tensors` tensors beside two small convolutions of one voxel."""

    megabytes: float = 100.0
    tensors: int = 40
    width: int = 8

    def build(self, dims, inputs, outputs):
        widths = (inputs, self.width, outputs)
        layers = [nn.Conv3d(before, after, 1) for before, after in itertools.pairwise(widths)]
        module = nn.Sequential(layers[0], nn.ReLU(), layers[1])
        whole = int(self.megabytes * 1e6 / 4)
        sizes = [whole // self.tensors] * (self.tensors - 1)
        for number, size in enumerate((*sizes, whole - sum(sizes))):
            module.register_parameter(f"ballast_{number:02d}", nn.Parameter(torch.full((size,), 0.01)))
        return module

    def divisor(self, dims):
        return 1
