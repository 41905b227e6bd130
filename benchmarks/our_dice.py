"""Our side of `time_to_dice.py`: the hippocampus study until its consensus reaches a Dice; one line of JSON."""

from __future__ import annotations

from fedrounds.environment import quiet

quiet()

import argparse  # noqa: E402  (the environment comes before torch)
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

STUDY = Path(__file__).resolve().parents[1] / "studies" / "hippocampus.toml"
# what the others do not do, and what this is not about
AS_THEY_DO = (
    "training.augment=[]", "training.foreground=0.0", "training.moments=fresh", "training.schedule=constant",
    "training.warmup=0.0", "training.gradient_norm=none", "evaluation.every=1", "evaluation.resamples=10",
    "simulation.baselines=[]", "simulation.pictures=0", "simulation.report=false", "simulation.workers=2",
)  # fmt: skip
OFF = ("augmentation", "kept moments", "learning-rate schedule", "gradient clipping", "baselines", "pictures", "report")


class Reached(Exception):
    """The score that was asked for."""


def overrides(rounds: int, steps: int, rate: float, more: list[str]) -> list[str]:
    own = (f"training.rounds={rounds}", f"training.local_steps={steps}", f"training.learning_rate={rate}")
    return [*AS_THEY_DO, *own, *more]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--until", type=float, default=0.80)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=6e-3)
    parser.add_argument("-s", dest="settings", action="append", default=[])
    given = parser.parse_args()
    from fedrounds import simulate
    from fedrounds_server.folder import RunFolder
    from fedrounds_server.judging import score_file
    from fedrounds_server.tables import mean_of, read_metrics

    found = {"rounds": 0, "dice": 0.0}

    def look(round_: int) -> None:
        (run,) = Path("runs").glob("0001-*")
        rows = read_metrics(score_file(RunFolder(run), round_, "consensus", "all"))
        found["dice"] = mean_of(row for row in rows if (row.region, row.metric) == ("mean", "dice"))
        found["rounds"] = round_
        print(f"round {round_}: Dice {found['dice']:.3f}", file=sys.stderr)
        if found["dice"] >= given.until:
            raise Reached

    def listen(event: str, facts: Mapping[str, Any]) -> None:
        if event == "round-start" and facts["round"] > 1:  # the round before has been judged by now
            look(facts["round"] - 1)

    started = time.perf_counter()
    try:
        simulate(
            STUDY, overrides=overrides(given.rounds, given.steps, given.learning_rate, given.settings), listen=listen
        )
        look(given.rounds)
    except Reached:
        pass
    print(json.dumps({"seconds": time.perf_counter() - started, **found}))


if __name__ == "__main__":
    main()
