"""What a report must say whoever asks: what left the hospitals, how it was protected, what cannot be shown."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedrounds_common.metrics.hiding import FEWEST
from fedrounds_server.intervals import worth
from fedrounds_server.report import spent
from fedrounds_server.report.folder import RunView, table_of
from fedrounds_server.report.models import judged_cohort
from fedrounds_server.report.rounds import traffic
from fedrounds_server.report.style import count_of
from fedrounds_server.report.words import judged_consensus
from fedrounds_server.tables import (
    shown_bytes,
    shown_seconds,
)


def what_left(run: RunView) -> tuple[str, ...]:
    """What crossed the hospitals' boundary in bytes and kind."""
    sums = _sums_that_left(run)
    if not run.history:
        return ("No round was finished: no update left any hospital.", *sums)
    up, down = traffic(run.history)
    wire = table_of(run.study, "wire")
    codec, sent = (str(table.get("name", "float32")) for table in (wire, table_of(wire, "down")))
    updates = sum(site.bytes_up > 0 for line in run.history for site in line.sites)
    seconds = math.fsum(line.seconds for line in run.history)
    masked = table_of(wire, "channel").get("name", "plain") == "secure_sum"
    told = "" if run.study.get("privacy") or masked else ", and its mean loss"
    held = "under masks, as whole numbers, the" if masked else f"the {codec}"
    return (
        f"{count_of(updates, 'update')} left the hospitals in {count_of(len(run.history), 'round')}: {shown_bytes(up)} out and "
        f"{shown_bytes(down)} in, {shown_seconds(seconds)} in all. An update holds {held} differences of the network's weights from "
        f"the consensus as that hospital received it (in {sent}), its number of cases and steps{told}. Scores leave as sums over a "
        f"hospital's cases{_resampled(run)}. No image, no label, no score of a single case, no file name and no error text leaves.",
        *sums,
    )


def _resampled(run: RunView) -> str:
    """What leaves for intervals besides, as `metrics/hiding.py` of a real hospital makes it."""
    if not table_of(run.study, "evaluation").get("resamples", 200):
        return ""
    made = (
        "the study's seed, which hides nothing: nobody is kept out of a simulation"
        if rehearsed(run)
        else f"a secret of the hospital's and mixed, which tells of means and sums of products only, and of fewer than {FEWEST} "
        "patients nothing more"
    )
    return f" and, where intervals resample patients, over resamplings of them, drawn from {made}"


def _sums_that_left(run: RunView) -> tuple[str, ...]:
    """The statistics that the task asked for; nothing where it asked for none."""
    if not run.sums:
        return ()
    up, down = traffic(run.sums)
    answers = sum(site.state == "ok" for line in run.sums for site in line.sites)
    what = ", ".join(line.purpose for line in run.sums)
    return (
        f"{count_of(answers, 'answer')} with sums left the hospitals, for {what}: {shown_bytes(up)} out and {shown_bytes(down)} "
        "in. They are added over a hospital's cases, and no noise is in them: of a kind of case of which a hospital holds one, "
        "a sum is that case's own number.",
    )


def privacy(run: RunView) -> tuple[str, ...]:
    """Which protection the run had, in plain words; most have none."""
    tables = run.study.get("privacy") or ()
    names = [str(table.get("name", "?")) for table in tables if isinstance(table, Mapping)]
    table = table_of(table_of(run.study, "wire"), "channel")
    channel, fewest = str(table.get("name", "plain")), table.get("minimum", 3)
    noise = (
        f"Privacy measures of this study, in order: {', '.join(names)}."
        if names
        else "No differential privacy: nothing limits what an update or the consensus can reveal about single patients."
    )
    secure = (
        "No secure aggregation: the coordinator sees each hospital's update by itself."
        if channel == "plain"
        else f"Updates travel by {channel}: the coordinator sees only the sum of those of at least {fewest} hospitals, and cannot "
        "check a single hospital's update. Hospitals' counts of cases, times and scores are not in the sum: it sees each."
    )
    return (
        noise,
        *spent.told(run),
        secure,
        "Leaving the images at home is not anonymity: updates can leak training data to whoever sees them.",
    )


def rehearsed(run: RunView) -> bool:
    """One machine played all hospitals."""
    return table_of(run.record, "engine").get("name", "inline") in ("inline", "ray")


def limits(run: RunView) -> tuple[str, ...]:
    """What these numbers cannot carry."""
    texts = ["For research only. Not a medical device; not for diagnosis or treatment."]
    if run.phantom:
        texts.append(
            "Every number is a phantom number: it shows how the program behaves, not how a model does on patients."
        )
    if rehearsed(run):
        texts.append(
            "A simulation: one machine played the coordinator and all hospitals; nothing left any real hospital."
        )
    texts.append(
        "One run with one seed. Seeds and the last epoch's luck move such numbers: compare means over several seeds."
    )
    ours = judged_consensus(run)
    if ours is not None and worth(ours.hospitals):
        texts.append(worth(ours.hospitals))
    if run.unit != "patient":
        texts.append(f"Unit: {run.unit}. Several {run.unit}s of one patient may lie on both sides of a split.")
    texts.append("Each interval stands alone: they are not widened for the number of comparisons made.")
    if ours is not None and judged_cohort(run) != "held-out":
        texts.append("No hospital was held out: these numbers say nothing about a hospital that did not train.")
    return tuple(texts)
