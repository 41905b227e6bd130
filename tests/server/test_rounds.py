"""The rounds of a run, with hospitals that are Python functions: everything of the coordinator's is real."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedrounds_common.arrays import Array, Arrays, digest
from fedrounds_common.averaging import moved, weighted_mean
from fedrounds_common.codecs.float32 import Float32
from fedrounds_common.errors import RoundError, RunFileError, TooFewSites
from fedrounds_common.leaving import Ask, Hello, Leaving, Refusal, Scores, Statistics, Update, to_wire
from fedrounds_common.shelves import STRATEGIES
from fedrounds_common.strategies.fedavg import FedAvg
from fedrounds_common.strategy import Consensus, Strategy, Updates, Weights
from fedrounds_common.study.canonical import canonical_text, study_from_canonical
from fedrounds_common.study.canonical import digest as digest_of_study
from fedrounds_common.study.parse import read_study
from fedrounds_common.tasks.segmentation import Segmentation
from fedrounds_common.wire import from_record, to_record
from fedrounds_server import history
from fedrounds_server.app import Afterwards, carry_out
from fedrounds_server.engines.inline import SERVER_NODE, identify
from fedrounds_server.folder import RunFolder
from fedrounds_server.plan import Plan
from fedrounds_server.release import read_model
from fedrounds_server.rounds import Outcome

CUBES = Path(__file__).parents[1] / "data" / "cubes"
START: dict[str, Array] = {"w": np.array([10.0, -1.0], np.float32), "seen": np.array(0, np.int64)}
# site → training cases, and by how much it moves the weights in a round
SITES = {"A": (1, 1.0), "B": (3, 5.0), "C": (4, -3.0)}

Says = Leaving | Error | Exception | None
Behaves = Callable[[str, Ask], Says]


def well(site: str, ask: Ask) -> Says:
    """What a site answers that has no trouble at all."""
    cases, moves = SITES[site]
    if ask.kind == "hello":
        return Hello(site, {"torch": "2"}, cases, 1, 0, 10, {})
    if ask.kind == "score":
        study = study_from_canonical(ask.study)
        tally = Segmentation().tally((), study.cases, study.evaluation, 0)
        return Scores(site, ask.run, ask.round, ask.nonce, ask.model, ask.cohort, 1, tally)
    # what a site moves by depends on where it starts, so that rounds cannot be exchanged
    arrays = {"w": np.float32(moves) * np.cos(ask.arrays["w"]), "seen": np.asarray(np.int64(1))}
    return Update(site, ask.run, ask.round, ask.nonce, ask.digest, cases, 10, 0.5, 1.0, "float32", arrays)


@dataclass
class Hospitals(Grid):
    """A Grid of sites that are functions. None of `behaves` is no answer; an Exception is raised out of the grid."""

    behaves: Mapping[str, Behaves]
    reverse: bool = False
    waits: bool = True
    asked: list[tuple[str, Ask]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    came: dict[str, Message] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        identify(SERVER_NODE)
        self.names = dict(enumerate(self.behaves, start=2))

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: Any, **named: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.names)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        (message,) = messages
        self.count += 1
        message.metadata.__dict__["_message_id"] = str(self.count)
        self.came[str(self.count)] = message
        return [str(self.count)]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = []
        for message_id in sorted(message_ids, key=int, reverse=self.reverse):
            message = self.came.pop(message_id, None)
            if message is not None:
                reply = self._reply(message)
                found += [] if reply is None else [reply]
        return found

    def abandon(self, message_ids: Iterable[str]) -> None:
        for message_id in message_ids:
            self.came.pop(message_id, None)

    def _reply(self, message: Message) -> Message | None:
        ask = from_record(message.content)
        assert isinstance(ask, Ask)
        name = self.names[message.metadata.dst_node_id]
        self.asked.append((name, ask))
        said = self.behaves[name](name, ask)
        if said is None:
            return None
        if isinstance(said, BaseException):
            raise said
        return Message(said if isinstance(said, Error) else to_record(said), reply_to=message)


def bytes_of(grid: Hospitals, kind: str, round_: int) -> int:
    """Of the first request of this kind in that round: header and buffer, as they were sent."""
    header, buffer = to_wire(next(ask for _, ask in grid.asked if (ask.kind, ask.round) == (kind, round_)))
    return len(header.encode()) + len(buffer)


@dataclass
class Made:
    """A plan on a folder, and what a run of it leaves."""

    plan: Plan

    @property
    def folder(self) -> RunFolder:
        return self.plan.folder

    @property
    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.folder.status.read_text("utf-8")))

    @property
    def states(self) -> list[dict[str, str]]:
        return [{site.site: site.state for site in line.sites} for line in history.read(self.folder.history)]

    @property
    def consensus(self) -> Arrays:
        return read_model(self.folder.consensus, START)

    def run(self, grid: Grid, resume: bool = False) -> Outcome:
        plan = replace(self.plan, resume=resume)
        return carry_out(grid, plan, lambda grid, plan, outcome: Afterwards())


Make = Callable[..., Made]


@pytest.fixture
def made(tmp_path: Path, cubes: Callable[..., Path]) -> Make:
    def make(*overrides: str, rounds: int = 3, strategy: str = "fedavg", name: str = "0001-run", **more: Any) -> Made:
        study = read_study(cubes(tmp_path / "study", rounds=rounds), overrides, [CUBES]).study
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir(exist_ok=True)
        return Made(
            Plan(
                study, canonical_text(study), digest_of_study(study), folder, Segmentation(),
                STRATEGIES.load({"name": strategy}), Float32(), dict(START), **more,
            )
        )  # fmt: skip

    return make


def hospitals(behaves: Mapping[str, Behaves] | None = None, sites: Sequence[str] = "ABC", **more: Any) -> Hospitals:
    """All sites well, but for those of `behaves`."""
    return Hospitals({**dict.fromkeys(sites, well), **(behaves or {})}, **more)


def only(kind: str, round_: int, says: Behaves) -> Behaves:
    """Well, but for one kind of request in one round."""
    return lambda site, ask: says(site, ask) if (ask.kind, ask.round) == (kind, round_) else well(site, ask)


def by_hand(sites_by_round: Sequence[str]) -> Array:
    """FedAvg of the sites' moves, weighted by their cases, over so many rounds."""
    w = START["w"].astype(np.float64)
    for sites in sites_by_round:
        cases = sum(SITES[site][0] for site in sites)
        start = w.astype(np.float32)
        step = sum(SITES[s][0] * (np.float32(SITES[s][1]) * np.cos(start)).astype(np.float64) for s in sites) / cases
        w = start.astype(np.float64) + step
    return w.astype(np.float32)


