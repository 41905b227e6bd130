"""What a site says of itself: counts, and codes that are ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedrounds_client.rounds import greet
from fedrounds_common.errors import CaseError
from fedrounds_sites.hospitals import Opened


def test_a_made_up_code_of_a_reader_does_not_leave_with_the_counts(
    hospital_site: Callable[..., Any], ask_of: Callable[..., Any]
) -> None:
    site = hospital_site()
    left_out = {"1": CaseError("DOE^JANE", "x"), "2": CaseError("FR-D12", "x"), "3": CaseError("FR-D12", "x")}
    site.hospital._opened["all"] = Opened((), (), (), left_out)
    assert greet(ask_of(site, "hello", 0), site).left_out == {"FR-D12": 2, "FR-R01": 1}


def test_a_case_left_out_does_not_hold_what_was_read_of_it(hospital_site: Callable[..., Any]) -> None:
    site = hospital_site(corrupt="A")
    left_out = site.hospital.open_all().left_out
    assert left_out
    # a traceback holds every frame on the way, and each of them its arrays
    assert [error.__traceback__ for error in left_out.values()] == [None] * len(left_out)
