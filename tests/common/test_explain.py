"""Every error code is explained, however it is typed."""

from __future__ import annotations

import pytest

from fedrounds_common.errors import UsageError
from fedrounds_common.explain import explain, explanations


@pytest.mark.parametrize("typed", ["FR-S01", "fr-s01", "S01", "s1", " s-01 "])
def test_a_code_is_found_however_it_is_typed(typed: str) -> None:
    assert explain(typed).title == "The study file has faults"


def test_an_unknown_code_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="'FR-S99' is no error code; such as FR-S01; did you mean FR-S0"):
        explain("FR-S99")
    with pytest.raises(UsageError, match="lists them all"):
        explain("nonsense")


def test_every_explanation_is_sentences_on_one_line() -> None:
    for entry in explanations().values():
        for text in (entry.title, entry.why, entry.do):
            assert text
            assert "\n" not in text
        assert entry.why.endswith("."), entry.code
        assert entry.do.endswith("."), entry.code
