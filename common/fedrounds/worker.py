"""What a simulation's worker does: a site's answer to a message, or a baseline's training and scoring.

`python -m fedrounds.worker RUN` reads jobs from stdin and writes results to stdout. It is the one place
beside `playing.py` where coordinator and hospital meet, and no part of it runs at a real hospital.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp

from fedrounds import baselines
from fedrounds.lazily import sites_lazily
from fedrounds_client.app import client_app
from fedrounds_client.permit import Permit
from fedrounds_client.rehearsed import open_rehearsed
from fedrounds_client.site import Parts, Site, parts_of_text
from fedrounds_common.disk import add_text
from fedrounds_common.errors import code_of
from fedrounds_common.leaving import Ask
from fedrounds_common.spans import begin_worker
from fedrounds_server.engines.inline import deliver
from fedrounds_server.engines.pool import Done, Handler, Job, serve
from fedrounds_sites.hospitals import open_hospital, read_rehearsal


def _memory_job(run: Path, parts: Parts, job: Job) -> Done:
    from fedrounds.on_ray import memory_job  # not at the top: it measures, and other engines do not

    return memory_job(run, parts, job)


BaselineJob = Callable[[Path, Parts, Job], Done]
JOBS: dict[str, BaselineJob] = {
    "train": baselines.train_job,
    "score": baselines.score_job,
    "floor": baselines.floor_job,
    "memory": _memory_job,
}


def handler(run: Path, parts: Parts | None = None) -> Handler:
    """Does the jobs of the run in that folder; `parts` are objects handed in from Python."""
    app = _app(run, parts)

    def handle(job: Job) -> Done:
        try:
            if job.kind == "message":
                return deliver(app, job)
            return JOBS[job.kind](run, parts or _parts(run), job)
        # SystemExit too: a plug-in that calls sys.exit must not take the others' work along
        except (Exception, SystemExit) as error:  # noqa: BLE001  (the pool must hear of every failure)
            _log(run, job, error)
            return Done({}, b"", code_of(error))

    return handle


def _parts(run: Path) -> Parts:
    rehearsal = read_rehearsal(run / "rehearsal.json")
    return parts_of_text(rehearsal.study_text, rehearsal.plugins, rehearsal.simulation.get("device", "cpu"))


def _app(run: Path, parts: Parts | None) -> ClientApp:
    def open_site(context: Context, ask: Ask) -> tuple[Site, Permit]:
        if parts is None:
            return open_rehearsed(context, ask)
        rehearsal = read_rehearsal(run / "rehearsal.json")
        name = str(context.node_config["site"])
        hospital = open_hospital(run, name)
        return Site(name, hospital.folder, hospital, parts), Permit(frozenset({rehearsal.study_digest}))

    return client_app(open_site)


def _log(run: Path, job: Job, error: BaseException) -> None:
    """What an error says may name a case, so it stands in its site's own log; of a job for several, where it was raised."""
    site = run / "sites" / job.lane
    if job.lane and site.is_dir():
        add_text(site / "log", f"{job.kind}\n{''.join(traceback.format_exception(error))}")
    else:
        frames = "".join(traceback.format_tb(error.__traceback__))
        add_text(run / "logs" / "log", f"{job.kind} {job.lane}: {code_of(error)} {type(error).__name__}\n{frames}")


def main(run: Path) -> None:
    """Serve until stdin closes."""
    # stdout carries the frames: whatever a library prints must not get between them
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    begin_worker()
    with sites_lazily(run, syncs=False):
        serve(stdin, stdout, handler(run))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
