"""Distances between real and made images: what sums of sites give is what all cases in one place give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from fedrounds_common.case import F32, F64, Case, CaseRef
from fedrounds_common.generative import copies, likeness, quality, shipped
from fedrounds_common.rng import generator
from fedrounds_common.task import CaseScore, add_tallies

KINDS = likeness.KINDS
SIZE = likeness.FEATURES


def scored(number: int, made: float = 0.3, trained: bool = False, far: float = 0.2) -> CaseScore:
    """A case whose features are drawn, those of the made image shifted."""
    draws = np.random.default_rng(number)
    arrays = {
        "half": np.array([number % 2], np.float64), "kind": np.array([0, trained], np.float64), "far": np.array([far]),
    }  # fmt: skip
    if not trained:
        arrays |= {
            "real": draws.normal(0, 1, SIZE), "made": draws.normal(made, 1.2, SIZE), "blurred": draws.normal(1, 0.7, SIZE),
        }  # fmt: skip
    return CaseScore(f"c{number}", f"p{number}", {"mean": {"nearest": far}}, {}, arrays)


def textbook_fid(one: F64, other: F64) -> float:
    spread, other_spread = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    root = sqrtm(spread @ other_spread)
    shift = np.square(one.mean(0) - other.mean(0)).sum()
    return float(shift + np.trace(spread + other_spread - 2 * root.real))


def textbook_mmd(one: F64, other: F64) -> float:
    waves, others = likeness.waves_of(one), likeness.waves_of(other)
    n, m = len(waves), len(others)
    within = (waves @ waves.T).sum() - np.trace(waves @ waves.T)
    without = (others @ others.T).sum() - np.trace(others @ others.T)
    return float(within / (n * (n - 1)) + without / (m * (m - 1)) - 2 * (waves @ others.T).mean())


def test_frechet_and_kernel_distance_of_three_sites_are_those_of_all_cases_in_one_place() -> None:
    scores = [scored(number) for number in range(240)]
    sites = [scores[:31], scores[31:90], scores[90:]]
    total = add_tallies([likeness.tally(site, 1, 1) for site in sites])
    found = likeness.distances(total)
    by_half = [{kind: np.stack([score.arrays[kind] for score in scores[half::2]]) for kind in KINDS} for half in (0, 1)]
    for name, kind in (("", "made"), ("_blurred", "blurred"), ("_floor", "real")):
        pairs = [(0, 1)] if kind == "real" else [(0, 1), (1, 0)]
        for word, textbook in (("fid", textbook_fid), ("mmd", textbook_mmd)):
            wanted = np.mean([textbook(by_half[a]["real"], by_half[b][kind]) for a, b in pairs])
            assert found[f"{word}{name}"][0] == pytest.approx(wanted, rel=1e-9, abs=1e-9), f"{word}{name}"


def test_the_kernel_of_random_features_is_nearly_the_gaussian_one() -> None:
    draws = np.random.default_rng(0)
    x, y = draws.normal(0, 1, (50, SIZE)), draws.normal(0, 1, (50, SIZE))
    squared = np.square(x - y).sum(1)
    kernel = np.exp(-squared / (2 * likeness.WIDTH**2))
    ours = (likeness.waves_of(x) * likeness.waves_of(y)).sum(1)
    # 256 random frequencies: a standard error of at most 1/16
    assert np.abs(ours - kernel).max() < 0.2
    assert np.corrcoef(ours, kernel)[0, 1] > 0.4


def test_equal_distributions_are_no_distance_apart_and_the_kernel_distance_is_without_bias() -> None:
    found = []
    for seed in range(12):
        scores = [scored(1000 * seed + number) for number in range(60)]
        found.append(likeness.distances(likeness.tally(scores, 1, 1))["mmd_floor"][0])
    # around 0 and not above it: a biased estimate would be near 2/30
    assert abs(np.mean(found)) < 0.01


def test_few_cases_give_no_number() -> None:
    rows = {row.metric: row for row in likeness.table(likeness.tally([scored(n) for n in range(18)], 1, 1))}
    assert np.isnan(rows["fid"].value)
    assert np.isnan(rows["memorised"].value)
    rows = {row.metric: row for row in likeness.table(likeness.tally([scored(n) for n in range(20)], 1, 1))}
    assert np.isfinite(rows["fid"].value)
    assert rows["fid"].n == 20


def test_precision_and_recall_count_who_lies_in_the_others_manifold() -> None:
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2)
    # of 25 real points on a grid: made ones on it are all hits, made ones far away are none
    near, far = grid + 0.1, grid + 100
    assert likeness.neighbours(grid, near)["hits"].tolist() == [25, 25]
    assert likeness.neighbours(grid, far)["hits"].tolist() == [0, 0]
    # half of the real points are covered by made ones that all sit at the left: precise, and half remembered
    left = grid[grid[:, 0] < 2] + 0.01
    hits = likeness.neighbours(grid, np.concatenate([left, left + 0.02]))["hits"]
    assert hits[0] == 20
    assert 10 <= hits[1] <= 15
    assert likeness.neighbours(grid[:9], near)["asked"].tolist() == [0, 0]


def test_memorised_is_what_lies_far_closer_than_cases_that_nothing_was_trained_on() -> None:
    # 40 untrained cases at 0.10 ... 0.49: the 5th percentile is about 0.11, and half of it 0.055
    untrained = [0.10 + 0.01 * place for place in range(40)]
    total = {
        "untrained": copies.counted(untrained, [0] * 40, 1),
        "trained": copies.counted([0.01, 0.05, 0.06, 0.2, 0.3], [0] * 5, 1),
    }
    assert copies.memorised(total) == (2, 5)


def test_a_class_is_held_against_its_own_kind() -> None:
    # class 1 is ten times as alike among itself as class 0: 0.05 is close for the one and nothing for the other
    wide, narrow = [0.2 + 0.01 * place for place in range(20)], [0.02 + 0.001 * place for place in range(20)]
    total = {
        "untrained": copies.counted([*wide, *narrow], [0] * 20 + [1] * 20, 2),
        "trained": copies.counted([0.05, 0.05], [0, 1], 2),
    }
    assert copies.memorised(total) == (1, 2)


def test_counts_of_distances_add_and_their_quantile_is_fine_enough() -> None:
    values = np.random.default_rng(0).uniform(0.02, 0.4, 500).tolist()
    parts = [copies.counted(part, [0] * len(part), 1) for part in (values[:100], values[100:])]
    np.testing.assert_array_equal(parts[0] + parts[1], copies.counted(values, [0] * 500, 1))
    assert copies.quantile(parts[0][0] + parts[1][0], 0.05) == pytest.approx(np.percentile(values, 5), rel=0.02)


def blob(number: int) -> F32:
    """A picture of five soft blobs: no two are alike."""
    draws = generator(number, "blob")
    rows, columns = np.indices((28, 28))
    image = np.zeros((28, 28))
    for _ in range(5):
        y, x, size = draws.uniform(3, 25), draws.uniform(3, 25), draws.uniform(1.5, 4)
        image += draws.uniform(0.3, 1) * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * size**2))
    return (image / image.max())[None].astype(np.float32)


class Parrot:
    """Makes what it was shown, with a little noise: the worst generator that looks the best."""

    def __init__(self, shown: list[F32], seed: int) -> None:
        draws = np.random.default_rng(seed)
        self.pool = [shown[place] + draws.normal(0, 0.02, (1, 28, 28)).astype(np.float32)
                     for place in draws.integers(len(shown), size=64)]  # fmt: skip


def memorised(pool: list[F32], trained: list[F32], untrained: list[F32]) -> tuple[int, int]:
    looks = np.stack([copies.look(image) for image in pool])

    def far(images: list[F32]) -> list[float]:
        return [copies.distance(image, pool[copies.nearest(image, looks)]) for image in images]

    return copies.memorised(
        {
            "untrained": copies.counted(far(untrained), [0] * len(untrained), 1),
            "trained": copies.counted(far(trained), [0] * len(trained), 1),
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_generator_that_repeats_its_twenty_cases_is_caught_and_one_that_makes_new_ones_is_not(seed: int) -> None:
    base = 10_000 * seed
    twenty, many = [blob(base + n) for n in range(20)], [blob(base + n) for n in range(400)]
    untrained = [blob(base + 5000 + n) for n in range(60)]
    found, of = memorised(Parrot(twenty, seed).pool, twenty, untrained)
    # 64 draws of 20 leave about one of them out
    assert of == 20
    assert found >= 16
    fresh = [blob(base + 7000 + n) for n in range(64)]
    assert memorised(fresh, many, untrained) == (0, 400)


def test_the_shipped_network_is_small_and_is_the_one_that_studies_name() -> None:
    from fedrounds_common.tasks.generation import Generation

    assert len(shipped.content()) < 1_000_000
    assert Generation().features == shipped.digest()
    assert len(shipped.digest()) == 12


def test_the_shipped_network_sees_blur_noise_and_shuffling() -> None:
    from fedrounds_common.generative.features import features

    real = [blob(number) for number in range(60)]
    draws = np.random.default_rng(0)
    changed = {
        "another half": [blob(number) for number in range(60, 120)],
        "blurred": [likeness.blurred(image) for image in real],
        "noisy": [np.clip(image + draws.normal(0, 0.15, image.shape), 0, 1).astype(np.float32) for image in real],
        "shuffled": [likeness.shuffled(image, draws) for image in real],
    }
    seen = np.stack([features(image) for image in real])
    far = {
        name: textbook_fid(seen, np.stack([features(image) for image in images])) for name, images in changed.items()
    }
    assert far["another half"] < 0.5 * min(far["blurred"], far["noisy"], far["shuffled"])


def test_features_of_channels_and_of_slices_stand_side_by_side() -> None:
    from fedrounds_common.generative.features import features

    one, other = blob(1)[0], blob(2)[0]
    both = features(np.stack([one, other]))
    np.testing.assert_allclose(both, np.concatenate([features(one[None]), features(other[None])]))
    assert features(np.random.default_rng(0).random((2, 12, 14, 10)).astype(np.float32)).shape == (2 * SIZE,)


def test_translated_images_are_scored_by_hand_to_the_same_numbers() -> None:
    true = np.zeros((1, 8, 8), np.float32)
    made = np.full((1, 8, 8), 50.0, np.float32)
    # everywhere 50 off, of a range of 1000: PSNR is 20 log10(1000 / 50) = 26.02
    assert quality.absolute_error(made, true) == 50
    assert quality.signal_to_noise(made, true, 1000) == pytest.approx(26.0206, abs=1e-4)
    # flat images: SSIM is (2·0·50 + c1) / (0 + 2500 + c1), with c1 = (0.01 · 1000)²
    assert quality.similarity(made, true, 1000) == pytest.approx(100 / 2600)
    assert quality.similarity(true, true, 1000) == 1
    assert quality.signal_to_noise(true, true, 1000) == pytest.approx(120)


def test_ssim_is_that_of_a_program_of_others() -> None:
    ssim = pytest.importorskip("skimage.metrics").structural_similarity
    draws = np.random.default_rng(0)
    true = draws.random((24, 20)).astype(np.float32)
    made = (true + draws.normal(0, 0.1, true.shape)).astype(np.float32)
    wanted = ssim(true, made, data_range=1.0, win_size=7, use_sample_covariance=False, full=True)[1]
    assert quality.similarity(made[None], true[None], 1.0) == pytest.approx(float(wanted.mean()), abs=1e-4)


def test_half_of_the_patients_are_of_each_half_for_ever() -> None:
    halves = [likeness.half_of(f"p{number}") for number in range(400)]
    assert 160 < sum(halves) < 240
    assert halves[:12] == [likeness.half_of(f"p{number}") for number in range(12)]


def test_a_case_by_itself_has_the_same_ref_afterwards() -> None:
    case = Case(CaseRef("a", "b", "c"), blob(1), None, np.eye(4))
    from fedrounds_common.generative.grids import one_slice

    assert one_slice(case, 2) is case
