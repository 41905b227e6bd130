"""Loading, whole volumes and the GPU: the programs run at a small size, both sides agree, and their tables are written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volumes import BRAIN, FULL, brain, write_volumes

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(program: str, *words: str) -> str:
    command = [sys.executable, str(BENCHMARKS / program), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def table(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text("utf-8"))
    assert found["rows"]
    assert (folder / f"{name}.md").read_text("utf-8").startswith(f"# {name}")
    return found


def test_a_made_brain_lies_in_black_and_is_as_large_as_it_says(tmp_path: Path) -> None:
    grid = tuple(size // 10 for size in FULL)
    image, labels = brain(3, grid)
    assert image.shape == (*grid, 4)
    inside = np.nonzero(image.any(axis=3))
    for axis, (part, whole) in enumerate(zip(BRAIN, FULL, strict=True)):
        assert 0 <= grid[axis] * part // whole - (np.ptp(inside[axis]) + 1) <= 4  # its poles lie between voxels
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    assert not labels[~image.any(axis=3)].any()
    np.testing.assert_array_equal(brain(3, grid)[0], image)
    made = write_volumes(tmp_path, 2, grid)
    times = [file.stat().st_mtime_ns for file in sorted(made.rglob("*.nii"))]
    assert len(times) == 4
    write_volumes(tmp_path, 2, grid)
    assert [file.stat().st_mtime_ns for file in sorted(made.rglob("*.nii"))] == times


@pytest.mark.slow
@pytest.mark.timeout(1200)  # ten processes that import a peer, on a machine that others use too
def test_loading_is_compared_on_the_same_voxels(tmp_path: Path) -> None:
    run(
        "loading.py", "--pairs", "1", "--cases", "4", "--scale", "0.2", "--patch", "16", "--small", "16", "--steps", "3",
        "--epochs", "1", "--peers", "cache", "--augment", "all", "--data", str(tmp_path / "data"), "-o", str(tmp_path),
    )  # fmt: skip
    found = table(tmp_path, "loading")
    first, last = found["rows"]
    assert (first["theirs"], last["theirs"]) == ("MONAI CacheDataset", "before")
    assert {"cases_per_s", "memory_mib", "files_mib"} <= set(first["measures"])
    for runs in first["runs"].values():
        assert runs[0]["cases"] == 4
    assert 0 <= last["measures"]["waiting_share"]["ours"]["median"] <= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)  # ten processes that import a peer, on a machine that others use too
def test_whole_volumes_are_compared_with_monais_own_answer(tmp_path: Path) -> None:
    run(
        "sliding_window.py", "--pairs", "1", "--scale", "0.15", "--patch", "16", "--steps", "4",
        "--data", str(tmp_path / "data"), "-o", str(tmp_path),
    )  # fmt: skip
    found = table(tmp_path, "sliding_window")
    assert [row["ours"] for row in found["rows"]] == ["fedrounds", "fedrounds, content at once"]
    for row in found["rows"]:
        assert row["runs"]["MONAI on the full grid"][0]["dice"] > 0.9999  # of its own kept answer
        assert 0 <= row["measures"]["dice"]["ours"]["median"] <= 1


def test_without_a_gpu_it_says_so_and_ends_well() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert run("gpu.py") == "no GPU here: nothing was measured\n"


@pytest.mark.slow
@pytest.mark.timeout(1200)  # ten processes that import a peer, on a machine that others use too
def test_patches_a_second_are_counted_of_both_networks_and_so_are_their_multiply_adds(tmp_path: Path) -> None:
    run(
        "gpu.py", "--pairs", "1", "--patch", "32", "--batch", "1", "--steps", "1", "--device", "cpu", "--plain",
        "--peak", "1", "-o", str(tmp_path),
    )  # fmt: skip
    (row,) = table(tmp_path, "gpu")["rows"]
    ours, theirs = row["measures"]["gmac"]["ours"]["median"], row["measures"]["gmac"]["theirs"]["median"]
    # 22.2e12 operations for 18 windows of 128³ are published of the FeTS network: 617 thousand million each, 1/64 of that here
    assert ours == pytest.approx(617 / 64, rel=0.02)
    assert 0 < theirs < 2 * ours
    assert row["measures"]["share_of_peak"]["ours"]["median"] > 0
