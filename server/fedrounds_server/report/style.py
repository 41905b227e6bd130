"""How every figure looks: one type size, one palette that colour-blind eyes can tell apart, no global state.

Figures are made without pyplot, which keeps a process-wide list of open figures. Colour never says
anything alone: a marker, a hatch, a letter or a label says it too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from fedrounds_common.disk import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

# Okabe and Ito, https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, BLACK = "#56B4E9", "#CC79A7", "#000000"
INK, GREY, PALE = "#222222", "#6B6B6B", "#D9D9D9"

WIDTH_IN = 7.2  # two columns of a journal, 183 mm
DPI = 200

STYLE: dict[RcKeyType, Any] = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same letters on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.color": INK,
    "lines.linewidth": 1.0,
    "hatch.linewidth": 0.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@final
@dataclass(frozen=True)
class Drawing:
    """A figure with what a reader needs who cannot see it. `caption` explains, `alt` tells its content."""

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


@contextmanager
def styled() -> Iterator[None]:
    """Within, matplotlib draws in our style; after, its settings are as they were."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def sheet(title: str, height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """An empty figure with its title at the top left."""
    from matplotlib.figure import Figure  # not at the top: a run that draws nothing need not load it

    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=9, fontweight="bold")
    return figure


def panel_title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", color=INK)


def png(drawing: Drawing) -> bytes:
    """The picture; equal figures give equal bytes (no time, no version in it)."""
    buffer = io.BytesIO()
    with styled():
        drawing.figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def save(drawing: Drawing, folder: Path) -> Path:
    """Write `folder/<name>.png`, whole or not at all."""
    path = folder / f"{drawing.name}.png"
    write_whole(path, png(drawing))
    return path


def marked(title: str, phantom: bool) -> str:
    """A figure travels without its report, so a phantom's says so itself."""
    return f"{title} (phantom)" if phantom else title


def count_of(number: int, word: str) -> str:
    """ "1 hospital", "6 hospitals", "2 hospitals' ..." is left to the caller."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
