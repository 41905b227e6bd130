"""`fedrounds show RUN --case NAME`: one case of a simulation, with its reference and what the consensus says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, final

from fedrounds.model import Model, open_model
from fedrounds.origin import refuse_real
from fedrounds.run import Run
from fedrounds.why import explained
from fedrounds_client.outside import judges_cases
from fedrounds_common.case import Case
from fedrounds_common.disk import write_whole
from fedrounds_common.errors import UsageError
from fedrounds_common.pictures import png_of, side_by_side
from fedrounds_common.rng import derive
from fedrounds_common.task import CaseScore, Picture
from fedrounds_server.measures import Measures
from fedrounds_server.tables import MISSING, shown
from fedrounds_sites.hospitals import open_hospital, read_rehearsal
from fedrounds_sites.prepare import prepare

AT_THE_HOSPITAL = "a hospital looks at its own case: `fedrounds predict MODEL -i FOLDER -o FOLDER --why all`"


@final
@dataclass(frozen=True)
class Shown:
    """A picture of one case and where it lies; `values` and `state` as in `CaseScore`, {} without a reference.

    Scores are on the prepared grid, as those of the run; `title` names channel, slice and sides.
    """

    path: Path
    site: str
    case: str
    role: str
    title: str
    panels: tuple[str, ...]
    values: Mapping[str, Mapping[str, float]]
    state: Mapping[str, str]
    measures: Measures

    def rows(self) -> tuple[tuple[str, ...], ...]:
        """Region, then each measure, then the state by the empty-mask rule; the mean of one region is not repeated."""
        metrics = self._metrics()
        return tuple(
            (region, *(self._cell(values, metric) for metric in metrics), self.state.get(region, ""))
            for region, values in self.values.items()
            if region in self.state or len(self.state) != 1
        )

    def columns(self) -> tuple[str, ...]:
        return (self.measures.parts[0], *map(self.measures.word, self._metrics()), "state")

    def _metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(metric for values in self.values.values() for metric in values))

    def _cell(self, values: Mapping[str, float], metric: str) -> str:
        return shown(values[metric], self.measures.digits(metric)) if metric in values else MISSING

    def text(self) -> str:
        from fedrounds_server.report.table import Table, as_lines

        head = f"{self.title}\n{self.site} ({self.role}): {self.path}"
        if not self.values:
            return head
        words = frozenset({0, len(self.columns()) - 1})
        return "\n".join([head, *as_lines(Table("scores of the consensus", self.columns(), self.rows(), words))])

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "site": self.site,
            "case": self.case,
            "role": self.role,
            "title": self.title,
            "panels": list(self.panels),
            "values": {region: dict(values) for region, values in self.values.items()},
            "state": dict(self.state),
        }


def show(
    run: Run | Path | str, case: str, site: str | None = None, out: Path | str | None = None, *, why: bool = False
) -> Shown:
    """Draw one case of a simulation at the site that holds it.

    Args:
        case: its name, as in `sites/SITE/cases.csv`.
        site: where to look; needed only if two sites have a case of that name.
        out: the PNG to write; otherwise `pictures/show-CASE.png` (or `why-CASE.png`) in the site's own folder.
        why: instead of reference and answer, draw what of the image the answer rests on, by each method that the
            task has; for segmentation where it is undecided.

    Raises:
        UsageError: no site, or more than one, holds such a case; FR-U82 the task explains nothing. CaseError: it cannot be read.
        RunFileError: the run has no consensus.
    """
    folder = run.path if isinstance(run, Run) else Path(run)
    model = open_model(folder)
    assert model.run is not None  # a folder was given
    if judges_cases(model.parts):
        holder, role = _holder(model.run, case, site)
        prepared = prepare(open_hospital(model.run, holder).original(case), model.study.cases)
    else:
        holder, role, prepared = _judged(model, model.run, case, site)
    picture, score = _drawn(model, prepared, why=why)
    pictures = open_hospital(model.run, holder).folder / "pictures"
    path = Path(out) if out is not None else pictures / f"{'why' if why else 'show'}-{case}.png"
    write_whole(path, png_of(side_by_side(picture)))
    return Shown(
        path, holder, case, role, picture.title, tuple(picture.panels),
        {} if score is None else score.values, {} if score is None else score.state, Measures.of(model.parts.task),
    )  # fmt: skip


def _holder(run: Path, case: str, site: str | None) -> tuple[str, str]:
    """The site that holds the case, and its role."""
    roles = _roles(run, site)
    names = {name: [ref.name for ref in open_hospital(run, name).refs] for name in roles}
    holder = _only(names, case, site)
    return holder, roles[holder]


def _judged(model: Model, run: Path, case: str, site: str | None) -> tuple[str, str, Case]:
    """The site that judges what is called so, its role, and that: of a task that judges pairs, a pair."""
    study, roles, found = model.study, _roles(run, site), dict[str, dict[str, Case]]()
    for name, role in roles.items():
        cohort = open_hospital(run, name).cohort("held-out" if role == "held-out" else "local-val")
        judged = model.parts.task.judged(cohort, study.cases, derive(study.seed, "judged"))
        found[name] = {each.ref.name: each for each in judged}
    holder = _only({name: list(cases) for name, cases in found.items()}, case, site)
    return holder, roles[holder], found[holder][case]


def _roles(run: Path, site: str | None) -> Mapping[str, str]:
    """The run's sites with their roles; only the one that is named, if one is."""
    refuse_real(run, "no case of it can be shown here", do=AT_THE_HOSPITAL)
    roles = read_rehearsal(run / "rehearsal.json").sites
    if site is not None and site not in roles:
        near = get_close_matches(site, roles, n=1)
        raise UsageError(
            "FR-U55", f"the run has no site {site!r}", do=f"did you mean {near[0]}?" if near else "see the run's sites/"
        )
    return {site: roles[site]} if site else roles


def _only(names: Mapping[str, Sequence[str]], case: str, site: str | None) -> str:
    """The one site with such a name."""
    holders = [name for name, cases in names.items() if case in cases]
    if len(holders) == 1:
        return holders[0]
    if holders:
        raise UsageError("FR-U55", f"{', '.join(holders)} each hold a case {case!r}", do="name the site")
    near = get_close_matches(case, [each for cases in names.values() for each in cases], n=1)
    raise UsageError(
        "FR-U55", f"{site or 'no site'} {'does not hold' if site else 'holds'} a case {case!r}",
        do=f"did you mean {near[0]}?" if near else "see cases.csv in the run's sites/",
    )  # fmt: skip


def _drawn(model: Model, case: Case, *, why: bool) -> tuple[Picture, CaseScore | None]:
    parts, study, network = model.parts, model.study, model.module()
    made = parts.task.predict(network, case, study.cases, study.training, study.evaluation)
    lacks = parts.task.lacks(case, study.cases)
    score = None if lacks else parts.task.score(made, case, study.cases, study.evaluation)
    return explained(model, network, case).picture if why else parts.task.picture(case, made, study.cases), score
