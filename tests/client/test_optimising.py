"""Optimisers take the steps that torch's own take, and a process that compiles nothing imports no compiler."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from fedrounds_client.optimising import optimiser_of, take_step
from fedrounds_common.study.tables import Training

STEPS = """
import sys, torch
from torch import nn
from fedrounds_client.optimising import optimiser_of, take_step
from fedrounds_common.study.tables import Training
for kind in ("adamw", "adam", "sgd"):
    weights = nn.Parameter(torch.ones(3))
    optimiser = optimiser_of([weights], Training(optimiser=kind, learning_rate=0.1))
    weights.grad = torch.tensor([1.0, -2.0, 0.5])
    take_step(optimiser)
    print(kind, weights.detach().numpy().tobytes().hex())
print("torch._dynamo" in sys.modules)
"""


def torchs_own(kind: str) -> str:
    weights = torch.nn.Parameter(torch.ones(3))
    training = Training(optimiser=kind, learning_rate=0.1)  # type: ignore[arg-type]
    made = {
        "adamw": lambda: torch.optim.AdamW([weights], lr=0.1, weight_decay=training.weight_decay),
        "adam": lambda: torch.optim.Adam([weights], lr=0.1, weight_decay=training.weight_decay),
        "sgd": lambda: torch.optim.SGD([weights], lr=0.1, momentum=0.9, weight_decay=training.weight_decay),
    }[kind]()
    weights.grad = torch.tensor([1.0, -2.0, 0.5])
    made.step()
    return weights.detach().numpy().tobytes().hex()


def test_a_process_that_trains_imports_no_compiler_and_comes_to_the_same_bits() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    *steps, imported = done.stdout.split("\n")[:-1]
    assert imported == "False"
    assert dict(line.split() for line in steps) == {kind: torchs_own(kind) for kind in ("adamw", "adam", "sgd")}


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_where_the_compiler_is_there_the_step_is_the_same(kind: str) -> None:
    import torch._dynamo

    weights = torch.nn.Parameter(torch.ones(3))
    optimiser = optimiser_of([weights], replace(Training(), optimiser=kind, learning_rate=0.1))
    weights.grad = torch.tensor([1.0, -2.0, 0.5])
    take_step(optimiser)
    assert weights.detach().numpy().tobytes().hex() == torchs_own(kind)
