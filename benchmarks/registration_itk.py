"""Classical registration with SimpleITK on the very pairs that a run was judged on, beside the run's own consensus.

    pip install SimpleITK            # no dependency of fedrounds: only this program wants it
    python benchmarks/registration_itk.py runs/0003-hippocampus-registration [--methods demons-1.0,field-cc] [--pairs 20]

Every method starts from the same affine map. The best deformable one is chosen in hindsight, over the judged pairs
themselves: a bound in its favour. All are scored by the run's own task, on the same grids, labels transferred alike.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedrounds.model import Model, open_model
from fedrounds_common.case import Case
from fedrounds_common.registration import scoring, world
from fedrounds_common.rng import derive, generator
from fedrounds_common.task import CaseScore
from fedrounds_sites.hospitals import open_hospital, read_rehearsal

try:
    import SimpleITK as sitk  # its own documentation calls it so
except ImportError:
    sys.exit("SimpleITK is not installed: pip install SimpleITK")

METRICS = ("dice", "hd95", "folded", "sdlogj")
RESAMPLES = 2000


def pairs_of(model: Model) -> Iterator[tuple[str, Case]]:
    """Site and pair, as the run judged them."""
    assert model.run is not None
    study, task = model.study, model.parts.task
    for site in read_rehearsal(model.run / "rehearsal.json").sites:
        hospital = open_hospital(model.run, site)
        for cohort in ("local-val", "held-out"):
            judged = task.judged(hospital.cohort(cohort), study.cases, derive(study.seed, "judged"))
            yield from ((site, pair) for pair in judged)


# ---------------------------------------------------------------- SimpleITK


def image_of(array: np.ndarray, case: Case) -> Any:
    """(*grid) as an image whose axes are the grid's, in mm."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T.astype(np.float32)))
    image.SetSpacing([float(size) for size in case.spacing_mm])
    return image


def displacement_of(transform: Any, like: Any, case: Case) -> np.ndarray:
    """(A, *grid), in voxels."""
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, like.GetSize(), like.GetOrigin(), like.GetSpacing(), like.GetDirection()
    )
    mm = np.moveaxis(sitk.GetArrayFromImage(field), -1, 0).transpose(0, *range(len(case.grid), 0, -1))
    spacing = np.array(case.spacing_mm).reshape(-1, *(1,) * len(case.grid))
    return np.ascontiguousarray(mm / spacing, np.float32)


def method(iterations: int, rate: float = 1.0, shrink: tuple[int, ...] = (2, 1)) -> Any:
    found = sitk.ImageRegistrationMethod()
    found.SetInterpolator(sitk.sitkLinear)
    found.SetShrinkFactorsPerLevel(list(shrink))
    found.SetSmoothingSigmasPerLevel([factor / 2 if factor > 1 else 0.0 for factor in shrink])
    found.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    found.SetOptimizerAsGradientDescent(rate, iterations, 1e-7, 10, found.EachIteration)
    return found


def affine(fixed: Any, moving: Any, metric: str = "mi") -> Any:
    """Rigid about the grids' centres, then affine."""
    dims = fixed.GetDimension()
    start = sitk.Euler3DTransform() if dims == 3 else sitk.Euler2DTransform()
    stage = sitk.CenteredTransformInitializer(fixed, moving, start, sitk.CenteredTransformInitializerFilter.GEOMETRY)
    whole = sitk.AffineTransform(dims)
    for number in range(2):
        run = method(200, shrink=(2, 1))
        run.SetOptimizerScalesFromPhysicalShift()
        if metric == "mi":
            run.SetMetricAsMattesMutualInformation(32)
        else:
            run.SetMetricAsCorrelation()
        if number == 0:
            run.SetInitialTransform(stage, inPlace=True)
            run.Execute(fixed, moving)
            rigid = sitk.Transform(stage).Downcast()
            rigid = (
                sitk.CompositeTransform(rigid).GetBackTransform() if rigid.GetName() == "CompositeTransform" else rigid
            )
            whole.SetMatrix(rigid.GetMatrix())
            whole.SetTranslation(rigid.GetTranslation())
            whole.SetCenter(rigid.GetCenter())
        else:
            run.SetInitialTransform(whole, inPlace=True)
            run.Execute(fixed, moving)
    return whole