def refusal(code: str, refused: bool = False) -> Behaves:
    return lambda site, ask: Refusal(site, ask.run, ask.round, ask.nonce, code, "0123abcdef", refused)


def changed(**fields: Any) -> Behaves:
    """Its good update, with other fields."""

    def says(site: str, ask: Ask) -> Says:
        update = well(site, ask)
        assert isinstance(update, Update)
        return replace(update, **fields)

    return says


# ---------------------------------------------------------------- a run in which nothing goes wrong


def test_a_run_is_federated_averaging_by_hand(made: Make) -> None:
    run = made()
    outcome = run.run(hospitals())
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))
    # a counter that each site moves by 1, three times
    assert int(run.consensus["seen"]) == 3
    assert outcome.states == {"A": "ok", "B": "ok", "C": "ok"}
    assert run.states == [{"A": "ok", "B": "ok", "C": "ok"}] * 3
    status = run.status
    assert (status["state"], status["exit"], status["planned"], status["finished"]) == ("done", 0, 3, 3)
    assert status["consensus"] == digest(run.consensus)
    assert history.read(run.folder.history)[-1].digest == digest(run.consensus)
    assert sorted(file.name for file in run.folder.checkpoints.iterdir()) == [
        f"round-000{n}.safetensors" for n in (1, 2, 3)
    ]


def test_sites_get_the_consensus_of_the_round_before_and_a_new_nonce_each_round(made: Make) -> None:
    run, grid = made(), hospitals()
    run.run(grid)
    train = [ask for _, ask in grid.asked if ask.kind == "train"]
    assert [ask.round for ask in train] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    lines = history.read(run.folder.history)
    assert digest(train[0].arrays) == digest(START)
    assert [digest(train[index].arrays) for index in (3, 6)] == [line.digest for line in lines[:2]]
    assert len({ask.nonce for ask in train}) == 3
    assert {(ask.run, ask.study, ask.digest) for ask in train} == {("0001-run", run.plan.text, run.plan.digest)}


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedprox"])
def test_who_answers_first_and_where_updates_lie_changes_no_bit(strategy: str, made: Make) -> None:
    digests = set()
    for number, (reverse, budget) in enumerate([(False, 2**30), (True, 2**30), (True, 0), (False, 16)]):
        run = made(strategy=strategy, name=f"{number}", update_budget_bytes=budget)
        run.run(hospitals(reverse=reverse))
        digests.add(run.folder.consensus.read_bytes())
        assert not list(run.folder.path.glob("rounds/*/updates"))
    assert len(digests) == 1


@dataclass(frozen=True)
class Peeks(Strategy):
    """Says that it asks for the mean alone, and then looks at each update: what was added up already is gone."""

    def folds(self) -> Weights:
        return "cases"

    def aggregate(self, consensus: Consensus, updates: Updates) -> Consensus:
        list(updates)
        return Consensus(moved(consensus.arrays, weighted_mean(updates)))


@pytest.mark.parametrize(
    ("overrides", "more", "early"),
    [
        ((), {}, True),
        (("cohort.per_round=2",), {}, True),
        (("cohort.per_round=2", "cohort.over_select=0.5"), {}, False),  # who is a spare is known in the end
        (("cohort.late=next",), {}, False),  # a late update may stand in, in its site's place
        ((), {"durable": True}, False),  # all are on disk, and are read from there
    ],
)
@pytest.mark.parametrize("trouble", [None, refusal("FR-C05", True), changed(arrays={"w": np.float32(np.nan)})])
def test_updates_are_added_as_they_come_only_where_an_answer_stands_once_it_came(
    trouble: Behaves | None, overrides: tuple[str, ...], more: dict[str, Any], early: bool, made: Make
) -> None:
    behaves = {} if trouble is None else {"B": only("train", 2, trouble)}
    plain = made("cohort.minimum=1", *overrides, **more)
    plain.run(hospitals(behaves))
    run = made("cohort.minimum=1", *overrides, name="peeks", **more)
    run = replace(run, plan=replace(run.plan, strategy=Peeks()))
    if early:
        with pytest.raises(RoundError, match="FR-R21"):
            run.run(hospitals(behaves))
    else:
        run.run(hospitals(behaves, reverse=True))
        assert digest(run.consensus) == digest(plain.consensus)


