"""All figures of a run, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedrounds_server.report.curves import draw_curves
from fedrounds_server.report.folder import RunView
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


NAMES = ("hospitals", "models", "regions", "curves", "worst", "participation", "traffic")


def save_all(drawn: Sequence[Drawing], folder: Path) -> list[Path]:
    """Write each as `<name>.png`, and take away those of an earlier report that no longer belong.

    Without that, a report made without the sites would leave their pictures in the folder beside it.
    """
    for name in set(NAMES) - {drawing.name for drawing in drawn}:
        (folder / f"{name}.png").unlink(missing_ok=True)
    return [save(drawing, folder) for drawing in drawn]
