"""Explanations of a network whose answer is known to rest on one place of the image."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from fedrounds_common.case import F32, Case, CaseRef, Target  # noqa: E402
from fedrounds_common.errors import UsageError  # noqa: E402
from fedrounds_common.explaining import attribution, rollout, shifting, uncertainty  # noqa: E402
from fedrounds_common.pictures import overlaid, side_by_side  # noqa: E402
from fedrounds_common.rng import seeded  # noqa: E402
from fedrounds_common.study.tables import CaseForm  # noqa: E402

METHODS = {
    "Grad-CAM": attribution.grad_cam,
    "occlusion": attribution.occlusion,
    "integrated gradients": attribution.integrated_gradients,
}


class BrightSpots(nn.Module):
    """Two classes: the second one's score is the mean of what is brighter than 1, by one convolution and a ReLU."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        kind = nn.Conv2d if dims == 2 else nn.Conv3d
        self.see = kind(1, 1, 3, padding=1)
        self.clip = nn.ReLU()
        nn.init.constant_(self.see.weight, 1 / 3**dims)
        nn.init.constant_(self.see.bias, -1.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        found = self.clip(self.see(x)).flatten(1).mean(1)
        return torch.stack([-found, found], dim=1)


class OfSlices(nn.Module):
    """The same, slice by slice, then the largest: a shared encoder sees the slices as a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = BrightSpots(2)

    def forward(self, x: Tensor) -> Tensor:
        slices = x[0].movedim(1, 0)
        return torch.as_tensor(self.inner(slices).amax(0, keepdim=True))


def spot(grid: tuple[int, ...], at: tuple[int, ...]) -> F32:
    image = np.random.default_rng(0).normal(0, 0.05, (1, *grid)).astype(np.float32)
    image[(0, *(slice(place - 2, place + 3) for place in at))] += 3
    return image


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("grid", "at"), [((28, 28), (8, 19)), ((20, 24, 16), (5, 17, 9))])
def test_a_method_peaks_where_the_answer_comes_from(name: str, grid: tuple[int, ...], at: tuple[int, ...]) -> None:
    network = BrightSpots(len(grid)).train()
    heat = METHODS[name](network, spot(grid, at), 1)
    assert heat.shape == grid
    assert heat.dtype == np.float32
    assert (heat >= 0).all()
    assert max(abs(a - b) for a, b in zip(attribution.peak(heat), at, strict=True)) <= 3
    assert network.training, "left as it was found"
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_grad_cam_of_a_volume_whose_slices_share_an_encoder_is_one_map_a_slice() -> None:
    volume = np.random.default_rng(1).normal(0, 0.05, (1, 6, 20, 20)).astype(np.float32)
    volume[0, 4, 10:15, 3:8] += 3
    heat = attribution.grad_cam(OfSlices(), volume, 1)
    assert heat.shape == (6, 20, 20)
    slice_, row, column = attribution.peak(heat)
    assert slice_ == 4
    assert 8 <= row <= 16
    assert 1 <= column <= 9


def test_a_class_that_nothing_speaks_for_has_an_empty_grad_cam() -> None:
    assert not attribution.grad_cam(BrightSpots(2), spot((28, 28), (8, 19)), 0).any()


def test_a_network_without_maps_is_refused_for_grad_cam_by_name() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(UsageError, match="no layer with maps") as caught:
        attribution.grad_cam(flat, np.zeros((1, 8, 8), np.float32), 1)
    assert caught.value.code == "FR-U80"


def test_the_peak_of_a_plateau_is_in_its_middle() -> None:
    heat = np.zeros((9, 9), np.float32)
    heat[2:7, 3:6] = 1
    assert attribution.peak(heat) == (4, 4)


# ---------------------------------------------------------------- attention


def transformer(size: int = 32, **settings: object) -> nn.Module:
    from monai.networks.nets.vit import ViT

    with seeded(3):
        return ViT(
            in_channels=1, img_size=(size, size), patch_size=(8, 8), hidden_size=24, mlp_dim=24, num_layers=2,
            num_heads=2, spatial_dims=2, num_classes=2, **settings,
        )  # fmt: skip


class Logits(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.inner(x)[0])


@pytest.mark.slow
@pytest.mark.parametrize("class_token", [True, False])
def test_roll_out_sums_to_one_over_patches_and_finds_the_one_that_all_attend_to(class_token: bool) -> None:
    network = Logits(transformer(classification=class_token)).train()
    image = spot((32, 32), (12, 20))
    with torch.no_grad():
        for module in network.modules():
            if hasattr(module, "qkv"):
                module.qkv.weight.zero_()  # every token attends to every other alike
    even = rollout.rollout(network, image, 1)
    assert even.shape == (32, 32)
    assert np.ptp(even) < 1e-6
    assert network.training
    assert rollout.attends(network)
    assert "attention roll-out" in attribution.methods(network)
    assert "Grad-CAM" not in attribution.methods(network)


def test_roll_out_multiplies_the_layers() -> None:
    one = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])
    mixed = 0.5 * one[0, 0] + 0.5 * torch.eye(2)
    torch.testing.assert_close(rollout._rolled([one, one]), mixed @ mixed)


# ---------------------------------------------------------------- uncertainty


def test_entropy_is_a_bit_where_nothing_is_known_and_nothing_where_all_is() -> None:
    regions = np.array([[0.5, 0.0, 1.0], [0.0, 0.0, 1.0]], np.float32)
    np.testing.assert_allclose(uncertainty.entropy(regions, exclusive=False), [1, 0, 0], atol=1e-4)
    softmax = np.array([[0.25, 1.0], [0.25, 0.0], [0.25, 0.0], [0.25, 0.0]], np.float32)
    np.testing.assert_allclose(uncertainty.entropy(softmax, exclusive=True), [2, 0], atol=1e-4)


def test_members_that_agree_are_certain_and_those_that_differ_are_not() -> None:
    sure = np.array([[0.9, 0.1]], np.float32)
    np.testing.assert_allclose(uncertainty.disagreement([sure, sure]), 0, atol=1e-7)
    np.testing.assert_allclose(uncertainty.disagreement([sure, 1 - sure]), 0.4, atol=1e-6)


def test_dropout_is_on_within_even_though_judging_switches_it_off() -> None:
    network = nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5), nn.Linear(64, 1)).eval()
    x = torch.ones(1, 8)
    with torch.no_grad(), uncertainty.dropping(network), seeded(1):
        network.eval()
        drawn = {round(float(network(x)), 6) for _ in range(5)}
    assert len(drawn) == 5
    assert not any(module.training for module in network.modules())
    with torch.no_grad():
        assert float(network(x)) == float(network(x))
    assert uncertainty.dropouts(nn.Sequential(nn.Dropout(0.0))) == []


# ---------------------------------------------------------------- registration


def test_an_answer_that_follows_known_shifts_is_sure_and_one_that_hears_nothing_is_off_by_the_shift() -> None:
    blob = np.zeros((24, 20), np.float32)
    blob[9:13, 8:11] = 1
    pair = np.stack([blob, np.roll(blob, (2, -1), axis=(0, 1))])
    affine = np.diag([3.0, 2.0, 1.0, 1.0])  # mm along rows and columns

    def middle(image: F32) -> np.ndarray:
        return (np.indices(image.shape) * image).sum((1, 2)) / image.sum()

    def hears(image: F32) -> F32:
        # the right half of the image hears; the left one always says what it said first
        asked = (middle(image[1]) - middle(image[0])) * [3.0, 2.0]
        field = np.broadcast_to(asked[:, None, None], (2, 24, 20)).astype(np.float32).copy()
        field[:, :, :10] = np.array([6.0, -2.0])[:, None, None]
        return field

    unsure = shifting.disagreement_mm(hears, pair, affine)
    assert unsure.shape == (24, 20)
    np.testing.assert_allclose(unsure[:, 10:], 0, atol=1e-4)
    # two shifts by a row of 3 mm, two by a column of 2: sqrt((2 * 9 + 2 * 4) / 4)
    np.testing.assert_allclose(unsure[:, :10], np.sqrt(6.5), rtol=1e-4)


# ---------------------------------------------------------------- drawn


def test_a_map_that_is_the_same_everywhere_tints_nothing() -> None:
    image = np.random.default_rng(2).normal(1, 0.1, (1, 20, 24)).astype(np.float32)
    case = Case(CaseRef("c1", "p1"), image, None, np.eye(4))
    even, sloped = np.full((20, 24), 0.2, np.float32), np.full((20, 24), 0.2, np.float32)
    sloped[:10] = 0.8
    picture = overlaid(case, {"even": even, "sloped": sloped}, CaseForm(dims=2, channels=("t1",)))
    warm = {
        name: int(((panel[..., 0].astype(int) - panel[..., 2]) > 40).sum()) for name, panel in picture.panels.items()
    }
    assert warm["even"] == warm["image"] == 0
    assert warm["sloped"] > 1000


def test_a_map_is_drawn_in_the_slice_in_which_it_peaks_with_the_sides_marked() -> None:
    image = np.random.default_rng(2).normal(1, 0.1, (1, 20, 24, 16)).astype(np.float32)
    heat = np.zeros((20, 24, 16), np.float32)
    heat[5, 6, 11] = 2
    labels = (heat > 0).astype(np.uint8)
    case = Case(CaseRef("c1", "p1"), image, Target(labels), np.eye(4))
    picture = overlaid(case, {"Grad-CAM": heat, "occlusion": heat}, CaseForm(channels=("t1",)))
    assert list(picture.panels) == ["image", "Grad-CAM", "occlusion"]
    assert "slice 12 of 16" in picture.title
    assert "R is on the left" in picture.title
    assert side_by_side(picture).shape[2] == 3
    # patient's right is on the left: x = 5 of 20 lies on the viewer's right half... of a RAS grid flipped
    red = picture.panels["Grad-CAM"][..., 0].astype(int) - picture.panels["Grad-CAM"][..., 2]
    column = int(np.unravel_index(red.argmax(), red.shape)[1])
    assert column > picture.panels["Grad-CAM"].shape[1] / 2
