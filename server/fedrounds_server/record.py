"""What every run's `record.json` says, simulated or between hospitals."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fedrounds_common.study.canonical import digest
from fedrounds_common.study.study import Study
from fedrounds_common.task import Task
from fedrounds_server.measures import Measures

FORMAT = 1
# settings that choose the linear algebra's kernels and block sizes, and so the last bits of every sum
KERNELS = re.compile(r"(OPENBLAS|MKL|BLIS|DNNL|ONEDNN|ATEN)_\w+")
EVERYWHERE = ("fedrounds", "torch", "monai", "flwr", "numpy", "scipy", "safetensors", "opacus")


def record_of(run: str, started: str, study: Study, task: Task, packages: Sequence[str] = EVERYWHERE) -> dict[str, Any]:
    """Whoever plays the hospitals adds what is known of their data. `started`: ISO, UTC."""
    return {
        "format": FORMAT,
        "run": run,
        "started": started,
        "study": {"name": study.name, "digest": digest(study), "seed": study.seed},
        "primary": study.evaluation.primary,
        **Measures.of(task).as_dict(),
        "privacy": _privacy(study),
        "machine": {
            "python": sys.version.split()[0],
            "system": f"{platform.system()} {platform.machine()}",
            "threads_a_site": study.training.threads,
            **_kernels(),
        },
        "versions": {name: version(name) for name in packages},
        "same_bits": "on CPUs of one kind with the same settings of the linear algebra, one thread a site; elsewhere compare within a tolerance",
    }


def _privacy(study: Study) -> str:
    names = ", ".join(str(table["name"]) for table in study.privacy)
    channel = str(study.wire["channel"]["name"])
    secure = "no secure aggregation" if channel == "plain" else f"updates travel by {channel}"
    return f"{names or 'none: no differential privacy'}{',' if not names else ';'} {secure}"


def _kernels() -> dict[str, str]:
    return {name: value for name, value in sorted(os.environ.items()) if KERNELS.fullmatch(name)}
