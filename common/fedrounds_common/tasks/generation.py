"""Generation of images, 2D and 3D: from nothing but noise and what is wanted, or from other channels of the case."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from fedrounds_common.arrays import Arrays
from fedrounds_common.augment import augment
from fedrounds_common.case import F32, F64, Case, CaseRef, Cases
from fedrounds_common.errors import UsageError
from fedrounds_common.generative import conditions, copies, grids, likeness, quality, shipped, translating
from fedrounds_common.metrics import summary
from fedrounds_common.network import Makes
from fedrounds_common.rng import derive, generator
from fedrounds_common.study.tables import CaseForm, Count, Evaluation, Name, Training
from fedrounds_common.task import Batch, CaseScore, Example, Measure, Metric, Picture, Prediction, Tally, Task
from fedrounds_common.written import ScalarImages, Written

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedrounds_common.generative.maker import Settings
    from fedrounds_common.network import Network

TRAINED = "(trained)"  # in place of the site's name, which can hold no bracket
TRANSLATED = ("mae", "psnr", "ssim")
MOST_TRAINED = 400  # training cases of a site that are looked through for copies
PUBLIC = 0  # the seed of every image that is made to be judged: who has the model can make the same
NOTHING = np.zeros(0, np.uint8)

Weight = Annotated[float, Field(ge=0)]


def _digest_of_features() -> str:
    return shipped.digest()


@final
@dataclass(frozen=True)
class Generation(Task):
    """`method`: which kind of model, and with it which networks: image_gan, image_vae, image_diffusion, or of
    "translation" any that makes maps.

    `by`: what is wanted of an image: one of the study's `classes`, a label map (`labels`), or `nothing`. `source`,
    `target`: of a translation, the channels that are given and made; `low`, `high`: the target's range in its own
    units as prepared, e.g. -1000 and 2000 HU. Images that are not translated lie between 0 and 1.
    `penalty`: of the discriminator's slope. `divergence`: of a vae's codes from the standard normal; 0 is an
    autoencoder. `adversarial`: weight of a discriminator beside the error, of a vae or a translation. `stays`: the
    discriminator is federated too, or each site keeps its own, and nothing of it leaves.
    `levels`: of noise, and `steps` in which a diffusion model goes through them for an image.
    `pool`: images that everybody makes of a model, and in which copies of training cases are sought.
    `features`: the digest of the network whose features distances are measured in, as fedrounds ships it.
    """

    measures: ClassVar[Mapping[str, Measure]] = {
        "fid": Measure("FID", lower_is_better=True, brief=True),
        "fid_floor": Measure("FID of real images", lower_is_better=True, brief=True),
        "fid_blurred": Measure("FID of blurred images", lower_is_better=True, brief=True),
        "mmd": Measure("MMD", lower_is_better=True, digits=4),
        "mmd_floor": Measure("MMD of real images", lower_is_better=True, digits=4),
        "mmd_blurred": Measure("MMD of blurred images", lower_is_better=True, digits=4),
        "precision": Measure("Precision (within sites)"),
        "recall": Measure("Recall (within sites)"),
        "nearest": Measure("Distance to the nearest made image", digits=3),
        "nearest_trained": Measure("The same, of training cases", digits=3),
        "memorised": Measure("Memorised training cases", lower_is_better=True, digits=0, brief=True),
        "mae": Measure("MAE", lower_is_better=True, brief=True),
        "psnr": Measure("PSNR (dB)", digits=1, brief=True),
        "ssim": Measure("SSIM", brief=True),
    }
    parts: ClassVar[tuple[str, str]] = ("image", "images")
    counts: ClassVar[tuple[str, str, str]] = ("untrained", "trained", "memorised")
    takes: ClassVar[tuple[Makes, ...]] = ("images", "maps")

    method: Literal["gan", "vae", "diffusion", "translation"] = "gan"
    by: Literal["classes", "labels", "nothing"] = "nothing"
    source: tuple[Name, ...] = ()
    target: tuple[Name, ...] = ()
    low: float = 0.0
    high: float = 1.0
    penalty: Weight = 1.0
    divergence: Weight = 0.1
    adversarial: Weight = 0.0
    stays: Literal["nothing", "discriminator"] = "nothing"
    levels: Count = 1000
    steps: Count = 25
    pool: Count = 128
    features: Name = field(default_factory=_digest_of_features)

    @property
    def turns(self) -> tuple[str, ...]:
        return ("discriminator", "generator") if self._plays else ("",)

    @property
    def after(self) -> tuple[str, ...]:
        """Where an autoencoder's codes lie, over all sites: images are drawn from there."""
        return ("codes",) if self.method == "vae" else ()

    @property
    def _plays(self) -> bool:
        """Whether there is a discriminator."""
        return self.method == "gan" or (self.method != "diffusion" and self.adversarial > 0)

    @property
    def _translates(self) -> bool:
        return self.method == "translation"

    def faults(self, form: CaseForm, training: Training, evaluation: Evaluation) -> Sequence[tuple[str, str]]:
        found = self._faults_of_translation(form) if self._translates else self._faults_of_generation(form)
        if self.stays == "discriminator" and not self._plays:
            found.append(("task.stays", f"'discriminator': {self.method} has none, unless adversarial is above 0"))
        if self.features != shipped.digest():
            wanted = f"this fedrounds judges by {shipped.digest()}"
            found.append(("task.features", f"{self.features}: {wanted}; leave it out, or take the release that has it"))
        own = TRANSLATED if self._translates else tuple(name for name in self.measures if name not in TRANSLATED)
        if evaluation.primary in self.measures and evaluation.primary not in own:
            found.append(
                ("evaluation.primary", f"{evaluation.primary!r}: of {self.method}, {', '.join(own)} are measured")
            )
        return found

    def _faults_of_generation(self, form: CaseForm) -> list[tuple[str, str]]:
        found = []
        if form.intensity not in ("percentile", "unit"):
            found.append(
                ("cases.intensity", f"{form.intensity!r}: 'percentile' or 'unit' is wanted, for images from 0 to 1")
            )
        if self.by == "classes" and not form.classes:
            found.append(("task.by", "'classes': the study names none in cases.classes"))
        if self.source or self.target:
            found.append(("task.source", f"{self.method} makes all channels: source and target are a translation's"))
        return found

    def _faults_of_translation(self, form: CaseForm) -> list[tuple[str, str]]:
        found = []
        for key, names in (("source", self.source), ("target", self.target)):
            unknown = sorted(set(names) - set(form.channels))
            if unknown or not names:
                found.append(
                    (f"task.{key}", f"{list(names)}: names of channels are wanted ({', '.join(form.channels)})")
                )
        if both := sorted(set(self.source) & set(self.target)):
            found.append(("task.target", f"{', '.join(both)}: given already, as source"))
        if self.high <= self.low:
            found.append(("task.high", f"{self.high:g}: above low = {self.low:g} is wanted"))
        if self.by != "nothing":
            found.append(("task.by", f"{self.by!r}: what a translation shows, its source says"))
        return found

    def network(self, network: Network, form: CaseForm) -> nn.Module:
        """As many channels as the images have, and as say what is wanted of them.

        Raises:
            UsageError: FR-U78 the network makes something else than this method needs.
        """
        from fedrounds_common import windows
        from fedrounds_common.generative.maker import Maker
        from fedrounds_common.generative.translation import Translator

        if self._translates:
            self._refuse(network, network.makes == "maps", "a network that makes maps, e.g. tiny_unet")
            inner = network.build(form.dims, len(self.source), len(self.target))
            module: nn.Module = Translator(
                form.dims, inner, len(self.source), len(self.target), judged=self.adversarial > 0
            )
        else:
            wanted = f"a network of that kind: image_{self.method}"
            self._refuse(network, network.makes == "images", wanted)
            module = network.build(form.dims, conditions.channels(self.by, form), len(form.channels))
            self._refuse(network, isinstance(module, Maker) and module.method == self.method, wanted)
            if isinstance(module, Maker) and not self._plays:
                module.leave_judge_out()
        return windows.note(module, windows.Facts(network.divisor(form.dims), False, form.dims))

    def _refuse(self, network: Network, fits: bool, wanted: str) -> None:
        if not fits:
            found = f"task.method = {self.method!r} with {type(network).__name__}"
            raise UsageError("FR-U78", found, wanted=wanted, do="`fedrounds list networks`")

    def parameters(self, network: nn.Module, turn: str) -> Sequence[nn.Parameter]:
        judge = turn == "discriminator"
        return [
            parameter
            for name, parameter in network.named_parameters()
            if parameter.requires_grad and (not self._plays or name.startswith("discriminator.") == judge)
        ]

    def at_site(self, names: Sequence[str]) -> Collection[str]:
        return [name for name in names if self.stays == "discriminator" and name.startswith("discriminator.")]

    def draw(self, cases: Cases, form: CaseForm, training: Training, rng: np.random.Generator) -> Example:
        """A whole case, of a stack one slice; of a translation a patch of `training.patch`, where one is given.

        Raises:
            UsageError: FR-U42 no case. CaseError: FR-D40 the case does not say what it shows.
        """
        if not len(cases):
            raise UsageError("FR-U42", "no case to draw a training example from")
        case = grids.one_slice(cases[int(rng.integers(len(cases)))], form.dims, rng)
        if self._translates:
            source, target = self._ends(case, form)
            return translating.pair(source, target, training, rng)
        image, wanted = case.image, conditions.wanted_of(case, self.by, form)
        maps = len(wanted) if wanted.ndim > 1 else 0
        both = np.concatenate([image, wanted]) if maps else image
        both, _ = augment(both, np.zeros(image.shape[1:], np.uint8), training.augment, rng, masks=maps)
        return Example(both[: len(image)], both[len(image) :] if maps else wanted)

    def _ends(self, case: Case, form: CaseForm) -> tuple[F32, F32]:
        """Source and target (C, *grid) of a translation: of spread 1, and in [0, 1] of the target's range."""
        source, target = (
            case.image[[form.channels.index(name) for name in names]] for names in (self.source, self.target)
        )
        return translating.standard(source), (target - np.float32(self.low)) / np.float32(self.high - self.low)

    def loss(self, network: nn.Module, batch: Batch, turn: str, rng: torch.Generator) -> Tensor:
        from fedrounds_common.generative import synthesis, translation

        if self._translates:
            return translation.loss(network, batch.image, batch.target, turn, self._settings)
        maker = synthesis.maker_of(network)
        image = synthesis.framed(batch.image, maker.grid)
        wanted = synthesis.framed(conditions.over_grid(batch.target, batch.image.shape[2:]), maker.grid)
        return maker.loss(2 * image - 1, wanted, turn, rng, self._settings)

    @property
    def _settings(self) -> Settings:
        from fedrounds_common.generative.maker import Settings

        return Settings(self.penalty, self.divergence, self.adversarial, self.levels, self.steps)

    def beside(self, trained: Cases, form: CaseForm, seed: int) -> Cases:
        """Training cases, at most 400 of a site, in which copies are looked for."""
        if self._translates:
            return ()
        order = generator(seed, "copies").permutation(len(trained))[:MOST_TRAINED]
        chosen = [trained[place] for place in sorted(order)]
        return [replace(case, ref=replace(case.ref, site=TRAINED)) for case in chosen]

    def predict(
        self, network: nn.Module, case: Case, form: CaseForm, training: Training, evaluation: Evaluation
    ) -> Prediction:
        """An image of what this case is an example of, from noise that its name seeds; then the nearest of the pool.

        Of label maps there is no pool that everybody could make: the nearest is the image made for the case's own.
        Of a stack the middle slice that holds anything is spoken of.
        """
        from fedrounds_common.generative import synthesis, translation

        if self._translates:
            made = translation.translated(network, self._ends(case, form)[0], form.dims, training, evaluation)
            return self.decide(made * np.float32(self.high - self.low) + np.float32(self.low), case, form)
        case = grids.one_slice(case, form.dims)
        maker = synthesis.maker_of(network)
        nearest = None
        if self.by != "labels":
            wanted = conditions.of_class("", self.pool, form)[:, : conditions.channels(self.by, form)]
            pool = synthesis.pool_of(network, wanted, self._settings, derive(PUBLIC, "pool"))
            nearest = pool.images[copies.nearest(grids.framed(case.image, maker.grid), pool.looks)]
        if nearest is None or not _is_trained(case.ref):
            wanted = conditions.wanted_of(case, self.by, form)
            wanted = grids.framed(wanted, maker.grid) if wanted.ndim > 1 else wanted
            made = synthesis.made(network, wanted[None], self._settings, derive(PUBLIC, case.ref.name))[0]
        else:
            made = nearest
        both = [grids.framed(each, case.grid) for each in (made, made if nearest is None else nearest)]
        return self.decide(np.concatenate(both), case, form)

    def decide(self, outputs: F32, case: Case, form: CaseForm) -> Prediction:
        """Outputs are the image that was made, and perhaps after it the nearest of the pool."""
        return Prediction(outputs, NOTHING, outputs[: len(self.target) if self._translates else len(form.channels)])

    def score(self, prediction: Prediction, case: Case, form: CaseForm, evaluation: Evaluation) -> CaseScore:
        """Of a translation its error; else the features of real, made and blurred, and how near the nearest made is."""
        ref = case.ref
        if self._translates:
            true = case.image[[form.channels.index(name) for name in self.target]]
            values = quality.judged(prediction.outputs, true, self.high - self.low)
            return CaseScore(ref.name, ref.patient, {summary.MEAN: values}, {})
        case = grids.one_slice(case, form.dims)
        made, nearest = prediction.outputs[: len(case.image)], prediction.outputs[len(case.image) :]
        far = copies.distance(case.image, nearest) if len(nearest) else nan
        of = conditions.wanted_of(case, self.by, form) if self.by == "classes" else NOTHING
        kind = int(of.argmax()) if len(of) and not form.multi_label else 0
        arrays = {"half": np.array([likeness.half_of(ref.patient)], np.float64),
                  "kind": np.array([kind, _is_trained(ref)], np.float64), "far": np.array([far])}  # fmt: skip
        if not _is_trained(ref):
            arrays |= likeness.seen(case.image, made)
        state = {summary.MEAN: "trained" if _is_trained(ref) else "scored"}
        return CaseScore(ref.name, ref.patient, {summary.MEAN: {"nearest": far}}, state, arrays)

    def tally(self, scores: Sequence[CaseScore], form: CaseForm, evaluation: Evaluation, seed: int) -> Tally:
        if self._translates:
            return summary.tally(scores, (), evaluation.resamples, seed, TRANSLATED)
        return likeness.tally(scores, len(form.channels), max(len(form.classes), 1))

    def table(self, tally: Tally, form: CaseForm, evaluation: Evaluation) -> tuple[Metric, ...]:
        return summary.table(tally, (), TRANSLATED) if self._translates else likeness.table(tally)

    def replicates(self, tally: Tally, form: CaseForm, evaluation: Evaluation) -> Mapping[str, F64]:
        """Of translations; distances between distributions have none: resampled ones are of fewer cases, so farther."""
        if not self._translates or evaluation.primary not in TRANSLATED:
            return {}
        return summary.replicates(tally, (), TRANSLATED.index(evaluation.primary))

    def files(self, prediction: Prediction, case: Case, form: CaseForm) -> Mapping[str, Written]:
        """The image that was made: what a folder is called by says that nobody was scanned."""
        names = self.target if self._translates else form.channels
        image = prediction.outputs[: len(names)]
        if image.shape[1:] != case.grid:
            image = grids.in_stack(image, case)
        return {"synthetic": ScalarImages(dict(zip(names, image, strict=True)), "intensities")}

    def lacks(self, case: Case, form: CaseForm) -> str:
        target = case.target
        if self.by == "classes":
            return "a class" if target is None or target.classes is None else ""
        return "a mask" if self.by == "labels" and case.labels is None else ""

    def picture(self, case: Case, prediction: Prediction, form: CaseForm) -> Picture:
        """A real case beside what was made for it, and beside the nearest of the pool or the source."""
        from fedrounds_common.generative import drawing

        case = case if self._translates else grids.one_slice(case, form.dims)
        if self._translates:
            return drawing.translated(case, prediction.outputs, self.source, self.target, form)
        return drawing.compared(case, prediction, form)

    def guesses(self, case: Case, form: CaseForm) -> Mapping[str, Prediction]:
        """Of a translation the source itself, in the target's range; else the case's own voxels, shuffled."""
        if self._translates:
            source = translating.stretched(case.image[form.channels.index(self.source[0])], self.low, self.high)
            return {"the source": self.decide(np.stack([source] * len(self.target)), case, form)}
        case = grids.one_slice(case, form.dims)
        if _is_trained(case.ref):
            return {}
        mixed = likeness.shuffled(case.image, generator(PUBLIC, "shuffled", case.ref.name))
        return {"shuffled voxels": self.decide(mixed, case, form)}

    def gather(self, purpose: str, network: nn.Module, cases: Cases, form: CaseForm, training: Training) -> Tally:
        """Sums of the training cases' codes; of a stack the middle slice's."""
        from fedrounds_common.generative import vae

        whole = [grids.one_slice(case, form.dims) for case in cases]
        wanted = [conditions.wanted_of(case, self.by, form) for case in whole]
        return vae.gathered(vae.prior(network), [case.image for case in whole], wanted)

    def settle(self, purpose: str, total: Tally, arrays: Arrays, form: CaseForm) -> Arrays:
        from fedrounds_common.generative import vae

        return vae.settled(total, arrays)

    def sample(
        self, network: nn.Module, form: CaseForm, number: int, seed: int, kind: str = "", given: Cases = ()
    ) -> Cases:
        """Synthetic cases. Raises UsageError: FR-U76 a translation; FR-U77 no such class, or no label map."""
        from fedrounds_common.generative import synthesis

        if self._translates:
            raise UsageError("FR-U76", "this model translates images", do="`fedrounds predict` on a folder of them")
        maker = synthesis.maker_of(network)
        if self.by == "labels":
            shown = [conditions.wanted_of(grids.one_slice(case, form.dims), self.by, form) for case in given]
            if not shown or kind:
                raise UsageError(
                    "FR-U77", f"a model of label maps, and {len(shown)} of them", wanted="a folder with -i"
                )
            wanted = np.stack([grids.framed(shown[place % len(shown)], maker.grid) for place in range(number)])
        else:
            wanted = conditions.of_class(kind, number, form)[:, : conditions.channels(self.by, form)]
        images = synthesis.made(network, wanted, self._settings, derive(seed, "sample"))
        affine = grids.affine_of(form, maker.grid)
        return [
            Case(CaseRef(f"synthetic-{place:04d}", f"synthetic-{place:04d}"), image,
                 conditions.target_of(each, self.by, form), affine)
            for place, (image, each) in enumerate(zip(images, wanted, strict=True), start=1)
        ]  # fmt: skip


def _is_trained(ref: CaseRef) -> bool:
    return ref.site == TRAINED
