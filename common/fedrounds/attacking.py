"""`fedrounds attack`: our own attacks on a finished run, or on the noise of a study before anybody has said yes to it.

Who attacks is given more than anybody outside would have: the cases themselves, so that it can be counted how many are
found. That is why all but the audit of noise want a simulation, in which the hospitals' cases lie here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, final

from fedrounds.model import Model, open_model
from fedrounds.origin import has_origin, origin_of, refuse_real
from fedrounds_common.case import Case
from fedrounds_common.disk import write_json, write_whole
from fedrounds_common.errors import DataError, UsageError
from fedrounds_common.rng import derive
from fedrounds_common.study.parse import read_study
from fedrounds_common.study.study import Study
from fedrounds_server.plan import Listener, nobody
from fedrounds_sites.hospitals import open_hospital, read_rehearsal

FORMAT = 1
Kind = Literal["canaries", "membership", "inversion", "copies"]
AT_THE_HOSPITAL = "simulate the study; of its noise, `fedrounds attack STUDY canaries` tells at the hospital too"
FEW_OTHERS = 50  # validation cases below which those of held-out hospitals are asked too
DRAWS = 4  # training examples of a case whose mean loss is looked at, where examples are patches


@final
@dataclass(frozen=True)
class Settings:
    """`canaries` of an audit; `shadows`: models that LiRA trains, `steps` each (none: as many as a site took in all);
    `images` and `evaluations` of an inversion."""

    canaries: int = 1000
    shadows: int = 8
    steps: int | None = None
    images: int = 4
    evaluations: int = 1000


@final
@dataclass(frozen=True)
class Attacked:
    """`lines` for a person, `data` for a program; where it was written, and a picture if one was drawn."""

    title: str
    lines: tuple[str, ...]
    data: Mapping[str, Any]
    files: tuple[Path, ...] = field(default_factory=tuple)

    def text(self) -> str:
        written = [f"written to {file}" for file in self.files]
        return "\n".join([self.title, *(f"  {line}" for line in self.lines), *written])

    def as_dict(self) -> dict[str, Any]:
        return {"title": self.title, **self.data, "files": [str(file) for file in self.files]}


def attack(
    source: Path | str, kind: Kind, settings: Settings | None = None, plugins: Sequence[Path | str] = (),
    listen: Listener = nobody,
) -> Attacked:  # fmt: skip
    """Attack a run; or, with "canaries", a study file.

    Raises:
        UsageError: FR-U84 there is no noise to audit; FR-U85 nothing to tell apart; FR-U86 see `rebuilding`; FR-U87 the
            task makes no images. RunFileError: FR-F37 a run between hospitals, whose cases are not here.
    """
    path, how = Path(source), settings or Settings()
    if kind == "canaries":
        return _canaries(path, how, tuple(Path(folder) for folder in plugins))
    if path.is_file():
        raise UsageError("FR-U85", f"{path.name} is a file, and {kind} is about a run", wanted="a run of a simulation")
    refuse_real(path, f"{kind} needs its cases", do=AT_THE_HOSPITAL)
    kinds: dict[str, Callable[[Model, Path, Settings, Listener], Attacked]] = {
        "membership": _membership, "inversion": _inversion, "copies": _copies,
    }  # fmt: skip
    return kinds[kind](open_model(path, plugins=plugins), path, how, listen)


def _canaries(path: Path, how: Settings, plugins: tuple[Path, ...]) -> Attacked:
    from fedrounds_client.attacks.canaries import audit, claims

    study, folders = _study_of(path, plugins)
    found = claims(study.build_privacy(folders), study.training)
    if not found:
        raise UsageError(
            "FR-U84", f"{study.name} has no noise in its steps", wanted="dp_sgd in [[privacy]]",
            do="what a model without it tells: `fedrounds attack RUN membership`",
        )  # fmt: skip
    done = [audit(claim, how.canaries) for claim in found]
    lines = [line for each in done for line in each.text().splitlines()]
    data = [
        {
            "claimed": asdict(each.claim), "canaries": each.canaries, "put_in": each.put_in, "guesses": each.guesses.number,
            "right": each.right, "at_least": each.bound, "refuted": each.refuted, "most": each.most,
            "smallest_refuted": each.power.smallest,
        }
        for each in done
    ]  # fmt: skip
    return _written(path, "canaries", f"the noise of {study.name}, by canaries", lines, {"audits": data})


def _study_of(path: Path, plugins: tuple[Path, ...]) -> tuple[Study, tuple[Path, ...]]:
    if has_origin(path):
        origin = origin_of(path)
        return origin.study, (*plugins, *origin.plugins)
    return read_study(path, (), plugins).study, plugins


def _membership(model: Model, run: Path, how: Settings, listen: Listener) -> Attacked:
    from fedrounds_client.attacks import membership

    members, others, where = _both(run)
    if not members or len(others) < 2:
        raise UsageError(
            "FR-U85", f"{len(members)} cases that were trained on and {len(others)} that were not", wanted="some of both",
            do="set evaluation.local_validation, or hold a hospital out",
        )  # fmt: skip
    draws = 1 if model.study.training.patch is None else DRAWS
    cases = [*members, *others]
    attacked = membership.losses_of(model.parts, model.arrays, cases, draws)
    found = [membership.found("loss", -attacked[: len(members)], -attacked[len(members) :])]
    if how.shadows >= 2:
        start = open_model(run / "initial.safetensors").arrays
        taken, seen = membership.shadows(
            model.parts, start, cases, how.shadows, how.steps or _steps(model, run), draws,
            lambda number, of: listen("case", {"number": number, "of": of}),
        )  # fmt: skip
        score = membership.likelihood(taken, seen, membership.confidence(attacked))
        found.append(membership.found(f"LiRA, {how.shadows} models", score[: len(members)], score[len(members) :]))
    head = f"{len(members)} cases of {run.resolve().name} that were trained on, {len(others)} that were not ({where})"
    lines = [head, *(line for each in found for line in each.lines())]
    rows = [
        {
            "attack": each.name,
            "auc": each.area,
            "rates": [{**asdict(rate), "epsilon": rate.epsilon, "needed": rate.needed} for rate in each.rates],
        }
        for each in found
    ]
    return _written(run, "membership", f"membership in {model.name} of {run.resolve().name}", lines, {"attacks": rows})


def _steps(model: Model, run: Path) -> int:
    """As many as a site took in all rounds; of several the mean."""
    from fedrounds_client.training import steps_per_round

    training = model.study.training
    sizes = [len(open_hospital(run, name).open_all().training) for name in _training_sites(run)]
    return max(1, training.rounds * round(sum(steps_per_round(training, n) for n in sizes) / max(len(sizes), 1)))


def _training_sites(run: Path) -> list[str]:
    return [name for name, role in read_rehearsal(run / "rehearsal.json").sites.items() if role == "train"]


def _both(run: Path) -> tuple[list[Case], list[Case], str]:
    """Cases that were trained on; some that were not, of the same hospitals if there are enough; and where these are from."""
    members, others, held_out = list[Case](), list[Case](), list[Case]()
    for name in read_rehearsal(run / "rehearsal.json").sites:
        opened = open_hospital(run, name).open_all()
        members += opened.training
        others += opened.validation
        held_out += opened.held_out
    if len(others) >= FEW_OTHERS or not held_out:
        return members, others, "the same hospitals' validation cases"
    return members, [*others, *held_out], "also of held-out hospitals: what sets those apart may look like membership"


def _inversion(model: Model, run: Path, how: Settings, listen: Listener) -> Attacked:
    from fedrounds_client.attacks.drawing import sheet
    from fedrounds_client.attacks.inversion import Search
    from fedrounds_client.attacks.rebuilding import attempts
    from fedrounds_common.pictures import png_of

    sites = [open_hospital(run, name).open_all().training for name in _training_sites(run)]
    sites = [cases for cases in sites if cases]
    if not sites:
        raise DataError("FR-H01", "no site has a case to train on")
    start = open_model(run / "initial.safetensors").arrays
    made = attempts(model.parts, start, sites, Search(how.evaluations), how.images, lambda name: None)
    lines = [f"{each.name}: PSNR {each.psnr:.1f} dB, SSIM {each.ssim:.2f}" for each in made]
    rows = [{"update": each.name, "psnr": each.psnr, "ssim": each.ssim} for each in made]
    title = f"images of {_training_sites(run)[0]} rebuilt from its updates in round 1 of {run.resolve().name}"
    # images of a hospital's own: they stay where its pictures are
    picture = run / "sites" / _training_sites(run)[0] / "pictures" / "show-inversion.png"
    write_whole(picture, png_of(sheet(made)))
    done = _written(run, "inversion", title, lines, {"updates": rows})
    return Attacked(done.title, done.lines, done.data, (*done.files, picture))


def _copies(model: Model, run: Path, how: Settings, listen: Listener) -> Attacked:
    """What the run itself looks for in every judgement, of the consensus as it is now; it is the task's own count."""
    from fedrounds_client.scoring import score_cases
    from fedrounds_common.generative import copies
    from fedrounds_common.task import add_tallies

    parts, study, tallies = model.parts, model.study, []
    for name in _training_sites(run):
        opened = open_hospital(run, name).open_all()
        beside = parts.task.beside(opened.training, study.cases, derive(study.seed, "beside"))
        scores, _ = score_cases([model.arrays], opened.validation, parts, 0, beside)
        tallies.append(parts.task.tally(scores, study.cases, study.evaluation, 0))
    total = add_tallies(tallies)
    if not {"untrained", "trained"} <= set(total):
        raise UsageError(
            "FR-U87", f"{study.task['name']} makes no images from nothing", wanted="a run of a generator",
            do="`fedrounds attack RUN membership` asks what such a model remembers",
        )  # fmt: skip
    found, of = copies.memorised(total)
    judged = round(float(total["untrained"].sum()))
    lines = [f"{found} of {of} training cases lie far closer to a made image than cases do that nothing was trained on"]
    if not of:
        lines = [f"cannot be told: {judged} cases that nothing was trained on; {copies.FEWEST} of a kind are wanted"]
    data = {"memorised": found, "of": of, "untrained": judged}
    return _written(run, "copies", f"copies of patients among images of {run.resolve().name}", lines, data)


def _written(path: Path, kind: Kind, title: str, lines: Sequence[str], data: Mapping[str, Any]) -> Attacked:
    """In `attacks/KIND.json` of a run's folder; of a study file nothing is written."""
    files = [path / "attacks" / f"{kind}.json"] if path.is_dir() else []
    for file in files:
        made = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(file, {"format": FORMAT, "made": made, "fedrounds": version("fedrounds"), "title": title, **data})
    return Attacked(title, tuple(lines), data, tuple(files))
