"""Prepared cases on disk: come back bit for bit, whole or not at all, and hold no open file."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest

from fedrounds_common.case import Case, CaseRef, Target
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.cache import CaseStore, case_key, stored_bytes
from fedrounds_sites.readers.nifti_folder import NiftiFolder
from fedrounds_sites.unlike import Unlike

AFFINE = np.array([[0.1, -1.2, 0, 7.5], [0.9, 0.1, 0, -3], [0, 0.1, 2.0, 1 / 3], [0, 0, 0, 1]])


def case(seed: int = 0, grid: tuple[int, ...] = (5, 6, 7), *, labelled: bool = True) -> Case:
    rng = np.random.default_rng(seed)
    target = Target(rng.integers(0, 255, grid).astype(np.uint8)) if labelled else None
    return Case(CaseRef("c1", "p1", "s1"), rng.normal(size=(2, *grid)).astype(np.float32), target, AFFINE)


def equal(one: Case, other: Case) -> None:
    assert one.ref == other.ref
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.affine, other.affine)
    assert (one.target is None) == (other.target is None)
    if one.target is not None and other.target is not None:
        np.testing.assert_array_equal(one.target.voxels, other.target.voxels)


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    return CaseStore(tmp_path / "cache")


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("grid", [(5, 6, 7), (4, 9), (1, 1, 1)])
def test_a_case_comes_back_bit_for_bit(store: CaseStore, labelled: bool, grid: tuple[int, ...]) -> None:
    store.put("k", case(0, grid, labelled=labelled))
    back = store.get("k")
    assert back is not None
    equal(back, case(0, grid, labelled=labelled))
    assert back.image.dtype == np.float32
    assert back.image.flags["C_CONTIGUOUS"]
    assert back.packed is not None
    assert all(channel.codes.ctypes.data % 64 == 0 for channel in back.packed.channels)


def test_every_part_of_a_target_comes_back(store: CaseStore) -> None:
    rng, grid = np.random.default_rng(3), (4, 5, 6)
    target = Target(
        voxels=rng.integers(0, 255, grid).astype(np.uint8),
        classes=np.array([0, 1, 0], np.float32),
        moving=rng.integers(0, 255, grid).astype(np.uint8),
        field=rng.normal(size=(3, *grid)).astype(np.float32),
        landmarks=rng.normal(size=(7, 2, 3)),
    )
    store.put("k", replace(case(0, grid), target=target))
    back = store.get("k")
    assert back is not None
    assert back.target is not None
    for entry in fields(target):
        expected, found = getattr(target, entry.name), getattr(back.target, entry.name)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


def test_everything_that_is_known_of_a_case_comes_back_in_its_own_place(store: CaseStore) -> None:
    grid, rng = (5, 6, 7), np.random.default_rng(4)
    whole = Target(
        voxels=rng.integers(0, 9, grid).astype(np.uint8), classes=np.array([0, 1, 0], np.float32),
        moving=rng.integers(9, 99, grid).astype(np.uint8), field=rng.normal(size=(3, *grid)).astype(np.float32),
        landmarks=rng.normal(size=(4, 2, 3)),
    )  # fmt: skip
    for kept in (whole, replace(whole, voxels=None), Target(classes=whole.classes), Target()):
        store.put("k", replace(case(0, grid), target=kept))
        back = store.get("k")
        assert back is not None
        assert back.target is not None
        for entry in fields(Target):
            was, found = getattr(kept, entry.name), getattr(back.target, entry.name)
            assert (was is None) == (found is None), entry.name
            if was is not None:
                np.testing.assert_array_equal(found, was)
                assert found.dtype == was.dtype


def test_what_was_never_put_is_not_there(store: CaseStore) -> None:
    assert store.get("k") is None
    store.put("k", case())
    assert store.get("l") is None


def test_the_last_put_wins_and_the_old_arrays_stay_valid(store: CaseStore) -> None:
    store.put("k", case(1))
    old = store.get("k")
    store.put("k", case(2))
    new = store.get("k")
    assert old is not None
    assert new is not None
    equal(old, case(1))
    equal(new, case(2))


def test_an_array_outlives_its_case_and_its_file(store: CaseStore) -> None:
    store.put("k", case())
    back = store.get("k")
    assert back is not None
    assert back.packed is not None
    image = back.packed.channels[1]
    assert image.levels is not None
    del back
    for file in store.folder.iterdir():
        file.unlink()
    np.testing.assert_array_equal(image.levels[image.codes], case().image[1])


def test_stored_arrays_cannot_be_written(store: CaseStore) -> None:
    store.put("k", case())
    back = store.get("k")
    assert back is not None
    assert back.packed is not None
    assert back.target is not None
    for array in (back.target.packed["voxels"].codes, *(channel.codes for channel in back.packed.channels)):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_a_process_may_hold_more_cases_than_files(store: CaseStore) -> None:
    store.put("k", case())
    before = len(os.listdir("/proc/self/fd"))
    held = [store.get("k") for _ in range(3000)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert held[-1] is not None
    equal(held[-1], case())


def test_maps_go_with_the_last_array_on_them(store: CaseStore) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(store.folder))  # not what other tests hold

    store.put("k", case())
    held = store.get("k")
    assert mapped() == 1
    assert held is not None
    assert held.packed is not None
    view = held.packed.channels[0].codes[1:]
    del held
    assert mapped() == 1
    del view
    assert mapped() == 0


@pytest.mark.parametrize("keep", [0, 1, 15, 16, 40, 200, -1, -100])
def test_a_truncated_file_is_as_good_as_none(store: CaseStore, keep: int) -> None:
    store.put("k", case())
    (file,) = store.folder.iterdir()
    file.write_bytes(file.read_bytes()[:keep])
    assert store.get("k") is None
    store.put("k", case())
    back = store.get("k")
    assert back is not None
    equal(back, case())


@pytest.mark.parametrize("place", [0, 9, 13, 20, 60])
def test_a_changed_header_is_as_good_as_none(store: CaseStore, place: int) -> None:
    store.put("k", case())
    (file,) = store.folder.iterdir()
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert store.get("k") is None


def test_a_longer_file_is_as_good_as_none(store: CaseStore) -> None:
    store.put("k", case())
    (file,) = store.folder.iterdir()
    file.write_bytes(file.read_bytes() + b"x")
    assert store.get("k") is None


def test_a_failed_write_leaves_nothing(store: CaseStore) -> None:
    store.put("k", case(1))
    # a folder in the place of the file: the rename at the end cannot succeed
    (file,) = store.folder.iterdir()
    file.unlink()
    file.mkdir()
    with pytest.raises(OSError, match=r"(?i)directory"):
        store.put("k", case(2))
    assert list(store.folder.iterdir()) == [file]


def test_a_process_killed_in_mid_write_leaves_nothing_that_is_read(store: CaseStore) -> None:
    store.put("k", case(1))
    script = """
