"""`fedrounds study check FILE --data`: read and prepare every case of every hospital, and train nothing.

What is printed names cases, so it is for the machine that holds them: all of a simulation's data, or
at a hospital its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from fedrounds.simulation import Prepared
from fedrounds_common.arrays import of_module
from fedrounds_common.case import CaseRef
from fedrounds_common.errors import DONE, CaseError, DataError, to_keep
from fedrounds_server.plan import Listener, nobody
from fedrounds_sites.hospitals import Role, acquired, assign, leave_one_out
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
    """One hospital. `holding`: region → usable cases whose reference holds it; `empty`: cases in which none is.

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
        regions = self.sites[0].holding if self.sites else ()
        return ("site", "role", "cases", "usable", *regions, "empty", "voxels", "mm", "left out")

    def rows(self) -> tuple[tuple[str | int, ...], ...]:
        """A line a site; under each region, the cases that hold it."""
        return tuple(
            (site.name, site.role, site.cases, site.usable, *site.holding.values(), site.empty, str(site.shapes or "–"),
             str(site.spacings_mm or "–"), ", ".join(f"{count} {code}" for code, count in site.codes.items()))
            for site in self.sites
        )  # fmt: skip

    def advice(self) -> tuple[str, ...]:
        """What is no fault and may still not be meant."""
        small = [site.name for site in self.sites if site.role == "train" and site.patients < SMALLEST]
        said = []
        if small:
            said.append(f"fewer than {SMALLEST} patients, so nothing is kept to validate: {', '.join(small)}")
        regions = self.sites[0].holding if self.sites else ()
        said += [f"no case holds {name}" for name in regions if not any(site.holding[name] for site in self.sites)]
        said += passed_over_lines(self.passed_over, self.passed_over_names)
        turned = {code for site in self.sites for code in site.orientations}
        if len(turned) > 1:
            said.append(f"axes run differently ({', '.join(sorted(turned))}); they are turned to the study's")
        return tuple(said)

    def text(self) -> str:
        from fedrounds_server.report.table import Table, as_lines

        cases = sum(site.cases for site in self.sites)
        count = len(self.columns())
        rows = tuple(tuple(map(str, row)) for row in self.rows())
        table = Table(
            f"network: {self.parameters:,} parameters",
            self.columns(),
            rows,
            frozenset({0, 1, count - 3, count - 2, count - 1}),
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
    total, checks = sum(map(len, sites.values())), list[SiteCheck]()
    for name, refs in sites.items():
        results: list[_Seen | CaseError] = []
        for number, ref in enumerate(refs, start=sum(check.cases for check in checks) + 1):
            results.append(_look(prepared, reader, name, ref))
            state = f"error:{results[-1].code}" if isinstance(results[-1], CaseError) else "ok"
            listen("case", {"number": number, "of": total, "case": ref.name, "site": name, "state": state})
        checks.append(_site(prepared, name, "held-out" if name in held_out else "train", refs, results))
    return DataCheck(parameters, tuple(checks), reader.passed_over, reader.passed_over_names)


@final
@dataclass(frozen=True)
class _Seen:
    shape: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    orientation: str
    regions: frozenset[str]


def _look(prepared: Prepared, reader: Reader, site: str, ref: CaseRef) -> _Seen | CaseError:
    """What one case looks like, as its site would acquire it; or why it cannot be used."""
    study = prepared.study
    try:
        case = acquired(ref, reader, prepared.simulation, study, site)
        target = prepare(case, study.cases).target
        if target is None:
            raise CaseError("FR-D04", "an image without a mask", case=ref.name, wanted="a mask of the same case")
    except CaseError as error:
        return to_keep(error)
    values = set() if target.voxels is None else set(np.unique(target.voxels).tolist())
    regions = frozenset(region for region, members in study.cases.scored.items() if values & set(members))
    spacing = tuple(round(size, 3) for size in case.spacing_mm)
    return _Seen(tuple(map(float, case.grid)), spacing, case.orientation if study.cases.dims == 3 else "", regions)


def _site(
    prepared: Prepared, name: str, role: Role, refs: Sequence[CaseRef], results: Sequence[_Seen | CaseError]
) -> SiteCheck:
    seen = [result for result in results if isinstance(result, _Seen)]
    regions = prepared.study.cases.scored
    return SiteCheck(
        name, role, len(refs), len({ref.patient for ref in refs}),
        tuple(result for result in results if isinstance(result, CaseError)),
        {region: sum(region in case.regions for case in seen) for region in regions},
        sum(not case.regions for case in seen),
        _span([case.shape for case in seen]),
        _span([case.spacing_mm for case in seen]),
        tuple(sorted({case.orientation for case in seen if case.orientation})),
    )  # fmt: skip


def _span(sizes: Sequence[tuple[float, ...]]) -> Span | None:
    if not sizes:
        return None
    axes = list(zip(*sizes, strict=True))
    return Span(tuple(map(min, axes)), tuple(map(max, axes)))
