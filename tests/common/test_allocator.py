"""Freed memory stays in the process where the system's allocator can be told so, and nothing fails elsewhere."""

from __future__ import annotations

import platform
import resource
import sys

import numpy as np
import pytest

from fedrounds_common.allocator import keep_freed_memory

GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


@pytest.mark.skipif(not GLIBC, reason="the setting is glibc's")
def test_glibc_takes_the_setting() -> None:
    assert keep_freed_memory()


@pytest.mark.skipif(not GLIBC, reason="the setting is glibc's")
def test_large_blocks_come_back_without_new_pages() -> None:
    assert keep_freed_memory()

    def touch() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(16 * 2**20, np.uint8)  # 16 MiB are 4096 pages, given back to the kernel and fetched again by default
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    touch()
    assert min(touch() for _ in range(5)) < 1000


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_are_left_as_they_are(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert not keep_freed_memory()


def test_a_library_without_the_call_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
