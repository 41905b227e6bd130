"""Memory: what is freed is kept, and running out of it is recognised.

The system's allocator gives large blocks back after every step. A training step frees and asks for the
same hundreds of megabytes again; glibc returns each to the kernel and takes fresh, zeroed pages for the
next. Keeping them halves a small 3D step on a CPU (`benchmarks/allocator.py` measures it) and changes no
bit of any result.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
LARGEST = 2**30


def keep_freed_memory() -> bool:
    """Ask glibc to keep blocks of up to 1 GiB; False where there is no glibc."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that memory ran out: Python's, NumPy's, or torch's of either device."""
    while error is not None:
        # by name: this is asked where torch need not be imported
        names = {kind.__name__ for kind in type(error).__mro__}
        if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
            return True
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):  # torch's CPU allocator
            return True
        error = error.__cause__
    return False
