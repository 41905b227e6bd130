"""The eyes with which made images are judged: a small network of our own, trained once, shipped, named by its digest.

It tells what kind of image it sees, how blurred and how noisy it is; its features (F,) are what Fréchet distances,
kernel distances, precision and recall are measured in. `benchmarks/feature_network.py` made it, on thumbnails of
MedNIST and on slices of simulated heads.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrounds_common.case import F32, F64
from fedrounds_common.errors import MachineError
from fedrounds_common.generative import shipped
from fedrounds_common.generative.likeness import FEATURES

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 32  # pixels of what the network looks at
WIDTHS = (16, 32, 64)
CUTS = (0.3, 0.5, 0.7)  # of a volume's extent along each axis: where it is cut into the slices that are looked at
SPAN = (0.5, 99.5)  # percentiles that become 0 and 1


@final
class Eyes(nn.Module):
    """x (B, 1, 32, 32) in [0, 1] → features (B, F)."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise((1, *WIDTHS)))
        self.more = nn.ModuleList(nn.Conv2d(b, b, 3, 1, 1) for b in WIDTHS)
        self.last = nn.Linear(2 * WIDTHS[-1], FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        x = 2 * x - 1
        for fall, more in zip(self.convs, self.more, strict=True):
            x = functional.relu(fall(x))
            x = x + functional.relu(more(x))
        # mean and spread: how sharp an image is shows in how much its maps vary
        flat = x.flatten(2)
        found: Tensor = self.last(torch.cat([flat.mean(2), flat.std(2)], 1))
        return found


@lru_cache(maxsize=1)
def eyes() -> Eyes:
    """The network as shipped, in evaluation mode.

    Raises:
        MachineError: FR-E30 the file in this installation is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    network = Eyes()
    try:
        network.load_state_dict(load(shipped.content()))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise MachineError(
            "FR-E30", f"{shipped.FILE} cannot be used ({type(error).__name__})", wanted="the file as shipped",
            do="install fedrounds again",
        ) from error  # fmt: skip
    return network.eval()


def features(image: F32, seen: Eyes | None = None) -> F64:
    """image (C, *grid), of one picture or volume → (C · F,): each channel by itself; of a volume the slices' mean."""
    looked = [_slices(channel) for channel in scaled(image)]
    with torch.no_grad():
        found = [(seen or eyes())(_sized(slices)).double().mean(0).numpy() for slices in looked]
    return np.concatenate(found)


def scaled(image: F32) -> F32:
    """Each channel's 0.5th and 99.5th percentile become 0 and 1, and what lies beyond is cut off."""
    low, high = np.percentile(image.reshape(len(image), -1), SPAN, axis=1)
    low, high = (each.reshape(-1, *(1,) * (image.ndim - 1)) for each in (low, high))
    found: F32 = np.clip((image - low) / np.maximum(high - low, 1e-6), 0, 1).astype(np.float32)
    return found


def small(image: F32, side: int) -> F32:
    """(C, *grid) → (C, side, ...): scaled, then each entry the mean of what it stands for."""
    tensor = torch.from_numpy(scaled(image))[None]
    pool: Any = functional.adaptive_avg_pool3d if image.ndim == 4 else functional.adaptive_avg_pool2d
    found: F32 = pool(tensor, min(side, *image.shape[1:]))[0].numpy()
    return found


def _slices(channel: F32) -> list[F32]:
    if channel.ndim == 2:
        return [channel]
    return [np.take(channel, int(cut * channel.shape[axis]), axis) for axis in range(3) for cut in CUTS]


def _sized(slices: list[NDArray[np.float32]]) -> Tensor:
    """(S, 1, 32, 32)"""
    planes = [torch.from_numpy(np.ascontiguousarray(each))[None, None] for each in slices]
    return torch.cat(
        [functional.interpolate(p, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True) for p in planes]
    )
