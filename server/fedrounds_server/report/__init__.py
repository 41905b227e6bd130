"""What a run shows: figures, one self-contained page, a table on the terminal, a table over seeds."""

from fedrounds_server.report.figures import draw_figures
from fedrounds_server.report.page import write_report

__all__ = ["draw_figures", "write_report"]
