"""A batch in two pieces: the same examples in the same order, the same steps, and weights that differ by rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedrounds_client.rounds import take_part
from fedrounds_client.site import Site
from fedrounds_common.leaving import Ask


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_two_pieces_train_as_one_does(
    hospital_site: Callable[..., Site], ask_of: Callable[..., Ask], batch: int
) -> None:
    site = hospital_site((f"training.batch={batch}", "training.local_steps=4", "training.optimiser=sgd"))
    ask = ask_of(site)
    whole, _ = take_part(ask, site)
    halves, _ = take_part(ask, replace(site, pieces=2))
    assert (whole.steps, whole.cases) == (halves.steps, halves.cases)
    assert halves.loss == pytest.approx(whole.loss, rel=1e-4)
    for name, array in whole.arrays.items():
        np.testing.assert_allclose(halves.arrays[name], array, rtol=1e-3, atol=1e-5)


def test_pieces_hold_every_example_once_and_are_smaller(
    hospital_site: Callable[..., Site], ask_of: Callable[..., Ask], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = hospital_site(("training.batch=3", "training.local_steps=1"))
    seen: list[Any] = []
    kind, loss = type(site.parts.task), type(site.parts.task).loss

    def watched(self: Any, network: Any, batch: Any, *rest: Any) -> Any:
        seen.append(batch.image.detach().numpy().copy())
        return loss(self, network, batch, *rest)

    monkeypatch.setattr(kind, "loss", watched)
    take_part(ask_of(site), site)
    take_part(ask_of(site), replace(site, pieces=2))
    assert [len(images) for images in seen] == [3, 2, 1]
    np.testing.assert_array_equal(np.concatenate(seen[1:]), seen[0])
