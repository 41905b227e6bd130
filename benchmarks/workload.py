"""What every side of a benchmark computes, in torch and NumPy alone: who wraps it into rounds is what differs.

    unet        small 3D U-Net, made volumes of 32³ with a bright cube, Dice and cross-entropy, AdamW
    plus_one    a vector of 0.1 MB, to each of whose weights a client adds one: what is left is the framework
    hippocampus real volumes, cut and normalised beforehand, the same network and loss

Network and loss are those of `common/fedrounds_common` (plain torch): every side has that folder on its path, so
that a step costs the same everywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

import numpy as np

CHANNELS = (16, 32, 64)
WIDTH = 160
VALIDATION = 0.2  # of a site's real volumes

Weights = dict[str, np.ndarray]


@final
@dataclass(frozen=True)
class Work:
    """`start`: a file with the weights to start from (.npz). `data`: a folder with one `SITE.npz` each (hippocampus)."""

    name: str = "unet"
    sites: int = 8
    rounds: int = 5
    steps: int = 10
    cases: int = 4
    batch: int = 2
    grid: int = 32
    learning_rate: float = 1e-3
    threads: int = 1
    start: str = ""
    data: str = ""
    until: float = 0.0  # a Dice to stop at

    def words(self) -> tuple[str, ...]:
        """As a command line, which may be joined and split again: what is empty is left out."""
        said = {name: str(value) for name, value in vars(self).items() if value != ""}
        return tuple(word for name, value in said.items() for word in (f"--{name.replace('_', '-')}", value))


def work_of(arguments: list[str] | None = None) -> Work:
    parser = argparse.ArgumentParser()
    for name, value in vars(Work()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return Work(**vars(parser.parse_args(arguments)))


# ---------------------------------------------------------------- data


def volume(site: int, case: int, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """A cube in noise: image (1, grid, grid, grid) float32, labels (grid, grid, grid) uint8."""
    rng = np.random.default_rng([site, case])
    image = rng.normal(0, 1, (1, grid, grid, grid)).astype(np.float32)
    labels = np.zeros((grid, grid, grid), np.uint8)
    x, y, z = rng.integers(1, grid // 2, 3)
    labels[x : x + grid // 3, y : y + grid // 3, z : z + grid // 3] = 1
    image[0][labels == 1] += 2
    return image, labels


@cache
def cases_of(work: Work, site: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """The training cases of a site, in memory from the first call on: images, and targets one-hot."""
    if work.name == "hippocampus":
        return tuple((image, one_hot(labels, 3)) for image, labels in real(work, site)[0])
    made = (volume(site, case, work.grid) for case in range(work.cases))
    return tuple((image, one_hot(labels, 2)) for image, labels in made)


@cache
def real(work: Work, site: int) -> tuple[Any, Any]:
    """Volumes to train on and volumes to judge by, each (image, labels)."""
    file = sorted(Path(work.data).glob("*.npz"))[site]
    with np.load(file) as stored:
        names = sorted({name.partition("/")[2] for name in stored.files if name.startswith("train/image")})
        train = [(stored[f"train/{n}"], stored[f"train/{n.replace('image', 'labels')}"]) for n in names]
        names = sorted({name.partition("/")[2] for name in stored.files if name.startswith("judge/image")})
        judge = [(stored[f"judge/{n}"], stored[f"judge/{n.replace('image', 'labels')}"]) for n in names]
    return train, judge


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.stack([labels == value for value in range(classes)]).astype(np.float32)


def patch(image: np.ndarray, target: np.ndarray, size: tuple[int, ...], rng: np.random.Generator) -> Any:
    """A box of that size somewhere inside; a grid that is smaller is padded with zeros first."""
    missing = [(0, 0), *((0, max(0, want - have)) for want, have in zip(size, image.shape[1:], strict=True))]
    if any(after for _, after in missing):
        image, target = np.pad(image, missing), np.pad(target, missing)
    at = [int(rng.integers(have - want + 1)) for want, have in zip(size, image.shape[1:], strict=True)]
    box = (slice(None), *(slice(a, a + want) for a, want in zip(at, size, strict=True)))
    return image[box], target[box]


PATCH = (32, 48, 32)


def draw(work: Work, site: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """One batch, as tensors."""
    import torch

    cases = cases_of(work, site)
    drawn = [cases[int(rng.integers(len(cases)))] for _ in range(work.batch)]
    if work.name == "hippocampus":
        drawn = [patch(image, target, PATCH, rng) for image, target in drawn]
    return tuple(torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))


# ---------------------------------------------------------------- network and step


def network(work: Work) -> Any:
    import torch

    from fedrounds_common.layers import TinyUNet

    torch.set_num_threads(work.threads)
    if work.name == "plus_one":
        return vector()
    return TinyUNet(3, 1, 3 if work.name == "hippocampus" else 2, CHANNELS)


def named(work: Work) -> dict[str, Any]:
    """The network by its name, for who makes it in another process."""
    args = {"dims": 3, "inputs": 1, "outputs": 3 if work.name == "hippocampus" else 2, "channels": list(CHANNELS)}
    return {"class_path": "fedrounds_common.layers.TinyUNet", "args": args}


def vector() -> Any:
    """A module with one parameter; not of zeros, of which a guard would rightly say that anything is too far."""
    import torch

    module = torch.nn.Module()
    module.register_parameter("weights", torch.nn.Parameter(torch.full((WIDTH * WIDTH,), 100.0)))
    return module


def optimiser(work: Work, module: Any) -> Any:
    import torch

    return torch.optim.AdamW(module.parameters(), lr=work.learning_rate, weight_decay=0.01)


def loss(work: Work, module: Any, images: Any, targets: Any) -> Any:
    from fedrounds_common import losses

    return losses.loss("dice+ce", module(images), targets, exclusive=True, smooth=1.0, gamma=2.0).mean()


def train(work: Work, module: Any, site: int, round_: int) -> float:
    """A site's steps of one round, in place; the mean loss."""
    if work.name == "plus_one":
        return plus_one(module)
    module.train()
    rng, steps, total = np.random.default_rng([round_, site, 1]), optimiser(work, module), 0.0
    for _ in range(work.steps):
        images, targets = draw(work, site, rng)
        steps.zero_grad(set_to_none=True)
        found = loss(work, module, images, targets)
        found.backward()
        steps.step()
        total += float(found.detach())
    return total / work.steps


