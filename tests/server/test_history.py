"""`history.jsonl`: a line a round; what a crash cut off is no line, and what will be done again is dropped."""

from __future__ import annotations

import json
from pathlib import Path

from fedrounds_server.history import RoundLine, SiteLine, append, keep_until, read


def line(round_: int) -> RoundLine:
    sites = (
        SiteLine("a", "ok", 12, 5, 0.25, 1.5, 1000, 2000, 0.5, 0.9),
        SiteLine("b", "error:FR-D12", reference="0123abcdef"),
        SiteLine("c", "late"),
        SiteLine("d", "absent"),
    )
    return RoundLine(round_, 2.5, "ab" * 32, sites)


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "run" / "history.jsonl"
    for round_ in (1, 2):
        append(file, line(round_))
    assert read(file) == (line(1), line(2))
    assert [site.site for site in read(file)[0].ok] == ["a"]


def test_a_run_that_has_not_begun_has_no_lines(tmp_path: Path) -> None:
    assert read(tmp_path / "history.jsonl") == ()
    keep_until(tmp_path / "history.jsonl", 3)
    assert read(tmp_path / "history.jsonl") == ()


def test_a_line_cut_short_at_any_place_is_no_line(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    append(file, line(1))
    first = file.read_bytes()
    append(file, line(2))
    whole = file.read_bytes()
    for end in [*range(len(first), len(whole) - 1, 9), len(whole) - 2]:
        file.write_bytes(whole[:end])
        assert read(file) == (line(1),)


def test_after_a_cut_line_the_next_one_is_not_lost_on_it(tmp_path: Path) -> None:
    # resuming drops what will be done again, and with it the half line
    file = tmp_path / "history.jsonl"
    for round_ in (1, 2, 3):
        append(file, line(round_))
    file.write_bytes(file.read_bytes()[:-20])
    keep_until(file, 1)
    append(file, line(2))
    assert read(file) == (line(1), line(2))


def test_keeping_until_a_round_drops_the_later_ones_and_no_byte_of_the_others(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    for round_ in (1, 2, 3):
        append(file, line(round_))
    lines = file.read_text("utf-8").splitlines(keepends=True)
    keep_until(file, 2)
    assert file.read_text("utf-8") == "".join(lines[:2])
    keep_until(file, 0)
    assert file.read_text("utf-8") == ""


def test_a_line_that_is_json_and_not_ours_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    append(file, line(1))
    with file.open("a", encoding="utf-8") as stream:
        for odd in ("[]", "7", "null", '{"round": 2}', '{"round": 2, "sites": [{"name": "a"}]}', '{"sites": 5}', ""):
            stream.write(odd + "\n")
    append(file, line(3))
    assert read(file) == (line(1), line(3))


def test_every_line_is_one_json_object_with_sorted_keys(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    append(file, line(1))
    (text,) = file.read_text("utf-8").splitlines()
    told = json.loads(text)
    assert text == json.dumps(told, sort_keys=True)
    assert [site["state"] for site in told["sites"]] == ["ok", "error:FR-D12", "late", "absent"]
