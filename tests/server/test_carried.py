"""Bytes of each way beside the weights as they are: the figures of the report, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedrounds_server.history import JudgingLine, RoundLine, SiteLine, append, read_judging
from fedrounds_server.report.carried import DOWN, UP, carried, carried_in_words, carried_table
from fedrounds_server.report.folder import RunView

INT8 = {"wire": {"name": "float16", "down": {"name": "int8"}}}


def run_of(*lines: RoundLine, study: object = INT8) -> RunView:
    return RunView(Path("runs/0001-x"), {}, {}, dict(study), (), lines)  # type: ignore[call-overload]


def line(round_: int, *sites: SiteLine, model_bytes: int = 1000) -> RoundLine:
    return RoundLine(round_, 1.0, "", sites, model_bytes=model_bytes)


def test_shares_are_of_what_was_sent_to_and_came_from_each_hospital() -> None:
    run = run_of(
        line(1, SiteLine("A", "ok", bytes_up=500, bytes_down=300), SiteLine("B", "late", bytes_down=300)),
        line(2, SiteLine("A", "ok", bytes_up=520, bytes_down=260), SiteLine("B", "absent")),
        line(
            3,
            SiteLine("A", "error:FR-R12", bytes_up=40, bytes_down=540),
            SiteLine("B", "ok", bytes_up=510, bytes_down=600),
        ),
    )
    down, up = carried(run)
    # to them: 300, 300, 260, 540, 600; from them three updates: 500, 520, 510, and no refusal is one
    assert (down.way, down.codec, down.each, down.total) == (DOWN, "int8", 400, 2000)
    assert (up.way, up.codec, up.each, up.total) == (UP, "float16", 510, 1530)
    assert (down.share, down.first, up.share, up.first) == pytest.approx((0.4, 0.3, 0.51, 0.5))
    table = carried_table(run)
    assert table is not None
    assert table.rows[0] == (DOWN, "int8", "400 B", "40\xa0%", "30\xa0%", "2.0 kB")
    assert carried_in_words(run).startswith("400 B to the hospitals each and round (40\xa0% of the weights, int8)")


def test_a_study_that_names_no_codec_sends_float32_and_a_run_without_rounds_has_no_table() -> None:
    plain = run_of(line(1, SiteLine("A", "ok", bytes_up=1010, bytes_down=1020)), study={})
    assert [one.codec for one in carried(plain)] == ["float32", "float32"]
    assert carried_table(run_of()) is None
    assert carried_in_words(run_of()) == ""


def test_a_history_that_does_not_say_how_large_the_model_is_has_no_shares() -> None:
    old = run_of(line(1, SiteLine("A", "ok", bytes_up=1010, bytes_down=1020), model_bytes=0))
    assert [one.as_dict()["share"] for one in carried(old)] == [None, None]
    table = carried_table(old)
    assert table is not None
    assert table.rows[0][3] == "–"


def test_what_judging_took_is_told_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "judging.jsonl"
    for number in (0, 5):
        append(file, JudgingLine(number, "consensus", "all", 3, 1_500, 30_000))
    file.write_text(file.read_text("utf-8") + '{"round": 9, "mod', "utf-8")  # cut short by a crash
    judging = read_judging(file)
    assert [line.round for line in judging] == [0, 5]
    table = carried_table(replace(run_of(line(1, SiteLine("A", "ok", bytes_up=1, bytes_down=1))), judging=judging))
    assert table is not None
    assert table.note.endswith("2 models travelled unpacked to be judged: 60.0 kB to the hospitals, 3.0 kB from them.")
    assert read_judging(tmp_path / "none") == ()
    again = carried_table(replace(run_of(line(1, SiteLine("A", "ok", bytes_up=1, bytes_down=1))), judging=judging * 2))
    assert again is not None
    assert "2 models travelled unpacked to be judged: 120.0 kB to the hospitals, 6.0 kB from them." in again.note
