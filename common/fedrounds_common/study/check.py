"""Tables to study: every fault at once, defaults filled in. Knows keys, not lines; trusts nothing it is given."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, final

from pydantic import Field

from fedrounds_common import shelves
from fedrounds_common.channel import Channel
from fedrounds_common.errors import Fault
from fedrounds_common.network import Network
from fedrounds_common.plugins import Shelf, choice_message, validate
from fedrounds_common.privacy import Privacy
from fedrounds_common.settling import purposes
from fedrounds_common.study.combinations import Uses, refusals
from fedrounds_common.study.study import DEFAULT_NAMES, FORMAT, WIRES, Study
from fedrounds_common.study.tables import CaseForm, Cohort, Evaluation, Name, Table, Training
from fedrounds_common.task import Task

T = TypeVar("T")
Measures = Mapping[str, Privacy]  # key of its entry, e.g. "privacy.0" → the measure

AGREED = (
    "format",
    "name",
    "seed",
    "task",
    "cases",
    "model",
    "training",
    "strategy",
    "privacy",
    "wire",
    "cohort",
    "evaluation",
)
REHEARSAL = "simulation"
# channels that the rounds send by; a study must not name one and be sent plainly all the same
CARRIED_OUT = ("plain", "secure_sum")


@final
@dataclass(frozen=True)
class _Head:
    name: Name
    format: int
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


@final
@dataclass
class _Gathering:
    """Collects faults while the parts are built, so that one fault never hides another."""

    raw: Table
    folders: Sequence[Path]
    faults: list[Fault] = field(default_factory=list)

    def table(self, key: str) -> Table:
        value = self.raw.get(key, {})
        if isinstance(value, dict):
            return value
        self.faults.append(Fault(key, f"{value!r}: must be a table, [{key}]"))
        return {}

    def part(self, kind: type[T], key: str) -> T | None:
        built, faults = validate(kind, self.table(key), key)
        self.faults += faults
        return built

    def plugin(self, shelf: Shelf[Any], table: Mapping[str, Any], key: str) -> tuple[Table, Any]:
        """The checked table with every field filled in, and the object it stands for."""
        named = {"name": DEFAULT_NAMES[key], **table} if key in DEFAULT_NAMES else dict(table)
        built, faults = shelf.build(named, key, self.folders)
        if built is not None:
            # once more with the defaults written in: they too must be what the fields say (1 becomes 1.0),
            # or the study would change on its way through the canonical text
            named = {"name": named["name"], **plain(built)}
            built, faults = shelf.build(named, key, self.folders)
        self.faults += faults
        return ({"name": named["name"], **plain(built)}, built) if built is not None else ({}, None)


def study_of(raw: Table, folders: Sequence[Path] = ()) -> tuple[Study | None, list[Fault]]:
    """Check the agreed half. `raw` may hold `[simulation]`, which is not looked at here.

    Returns:
        The study and no faults, or None and all of them, each with its dotted key and no line.
    """
    newer = _newer(raw.get("format"))
    if newer:
        return None, [newer]
    strange = list(impossible_values(raw, ""))
    gather = _Gathering(in_full(raw), folders)
    gather.faults += [Fault(key, _no_such_table(key)) for key in raw if key not in (*AGREED, REHEARSAL)]
    head, faults = validate(_Head, {key: raw[key] for key in ("name", "format", "seed") if key in raw}, "")
    gather.faults += [dataclasses.replace(fault, key=fault.key.removeprefix(".")) for fault in faults]
    gather.faults += _wrong_format(raw.get("format"))
    plugins, judge, measures, channel = _plugin_tables(gather)
    cases, training = gather.part(CaseForm, "cases"), gather.part(Training, "training")
    cohort, evaluation = gather.part(Cohort, "cohort"), gather.part(Evaluation, "evaluation")
    if cases is not None and training is not None:
        gather.faults += _of_dims(cases, "training.patch", training.patch)
    if channel is not None and cohort is not None:
        gather.faults += [Fault(key, message) for key, message in channel.around(cohort)]
    if cases is not None and evaluation is not None and not isinstance(evaluation.window, str):
        gather.faults += _of_dims(cases, "evaluation.window", evaluation.window)
    if judge is not None and evaluation is not None:
        gather.faults += _of_task(judge, plugins["task"]["name"], cases, training, evaluation)
    if judge is not None and training is not None and cohort is not None:
        gather.faults += _of_measures(measures, judge, training, cohort)
        gather.faults += _together(gather, plugins, judge, training, cohort, measures)
    # a value no table can hold is one fault, not also whatever the table made of it
    seen = {fault.key for fault in strange}
    faults = strange + [fault for fault in gather.faults if fault.key not in seen]
    if faults or head is None or cases is None or training is None or cohort is None or evaluation is None:
        return None, faults
    study = Study(head.name, **plugins, cases=_in_order(cases), training=_with_amount(training),
                  cohort=cohort, evaluation=evaluation, seed=head.seed)  # fmt: skip
    return study, []


def _plugin_tables(gather: _Gathering) -> tuple[dict[str, Any], Task | None, Measures, Channel | None]:
    judge: Task | None
    task, judge = gather.plugin(shelves.TASKS, gather.table("task"), "task")
    network: Network | None
    model, network = gather.plugin(shelves.NETWORKS, gather.table("model"), "model")
    if judge is not None and network is not None and network.makes not in judge.takes:
        gather.faults.append(_wrong_head(model["name"], network, task["name"], judge))
    channel: Channel | None
    strategy, _ = gather.plugin(shelves.STRATEGIES, gather.table("strategy"), "strategy")
    wire, channel = _wire(gather)
    if channel is not None and wire["channel"]["name"] not in CARRIED_OUT:
        carried = ", ".join(CARRIED_OUT)
        gather.faults.append(
            Fault("wire.channel.name", f"{wire['channel']['name']!r}: this version sends by {carried}")
        )
    privacy, measures = _privacy(gather)
    tables = {"task": task, "model": model, "strategy": strategy, "wire": wire, "privacy": privacy}
    return tables, judge, measures, channel


def _wire(gather: _Gathering) -> tuple[Table, Channel | None]:
    """`[wire]`: the codec of updates, and in it the tables of the consensus's codec and of the channel."""
    table = dict(gather.table("wire"))
    inner = {key: table.pop(key, {}) for key in WIRES}
    for key, found in inner.items():
        if not isinstance(found, dict):
            gather.faults.append(Fault(f"wire.{key}", f"{found!r}: must be a table, [wire.{key}]"))
            inner[key] = {}
    wire, _ = gather.plugin(shelves.CODECS, table, "wire")
    wire["down"], _ = gather.plugin(shelves.CODECS, inner["down"], "wire.down")
    wire["channel"], channel = gather.plugin(shelves.CHANNELS, inner["channel"], "wire.channel")
    return wire, channel


