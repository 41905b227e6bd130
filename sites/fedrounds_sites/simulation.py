"""The rehearsal half of a study, `[simulation]`: how one machine plays the hospitals.

It never travels and is no part of the study's digest; the coordinator's code never reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

from pydantic import ConfigDict, Field

from fedrounds_common.errors import Fault
from fedrounds_common.plugins import STRICT, Shelf, validate
from fedrounds_common.study.tables import Count, Table
from fedrounds_sites.partition import PARTITIONS, Partition
from fedrounds_sites.reader import Reader
from fedrounds_sites.unlike import Unlike

READERS: Shelf[Reader] = Shelf("readers", Reader)

Baseline = Literal["initial", "local-only", "local-only-long", "ensemble", "pooled", "floor"]


@final
@dataclass(frozen=True)
class RayCluster:
    """Of `engine = "ray"`, in `[simulation.ray]`. `address`: HOST:PORT of a running cluster's head, or "auto" on one of
    its machines; without it a Ray is started here and ended again. `cpus`: processors that one worker takes of its
    machine. `gpus`: share of a GPU that one worker takes; left out, where the cluster has GPUs, one client is measured
    first and as many share a GPU as fit."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    address: str = ""
    cpus: Annotated[float, Field(gt=0, le=1024)] = 1.0
    gpus: Annotated[float, Field(ge=0, le=64)] | None = None


@final
@dataclass(frozen=True)
class Simulation:
    """`engine`: "inline" plays the sites in this process or in worker processes of this machine, "ray" on Ray.
    `workers`: processes that train sites at once; 0 plays them all in this process, one after another, and on Ray
    means as many as fit.

    `local_only_sites`: how many of the largest training sites are also trained alone (0: all).
    `pictures`: how many of its worst cases each site draws. `report`: draw figures and write the page at the end. `unlike`: makes the sites' images differ.
    `initial_weights`: a file to start from, relative to the study file: a `consensus.safetensors`, other safetensors,
    or a state dict that torch saved. Its tensors are matched by name, `initial_names` says what its names begin with
    and what stands for it here; the last layers may be of other classes and are then drawn anew. `initial_adapt`:
    with "mean" a first convolution made for other channels is averaged over them.
    `cache`: a folder, relative to the study file, that keeps prepared cases from run to run; without it they are kept
    while a run lasts.
    `device`: where networks run: "cpu", the GPU ("cuda"), or "auto", a GPU where there is one. A GPU gives other bits.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    reader: Table = field(default_factory=lambda: {"name": "phantom_glioma"})
    partition: Table = field(default_factory=lambda: {"name": "natural"})
    unlike: Unlike | None = None
    engine: Literal["inline", "ray"] = "inline"
    ray: RayCluster = field(default_factory=RayCluster)
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    baselines: tuple[Baseline, ...] = ()
    local_only_sites: Annotated[int, Field(ge=0)] = 8
    ensemble: Count = 8
    pictures: Annotated[int, Field(ge=0)] = 1
    report: bool = True
    initial_weights: Path | None = None
    initial_names: dict[str, str] = field(default_factory=dict)
    initial_adapt: Literal["no", "mean"] = "no"
    cache: Path | None = None
    device: Literal["cpu", "cuda", "auto"] = "cpu"

    def build_reader(self, plugins: Sequence[Path] = ()) -> Reader:
        return READERS.load(self.reader, plugins)

    def build_partition(self, plugins: Sequence[Path] = ()) -> Partition:
        return PARTITIONS.load(self.partition, plugins)


def read_simulation(table: Table, folder: Path, plugins: Sequence[Path] = ()) -> tuple[Simulation | None, list[Fault]]:
    """Check the whole table; relative paths in it count from `folder`, where the study file lies.

    Returns:
        The rehearsal and no faults, or None and all of them, keys dotted from "simulation".
    """
    simulation, faults = validate(Simulation, table, "simulation")
    for name, shelf in (("reader", READERS), ("partition", PARTITIONS)):
        entry = table.get(name, {"name": "phantom_glioma" if name == "reader" else "natural"})
        if isinstance(entry, dict):
            faults += shelf.build(placed(entry, folder), f"simulation.{name}", plugins)[1]
    if simulation is None or faults:
        return None, faults
    weights, cache = simulation.initial_weights, simulation.cache
    return replace(
        simulation,
        reader=placed(simulation.reader, folder),
        partition=placed(simulation.partition, folder),
        initial_weights=None if weights is None else (folder / weights),
        cache=None if cache is None else (folder / cache.expanduser()).resolve(),
    ), []


def placed(table: Table, folder: Path) -> dict[str, Any]:
    """The plug-in's table with the paths in it made absolute."""
    found = dict(table)
    for key in ("root", "file", "key_file"):
        if key in table:
            found[key] = str((folder / Path(str(table[key])).expanduser()).resolve())
    return found
