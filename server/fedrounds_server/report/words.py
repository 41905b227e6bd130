"""What a report says in sentences: the result in short, how it ended, what left, and what it cannot show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedrounds_common.explain import explanations
from fedrounds_server.compare import OVER_CASES, Standing, standings
from fedrounds_server.intervals import worth
from fedrounds_server.report.folder import RunView, table_of
from fedrounds_server.report.hospitals import main_region
from fedrounds_server.report.models import judged_cohort, where
from fedrounds_server.report.results import (
    comparisons,
    gap_of,
    gap_sentence,
    intervals_are,
    margin_sentences,
    text_of,
    to_pooled,
)
from fedrounds_server.report.style import count_of
from fedrounds_server.tables import (
    ALL,
    COHORTS,
    MEAN,
    final_rows,
    shown,
    shown_seconds,
)

# the exit statuses of `fedrounds_common.errors`, as a reader of a report needs them
ENDS = {
    1: "a fault of this program",
    3: "the study file has faults",
    4: "the data could not be used",
    5: "this machine lacks something",
    6: "a fault of the network",
    7: "a hospital refused",
    8: "the privacy budget would be passed",
    9: "finished, but not with all hospitals, cases or models",
    10: "stopped by a limit",
    11: "fewer hospitals than the minimum: no consensus was made",
    130: "interrupted; a checkpoint was written",
}


def headline(run: RunView) -> str:
    return f"{run.study.get('name', run.name)}, run {run.name.split('-', 1)[0]}"


def ended(run: RunView) -> str:
    """ "8 hospitals planned, 7 finished, 1 failed; 4 rounds. Partial (exit 9: …)." """
    status = run.status
    state = str(status.get("state", "unknown"))
    parts = []
    if "planned" in status:
        failed = status.get("failed")
        count = len(failed) if isinstance(failed, Mapping) else 0
        parts.append(f"{status['planned']} hospitals planned, {status.get('finished', 0)} finished, {count} failed")
    if "rounds" in status:
        parts.append(count_of(int(status["rounds"]), "round"))
    code = status.get("exit")
    words = ENDS.get(code) if isinstance(code, int) else None
    how = (
        f"{state.capitalize()} (exit status {code}{': ' + words if words else ''})"
        if code is not None
        else state.capitalize()
    )
    return f"{how}. " + ("; ".join(parts) + "." if parts else "")


def took_part(run: RunView) -> str:
    """Whether everything planned was there; the tables below name what was not."""
    models = run.status.get("failed_models")
    lost = f" Not made: {', '.join(f'{name} ({state})' for name, state in sorted(models.items()))}." if models else ""
    held = "".join(f" {sentence}" for sentence in withheld(run))
    if run.status.get("failed") or run.status.get("left_out_cases"):
        return f"Not everything that was planned took part:{lost}{held}"
    if lost:
        return f"Every hospital finished, and no case was left out.{lost}{held}"
    if run.status.get("state") == "done":
        return f"Every hospital finished, and no case was left out.{held}"
    # the message may hold a path of the machine it was raised on; a report is sent around
    code = run.status.get("code")
    return "The run did not reach its end" + (f" ({code}: fedrounds explain {code} says why)." if code else ".")


def lacking(run: RunView) -> tuple[str, ...]:
    """What a run that ended as partial did without, a line each: hospitals, cases by code, models."""
    lines = [f"hospital {site}: {state}" for site, state in sorted(table_of(run.status, "failed").items())]
    by_code: dict[str, dict[str, int]] = {}
    for site, codes in table_of(run.status, "left_out_cases").items():
        for code, cases in codes.items() if isinstance(codes, Mapping) else ():
            by_code.setdefault(str(code), {})[str(site)] = int(cases)
    for code, sites in sorted(by_code.items()):
        known = explanations().get(code)
        why = f" ({known.title[:1].lower()}{known.title[1:]})" if known else ""
        places = ", ".join(f"{cases} of {site}" for site, cases in sorted(sites.items()))
        lines.append(f"{count_of(sum(sites.values()), 'case')} left out, {code}{why}: {places}")
    lines += [f"model {name}: {state}" for name, state in sorted(table_of(run.status, "failed_models").items())]
    return tuple(lines)


def withheld(run: RunView) -> tuple[str, ...]:
    """Whose scores are in no table, though the hospital took part."""
    sites = table_of(run.status, "withheld")
    if not sites:
        return ()
    named = ", ".join(f"{site} (withheld: {why})" for site, why in sorted(sites.items()))
    return (f"Not in the scores, by their own policy: {named}.",)


def in_short(run: RunView) -> tuple[str, ...]:
    """The result in a few sentences; says so where there is none."""
    ours = judged_consensus(run)
    if ours is None:
        return (_of_all_together(run) or f"No consensus was judged. {ended(run)}", *withheld(run))
    word, digits = run.word, run.digits
    mean = f"{text_of(ours.mean, digits)}" + (
        " (95 % interval, hospitals resampled)" if ours.mean.low == ours.mean.low else ""
    )
    phantom = "phantom " if run.phantom else ""
    cases = f"{ours.cases:,} {phantom}case" + ("" if ours.cases == 1 else "s")
    sentences = [
        f"{_place(ours, run)} ({count_of(ours.hospitals, 'hospital')}, {cases}) the consensus reached a mean {word} of {mean}.",
        *_verdicts(run),
    ]
    way = gap_of(run)
    if way is not None:
        sentences.append(gap_sentence(way, digits))
    sentences += margin_sentences(to_pooled(run), run.margin, digits)
    if ours.worst_site and ours.hospitals > 1:
        sentences.append(f"The worst hospital is {ours.worst_site} at {ours.worst:.{digits}f}.")
    elif not ours.worst_site:
        sentences.append("No hospital is called the worst: too few cases stand behind each.")
    failed = run.status.get("failed")
    if isinstance(failed, Mapping) and failed:
        sentences.append(
            f"Not all took part: {', '.join(f'{site} ({state})' for site, state in sorted(failed.items()))}."
        )
    sentences += withheld(run)
    sentences += [str(sentence) for sentence in run.status.get("network", ())]
    if ours.hospitals < 20 and worth(ours.hospitals):
        sentences.append(intervals_are(ours.hospitals, comparisons(run), run.unit))
    return tuple(sentences)


def _of_all_together(run: RunView) -> str:
    """The result where no hospital by itself has enough cases for the number, and all together have; "" of none."""
    cohort, region = judged_cohort(run), main_region(run)
    found = [
        row
        for row in final_rows(run.rows)
        if (row.model, row.site, row.cohort, row.region, row.metric) == ("consensus", ALL, cohort, region, run.metric)
        and not math.isnan(row.value)
    ]
    if not found:
        return ""
    cases = count_of(found[0].n, "phantom case" if run.phantom else "case")
    return (
        f"On {cases}, all those of {where(cohort)}, the consensus reached a {run.word} of "
        f"{shown(found[0].value, run.digits)}; no hospital by itself has enough cases for this number."
    )


def _place(ours: Standing, run: RunView) -> str:
    text = where(judged_cohort(run))
    return f"{'On' if 'cases' in text else 'At'} {text}"


def judged_consensus(run: RunView) -> Standing | None:
    every = standings(run.rows, run.metric, judged_cohort(run), run.seed, lower=run.lower, rankable=run.rankable)
    region = main_region(run)
    return next((one for one in every if one.label == "consensus" and one.region == region), None)


def _verdicts(run: RunView) -> list[str]:
    region = main_region(run)
    groups: dict[str, list[str]] = {}
    for one in comparisons(run):
        if one.other.region == region:
            groups.setdefault(one.verdict, []).append(run.called(one.other.label))
    words = {
        "shown: better": "It is shown to be better than",
        "not shown": "No difference is shown to",
        "shown: worse": "It is shown to be worse than",
        f"{OVER_CASES}better": "Over the cases of this one hospital it is better than",
        f"{OVER_CASES}not shown": "Over the cases of this one hospital no difference is shown to",
        f"{OVER_CASES}worse": "Over the cases of this one hospital it is worse than",
        "too few hospitals": "Too few hospitals to show a difference to",
    }
    return [f"{words[verdict]} {_and(groups[verdict])}." for verdict in words if verdict in groups]


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def facts(run: RunView) -> tuple[tuple[str, str], ...]:
    """What was asked, as pairs of a name and a value."""
    study, training = run.study, table_of(run.study, "training")
    trained = {site.site for line in (*run.history, *run.sums) for site in line.sites}
    sites = {row.site for row in run.rows if row.site != "all"} | trained
    amount = next(
        (
            f"{training[name]} {words}"
            for name, words in (("local_steps", "steps"), ("local_epochs", "epochs"))
            if training.get(name)
        ),
        "",
    )
    pairs = [
        ("Study", str(study.get("name", run.name))),
        (
            "Data",
            "phantom: simulated images, no patients" if run.phantom else str(run.record.get("data", "not stated")),
        ),
        ("Hospitals", f"{len(sites)}: {len(trained)} train, {len(run.held_out) or 'none'} held out"),
        ("Cases judged", _judged(run)),
        ("Unit of splits and intervals", run.unit),
        ("Task", _plug_in(study, "task")),
        ("Network", _plug_in(study, "model")),
        ("Strategy", _plug_in(study, "strategy")),
        (
            "Rounds",
            f"{training.get('rounds', len(run.history))}" + (f" of {amount} at each hospital" if amount else ""),
        ),
        ("Primary measure, named before the run", f"{run.word}, {_region_words(run)}"),
        ("Margin to pooled, named before the run", "" if run.margin is None else f"{run.margin:g}"),
        ("Seed", f"{run.seed}: one run; other seeds move every number"),
        ("Effort of the models beside it", str(run.record.get("effort", ""))),
    ]
    return tuple((name, value) for name, value in pairs if value)


def _plug_in(study: Mapping[str, Any], name: str) -> str:
    table = table_of(study, name)
    others = ", ".join(
        f"{key} {value}" for key, value in table.items() if key != "name" and not isinstance(value, Mapping)
    )
    return f"{table['name']} ({others})" if others and "name" in table else str(table.get("name", ""))


def _judged(run: RunView) -> str:
    last: dict[str, tuple[int, int]] = {}
    for row in run.rows:
        if (
            row.model == "consensus"
            and row.site == "all"
            and row.metric == run.metric
            and row.region == main_region(run)
        ):
            last[row.cohort] = max(last.get(row.cohort, (0, 0)), (row.round, row.n))
    return ", ".join(f"{last[cohort][1]:,} {cohort}" for cohort in COHORTS if cohort in last)


def _region_words(run: RunView) -> str:
    region = main_region(run)
    one, several = run.measures.parts
    return f"mean over the {several} of a case" if region == MEAN else f"{one} {region}"


def versions(run: RunView) -> tuple[tuple[str, str], ...]:
    """What ran, of which version, on what, and the digests that a second run must have."""
    record, study, engine = run.record, table_of(run.record, "study"), table_of(run.record, "engine")
    pairs = [
        ("study digest", study.get("digest")),
        ("consensus digest", run.status.get("consensus")),
        ("seed", run.seed),
        ("data", " ".join(str(record[name]) for name in ("data", "data_version") if record.get(name))),
        ("started", record.get("started")),
        ("took", _took(run)),
        ("engine", ", ".join(f"{name} {value}" for name, value in engine.items())),
        (
            "machine",
            ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in table_of(record, "machine").items()),
        ),
        (
            "code that is not fedrounds'",
            ", ".join(f"{name}: {value}" for name, value in table_of(record, "outside_code").items()),
        ),
        ("same bits", record.get("same_bits")),
    ]
    singles = [(name, str(value)) for name, value in pairs if value not in (None, "")]
    libraries = [(str(name), str(value)) for name, value in table_of(run.record, "versions").items()]
    return (*singles, *libraries)


def _took(run: RunView) -> str:
    seconds, sessions = run.status.get("seconds"), run.status.get("sessions", 1)
    if not isinstance(seconds, int | float):
        return ""
    return shown_seconds(seconds) + (f" in {sessions} sessions" if sessions != 1 else "")


def commands(run: RunView) -> tuple[tuple[str, str], ...]:
    """What to type, and what for."""
    return (
        (f"fedrounds runs verify {run.name}", "recompute every digest of the folder"),
        (f"fedrounds runs verify {run.name} --again", "run it again and compare the consensus"),
        (f"fedrounds evaluate {run.name} --data DIR", "judge this consensus on a folder it never saw"),
    )
