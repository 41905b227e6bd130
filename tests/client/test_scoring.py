"""Judging at a site: an ensemble is the mean of its members' probabilities; what is written again is replaced."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedrounds_client.rounds import judge
from fedrounds_client.scoring import SCORE_COLUMNS, _primary, assemble_cases_csv, score_cases, write_scores
from fedrounds_client.site import Parts, Site
from fedrounds_common.arrays import Arrays, into_module, of_module
from fedrounds_common.case import Case
from fedrounds_common.leaving import Ask
from fedrounds_common.rng import seeded
from fedrounds_common.task import CaseScore, Picture
from fedrounds_common.tasks.segmentation import Segmentation

MakeSite = Callable[..., Site]
ASK = Ask("score", "run", 2, "n", "study", "digest", "consensus", "all", "local-val")


def other_weights(parts: Parts, seed: int) -> Arrays:
    with seeded(seed):
        return of_module(parts.task.network(parts.network, parts.study.cases))


def predicted(parts: Parts, arrays: Arrays, case: Case) -> Any:
    network, study = parts.module(), parts.study
    into_module(network, arrays)
    return parts.task.predict(network, case, study.cases, study.training, study.evaluation)


def all_cases(site: Site) -> tuple[Case, ...]:
    opened = site.hospital.open_all()
    return (*opened.training, *opened.validation)


def same(one: CaseScore, other: CaseScore) -> bool:
    """Equal, where undefined is equal to undefined."""
    return repr(one) == repr(other)


def test_an_ensemble_is_judged_by_the_mean_of_its_members_probabilities(hospital_site: MakeSite) -> None:
    site = hospital_site()
    parts, study, cases = site.parts, site.parts.study, all_cases(site)[:3]
    members = [other_weights(parts, seed) for seed in (1, 2, 3)]
    scores, _ = score_cases(members, cases, parts)
    for case, score in zip(cases, scores, strict=True):
        mean = sum(predicted(parts, member, case).outputs.astype(np.float64) for member in members) / 3
        decided = parts.task.decide(mean.astype(np.float32), case, study.cases)
        assert same(score, parts.task.score(decided, case, study.cases, study.evaluation))
    # and not by the mean of their scores
    alone = [score_cases([member], cases, parts)[0] for member in members]
    dice = [np.mean([own[index].values["mean"]["dice"] for own in alone]) for index in range(3)]
    assert not np.allclose(dice, [score.values["mean"]["dice"] for score in scores])


def test_an_ensemble_of_one_or_of_twice_the_same_is_that_model(hospital_site: MakeSite) -> None:
    site = hospital_site()
    weights, cases = other_weights(site.parts, 4), all_cases(site)
    alone, _ = score_cases([weights], cases, site.parts)
    twice, _ = score_cases([weights, weights], cases, site.parts)
    assert [case.ref.name for case in cases] == [score.case for score in alone]
    assert all(same(one, other) for one, other in zip(alone, twice, strict=True))


def test_pictures_are_of_the_worst_cases_and_the_worst_is_first(hospital_site: MakeSite) -> None:
    site = hospital_site()
    cases = all_cases(site)
    scores, pictures = score_cases([other_weights(site.parts, 4)], cases, site.parts, pictures=2)
    by_dice = sorted(scores, key=lambda score: score.values["mean"]["dice"])
    assert [score.case for score, _ in pictures] == [score.case for score in by_dice[:2]]
    assert score_cases([other_weights(site.parts, 4)], cases, site.parts)[1] == []
    assert len(score_cases([other_weights(site.parts, 4)], cases, site.parts, pictures=99)[1]) == len(cases)


def scored(value: float, metric: str = "dice", case: str = "c") -> CaseScore:
    return CaseScore(case, "p", {"lesion": {metric: value}, "mean": {metric: value}}, {"lesion": "scored"})


def test_a_distance_is_worse_the_larger_it_is_and_no_number_is_never_the_worst() -> None:
    assert _primary(scored(3.0, "hd95"), "hd95", Segmentation()) > _primary(scored(9.0, "hd95"), "hd95", Segmentation())
    assert _primary(scored(0.9), "dice", Segmentation()) > _primary(scored(0.1), "dice", Segmentation())
    assert _primary(scored(math.nan), "dice", Segmentation()) == math.inf
    assert _primary(scored(0.5), "hd95", Segmentation()) == math.inf


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_scores_asked_for_again_replace_the_old_ones(tmp_path: Path) -> None:
    write_scores(tmp_path, ASK, [scored(0.25), scored(0.5, case="d")], [])
    write_scores(tmp_path, ASK, [scored(0.75)], [])
    (file,) = (tmp_path / "scores").iterdir()
    assert file.name == "0002-consensus-all-local-val.csv"
    assert [(row["case"], row["region"], row["value"]) for row in rows(file)] == [
        ("c", "lesion", "0.75"),
        ("c", "mean", "0.75"),
    ]


def test_every_model_round_and_cohort_has_a_file_and_all_are_joined_once(tmp_path: Path) -> None:
    from dataclasses import replace

    asks = [ASK, replace(ASK, round=3), replace(ASK, model="pooled"), replace(ASK, cohort="train")]
    for number, ask in enumerate([*asks, ASK]):
        write_scores(tmp_path, ask, [scored(number / 8)], [])
    for _ in range(2):
        joined = rows(assemble_cases_csv(tmp_path))
        assert tuple(joined[0]) == SCORE_COLUMNS
        assert len(joined) == 2 * len(asks)
    assert {row["value"] for row in joined if (row["round"], row["model"], row["cohort"]) == ("2", "consensus", "local-val")} == {
        "0.5"
    }  # fmt: skip


def test_a_site_that_scored_nothing_has_a_table_without_lines(tmp_path: Path) -> None:
    assert assemble_cases_csv(tmp_path).read_text("utf-8") == ",".join(SCORE_COLUMNS) + "\n"


def test_a_number_comes_back_from_the_table_as_it_was_and_an_undefined_one_is_empty(tmp_path: Path) -> None:
    write_scores(tmp_path, ASK, [scored(0.1 + 0.2), scored(math.nan, case='quoted "c", d')], [])
    first, _, second, _ = rows(next((tmp_path / "scores").iterdir()))
    assert float(first["value"]) == 0.1 + 0.2
    assert (second["value"], second["case"]) == ("", 'quoted "c", d')


def test_a_picture_holds_its_panels_side_by_side_and_says_what_it_is(tmp_path: Path) -> None:
    panels = {"image": np.zeros((5, 4, 3), np.uint8), "reference": np.full((3, 6, 3), 255, np.uint8)}
    score = scored(0.25, case="a1")
    write_scores(tmp_path, ASK, [score], [(score, Picture("A1", panels))])
    with Image.open(tmp_path / "pictures" / "consensus-a1.png") as image:
        # 4 + 6 wide with 4 between and after, as high as the highest
        assert image.size == (4 + 4 + 6 + 4, 5)
        assert np.asarray(image)[0, 8].tolist() == [255, 255, 255]
    says = json.loads((tmp_path / "pictures" / "consensus-a1.json").read_text("utf-8"))
    assert (says["case"], says["model"], says["round"], says["panels"]) == (
        "a1",
        "consensus",
        2,
        ["image", "reference"],
    )


@pytest.mark.parametrize("cohort", ["local-val", "train"])
def test_what_leaves_of_a_judgement_is_sums_and_the_single_scores_stay(
    cohort: str, hospital_site: MakeSite, ask_of: Callable[..., Ask]
) -> None:
    site = hospital_site()
    said = judge(ask_of(site, "score", cohort=cohort), site)
    cases = site.hospital.cohort(cohort)
    assert said.cases == len(cases)
    assert {array.dtype for array in said.tally.values()} == {np.dtype(np.float64)}
    stay = rows(next((site.folder / "scores").iterdir()))
    assert {row["case"] for row in stay} == {case.ref.name for case in cases}
    # a sum over this cohort's cases, of one region and its mean
    dice = [float(row["value"]) for row in stay if (row["region"], row["metric"]) == ("cube", "dice")]
    rule = site.parts.study
    table = site.parts.task.table(said.tally, rule.cases, rule.evaluation)
    (mean,) = (row for row in table if (row.region, row.metric) == ("cube", "dice"))
    assert mean.n == len(dice)
    assert mean.value == pytest.approx(float(np.mean(dice)), abs=1e-12)
