"""One hospital has no interval over hospitals; over its cases it has one, paired, and it is said to be no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from fedrounds_common.case import F64
from fedrounds_common.errors import RunFileError
from fedrounds_common.rng import generator
from fedrounds_common.study.parse import read_study
from fedrounds_common.study.tables import CaseForm, Evaluation
from fedrounds_common.task import CaseScore
from fedrounds_common.tasks.segmentation import Segmentation
from fedrounds_server.compare import Comparison, compare, compare_of_runs
from fedrounds_server.replicates import ENDING, read_replicates, write_replicates
from fedrounds_server.report.folder import read_run
from fedrounds_server.report.page import page
from fedrounds_server.report.runs import table_of_runs
from fedrounds_server.report.summary import summary
from fedrounds_server.report.words import in_short
from fedrounds_server.tables import MetricRow

NAN = float("nan")
Write = Callable[..., Path]
FIVE = ("a", "b", "c", "d", "e")


def rows(model: str, values: Mapping[str, float], trained_at: str = "all") -> list[MetricRow]:
    return [
        MetricRow(9, model, trained_at, site, "held-out", "mean", "dice", value, NAN, NAN, 10, 0, 0, 0)
        for site, value in values.items()
    ]


def drawn(model: str, values: Sequence[float], trained_at: str = "all") -> dict[tuple[str, ...], F64]:
    return {(model, trained_at, "held-out", "a", "mean"): np.array(values, np.float64)}


def of_one(difference: float, spread: float, *, lower: bool = False) -> Comparison:
    """The consensus at one hospital beside pooled; replicates' differences lie evenly around theirs."""
    away = np.linspace(-spread, spread, 201)
    common = generator(0, "patients").normal(0, 5, 201)  # the same patients: it falls out of the difference
    table = rows("consensus", {"a": 0.8}) + rows("pooled", {"a": 0.8 - difference})
    values = drawn("consensus", common + 0.8 + away) | drawn("pooled", common + 0.8 - difference)
    [pair] = compare(table, "dice", "held-out", lower=lower, drawn=values)  # type: ignore[arg-type]
    return pair


# ---------------------------------------------------------------- intervals


def test_the_interval_is_of_paired_differences_and_holds_nothing_of_what_both_models_share() -> None:
    pair = of_one(0.05, 0.04)
    # the 2.5 and 97.5 percentiles of 201 even steps from 0.01 to 0.09 are 0.012 and 0.088
    assert (pair.told.value, pair.told.low, pair.told.high) == pytest.approx((0.05, 0.012, 0.088))
    assert np.isnan(pair.difference.low), "over hospitals there is none"
    assert pair.verdict == "over its cases: better"
    assert not pair.shown, "nothing is shown of hospitals"
    assert of_one(0.05, 0.04, lower=True).verdict == "over its cases: worse"
    assert of_one(0.05, 0.06).verdict == "over its cases: not shown"


def test_two_hospitals_have_their_own_interval_and_none_over_cases() -> None:
    table = rows("consensus", {"a": 0.8, "b": 0.7}) + rows("pooled", {"a": 0.7, "b": 0.5})
    values = drawn("consensus", np.full(200, 0.8)) | drawn("pooled", np.full(200, 0.7))
    [pair] = compare(table, "dice", "held-out", lower=False, drawn=values)  # type: ignore[arg-type]
    assert pair.told == pair.difference
    assert pair.verdict == "too few hospitals"


def test_without_replicates_of_both_models_there_is_no_interval() -> None:
    table = rows("consensus", {"a": 0.8}) + rows("pooled", {"a": 0.7})
    [pair] = compare(table, "dice", "held-out", lower=False, drawn=drawn("consensus", np.zeros(200)))  # type: ignore[arg-type]
    assert np.isnan(pair.told.low)
    assert pair.verdict == "too few hospitals"


def test_replicates_in_which_a_measure_is_not_defined_are_left_out_and_too_few_give_nothing() -> None:
    table = rows("consensus", {"a": 0.8}) + rows("pooled", {"a": 0.7})
    ours, theirs = np.linspace(0.7, 0.9, 100), np.full(100, 0.7)
    theirs[:50] = NAN
    values = drawn("consensus", ours) | drawn("pooled", theirs)
    [pair] = compare(table, "dice", "held-out", lower=False, drawn=values)  # type: ignore[arg-type]
    assert (pair.told.low, pair.told.high) == pytest.approx(tuple(np.percentile(ours[50:] - 0.7, (2.5, 97.5))))
    theirs[:70] = NAN
    [pair] = compare(table, "dice", "held-out", lower=False, drawn=drawn("consensus", ours) | drawn("pooled", theirs))  # type: ignore[arg-type]
    assert np.isnan(pair.told.low)


