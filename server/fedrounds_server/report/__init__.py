"""What a run shows: figures, one self-contained page, a table on the terminal, a table over seeds."""

from fedrounds_server.report.page import write_report
from fedrounds_server.report.runs import table_of_runs
from fedrounds_server.report.summary import summary

__all__ = ["summary", "table_of_runs", "write_report"]
