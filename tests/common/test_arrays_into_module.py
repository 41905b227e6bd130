"""Weights go into a module without a word of warning, and without touching what the whole process shares."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from torch import nn

from fedrounds_common.arrays import into_module, of_module

SCRIPT = """
import numpy as np
from torch import nn
from fedrounds_common.arrays import into_module
frozen = {name: np.ones(shape, np.float32) for name, shape in (("weight", (1, 2)), ("bias", (1,)))}
for array in frozen.values():
    array.setflags(write=False)
into_module(nn.Linear(2, 1), frozen)
"""


class Looking(nn.Linear):
    """Notes which filters of warnings are in place while weights are put into it."""

    seen: Any = None

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        self.seen = warnings.filters
        return super().load_state_dict(state, strict, assign)


def test_the_processs_filters_of_warnings_are_the_same_within() -> None:
    # the thread that draws the next batch would put its own back over ours, or we ours over its
    module, before = Looking(2, 1), warnings.filters
    arrays = {name: np.full_like(array, 3) for name, array in of_module(module).items()}
    into_module(module, arrays)
    assert module.seen is before
    np.testing.assert_array_equal(of_module(module)["weight"], [[3, 3]])


@pytest.mark.slow
def test_read_only_arrays_are_taken_without_a_warning() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