def test_a_line_of_the_history_holds_the_numbers_behind_it(made: Make) -> None:
    run, grid = made(rounds=1), hospitals()
    run.run(grid)
    (line,) = history.read(run.folder.history)
    a, b, c = line.sites
    assert [(s.site, s.cases, s.steps, s.loss, s.seconds) for s in (a, b, c)] == [
        ("A", 1, 10, 0.5, 1.0), ("B", 3, 10, 0.5, 1.0), ("C", 4, 10, 0.5, 1.0),
    ]  # fmt: skip
    assert a.norm == pytest.approx(float(np.linalg.norm(np.cos(START["w"]))), rel=1e-6)
    # A: 1, B: 15, C: -12 of 8 cases: the step points where A and B point, and C the other way
    assert [s.cosine for s in (a, b, c)] == pytest.approx([1, 1, -1])
    assert {site.bytes_down for site in line.sites} == {bytes_of(grid, "train", 1)}
    assert a.bytes_up > 16


# ---------------------------------------------------------------- a run in which things go wrong

TROUBLES: dict[str, tuple[Behaves, str]] = {
    "raises": (refusal("FR-D12"), "error:FR-D12"),
    "says no": (refusal("FR-C02", refused=True), "refused:FR-C02"),
    "hangs": (lambda site, ask: None, "late"),
    "dies": (lambda site, ask: Error(1, "FR-R02"), "error:FR-R02"),
    "not a number": (changed(arrays={"w": np.array([np.nan, 0], np.float32), "seen": np.array(1)}), "error:FR-R12"),
    "a thousand times too large": (changed(arrays={"w": np.array([1e5, 0], np.float32), "seen": np.array(1)}), "error:FR-R13"),
    "one shape for all": (changed(arrays={"w": np.array([1], np.float32), "seen": np.array(1)}), "error:FR-R11"),
    "float64": (changed(arrays={"w": np.zeros(2), "seen": np.array(1)}), "error:FR-R11"),
    "a tensor more": (changed(arrays={"w": np.zeros(2, np.float32), "seen": np.array(1), "x": np.zeros(1)}), "error:FR-R11"),
    "no case": (changed(cases=0), "error:FR-R14"),
    "more cases than agreed": (changed(cases=500), "error:FR-R19"),
    "no loss": (changed(loss=float("nan")), "error:FR-R15"),
    "another's name": (changed(site="A"), "error:FR-R17"),
    "another study": (changed(study="0" * 64), "error:FR-R16"),
    "an old answer": (changed(nonce="another"), "error:FR-R18"),
    "another round": (changed(round=1), "error:FR-R18"),
    "scores": (lambda site, ask: Scores(site, ask.run, ask.round, ask.nonce, "consensus", "local-val", 1, {}), "error:FR-R10"),
    "hello": (lambda site, ask: Hello(site, {}, 3, 1, 0, 10, {}), "error:FR-R10"),
}  # fmt: skip


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_site_in_trouble_for_a_round_is_named_and_the_consensus_is_that_of_the_others(
    trouble: str, made: Make
) -> None:
    says, state = TROUBLES[trouble]
    run, grid = made("cohort.deadline_s=0.2"), hospitals({"B": only("train", 2, says)})
    run.run(grid)
    # the consensus went to it all the same
    for line in history.read(run.folder.history):
        assert {site.bytes_down for site in line.sites} == {bytes_of(grid, "train", line.round)}
    assert run.states == [
        {"A": "ok", "B": "ok", "C": "ok"},
        {"A": "ok", "B": state, "C": "ok"},
        {"A": "ok", "B": "ok", "C": "ok"},
    ]
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC", "AC", "ABC"]))
    status = run.status
    assert (status["state"], status["exit"], status["failed"]) == ("partial", 9, {"B": state})
    assert (status["planned"], status["finished"]) == (3, 2)
    assert len(list(run.folder.checkpoints.iterdir())) == 3


def test_a_refusals_reference_is_in_the_history(made: Make) -> None:
    run = made(rounds=1)
    run.run(hospitals({"B": only("train", 1, refusal("FR-D12"))}))
    assert [site.reference for site in history.read(run.folder.history)[0].sites] == ["", "0123abcdef", ""]


def test_a_site_that_is_never_there_is_absent_in_every_round(made: Make) -> None:
    run = made('cohort.sites=["A", "B", "Z"]', rounds=2)
    grid = hospitals(sites="ABC")
    run.run(grid)
    assert run.states == [{"A": "ok", "B": "ok", "Z": "absent"}] * 2
    assert run.status["failed"] == {"Z": "absent"}
    # C is there, and not of this study
    assert "C" not in {name for name, ask in grid.asked if ask.kind != "hello"}
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["AB", "AB"]))