import os, sys
import numpy as np
from fedrounds_common import disk
from fedrounds_common.case import Case, CaseRef
from fedrounds_sites.cache import CaseStore
from pathlib import Path
os.fsync = lambda handle: os.kill(os.getpid(), 9)
CaseStore(Path(sys.argv[1])).put("k", Case(CaseRef("x", "x"), np.ones((1, 40, 40, 40), np.float32), None, np.eye(4)))
"""
    done = subprocess.run([sys.executable, "-c", script, str(store.folder)], check=False)
    assert done.returncode == -9
    back = store.get("k")
    assert back is not None
    equal(back, case(1))


def test_two_processes_may_put_the_same_case_at_once(store: CaseStore) -> None:
    script = """
import sys
import numpy as np
from fedrounds_common.case import Case, CaseRef
from fedrounds_sites.cache import CaseStore
from pathlib import Path
store = CaseStore(Path(sys.argv[1]))
for _ in range(60):
    store.put("k", Case(CaseRef("x", "x"), np.full((1, 20, 20, 20), float(sys.argv[2]), np.float32), None, np.eye(4)))
    image = store.get("k").image
    assert image.min() == image.max(), "half of one and half of the other"
"""
    running = [subprocess.Popen([sys.executable, "-c", script, str(store.folder), str(value)]) for value in (1, 2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert len(list(store.folder.iterdir())) == 1


def test_the_size_of_a_case_on_disk_is_known_before(store: CaseStore) -> None:
    store.put("a", case(0, (30, 30, 30)))
    store.put("b", case(1, (30, 30, 30)))
    estimate = stored_bytes(case(0, (30, 30, 30))) + stored_bytes(case(1, (30, 30, 30)))
    # 2 channels of 4 bytes and a label of 1: 9 bytes a voxel
    found = sum(file.stat().st_size for file in store.folder.iterdir())
    assert 2 * 9 * 27000 < found < 1.005 * estimate < 1.01 * found


def test_what_is_background_everywhere_takes_no_room(store: CaseStore) -> None:
    image = np.full((2, 30, 30, 30), -3, np.float32)
    image[:, 10:20, 5:15, 12:22] = case(0, (10, 10, 10)).image
    store.put("k", replace(case(), image=image, target=None))
    (file,) = store.folder.iterdir()
    assert 2 * 4 * 1000 < file.stat().st_size < 2 * 4 * 1000 + 1024
    back = store.get("k")
    assert back is not None
    np.testing.assert_array_equal(back.image, image)


def test_a_case_without_a_tumour_keeps_an_empty_label_map(store: CaseStore) -> None:
    whole = replace(case(), target=Target(np.zeros((5, 6, 7), np.uint8)))
    store.put("k", whole)
    back = store.get("k", checked=True)
    assert back is not None
    assert back.labelled
    equal(back, whole)
    assert stored_bytes(back) == stored_bytes(whole)


def test_a_flipped_bit_is_found_where_somebody_looks_for_it(store: CaseStore) -> None:
    store.put("k", case())
    (file,) = store.folder.iterdir()
    content = bytearray(file.read_bytes())
    content[-100] ^= 4
    file.write_bytes(content)
    assert store.get("k") is not None
    assert store.get("k", checked=True) is None
    assert store.damaged() == (file,)
    store.put("k", case())
    back = store.get("k", checked=True)
    assert back is not None
    assert store.damaged() == ()


def test_nobody_else_may_open_a_stored_case(store: CaseStore) -> None:
    before = os.umask(0)
    try:
        store.put("k", case())
    finally:
        os.umask(before)
    (file,) = store.folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert store.folder.stat().st_mode & 0o777 == 0o700


def test_a_patients_cases_are_forgotten_by_their_name(store: CaseStore) -> None:
    for name, patient in (("a", "p1"), ("b", "p2"), ("c", "p1")):
        store.put(name, replace(case(), ref=CaseRef(name, patient, "s1")))
    assert store.forget(lambda refs: {ref.patient for ref in refs if ref.patient == "p1"}) == 2
    assert [store.get(name) is None for name in "abc"] == [True, False, True]
    assert store.forget({"p2"}) == 1


def test_a_file_that_another_process_has_just_deleted_is_passed_over(store: CaseStore) -> None:
    store.put("k", case())
    (store.folder / "0.case").symlink_to("gone")
    assert [ref for _, ref in store.refs()] == [case().ref]
    assert store.damaged() == ()


def test_what_a_crash_left_half_written_goes_once_it_is_old(store: CaseStore) -> None:
    store.put("k", case())
    half = store.folder / f".{'a' * 40}.case.0123.part"
    half.write_bytes(b"half")
    store.sweep()
    assert half.exists()  # somebody may be writing it now
    os.utime(half, (0, 0))
    store.sweep()
    assert not half.exists()
    assert store.get("k") is not None
    half.write_bytes(b"half")
    assert store.clear() == 2
    assert list(store.folder.iterdir()) == []


# ---------------------------------------------------------------- keys


def test_a_key_depends_on_everything_it_is_given(tmp_path: Path) -> None:
    def key(root: Path = tmp_path, stamp: str = "1", seed: int = 0, site: str = "s", **form: str) -> str:
        reader = NiftiFolder(root=root, label_map={1: 1})
        return case_key(reader, stamp, CaseRef("a", "a"), CaseForm(**form), Unlike(), site, seed)  # type: ignore[arg-type]

    keys = {
        key(),
        key(root=tmp_path / "x"),
        key(stamp="2"),
        key(seed=1),
        key(site="t"),
        key(intensity="zscore"),
    }
    assert len(keys) == 6
    assert key() == key()
    assert all(len(one) == 64 for one in keys)


def test_a_key_is_the_same_in_another_process(tmp_path: Path) -> None:
    script = (
        "from fedrounds_sites.cache import case_key\n"
        "from fedrounds_common.study.tables import CaseForm\n"
        "print(case_key(CaseForm(labels={'b': 2, 'a': 1}), None, [1, 'x', 0.1]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == case_key(CaseForm(labels={"a": 1, "b": 2}), None, [1, "x", 0.1])


def test_parts_of_a_key_do_not_run_into_each_other() -> None:
    assert case_key("ab", "c") != case_key("a", "bc")
    assert case_key(1) != case_key("1")
    assert case_key({1: 2}) != case_key({"1": 2})
    assert case_key(None) != case_key("None")


def test_two_classes_with_the_same_fields_have_two_keys() -> None:
    @dataclass(frozen=True)
    class One:
        root: str = "x"

    @dataclass(frozen=True)
    class Other:
        root: str = "x"

    assert case_key(One()) != case_key(Other())


def test_what_has_no_lasting_text_cannot_be_part_of_a_key() -> None:
    with pytest.raises(TypeError, match="object cannot be part of a key"):
        case_key(object())
