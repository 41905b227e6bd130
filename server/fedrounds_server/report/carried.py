"""How many bytes a round took each way, beside what the same weights take as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, final

from fedrounds_server.history import RoundLine
from fedrounds_server.report.folder import RunView, table_of
from fedrounds_server.report.style import count_of
from fedrounds_server.report.table import Table
from fedrounds_server.tables import shown_bytes, shown_percent

UP, DOWN = "from the hospitals", "to the hospitals"


@final
@dataclass(frozen=True)
class Carried:
    """One way: bytes a hospital and round on average, in all, and the mean's share of the weights as they are.

    `first`: the share in round 1, when no hospital holds anything yet.
    """

    way: str
    codec: str
    each: float
    total: int
    share: float
    first: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no nan."""
        fields = asdict(self)
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields.items()
        }


def carried(run: RunView) -> tuple[Carried, ...]:
    """To the hospitals and from them; nothing of a run without a finished round."""
    wire = table_of(run.study, "wire")
    codecs = {UP: _name(wire), DOWN: _name(table_of(wire, "down"))}
    found = []
    for way in (DOWN, UP):
        sent = [(line, count) for line in run.history for count in _messages(line, way)]
        shares = {
            id(line): [n / line.model_bytes for n in _messages(line, way)] for line in run.history if line.model_bytes
        }
        every = [share for each in shares.values() for share in each]
        if not sent:
            continue
        opening = shares.get(id(run.history[0]), []) if run.history[0].round == 1 else []
        found.append(
            Carried(
                way, codecs[way], mean(count for _, count in sent), sum(count for _, count in sent),
                mean(every) if every else math.nan, mean(opening) if opening else math.nan,
            )
        )  # fmt: skip
    return tuple(found)


def _name(table: Mapping[str, object]) -> str:
    return str(table.get("name", "float32"))


def _messages(line: RoundLine, way: str) -> list[int]:
    """Bytes of each hospital that was sent something, or whose update came."""
    if way == DOWN:
        return [site.bytes_down for site in line.sites if site.bytes_down]
    return [site.bytes_up for site in line.sites if site.bytes_up and site.state == "ok"]


def carried_table(run: RunView) -> Table | None:
    """The same as a table; None of a run without a finished round."""
    ways = carried(run)
    if not ways:
        return None
    rows = tuple(
        (
            one.way,
            one.codec,
            shown_bytes(one.each),
            shown_percent(one.share),
            shown_percent(one.first),
            shown_bytes(one.total),
        )
        for one in ways
    )
    return Table(
        "Bytes of each way",
        ("Way", "Codec", "A hospital and round", "Of the weights as they are", "In round 1", "All together"),
        rows,
        frozenset({0, 1}),
        note=f"Messages of the rounds as they were sent, headers included and as often as they were.{_judging(run)}",
    )


def _judging(run: RunView) -> str:
    if not run.judging:
        return ""
    up, down = (sum(getattr(line, way) for line in run.judging) for way in ("bytes_up", "bytes_down"))
    # one that was judged again, after a run was stopped, travelled twice and is one model
    models = count_of(len({(line.round, line.model, line.trained_at) for line in run.judging}), "model")
    return (
        f" {models} travelled unpacked to be judged: {shown_bytes(down)} to the hospitals, {shown_bytes(up)} from them."
    )


def carried_in_words(run: RunView) -> str:
    """One line: `to the hospitals 261.2 kB each and round (26 % of the weights, int8); …`; "" without a round."""
    said = (
        f"{shown_bytes(one.each)} {one.way} each and round ({shown_percent(one.share)} of the weights, {one.codec})"
        for one in carried(run)
    )
    return "; ".join(said)
