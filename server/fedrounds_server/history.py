"""`history.jsonl`: one line a round, and one for each purpose that statistics were asked for; in each line every
site of the study with what became of it. `judging.jsonl`: one line for each time that a model was sent to be judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, final

from fedrounds_common.disk import add_line, write_text

ROUND, STATISTICS = "round", "statistics"  # kinds of lines


@final
@dataclass(frozen=True)
class SiteLine:
    """`state`: ok | late | error:CODE | refused:CODE | absent. Norm and cosine (to the step) of its update.

    `part`: "" as usual; "idle", not drawn for this round; "spare", asked for in case another failed, and not
    needed; "round-N": late in that round, and its update of then stood in for it here.
    """

    site: str
    state: str
    cases: int = 0
    steps: int = 0
    loss: float | None = None
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    norm: float | None = None
    cosine: float | None = None
    reference: str = ""
    part: str = ""

    @property
    def failed(self) -> bool:
        """Whether this site should have sent an update and did not."""
        return self.state != "ok" and not (self.state == "absent" and self.part in ("idle", "spare"))


@final
@dataclass(frozen=True)
class RoundLine:
    """`digest`: of the consensus that it ended with. `kind`: a round, or statistics and their `purpose`: those
    before round 1 stand in round 0, and those after the last round in that one. `model_bytes`: of the weights as they are,
    which is what travels each way where nothing is packed."""

    round: int
    seconds: float
    digest: str
    sites: tuple[SiteLine, ...]
    kind: str = ROUND
    purpose: str = ""
    model_bytes: int = 0

    @property
    def ok(self) -> tuple[SiteLine, ...]:
        return tuple(line for line in self.sites if line.state == "ok" and line.part != "spare")


@final
@dataclass(frozen=True)
class JudgingLine:
    """One model that was sent to be judged: to how many hospitals, and what that took. A line of `judging.jsonl`."""

    round: int
    model: str
    trained_at: str
    sites: int
    bytes_up: int
    bytes_down: int


def read_judging(file: Path) -> tuple[JudgingLine, ...]:
    """Every whole line; nothing where no model was judged."""
    if not file.exists():
        return ()
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(JudgingLine(**json.loads(text)))
        except (ValueError, TypeError):
            continue  # cut short by a crash
    return tuple(lines)


def append(file: Path, line: RoundLine | JudgingLine) -> None:
    add_line(file, asdict(line))


def read(file: Path) -> tuple[RoundLine, ...]:
    """Every whole line; a last line cut short by a crash is no line."""
    if not file.exists():
        return ()
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(_line(json.loads(text)))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return tuple(lines)


def keep_until(file: Path, round_: int, settled: int = 0) -> None:
    """Drop the lines after `round_`, and all statistics but the first `settled`: what a resumed run will do again."""
    lines = read(file)
    sums = [line for line in lines if line.kind == STATISTICS][:settled]
    kept: Sequence[RoundLine] = [line for line in lines if line in sums or _is_round(line, round_)]
    write_text(file, "".join(json.dumps(asdict(line), sort_keys=True) + "\n" for line in kept))


def _is_round(line: RoundLine, last: int) -> bool:
    return line.kind == ROUND and line.round <= last


def _line(value: dict[str, Any]) -> RoundLine:
    # a later version may have written more of a site than this one knows
    known = {entry.name for entry in fields(SiteLine)}
    sites = tuple(SiteLine(**{key: said for key, said in site.items() if key in known}) for site in value.pop("sites"))
    return RoundLine(**value, sites=sites)
