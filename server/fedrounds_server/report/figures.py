"""All figures of a run, in the order in which they are read."""

from __future__ import annotations

from pathlib import Path

from fedrounds_server.report.curves import draw_curves
from fedrounds_server.report.folder import RunView, read_run
from fedrounds_server.report.hospitals import draw_hospitals
from fedrounds_server.report.models import draw_models, draw_regions
from fedrounds_server.report.rounds import draw_participation, draw_traffic
from fedrounds_server.report.style import Drawing, save
from fedrounds_server.report.worst import draw_worst


def drawings(run: RunView) -> tuple[Drawing, ...]:
    """Every figure for which the run holds something to draw."""
    made = (
        draw_hospitals(run),
        draw_models(run),
        draw_regions(run),
        draw_curves(run),
        draw_worst(run),
        draw_participation(run),
        draw_traffic(run),
    )
    return tuple(drawing for drawing in made if drawing is not None)


def draw_figures(run: Path, with_sites: bool = True) -> list[Path]:
    """Write `figures/*.png` of a run folder; with_sites lets scores and pictures of single cases in.

    Raises:
        RunFileError: not a run folder, or a file in it cannot be read.
    """
    return [save(drawing, run / "figures") for drawing in drawings(read_run(run, with_sites))]