def test_a_site_that_fails_at_hello_is_named_by_what_it_said(made: Make) -> None:
    run = made(rounds=1)
    run.run(hospitals({"B": only("hello", 0, refusal("FR-D12"))}))
    assert run.states == [{"A": "ok", "B": "error:FR-D12", "C": "ok"}]
    assert run.status["failed"] == {"B": "error:FR-D12"}


def test_two_nodes_of_one_name_are_both_left_out(made: Make) -> None:
    run = made(rounds=1)
    grid = hospitals({"D": lambda site, ask: well("B", ask)})
    run.run(grid)
    assert run.states == [{"A": "ok", "B": "error:FR-R41", "C": "ok"}]
    assert {name for name, ask in grid.asked if ask.kind == "train"} == {"A", "C"}


def test_a_held_out_site_that_does_not_answer_has_failed(made: Make) -> None:
    run = made('cohort.held_out=["C"]', "cohort.deadline_s=0.2", rounds=1)
    run.run(hospitals({"C": lambda site, ask: None}))
    assert run.status["failed"] == {"C": "late"}
    assert run.status["exit"] == 9


def test_a_held_out_site_never_trains(made: Make) -> None:
    run = made('cohort.held_out=["C"]', rounds=2)
    held_out = only("hello", 0, lambda site, ask: Hello(site, {}, 0, 0, 4, 0, {}))
    grid = hospitals({"C": held_out})
    run.run(grid)
    assert run.states == [{"A": "ok", "B": "ok"}] * 2
    assert {(ask.kind, ask.cohort) for name, ask in grid.asked if name == "C"} == {("hello", ""), ("score", "held-out")}
    assert run.status["planned"] == 3


def test_with_a_few_a_round_the_drawn_ones_train_and_the_others_have_not_failed(made: Make) -> None:
    run, grid = made("cohort.per_round=2", rounds=6), hospitals()
    run.run(grid)
    drawn = [sorted(name for name, ask in grid.asked if (ask.kind, ask.round) == ("train", r)) for r in range(1, 7)]
    assert all(len(names) == 2 for names in drawn)
    assert len({tuple(names) for names in drawn}) > 1
    assert run.states == [{name: "ok" if name in names else "absent" for name in "ABC"} for names in drawn]
    assert (run.status["exit"], run.status["failed"]) == (0, {})
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["".join(names) for names in drawn]))


# ---------------------------------------------------------------- a run that cannot go on


def test_a_run_with_too_few_sites_makes_no_consensus(made: Make) -> None:
    run = made("cohort.minimum=3")
    with pytest.raises(TooFewSites, match=r"FR-R40 2 sites are ready to train; at least 3"):
        run.run(hospitals({"B": only("hello", 0, refusal("FR-D12"))}))
    assert not run.folder.consensus.exists()
    assert (run.status["state"], run.status["exit"], run.status["code"]) == ("failed", 11, "FR-R40")


def test_a_round_with_too_few_updates_makes_no_consensus_and_the_run_can_go_on_later(made: Make) -> None:
    undisturbed = made("cohort.minimum=2", name="undisturbed")
    undisturbed.run(hospitals())
    run = made("cohort.minimum=2", name="stopped")
    dead = only("train", 2, refusal("FR-D12"))
    with pytest.raises(
        TooFewSites, match=r"1 sites sent an update fit for round 2; at least 2 .*A \(error:FR-D12\), C"
    ):
        run.run(hospitals({"A": dead, "C": dead}))
    assert not run.folder.consensus.exists()
    assert run.status["exit"] == 11
    assert len(run.states) == 1
    run.run(hospitals(), resume=True)
    assert digest(run.consensus) == digest(undisturbed.consensus)
    assert [line.round for line in history.read(run.folder.history)] == [1, 2, 3]


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm"])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_an_interrupted_run_goes_on_to_the_same_bits(at: int, strategy: str, made: Make) -> None:
    undisturbed = made(rounds=4, strategy=strategy, name="undisturbed")
    undisturbed.run(hospitals())
    run = made(rounds=4, strategy=strategy, name="interrupted")

    def interrupt(site: str, ask: Ask) -> Says:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(hospitals({"B": only("train", at, interrupt)}))
    assert (run.status["state"], run.status["exit"]) == ("interrupted", 130)
    assert not run.folder.consensus.exists()
    run.run(hospitals(), resume=True)
    assert run.folder.consensus.read_bytes() == undisturbed.folder.consensus.read_bytes()
    assert run.states == undisturbed.states
    assert (run.status["exit"], run.status["rounds"]) == (0, 4)


def test_what_failed_before_an_interruption_is_not_forgotten(made: Make) -> None:
    run = made()

    def stop(site: str, ask: Ask) -> Says:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(hospitals({"A": only("train", 3, stop), "B": only("train", 1, refusal("FR-D12"))}))
    run.run(hospitals(), resume=True)
    assert run.status["failed"] == {"B": "error:FR-D12"}
    assert run.status["exit"] == 9


