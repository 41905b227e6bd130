"""Rounds that hide hospitals: the law of the noise in the consensus, the book that is paid first, and the end of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest
from scipy import stats
from village import SITES, Behaves, Killed, Made, Make, Village, trained, well

from fedrounds_common.arrays import Array, digest
from fedrounds_common.chain import read
from fedrounds_common.disk import Steps, SystemSteps, through
from fedrounds_common.dp.sums import CLIP
from fedrounds_common.errors import RoundError, RunFileError
from fedrounds_common.leaving import Ask, Update
from fedrounds_common.privacy.hospital_dp import HospitalDP
from fedrounds_common.strategies.fedavg import FedAvg
from fedrounds_common.strategies.fedavgm import FedAvgM
from fedrounds_common.strategy import Consensus, Strategy, Updates
from fedrounds_server.checkpoint import newest_checkpoint
from fedrounds_server.midround import OpenRound, read_open
from fedrounds_server.release import read_model

MANY = 20_000
WIDE: Mapping[str, Array] = {"w": np.zeros(MANY, np.float32), "seen": np.array(5, np.int64)}
EQUAL = FedAvg(weights="equal")


def hiding(made: Make, strategy: Strategy = EQUAL, rounds: int = 3, **table: Any) -> Made:
    measure = HospitalDP(**{"epsilon": None, "noise_multiplier": 1.0, "sites": 3.0, **table})
    run = made(rounds=rounds)
    return replace(run, plan=replace(run.plan, strategy=strategy, measures=(measure,), initial=dict(WIDE)))


def says(below: float = 0.0) -> Behaves:
    """Its good update, of a norm of 1.4 to 7, and what it says of the clip."""

    def answers(site: str, ask: Ask) -> Any:
        said = well(site, ask)
        if not isinstance(said, Update):
            return said
        w = np.full(MANY, SITES[site][1] / 100, np.float32)
        return replace(said, arrays={**said.arrays, "w": w}, below=below)

    return answers


def village(run: Made, below: float = 0.0) -> Village:
    return run.village(dict.fromkeys("ABC", says(below)))


def paid(run: Made) -> list[dict[str, Any]]:
    return [line["facts"] for line in read(run.folder.spent)]


def test_the_consensus_moves_by_noise_of_the_promised_law_and_counters_stay(made: Make) -> None:
    run = hiding(made, clip=2.0)
    run.run(village(run))
    ended = read_model(run.folder.consensus, WIDE)
    # three rounds; each update, of norm 2 at most, is lost among 20,000 entries
    deviation = 2.0 * 1.0 / 3 * np.sqrt(3)
    assert stats.kstest(ended["w"] / deviation, "norm").pvalue > 1e-6
    assert ended["w"].std() == pytest.approx(deviation, rel=0.02)
    assert ended["seen"] == 5
    assert run.status["exit"] == 0
    assert [facts["round"] for facts in paid(run)] == [1, 2, 3]
    assert paid(run)[-1]["epsilon"] == pytest.approx(
        HospitalDP(None, 1.0).spent(run.plan.study.training, [1] * 3).epsilon
    )


def test_two_runs_of_one_seed_share_no_noise(made: Make) -> None:
    ended = []
    for name in ("0001-a", "0002-b"):
        run = hiding(made)
        run = replace(run, plan=replace(run.plan, folder=type(run.folder)(run.folder.path.with_name(name))))
        run.folder.path.mkdir()
        run.run(village(run))
        ended.append(read_model(run.folder.consensus, WIDE)["w"])
    assert abs(np.corrcoef(ended)[0, 1]) < 0.04


def test_nothing_of_a_single_hospital_is_told(made: Make) -> None:
    run = hiding(made)
    run.run(village(run))
    assert {(site.norm, site.cosine) for line in run.lines for site in line.sites} == {(None, None)}


def test_momentum_is_of_what_is_noisy_already(made: Make) -> None:
    run = hiding(made, FedAvgM(momentum=0.9, weights="equal"), rounds=1)
    run.run(village(run))
    found, _ = newest_checkpoint(run.folder.checkpoints, run.plan.digest)
    assert found is not None
    np.testing.assert_array_equal(found.consensus.kept["w"], found.consensus.arrays["w"])
    assert found.consensus.kept["w"].std() > 0.3


@pytest.mark.parametrize("strategy", [FedAvg(), FedAvg(weights="root")])
def test_a_strategy_that_weighs_hospitals_is_not_carried_out(strategy: Strategy, made: Make) -> None:
    run = hiding(made, strategy)
    with pytest.raises(RoundError, match="FR-R21"):
        run.run(village(run))
    assert not run.folder.consensus.exists()


# ---------------------------------------------------------------- power cuts


@dataclass(frozen=True)
class Dies(Strategy):
    """Averages, and is killed where it would in one round: the noise is drawn then, and nothing is written."""

    at: float

    def folds(self) -> Any:
        return "equal"

    def aggregate(self, consensus: Consensus, updates: Updates) -> Consensus:
        if abs(float(consensus.arrays["w"].std()) - self.at) < 1e-9:
            raise KeyboardInterrupt
        return EQUAL.aggregate(consensus, updates)


def test_killed_between_paying_and_writing_a_run_has_paid_and_ends_a_round_early(made: Make) -> None:
    run = hiding(made, Dies(at=0.0))  # in round 1
    with pytest.raises(KeyboardInterrupt):
        run.run(village(run))
    assert [facts["round"] for facts in paid(run)] == [1]
    outcome = run.run(village(run), resume=True, strategy=EQUAL)
    # three rounds were promised, and three are paid for: there is no noise left for the third
    assert [facts["round"] for facts in paid(run)] == [1, 1, 2]
    assert outcome.rounds == 2
    status = run.status
    assert (status["state"], status["exit"], status["code"], status["rounds"]) == ("partial", 8, "FR-R75", 2)
    assert "3 noisy rounds are paid for, and one more would come to epsilon" in status["message"]
    assert read_model(run.folder.consensus, WIDE)["w"].std() > 0.3
    again = village(run)  # and it stops so again
    run.run(again, resume=True, strategy=EQUAL)
    assert not [ask for _, ask, _ in again.asked if ask.kind == "train"]
    assert (len(paid(run)), run.status["exit"]) == (3, 8)


def test_a_checkpoint_that_is_gone_gives_no_privacy_back(made: Make) -> None:
    run = hiding(made)
    run.run(village(run))
    for file in sorted(run.folder.checkpoints.iterdir())[1:]:
        file.unlink()
    run.run(village(run), resume=True)
    assert [facts["round"] for facts in paid(run)] == [1, 2, 3]
    assert (run.status["rounds"], run.status["exit"]) == (1, 8)


def test_a_book_that_was_changed_stops_the_run(made: Make) -> None:
    run = hiding(made)
    run.run(village(run))
    run.folder.spent.write_text(run.folder.spent.read_text().replace('"round": 1', '"round": 9'))
    for file in sorted(run.folder.checkpoints.iterdir())[1:]:
        file.unlink()
    with pytest.raises(RunFileError, match="FR-F40"):
        run.run(village(run), resume=True)


# ---------------------------------------------------------------- a clip that follows


def clips(grid: Village, rounds: int = 3) -> list[float]:
    asked = {ask.round: float(ask.shared[CLIP][0]) for _, ask, _ in grid.asked if ask.kind == "train"}
    return [asked[round_] for round_ in range(1, rounds + 1)]


def test_the_clip_follows_and_goes_on_from_where_it_was(made: Make) -> None:
    run = hiding(made, noise_multiplier=0.1, quantile=0.5, count_noise=0.1, pace=0.5, sites=300.0)
    shrinks = village(run, below=150.0)
    run.run(shrinks)
    # each may say ½ at most: 1.5 of 300 more than half are below it, give or take the noise
    assert clips(shrinks)[0] == 1.0
    found, _ = newest_checkpoint(run.folder.checkpoints, run.plan.digest)
    assert found is not None
    np.testing.assert_allclose(clips(shrinks), [1.0, np.exp(-0.5 * 0.005), np.exp(-0.5 * 0.01)], atol=0.002)
    for file in sorted(run.folder.checkpoints.iterdir())[2:]:
        file.unlink()
    before = newest_checkpoint(run.folder.checkpoints, run.plan.digest)[0]
    assert before is not None
    assert before.noising["clip"] == clips(shrinks)[2]


def test_with_a_clip_that_stays_nothing_travels_beside_the_consensus(made: Make) -> None:
    run = hiding(made, rounds=1)
    grid = village(run)
    run.run(grid)
    assert all(not ask.shared for _, ask, _ in grid.asked)
    assert trained(grid, 1) == ["A", "B", "C"]


# ---------------------------------------------------------------- hospitals drawn in secret


def test_each_hospital_is_drawn_in_secret_and_a_round_of_nobody_is_noise_alone(made: Make) -> None:
    run = hiding(made, rounds=12, sampling_rate=0.3)
    grid = village(run)
    run.run(grid)
    drawn = [trained(grid, round_) for round_ in range(1, 13)]
    # of 36 draws at 0.3; the seed would draw the same ones again
    assert 1 <= sum(map(len, drawn)) <= 30
    ended = read_model(run.folder.consensus, WIDE)
    assert ended["w"].std() == pytest.approx(np.sqrt(12) / 3, rel=0.03)
    assert len(paid(run)) == 12
    assert {site.part for line in run.lines for site in line.sites if site.state == "absent"} == {"idle"}


def cut_off(made: Make, attempt: int = 0) -> tuple[Made, OpenRound]:
    """A run that was killed in a first round for which some were drawn, and some were not."""

    def dies(site: str, ask: Ask) -> Any:
        raise KeyboardInterrupt

    run = hiding(made, rounds=1, sampling_rate=0.5)
    run = replace(run, plan=replace(run.plan, folder=type(run.folder)(run.folder.path.with_name(f"run-{attempt}"))))
    run.folder.path.mkdir()
    with suppress(KeyboardInterrupt):
        run.run(run.village({name: only_train(dies) for name in "ABC"}))
    opened = read_open(run.folder.round(1))
    # all or nobody once in four times
    return (run, opened) if opened and opened.sites and opened.passed_over else cut_off(made, attempt + 1)


def test_who_was_not_drawn_is_not_drawn_again_when_the_round_goes_on(made: Make) -> None:
    run, opened = cut_off(made)
    assert {*opened.sites, *opened.passed_over} == set("ABC")
    again = village(run)
    run.run(again, resume=True)
    assert trained(again, 1) == sorted(opened.sites)


def only_train(answers: Behaves) -> Behaves:
    return lambda site, ask: answers(site, ask) if ask.kind == "train" else well(site, ask)


def test_whether_one_hospital_counts_does_not_follow_from_what_another_sent(made: Make) -> None:
    # elsewhere an update a hundred times as long as the others' is a fault; here each is cut, and none is left out
    def times(factor: float, site: str, ask: Ask) -> Any:
        said = says()(site, ask)
        return replace(said, arrays={**said.arrays, "w": said.arrays["w"] * np.float32(factor)})

    def tiny(site: str, ask: Ask) -> Any:
        return times(1e-6, site, ask) if ask.kind == "train" else well(site, ask)

    def grows(site: str, ask: Ask) -> Any:  # to a norm of 280, where noise has made the model one of 47
        return times(200, site, ask) if (ask.kind, ask.round) == ("train", 2) else tiny(site, ask)

    run = hiding(made, rounds=2)
    run.run(run.village({"A": grows, "B": tiny, "C": tiny}))
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}] * 2


class Dying:
    """The system's steps, up to the one at which the process is gone."""

    def __init__(self, at: int) -> None:
        self.system, self.left = SystemSteps(), at

    def __getattr__(self, name: str) -> Any:
        step = getattr(self.system, name)

        def counted(*given: Any) -> Any:
            self.left -= 1
            if self.left <= 0:
                raise Killed
            return step(*given)

        return counted


def noisy_ones(*grids: Village) -> int:
    """How many different models with noise on them anybody was sent."""
    seen = {digest(ask.arrays) for grid in grids for _, ask, _ in grid.asked if ask.kind in ("train", "score")}
    return len(seen - {digest(WIDE)})


@pytest.mark.slow
def test_cut_off_at_any_write_no_more_is_sent_than_was_paid_for(made: Make) -> None:
    at, done = 1, False
    while not done:
        run = hiding(made, rounds=2)
        run = replace(run, plan=replace(run.plan, folder=type(run.folder)(run.folder.path.with_name(f"run-{at}"))))
        run.folder.path.mkdir()
        first, second = village(run), village(run)
        try:
            with through(cast("Steps", Dying(at))):
                run.run(first)
            done = True
        except Killed:
            assert noisy_ones(first) <= len(paid(run))
        run.run(second, resume=True)
        assert 1 <= noisy_ones(first, second) <= len(paid(run)) <= 2
        at += 7
    assert at > 30
