"""What a run would be: the answer of `fedrounds simulate --dry-run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from fedrounds.measure import Measured
from fedrounds_server.tables import shown_bytes, shown_seconds
from fedrounds_sites.hospitals import Role

MOST_SITES = 12  # lines of the table for a person


@final
@dataclass(frozen=True)
class SitePlan:
    """`steps` of one round; `judged`: cases that each model is scored on here."""

    name: str
    role: Role
    cases: int
    training: int
    judged: int
    steps: int


@final
@dataclass(frozen=True)
class Disk:
    """Bytes that a run writes to the disk on which `folder` lies or will, and what is free there."""

    folder: str
    needed_bytes: int
    free_bytes: int


@final
@dataclass(frozen=True)
class DryRun:
    """What a run would be. Bytes up and down are a round's, of all sites drawn, on average; `seconds` by part of the run.

    `memory_bytes`: of all processes together. `disk_bytes` while it runs, of which `cases_bytes` for prepared cases,
    and `left_bytes` after it ended; `kept`: the folder that keeps the prepared cases for the next run, "" if none.
    `new_cases_bytes`: of cases that are not kept there yet. `disks`: the run's, and the kept cases' if that is another.
    """

    sites: tuple[SitePlan, ...]
    rounds: int
    drawn: int
    workers: int
    cores: int
    models: tuple[str, ...]
    measured: Measured
    down_bytes: int
    up_bytes: int
    judging_bytes: int
    memory_bytes: int
    free_memory_bytes: int | None
    disk_bytes: int
    left_bytes: int
    cases_bytes: int
    new_cases_bytes: int
    kept: str
    disks: tuple[Disk, ...]
    seconds: Mapping[str, float]

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    @property
    def steps(self) -> int:
        """Of one round, all training sites together."""
        return sum(site.steps for site in self.sites)

    def advice(self) -> tuple[str, ...]:
        said = []
        if self.workers > self.cores:
            said.append(f"{self.workers} workers on {self.cores} cores: more than one a core only slows them")
        if self.workers < min(self.cores, self.drawn) and self.cores > 1:
            said.append(
                f"-s simulation.workers={min(self.cores, self.drawn)} would use the {self.cores} cores that are here"
            )
        if self.free_memory_bytes is not None and self.memory_bytes > self.free_memory_bytes:
            said.append(f"only {shown_bytes(self.free_memory_bytes)} of memory are free: use fewer workers")
        said += [
            f"only {shown_bytes(disk.free_bytes)} of disk are free at {disk.folder}, and {shown_bytes(disk.needed_bytes)} "
            "would be written there: the run would be refused, or end in its midst"
            for disk in self.disks
            if disk.needed_bytes > disk.free_bytes
        ]
        return tuple(said)

    def rows(self) -> tuple[tuple[str, str, str, str, str, str], ...]:
        """Site, role, cases, cases it trains on, cases it is judged on, steps a round."""
        return tuple(
            (site.name, site.role, str(site.cases), str(site.training), str(site.judged), str(site.steps or "–"))
            for site in self.sites
        )

    def facts(self) -> tuple[tuple[str, str], ...]:
        one, train = self.measured, [site for site in self.sites if site.steps]
        down, up = shown_bytes(self.down_bytes), shown_bytes(self.up_bytes)
        total = self.rounds * (self.down_bytes + self.up_bytes) + self.judging_bytes
        parts = ", ".join(
            f"{name} {shown_seconds(seconds)}" for name, seconds in self.seconds.items() if seconds >= 0.05
        )
        held_out = sum(site.role == "held-out" for site in self.sites)
        return (
            ("sites", f"{len(train)} train, {held_out} held out; {self.drawn} a round, {self.rounds} rounds"),
            ("cases", f"{sum(s.cases for s in self.sites)}: {sum(s.training for s in train)} to train on, "
                      f"{sum(s.judged for s in self.sites)} to judge each model on"),
            ("network", f"{one.parameters:,} parameters, {shown_bytes(one.model_bytes)}"),
            ("steps", f"{self.steps} a round, {self.steps * self.rounds} in all if every site is drawn"),
            ("models judged", ", ".join(self.models)),
            ("traffic", f"{down} to sites and {up} from them a round ({self._packed()}); {shown_bytes(total)} in all "
                        "with judging"),
            ("memory", f"{shown_bytes(self.memory_bytes)} with {self.workers or 'no'} worker processes"),
            ("disk", f"{shown_bytes(self.disk_bytes)} while it runs, {shown_bytes(self.left_bytes)} after"),
            ("prepared", f"{shown_bytes(self.cases_bytes)} of cases, {self._kept()}"),
            ("measured", f"{one.site}, {one.cases} cases: {one.load_s:.2g} s to read one, {one.step_s:.2g} s a step"
                         f"{f' of {one.patients} patients, with noise' if one.patients else ''}, "
                         f"{one.predict_s:.2g} s to predict and score one"),
            ("time", f"about {shown_seconds(self.total_s)} ({parts})"),
        )  # fmt: skip

    def _kept(self) -> str:
        if not self.kept:
            return "deleted at the end"
        there = (
            "" if self.new_cases_bytes == self.cases_bytes else f", {shown_bytes(self.new_cases_bytes)} yet to be made"
        )
        return f"kept in {self.kept}{there}"

    def _packed(self) -> str:
        """What that is of weights that travel as they are."""
        plain = self.drawn * self.measured.down.unpacked
        down, up = (round(100 * sent / plain) if plain else 100 for sent in (self.down_bytes, self.up_bytes))
        return f"{down} % and {up} % of float32"

    def text(self) -> str:
        from fedrounds_server.report.table import Table, as_lines

        largest = sorted(self.rows(), key=lambda row: -int(row[2]))[:MOST_SITES]
        more = len(self.sites) - len(largest)
        note = f"  and {more} smaller sites" if more else ""
        columns = ("site", "role", "cases", "train", "judged", "steps a round")
        lines = as_lines(
            Table("the largest sites" if more else "sites", columns, tuple(largest), frozenset({0, 1}), note=note)
        )
        width = max(len(name) for name, _ in self.facts())
        lines += ["", *(f"{name:<{width}}  {value}" for name, value in self.facts())]
        return "\n".join(
            [*lines, *(f"advice: {text}" for text in self.advice()), "nothing was run and nothing written"]
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            **{name: value for name, value in asdict(self).items() if name != "seconds"},
            "seconds": dict(self.seconds),
            "total_s": self.total_s,
            "steps": self.steps,
            "advice": list(self.advice()),
        }
