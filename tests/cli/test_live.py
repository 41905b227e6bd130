"""A run is told as it goes: one line a round in a log, a table on a terminal, each failure once."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from fedrounds.cli.live import Board, Lines, Progress, duration, screen_on

EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("hello", {"site": "a", "state": "ok"}),
    ("hello", {"site": "b", "state": "ok"}),
    ("hello", {"site": "c", "state": "error:FR-D02"}),
    ("plan", {"rounds": 4, "first": 1, "sites": 3, "held_out": 1}),
    ("round-start", {"round": 1, "sites": 2}),
    ("site", {"round": 1, "site": "a", "state": "ok", "loss": 0.5}),
    ("site", {"round": 1, "site": "b", "state": "error:FR-R04", "loss": None}),
    ("round", {"round": 1, "ok": 1, "seconds": 2.0, "loss": 0.5}),
    ("round-start", {"round": 2, "sites": 2}),
    ("site", {"round": 2, "site": "a", "state": "ok", "loss": 0.25}),
    ("site", {"round": 2, "site": "b", "state": "error:FR-R04", "loss": None}),
    ("round", {"round": 2, "ok": 1, "seconds": 4.0, "loss": 0.25}),
    ("score", {"site": "a", "model": "consensus", "cohort": "local-val"}),
    ("score", {"site": "b", "model": "consensus", "cohort": "local-val"}),
    ("baseline", {"model": "pooled", "site": "all", "state": "ok"}),
    ("warning", {"text": "b sent no scores"}),
    ("warning", {"text": "b sent no scores"}),
    ("end", {"exit": 9}),
]


def console(terminal: bool, height: int = 25) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, height=height, color_system=None)


def said(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def test_a_log_has_a_line_a_round_and_each_failure_once() -> None:
    on = console(terminal=False)
    with Lines(on) as listen:
        for event, facts in EVENTS:
            listen(event, facts)
    # two rounds took 2 s and 4 s, two are left: 2 * 3 s = 6 s
    assert said(on).splitlines() == [
        "c: error:FR-D02; `fedrounds explain FR-D02` says more",
        "3 training sites, 4 rounds, 1 held out",
        "b: error:FR-R04; `fedrounds explain FR-R04` says more",
        "round 1/4  1 site  loss 0.500  2.0 s  about 6.0 s left",
        "round 2/4  1 site  loss 0.250  4.0 s  about 6.0 s left",
        "judging consensus",
        "pooled trained",
        "b sent no scores",
    ]


def test_a_resumed_run_says_where_it_goes_on() -> None:
    on = console(terminal=False)
    Lines(on)("plan", {"rounds": 9, "first": 4, "sites": 2, "held_out": 0})
    assert said(on) == "2 training sites, 9 rounds, going on from round 4\n"


def test_a_terminal_shows_the_sites_and_keeps_the_failures() -> None:
    on = console(terminal=True)
    with Board(on) as listen:
        for event, facts in EVENTS[:12]:
            listen(event, facts)
        on.print(listen.draw())
    lines = [line.split() for line in said(on).splitlines()]
    assert ["a", "ok", "0.250"] in lines
    assert said(on).count("c: error:FR-D02") == 1


def test_a_small_terminal_shows_what_went_wrong_and_counts_the_rest() -> None:
    on = console(terminal=True, height=10)
    board = Board(on)
    for number in range(71):
        board("hello", {"site": f"s{number:02d}", "state": "ok" if number != 70 else "absent"})
    on.print(board.draw())
    text = said(on)
    assert "s70" in text.splitlines()[-5]
    assert "and 67 more" in text


def test_the_screen_follows_the_stream() -> None:
    assert isinstance(screen_on(console(terminal=True)), Board)
    assert isinstance(screen_on(console(terminal=False)), Lines)


def test_time_left_is_unknown_before_the_first_round() -> None:
    ticks: Iterator[float] = iter([0.0])
    progress = Progress(clock=lambda: next(ticks))
    progress.take("plan", {"rounds": 3, "first": 1, "sites": 1})
    assert progress.left_s() is None
    progress.take("round", {"round": 1, "ok": 1, "seconds": 5.0})
    assert progress.left_s() == 10.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.44, "1.4 s"), (32.0, "32 s"), (245, "4 min 05 s"), (7800, "2 h 10 min")]
)
def test_a_duration_is_told_as_a_person_would(seconds: float, text: str) -> None:
    assert duration(seconds) == text