def test_a_finished_run_gone_on_with_does_nothing_again(made: Make) -> None:
    run = made()
    run.run(hospitals())
    before = run.folder.consensus.read_bytes()
    grid = hospitals()
    run.run(grid, resume=True)
    assert run.folder.consensus.read_bytes() == before
    assert {ask.kind for _, ask in grid.asked} == {"hello"}


def test_another_study_cannot_go_on_with_a_run(made: Make) -> None:
    made().run(hospitals())
    with pytest.raises(RunFileError, match="FR-F12"):
        made("seed=99").run(hospitals(), resume=True)


def test_a_damaged_checkpoint_is_told_and_its_round_done_again(made: Make) -> None:
    told: list[str] = []
    undisturbed = made(name="undisturbed")
    undisturbed.run(hospitals())
    run = made(name="damaged", listen=lambda event, facts: told.append(f"{event} {facts.get('text', '')}"))
    run.run(hospitals())
    newest = run.folder.checkpoints / "round-0003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3])
    run.folder.consensus.unlink()
    grid = hospitals()
    run.run(grid, resume=True)
    assert digest(run.consensus) == digest(undisturbed.consensus)
    assert sorted({ask.round for _, ask in grid.asked if ask.kind == "train"}) == [3]
    assert any(line.startswith("warning") and "round-0003" in line for line in told)


# ---------------------------------------------------------------- judging


def test_the_consensus_is_judged_when_the_study_says_and_at_the_end(made: Make) -> None:
    run, grid = made("evaluation.every=2", rounds=5), hospitals()
    run.run(grid)
    judged = sorted({(ask.round, ask.model) for _, ask in grid.asked if ask.kind == "score"})
    assert judged == [(0, "untrained"), (2, "consensus"), (4, "consensus"), (5, "consensus")]
    assert run.folder.metrics.exists()


@pytest.mark.parametrize("trouble", ["raises", "hangs", "sums of another form"])
def test_a_site_that_cannot_judge_is_missing_from_the_table_and_named(trouble: str, made: Make) -> None:
    def other(site: str, ask: Ask) -> Says:
        return Scores(site, ask.run, ask.round, ask.nonce, ask.model, ask.cohort, 1, {"sum": np.zeros(3)})

    says, state = {
        "raises": (refusal("FR-D12"), "error:FR-D12"),
        "hangs": (TROUBLES["hangs"][0], "late"),
        "sums of another form": (other, "error:FR-R04"),
    }[trouble]
    run = made("cohort.deadline_s=0.2", rounds=1)
    run.run(hospitals({"B": only("score", 1, says)}))
    assert run.status["failed"] == {"B": state}
    assert run.status["exit"] == 9
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"]))
    table = run.folder.metrics.read_text("utf-8").splitlines()
    assert {line.split(",")[3] for line in table if line.startswith("1,")} == {"A", "C", "all"}


def test_events_come_in_the_order_of_the_run(made: Make) -> None:
    told: list[str] = []
    run = made("cohort.deadline_s=0.2", rounds=2, listen=lambda event, facts: told.append(event))
    run.run(hospitals())
    one = ["round-start", "site", "site", "site", "round"]
    assert told == ["hello"] * 3 + ["plan"] + ["score"] * 3 + one * 2 + ["score"] * 3 + ["end"]


# ---------------------------------------------------------------- statistics


@dataclass(frozen=True)
class Summed(Segmentation):
    """Before round 1 the weights are moved twice by what all sites' sums amount to, and after the last round once."""

    before: Any = ("middle", "again")
    after: Any = ("last",)
    of_validation: Any = ()
    spoils: Any = None

    def network(self, network: Any, form: Any) -> Any:
        return None

    def gather(self, purpose: str, network: Any, cases: Any, form: Any, training: Any) -> Any:
        return {"sum": np.zeros(2), "cases": np.zeros(1)}

    def settle(self, purpose: str, total: Any, arrays: Arrays, form: Any) -> Arrays:
        moved = {**arrays, "w": (total["sum"] / total["cases"]).astype(np.float32)}
        return self.spoils(moved) if self.spoils else moved


def sums(site: str, ask: Ask) -> Statistics:
    """Depends on the weights that came, and in its last bits on the order in which sites are added."""
    cases, moves = SITES[site]
    tally = {"sum": cases * (ask.arrays["w"].astype(np.float64) + moves / 7), "cases": np.array([float(cases)])}
    return Statistics(site, ask.run, ask.round, ask.nonce, ask.digest, ask.purpose, cases, tally)


def summing(site: str, ask: Ask) -> Says:
    return sums(site, ask) if ask.kind == "statistics" else well(site, ask)


def all_sum(behaves: Mapping[str, Behaves] | None = None, **more: Any) -> Hospitals:
    return Hospitals({**dict.fromkeys("ABC", summing), **(behaves or {})}, **more)


def once(purpose: str, says: Behaves) -> Behaves:
    return lambda site, ask: says(site, ask) if ask.purpose == purpose else summing(site, ask)


def other(**fields: Any) -> Behaves:
    return lambda site, ask: replace(sums(site, ask), **fields)


def with_sums(run: Made, **fields: Any) -> Made:
    return Made(replace(run.plan, task=Summed(**fields)))


