"""What the process must be told before torch, Flower or Ray are imported; imports nothing but os."""

from __future__ import annotations

import os

# Torch's own threads spin while they wait: one 3D step took 870 ms instead of 27 beside one busy process,
# and two threads give other bits than one. Parallelism here is processes. A user's own setting stands.
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

# Flower and Ray report home and look for updates unless told not to: never from a hospital.
SILENCE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
}

# as the user had them: `quiet` fills in what is missing
AS_SET = {name: os.environ.get(name) for name in THREADS}


def quiet() -> None:
    """One thread a process unless the user says otherwise, and nothing sent home; child processes inherit it."""
    for name, value in THREADS.items():
        os.environ.setdefault(name, value)
    os.environ.update(SILENCE)
