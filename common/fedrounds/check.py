"""Read every case of a study without training: what `fedrounds study check --data` finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from fedrounds_common.case import CaseRef
from fedrounds_common.errors import CaseError
from fedrounds_common.study.study import Study
from fedrounds_sites.hospitals import assign
from fedrounds_sites.prepare import prepare
from fedrounds_sites.reader import Reader
from fedrounds_sites.simulation import Simulation


@final
@dataclass(frozen=True)
class SiteCheck:
    name: str
    cases: int
    bad: tuple[CaseError, ...]


@final
@dataclass(frozen=True)
class DataCheck:
    """`parameters` of the network, trained or not; one entry a site, by name."""

    parameters: int
    sites: tuple[SiteCheck, ...]


def check_data(study: Study, simulation: Simulation, plugins: Sequence[Path] = ()) -> DataCheck:
    """Build the network, read and prepare every case.

    Raises:
        DataError: the folder cannot be used at all.
    """
    network = study.build_task(plugins).network(study.build_network(plugins), study.cases)
    parameters = sum(weights.numel() for weights in network.parameters())
    reader = simulation.build_reader(plugins)
    sites = assign(simulation, study, plugins)
    checks = [SiteCheck(name, len(refs), _bad(reader, refs, study)) for name, refs in sites.items()]
    return DataCheck(parameters, tuple(checks))


def _bad(reader: Reader, refs: Sequence[CaseRef], study: Study) -> tuple[CaseError, ...]:
    found: list[CaseError] = []
    for ref in refs:
        try:
            prepare(reader.load(ref, study.cases), study.cases)
        except CaseError as error:
            found.append(error)
    return tuple(found)