def plus_one(module: Any) -> float:
    """Without a gradient: as little as a client can do."""
    import torch

    with torch.no_grad():
        for weights in module.parameters():
            weights += 1
    return 0.0


def start(work: Work) -> Weights:
    with np.load(work.start) as stored:
        return {name: stored[name] for name in stored.files}


def weights_of(module: Any) -> Weights:
    return {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def put(module: Any, weights: Mapping[str, np.ndarray]) -> None:
    import torch

    module.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})


def probe(weights: Mapping[str, Any]) -> list[float]:
    """A few numbers by which two models are told apart: the norm, and eleven weights spread over all."""
    flat = np.concatenate([np.asarray(weights[name], np.float64).ravel() for name in sorted(weights)])
    return [float(np.linalg.norm(flat)), *flat[:: max(1, len(flat) // 10)][:11].tolist()]


# ---------------------------------------------------------------- judging (hippocampus)


def dice(work: Work, module: Any) -> float:
    """Mean Dice of both labels over every site's validation volumes, each site with the same weight."""
    import torch

    module.eval()
    means = []
    for site in range(work.sites):
        scores = []
        for image, labels in real(work, site)[1]:
            grown = [(0, -have % 2 ** len(CHANNELS)) for have in image.shape[1:]]
            padded = np.pad(image, [(0, 0), *grown])
            with torch.no_grad():
                out = module(torch.from_numpy(padded)[None])[0].argmax(0).numpy()
            out = out[tuple(slice(have) for have in labels.shape)]
            for value in (1, 2):
                both = (out == value).sum() + (labels == value).sum()
                scores.append(2 * ((out == value) & (labels == value)).sum() / both if both else 1.0)
        means.append(float(np.mean(scores)))
    return float(np.mean(means))
