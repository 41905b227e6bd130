"""A case of a run can be looked at: drawn at its site, with the scores that the run gave it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedrounds.showing import show
from fedrounds_common.errors import UsageError
from fedrounds_common.pictures import side_by_side
from fedrounds_common.task import Picture

pytestmark = pytest.mark.slow


def test_a_case_is_drawn_with_reference_and_prediction_and_the_scores_of_the_run(finished: Any, tmp_path: Path) -> None:
    found = show(finished.run, "C_02", out=tmp_path / "c.png")
    assert (found.site, found.role, found.panels) == ("C", "held-out", ("image", "reference", "prediction"))
    picture = np.asarray(Image.open(found.path))
    assert picture.ndim == 3
    thirds = np.array_split(picture, 3, axis=1)
    # the ball is painted in two of the three panels only
    coloured = [int((np.ptp(third.astype(int), axis=-1) > 40).sum()) for third in thirds]
    assert coloured[0] == 0
    assert min(coloured[1:]) > 100
    with (finished.run.path / "sites/C/cases.csv").open(encoding="utf-8", newline="") as file:
        line = next(
            line for line in csv.DictReader(file)
            if (line["model"], line["case"], line["region"], line["metric"]) == ("consensus", "C_02", "lesion", "dice")
        )  # fmt: skip
    assert found.values["lesion"]["dice"] == pytest.approx(float(line["value"]), abs=1e-12)


def test_the_picture_lies_in_the_sites_own_folder_unless_another_is_named(finished: Any, tmp_path: Path) -> None:
    shutil.copytree(finished.run.path, tmp_path / "0001-balls")
    found = show(tmp_path / "0001-balls", "A_01")
    assert found.path == (tmp_path / "0001-balls").resolve() / "sites/A/pictures/show-A_01.png"
    assert found.path.is_file()


def test_a_case_that_is_nowhere_and_a_site_that_is_not_there_are_said_to_be_so(finished: Any) -> None:
    with pytest.raises(UsageError, match="no site holds a case 'C_20'; did you mean C_0"):
        show(finished.run, "C_20")
    with pytest.raises(UsageError, match="A does not hold a case 'C_02'"):
        show(finished.run, "C_02", site="A")
    with pytest.raises(UsageError, match="the run has no site 'D'"):
        show(finished.run, "C_02", site="D")


def test_why_shows_where_a_mask_is_undecided_and_the_scores_beside_it(finished: Any, tmp_path: Path) -> None:
    found = show(finished.run, "C_02", out=tmp_path / "why.png", why=True)
    assert found.panels == ("image", "undecided")
    assert "where the mask is undecided" in found.title
    picture = np.asarray(Image.open(found.path)).astype(int)
    halves = np.array_split(picture, 2, axis=1)
    # the rim of the ball glows in the second panel
    assert int(((halves[1][..., 0] - halves[1][..., 2]) > 40).sum()) > 50
    assert found.values == show(finished.run, "C_02", out=tmp_path / "c.png").values


def test_panels_of_unequal_height_stand_side_by_side() -> None:
    high, low = np.full((9, 4, 3), 200, np.uint8), np.full((5, 6, 3), 100, np.uint8)
    row = side_by_side(Picture("two", {"high": high, "low": low}))
    # 4 + 6 columns and 4 black ones after each
    assert row.shape == (9, 18, 3)
    np.testing.assert_array_equal(row[:5, 8:14], low)
    assert not row[5:, 8:].any()
