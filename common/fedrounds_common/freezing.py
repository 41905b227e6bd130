"""Transfer learning: which of a network's weights do not train (`training.freeze`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from fedrounds_common.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from fedrounds_common.network import Network

Freeze = Literal["first", "base"] | tuple[str, ...]
SHOWN = 6


def fits(pattern: str, name: str) -> bool:
    """Whether a tensor's name begins with this; "*" stands for anything."""
    return re.match(".*".join(map(re.escape, pattern.split("*"))), name) is not None


def frozen_by(patterns: Iterable[str], names: Iterable[str]) -> set[str]:
    patterns = tuple(patterns)
    return {name for name in names if any(fits(pattern, name) for pattern in patterns)}


def freeze(module: nn.Module, network: Network, what: Freeze | None) -> nn.Module:
    """The module itself, of whose parameters those named do not train.

    Args:
        network: says which its first and last layers are.
        what: "first", "base" (all but the last), or what names begin with.

    Raises:
        UsageError: FR-U49 no tensor has such a name, the network does not say, or nothing is left to train.
    """
    if what is None:
        return module
    names = [name for name, _ in module.named_parameters()]
    frozen = _named(names, network, what)
    if len(frozen) == len(names):
        raise UsageError(
            "FR-U49", f"training.freeze = {_written(what)}: it leaves nothing to train", wanted="one tensor at least",
            do="for statistics of a frozen network set training.rounds = 0",
        )  # fmt: skip
    for name, parameter in module.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return module


def trained_of(module: nn.Module) -> frozenset[str]:
    """The names of the weights that train: no buffer, and nothing that is frozen."""
    return frozenset(name for name, parameter in module.named_parameters() if parameter.requires_grad)


def still(module: nn.Module) -> None:
    """Put layers whose weights are all frozen into evaluation mode: a batch norm would go on averaging otherwise."""
    for layer in module.modules():
        own = list(layer.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            layer.training = False


def _named(names: list[str], network: Network, what: Freeze) -> set[str]:
    if isinstance(what, str):
        patterns = network.first_layers() if what == "first" else network.last_layers()
        found = frozen_by(patterns, names)
        if not found:
            raise UsageError(
                "FR-U49", f'training.freeze = "{what}": {type(network).__name__} does not say which these layers are',
                wanted="what the names of tensors begin with", do=f"e.g. {_written((_head_of(names[0]),))}",
            )  # fmt: skip
        return found if what == "first" else set(names) - found
    for pattern in what:
        if not frozen_by((pattern,), names):
            heads = list(dict.fromkeys(map(_head_of, names)))
            shown = ", ".join(heads[:SHOWN]) + (" …" if len(heads) > SHOWN else "")
            raise UsageError(
                "FR-U49", f'training.freeze: no tensor\'s name begins with "{pattern}"', wanted=f"one of {shown}"
            )
    return frozen_by(what, names)


def _head_of(name: str) -> str:
    """`body.layer1.` of `body.layer1.0.conv1.weight`."""
    parts = name.split(".")
    return ".".join(parts[: min(2, len(parts) - 1)]) + "." if len(parts) > 1 else name


def _written(what: Freeze) -> str:
    return f'"{what}"' if isinstance(what, str) else "[" + ", ".join(f'"{each}"' for each in what) + "]"
