"""The consensus file: equal weights make equal files, and another network's or a damaged one is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from fedrounds_common.arrays import Array, Arrays, digest
from fedrounds_common.errors import RunFileError
from fedrounds_common.study.canonical import digest as digest_of_study
from fedrounds_common.study.parse import read_study
from fedrounds_common.study.study import Study
from fedrounds_server.release import read_model, write_model

CUBES = Path(__file__).parents[1] / "data" / "cubes"
WEIGHTS: dict[str, Array] = {
    "stem.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "head.bias": np.array([0.5, -0.5], np.float32),
    "seen": np.array(7, np.int64),
}


@pytest.fixture
def study(tmp_path: Path, cubes: Callable[..., Path]) -> Study:
    return read_study(cubes(tmp_path / "study"), (), [CUBES]).study


def write(file: Path, study: Study, arrays: Arrays | None = None) -> Path:
    write_model(file, WEIGHTS if arrays is None else arrays, study, digest_of_study(study), 3)
    return file


def test_a_model_comes_back_bit_for_bit_in_the_networks_own_order(tmp_path: Path, study: Study) -> None:
    found = read_model(write(tmp_path / "c.safetensors", study), WEIGHTS)
    assert list(found) == list(WEIGHTS)
    assert digest(found) == digest(WEIGHTS)


def test_equal_weights_make_equal_files_wherever_they_are_written(tmp_path: Path, study: Study) -> None:
    first = write(tmp_path / "a.safetensors", study)
    strided = {name: np.asarray(array, order="F") for name, array in WEIGHTS.items()}
    second = write(tmp_path / "elsewhere" / "b.safetensors", study, strided)
    assert first.read_bytes() == second.read_bytes()
    moved = {**WEIGHTS, "head.bias": np.array([0.5, -0.5000001], np.float32)}
    assert write(tmp_path / "c.safetensors", study, moved).read_bytes() != first.read_bytes()


def test_the_file_says_what_it_is_under_one_key_and_nothing_of_this_machine(tmp_path: Path, study: Study) -> None:
    file = write(tmp_path / "c.safetensors", study)
    with safe_open(file, framework="numpy") as stream:
        (key,), said = stream.metadata().keys(), stream.metadata()["fedrounds"]
    assert key == "fedrounds"
    assert digest_of_study(study) in said
    assert str(tmp_path) not in said


OTHERS: dict[str, tuple[Callable[[], Arrays], str]] = {
    "one more": (lambda: {**WEIGHTS, "extra.weight": np.zeros(2, np.float32)}, r"extra\.weight \(2,\)"),
    "one less": (lambda: {name: WEIGHTS[name] for name in ("stem.weight", "seen")}, r"head\.bias \(2,\)"),
    "another shape": (lambda: {**WEIGHTS, "stem.weight": np.zeros((4, 3), np.float32)}, r"stem\.weight \(4, 3\)"),
    "another dtype": (lambda: {**WEIGHTS, "stem.weight": np.zeros((3, 4), np.float64)}, r"stem\.weight \(3, 4\)"),
    "another name": (lambda: {("trunk" if n == "seen" else n): a for n, a in WEIGHTS.items()}, r"trunk \(\)"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_model_of_another_network_is_refused_and_the_first_odd_tensor_named(
    other: str, tmp_path: Path, study: Study
) -> None:
    make, found = OTHERS[other]
    file = write(tmp_path / "c.safetensors", study, make())
    with pytest.raises(
        RunFileError, match=f"FR-F14 c.safetensors is of another network .*{found} has no match"
    ) as caught:
        read_model(file, WEIGHTS)
    assert caught.value.exit_status == 4


def test_a_missing_a_cut_and_a_pickled_file_are_refused(tmp_path: Path, study: Study) -> None:
    with pytest.raises(RunFileError, match="FR-F01 gone.safetensors is missing"):
        read_model(tmp_path / "gone.safetensors", WEIGHTS)
    file = write(tmp_path / "c.safetensors", study)
    whole = file.read_bytes()
    for content in (b"", whole[:50], whole[:-1], b"\x80\x04\x95" + whole):
        file.write_bytes(content)
        with pytest.raises(RunFileError, match="FR-F11 c.safetensors is damaged or not ours"):
            read_model(file, WEIGHTS)


def test_one_flipped_bit_of_a_weight_is_seen(tmp_path: Path, study: Study) -> None:
    file = write(tmp_path / "c.safetensors", study)
    whole = file.read_bytes()
    size = sum(array.nbytes for array in WEIGHTS.values())
    for place in range(len(whole) - size, len(whole)):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << (place % 8)
        file.write_bytes(spoilt)
        with pytest.raises(RunFileError, match="FR-F11"):
            read_model(file, WEIGHTS)
