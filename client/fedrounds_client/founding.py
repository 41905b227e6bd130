"""A new site's `site.toml`: every value written out with what it means, so that nothing is allowed by silence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedrounds_client.home import SiteHome, create_home
from fedrounds_client.settings import FORMAT, settings_of
from fedrounds_common import shelves
from fedrounds_common.errors import StudyError
from fedrounds_common.study.canonical import toml_text
from fedrounds_common.study.overrides import override
from fedrounds_common.study.parse import leaves
from fedrounds_common.study.tables import Table

REMARKS = {
    "format": "of this file",
    "name": "as the study names this site",
    "plugins": "folders of this site's own readers and the like",
    "data.name": "the reader; `fedrounds list readers` shows them all",
    "data.root": "where the images are; a relative path counts from here",
    "data.only": "the reader's own group that this site is",
    "policy.tasks": "that a study may have",
    "policy.networks": "that a study may name",
    "policy.minimum_cases": "an answer that stands for fewer does not leave",
    "policy.minimum_privacy": 'whom a study must protect by noise: "patient", "hospital" or "none"',
    "policy.maximum_epsilon": 'over all rounds of a study; "none": no limit',
    "policy.budget_epsilon": 'over all studies together; "none": no limit',
    "policy.budget_delta": "at which that is counted",
    "policy.hours": "local time in which work is done",
    "policy.gpu": "number of the one that may be used",
    "policy.disk_gb": "of all runs together",
    "policy.rounds": "the most that can be allowed at once",
    "policy.days": "how long a permit lasts at most",
    "policy.outgoing": "kinds of answers that may leave",
    "machine.memory_gb": "of the process that trains; 0: no limit",
    "machine.network": 'of the process that trains: "none" or "host"',
    "machine.proxy": "on the way to the coordinator",
    "machine.cache": 'folder that keeps prepared images from run to run, for this account alone; "": none is kept',
}


def found(folder: Path, name: str, reader: str, settings: Sequence[str] = ()) -> SiteHome:
    """Make a site's folder, its keys and its site.toml.

    Args:
        settings: `key=value` each, over what is written by itself, e.g. data.root=/images.

    Raises:
        StudyError: the settings have faults, all at once; nothing is made. UsageError: a site is there already.
    """
    tables, _ = override(_tables(name, reader), settings)
    checked, faults = settings_of(tables, folder.resolve())
    if checked is None:
        raise StudyError(str(folder / "site.toml"), faults)
    remarks = {key: REMARKS.get(key, "of the reader") for key in leaves(tables)}
    return create_home(folder, toml_text(tables, remarks))


def _tables(name: str, reader: str) -> Table:
    return {
        "format": FORMAT,
        "name": name,
        "data": {"name": reader},
        "policy": {
            "tasks": list(shelves.TASKS.names()), "networks": list(shelves.NETWORKS.names()), "minimum_cases": 10,
            "minimum_privacy": "none", "maximum_epsilon": "none", "budget_epsilon": "none",
            "budget_delta": 1e-5, "hours": "00:00-24:00", "gpu": "none",
            "disk_gb": 50.0, "rounds": 100, "days": 90, "outgoing": ["hello", "update", "scores", "statistics"],
        },
        "machine": {"memory_gb": 0.0, "network": "none", "proxy": "", "cache": ""},
    }  # fmt: skip
