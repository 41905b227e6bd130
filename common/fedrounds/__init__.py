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

__all__ = ["Case", "Run", "Strategy", "Study", "Task", "evaluate", "simulate"]


def __getattr__(name: str) -> Any:
    """Import the home of a name when it is first used."""
    match name:
        case "simulate":
            from fedrounds.series import simulate

            return simulate
        case "evaluate":
            from fedrounds.judge import evaluate

            return evaluate
        case "Run":
            from fedrounds.run import Run

            return Run
        case "Case":
            from fedrounds_common.case import Case

            return Case
        case "Strategy":
            from fedrounds_common.strategy import Strategy

            return Strategy
        case "Study":
            from fedrounds_common.study.study import Study

            return Study
        case "Task":
            from fedrounds_common.task import Task

            return Task
        case _:
            raise AttributeError(f"module 'fedrounds' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
