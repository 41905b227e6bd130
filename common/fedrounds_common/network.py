"""A network: a name in the study, and how to build it for so many inputs and outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from fedrounds_common.plugins import RulesBroken
from fedrounds_common.study.tables import Count

if TYPE_CHECKING:
    from torch import nn

    from fedrounds_common.arrays import Arrays
    from fedrounds_common.study.tables import CaseForm

# What a network's module gives: "maps" one logit per class and voxel, "scores" one logit per class and case,
# "fields" a velocity (B, outputs, *blocks) in voxels, of blocks that fill the grid: by what vector each moves.
# "images" a module of `generative.maker`, which makes images from noise.
Makes = Literal["maps", "scores", "fields", "images"]


class Network(ABC):
    """A frozen dataclass in `networks/x.py`; its fields are the study's `[model]` table.

    `makes`: what the module gives; a task refuses a network that makes something else.
    """

    makes: ClassVar[Makes] = "maps"

    @abstractmethod
    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        """(B, inputs, *grid) → logits (B, outputs, *grid), or (B, outputs) of a network that makes scores.

        Without running statistics unless a field asks. Initialisation draws from torch's global generator: the
        caller wraps this in `rng.seeded`.
        """

    def divisor(self, dims: int) -> int:
        """Grid sizes must be multiples of this; the task pads."""
        return 16

    def first_layers(self) -> tuple[str, ...]:
        """What the names of the first layers' tensors begin with ("*": anything), for `training.freeze`; () unknown."""
        return ()

    def last_layers(self) -> tuple[str, ...]:
        """What the names of tensors begin with that are learned for the task itself; the rest is the base; () unknown."""
        return ()

    def public_names(self) -> tuple[tuple[str, str], ...]:
        """From a widely used file's names to ours: patterns and what stands in their place (`re.sub`), in turn.

        A "*" in what comes out stands for anything: the tensor is copied to each that it fits.
        """
        return ()

    def told(self, arrays: Arrays, form: CaseForm) -> tuple[str, ...]:
        """What of a trained model's own weights says something to a person, in sentences for the run's summary."""
        return ()


@dataclass(frozen=True)
class ScoresNetwork(Network):
    """A network that gives one logit per class and case: its module is a `scores.ScoreModule`.

    `head`: what stands behind the pooled features: one linear layer, or two with `hidden` units between them
    ("mlp"). `dropout`: the share of features that training leaves out before the head.
    """

    makes: ClassVar[Makes] = "scores"

    head: Literal["linear", "mlp"] = "linear"
    hidden: Count = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def divisor(self, dims: int) -> int:
        """Any size from the least one on, which the module itself holds an image against."""
        return 1

    def last_layers(self) -> tuple[str, ...]:
        return ("head.",)


def encoder_of(table: Mapping[str, Any]) -> ScoresNetwork:
    """The network for single pictures that a table within `[model]` names; one of ours.

    Raises:
        RulesBroken: no such network, wrong fields, or one that makes no scores or takes bags itself.
    """
    from fedrounds_common.shelves import NETWORKS

    built, faults = NETWORKS.build(table, "encoder")
    if faults:
        raise RulesBroken([(("encoder",), "; ".join(f"{fault.key}: {fault.message}" for fault in faults))])
    if not isinstance(built, ScoresNetwork) or hasattr(built, "encoder"):
        raise RulesBroken(
            [(("encoder",), f"{table.get('name')}: a network that makes scores of one picture is wanted")]
        )
    return built
