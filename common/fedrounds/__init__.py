"""fedrounds: one model trained across hospitals that keep their images.

    run = fedrounds.simulate("study.toml", strategy=MyStrategy(), seeds=3)
    run.metrics, run.consensus()

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedrounds.environment import quiet

if TYPE_CHECKING:
    from fedrounds.judge import evaluate as evaluate
    from fedrounds.run import Run as Run
    from fedrounds.series import simulate as simulate
    from fedrounds_common.case import Case as Case
    from fedrounds_common.strategy import Strategy as Strategy
    from fedrounds_common.study.study import Study as Study
    from fedrounds_common.task import Task as Task

quiet()  # before torch, Flower or Ray are imported by whatever comes next

_HOMES = {
    "simulate": "fedrounds.series",
    "evaluate": "fedrounds.judge",
    "Run": "fedrounds.run",
    "Case": "fedrounds_common.case",
    "Strategy": "fedrounds_common.strategy",
    "Study": "fedrounds_common.study.study",
    "Task": "fedrounds_common.task",
}
__all__ = ["Case", "Run", "Strategy", "Study", "Task", "evaluate", "simulate"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedrounds' has no attribute {name!r}")
    # `import_module` belongs to plugins.py alone; these names are a fixed list of our own modules
    return getattr(__import__(_HOMES[name], fromlist=[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
