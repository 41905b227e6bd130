"""What an answer rests on, of a case that lies at hand: in a simulation, or at the hospital that holds the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, final

import numpy as np

from fedrounds.model import Model
from fedrounds_common.case import F32, Case
from fedrounds_common.errors import UsageError
from fedrounds_common.pictures import overlaid
from fedrounds_common.task import Picture
from fedrounds_common.written import ScalarImages, Written
from fedrounds_sites.prepare import restore

if TYPE_CHECKING:
    from torch import nn

ALL = "all"  # in place of a method's name


@final
@dataclass(frozen=True)
class Explained:
    """`maps`: method, as it is asked for, → (*prepared grid). `picture`: all of them over the prepared case."""

    maps: Mapping[str, F32]
    picture: Picture

    def files(self, prepared: Case, original: Case) -> Mapping[str, Written]:
        """The maps as files on the grid that the case was read from, 0 where nothing was looked at."""
        return {
            f"why/{method}": ScalarImages({"why": _on_own_grid(heat, prepared, original)}, "intensities")
            for method, heat in self.maps.items()
        }


def explained(model: Model, network: nn.Module, case: Case, methods: Sequence[str] = (ALL,)) -> Explained:
    """What of a prepared case the model's answer rests on, by each of these methods.

    Raises:
        UsageError: FR-U82 the task has no explanation of its answers; FR-U83 none of this name for this network.
    """
    study = model.study
    why = model.parts.task.explain(network, case, study.cases, study.training, study.evaluation)
    if why is None:
        raise UsageError("FR-U82", f"{study.task['name']} has no explanation", do="leave --why out")
    known = {said_as(name): name for name in why.maps}
    wanted = list(known) if ALL in methods else list(dict.fromkeys(map(said_as, methods)))
    for method in wanted:
        _refuse_unknown(method, known)
    maps = {method: why.maps[known[method]]() for method in wanted}
    drawn = {known[method]: heat for method, heat in maps.items()}
    return Explained(maps, overlaid(why.over, drawn, study.cases, why.says))


def said_as(method: str) -> str:
    """A method's name as it is typed and as its folder is called: "Grad-CAM" is "grad-cam"."""
    return method.strip().lower().replace(" ", "-")


def _refuse_unknown(method: str, known: Mapping[str, object]) -> None:
    if method in known:
        return
    near = get_close_matches(method, known, n=1)
    raise UsageError(
        "FR-U83", f"--why {method}", wanted=f"{', '.join(known)} (of this network), or {ALL}",
        do=f"did you mean {near[0]}?" if near else f"name one of them, or {ALL}",
    )  # fmt: skip


def _on_own_grid(heat: F32, prepared: Case, original: Case) -> F32:
    if prepared.grid == original.grid and np.array_equal(prepared.affine, original.affine):
        return heat
    brought: F32 = restore(heat[np.newaxis], prepared, original)[0]
    return brought
