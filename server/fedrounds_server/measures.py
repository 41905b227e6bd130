"""What tables say of a measure: its word, how many digits it is worth, and whether less is better.

The words are the task's own. They are written into `record.json`, so that a run is read in its task's words
wherever it lies, also where the task itself, of a user's own folder, is not at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, final

from fedrounds_common import shelves
from fedrounds_common.task import Measure, Task
from fedrounds_server.tables import MEAN, MetricRow

COUNTS, PARTS = Task.counts, Task.parts


@final
@dataclass(frozen=True)
class Measures:
    """The measures of a task by name, in its order, and its words for the three counts of `metrics.csv`.

    `by_case`: what orders single cases where the primary measure is one of many cases; "": the primary one.
    `parts`: what the lines of a table are about besides the mean, one and several: "region", "regions".
    """

    by_name: Mapping[str, Measure] = field(default_factory=dict)
    counts: tuple[str, str, str] = COUNTS
    by_case: str = ""
    parts: tuple[str, str] = PARTS

    @classmethod
    def of(cls, task: Task) -> Self:
        return cls(dict(task.measures), task.counts, task.by_case, task.parts)

    @classmethod
    def read(cls, record: Mapping[str, Any], task: str) -> Self:
        """Those of a `record.json` or `evaluation.json`; of one that has none, those of the built-in task.

        Args:
            task: the name of the task, for files that were written before they held the measures.
        """
        written = record.get("measures")
        if isinstance(written, list):
            known = {entry.name for entry in fields(Measure)}
            by_name = {
                str(says["name"]): Measure(**{key: value for key, value in says.items() if key in known})
                for says in written
                if isinstance(says, Mapping) and {"name", "word"} <= says.keys()
            }
            empty, missed, spurious = _words(record.get("counts"), COUNTS)
            one, several = _words(record.get("parts"), PARTS)
            return cls(by_name, (empty, missed, spurious), str(record.get("by_case", "")), (one, several))
        if task in shelves.TASKS.names():
            found = shelves.TASKS.find(task)
            return cls(dict(found.measures), found.counts, found.by_case, found.parts)
        return cls()

    def as_dict(self) -> dict[str, Any]:
        """The entries of a `record.json` that `read` reads."""
        # a list: the order of a table's keys is lost in the file
        measures = [{"name": name, **asdict(one)} for name, one in self.by_name.items()]
        return {
            "measures": measures, "counts": list(self.counts), "by_case": self.by_case, "parts": list(self.parts),
        }  # fmt: skip

    def __getitem__(self, metric: str) -> Measure:
        """A measure that nobody described is called by its name, and more of it is better."""
        return self.by_name.get(metric, Measure(metric))

    def word(self, metric: str) -> str:
        """The measure's name as a person reads it."""
        return self[metric].word

    def heading(self, region: str) -> str:
        """A line of a table: "Mean of regions", or what the region is called."""
        return f"Mean of {self.parts[1]}" if region == MEAN else region

    def digits(self, metric: str) -> int:
        """Decimals it is printed with: millimetres one, shares two."""
        return self[metric].digits

    def lower_is_better(self, metric: str) -> bool:
        return self[metric].lower_is_better

    def brief(self, primary: str) -> tuple[str, ...]:
        """The primary one, and those that stand beside it in short tables."""
        beside = tuple(name for name, one in self.by_name.items() if one.brief)
        return tuple(dict.fromkeys((primary, *(beside or self.by_name))))

    def inexact(self, metrics: Sequence[str]) -> tuple[str, ...]:
        """The words of those that the sums only bound: pooling the cases would give another number."""
        return tuple(self.word(name) for name in self.order(metrics) if not self[name].exact)

    def order(self, metrics: Sequence[str]) -> list[str]:
        """As the task names them; others come last, as they came."""
        known = list(self.by_name)
        return sorted(dict.fromkeys(metrics), key=lambda name: known.index(name) if name in known else len(known))


@final
@dataclass(frozen=True)
class Counts:
    """The three columns of counts; none where no row counts anything."""

    words: tuple[str, ...]

    def columns(self) -> tuple[str, ...]:
        return tuple(word[:1].upper() + word[1:] for word in self.words)

    def cells(self, row: MetricRow) -> tuple[str, ...]:
        return (str(row.empty), str(row.missed), str(row.spurious)) if self.words else ()

    def listed(self) -> str:
        """ "Empty, missed and spurious" """
        first, second, third = self.words
        return f"{first[:1].upper()}{first[1:]}, {second} and {third}"


def counts_of(measures: Measures, rows: Iterable[MetricRow]) -> Counts:
    """Of a task whose cases cannot be empty, missed or spurious there are none."""
    return Counts(measures.counts if any(row.empty or row.missed or row.spurious for row in rows) else ())


def _words(found: object, like: tuple[str, ...]) -> tuple[str, ...]:
    """As many words as in `like`, or those."""
    return tuple(map(str, found)) if isinstance(found, list) and len(found) == len(like) else like
