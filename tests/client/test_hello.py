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
