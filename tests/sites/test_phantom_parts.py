"""The phantom's parts, each against a sum by hand or a law of physics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from fedrounds_common.rng import generator
from fedrounds_sites.phantom import hospital, lookalikes, scanner, templates
from fedrounds_sites.phantom.anatomy import Anatomy, anatomy
from fedrounds_sites.phantom.fields import smooth, view
from fedrounds_sites.phantom.hospital import Patient
from fedrounds_sites.phantom.tumour import tumour

PATIENT = Patient(
    warp_mm=3.0, age=0.5, lobe="frontal", core_mm=18.0, oedema_mm=10.0, rim_mm=7.0, uptake=0.4, enhancing=True,
    wetness=1.0,
)  # fmt: skip


def head(seed: int = 1, patient: Patient = PATIENT) -> Anatomy:
    return anatomy(patient, generator(seed, "test"))


def test_the_shipped_templates_are_small_and_carry_their_licences() -> None:
    files = list(templates.FILE.parent.glob("*.npz"))
    assert sum(file.stat().st_size for file in files) < 3e6
    notice = templates.FILE.with_name("LICENCES.md").read_text("utf-8")
    assert "Louis Collins, McConnell Brain Imaging Centre" in notice
    assert all(name in notice for name in ("ICBM 152", "Colin27"))


def test_tissue_shares_are_shares() -> None:
    shares = templates.maps(5.0)[..., : templates.MUSCLE + 1]
    assert shares.min() >= 0
    assert shares.sum(axis=-1).max() < 1.01


def test_the_gather_is_trilinear() -> None:
    stack = generator(1, "stack").standard_normal((5, 6, 7, 2), np.float32)
    index = generator(1, "index").uniform(0, 4, (50, 3)).astype(np.float32)
    found = templates.gather(stack, index)
    for k in range(2):
        wanted = ndimage.map_coordinates(stack[..., k], index.T, order=1)
        np.testing.assert_allclose(found[:, k], wanted, atol=1e-5)


def test_a_smooth_field_is_the_same_on_a_grid_over_axes_and_at_points() -> None:
    field, grid = smooth(generator(1, "field"), 2, 20.0, sd=2.0), view(5.0, 6.0)
    on = field.on(grid)
    np.testing.assert_allclose(on, field.at(grid.points_mm), atol=1e-5)
    axes = tuple((grid.affine[k, 3] + 5.0 * np.arange(grid.grid[k])).astype(np.float32) for k in range(3))
    np.testing.assert_allclose(on, field.over((axes[0], axes[1], axes[2]))[grid.inside], atol=1e-5)
    assert on.std() == pytest.approx(2.0, rel=0.15)


def test_points_come_back_from_the_template() -> None:
    anatomy_ = head()
    points = generator(1, "points").uniform(-50, 50, (200, 3)).astype(np.float32)
    there_and_back = anatomy_.points_to_template(anatomy_.from_template(points))
    assert np.linalg.norm(there_and_back - points, axis=1).max() < 2
    assert np.linalg.norm(there_and_back - points, axis=1).mean() < 0.2


def test_the_warp_has_the_patient_s_size_and_is_not_symmetric() -> None:
    grid = view(5.0, 6.0)
    warps = [head(seed).coarse.on(grid) for seed in range(12)]
    assert np.mean([warp.std() for warp in warps]) == pytest.approx(3.0, rel=0.2)
    mirrored = grid.points_mm * np.array([-1, 1, 1], np.float32)
    left, right = warps[0], head(0).coarse.at(mirrored) * np.array([-1, 1, 1], np.float32)
    assert np.abs(left - right).mean() > 2


def test_age_widens_ventricles_and_sulci() -> None:
    def fluid(age: float) -> float:
        total = 0.0
        for seed in range(4):
            person = replace(PATIENT, age=age)
            grid = view(5.0, 6.0)
            tissue = head(seed, person).tissue(head(seed, person).to_template(grid), 5.0)
            total += float(tissue[:, templates.CSF].sum())
        return total

    assert fluid(1.0) > 1.3 * fluid(0.0)


def test_the_core_has_the_volume_that_was_drawn() -> None:
    grid = view(4.0, 6.0)
    volumes = []
    for seed in range(6):
        shares, _ = tumour(PATIENT, head(seed), generator(seed, "tumour")).shares(grid)
        volumes.append((shares[:, 0] + shares[:, 2]).sum() * 4.0**3)
    # 4/3 π 18³ = 24 400 mm³; ragged edges and the grid move it a little
    assert np.mean(volumes) == pytest.approx(24_400, rel=0.2)


def test_oedema_follows_white_matter() -> None:
    white_near, white_in = [], []
    for seed in range(6):
        anatomy_ = head(seed)
        grown = tumour(PATIENT, anatomy_, generator(seed, "tumour"))
        grid = view(4.0, 6.0)
        white = anatomy_.tissue(anatomy_.to_template(grid), 4.0)[:, templates.WHITE]
        oedema = grown.shares(grid)[0][:, 1] > 0.5
        away = np.linalg.norm(grid.points_mm - grown.middle_mm, axis=1)
        ring = (away > 20) & (away < 34)
        white_in.append(white[ring & oedema].mean())
        white_near.append(white[ring & ~oedema].mean())
    assert np.mean(white_in) > 1.4 * np.mean(white_near)


def test_a_tumour_pushes_tissue_outwards_and_less_further_away() -> None:
    grown = tumour(PATIENT, head(), generator(1, "tumour"))
    steps = np.array([[18.0, 0, 0], [40.0, 0, 0], [70.0, 0, 0]], np.float32)
    moved = steps - (grown.pulled(grown.middle_mm + steps) - grown.middle_mm)
    assert moved[0, 0] == pytest.approx(grown.push_mm, rel=1e-3)
    assert grown.push_mm > moved[1, 0] > moved[2, 0] > 0


def test_vessels_and_hyperintensities_keep_their_volume_whatever_the_voxels() -> None:
    for draw in (
        lambda grid: lookalikes.vessels(head(), grid, generator(1, "vessels")),
        lambda grid: lookalikes.hyperintensities(PATIENT, head(), grid, generator(1, "spots")),
    ):
        volumes = [draw(view(spacing, 6.0)).sum() * spacing**3 for spacing in (5.0, 3.0)]
        assert volumes[0] > 1000
        # where two vessels meet a fine voxel is full, and a coarse one is not
        assert volumes[1] == pytest.approx(volumes[0], rel=0.25)


def test_older_patients_have_more_hyperintensities() -> None:
    def volume(age: float) -> float:
        person = replace(PATIENT, age=age)
        return sum(
            float(lookalikes.hyperintensities(person, head(), view(5.0, 6.0), generator(seed, "spots")).sum())
            for seed in range(6)
        )

    assert volume(1.0) > 3 * volume(0.1)


def machine(**fields: object) -> scanner.Scanner:
    return replace(scanner.scanner(1, "s01"), **fields)  # type: ignore[arg-type]


def signal(tissue: str, channel: str, uptake: float = 0.4, **fields: object) -> float:
    table = scanner.signals(machine(**fields), uptake, 1.0)
    return float(table[scanner.NAMES.index(tissue), scanner.CHANNELS.index(channel)])


@pytest.mark.parametrize("kind", ["spin", "gradient"])
def test_contrast_looks_as_radiologists_know_it(kind: str) -> None:
    fields = {"t1": kind, "t1ce": kind, "flair_null": 1.0, "dose": 1.0}
    # T1: white brighter than grey, grey than fluid; T2 the other way round
    assert signal("white", "t1", **fields) > signal("grey", "t1", **fields) > signal("csf", "t1", **fields)
    assert signal("white", "t2", **fields) < signal("grey", "t2", **fields) < signal("csf", "t2", **fields)
    # FLAIR: fluid is nulled, oedema bright; contrast medium shows on T1 only
    assert signal("csf", "flair", **fields) < 0.05
    assert signal("oedema", "flair", **fields) > 1.3 * signal("white", "flair", **fields)
    assert signal("enhancing", "t1ce", **fields) > 1.3 * signal("white", "t1ce", **fields)
    assert signal("enhancing", "t1", **fields) < signal("white", "t1", **fields)
    assert signal("blood", "t1ce", **fields) > signal("white", "t1ce", **fields)


def test_more_contrast_medium_enhances_more() -> None:
    assert signal("enhancing", "t1ce", uptake=0.6) > signal("enhancing", "t1ce", uptake=0.2)
    assert signal("enhancing", "t1ce", dose=1.3) > signal("enhancing", "t1ce", dose=0.6)


def test_a_wrong_inversion_time_leaves_fluid_visible() -> None:
    assert signal("csf", "flair", flair_null=0.8) > 0.2


def test_thick_slices_blur_along_z_only() -> None:
    grid = view(5.0, 6.0)
    shares = np.zeros((len(grid.inside), len(scanner.NAMES)), np.float32)
    middle = int(np.argmin(np.linalg.norm(grid.points_mm, axis=1)))
    shares[middle, scanner.NAMES.index("grey")] = 1
    still = machine(slice_mm=10.0, noise=0.0, bias=0.0, gains=(1.0,) * 4, gammas=(1.0,) * 4)
    table = np.zeros((len(scanner.NAMES), 4), np.float32)
    table[scanner.NAMES.index("grey")] = 1
    images = scanner.acquire(still, shares, np.ones(len(shares), bool), table, grid, generator(1, "scan"))
    x, y, z = np.unravel_index(grid.inside[middle], grid.grid)
    assert images[0].sum() == pytest.approx(1)  # T1 is three-dimensional
    assert images[2, x, y, z] < 0.7
    assert images[2, x, y, z - 1] == pytest.approx(images[2, x, y, z + 1], rel=1e-5)
    assert images[2, x, y].sum() == pytest.approx(images[2].sum(), rel=1e-5)


def test_noise_is_rician_where_there_is_no_signal() -> None:
    grid = view(5.0, 6.0)
    shares = np.zeros((len(grid.inside), len(scanner.NAMES)), np.float32)
    noisy = machine(noise=0.1, bias=0.0, gains=(1.0,) * 4, gammas=(1.0,) * 4)
    table = scanner.signals(noisy, 0.4, 1.0)
    images = scanner.acquire(noisy, shares, np.ones(len(shares), bool), table, grid, generator(1, "scan"))
    # Rayleigh: mean = σ √(π/2)
    assert images[0].ravel()[grid.inside].mean() == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.02)


def test_hospitals_differ_in_scanner_and_in_patients() -> None:
    scanners = [scanner.scanner(1, f"s{k:02d}") for k in range(40)]
    assert {machine_.field_t for machine_ in scanners} == {1.5, 3.0}
    assert {machine_.t1 for machine_ in scanners} == {"spin", "gradient"}
    assert any(machine_.margin_mm > 3 for machine_ in scanners)
    people = [hospital.population(1, f"s{k:02d}") for k in range(40)]
    shares = [crowd.without_enhancement for crowd in people]
    assert min(shares) < 0.05
    assert max(shares) > 0.2
    assert hospital.population(1, "s01") == people[1]
    assert hospital.population(2, "s01") != people[1]


def test_residual_skull_shows_at_the_hospitals_that_leave_it() -> None:
    from fedrounds_sites.phantom.patients import visit

    crowd = hospital.population(1, "s01")
    stripped, left = (
        visit(1, "s01", "p", machine(margin_mm=margin), crowd, 5.0).images[0] > 0 for margin in (0.0, 14.0)
    )
    assert (stripped & ~left).sum() == 0
    assert left.sum() > 1.3 * stripped.sum()
