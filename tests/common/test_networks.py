"""Every network that makes maps, found without being told: shapes, gradients, statistics, independence of examples."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from fedrounds_common import rng
from fedrounds_common.errors import UsageError
from fedrounds_common.networks.fets_resunet import FetsResUNet
from fedrounds_common.networks.tiny_unet import TinyUNet
from fedrounds_common.shelves import NETWORKS as SHELF

# settings that keep a test small; a network without an entry is built as it comes
SMALL: dict[str, dict[str, Any]] = {
    "basicunet": {"channels": (8, 8, 16, 16, 32, 8)},
    "dynunet": {"channels": (8, 16, 16), "strides": (1, 2, 2)},
    "fets_resunet": {"base": 4, "dropout": 0.0},
    "segresnet": {"width": 8},
    "swinunetr": {"width": 12, "window": 3},
    "unetr": {"patch": (32, 32, 32), "width": 4, "hidden": 32, "mlp": 32, "heads": 4},
}
GRIDS = {"swinunetr": 64}
MAPS = [name for name in SHELF.names() if SHELF.find(name).makes == "maps"]
# MONAI's transformer makes norms for cross-attention, which a segmentation has not
UNUSED = {"unetr"}
VOLUMES_ONLY = {"fets_resunet"}
KEEPS_STATISTICS = ["attention_unet", "basicunet", "dynunet", "fets_resunet", "unet"]


def build(name: str, dims: int, inputs: int = 2, outputs: int = 3, **fields: Any) -> nn.Module:
    settings = {"name": name, **SMALL.get(name, {}), **fields}
    if name == "unetr" and dims == 2:
        settings["patch"] = (32, 32)
    with rng.seeded(1):
        return SHELF.load(settings).build(dims, inputs, outputs)


def picture(name: str, dims: int, batch: int = 2) -> torch.Tensor:
    size = GRIDS.get(name, 32)
    return torch.randn((batch, 2, *(size,) * dims), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("dims", [2, 3])
def test_logits_have_the_grid_of_the_image(name: str, dims: int) -> None:
    if dims == 2 and name in VOLUMES_ONLY:
        pytest.skip("for volumes only")
    x = picture(name, dims)
    with torch.no_grad():
        logits = build(name, dims).eval()(x)
    assert logits.shape == (2, 3, *x.shape[2:])
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", MAPS)
def test_a_grid_of_twice_the_divisor_fits(name: str) -> None:
    dims = 3 if name in VOLUMES_ONLY else 2
    network = SHELF.load({"name": name, **SMALL.get(name, {}), **({"patch": (32, 32)} if name == "unetr" else {})})
    size = 2 * network.divisor(dims)
    with torch.no_grad():
        assert network.build(dims, 1, 1).eval()(torch.zeros(1, 1, *(size,) * dims)).shape[2:] == (size,) * dims


@pytest.mark.parametrize("name", sorted(set(MAPS) - UNUSED))
def test_a_gradient_reaches_every_weight(name: str) -> None:
    dims = 3 if name in VOLUMES_ONLY else 2
    network = build(name, dims)
    network(picture(name, dims)).square().mean().backward()
    without = [key for key, weight in network.named_parameters() if weight.grad is None]
    assert without == []


@pytest.mark.parametrize("name", MAPS)
def test_no_running_statistics_and_nothing_in_place_unless_asked(name: str) -> None:
    network = build(name, 3)
    assert [key for key, _ in network.named_buffers() if "running" in key or "num_batches" in key] == []
    assert [key for key, module in network.named_modules() if getattr(module, "inplace", False) is True] == []


@pytest.mark.parametrize("name", KEEPS_STATISTICS)
def test_running_statistics_when_asked(name: str) -> None:
    buffers = dict(build(name, 3, running_statistics=True).named_buffers())
    assert any(key.endswith("running_mean") for key in buffers)


@pytest.mark.parametrize("name", MAPS)
def test_an_example_does_not_see_its_neighbour_in_the_batch(name: str) -> None:
    dims = 3 if name in VOLUMES_ONLY else 2
    network = build(name, dims).eval()
    x = picture(name, dims)
    y = torch.stack([x[0], 5 * x[1] + 2])
    with torch.no_grad():
        torch.testing.assert_close(network(x)[0], network(y)[0], rtol=1e-4, atol=1e-4)


def test_plug_in_files_load_without_torch_or_monai() -> None:
    # `fedrounds study check` builds these classes; MONAI would add seconds to it
    code = "\n".join(
        [
            "import sys",
            *(f"import fedrounds_common.networks.{name}" for name in SHELF.names()),
            "import fedrounds_common.tasks.segmentation",
            "print(sorted({'torch', 'monai', 'scipy', 'PIL'} & set(sys.modules)))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_fets_resunet_has_the_studys_29_135_703_parameters() -> None:
    network = FetsResUNet().build(3, 4, 3)
    assert sum(weight.numel() for weight in network.parameters()) == 29_135_703
    assert list(network.buffers()) == []


def test_fets_resunet_with_running_statistics_has_the_studys_9_207_buffer_values() -> None:
    # 27 instance norms: mean, variance and a counter each
    network = FetsResUNet(running_statistics=True).build(3, 4, 3)
    assert sum(buffer.numel() for buffer in network.buffers()) == 9_207
    assert sum(isinstance(module, nn.InstanceNorm3d) for module in network.modules()) == 27


def test_fets_resunet_multiplies_its_logits() -> None:
    x = picture("fets_resunet", 3)
    with torch.no_grad():
        once, twenty = (build("fets_resunet", 3, multiplier=by).eval()(x) for by in (1.0, 20.0))
    torch.testing.assert_close(twenty, 20 * once)


def test_fets_resunet_does_not_see_gain_or_offset_of_a_scanner() -> None:
    x = picture("fets_resunet", 3)
    network = build("fets_resunet", 3).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(7 * x + 3), rtol=1e-3, atol=1e-3)


def test_fets_resunet_refuses_pictures() -> None:
    with pytest.raises(UsageError, match=r"FR-U46.*2 dimensions; 3"):
        FetsResUNet().build(2, 4, 3)


def test_unetr_wants_a_patch_size_for_each_axis() -> None:
    with pytest.raises(UsageError, match=r"FR-U45.*3 numbers"):
        build("unetr", 3, patch=(32, 32))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("unet", {"channels": (16, 32), "strides": (2, 2)}, "strides = [2, 2]: 1 wanted"),
        ("attention_unet", {"channels": (16, 32), "strides": (2, 2)}, "strides = [2, 2]: 1 wanted"),
        ("dynunet", {"channels": (8, 8, 8), "strides": (1, 2)}, "strides = [1, 2]: 3 wanted"),
        ("segresnet", {"blocks_up": (1,)}, "blocks_up = [1]: 3 wanted"),
        ("unetr", {"hidden": 100}, "hidden = 100: a multiple of heads = 12 wanted"),
    ],
)
def test_settings_that_do_not_fit_together_are_faults(name: str, fields: dict[str, Any], message: str) -> None:
    built, faults = SHELF.build({"name": name, **fields}, "model")
    assert built is None
    assert message in str(faults[0])


@pytest.mark.parametrize(("channels", "divisor"), [((16,), 2), ((16, 32, 64), 8)])
def test_tiny_unet_halves_once_a_level(channels: tuple[int, ...], divisor: int) -> None:
    assert TinyUNet(channels).divisor(3) == divisor


def test_tiny_unet_is_small() -> None:
    assert sum(weight.numel() for weight in TinyUNet().build(3, 4, 3).parameters()) == 257_587


@pytest.mark.parametrize("name", ["tiny_unet", "unet"])
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    first, second = build(name, 3).state_dict(), build(name, 3).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
