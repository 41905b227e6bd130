"""How many weights each network has, for pictures and for volumes, in each of its depths or sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, final, get_args, get_origin, get_type_hints

from fedrounds_common.errors import UsageError
from fedrounds_common.network import Network
from fedrounds_common.shelves import NETWORKS

VARIED = ("depth", "size")  # settings of a few words each that make another network


@final
@dataclass(frozen=True)
class Counted:
    """`weights`: trained numbers with one channel and two outputs, in 2D and in 3D; None where it cannot be built."""

    name: str
    setting: str
    makes: str
    weights: tuple[int | None, int | None]


def count(plugins: Sequence[Path] = ()) -> tuple[Counted, ...]:
    """Every network as it comes, and with every word of a setting that makes it deeper or wider."""
    return tuple(
        Counted(name, setting, network.makes, (_weights(network, 2), _weights(network, 3)))
        for name in NETWORKS.names(plugins)
        for setting, network in _variants(name, plugins)
    )


def _variants(name: str, plugins: Sequence[Path]) -> Iterator[tuple[str, Network]]:
    kind: type[Any] = NETWORKS.find(name, plugins)
    hints = get_type_hints(kind)
    for field in fields(kind):
        if field.name in VARIED and get_origin(hints[field.name]) is Literal:
            for word in get_args(hints[field.name]):
                yield (
                    f"{field.name} = {word!r}".replace("'", '"'),
                    NETWORKS.load({"name": name, field.name: word}, plugins),
                )
            return
    yield "", NETWORKS.load({"name": name}, plugins)


def _weights(network: Network, dims: int) -> int | None:
    import torch

    outputs = dims if network.makes == "fields" else 2
    try:
        try:
            with torch.device("meta"):  # shapes only: the largest would fill gigabytes
                module = network.build(dims, 1, outputs)
        except RuntimeError:  # it calculates with numbers while it is built
            module = network.build(dims, 1, outputs)
    except UsageError:
        return None
    return sum(weight.numel() for weight in module.parameters())
