"""Files of rounds are taken in the order of the rounds: as text 10000 comes before 9999."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedrounds_client.receiving import FOLDER, newest_held
from fedrounds_common.codecs.int8 import Int8
from fedrounds_common.disk import write_json
from fedrounds_common.numbered import by_number, number_of
from fedrounds_server.checkpoint import KEPT
from fedrounds_server.downlink import Downlink
from fedrounds_server.replicates import ENDING, read_replicates


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_names_come_in_the_order_of_their_numbers(numbers: list[int]) -> None:
    for name in ("round-{:04d}.safetensors", "{:04d}-consensus-all.csv"):
        files = [Path(name.format(number)) for number in numbers]
        assert by_number(files) == [Path(name.format(number)) for number in sorted(numbers)]
        assert [number_of(file) for file in files] == numbers


def test_what_has_no_number_comes_last() -> None:
    assert by_number([Path("latest"), Path("0002-b"), Path("0002-a")]) == [
        Path("0002-a"),
        Path("0002-b"),
        Path("latest"),
    ]


def test_the_coordinator_keeps_what_it_sent_in_its_last_rounds(tmp_path: Path) -> None:
    down = Downlink(Int8(), tmp_path, 0, "s")
    weights = np.linspace(-1, 1, 8, dtype=np.float32)
    for round_ in range(9_996, 10_006):
        down.pack({"w": weights * round_}, round_)
        kept = [number_of(file) for file in by_number(tmp_path.iterdir())]
        assert kept == list(range(max(9_996, round_ - KEPT), round_ + 1))
    again = Downlink(Int8(), tmp_path, 0, "s").pack({"w": weights * 10_006}, 10_006)  # as after a restart
    assert (again.form, again.base) == ("difference", down.sent.holds)


def test_a_site_says_that_it_holds_what_it_was_sent_last(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for name in ("round-9999-aaa.safetensors", "round-10000-bbb.safetensors"):
        (tmp_path / FOLDER / name).touch()
    assert newest_held(tmp_path) == "bbb"


def test_of_a_model_judged_twice_the_later_replicates_count(tmp_path: Path) -> None:
    for round_ in (9_999, 10_000):
        line = {"cohort": "held-out", "site": "a", "region": "mean", "values": [float(round_)]}
        head = {"model": "consensus", "trained_at": "all", "round": round_}
        write_json(tmp_path / f"{round_:04d}-consensus-all{ENDING}", {**head, "replicates": [line]})
    (values,) = read_replicates(tmp_path).values()
    assert values.tolist() == [10_000.0]
