"""What stays at a site between rounds: the last rounds it took part in, whole or said to be damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedrounds_client.boundary import answer
from fedrounds_client.permit import Permit
from fedrounds_client.site import Site
from fedrounds_client.state import SiteState, read_state, write_state
from fedrounds_common.arrays import digest
from fedrounds_common.errors import RunFileError
from fedrounds_common.leaving import Ask, Refusal, Update, from_wire


def state(value: float) -> SiteState:
    return SiteState(
        moments={"/step/w": np.array(value, np.float32), "up/exp_avg/a|b.weight": np.full((2, 3), value, np.float32)},
        kept={"control": np.full(4, value)},
        residual={"w": np.full(2, -value, np.float32)},
    )


def digests(held: SiteState) -> list[str]:
    return [digest(part) for part in (held.moments, held.kept, held.residual)]


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_state_comes_back_bit_for_bit_whatever_its_tensors_are_called(tmp_path: Path) -> None:
    write_state(tmp_path, 3, state(0.1))
    assert digests(read_state(tmp_path, 3)) == digests(state(0.1))


def test_before_the_first_round_there_is_none(tmp_path: Path) -> None:
    assert digests(read_state(tmp_path / "not there", 0)) == digests(SiteState())
    write_state(tmp_path, 1, state(1))
    assert digests(read_state(tmp_path, 0)) == digests(SiteState())


def test_a_transposed_array_is_written_as_it_is_seen(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_state(tmp_path, 1, SiteState(kept={"w": array}))
    np.testing.assert_array_equal(read_state(tmp_path, 1).kept["w"], array)


def test_four_files_are_kept_by_count_and_not_by_age(tmp_path: Path) -> None:
    for round_ in (1, 5, 9, 20, 21):
        write_state(tmp_path, round_, state(round_))
    assert files(tmp_path) == [f"round-{round_:04d}.safetensors" for round_ in (5, 9, 20, 21)]
    # round 9 asked again begins where round 5 ended: this site was not drawn in between
    assert digests(read_state(tmp_path, 8)) == digests(state(5))
    assert digests(read_state(tmp_path, 9)) == digests(state(9))


def test_the_ten_thousandth_round_is_after_the_one_before_it(tmp_path: Path) -> None:
    for round_ in range(9996, 10001):
        write_state(tmp_path, round_, state(round_))
    assert digests(read_state(tmp_path, 10000)) == digests(state(10000))
    assert digests(read_state(tmp_path, 9997)) == digests(state(9997))


def test_a_state_cut_short_is_said_to_be_damaged(tmp_path: Path) -> None:
    write_state(tmp_path, 1, state(1))
    file = tmp_path / "round-0001.safetensors"
    for size in (0, 5, 8, 60, file.stat().st_size - 1):
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(RunFileError, match=r"FR-F10 round-0001\.safetensors cannot be read"):
            read_state(tmp_path, 1)


def test_a_file_of_another_program_is_said_to_be_damaged(tmp_path: Path) -> None:
    for name in ("w", "momentx|w"):
        save_file({name: np.zeros(2, np.float32)}, tmp_path / "round-0001.safetensors")
        with pytest.raises(RunFileError, match="FR-F10"):
            read_state(tmp_path, 1)


# ---------------------------------------------------------------- in the life of a round


def answered(site: Site, ask: Ask) -> Update:
    message = from_wire(*answer(ask, site, Permit(frozenset({ask.digest}))))
    assert isinstance(message, Update), message
    return message


@pytest.mark.parametrize("moments", ["keep", "fresh"])
def test_a_round_asked_twice_gives_the_same_update(
    moments: str, hospital_site: Callable[..., Any], ask_of: Callable[..., Any]
) -> None:
    site = hospital_site((f'training.moments="{moments}"',))

    def update(round_: int) -> str:
        return digest(answered(site, ask_of(site, round_=round_)).arrays)

    undisturbed = [update(1), update(2), update(3)]
    assert len(set(undisturbed)) == 3
    assert update(3) == undisturbed[2]
    # the coordinator went back by two rounds
    assert [update(2), update(3)] == undisturbed[1:]


def test_kept_moments_change_the_next_round_and_fresh_ones_do_not(
    hospital_site: Callable[..., Any], ask_of: Callable[..., Any]
) -> None:
    def second_round(moments: str, first: bool) -> str:
        site = hospital_site((f'training.moments="{moments}"',), folder=f"{moments}-{first}")
        if first:
            answered(site, ask_of(site, round_=1))
        return digest(answered(site, ask_of(site, round_=2)).arrays)

    assert second_round("keep", first=True) != second_round("keep", first=False)
    assert second_round("fresh", first=True) == second_round("fresh", first=False)


def test_an_update_says_what_stands_behind_it(hospital_site: Callable[..., Any], ask_of: Callable[..., Any]) -> None:
    site = hospital_site()
    ask = ask_of(site, round_=2)
    update = answered(site, ask)
    training = len(site.hospital.open_all().training)
    said = (update.site, update.run, update.round, update.nonce, update.study)
    assert said == ("A", ask.run, 2, ask.nonce, ask.digest)
    assert (update.cases, update.steps, update.codec) == (training, 3, "float32")
    assert update.seconds > 0
    assert 0 < update.loss < 5


def test_a_damaged_state_is_an_error_of_the_site_and_no_fresh_start(
    hospital_site: Callable[..., Any], ask_of: Callable[..., Any]
) -> None:
    site = hospital_site()
    answered(site, ask_of(site, round_=1))
    (site.folder / "state" / "round-0001.safetensors").write_bytes(b"cut")
    ask = ask_of(site, round_=2)
    refusal = from_wire(*answer(ask, site, Permit(frozenset({ask.digest}))))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "FR-F10"