def moved_by(sites: str, start: Array) -> Array:
    w = start.astype(np.float64)
    total = np.zeros(2)
    for site in sites:
        total = total + SITES[site][0] * (w + SITES[site][1] / 7)
    return (total / sum(SITES[site][0] for site in sites)).astype(np.float32)


def trained_once(start: Array) -> Array:
    step = sum(SITES[s][0] * (np.float32(SITES[s][1]) * np.cos(start)).astype(np.float64) for s in "ABC") / 8
    return (start.astype(np.float64) + step).astype(np.float32)


def test_sums_before_round_1_are_where_it_starts_and_those_after_the_last_round_end_the_run(made: Make) -> None:
    run, grid = with_sums(made(rounds=1)), all_sum()
    run.run(grid)
    begun = moved_by("ABC", moved_by("ABC", START["w"]))
    asked = [(ask.kind, ask.round, ask.purpose, ask.model) for name, ask in grid.asked if name == "A"]
    assert asked == [
        ("hello", 0, "", "consensus"), ("score", 0, "", "untrained"), ("statistics", 0, "middle", "consensus"),
        ("statistics", 0, "again", "consensus"), ("train", 1, "", "consensus"), ("statistics", 1, "last", "consensus"),
        ("score", 1, "", "consensus"),
    ]  # fmt: skip
    train = next(ask for _, ask in grid.asked if ask.kind == "train")
    np.testing.assert_array_equal(train.arrays["w"], begun)
    np.testing.assert_array_equal(run.consensus["w"], moved_by("ABC", trained_once(begun)))
    # what is judged last is the model that the run leaves; what is judged first has seen no site
    first, last = (next(a for _, a in grid.asked if (a.kind, a.round) == ("score", n)) for n in (0, 1))
    assert (digest(first.arrays), digest(last.arrays)) == (digest(START), digest(run.consensus))


def test_a_purpose_has_a_line_in_the_history_with_every_site_and_what_it_sent(made: Make) -> None:
    run, grid = with_sums(made(rounds=1)), all_sum()
    run.run(grid)
    sent = bytes_of(grid, "statistics", 0)
    lines = history.read(run.folder.history)
    assert [(line.kind, line.round, line.purpose) for line in lines] == [
        ("statistics", 0, "middle"), ("statistics", 0, "again"), ("round", 1, ""), ("statistics", 1, "last"),
    ]  # fmt: skip
    assert lines[-1].digest == digest(run.consensus) == run.status["consensus"]
    assert [(s.site, s.state, s.cases, s.steps, s.bytes_down) for s in lines[0].sites] == [
        ("A", "ok", 1, 0, sent), ("B", "ok", 3, 0, sent), ("C", "ok", 4, 0, sent),
    ]  # fmt: skip
    assert all(site.bytes_up > 200 for line in lines for site in line.sites)


def test_who_answers_first_changes_no_bit_of_what_sums_amount_to(made: Make) -> None:
    models = set()
    for reverse in (False, True):
        run = with_sums(made(rounds=1, strategy="fedavgm", name=f"{reverse}"))
        run.run(all_sum(reverse=reverse))
        models.add(run.folder.consensus.read_bytes())
    assert len(models) == 1


def test_a_run_of_no_rounds_is_what_the_sums_amount_to(made: Make) -> None:
    run = with_sums(made(rounds=1))
    study = replace(run.plan.study, training=replace(run.plan.study.training, rounds=0))
    grid = all_sum()
    Made(replace(run.plan, study=study)).run(grid)
    w = START["w"]
    for _ in range(3):
        w = moved_by("ABC", w)
    np.testing.assert_array_equal(run.consensus["w"], w)
    assert {ask.kind for _, ask in grid.asked} == {"hello", "statistics", "score"}
    assert (run.status["exit"], run.status["rounds"]) == (0, 0)
    assert sorted(file.name for file in run.folder.scores.glob("*.csv")) == [
        "0000-consensus-all.csv",
        "0000-untrained-all.csv",
    ]


NO_SUMS: dict[str, tuple[Behaves, str]] = {
    "raises": (refusal("FR-D12"), "error:FR-D12"),
    "says no": (refusal("FR-C16", refused=True), "refused:FR-C16"),
    "hangs": (lambda site, ask: None, "late"),
    "dies": (lambda site, ask: Error(1, "FR-R02"), "error:FR-R02"),
    "an update": (well, "error:FR-R10"),
    "another's name": (other(site="A"), "error:FR-R17"),
    "another study": (other(study="0" * 64), "error:FR-R16"),
    "another purpose": (other(purpose="last"), "error:FR-R16"),
    "an old answer": (other(nonce="another"), "error:FR-R18"),
    "another round": (other(round=3), "error:FR-R18"),
    "another run": (other(run="0002-run"), "error:FR-R18"),
    "no case": (other(cases=0), "error:FR-R14"),
    "more cases than agreed": (other(cases=4), "error:FR-R19"),
    "not a number": (other(tally={"sum": np.array([np.nan, 1]), "cases": np.ones(1)}), "error:FR-R04"),
    "another shape": (other(tally={"sum": np.ones(3), "cases": np.ones(1)}), "error:FR-R04"),
    "float32": (other(tally={"sum": np.ones(2, np.float32), "cases": np.ones(1)}), "error:FR-R04"),
    "a sum less": (other(tally={"sum": np.ones(2)}), "error:FR-R04"),
    "a sum more": (other(tally={"sum": np.ones(2), "cases": np.ones(1), "x": np.ones(1)}), "error:FR-R04"),
}


