"""`fedrounds study check FILE --data`: read and prepare every case of every hospital, and train nothing.

What is printed names cases, so it is for the machine that holds them: all of a simulation's data, or
at a hospital its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, final

import numpy as np

from fedrounds.simulation import Prepared
from fedrounds_common.arrays import of_module
from fedrounds_common.case import CaseRef, Target
from fedrounds_common.errors import DONE, CaseError, DataError, to_keep
from fedrounds_common.study.tables import CaseForm
from fedrounds_server.plan import Listener, nobody
from fedrounds_sites.hospitals import Role, assign, leave_one_out
from fedrounds_sites.keeping import acquired
from fedrounds_sites.listing import passed_over_lines
from fedrounds_sites.prepare import prepare
from fedrounds_sites.reader import Reader
from fedrounds_sites.splits import SMALLEST


@final
@dataclass(frozen=True)
class Span:
    """Smallest and largest along each axis, over cases as acquired."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __str__(self) -> str:
        pairs = zip(self.low, self.high, strict=True)
        return " × ".join(f"{low:g}" if low == high else f"{low:g}–{high:g}" for low, high in pairs)


@final
@dataclass(frozen=True)
class SiteCheck:
    """One hospital. `holding`: region or class → usable cases that hold it or are of it; `empty`: cases of none.

    `shapes` (voxels) and `spacings_mm` are as acquired; None where no case can be used.
    """

    name: str
    role: Role
    cases: int
    patients: int
    bad: tuple[CaseError, ...]
    holding: Mapping[str, int]
    empty: int
    shapes: Span | None = None
    spacings_mm: Span | None = None
    orientations: tuple[str, ...] = ()

    @property
    def usable(self) -> int:
        return self.cases - len(self.bad)

    @property
    def codes(self) -> dict[str, int]:
        """Code → cases left out with it."""
        return dict(sorted(Counter(error.code for error in self.bad).items()))


@final
@dataclass(frozen=True)
class DataCheck:
    """What was found. `parameters` of the network; one entry a site, by name.

    `passed_over`: why a file belongs to no case → how many such files there are, and the names of a few.
    """

    parameters: int
    sites: tuple[SiteCheck, ...]
    passed_over: Mapping[str, int] = field(default_factory=dict)
    passed_over_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def bad(self) -> tuple[tuple[str, CaseError], ...]:
        """Site and error of every case that cannot be used."""
        return tuple((site.name, error) for site in self.sites for error in site.bad)

    @property
    def exit(self) -> int:
        return DataError.exit_status if self.bad else DONE

    def columns(self) -> tuple[str, ...]:
        names = self.sites[0].holding if self.sites else {}
        return ("site", "role", "cases", "usable", *names, *(("empty",) if names else ()), "voxels", "mm", "left out")

    def rows(self) -> tuple[tuple[str | int, ...], ...]:
        """A line a site; under each region or class, the cases that hold it or are of it."""
        return tuple(
            (site.name, site.role, site.cases, site.usable, *site.holding.values(),
             *((site.empty,) if site.holding else ()), str(site.shapes or "–"),
             str(site.spacings_mm or "–"), ", ".join(f"{cases} {code}" for code, cases in site.codes.items()))
            for site in self.sites
        )  # fmt: skip

    def advice(self) -> tuple[str, ...]:
        """What is no fault and may still not be meant."""
        small = [site.name for site in self.sites if site.role == "train" and site.patients < SMALLEST]
        said = []
        if small:
            said.append(f"fewer than {SMALLEST} patients, so nothing is kept to validate: {', '.join(small)}")
        names = self.sites[0].holding if self.sites else ()
        said += [f"no case holds {name}" for name in names if not any(site.holding[name] for site in self.sites)]
        said += passed_over_lines(self.passed_over, self.passed_over_names)
        turned = {code for site in self.sites for code in site.orientations}
        if len(turned) > 1:
            said.append(f"axes run differently ({', '.join(sorted(turned))}); they are turned to the study's")
        return tuple(said)

    def text(self) -> str:
        from fedrounds_server.report.table import Table, as_lines

        cases = sum(site.cases for site in self.sites)
        width = len(self.columns())
        rows = tuple(tuple(map(str, row)) for row in self.rows())
        table = Table(
            f"network: {self.parameters:,} parameters",
            self.columns(),
            rows,
            frozenset({0, 1, width - 3, width - 2, width - 1}),
        )
        tail = f"{len(self.bad)} of {cases} cases cannot be used" if self.bad else f"all {cases} cases can be used"
        lines = [*as_lines(table), *(f"advice: {text}" for text in self.advice())]
        return "\n".join([*lines, *(f"{site}: {error}" for site, error in self.bad), tail])

    def as_dict(self) -> dict[str, Any]:
        sites = [
            {
                "name": site.name, "role": site.role, "cases": site.cases, "usable": site.usable,
                "patients": site.patients, "left_out": site.codes, "holding": dict(site.holding), "empty": site.empty,
                "shapes": None if site.shapes is None else vars(site.shapes),
                "spacings_mm": None if site.spacings_mm is None else vars(site.spacings_mm),
                "orientations": list(site.orientations),
            }
            for site in self.sites
        ]  # fmt: skip
        bad = [{"site": site, "case": e.case, "code": e.code, "message": str(e)} for site, e in self.bad]
        return {
            "parameters": self.parameters,
            "sites": sites,
            "bad": bad,
            "passed_over": dict(self.passed_over),
            "passed_over_names": {why: list(names) for why, names in self.passed_over_names.items()},
            "advice": list(self.advice()),
            "exit": self.exit,
        }


