"""Real 2D brain slices: a network that saw four of them lays two others onto each other. Needs the shared data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedrounds_common.case import F32, U8, Case, CaseRef, Target
from fedrounds_common.networks.voxelmorph import VoxelMorph
from fedrounds_common.registration import pairs
from fedrounds_common.rng import generator, seeded, torch_generator
from fedrounds_common.study.tables import CaseForm, Evaluation, Training
from fedrounds_common.tasks.registration import Registration
from fedrounds_sites.prepare import prepare, restore

TISSUES = {"grey": 1, "white": 2}
FORM = CaseForm(dims=2, channels=("t1",), labels=TISSUES, spacing_mm=(2.0, 2.0), intensity="percentile")
TRAINED, JUDGED = ("r27", "r30", "r62", "r64"), ("r16", "r85")
TASK = Registration(similarity="lncc", window=9, smooth=0.3)
TRAINING, RULE = Training(augment=("flip",), batch=4), Evaluation()


def tissues(image: F32) -> U8:
    """Grey and white matter by two thresholds, between which brains of this set are darkest and brightest."""
    return ((image > 70).astype(np.uint8) + (image > 160)).astype(np.uint8)


def slice_of(folder: Path, name: str) -> Case:
    pixels = np.asarray(Image.open(folder / f"{name}slice.jpg"), np.float32)
    return Case(CaseRef(name, name), pixels[np.newaxis], Target(tissues(pixels)), np.eye(4))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_brain_slices_that_nobody_trained_on_come_to_lie_on_each_other(shared_data: Path) -> None:
    folder = shared_data / "data" / "reg2d" / "ants" / "inst" / "extdata"
    train = [prepare(slice_of(folder, name), FORM) for name in TRAINED]
    with seeded(1):
        network = TASK.network(VoxelMorph(channels=(16, 32, 64, 64)), FORM)
    optimiser, draws = torch.optim.Adam(network.parameters(), 3e-3), generator(1, "draw")
    for step in range(120):
        image = np.stack([TASK.draw(train, FORM, TRAINING, draws).image for _ in range(TRAINING.batch)])
        loss = TASK.loss(network, batch(image), "", torch_generator(step)).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    fixed, moving = (slice_of(folder, name) for name in JUDGED)
    case = pairs.pair(fixed, moving)
    prepared = pairs.pair(prepare(fixed, FORM), prepare(moving, FORM))
    made = TASK.predict(network, prepared, FORM, TRAINING, RULE)
    # brought back to the files' own pixels, in which it is judged
    whole = TASK.decide(restore(made.outputs, prepared, case), case, FORM)
    ours = TASK.score(whole, case, FORM, RULE).values
    still = TASK.score(TASK.guesses(case, FORM)["identity"], case, FORM, RULE).values
    print({row: {key: round(value, 3) for key, value in ours[row].items()} for row in ("white", "mean")})
    print({row: round(still[row]["dice"], 3) for row in ("grey", "white", "mean")})
    assert ours["white"]["dice"] > still["white"]["dice"] + 0.03
    assert ours["mean"]["dice"] > still["mean"]["dice"] + 0.02
    assert ours["mean"]["folded"] < 1


def batch(image: F32) -> object:
    from fedrounds_common.task import Batch

    return Batch(torch.from_numpy(image), torch.zeros(len(image), 0))
