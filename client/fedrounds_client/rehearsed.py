"""A site of a simulation: one machine plays every hospital, each with its own folder and cases."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context

from fedrounds_client.permit import Permit
from fedrounds_client.site import Site, parts_of_text
from fedrounds_common.errors import UsageError
from fedrounds_common.leaving import Ask
from fedrounds_sites.hospitals import Rehearsal, open_hospital, read_rehearsal


def open_rehearsed(context: Context, ask: Ask) -> tuple[Site, Permit]:
    """The site this node plays: `site` of its node config, or the one at Flower's `partition-id`."""
    file = context.run_config.get("simulation") or context.node_config.get("simulation")
    if not file:
        raise UsageError("FR-U20", "no rehearsal to play in", do="start with `fedrounds simulate`, or set `simulation`")
    rehearsal = read_rehearsal(Path(str(file)))
    name = str(context.node_config.get("site") or _by_partition(context, rehearsal))
    return open_site(rehearsal, name, parts_text=ask.study), Permit(frozenset({rehearsal.study_digest}))


def open_site(rehearsal: Rehearsal, name: str, parts_text: str) -> Site:
    hospital = open_hospital(rehearsal.folder, name)
    return Site(
        name, hospital.folder, hospital, parts_of_text(parts_text, rehearsal.plugins, hospital.simulation.device)
    )


def _by_partition(context: Context, rehearsal: Rehearsal) -> str:
    names = sorted(rehearsal.sites)
    index = context.node_config.get("partition-id")
    if not isinstance(index, int) or not 0 <= index < len(names):
        raise UsageError("FR-U21", f"partition-id = {index!r}", wanted=f"0 to {len(names) - 1}")
    return names[index]
