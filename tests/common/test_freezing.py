"""What `training.freeze` names: first layers, base, or names of tensors; and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fedrounds_common.errors import UsageError
from fedrounds_common.freezing import Freeze, fits, freeze, still
from fedrounds_common.networks.alexnet import AlexNet
from fedrounds_common.networks.tiny_cnn import TinyCNN
from fedrounds_common.networks.unet import UNet
from fedrounds_common.plugins import validate
from fedrounds_common.study.tables import Training

NETWORK = TinyCNN(channels=(4, 8, 8), running_statistics=True)


def frozen(what: Freeze | None) -> set[str]:
    module = freeze(NETWORK.build(2, 1, 2), NETWORK, what)
    return {name for name, weight in module.named_parameters() if not weight.requires_grad}


@pytest.mark.parametrize(
    ("pattern", "name", "wanted"),
    [
        ("body.1.", "body.1.0.weight", True),
        ("body.1", "body.10.weight", True),  # what it begins with, to the letter
        ("body.1.", "body.10.weight", False),
        ("encoders.*.body.0.", "encoders.3.body.0.weight", True),
        ("encoders.*.body.0.", "encoders.3.body.1.weight", False),
        ("*.bias", "body.0.bias", True),
        ("a+b", "aab", False),
    ],
)
def test_a_name_fits_what_it_begins_with_and_a_star_stands_for_anything(pattern: str, name: str, wanted: bool) -> None:
    assert fits(pattern, name) is wanted


def test_first_layers_and_base_and_names() -> None:
    everything = {name for name, _ in NETWORK.build(2, 1, 2).named_parameters()}
    assert frozen(None) == set()
    assert frozen("base") == everything - {"head.weight", "head.bias"}
    assert frozen("first") == {name for name in everything if name.startswith(("body.0.", "body.1."))}
    assert frozen(("head.", "*.bias")) == {name for name in everything if name.startswith("head") or "bias" in name}


@pytest.mark.parametrize(
    ("network", "what", "message"),
    [
        (NETWORK, ("layer1.",), r'no tensor\'s name begins with "layer1."; one of body.0., body.1., body.2., head.'),
        (NETWORK, ("body.", "head."), "it leaves nothing to train"),
        (UNet(channels=(4, 8), strides=(2,)), "first", r'"first": UNet does not say.*e.g. \["model.0."\]'),
        (UNet(channels=(4, 8), strides=(2,)), "base", '"base": UNet does not say'),
    ],
)
def test_what_is_not_in_the_network_is_refused(network: Any, what: Freeze, message: str) -> None:
    with pytest.raises(UsageError, match=f"FR-U49 .*{message}"):
        freeze(network.build(2, 1, 2), network, what)


def test_running_statistics_of_frozen_layers_stay_and_those_of_others_go_on() -> None:
    module = freeze(NETWORK.build(2, 1, 2), NETWORK, "first").train()
    still(module)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module(3 + torch.randn(4, 1, 16, 16))
    moved = {name for name, buffer in module.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved
    assert moved == {name for name in before if not name.startswith(("body.0.", "body.1."))}


def test_what_has_no_weights_of_its_own_keeps_training() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    module[0].requires_grad_(False)
    still(module)
    assert [layer.training for layer in module] == [False, True]


@pytest.mark.parametrize(("given", "kept"), [("none", None), ("base", "base"), (["a.", "b."], ("a.", "b."))])
def test_a_study_says_it_in_a_word_or_a_list(given: Any, kept: Freeze | None) -> None:
    training, faults = validate(Training, {"freeze": given}, "training")
    assert faults == []
    assert training == replace(Training(), freeze=kept)


@pytest.mark.parametrize("given", ["all", [], 3])
def test_another_word_is_a_fault(given: Any) -> None:
    training, faults = validate(Training, {"freeze": given}, "training")
    assert training is None
    assert all(fault.key.startswith("training.freeze") for fault in faults)


def test_alexnets_first_layers_are_there_with_and_without_norms() -> None:
    for norms in (True, False):
        network = AlexNet(stem="small", norms=norms)
        module = freeze(network.build(2, 1, 2), network, "first")
        assert sum(not weight.requires_grad for weight in module.parameters()) == (8 if norms else 4)
