"""The replicates that a real site sends are drawn from its own secret: the study's seed and the patients' names do not
give them, and every model meets the same ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrounds_client.enrolled import open_enrolled
from fedrounds_client.lineage import secret_of
from fedrounds_client.rounds import judge
from fedrounds_common.errors import UsageError
from fedrounds_common.leaving import Ask, Scores
from fedrounds_common.metrics.hiding import FEWEST
from fedrounds_common.metrics.summary import patient_weights
from fedrounds_common.rng import derive

MANY = 15
FORM = ("evaluation.resamples=40", "training.rounds=1")


def tally_of(answer: object) -> Any:
    assert isinstance(answer, Scores), answer
    return answer.tally


def guessed(seed: int, names: list[str]) -> Any:
    """The replicates' counts of cases, of whoever knows the study's seed, the site's name and the patients' names."""
    return patient_weights(names, 40, derive(seed, "bootstrap", "A")).sum(axis=0)


@pytest.mark.slow
def test_a_real_sites_draws_are_its_own_and_the_same_for_every_model(
    enrolled: Callable[..., Any], study_ask: Callable[..., Ask]
) -> None:
    ask = study_ask("score", 1, FORM, cohort="train")
    first, second = enrolled("one", cases_a_site=MANY), enrolled("two", cases_a_site=MANY)
    for site in (first, second):
        site.allow(ask)
    site, _ = open_enrolled(first.home, ask)
    names = [case.ref.patient for case in site.cases_behind(ask)]
    assert len(names) >= FEWEST
    seed = site.parts.study.seed

    def cases(tally: Any) -> Any:
        return tally["replicate_count"][:, -1, 0]  # of the mean's Dice, which every case has

    # without the secret, as in a simulation, what leaves can be guessed: this is what must not be
    np.testing.assert_array_equal(cases(judge(ask, replace(site, secret=b"")).tally), guessed(seed, names))
    sent = tally_of(first.answer(ask))
    assert np.abs(np.corrcoef(cases(sent), guessed(seed, names))[0, 1]) < 0.7
    assert not np.allclose(cases(sent), guessed(seed, names))
    assert cases(sent).mean() == pytest.approx(len(names), rel=0.2)
    changed = replace(ask, nonce="2", model="initial", arrays={name: a + 1 for name, a in ask.arrays.items()})
    other = tally_of(first.answer(changed))
    assert not np.allclose(other["sum"], sent["sum"])
    np.testing.assert_array_equal(cases(other), cases(sent), "the same patients for every model")
    assert not np.allclose(cases(tally_of(second.answer(ask))), cases(sent)), "and others at another site"


def test_a_site_of_few_patients_tells_multiples_of_its_sums(
    enrolled: Callable[..., Any], study_ask: Callable[..., Ask]
) -> None:
    site, ask = enrolled(), study_ask("score", 1, FORM, cohort="train")
    site.allow(ask)
    tally = tally_of(site.answer(ask))
    assert 1 < tally["cases"][0] < FEWEST
    times = tally["replicate_count"][:, -1, 0] / tally["cases"][0]
    np.testing.assert_allclose(tally["replicate_sum"], times[:, None, None] * tally["sum"])


def test_a_secret_is_of_its_site_and_purpose_and_wants_the_key(enrolled: Callable[..., Any]) -> None:
    one, two = enrolled("one").home, enrolled("two").home
    found = {secret_of(home, purpose) for home in (one, two) for purpose in ("replicates", "other")}
    assert [len(found), *map(len, found)] == [4, 32, 32, 32, 32]
    assert secret_of(one, "replicates") in found
    assert one.lineage_key.read_bytes() not in found
    one.lineage_key.unlink()
    with pytest.raises(UsageError, match="FR-C26"):
        secret_of(one, "replicates")
