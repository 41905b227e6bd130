"""Windows over an image, against MONAI's and by hand."""

from __future__ import annotations

import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor, nn

from fedrounds_common import windows
from fedrounds_common.errors import UsageError
from fedrounds_common.windows import Facts


class Seen(nn.Module):
    """One weight per voxel of the kernel, and it remembers what it was given."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.conv = (nn.Conv3d if dims == 3 else nn.Conv2d)(2, 3, 3, padding=1)
        self.shapes: list[tuple[int, ...]] = []
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        self.modes.append(self.training)
        logits: Tensor = self.conv(x)
        return logits


def noted(dims: int, divisor: int = 1, exclusive: bool = False) -> Seen:
    torch.manual_seed(0)
    network = Seen(dims)
    windows.note(network, Facts(divisor, exclusive))
    return network


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("grid", [(20, 17, 9), (8, 8, 8), (5, 13, 8), (9, 8, 8), (3, 4, 5)])
def test_a_volume_comes_out_as_from_monai(grid: tuple[int, int, int], overlap: float) -> None:
    network, x = noted(3), noise(1, 2, *grid)
    with torch.no_grad(), windows.judging(network, "off") as function:
        ours = windows.slide(function, x, (8, 8, 8), overlap, 4)
        theirs = sliding_window_inference(
            x, (8, 8, 8), 4, lambda part: network(part).sigmoid(), overlap=overlap, mode="gaussian"
        )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_slices_of_a_stack_come_out_as_from_monai(batch: int) -> None:
    network, x = noted(2), noise(5, 2, 21, 10)
    with torch.no_grad(), windows.judging(network, "off") as function:
        ours = windows.slide(function, x, (8, 12), 0.5, batch)
        theirs = sliding_window_inference(
            x, (8, 12), 4, lambda part: network(part).sigmoid(), overlap=0.5, mode="gaussian"
        )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_constant_stays_what_it_is() -> None:
    values = windows.slide(lambda x: 0 * x + 0.25, noise(1, 1, 11, 13), (4, 4), 0.25, 4)
    torch.testing.assert_close(values, torch.full((1, 1, 11, 13), 0.25))


def test_windows_meet_every_voxel_once_without_overlap() -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(x.shape)
        return x

    x = noise(1, 1, 8, 12)
    torch.testing.assert_close(windows.slide(function, x, (4, 4), 0.0, 4), x)
    # 2 × 3 windows, four a call
    assert seen == [(4, 1, 4, 4), (2, 1, 4, 4)]


def test_a_single_small_volume_is_run_as_two_on_a_cpu() -> None:
    network = noted(3)
    with windows.judging(network, "off") as function:
        values = windows.slide(function, noise(1, 2, 8, 8, 8), (8, 8, 8), 0.5, 4)
    assert network.shapes == [(2, 2, 8, 8, 8)]
    assert values.shape == (1, 3, 8, 8, 8)


def test_a_single_large_volume_is_run_alone_and_so_are_large_windows() -> None:
    network = noted(3)
    with windows.judging(network, "off") as function:
        function(noise(1, 2, 65, 64, 64))
    assert network.shapes == [(1, 2, 65, 64, 64)]
    assert [windows.at_once((size,) * 3) for size in (32, 64, 80, 128, 200)] == [4, 4, 2, 1, 1]


def test_no_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="no image to predict"):
        windows.slide(lambda x: x, torch.zeros(0, 1, 4, 4), (4, 4), 0.0, 4)


@pytest.mark.parametrize(("divisor", "given"), [(1, (5, 7)), (4, (8, 8)), (5, (5, 10))])
def test_an_image_is_padded_to_the_divisor_and_cut_back(divisor: int, given: tuple[int, int]) -> None:
    network, x = noted(2, divisor), noise(2, 2, 5, 7)
    logits = windows.padded(network, x)
    assert logits.shape == (2, 3, 5, 7)
    assert network.shapes == [(2, 2, *given)]
    # a 3 x 3 convolution with zero padding sees the same zeros beyond the image
    torch.testing.assert_close(logits, network(x))


def test_regions_get_a_sigmoid_and_labels_a_softmax() -> None:
    x = noise(2, 2, 6, 6)
    for exclusive in (False, True):
        network = noted(2, exclusive=exclusive)
        with windows.judging(network, "off") as function:
            p = function(x)
        logits = network(x)
        torch.testing.assert_close(p, logits.softmax(1) if exclusive else logits.sigmoid())


@pytest.mark.parametrize("training", [True, False])
def test_judging_evaluates_and_leaves_the_mode_as_it_was(training: bool) -> None:
    network = noted(2).train(training)
    with windows.judging(network, "off") as function:
        assert not function(noise(1, 2, 4, 4)).requires_grad
    assert network.modes == [False]
    assert network.training is training
    with pytest.raises(ZeroDivisionError), windows.judging(network, "off"):
        1 / 0  # noqa: B018
    assert network.training is training


def test_bf16_changes_the_sums_a_little_and_the_type_not_at_all() -> None:
    network, x = noted(2), noise(1, 2, 8, 8)
    with windows.judging(network, "off") as full, windows.judging(network, "bf16") as half:
        exact, rounded = full(x), half(x)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0, atol=0.02)


def test_a_bare_network_is_refused() -> None:
    with pytest.raises(UsageError, match=r"FR-U40 a bare Conv2d; a network built by the task's own `network`"):
        windows.padded(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2))


def test_a_network_in_a_wrapper_is_known() -> None:
    network = noted(2, divisor=4, exclusive=True)
    assert windows.facts_of(nn.Sequential(nn.Identity(), network)) == Facts(4, exclusive=True)
