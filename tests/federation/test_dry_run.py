"""A dry run counts what the run then does, and leaves nothing behind."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from fedrounds.dryrun import dry_run
from fedrounds.forecast import Disk
from fedrounds.measure import finished_after
from fedrounds.simulation import Given, prepare
from fedrounds_common.errors import DataError, TooFewSites, UsageError
from fedrounds_common.network import Network
from fedrounds_server import history
from fedrounds_sites.hospitals import assign
from fedrounds_sites.keeping import Keeper


def everything_in(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_nothing_is_left_on_disk(tmp_path: Path, balls: Any) -> None:
    study = balls.lay_out_study(tmp_path)
    before = everything_in(tmp_path)
    dry_run(prepare(study))
    assert everything_in(tmp_path) == before


def test_sites_cases_and_steps_are_those_of_the_study(tmp_path: Path, balls: Any) -> None:
    found = dry_run(prepare(balls.lay_out_study(tmp_path)))
    sites = {site.name: site for site in found.sites}
    assert {name: site.cases for name, site in sites.items()} == {"A": 6, "B": 6, "C": 3}
    assert (sites["C"].role, sites["C"].steps, sites["C"].judged) == ("held-out", 0, 3)
    assert all(sites[name].training + sites[name].judged == 6 for name in "AB")
    assert (found.rounds, found.drawn, found.steps) == (2, 2, 50)
    assert found.models == ("untrained", "consensus of round 2")
    assert found.total_s > 0
    assert (found.measured.patients, found.measured.plain_step_s) == (0, found.measured.step_s), "no study of noise"
    assert all(found.measured.__dict__[name] > 0 for name in ("load_s", "step_s", "predict_s", "case_bytes"))
    assert "nothing was run and nothing written" in found.text()


def test_baselines_and_rounds_in_which_models_are_judged_are_counted(tmp_path: Path, balls: Any) -> None:
    study = balls.lay_out_study(tmp_path)
    baselines = 'simulation.baselines=["pooled", "local-only", "local-only-long", "ensemble", "floor"]'
    found = dry_run(prepare(study, [baselines, "training.rounds=4", "evaluation.every=2", "training.local_steps=2"]))
    assert found.models == (
        "untrained", "consensus of round 2", "consensus of round 4", "pooled", "local-only-long of A", "local-only of A",
        "local-only of B", "ensemble", "floor",
    )  # fmt: skip
    plain = dry_run(prepare(study, ["training.rounds=4", "training.local_steps=2"]))
    assert plain.seconds["baselines"] == 0
    assert found.seconds["baselines"] > 0
    assert found.measured.floor_s > 0
    assert found.judging_bytes > plain.judging_bytes


def test_one_hospitals_own_model_is_judged_at_home_and_at_held_out_hospitals_only(tmp_path: Path, balls: Any) -> None:
    study = balls.lay_out_study(tmp_path)
    few = ["training.local_steps=2"]
    plain = dry_run(prepare(study, few))
    own = dry_run(prepare(study, [*few, 'simulation.baselines=["local-only"]']))
    # A's model at A and C, B's at B and C: four messages where every hospital for each would be six
    assert own.judging_bytes - plain.judging_bytes == 4 * plain.down_bytes // plain.drawn
    # ensemble and floor are judged by jobs on files that are there already
    local = dry_run(prepare(study, [*few, 'simulation.baselines=["ensemble", "floor"]']))
    assert local.judging_bytes == plain.judging_bytes


def test_fewer_sites_a_round_send_fewer_bytes(tmp_path: Path, balls: Any) -> None:
    study = balls.lay_out_study(tmp_path)
    one, two = dry_run(prepare(study, ["cohort.per_round=1"])), dry_run(prepare(study))
    assert (one.drawn, two.drawn) == (1, 2)
    assert 2 * one.up_bytes == two.up_bytes


def test_a_site_without_a_usable_case_is_not_the_one_that_is_measured(tmp_path: Path, balls: Any) -> None:
    study = balls.lay_out_study(tmp_path)
    first = dry_run(prepare(study)).measured.site
    for file in (tmp_path / "data/images").glob(f"{first}_*"):
        file.write_bytes(b"")
    assert dry_run(prepare(study)).measured.site not in (first, "C")
    for file in (tmp_path / "data/images").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="none of 6 cases can be used"):
        dry_run(prepare(study))


def test_a_study_that_could_not_start_is_refused(tmp_path: Path, balls: Any) -> None:
    study = balls.lay_out_study(tmp_path)
    with pytest.raises(TooFewSites, match="2 sites would train"):
        dry_run(prepare(study, ["cohort.minimum=3"]))
    with pytest.raises(DataError, match="FR-D01"):
        dry_run(prepare(study, ["simulation.reader.root=gone"]))


@dataclass(frozen=True)
class Mixing(Network):
    """A network in which patients of a batch see each other."""

    def build(self, dims: int, inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv3d(inputs, 2, 1), nn.BatchNorm3d(2), nn.Conv3d(2, outputs, 1))

    def divisor(self, dims: int) -> int:
        return 1


NOISE = '[[privacy]]\nname = "dp_sgd"\nepsilon = "none"\nnoise_multiplier = 1.0\nsampling_rate = 0.5\npatients = 2\n'


@pytest.mark.slow
def test_a_private_studys_steps_are_measured_with_their_noise(tmp_path: Path, balls: Any) -> None:
    study = balls.lay_out_study(tmp_path, balls.study + NOISE)
    found = dry_run(prepare(study, ["training.batch=1", "training.patch=[8, 8, 8]"]))
    training = next(site.training for site in found.sites if site.name == found.measured.site)
    assert found.measured.patients == round(training / 2), "as many as are drawn on average, at a rate of one half"
    assert f"s a step of {found.measured.patients} patients, with noise" in found.text()
    # what a round would refuse is refused here too
    with pytest.raises(UsageError, match=r"FR-U95 .*BatchNorm"):
        dry_run(prepare(study, ["training.patch=[8, 8, 8]"], given=Given(network=Mixing())))


def test_cases_that_are_kept_are_not_counted_against_their_disk_again(tmp_path: Path, balls: Any) -> None:
    study, kept = balls.lay_out_study(tmp_path), tmp_path / "kept"
    prepared = prepare(study, [f"simulation.cache={json.dumps(str(kept))}", "training.local_steps=1"])
    first = dry_run(prepared, tmp_path / "runs")
    assert first.kept == str(kept)
    assert first.new_cases_bytes == first.cases_bytes > 0
    # one disk, for both lie in one folder
    [disk] = first.disks
    run = first.left_bytes - first.cases_bytes
    assert (disk.folder, disk.needed_bytes) == (str(tmp_path / "runs"), run + first.cases_bytes)
    sites = assign(prepared.simulation, prepared.study, prepared.plugins)
    reader = prepared.simulation.build_reader(prepared.plugins)
    Keeper("A", tmp_path, reader, prepared.simulation, prepared.study).open_all(sites["A"])
    again = dry_run(prepared, tmp_path / "runs")
    assert again.cases_bytes == first.cases_bytes
    assert again.new_cases_bytes == pytest.approx(first.cases_bytes * 9 / 15), "A's six of fifteen are there"
    assert again.disks[0].needed_bytes == run + again.new_cases_bytes
    assert "yet to be made" in again.text()


def test_each_disk_is_held_against_what_is_written_there(tmp_path: Path, balls: Any) -> None:
    found = dry_run(prepare(balls.lay_out_study(tmp_path), ["training.local_steps=1"]))
    both = replace(found, disks=(Disk("runs", 10_000_000, 20_000_000), Disk("kept", 15_000_000, 16_000_000)))
    assert not any("of disk" in text for text in both.advice()), "25 MB on two disks of which neither has that much"
    short = replace(both, disks=(both.disks[0], Disk("kept", 17_000_000, 16_000_000)))
    [said] = [text for text in short.advice() if "of disk" in text]
    assert said.startswith("only 16.0 MB of disk are free at kept, and 17.0 MB would be written there")


@pytest.mark.parametrize(
    ("jobs", "workers", "seconds"),
    # alone one after another; two at once: 5 beside 4 + 1, then 3 with the first who is free
    [([3, 1, 4, 5], 1, 13), ([3, 1, 4, 5], 2, 7), ([3, 1, 4, 5], 9, 5), ([], 2, 0)],
)
def test_work_is_shared_out_the_longest_first(jobs: list[float], workers: int, seconds: float) -> None:
    assert finished_after(jobs, workers) == seconds


@pytest.mark.slow
def test_cases_steps_and_bytes_are_those_of_the_run(finished: Any) -> None:
    found = dry_run(prepare(finished.study))
    lines = history.read(finished.run.folder.history)
    assert found.rounds == len(lines)
    for line in lines:
        assert found.drawn == len(line.ok)
        assert found.steps == sum(site.steps for site in line.ok)
        assert {site.name: site.training for site in found.sites if site.steps} == {
            site.site: site.cases for site in line.ok
        }
        # a message also names the site, the run and the loss: some tens of bytes of these 60,000
        assert found.up_bytes == pytest.approx(sum(site.bytes_up for site in line.ok), rel=0.005)
        assert found.down_bytes == pytest.approx(sum(site.bytes_down for site in line.ok), rel=0.005)
    judged = {row.site: row.n for row in finished.run.metrics
              if (row.model, row.region, row.metric) == ("consensus", "lesion", "dice") and row.site != "all"}  # fmt: skip
    assert {site.name: site.judged for site in found.sites} == judged


@pytest.mark.slow
def test_packed_bytes_are_forecast_as_they_are_sent(tmp_path: Path, balls: Any) -> None:
    from fedrounds.series import simulate

    study = balls.lay_out_study(tmp_path)
    wires = ['wire.name="int8"', 'wire.down="int8"', "training.rounds=2", "training.local_steps=2"]
    found = dry_run(prepare(study, wires))
    run = simulate(study, overrides=wires, runs=tmp_path / "runs")
    lines = [line for line in history.read(run.folder.history) if line.kind == history.ROUND]
    up, down = ([sum(getattr(site, way) for site in line.ok) for line in lines] for way in ("bytes_up", "bytes_down"))
    assert found.up_bytes == pytest.approx(up[0], rel=0.01)
    assert found.down_bytes == pytest.approx(sum(down) / len(down), rel=0.01)
    assert found.down_bytes < 0.35 * found.measured.down.unpacked * found.drawn