def test_seeds_do_not_narrow_an_interval_since_they_are_judged_on_the_same_cases() -> None:
    table = rows("consensus", {"a": 0.8}) + rows("pooled", {"a": 0.7})
    runs = [
        drawn("consensus", 0.8 + np.linspace(-spread, spread, 201)) | drawn("pooled", np.full(201, 0.7))
        for spread in (0.02, 0.04)
    ]
    [pair] = compare_of_runs([table, table], "dice", "held-out", lower=False, drawn=runs)  # type: ignore[arg-type]
    # ends at 0.95 of the spread: 0.1 −+ 0.019 and 0.1 −+ 0.038, their means 0.1 −+ 0.0285
    assert (pair.told.low, pair.told.high) == pytest.approx((0.0715, 0.1285))


def test_the_best_local_model_is_compared_by_its_own_replicates() -> None:
    table = rows("consensus", {"a": 0.8}) + rows("local-only", {"a": 0.5}, "x") + rows("local-only", {"a": 0.6}, "y")
    values = drawn("consensus", np.full(200, 0.8)) | drawn("local-only", np.full(200, 0.5), "x")
    values |= drawn("local-only", np.full(200, 0.61), "y")
    [pair] = compare(table, "dice", "held-out", lower=False, drawn=values)  # type: ignore[arg-type]
    assert (pair.other.label, pair.other.trained_at) == ("best local-only", "y")
    assert pair.told.low == pytest.approx(0.19)


# ---------------------------------------------------------------- margins


@pytest.mark.parametrize(
    ("difference", "spread", "margin", "lower", "said"),
    [
        (-0.01, 0.005, 0.02, False, "within the margin"),
        (-0.01, 0.02, 0.02, False, "not shown"),
        (-0.05, 0.02, 0.02, False, "worse"),
        (0.05, 0.02, 0.02, False, "within the margin"),
        (0.01, 0.005, 0.02, True, "within the margin"),
        (0.05, 0.02, 0.02, True, "worse"),
        (0.01, 0.02, 0.02, True, "not shown"),
    ],
)
def test_a_margin_is_held_against_the_intervals_ends(
    difference: float, spread: float, margin: float, lower: bool, said: str
) -> None:
    assert of_one(difference, spread, lower=lower).beside_margin(margin) == said


def test_a_margin_cannot_be_told_from_few_hospitals_and_can_from_five() -> None:
    def pair(sites: Sequence[str]) -> Comparison:
        table = rows("consensus", dict.fromkeys(sites, 0.79)) + rows("pooled", dict.fromkeys(sites, 0.8))
        return compare(table, "dice", "held-out", lower=False)[0]

    assert pair(FIVE).beside_margin(0.02) == "within the margin"
    assert pair(FIVE).beside_margin(0.005) == "worse"
    assert pair(FIVE[:4]).beside_margin(0.02) == "too few hospitals"
    assert pair(FIVE[:1]).beside_margin(0.02) == "too few hospitals"


