"""Running out of memory is recognised, whoever says it."""

from __future__ import annotations


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