def check_data(prepared: Prepared, listen: Listener = nobody) -> DataCheck:
    """Build the network, then read and prepare every case, one in memory at a time.

    Args:
        listen: called with "case" and its number, name, site and state after each case.

    Raises:
        DataError: the folder is missing or empty, or the cases cannot be dealt to the study's sites.
        UsageError: FR-U57 the network holds what cannot be sent.
    """
    network = prepared.parts.module()
    of_module(network)  # refuses what could not be sent
    parameters = sum(weights.numel() for weights in network.parameters())
    sites = assign(prepared.simulation, prepared.study, prepared.plugins)
    held_out = set(leave_one_out(prepared.study, tuple(sites)).cohort.held_out)
    reader = prepared.simulation.build_reader(prepared.plugins)
    total, numbers = sum(map(len, sites.values())), count(1)
    results: dict[str, list[_Seen | CaseError]] = {}
    for name, refs in sites.items():
        for ref in refs:
            found = _look(prepared, reader, name, ref)
            results.setdefault(name, []).append(found)
            state = f"error:{found.code}" if isinstance(found, CaseError) else "ok"
            listen("case", {"number": next(numbers), "of": total, "case": ref.name, "site": name, "state": state})
    counted = _counted(prepared.study.cases, [one for of in results.values() for one in of if isinstance(one, _Seen)])
    checks = tuple(
        _site(name, "held-out" if name in held_out else "train", refs, results.get(name, ()), counted)
        for name, refs in sites.items()
    )
    return DataCheck(parameters, checks, reader.passed_over, reader.passed_over_names)


@final
@dataclass(frozen=True)
class _Seen:
    shape: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    orientation: str
    holds: frozenset[str]
    labelled: bool


def _counted(form: CaseForm, seen: Sequence[_Seen]) -> tuple[str, ...]:
    """What cases are counted by: the regions where any case has labels, and the study's classes."""
    regions = tuple(form.scored) if any(case.labelled for case in seen) else ()
    return tuple(dict.fromkeys((*regions, *form.classes)))


def _look(prepared: Prepared, reader: Reader, site: str, ref: CaseRef) -> _Seen | CaseError:
    """What one case looks like, as its site would acquire it; or why it cannot be used."""
    study = prepared.study
    try:
        case = acquired(ref, reader, prepared.simulation, study, site)
        ready = prepare(case, study.cases)
        lacks = prepared.parts.task.lacks(ready, study.cases)
        if lacks:
            raise CaseError("FR-D04", f"an image without {lacks}", case=ref.name, wanted=f"{lacks} of the same case")
    except CaseError as error:
        return to_keep(error)
    target = ready.target or Target()
    values = set() if target.voxels is None else set(np.unique(target.voxels).tolist())
    holds = {region for region, members in study.cases.scored.items() if values & set(members)}
    holds |= {name for name, present in zip(study.cases.classes, _classes_of(target), strict=False) if present > 0}
    spacing = tuple(round(size, 3) for size in case.spacing_mm)
    turned = case.orientation if study.cases.dims == 3 else ""
    return _Seen(tuple(map(float, case.grid)), spacing, turned, frozenset(holds), target.voxels is not None)


def _classes_of(target: Target) -> Sequence[float]:
    return () if target.classes is None else [float(present) for present in target.classes]


def _site(
    name: str, role: Role, refs: Sequence[CaseRef], results: Sequence[_Seen | CaseError], counted: Sequence[str]
) -> SiteCheck:
    seen = [result for result in results if isinstance(result, _Seen)]
    return SiteCheck(
        name, role, len(refs), len({ref.patient for ref in refs}),
        tuple(result for result in results if isinstance(result, CaseError)),
        {each: sum(each in case.holds for case in seen) for each in counted},
        sum(not case.holds for case in seen) if counted else 0,
        _span([case.shape for case in seen]),
        _span([case.spacing_mm for case in seen]),
        tuple(sorted({case.orientation for case in seen if case.orientation})),
    )  # fmt: skip


def _span(sizes: Sequence[tuple[float, ...]]) -> Span | None:
    if not sizes:
        return None
    axes = list(zip(*sizes, strict=True))
    return Span(tuple(map(min, axes)), tuple(map(max, axes)))