def by_field(start: Any, fixed: Any, moving: Any, *, metric: str, update: float, total: float) -> Any:
    """Greedy steps of a whole displacement field, smoothed as it grows: the nearest that SimpleITK has to SyN."""
    warped = sitk.Resample(moving, fixed, start, sitk.sitkLinear, 0.0)
    field = sitk.TransformToDisplacementField(
        sitk.Transform(fixed.GetDimension(), sitk.sitkIdentity), sitk.sitkVectorFloat64,
        fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(), fixed.GetDirection(),
    )  # fmt: skip
    bend = sitk.DisplacementFieldTransform(field)
    bend.SetSmoothingGaussianOnUpdate(varianceForUpdateField=update, varianceForTotalField=total)
    run = method(100, rate=1.0)
    run.SetOptimizerScalesFromPhysicalShift()
    if metric == "cc":
        run.SetMetricAsANTSNeighborhoodCorrelation(3)
    elif metric == "mi":
        run.SetMetricAsMattesMutualInformation(32)
    else:
        run.SetMetricAsMeanSquares()
    run.SetInitialTransform(bend, inPlace=True)
    run.Execute(fixed, warped)
    return sitk.CompositeTransform([start, bend])


def by_bspline(start: Any, fixed: Any, moving: Any, *, metric: str, mm: float) -> Any:
    sizes = [size * step for size, step in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)]
    bend = sitk.BSplineTransformInitializer(fixed, [max(round(size / mm), 1) for size in sizes], order=3)
    run = sitk.ImageRegistrationMethod()
    run.SetInterpolator(sitk.sitkLinear)
    run.SetShrinkFactorsPerLevel([2, 1])
    run.SetSmoothingSigmasPerLevel([1.0, 0.0])
    if metric == "mi":
        run.SetMetricAsMattesMutualInformation(32)
    else:
        run.SetMetricAsCorrelation()
    run.SetMetricSamplingStrategy(run.RANDOM)
    run.SetMetricSamplingPercentage(0.2, seed=1)  # all voxels take two minutes a pair
    run.SetOptimizerAsLBFGSB(1e-5, 30, 5, 60, 1e7)
    run.SetMovingInitialTransform(start)
    run.SetInitialTransform(bend, inPlace=True)
    run.Execute(fixed, moving)
    return sitk.CompositeTransform([start, bend])


def by_demons(start: Any, fixed: Any, moving: Any, *, sigma: float, symmetric: bool) -> Any:
    warped = sitk.Resample(moving, fixed, start, sitk.sitkLinear, 0.0)
    warped = sitk.HistogramMatching(warped, fixed, 128, 7, False)
    field = None
    for factor, iterations in ((2, 60), (1, 60)):
        small = [
            sitk.BinShrink(each, [factor] * fixed.GetDimension()) if factor > 1 else each for each in (fixed, warped)
        ]
        run = (
            sitk.FastSymmetricForcesDemonsRegistrationFilter()
            if symmetric
            else sitk.DiffeomorphicDemonsRegistrationFilter()
        )
        run.SetNumberOfIterations(iterations)
        run.SetStandardDeviations(sigma)
        run.SmoothDisplacementFieldOn()
        if field is None:
            field = run.Execute(*small)
        else:
            field = run.Execute(*small, sitk.Resample(field, small[0]))
    return sitk.CompositeTransform([start, sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))])


Deformable = Callable[[Any, Any, Any], Any]


def deformables() -> dict[str, Deformable]:
    found: dict[str, Deformable] = {}
    for sigma in (0.7, 1.0, 1.5, 2.0):
        found[f"demons-{sigma}"] = lambda s, f, m, g=sigma: by_demons(s, f, m, sigma=g, symmetric=False)
    found["demons-symmetric-1.0"] = lambda s, f, m: by_demons(s, f, m, sigma=1.0, symmetric=True)
    found["demons-symmetric-1.5"] = lambda s, f, m: by_demons(s, f, m, sigma=1.5, symmetric=True)
    for metric in ("cc", "mi", "ms"):
        found[f"field-{metric}"] = lambda s, f, m, k=metric: by_field(s, f, m, metric=k, update=3.0, total=0.5)
    found["field-cc-stiff"] = lambda s, f, m: by_field(s, f, m, metric="cc", update=6.0, total=1.0)
    for mm in (12.0, 8.0):
        for metric in ("cor", "mi"):
            found[f"bspline-{metric}-{mm:g}"] = lambda s, f, m, k=metric, z=mm: by_bspline(s, f, m, metric=k, mm=z)
    return found


# ---------------------------------------------------------------- judging


def scored(model: Model, case: Case, displacement: np.ndarray) -> CaseScore:
    task, study = model.parts.task, model.study
    there, back = (world.to_mm(each, case.affine) for each in (displacement, scoring.inverted(displacement)))
    made = task.decide(np.concatenate([there, back]), case, study.cases)
    return task.score(made, case, study.cases, study.evaluation)