def test_a_margin_of_nothing_is_a_fault_of_the_study(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text('format = 1\nname = "a"\n[cases]\nchannels = ["t1"]\nlabels = { a = 1 }\n[model]\nname = "tiny_unet"\n'
                     "[evaluation]\nmargin = 0.02\n", "utf-8")  # fmt: skip
    assert read_study(study).study.evaluation.margin == 0.02
    with pytest.raises(Exception, match=r"evaluation\.margin"):
        read_study(study, ["evaluation.margin=0"])
    assert read_study(study, ['evaluation.margin="none"']).study.evaluation.margin is None


# ---------------------------------------------------------------- the files


def scored(patients: int, base: float) -> list[CaseScore]:
    values = [{"dice": base + 0.01 * number, "hd95": NAN, "nsd": NAN, "assd": NAN, "volume": NAN} for number in range(patients)]  # fmt: skip
    from fedrounds_common.metrics.rules import METRICS

    full = [{name: value.get(name, NAN) for name in METRICS} for value in values]
    return [
        CaseScore(f"c{number}", f"p{number}", {"target": each, "mean": each}, {"target": "scored"})
        for number, each in enumerate(full)
    ]


def test_only_a_cohort_of_one_hospital_is_written_and_the_last_round_is_read(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text('format = 1\nname = "a"\n[cases]\nchannels = ["t1"]\n[model]\nname = "tiny_unet"\n', "utf-8")
    agreed, task, form = read_study(study).study, Segmentation(), CaseForm()
    rule = Evaluation(resamples=50)
    tally = task.tally(scored(6, 0.5), form, rule, 3)
    better = task.tally(scored(6, 0.6), form, rule, 3)
    file = tmp_path / "0001-consensus-all.csv"
    both = {("a", "local-val"): tally, ("b", "local-val"): tally}
    write_replicates(file, task, agreed, both, 1, "consensus", "all")
    assert not list(tmp_path.glob(f"*{ENDING}"))
    write_replicates(file, task, agreed, {**both, ("a", "held-out"): tally}, 1, "consensus", "all")
    write_replicates(
        tmp_path / "0002-consensus-all.csv", task, agreed, {("a", "held-out"): better}, 2, "consensus", "all"
    )
    found = read_replicates(tmp_path)
    assert set(found) == {("consensus", "all", "held-out", "a", region) for region in ("target", "mean")}
    values = found["consensus", "all", "held-out", "a", "target"]
    assert values.shape == (50,)
    # each replicate of the better model is 0.1 above the other's: the same patients were drawn
    theirs = task.replicates(tally, form, rule)["target"]
    np.testing.assert_allclose((values - theirs)[np.isfinite(theirs)], 0.1)
    write_replicates(file, task, agreed, both, 1, "consensus", "all")
    assert not file.with_suffix(ENDING).exists(), "what no longer holds is taken away"


def test_a_file_that_was_changed_is_named(tmp_path: Path) -> None:
    (tmp_path / f"0001-consensus-all{ENDING}").write_text('{"format": 1, "model": "consensus"}', "utf-8")
    with pytest.raises(RunFileError, match=r"FR-F38 .*0001-consensus-all"):
        read_replicates(tmp_path)


# ---------------------------------------------------------------- what is printed


def with_replicates(path: Path, spread: float, margin: float | None = None) -> Path:
    """A run whose one held-out hospital has replicates: those of each model around its value, paired."""
    table = [row for row in read_run(path).rows if row.cohort == "held-out" and row.site != "all"]
    (path / "scores").mkdir()
    away = np.linspace(-1, 1, 201)
    for model, trained_at in {(row.model, row.trained_at) for row in table}:
        mine = [row for row in table if (row.model, row.trained_at) == (model, trained_at)]
        last = max(row.round for row in mine)
        lines = [
            {"cohort": "held-out", "site": row.site, "region": row.region,
             "values": (row.value + (spread * away if model == "consensus" else 0 * away)).tolist()}
            for row in mine if row.round == last
        ]  # fmt: skip
        says = {
            "format": 1,
            "round": last,
            "model": model,
            "trained_at": trained_at,
            "metric": "dice",
            "replicates": lines,
        }
        (path / "scores" / f"{last:04d}-{model}-{trained_at}{ENDING}").write_text(json.dumps(says), "utf-8")
    if margin is not None:
        study = path / "study.resolved.toml"
        study.write_text(
            study.read_text("utf-8").replace('primary = "dice"', f'primary = "dice"\nmargin = {margin}'), "utf-8"
        )
    return path


def test_one_hospital_is_spoken_of_by_its_cases_and_no_word_is_said_of_others(fake_run: Write) -> None:
    path = with_replicates(fake_run(sites=9, held_out=1), spread=0.02)
    text = " ".join(in_short(read_run(path)))
    assert "Over the cases of this one hospital it is better than floor, initial" in text
    assert "Over the cases of this one hospital it is worse than pooled." in text
    assert "One hospital: no interval over hospitals can be given." in text
    assert "of differences are over its cases (patients resampled, the same draws for every model); they say nothing about other hospitals" in text  # fmt: skip
    assert "Too few hospitals" not in text
    whole = page(read_run(path), ())
    assert "over its cases: better" in whole
    assert "consensus − pooled = −0.020 [−0.039, −0.001]" in text


@pytest.mark.parametrize(
    ("spread", "margin", "said"),
    [
        (0.02, 0.05, "It is not worse than pooled by more than 0.05, the margin named before (consensus − pooled = −0.020 [−0.039, −0.001], over its cases)."),
        (0.08, 0.05, "Whether it is worse than pooled by more than 0.05, the margin named before, is not shown either way"),
        (0.005, 0.01, "It is worse than pooled by more than 0.01, the margin named before"),
    ],
)  # fmt: skip
def test_a_margin_is_answered_wherever_a_run_is_told(fake_run: Write, spread: float, margin: float, said: str) -> None:
    path = with_replicates(fake_run(sites=9, held_out=1), spread, margin)
    assert said in " ".join(in_short(read_run(path)))
    assert said in "\n".join(summary(path))
    assert said in " ".join(page(read_run(path), ()).split())
    table = table_of_runs([path, with_replicates(fake_run("0002-fake", sites=9, held_out=1), spread, margin)])
    assert said.partition(" (")[0] in table.note


def test_a_run_without_a_margin_claims_nothing_and_one_without_pooled_says_that_it_cannot(fake_run: Write) -> None:
    assert "margin" not in " ".join(in_short(read_run(fake_run())))
    models = ("initial", "consensus")
    path = with_replicates(fake_run("0002-fake", sites=9, held_out=1, models=models), 0.02, 0.05)
    assert "is not judged: no pooled model stands beside it" in " ".join(in_short(read_run(path)))
    few = with_replicates(fake_run("0003-fake"), 0.02, 0.05)
    assert "cannot be told from so few hospitals" in " ".join(in_short(read_run(few)))
