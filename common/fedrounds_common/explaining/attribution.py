"""What of an image the score of one class rests on: three methods that need nothing of a network but its logits.

A heat map looks convincing whether or not it is true, so what is shipped is what can fail: on simulated
patients the peak must lie in the tumour, and no longer once the weights are random (Adebayo et al. 2018,
arXiv:1810.03292; `benchmarks/explanations.py`).

Shapes: images (C, *grid) in, maps (*grid) float32 out, larger is more. Of a bag or a stack of slices
(C, S, H, W) in a 2D study the map is one a slice, (S, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrounds_common.case import F32
from fedrounds_common.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

STEPS = 24  # of the path of integrated gradients
WINDOWS = 8  # occluded images per call
SHARE = 5  # an occluding window is this part of each axis


def methods(network: nn.Module) -> dict[str, Callable[[nn.Module, F32, int], F32]]:
    """Name → method, of those that this network allows: Grad-CAM wants maps, and roll-out wants attention."""
    from fedrounds_common.explaining import rollout

    found: dict[str, Callable[[nn.Module, F32, int], F32]] = {}
    if rollout.attends(network):
        found["attention roll-out"] = rollout.rollout
    else:
        found["Grad-CAM"] = grad_cam
    return {**found, "occlusion": occlusion, "integrated gradients": integrated_gradients}


def grad_cam(network: nn.Module, image: F32, output: int) -> F32:
    """Gradient-weighted class activation map (Selvaraju et al. 2017, arXiv:1610.02391) of the last layer with maps.

    Raises:
        UsageError: FR-U80 no layer of the network has maps.
    """
    import torch
    from captum.attr import LayerGradCam

    x = torch.from_numpy(np.array(image))[None]
    with _at_rest(network):
        layer = last_layer_with_maps(network, x)
        found = LayerGradCam(network, layer).attribute(x, target=output, relu_attributions=True)
    maps = found.detach().float()
    # a shared encoder sees the slices of one volume as a batch: their maps, (S, 1, h, w), are those of the volume
    stacked = maps.ndim - 2 < image.ndim - 1
    return _onto_grid(maps, image.shape[1:], stacked=stacked)


def occlusion(network: nn.Module, image: F32, output: int) -> F32:
    """How much the class's score falls when a window is covered (Zeiler and Fergus 2014, arXiv:1311.2901).

    Windows are a fifth of each axis and overlap by half; they are filled with the image's own mean.
    """
    import torch
    from captum.attr import Occlusion

    x = torch.from_numpy(np.array(image))[None]
    window = tuple(max(1, math.ceil(size / SHARE)) for size in image.shape[1:])
    stride = tuple(max(1, size // 2) for size in window)
    mean = x.mean(dim=tuple(range(2, x.ndim)), keepdim=True).expand_as(x)
    with _at_rest(network), torch.no_grad():
        found = Occlusion(network).attribute(
            x,
            sliding_window_shapes=(len(image), *window),
            strides=(len(image), *stride),
            baselines=mean,
            target=output,
            perturbations_per_eval=WINDOWS,
        )
    fallen: F32 = found[0].detach().float().numpy().mean(axis=0)
    return np.clip(fallen, 0, None)


def integrated_gradients(network: nn.Module, image: F32, output: int) -> F32:
    """Gradients averaged along the way from an image of zeros (Sundararajan et al. 2017, arXiv:1703.01365).

    Without the paper's last step, the product with the image: with it, networks with random weights point at bright
    places too. The map is the sum of sizes over channels; single voxels are noisy, so look at regions.
    """
    import torch
    from captum.attr import IntegratedGradients

    x = torch.from_numpy(np.array(image))[None]
    with _at_rest(network):
        found = IntegratedGradients(network, multiply_by_inputs=False).attribute(
            x, baselines=torch.zeros_like(x), target=output, n_steps=STEPS, internal_batch_size=4
        )
    size: F32 = found[0].detach().float().abs().sum(0).numpy()
    return size


def last_layer_with_maps(network: nn.Module, x: Tensor) -> nn.Module:
    """The layer whose output is the last one, in the order of the calculation, that still has places in it.

    Raises:
        UsageError: FR-U80 there is none.
    """
    import torch

    found: list[nn.Module] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        # a batch axis, features, and more than one place; of the shared encoder of a volume two axes of places
        if isinstance(output, Tensor) and output.ndim in (4, 5) and math.prod(output.shape[2:]) > 1:
            found.append(module)

    from torch import Tensor

    leaves = [module for module in network.modules() if not any(True for _ in module.children())]
    hooks = [module.register_forward_hook(note) for module in leaves]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise UsageError(
            "FR-U80",
            f"{type(network).__name__} has no layer with maps",
            wanted="a network of convolutions for Grad-CAM",
            do="use occlusion or integrated gradients",
        )
    return found[-1]


def peak(heat: F32) -> tuple[int, ...]:
    """Where a map is largest; of several such places the one nearest to their middle."""
    places = np.argwhere(heat == heat.max())
    middle = places.mean(axis=0)
    nearest = places[int(np.argmin(((places - middle) ** 2).sum(axis=1)))]
    return tuple(int(place) for place in nearest)


def agreed(maps: Sequence[F32]) -> F32:
    """The mean of several maps, each scaled to at most 1."""
    scaled = [heat / max(float(heat.max()), 1e-12) for heat in maps]
    mean: F32 = np.mean(scaled, axis=0, dtype=np.float32)
    return mean


def _onto_grid(maps: Tensor, grid: tuple[int, ...], *, stacked: bool) -> F32:
    """(1, 1, *small), or (S, 1, h, w) of slices, → (*grid)."""
    from torch.nn import functional

    plane = grid[1:] if stacked else grid
    modes = {2: "bilinear", 3: "trilinear"}
    large = functional.interpolate(maps, size=plane, mode=modes[len(plane)], align_corners=False)
    found: F32 = (large[:, 0] if stacked else large[0, 0]).numpy()
    return found


@contextmanager
def _at_rest(network: nn.Module) -> Iterator[None]:
    """As in judging: no dropout, and gradients of inputs only, whatever the weights were left to do."""
    training = network.training
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    network.eval().requires_grad_(False)
    try:
        yield
    finally:
        for parameter, was in zip(network.parameters(), wanted, strict=True):
            parameter.requires_grad_(was)
        network.train(training)
