"""Whether a registration knows where it is wrong: on simulated pairs, whose true displacement is known.

    python benchmarks/registration_unsure.py [--pairs 96] [--out DIR] [--run RUN]

Trains `studies/phantom-registration.toml` (RUN: a run of it that is there already) and registers pairs of another seed
of the phantom: none of these patients, and none of their hospitals, was ever trained on.

Each map that might say where a displacement is unsure is held against the displacement's true error, place by place
in the head: rank correlation in each pair, then the mean over pairs; and how much larger the error is in the tenth of
the places that the map calls worst than in the tenth it calls best. The same with maps of networks with random
weights, other ones for each pair: a map that still finds the error knows it from the image, not from the network.
A map may be shipped (`Task.explain`) if it goes with the error, and with random weights no longer. Intervals are 95 %,
pairs resampled.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from fedrounds.model import Model, open_model
from fedrounds.run import Run
from fedrounds.series import simulate
from fedrounds_common.case import F32, F64, Case
from fedrounds_common.rng import derive, generator, seeded
from fedrounds_sites.prepare import prepare
from fedrounds_sites.readers.phantom_pairs import PhantomPairs
from fedrounds_sites.simulation import READERS

if TYPE_CHECKING:
    from torch import nn

STUDY = Path(__file__).parents[1] / "studies" / "phantom-registration.toml"
OTHER = 1_000  # added to the phantom's seed: other hospitals, other patients
RESAMPLES = 2000
PASSES, NOISE = 8, 0.1  # of noise, and its spread as a share of the image's
SHIPPED = "known shifts"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    if options.run is None:
        made = simulate(STUDY, runs=options.out / "runs")
        assert isinstance(made, Run)
        options.run = made.path
    model = open_model(options.run)
    found = measured(model, options.pairs)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "registration_unsure.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = table(found)
    (options.out / "registration_unsure.md").write_text(text, encoding="utf-8")
    print(text)


def measured(model: Model, count: int) -> dict[str, Any]:
    """Map → rank correlation with the error, trained and with random weights, and the error's ratio."""
    reader = READERS.load(model.reader)
    if not isinstance(reader, PhantomPairs):
        raise SystemExit("the run's cases are not of phantom_pairs: only there is the true displacement known")
    reader = replace(reader, seed=reader.seed + OTHER)
    refs = list(reader.cases(model.study.cases))
    generator(reader.seed, "unsure").shuffle(refs)
    values: dict[str, dict[str, list[float]]] = {}
    trained, errors = model.module(), []
    for number, ref in enumerate(refs[:count]):
        case = prepare(reader.load(ref, model.study.cases), model.study.cases)
        head = case.image[0] != case.image[0].flat[0]
        error = _error_mm(model, trained, case)[head]
        errors.append(float(error.mean()))
        blind = maps(model, _random(model, number), case)
        for name, heat in maps(model, trained, case).items():
            one = values.setdefault(name, {"trained": [], "random": [], "ratio": []})
            one["trained"].append(_rank_correlation(heat[head], error))
            one["random"].append(_rank_correlation(blind[name][head], error))
            one["ratio"].append(_worst_to_best(heat[head], error))
    result = {name: {what: _interval(np.array(each)) for what, each in one.items()} for name, one in values.items()}
    return {
        "phantom": reader.version,
        "pairs": len(errors),
        "error_mm": float(np.mean(errors)),
        "maps": {name: {**one, "passes": _passes(one)} for name, one in result.items()},
    }


def maps(model: Model, network: nn.Module, case: Case) -> dict[str, F32]:
    """What is shipped, and what might have been: how answers to noise differ, how far things move, and how the map
    stretches (the size of the logarithm of its Jacobian)."""
    import torch

    from fedrounds_common.registration import fields, world

    study = model.study
    why = model.parts.task.explain(network, case, study.cases, study.training, study.evaluation)
    assert why is not None
    there = _displacement_mm(model, network, case.image, case)
    rng = generator(derive(0, case.ref.name), "noise")
    spread = NOISE * float(case.image.std())
    noisy = [
        _displacement_mm(model, network, case.image + rng.normal(0, spread, case.image.shape).astype(np.float32), case)
        for _ in range(PASSES)
    ]
    stretch = fields.jacobian(torch.from_numpy(world.to_voxels(there, case.affine))[None])[0].numpy()
    return {
        SHIPPED: why.maps[SHIPPED](),
        "noise": np.asarray(np.sqrt(np.var(noisy, axis=0).sum(axis=0)), np.float32),
        "how far it moves": np.asarray(np.linalg.norm(there, axis=0), np.float32),
        "how it stretches": np.asarray(np.abs(np.log(np.clip(stretch, 1e-3, None))), np.float32),
    }


def _displacement_mm(model: Model, network: nn.Module, image: F32, case: Case) -> F32:
    study = model.study
    made = model.parts.task.predict(
        network, case.with_image(image, case.target), study.cases, study.training, study.evaluation
    )
    return made.outputs[: len(case.grid)]


def _error_mm(model: Model, network: nn.Module, case: Case) -> F32:
    assert case.target is not None
    assert case.target.field is not None
    wrong = _displacement_mm(model, network, case.image, case) - case.target.field
    return np.asarray(np.linalg.norm(wrong, axis=0), np.float32)


def _random(model: Model, number: int) -> nn.Module:
    """A network that moves things as it happens to: as they come, the last layers move nothing."""
    import torch

    with seeded(derive(number, "random weights")):
        network = model.parts.task.network(model.parts.network, model.study.cases).eval()
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.kaiming_normal_(parameter)
    return network


def _rank_correlation(one: F32, other: F32) -> float:
    """Spearman's; 0 of a map that is the same everywhere."""
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(one), rankdata(other)])
    return 0.0 if np.ptp(one) == 0 else float(np.corrcoef(ranks)[0, 1])


def _worst_to_best(heat: F32, error: F32) -> float:
    low, high = np.quantile(heat, (0.1, 0.9))
    return float(error[heat >= high].mean() / error[heat <= low].mean())


def _interval(values: F64) -> dict[str, float]:
    draws = generator(1, "unsure").integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), (2.5, 97.5))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def _passes(one: Mapping[str, Mapping[str, float]]) -> bool:
    """It goes with the error, and that of random weights does not."""
    return one["trained"]["low"] > 0 and one["random"]["low"] <= 0 <= one["random"]["high"]


def table(found: Mapping[str, Any]) -> str:
    lines = [
        f"{found['pairs']} pairs, {found['phantom']}; mean error {found['error_mm']:.2f} mm", "",
        "| map | rank correlation with the error | worst to best tenth | with random weights | passes |",
        "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, one in found["maps"].items():
        trained, blind, ratio = (
            f"{each['mean']:{sign}.2f} [{each['low']:{sign}.2f}, {each['high']:{sign}.2f}]"
            for each, sign in ((one["trained"], "+"), (one["random"], "+"), (one["ratio"], ""))
        )
        lines.append(f"| {name} | {trained} | {ratio} | {blind} | {'yes' if one['passes'] else 'no'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
