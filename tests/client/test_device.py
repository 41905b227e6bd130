"""Where networks run: the processor unless somebody asks; bfloat16 and compiling change how, and not what is learned."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from fedrounds_client.device import carried, device_of, placed
from fedrounds_client.enrolled import device_at
from fedrounds_client.settings import Policy, SiteSettings
from fedrounds_client.site import build_parts
from fedrounds_client.training import Piece, Result, train
from fedrounds_common.arrays import digest, of_module
from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.errors import MachineError
from fedrounds_common.study.study import Study
from fedrounds_common.study.tables import CaseForm, Training

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
WIRE = {"name": "float32", "down": {"name": "float32"}}
TABLES = ({"name": "segmentation"}, {"name": "tiny_unet", "channels": (4, 8)}, {"name": "fedavg"}, WIRE)


def study(**training: object) -> Study:
    return Study("s", *TABLES, training=Training(patch=(8, 8, 8), **training))  # type: ignore[arg-type]


def learned(one: Study, steps: int = 4) -> Result:
    rng, labels = np.random.default_rng(0), np.zeros((12, 12, 12), np.uint8)
    labels[3:9, 3:9, 3:9] = 1
    image = (labels + rng.normal(0, 0.1, labels.shape))[None].astype(np.float32)
    case, parts = Case(CaseRef("a", "a"), image, Target(labels), np.eye(4)), build_parts(one)
    piece = Piece(steps, 0, steps, 0, ("test",))
    network = parts.module()
    return train(network, parts.task, [case], CaseForm(), one.training, piece, of_module(network))


def test_the_processor_is_taken_unless_somebody_asks() -> None:
    assert device_of("cpu").type == "cpu"
    assert build_parts(study()).device == "cpu"
    assert device_at(SiteSettings("a", {})) == "cpu"
    assert device_at(SiteSettings("a", {}, policy=Policy(gpu="1"))) == "cuda"


@NO_GPU
def test_without_a_gpu_auto_is_the_processor_and_cuda_an_error() -> None:
    assert device_of("auto").type == "cpu"
    with pytest.raises(MachineError, match=r"FR-E61 no GPU is seen; one that torch can use"):
        build_parts(study(), device="cuda").module()


def test_on_the_processor_nothing_is_moved_or_laid_out_anew() -> None:
    network, tensor = nn.Conv3d(2, 3, 3), torch.zeros(1, 2, 4, 4, 4)
    weight = network.weight
    assert placed(network, device_of("cpu")) is network
    assert network.weight is weight
    assert network.weight.is_contiguous()
    assert carried(tensor, device_of("cpu")) is tensor


def test_weights_laid_channels_last_leave_as_any_other() -> None:
    network = nn.Conv3d(2, 3, 3)
    before = of_module(network)
    network.weight.data = network.weight.data.contiguous(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    after = of_module(network)
    assert after["weight"].flags["C_CONTIGUOUS"]
    assert digest(after) == digest(before)


def test_bfloat16_learns_the_same_to_its_precision() -> None:
    plain, short = learned(study(), 12), learned(study(amp="bf16"), 12)
    assert np.isfinite(short.loss)
    assert short.loss == pytest.approx(plain.loss, rel=0.05)
    assert digest(short.arrays) != digest(plain.arrays)
    assert {array.dtype for array in short.arrays.values()} == {np.dtype(np.float32)}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
def test_a_compiled_network_learns_the_same_under_the_same_names() -> None:
    plain, compiled = learned(study()), learned(study(compile=True))
    assert list(compiled.arrays) == list(plain.arrays)
    assert compiled.loss == pytest.approx(plain.loss, rel=1e-3)
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(compiled.arrays[name], array, rtol=0.05, atol=5e-3)