@pytest.mark.parametrize("trouble", NO_SUMS)
def test_a_site_whose_sums_cannot_be_used_is_named_and_left_out_of_that_sum_only(trouble: str, made: Make) -> None:
    says, state = NO_SUMS[trouble]
    run = with_sums(made("cohort.deadline_s=0.2", rounds=1))
    run.run(all_sum({"B": once("middle", says)}))
    assert [states["B"] for states in run.states] == [state, "ok", "ok", "ok"]
    begun = moved_by("ABC", moved_by("AC", START["w"]))
    np.testing.assert_array_equal(run.consensus["w"], moved_by("ABC", trained_once(begun)))
    assert (run.status["failed"], run.status["exit"]) == ({"B": state}, 9)


def test_sums_of_too_few_sites_end_the_run_as_a_round_would_and_it_goes_on_from_there(made: Make) -> None:
    undisturbed = with_sums(made("cohort.minimum=3", rounds=2, name="undisturbed"))
    undisturbed.run(all_sum())
    run = with_sums(made("cohort.minimum=3", rounds=2))
    with pytest.raises(TooFewSites, match=r"FR-R40 2 sites sent the sums for last.*missing: B \(error:FR-D12\)"):
        run.run(all_sum({"B": once("last", refusal("FR-D12"))}))
    grid = all_sum()
    run.run(grid, resume=True)
    assert run.folder.consensus.read_bytes() == undisturbed.folder.consensus.read_bytes()
    assert [ask.purpose for name, ask in grid.asked if name == "A" and ask.kind != "score"] == ["", "last"]


def test_a_share_of_the_cases_is_needed_for_sums_too(made: Make) -> None:
    run = with_sums(made("cohort.minimum_cases_share=0.6", rounds=1))
    with pytest.raises(TooFewSites, match="FR-R55 the sums for middle stand for 4 of 8 cases"):
        run.run(all_sum({"C": once("middle", refusal("FR-D12"))}))


def test_sums_of_too_few_cases_are_withheld_by_a_sites_own_policy_and_that_is_no_fault(made: Make) -> None:
    told: list[str] = []
    run = with_sums(made(rounds=1, listen=lambda event, facts: told.append(str(facts.get("text")))))
    run.run(all_sum({"B": once("last", refusal("FR-C19", refused=True))}))
    assert run.states[-1] == {"A": "ok", "B": "refused:FR-C19", "C": "ok"}
    assert (run.status["exit"], run.status["failed"]) == (0, {})
    assert run.status["withheld"] == {"B": "too few cases"}
    assert "B withholds its sums for last: too few cases" in told


def test_sums_over_the_cases_of_validation_are_asked_of_who_has_any(made: Make) -> None:
    def validates(site: str, ask: Ask) -> Says:
        said = summing(site, ask)
        return replace(said, validation_cases={"A": 1, "B": 0, "C": 9}[site]) if isinstance(said, Hello) else said

    def sums_nine(site: str, ask: Ask) -> Says:
        return replace(sums(site, ask), cases=9)

    run = with_sums(made(rounds=1), of_validation=("last",))
    last = {
        "A": lambda site, ask: sums_nine(site, ask) if ask.purpose == "last" else validates(site, ask),
        "B": validates,
        "C": lambda site, ask: sums_nine(site, ask) if ask.purpose == "last" else validates(site, ask),
    }
    grid = all_sum(last)
    run.run(grid)
    assert sorted(name for name, ask in grid.asked if ask.purpose == "last") == ["A", "C"]
    # 9 cases are more than A said that it validates on, and just what C said, which trains on 4
    assert run.states[-1] == {"A": "error:FR-R19", "B": "absent", "C": "ok"}
    assert run.status["failed"] == {"A": "error:FR-R19"}