def registered(
    model: Model, others: list[Model], names: list[str], most: int
) -> tuple[dict[str, list[CaseScore]], dict[str, float]]:
    """Method → the score of each pair; and its seconds in all, the affine map's not counted again."""
    known = deformables()
    networks = {"consensus": model.module(), **{other.run.name: other.module() for other in others if other.run}}
    study, task = model.study, model.parts.task
    scores: dict[str, list[CaseScore]] = {}
    seconds: dict[str, float] = {}
    chosen = [pair for _, pair in pairs_of(model)]
    if most and most < len(chosen):
        chosen = [chosen[int(place)] for place in sorted(generator(1, "benchmark").permutation(len(chosen))[:most])]
    for number, case in enumerate(chosen, start=1):

        def note(name: str, begun: float, score: CaseScore, number: int = number) -> None:
            scores.setdefault(name, []).append(score)
            seconds[name] = seconds.get(name, 0.0) + time.process_time() - begun
            print(
                f"pair {number} of {len(chosen)}: {name}, {time.process_time() - begun:.1f} s",
                file=sys.stderr,
                flush=True,
            )

        begun = time.process_time()
        note("identity", begun, scored(model, case, np.zeros((len(case.grid), *case.grid), np.float32)))
        for name, network in networks.items():
            begun = time.process_time()
            made = task.predict(network, case, study.cases, study.training, study.evaluation)
            note(name, begun, task.score(made, case, study.cases, study.evaluation))
        fixed, moving = (image_of(image[0], case) for image in np.split(case.image, 2))
        starts = {}
        for metric in ("mi", "cor"):
            begun = time.process_time()
            starts[metric] = affine(fixed, moving, metric)
            note(f"affine-{metric}", begun, scored(model, case, displacement_of(starts[metric], fixed, case)))
        for name in names:
            begun = time.process_time()
            try:
                transform = known[name](starts["mi"], fixed, moving)
            except RuntimeError as error:  # SimpleITK says so when an optimiser leaves the image: its affine map stands
                print(f"{name} on pair {number}: {str(error).splitlines()[-1]}", file=sys.stderr)
                transform = starts["mi"]
            note(name, begun, scored(model, case, displacement_of(transform, fixed, case)))
    return scores, seconds


def paired(one: list[CaseScore], other: list[CaseScore], metric: str = "dice") -> tuple[float, float, float]:
    """Mean difference over pairs, with its interval: fixed patients resampled."""
    differences: dict[str, list[float]] = {}
    for a, b in zip(one, other, strict=True):
        differences.setdefault(a.patient, []).append(a.values["mean"][metric] - b.values["mean"][metric])
    groups = list(differences.values())
    draws = generator(1, "paired").integers(len(groups), size=(RESAMPLES, len(groups)))
    sums, counts = np.array([sum(group) for group in groups]), np.array([len(group) for group in groups])
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(sums.sum() / counts.sum()), float(low), float(high)


def table(scores: Mapping[str, list[CaseScore]], seconds: Mapping[str, float]) -> list[str]:
    lines = [f"{'':22}" + "".join(f"{metric:>10}" for metric in METRICS) + f"{'s a pair':>10}"]
    for name, found in scores.items():
        means = [float(np.nanmean([score.values["mean"][metric] for score in found])) for metric in METRICS]
        lines.append(f"{name:22}" + "".join(f"{mean:10.4f}" for mean in means) + f"{seconds[name] / len(found):10.2f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--methods", default=",".join(deformables()))
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="other runs of the same study and seed")
    parser.add_argument("--pairs", type=int, default=0, help="so many of them by lot; 0: all")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    names = [name for name in given.methods.split(",") if name]
    scores, seconds = registered(open_model(given.run), [open_model(run) for run in given.beside], names, given.pairs)
    pairs = len(scores["identity"])
    print(f"{pairs} pairs, SimpleITK {sitk.Version().VersionString()}")
    print("\n".join(table(scores, seconds)))

    def dice(name: str) -> float:
        return float(np.nanmean([score.values["mean"]["dice"] for score in scores[name]]))

    kinds = [("another run", [run.name]) for run in given.beside]
    for kind, names_of in (*kinds, ("best affine", ["affine-mi", "affine-cor"]), ("best deformable", names)):
        if names_of:
            best = max(names_of, key=dice)
            value, low, high = paired(scores["consensus"], scores[best])
            print(f"consensus − {kind} ({best}): {value:+.4f} [{low:+.4f}, {high:+.4f}] Dice")
    if given.json:
        says = {name: {score.case: dict(score.values["mean"]) for score in found} for name, found in scores.items()}
        given.json.write_text(json.dumps(says, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
