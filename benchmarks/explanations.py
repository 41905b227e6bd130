"""Whether explanations of a classifier tell the truth: on simulated patients, where the tumour is known.

    python benchmarks/explanations.py [--images 200] [--out DIR] [--run RUN]

Trains `studies/phantom-classification.toml` to tell slices with a tumour from those without (RUN: a run of it that
is there already), and explains patients of another seed of the phantom: none of them, and none of their hospitals,
was ever trained on.

Peaks: in how many of the images with a tumour the peak of a method's map lies in it, beside chance (the tumour's
share of the head); and again with random weights, other ones for each image: a method that still finds it sees
what is bright in the image, whatever the network knows (Adebayo et al. 2018, arXiv:1810.03292).

Twins: how the predicted probability of a tumour changes when the same patient is scanned elsewhere, has a smaller
tumour, or none. Intervals are 95 %, patients resampled. The last column is how much another scanner changes the
answer, as a share of how much the tumour itself does.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from fedrounds.model import Model, open_model
from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_common.arrays import into_module
from fedrounds_common.case import F64, Case, CaseRef
from fedrounds_common.explaining import attribution
from fedrounds_common.rng import derive, generator, seeded
from fedrounds_server.release import read_model
from fedrounds_sites.phantom.twins import Twins
from fedrounds_sites.prepare import prepare
from fedrounds_sites.readers.phantom_glioma import PhantomGlioma
from fedrounds_sites.simulation import READERS

if TYPE_CHECKING:
    from torch import nn

STUDY = Path(__file__).parents[1] / "studies" / "phantom-classification.toml"
SETTINGS = (
    'cases.classes=["no_tumour", "tumour"]', 'evaluation.primary="auc"', "training.rounds=40",
    "training.local_steps=20", 'training.local_epochs="none"', 'simulation.baselines=["local-only", "local-only-long"]',
    "simulation.local_only_sites=4",
)  # fmt: skip
OTHER = 1_000  # added to the phantom's seed: other hospitals, other patients
TIMES = 3.0  # as often as chance is asked of a method
RESAMPLES = 2000
SMALLER = 0.6
REMOVED = "no tumour"


@dataclass(frozen=True)
class Share:
    """So many of `n` peaks lay in the tumour, where chance would put `chance` of them."""

    hits: int
    n: int
    chance: float

    @property
    def value(self) -> float:
        return self.hits / self.n

    @property
    def error(self) -> float:
        """The standard error that chance itself has over so many images."""
        return math.sqrt(self.chance * (1 - self.chance) / self.n)

    @property
    def at_chance(self) -> bool:
        return abs(self.value - self.chance) <= 2 * self.error

    def as_dict(self) -> dict[str, Any]:
        return {"hits": self.hits, "n": self.n, "share": self.value, "chance": self.chance, "error": self.error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    if options.run is None:
        made = simulate(STUDY, overrides=SETTINGS, runs=options.out / "runs")
        assert isinstance(made, Run)
        options.run = made.path
    model = open_model(options.run)
    reader = READERS.load(model.reader)
    if not isinstance(reader, PhantomGlioma):
        raise SystemExit("the run's cases are not of phantom_glioma: only there is it known where the tumour lies")
    reader = replace(reader, seed=reader.seed + OTHER)
    refs = with_tumour(reader, model, options.images)
    found = {"phantom": reader.version, "images": len(refs), "peaks": peaks(model, reader, refs)}
    found["twins"] = twins(model, reader, refs)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "explanations.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = table(found)
    (options.out / "explanations.md").write_text(text, encoding="utf-8")
    print(text)


def with_tumour(reader: PhantomGlioma, model: Model, count: int) -> list[CaseRef]:
    """Patients whose image shows a tumour, dealt over the hospitals, the same ones each time."""
    refs = list(reader.cases(model.study.cases))
    generator(reader.seed, "explanations").shuffle(refs)
    found: list[CaseRef] = []
    for ref in refs:
        labels = reader.load(ref, model.study.cases).labels
        if labels is not None and labels.any():
            found.append(ref)
        if len(found) == count:
            break
    return sorted(found)


def peaks(model: Model, reader: PhantomGlioma, refs: Sequence[CaseRef]) -> dict[str, dict[str, Any]]:
    """Method → shares of peaks in the tumour, trained and with random weights, and whether it passes both."""
    trained = model.module()
    chance: list[float] = []
    hits: dict[str, dict[str, int]] = {}
    for number, ref in enumerate(refs):
        case = prepare(reader.load(ref, model.study.cases), model.study.cases)
        tumour = _shown(case)
        chance.append(float(tumour.sum() / (case.image != 0).any(axis=0).sum()))
        for weights, network in (("trained", trained), ("random", _random(model, number))):
            for name, method in attribution.methods(network).items():
                counts = hits.setdefault(name, {"trained": 0, "random": 0})
                counts[weights] += bool(tumour[attribution.peak(method(network, case.image, _tumour(model)))])
    expected = float(np.mean(chance))
    result = {}
    for name, counts in hits.items():
        learned, blind = (Share(counts[weights], len(refs), expected) for weights in ("trained", "random"))
        result[name] = {
            "trained": learned.as_dict(), "random": blind.as_dict(),
            "times_chance": learned.value / expected, "passes": learned.value >= TIMES * expected and blind.at_chance,
        }  # fmt: skip
    return result


def twins(model: Model, reader: PhantomGlioma, refs: Sequence[CaseRef]) -> dict[str, dict[str, Any]]:
    """Model → what changes → mean change of the probability of a tumour, with its interval."""
    makers = _changes(Twins(reader, model.study.cases), reader, model)
    result: dict[str, dict[str, Any]] = {}
    for name, network in _models(model).items():
        changes: dict[str, list[float]] = {what: [] for what in makers}
        for ref in refs:
            before = _probability(model, network, reader.load(ref, model.study.cases))
            for what, make in makers.items():
                changes[what].append(_probability(model, network, make(ref)) - before)
        result[name] = {what: _interval(np.array(values)) for what, values in changes.items()}
    return result


def _changes(known: Twins, reader: PhantomGlioma, model: Model) -> Mapping[str, Callable[[CaseRef], Case]]:
    sites = sorted({str(ref.site) for ref in reader.cases(model.study.cases)})

    def elsewhere(ref: CaseRef) -> Case:
        others = [site for site in sites if site != ref.site]
        return known.scanned_at(ref, others[derive(reader.seed, "elsewhere", ref.name) % len(others)])

    return {
        "another scanner": elsewhere,
        f"tumour × {SMALLER:g}": lambda ref: known.resized(ref, SMALLER),
        REMOVED: known.without_tumour,
    }


def _models(model: Model) -> dict[str, nn.Module]:
    """The consensus, and each model of one hospital that the run trained beside it."""
    found = {"consensus": model.module()}
    assert model.run is not None
    for file in sorted((model.run / "baselines").glob("local-only*.safetensors")):
        network = model.parts.module()
        into_module(network, read_model(file, model.arrays))
        found[file.stem] = network.eval()
    return found


def _probability(model: Model, network: nn.Module, case: Case) -> float:
    study = model.study
    made = model.parts.task.predict(network, prepare(case, study.cases), study.cases, study.training, study.evaluation)
    return float(made.outputs[_tumour(model)])


def _tumour(model: Model) -> int:
    return model.study.cases.classes.index("tumour")


def _shown(case: Case) -> np.ndarray[Any, np.dtype[np.bool_]]:
    assert case.labels is not None
    return case.labels > 0


def _random(model: Model, number: int) -> nn.Module:
    with seeded(derive(number, "random weights")):
        return model.parts.task.network(model.parts.network, model.study.cases).eval()


def _interval(changes: F64) -> dict[str, float]:
    draws = generator(1, "twins").integers(0, len(changes), (RESAMPLES, len(changes)))
    low, high = np.percentile(changes[draws].mean(axis=1), (2.5, 97.5))
    size = float(np.abs(changes).mean())
    return {"mean": float(changes.mean()), "low": float(low), "high": float(high), "mean_size": size}


def table(found: Mapping[str, Any]) -> str:
    lines = [
        f"{found['images']} images with a tumour, {found['phantom']}", "",
        "| method | peaks in the tumour | chance | × chance | random weights | passes |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, one in found["peaks"].items():
        learned, blind = one["trained"], one["random"]
        lines.append(
            f"| {name} | {learned['share']:.3f} | {learned['chance']:.3f} | {one['times_chance']:.1f} "
            f"| {blind['share']:.3f} ± {2 * blind['error']:.3f} | {'yes' if one['passes'] else 'no'} |"
        )
    lines += ["", "| model | change | mean change of P(tumour) | 95 % | mean size | of the tumour's |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, changes in found["twins"].items():
        for what, one in changes.items():
            spread, share = f"[{one['low']:+.3f}, {one['high']:+.3f}]", one["mean_size"] / changes[REMOVED]["mean_size"]
            lines.append(f"| {name} | {what} | {one['mean']:+.3f} | {spread} | {one['mean_size']:.3f} | {share:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
