"""Weights of another network or program: matched by name, shapes checked, and said; never a pickle that runs code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fedrounds_common.arrays import Arrays, digest, of_module
from fedrounds_common.errors import RunFileError
from fedrounds_common.network import Network
from fedrounds_common.networks.series import Series
from fedrounds_common.networks.tiny_cnn import TinyCNN
from fedrounds_common.networks.vgg import VGG
from fedrounds_common.rng import seeded
from fedrounds_server.checkpoint import save_arrays
from fedrounds_server.pretrained import Adapt, Origin, weights_from

NETWORK = TinyCNN(channels=(4, 8))


def state(seed: int, network: Network = NETWORK, inputs: int = 1, outputs: int = 2) -> dict[str, Tensor]:
    with seeded(seed):
        return dict(network.build(2, inputs, outputs).state_dict())


def arrays(seed: int, network: Network = NETWORK, inputs: int = 1, outputs: int = 2) -> Arrays:
    with seeded(seed):
        return of_module(network.build(2, inputs, outputs))


LIKE = arrays(1)


def read(
    file: Path,
    network: Network = NETWORK,
    like: Arrays = LIKE,
    names: Mapping[str, str] | None = None,
    adapt: Adapt = "no",
) -> tuple[Arrays, Origin]:
    found, origin = weights_from(file, like, network, names, adapt)
    assert origin is not None
    assert list(found) == list(like)
    assert {name: (a.shape, a.dtype) for name, a in found.items()} == {n: (a.shape, a.dtype) for n, a in like.items()}
    assert sorted([*origin.taken, *origin.fresh, *origin.adapted]) == sorted(like)
    return found, origin


def saved(file: Path, tensors: Mapping[str, Tensor]) -> Path:
    if file.suffix == ".safetensors":
        save_file(dict(tensors), file)
    else:
        torch.save(dict(tensors), file)
    return file


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_every_tensor_of_the_same_name_is_taken(name: str, tmp_path: Path) -> None:
    theirs = state(2)
    found, origin = read(saved(tmp_path / name, theirs))
    assert digest(found) == digest({key: value.numpy() for key, value in theirs.items()})
    assert origin.taken == tuple(LIKE)
    assert str(origin) == f"round 1 starts from {len(LIKE)} of {len(LIKE)} tensors from {name}"


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_the_head_of_other_classes_is_drawn_anew_and_said(name: str, tmp_path: Path) -> None:
    found, origin = read(saved(tmp_path / name, state(2, outputs=1000)))
    assert origin.fresh == ("head.weight", "head.bias")
    np.testing.assert_array_equal(found["head.weight"], LIKE["head.weight"])
    np.testing.assert_array_equal(found["body.0.0.weight"], state(2)["body.0.0.weight"].numpy())
    assert "drawn anew: head.weight, head.bias" in str(origin)


def test_a_consensus_of_ours_that_fits_is_read_as_it_is_and_one_of_other_classes_by_name(tmp_path: Path) -> None:
    file = tmp_path / "consensus.safetensors"
    file.write_bytes(save_arrays(arrays(2), {"format": 1}))
    found, origin = weights_from(file, LIKE, NETWORK, {"body.": "elsewhere."})
    assert origin is None
    assert digest(found) == digest(arrays(2))
    file.write_bytes(save_arrays(arrays(2, outputs=5), {"format": 1}))
    assert read(file)[1].fresh == ("head.weight", "head.bias")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunFileError, match="FR-F11"):
        weights_from(file, LIKE, NETWORK)


def test_names_are_mapped_by_what_they_begin_with(tmp_path: Path) -> None:
    theirs = {f"module.net.{name}": value for name, value in state(2).items()}
    file = saved(tmp_path / "w.safetensors", theirs)
    with pytest.raises(RunFileError, match=r"FR-F41 .*no tensor of this network's names: module.net.*initial_names"):
        read(file)
    assert read(file, names={"module.net.": ""})[1].taken == tuple(LIKE)


def test_two_tensors_for_one_place_are_refused(tmp_path: Path) -> None:
    theirs = state(2) | {"old.0.0.weight": state(3)["body.0.0.weight"]}
    with pytest.raises(RunFileError, match=r"FR-F41 .*both are body.0.0.weight; one of them"):
        read(saved(tmp_path / "w.safetensors", theirs), names={"old.": "body."})


def test_what_a_file_lacks_is_drawn_anew_and_what_it_has_too_much_is_said(tmp_path: Path) -> None:
    theirs = {name: value for name, value in state(2).items() if "body.1" not in name} | {"fc.weight": torch.ones(3)}
    found, origin = read(saved(tmp_path / "w.safetensors", theirs))
    assert set(origin.fresh) == {name for name in LIKE if name.startswith("body.1")}
    assert origin.unused == ("fc.weight",)
    assert "in the file and not used: fc.weight" in str(origin)
    for name in origin.fresh:
        np.testing.assert_array_equal(found[name], LIKE[name])


def test_a_file_of_other_shapes_is_refused_and_the_tensors_named(tmp_path: Path) -> None:
    wide = state(2, TinyCNN(channels=(6, 12)))
    with pytest.raises(RunFileError, match=r"FR-F41 w.pt is of other shapes: body.0.0.weight \(6, 1, 3, 3\) for "
                       r"body.0.0.weight \(4, 1, 3, 3\), .* and \d more; .*set \[model\]") as caught:  # fmt: skip
        read(saved(tmp_path / "w.pt", wide))
    assert caught.value.exit_status == 4


def test_a_first_convolution_for_three_channels_is_averaged_only_on_request(tmp_path: Path) -> None:
    theirs = state(2, inputs=3)
    file = saved(tmp_path / "w.safetensors", theirs)
    with pytest.raises(RunFileError, match=r'FR-F41 .*body.0.0.weight \(4, 3, 3, 3\).*initial_adapt = "mean"'):
        read(file)
    found, origin = read(file, adapt="mean")
    assert origin.adapted == ("body.0.0.weight",)
    mean = theirs["body.0.0.weight"].double().mean(1, keepdim=True).float().numpy()
    np.testing.assert_array_equal(found["body.0.0.weight"], mean)
    two, _ = read(file, like=arrays(1, inputs=2), adapt="mean")
    np.testing.assert_array_equal(two["body.0.0.weight"], np.repeat(mean, 2, axis=1))
    assert "the mean over its input channels: body.0.0.weight" in str(origin)


def test_no_other_convolution_is_averaged(tmp_path: Path) -> None:
    theirs = state(2)
    theirs["body.1.0.0.weight"] = torch.ones(8, 9, 3, 3)
    with pytest.raises(RunFileError, match=r"FR-F41 .*body.1.0.0.weight \(8, 9, 3, 3\)"):
        read(saved(tmp_path / "w.safetensors", theirs), adapt="mean")


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    theirs = {name: value.bfloat16() for name, value in state(2).items()}
    found, _ = read(saved(tmp_path / "w.safetensors", theirs))
    np.testing.assert_array_equal(found["head.bias"], theirs["head.bias"].float().numpy())


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    theirs = state(2)
    theirs["head.bias"][0] = float("nan")
    with pytest.raises(RunFileError, match="FR-F43 w.pt: head.bias is not finite"):
        read(saved(tmp_path / "w.pt", theirs))


def test_public_names_lead_into_the_body_and_into_every_encoder_of_a_series(tmp_path: Path) -> None:
    vgg = VGG(depth=11, norms=False)
    public = {
        name.replace("body.", "features."): value for name, value in state(2, vgg, inputs=3).items() if "body" in name
    }
    file = saved(tmp_path / "vgg11.pth", public | {"classifier.6.bias": torch.zeros(1000)})
    _, origin = read(file, vgg, arrays(1, vgg, 3))
    assert origin.fresh == ("head.weight", "head.bias")
    assert origin.unused == ("classifier.6.bias",)
    series = Series(encoder={"name": "vgg", "depth": 11, "norms": False}, exam="each")
    found, origin = read(file, series, arrays(1, series, 2), adapt="mean")
    assert origin.adapted == ("encoders.0.body.0.weight", "encoders.1.body.0.weight")
    np.testing.assert_array_equal(found["encoders.0.body.3.weight"], public["features.3.weight"].numpy())
    np.testing.assert_array_equal(found["encoders.1.body.3.weight"], public["features.3.weight"].numpy())


class Runs:
    """What unpickling would call."""

    ran: ClassVar[list[str]] = []

    def __reduce__(self) -> Any:
        return Runs.ran.append, ("ran",)


ODD: dict[str, tuple[Any, str]] = {
    "code": ({"w": Runs()}, "holds more than tensors, or is no pickle"),
    "module": (torch.nn.Linear(2, 2), "holds more than tensors"),
    "checkpoint": (
        {"epoch": 3, "state_dict": state(2)},
        "holds a int under 'epoch'; .*save its entry 'state_dict' by itself",
    ),
    "list": ([torch.ones(2)], "holds a list"),
    "numbers for names": ({3: torch.ones(2)}, "holds a Tensor under 3"),
    "sparse": ({"w": torch.ones(2, 2).to_sparse()}, r"w is no plain tensor \(torch.float32, torch.sparse_coo\)"),
    "complex": ({"w": torch.ones(2) * 1j}, "w is no plain tensor"),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_pickle_that_is_no_plain_state_dict_is_refused_and_runs_nothing(odd: str, tmp_path: Path) -> None:
    content, message = ODD[odd]
    torch.save(content, tmp_path / "w.pt")
    Runs.ran.clear()
    with pytest.raises(RunFileError, match=f"FR-F42 w.pt:? {message}"):
        read(tmp_path / "w.pt")
    assert Runs.ran == []


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut", json.dumps({"w": 1}).encode()])
def test_what_is_no_file_of_weights_at_all_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(RunFileError, match="FR-F42 w.pt (holds more than tensors, or is no pickle|cannot be read)"):
        read(tmp_path / "w.pt")
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(RunFileError, match="FR-F11 w.safetensors is damaged or not safetensors"):
        read(tmp_path / "w.safetensors")
    with pytest.raises(RunFileError, match="FR-F01 gone.pt is missing"):
        read(tmp_path / "gone.pt")