@pytest.mark.parametrize("why", ["none to validate on", "too few of them"])
def test_where_too_few_can_validate_what_that_would_settle_stays_as_it_is(why: str, made: Make) -> None:
    def few(site: str, ask: Ask) -> Says:
        said = summing(site, ask)
        if isinstance(said, Hello):
            return replace(said, validation_cases=0 if why == "none to validate on" else 1)
        return refusal("FR-C19", refused=True)(site, ask) if ask.purpose == "last" else said

    told: list[str] = []
    run = made("cohort.minimum=2", rounds=1, listen=lambda event, facts: told.append(str(facts.get("text"))))
    run = with_sums(run, of_validation=("last",))
    run.run(all_sum(dict.fromkeys("ABC", few)))
    begun = moved_by("ABC", moved_by("ABC", START["w"]))
    np.testing.assert_array_equal(run.consensus["w"], trained_once(begun))
    assert (run.status["exit"], run.status["failed"]) == (0, {})
    assert any(text.startswith("last stays as it was: 0 sites sent the sums for last") for text in told)
    assert history.read(run.folder.history)[-1].digest == digest(run.consensus)
    # and a fault is still one
    broken = with_sums(made("cohort.minimum=2", rounds=1, name="broken"), of_validation=("last",))
    with pytest.raises(TooFewSites, match="FR-R40"):
        broken.run(all_sum({"A": few, "B": once("last", refusal("FR-D12"))}))


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm"])
@pytest.mark.parametrize("at", ["middle", "again", "train 1", "train 2", "last", "score 2"])
def test_a_run_stopped_anywhere_goes_on_bit_for_bit_and_asks_no_sum_twice(at: str, strategy: str, made: Make) -> None:
    undisturbed = with_sums(made(rounds=2, strategy=strategy, name="undisturbed"))
    undisturbed.run(all_sum())
    run = with_sums(made(rounds=2, strategy=strategy, name="interrupted"))

    def stops(site: str, ask: Ask) -> Says:
        if at in (ask.purpose, f"{ask.kind} {ask.round}"):
            raise KeyboardInterrupt
        return summing(site, ask)

    first = all_sum({"B": stops})
    with pytest.raises(KeyboardInterrupt):
        run.run(first)
    # killed between a line of the history and its checkpoint: that line is of nothing that was done
    if at in ("middle", "again", "last"):
        line = next(line for line in history.read(undisturbed.folder.history) if line.purpose == at)
        history.append(run.folder.history, line)
    grid = all_sum()
    run.run(grid, resume=True)
    assert run.folder.consensus.read_bytes() == undisturbed.folder.consensus.read_bytes()
    assert run.states == undisturbed.states
    done = [ask.purpose for name, ask in first.asked if name == "A" and ask.kind == "statistics" and ask.purpose != at]
    again = [ask.purpose for name, ask in grid.asked if name == "A" and ask.kind == "statistics"]
    assert done + again == ["middle", "again", "last"]


def test_a_damaged_checkpoint_after_the_last_sums_is_made_again_with_its_round(made: Make) -> None:
    undisturbed = with_sums(made(name="undisturbed"))
    undisturbed.run(all_sum())
    run = with_sums(made())
    run.run(all_sum())
    newest = run.folder.checkpoints / "round-0003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3])
    run.folder.consensus.unlink()
    grid = all_sum()
    run.run(grid, resume=True)
    assert digest(run.consensus) == digest(undisturbed.consensus)
    assert [(ask.kind, ask.purpose) for name, ask in grid.asked if name == "A" and ask.kind != "hello"] == [
        ("train", ""), ("statistics", "last"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spoils", "found"),
    [
        (lambda arrays: {**arrays, "x": np.zeros(1)}, r"FR-R05 middle: x <f8 \(1,\) has no match"),
        (lambda arrays: {"seen": arrays["seen"]}, r"FR-R05 middle: w <f4 \(2,\) has no match"),
        (lambda arrays: {**arrays, "w": arrays["w"] * np.float32(np.nan)}, "FR-R05 middle: w is not finite"),
    ],
)
def test_sums_that_amount_to_no_model_end_the_run(spoils: Any, found: str, made: Make) -> None:
    run = with_sums(made(rounds=1), spoils=spoils)
    with pytest.raises(RoundError, match=found):
        run.run(all_sum())


# ---------------------------------------------------------------- a strategy that wants to end it all


@final
@dataclass(frozen=True)
class Quits(FedAvg):
    """FedAvg until `rounds` are done; then it calls sys.exit as if all were well."""

    rounds: int = 1

    def aggregate(self, consensus: Consensus, updates: Updates) -> Consensus:
        if int(consensus.arrays["seen"]) >= self.rounds:
            sys.exit(0)
        return super().aggregate(consensus, updates)


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_strategy_that_calls_exit_ends_the_run_as_an_error_that_names_it(rounds: int, made: Make) -> None:
    run = made()
    run.plan = replace(run.plan, strategy=Quits(rounds=rounds))
    with pytest.raises(RoundError, match=r"FR-R06 Quits.aggregate \(test_rounds.py, line \d+\) called sys.exit\(0\)"):
        run.run(hospitals())
    status = run.status
    assert (status["state"], status["exit"], status["code"]) == ("failed", 1, "FR-R06")
    assert "consensus" not in status
    assert not run.folder.consensus.exists()
    assert len(run.states) == rounds
    # mended, it goes on from there
    run.plan = replace(run.plan, strategy=FedAvg())
    run.run(hospitals(), resume=True)
    np.testing.assert_array_equal(run.consensus["w"], by_hand(["ABC"] * 3))


def test_a_run_that_flower_stops_was_interrupted_and_is_no_fault_of_the_strategy(made: Make) -> None:
    # what Flower's signal handler does, wherever the signal comes in: it calls sys.exit from a module of its own
    flower: dict[str, Any] = {"__name__": "flwr.supercore.exit.exit"}
    exec("import sys\ndef flwr_exit(): sys.exit(0)", flower)

    def stopped(site: str, ask: Ask) -> Says:
        return flower["flwr_exit"]() or None

    run = made()
    with pytest.raises(SystemExit):
        run.run(hospitals({"B": only("train", 2, stopped)}))
    assert (run.status["state"], run.status["exit"]) == ("interrupted", 130)
