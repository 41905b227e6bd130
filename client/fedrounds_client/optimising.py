"""The study's optimiser, without torch's compiler.

torch imports its compiler (`torch._dynamo`, with sympy and much else: 1.3 s) when the first optimiser is made and
when it takes its first step, only to tell it to leave these functions alone. A process that compiles nothing need
not wait for that; one that does has imported it anyway. No bit of any result changes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence

import torch
from torch import nn

from fedrounds_common.study.tables import Training

SECOND = 0.999  # of Adam's moments, torch's own default


def optimiser_of(parameters: Sequence[nn.Parameter], training: Training) -> torch.optim.Optimizer:
    _leave_the_compiler_out()
    if training.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=training.learning_rate, momentum=training.momentum, weight_decay=training.weight_decay
        )
    kind = torch.optim.AdamW if training.optimiser == "adamw" else torch.optim.Adam
    betas = (training.momentum, SECOND)
    return kind(parameters, lr=training.learning_rate, betas=betas, weight_decay=training.weight_decay)


def take_step(optimiser: torch.optim.Optimizer) -> None:
    """`optimiser.step()`; where the compiler is not there, without what torch wraps around it for the compiler."""
    if "torch._dynamo" in sys.modules:
        optimiser.step()
        return
    with torch.no_grad():
        inspect.unwrap(type(optimiser).step)(optimiser)


def _leave_the_compiler_out() -> None:
    # torch._compile keeps here what it calls instead of the function; if a later torch has another name
    # for it, this does nothing and torch imports its compiler
    add = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    if "torch._dynamo" not in sys.modules and not hasattr(add, "__dynamo_disable"):
        setattr(add, "__dynamo_disable", add)
