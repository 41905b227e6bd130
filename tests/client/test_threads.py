"""A study's number of threads is what its sites train and judge with: other numbers give other bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from fedrounds_client.boundary import answer
from fedrounds_client.permit import Permit
from fedrounds_client.threads import threads
from fedrounds_common.study.canonical import digest
from fedrounds_common.tasks.segmentation import Segmentation


def test_threads_are_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_a_site_trains_and_judges_with_the_studys_threads(
    hospital_site: Callable[..., Any], ask_of: Callable[..., Any], monkeypatch: Any
) -> None:
    seen: dict[str, set[int]] = {"loss": set(), "predict": set()}
    for name, numbers in seen.items():
        own = getattr(Segmentation, name)

        def noting(self: Any, *given: Any, own: Any = own, numbers: set[int] = numbers) -> Any:
            numbers.add(torch.get_num_threads())
            return own(self, *given)

        monkeypatch.setattr(Segmentation, name, noting)
    site = hospital_site(("training.threads=2", "training.local_steps=1"))
    permit = Permit(frozenset({digest(site.parts.study)}))
    answer(ask_of(site), site, permit)
    answer(replace(ask_of(site, "score"), cohort="local-val"), site, permit)
    assert seen == {"loss": {2}, "predict": {2}}
