"""Memory that is freed stays in the process.

The system's allocator gives large blocks back after every step. A training step frees and asks for the
same hundreds of megabytes again, and so does a coordinator with every update; glibc returns each to the kernel and
takes fresh, zeroed pages for the next. Keeping them halves a small 3D step on a CPU (`benchmarks/allocator.py`
measures it) and what the coordinator does with an update, and changes no bit of any result.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
LARGEST, LARGEST_BEFORE = 2**30, 2**25  # the second is the most that older glibc takes (mallopt(3)) and refuses to pass


def keep_freed_memory() -> bool:
    """Ask glibc to keep blocks of up to 1 GiB, an older one of up to 32 MiB; False where there is no glibc."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    kept = any(mallopt(M_MMAP_THRESHOLD, most) for most in (LARGEST, LARGEST_BEFORE))
    return kept and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