def _of_task(
    task: Task, name: str, form: CaseForm | None, training: Training | None, evaluation: Evaluation
) -> Iterator[Fault]:
    """What the task itself says of the study's other tables."""
    if evaluation.primary not in task.measures:
        found = choice_message(evaluation.primary, tuple(task.measures))
        yield Fault("evaluation.primary", f"{found}: what {name} measures")
    if training is not None and training.rounds == 0 and not purposes(task):
        yield Fault("training.rounds", f"0: nothing would be learned; {name} asks sites for no sums, so 1 or more")
    if form is not None and training is not None:
        yield from (Fault(key, message) for key, message in task.faults(form, training, evaluation))


def _wrong_head(model: str, network: Network, task: str, judge: Task) -> Fault:
    heads = {name: kind for name in shelves.NETWORKS.names() if (kind := shelves.NETWORKS.find(name).makes)}
    fitting = ", ".join(name for name, makes in heads.items() if makes in judge.takes) or "none of ours"
    wanted = " or ".join(judge.takes)
    return Fault("model.name", f"{model!r} makes {network.makes}, and {task} wants {wanted}: {fitting}")


def _privacy(gather: _Gathering) -> tuple[tuple[Table, ...], Measures]:
    entries = gather.raw.get("privacy", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        gather.faults.append(Fault("privacy", f"{entries!r}: must be a list of tables, [[privacy]]"))
        return (), {}
    tables, measures = [], {}
    for number, entry in enumerate(entries):
        table, measure = gather.plugin(shelves.PRIVACY, entry, f"privacy.{number}")
        tables.append(table)
        if measure is not None:
            measures[f"privacy.{number}"] = measure
    return tuple(tables), measures


def _of_measures(measures: Measures, task: Task, training: Training, cohort: Cohort) -> Iterator[Fault]:
    """What the study's privacy measures say of the rest of it, and which of them no round would carry out."""
    acting: dict[str, list[str]] = {}  # what is said by a measure → who says it
    for key, measure in measures.items():
        said = (*measure.faults(task, training), *measure.around(training, cohort))
        yield from (found := [Fault(_within(key, where), message) for where, message in said])
        if found:
            continue
        acts = (
            "how each step is taken" if measure.steps(training) is not None else "",
            "how each round's sum is made" if measure.sum(training, cohort) is not None else "",
            "whose scores are told" if measure.smallest() else "",
        )
        if not any(acts):  # to train without a plug-in of the user's own in silence would be a breach
            nothing = (
                f"{type(measure).__name__} does nothing in a step, and nothing else of what this version carries out"
            )
            yield Fault(f"{key}.name", f"{nothing}; take the entry out, and know what that means")
        for what in filter(None, acts):
            acting.setdefault(what, []).append(key)
    for what, keys in acting.items():
        for key in keys[1:]:
            yield Fault(f"{key}.name", f"{keys[0]} says already {what}; keep one of the two")


def _together(
    gather: _Gathering, tables: Table, task: Task, training: Training, cohort: Cohort, measures: Measures
) -> list[Fault]:
    """What does not go together, of a study whose parts are right by themselves; what a part says itself is said once."""
    if not all(tables[key] for key in ("strategy", "wire")) or not all(
        tables["wire"].get(key) for key in ("name", "channel")
    ):
        return []
    right = [each for each in measures.values() if not (*each.faults(task, training), *each.around(training, cohort))]
    strategy = shelves.STRATEGIES.load(tables["strategy"], gather.folders)
    codec = shelves.CODECS.load({key: each for key, each in tables["wire"].items() if key not in WIRES}, gather.folders)
    channel = shelves.CHANNELS.load(tables["wire"]["channel"], gather.folders)
    steps = next((each for measure in right if (each := measure.steps(training)) is not None), None)
    sums = next((how for measure in right if (how := measure.sum(training, cohort)) is not None), None)
    said_already = {fault.key for fault in gather.faults}
    pairs = refusals(Uses(task, strategy, codec, channel, training, cohort, steps, sums))
    return [fault for fault in pairs if fault.key not in said_already]


def _within(key: str, where: str) -> str:
    return f"{key}{where}" if where.startswith(".") else where


def _of_dims(cases: CaseForm, key: str, sizes: Sequence[int] | None) -> Iterator[Fault]:
    if sizes is not None and len(sizes) != cases.dims:
        wanted = f"{cases.dims} numbers wanted, as cases.dims = {cases.dims}"
        yield Fault(key, f"{list(sizes)}: {wanted}")


def _newer(found: object) -> Fault | None:
    if isinstance(found, int) and not isinstance(found, bool) and found > FORMAT:
        return Fault("format", f"{found} is newer than {FORMAT}, the newest this fedrounds reads; update fedrounds")
    return None


def _wrong_format(found: object) -> list[Fault]:
    if isinstance(found, int) and not isinstance(found, bool) and found < FORMAT:
        return [Fault("format", f"{found}: there is no such format; write format = {FORMAT}")]
    return []


def _no_such_table(key: str) -> str:
    near = get_close_matches(key, (*AGREED, REHEARSAL), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join((*AGREED, REHEARSAL))}"
    return f"there is no such table or key{hint}"


def in_full(raw: Table) -> Table:
    """`strategy = "fedprox"` is short for a table that holds the name only; this writes it in full."""
    full = _named(raw, ("task", "model", "strategy", "wire"))
    for key, inner in (("wire", WIRES), (REHEARSAL, ("reader", "partition"))):
        if isinstance(full.get(key), dict):
            full[key] = _named(full[key], inner)
    return full


def _named(table: Table, keys: Sequence[str]) -> Table:
    return {key: {"name": value} if key in keys and isinstance(value, str) else value for key, value in table.items()}


def impossible_values(value: object, key: str) -> Iterator[Fault]:
    """TOML can say things that no study means: nan, inf, dates, integers past 64 bits."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from impossible_values(entry, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from impossible_values(entry, f"{key}.{number}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield Fault(key, f"{value}: a finite number is wanted")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield Fault(key, "an integer past 64 bits: smaller is wanted")
    elif value is None:  # JSON has it, TOML has not
        yield Fault(key, "null: a value is wanted")
    elif not isinstance(value, str | int | float | bool):
        yield Fault(key, f"{value}: a date or time has no use here; as text, put it in quotes")


def plain(part: Any) -> Table:
    """A dataclass as the TOML table that would make it again: tuples are lists, None is left out or "none"."""
    fields = (entry for entry in dataclasses.fields(part) if entry.init)
    return {entry.name: _plain(value) for entry in fields
            if (value := _said(entry, getattr(part, entry.name))) is not None}  # fmt: skip


def _said(entry: dataclasses.Field[Any], value: object) -> object:
    return "none" if value is None and entry.default is not None else value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return plain(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool) else str(value)


def _in_order(cases: CaseForm) -> CaseForm:
    # the canonical text has sorted keys: a study must mean the same before and after it travelled
    labels = dict(sorted(cases.labels.items(), key=lambda item: item[1]))
    return dataclasses.replace(cases, labels=labels, regions=dict(sorted(cases.regions.items())))


def _with_amount(training: Training) -> Training:
    if training.local_steps is None and training.local_epochs is None:
        return dataclasses.replace(training, local_epochs=1.0)
    return training
