"""What a prediction is as a file: a task says which of these, and whoever holds the case writes them beside it.

Arrays lie on the grid of the case, which is that of the file it was read from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from fedrounds_common.case import F32, U8


@final
@dataclass(frozen=True)
class LabelImage:
    """`labels` (*grid): the study's label values; `labels.txt` beside them says which is which."""

    labels: U8


@final
@dataclass(frozen=True)
class ScalarImages:
    """Name → (*grid), in the order in which they follow each other in one file.

    `of`: "probabilities", from 0 to 1, which a person may ask to leave out; or "intensities" of any range, such as
    an image that was made or moved.
    """

    images: Mapping[str, F32]
    of: Literal["probabilities", "intensities"] = "probabilities"


@final
@dataclass(frozen=True)
class VectorImage:
    """`field` (A, *grid): displacements in mm along the world's axes (RAS; of a picture: rows, columns)."""

    field: F32


@final
@dataclass(frozen=True)
class Values:
    """A row of a table: column → what is known of this case, e.g. the probability of each class and the decision."""

    row: Mapping[str, float | str]


Written = LabelImage | ScalarImages | VectorImage | Values
