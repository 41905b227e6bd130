"""What goes with what: every cell of the table is what `study check` says of a study with that pair."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedrounds_common.errors import Fault
from fedrounds_common.privacy import NoisySteps, NoisySum
from fedrounds_common.study.check import study_of
from fedrounds_common.study.combinations import COLUMNS, FEATURES, Column, Feature, Uses, refusals
from fedrounds_common.study.study import Study

Raw = dict[str, Any]
OWN = """from dataclasses import dataclass
from fedrounds_common.averaging import moved, weighted_mean
from fedrounds_common.strategy import Consensus, Strategy
@dataclass(frozen=True)
class Own(Strategy):
    def aggregate(self, consensus, updates):
        return Consensus(moved(consensus.arrays, weighted_mean(updates, "equal")))
"""
BASE = 'format = 1\nname = "a"\n[strategy]\nweights = "equal"\n[training]\nlocal_steps = 5\n'
PROTECTS: Mapping[Column, Raw] = {
    "plain": {},
    "secure_sum": {"wire": {"channel": {"name": "secure_sum"}}},
    "dp_sgd": {"privacy": [{"name": "dp_sgd"}]},
    "hospital_dp": {"privacy": [{"name": "hospital_dp", "sites": 4.0}]},
    "hospital_dp, sites": {"privacy": [{"name": "hospital_dp", "sites": 4.0, "noise": "sites"}]},
}
CELLS = [pytest.param(row, column, id=f"{row.name}-{column}") for row in FEATURES for column in COLUMNS if row.example]


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "strategies").mkdir()
    (folder / "strategies" / "own.py").write_text(OWN)
    return folder


def joined(one: Raw, other: Raw) -> Raw:
    """Both studies in one; of measures of the same name too, so that one is asked for and not two."""
    found = dict(one)
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(found.get(key), dict):
            found[key] = joined(found[key], value)
        elif key == "privacy" and key in found:
            named = {entry["name"]: entry for entry in found[key]}
            for entry in value:
                named[entry["name"]] = {**entry, **named.get(entry["name"], {})}
            found[key] = list(named.values())
        else:
            found[key] = value
    return found


def study_with(feature: Feature, column: Column) -> Raw:
    example = tomllib.loads(feature.example)
    if "local_epochs" in example.get("training", {}) or example.get("training", {}).get("rounds") == 0:
        base = tomllib.loads(BASE.replace("local_steps = 5", ""))
    else:
        base = tomllib.loads(BASE)
    if example.get("strategy", {}).get("name", "fedavg") != "fedavg":
        base["strategy"].pop("weights")
    if example.get("task", {}).get("name") == "classification" and "head" not in example["task"]:
        # of the sums over validation cases another row speaks
        asks = feature.name == "a task that asks for sums over validation cases"
        example["task"]["temperature"] = asks
    return joined(joined(base, example), PROTECTS[column])


def checked(feature: Feature, column: Column, plugins: Path) -> tuple[Study | None, list[Fault]]:
    return study_of(study_with(feature, column), [plugins])


@pytest.mark.parametrize(("feature", "column"), CELLS)
def test_study_check_says_what_the_cell_says(feature: Feature, column: Column, plugins: Path) -> None:
    cell = feature.cell(column)
    study, faults = checked(feature, column, plugins)
    if cell.goes != "refused":
        assert faults == []
        assert study is not None
        return
    assert cell.why
    head = feature.key.split(".")[0]
    wanted = {feature.key, "wire.channel.name"} if head == "privacy" else {feature.key}
    assert any(fault.key in wanted or fault.key.startswith(f"{head}.0.") for fault in faults)


@pytest.mark.parametrize(
    "feature", [row for row in FEATURES if row.is_in is not None and row.key], ids=lambda row: row.name
)
def test_the_table_alone_refuses_each_pair_with_its_reason(feature: Feature, plugins: Path) -> None:
    raw = study_with(feature, "plain")
    study, faults = study_of(raw, [plugins])
    assert study is not None, faults
    for column in COLUMNS:
        uses = uses_of(study, column, plugins)
        if feature.name in ("a clip that follows the hospitals", "hospitals drawn in secret") and "hospital" in column:
            continue  # what they are of is the measure itself, which the test above asks
        said = {fault.message for fault in refusals(uses)}
        cell = feature.cell(column)
        assert (f"{feature.name} beside {column}: {cell.why}" in said) == (cell.goes == "refused")


def uses_of(study: Study, column: Column, plugins: Path) -> Uses:
    folders = [plugins]
    protects = study_of(joined(tomllib.loads(BASE), PROTECTS[column]))[0]
    assert protects is not None
    steps: NoisySteps | None = protects.noisy_steps()
    sums: NoisySum | None = protects.noisy_sum() or study.noisy_sum()
    return Uses(
        study.build_task(folders), study.build_strategy(folders), study.build_codec(folders), protects.build_channel(),
        study.training, study.cohort, steps, sums,
    )  # fmt: skip


def test_a_refusal_points_at_a_line_and_says_what_to_do_instead() -> None:
    for row in FEATURES:
        for column in COLUMNS:
            cell = row.cell(column)
            assert cell.goes == "works" or cell.why
            assert cell.goes != "refused" or row.key


def test_a_study_that_breaks_two_pairs_is_told_both() -> None:
    raw = joined(tomllib.loads('format = 1\nname = "a"\n[cohort]\nlate = "next"\n'), PROTECTS["hospital_dp, sites"])
    _, faults = study_of(raw)
    assert sorted(fault.key for fault in faults) == ["cohort.late", "strategy.weights"]
    assert "hospital_dp, sites: a weakened update" in " ".join(fault.message for fault in faults)
