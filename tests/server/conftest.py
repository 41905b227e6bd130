"""A run folder as the engine leaves it, made from a formula, so that every number in it can be checked.

Ten hospitals, s01 to s10: eight train, s09 and s10 are held out. Each case's Dice is its model's level,
plus the hospital's own offset, plus a small number of its own; means in `metrics.csv` are means of those.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fedrounds_common import rng
from fedrounds_server.tables import MetricRow, write_metrics

REGIONS = ("ET", "TC", "WT")
LEVELS = {
    "floor": 0.35,
    "initial": 0.50,
    "local-only": 0.55,
    "local-only-long": 0.68,
    "ensemble": 0.66,
    "consensus": 0.78,
    "pooled": 0.80,
}
DROP = {"ET": -0.08, "TC": -0.02, "WT": 0.10}
CASE_COLUMNS = ["round", "model", "trained_at", "cohort", "case", "patient", "region", "metric", "value", "state"]


@dataclass(frozen=True)
class FakeRun:
    """Writes one run folder; every choice is a field."""

    sites: int = 10
    held_out: int = 2
    rounds: int = 4
    data: str = "phantom"
    unit: str = "patient"
    models: tuple[str, ...] = tuple(LEVELS)
    seed: int = 1
    every: int = 1
    broken: str = "s05"
    exit: int = 9
    state: str = "partial"
    pictures: int = 1
    shift: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"s{number:02d}" for number in range(1, self.sites + 1))

    @property
    def outside(self) -> tuple[str, ...]:
        return self.names[self.sites - self.held_out :]

    def cohort_of(self, site: str) -> str:
        return "held-out" if site in self.outside else "local-val"

    def cases_of(self, site: str) -> int:
        return 4 + 3 * (self.names.index(site) % 4)

    def dice(self, model: str, site: str, case: int, region: str, round: int) -> float:
        level = LEVELS[model] + self.shift
        if model == "consensus":
            level -= 0.25 * (1 - round / self.rounds)
        place = 0.12 * (rng.share(self.seed, "site", site) - 0.5) - (0.3 if site == "s07" else 0.0)
        if model not in ("consensus", "pooled"):
            place += 0.1 * (rng.share(self.seed, "model", model, site) - 0.5)
        own = 0.2 * (rng.share(self.seed, "case", site, case, region) - 0.5)
        return float(np.clip(level + DROP[region] + place + own, 0.0, 0.99))

    def models_judged(self) -> Iterator[tuple[str, str, int]]:
        """Model, where it was trained, round."""
        for model in self.models:
            if model == "local-only":
                yield from ((model, site, self.rounds) for site in ("s01", "s02", "s03"))
            elif model == "local-only-long":
                yield model, "s04", self.rounds
            elif model == "consensus" and self.every:
                yield from ((model, "all", round) for round in range(self.every, self.rounds + 1, self.every))
            else:
                yield model, "all", self.rounds

    def write(self, path: Path) -> Path:
        path.mkdir(parents=True)
        study = {"evaluation": {"primary": "dice"}}
        lines = [f'name = "{path.name[5:]}"', f"seed = {self.seed}", "format = 1"]
        lines += ["[evaluation]", f'primary = "{study["evaluation"]["primary"]}"']
        lines += ["[cohort]", f"held_out = {json.dumps(list(self.outside))}", "[training]", f"rounds = {self.rounds}"]
        (path / "study.resolved.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (path / "record.json").write_text(json.dumps(self.record()), encoding="utf-8")
        (path / "status.json").write_text(json.dumps(self.status()), encoding="utf-8")
        (path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.history()), "utf-8")
        write_metrics(path / "metrics.csv", self.metric_rows())
        for site in self.names:
            self._write_site(path / "sites" / site, site)
        return path

    def record(self) -> dict[str, object]:
        return {
            "format": 1,
            "started": "2025-01-01T00:00:00+00:00",
            "study": {"name": "fake", "digest": "ab" * 32, "seed": self.seed},
            "primary": "dice",
            "data": self.data,
            "unit": self.unit,
            "engine": {"name": "inline", "workers": 0},
            "effort": "as many steps as all sites together",
            "versions": {"fedrounds": "0.1.0", "torch": "2.13.0", "flwr": "1.41.0"},
            "machine": {"python": "3.11.7", "threads_a_site": 1},
        }

    def status(self) -> dict[str, object]:
        failed = {self.broken: "error:FR-D07"} if self.broken else {}
        return {
            "state": self.state,
            "exit": self.exit,
            "planned": self.sites - self.held_out,
            "finished": self.sites - self.held_out - len(failed),
            "failed": failed,
            "rounds": self.rounds,
            "consensus": "cd" * 32,
            "left_out_cases": {"s02": {"FR-D03": 1}},
        }

    def history(self) -> list[dict[str, object]]:
        training = [site for site in self.names if site not in self.outside]
        return [
            {
                "round": round,
                "seconds": 9.5 + round,
                "digest": f"{round:064x}",
                "sites": [self._site_round(site, round) for site in training],
            }
            for round in range(1, self.rounds + 1)
        ]

    def _site_round(self, site: str, round: int) -> dict[str, object]:
        states = {
            (self.broken, round): "error:FR-D07",
            ("s02", 2): "late",
            ("s03", 3): "refused:FR-G01",
            ("s06", 1): "absent",
        }
        state = states.get((site, round), "ok")
        if state != "ok":
            return {"site": site, "state": state, "bytes_down": 0 if state == "absent" else 91_000}
        own = rng.share(self.seed, "loss", site)
        return {
            "site": site,
            "state": state,
            "cases": self.cases_of(site),
            "loss": 0.3 + 0.2 * own + 0.5 / round,
            "seconds": 0.6 + own + self.cases_of(site) / 20,
            "bytes_up": 90_000,
            "bytes_down": 91_000,
            "norm": 0.4 + own / round,
            "cosine": 0.95 - 0.2 * own,
        }

    def metric_rows(self) -> list[MetricRow]:
        rows = []
        for model, trained_at, round in self.models_judged():
            for cohort in ("local-val", "held-out") if self.held_out else ("local-val",):
                sites = [site for site in self.names if self.cohort_of(site) == cohort]
                for place in [*sites, "all"]:
                    members = sites if place == "all" else [place]
                    rows += [
                        self._row(model, trained_at, place, cohort, region, round, members)
                        for region in (*REGIONS, "mean")
                    ]
        return rows

    def _row(
        self, model: str, trained_at: str, place: str, cohort: str, region: str, round: int, members: Sequence[str]
    ) -> MetricRow:
        values = [
            np.mean(
                [self.dice(model, site, case, name, round) for name in (REGIONS if region == "mean" else (region,))]
            )
            for site in members
            for case in range(self.cases_of(site))
        ]
        # trained elsewhere: a little worse, so that the three models of single sites differ
        value = float(np.mean(values)) - (0.01 * int(trained_at[1:]) if trained_at != "all" else 0.0)
        half = 0.04 / len(members) ** 0.5
        missed = sum(site == "s07" for site in members)
        return MetricRow(round, model, trained_at, place, cohort, region, "dice", value, value - half, value + half,
                         len(values), 1 if region == "ET" else 0, missed, 0)  # fmt: skip

    def _write_site(self, folder: Path, site: str) -> None:
        (folder / "pictures").mkdir(parents=True)
        cohort = self.cohort_of(site)
        with (folder / "cases.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(CASE_COLUMNS)
            for case in range(self.cases_of(site)):
                values = [self.dice("consensus", site, case, region, self.rounds) for region in REGIONS]
                for region, value in zip((*REGIONS, "mean"), (*values, float(np.mean(values))), strict=True):
                    writer.writerow([self.rounds, "consensus", "all", cohort, f"{site}-c{case:02d}",
                                     f"{site}-p{case:02d}", region, "dice", repr(value), "scored"])  # fmt: skip
        for case in range(self.pictures):
            self._draw(folder / "pictures", site, case)

    def _draw(self, folder: Path, site: str, case: int) -> None:
        values = [self.dice("consensus", site, case, region, self.rounds) for region in REGIONS]
        panels = []
        for panel in range(3):
            picture = Image.new("RGB", (96, 112), (0, 0, 0))
            pen = ImageDraw.Draw(picture)
            pen.ellipse((12, 12, 84, 100), fill=(110, 110, 110))
            pen.text((2, 50), "R", fill=(255, 255, 255))
            pen.text((88, 50), "L", fill=(255, 255, 255))
            if panel:
                pen.ellipse(
                    (30 + 6 * panel, 30, 58, 60 + 4 * panel), fill=(0, 158, 115) if panel == 1 else (213, 94, 0)
                )
            panels.append(np.asarray(picture))
        name = f"consensus-{site}-c{case:02d}"
        Image.fromarray(np.concatenate(panels, axis=1)).save(folder / f"{name}.png")
        says = {
            "title": f"{site}-c{case:02d}, Dice {np.mean(values):.2f}",
            "case": f"{site}-c{case:02d}",
            "model": "consensus",
            "cohort": self.cohort_of(site),
            "round": self.rounds,
            "panels": ["image", "reference", "prediction"],
            "values": {"mean": {"dice": float(np.mean(values))}},
        }
        (folder / f"{name}.json").write_text(json.dumps(says), encoding="utf-8")


@pytest.fixture(scope="session")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run folder with every default, for tests that change nothing but its figures and report."""
    return FakeRun().write(tmp_path_factory.mktemp("runs") / "0001-fake")


@pytest.fixture
def fake_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes `runs/0001-fake` (or the name given) with the options given, and returns its path."""

    def write(name: str = "0001-fake", **options: object) -> Path:
        return FakeRun(**options).write(tmp_path / "runs" / name)  # type: ignore[arg-type]

    return write
