"""What a site does when asked: say hello, take part in a round, judge a model or sum over its own cases."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from fedrounds_client.ahead import spare_core
from fedrounds_client.gathering import gather_sums
from fedrounds_client.private import Lost
from fedrounds_client.receiving import newest_held
from fedrounds_client.scoring import score_cases, write_scores
from fedrounds_client.site import Site
from fedrounds_client.state import SiteState, read_state
from fedrounds_client.training import Correct, Piece, steps_per_round, train
from fedrounds_common.arrays import Arrays
from fedrounds_common.case import Cases
from fedrounds_common.disk import add_text
from fedrounds_common.dp.noise import Secret
from fedrounds_common.dp.sums import CLIP, Released, released, size_of_noise
from fedrounds_common.errors import DataError, RefusedError, UpdateError, code_of
from fedrounds_common.freezing import trained_of
from fedrounds_common.leaving import Ask, Hello, Scores, Statistics, Update
from fedrounds_common.metrics.hiding import in_secret
from fedrounds_common.privacy import NoisySum
from fedrounds_common.rng import derive
from fedrounds_common.settling import purposes
from fedrounds_common.spans import timed
from fedrounds_common.strategy import Consensus, Strategy, Trained
from fedrounds_common.task import CaseScore, Tally

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("fedrounds", "flwr", "torch", "numpy")
WITHDRAWN = "FR-C20"  # under this code patients who withdrew are counted, as bad cases are under theirs


@cache
def _versions() -> Mapping[str, str]:
    """Of this process; reading them takes as long as a small step, and a simulation greets thousands of times."""
    return {name: version(name) for name in PACKAGES}


def greet(ask: Ask, site: Site) -> Hello:
    """Read and prepare every case once; bad ones are counted by code here and named in this site's log."""
    cases = site.hospital.open_all()
    training = len(cases.training)
    left_out = Counter(code_of(error) for error in cases.left_out.values())
    if site.withdrawn:
        left_out[WITHDRAWN] = site.withdrawn
    return Hello(
        site=site.name,
        versions=dict(_versions()),
        training_cases=training,
        validation_cases=len(cases.validation),
        held_out_cases=len(cases.held_out),
        steps=steps_per_round(site.parts.study.training, training) if training else 0,
        left_out=dict(sorted(left_out.items())),
        run=ask.run,
        nonce=ask.nonce,
        study=ask.digest,
        holds=newest_held(site.folder) if site.parts.down.differences else "",
    )


def take_part(ask: Ask, site: Site) -> tuple[Update, SiteState]:
    """One round: from the consensus as it came to the difference that leaves, and the state that stays.

    The caller keeps the state once the update has passed the guard: what a refused one was made with, moments
    that are not finite perhaps, must not be where the next round starts.
    """
    started = time.monotonic()
    parts, study = site.parts, site.parts.study
    cases = site.hospital.open_all().training
    if not cases:
        raise DataError("FR-H01", "no case here can be trained on", do="see this site's log for each case left out")
    state = read_state(site.folder / "state", ask.round - 1)
    consensus = Consensus(ask.arrays, {name: array for name, array in ask.shared.items() if name != CLIP})
    received = parts.strategy.receive(consensus, state.kept)
    own = set(parts.task.at_site(list(ask.arrays)))
    start = {**received, **{name: array for name, array in state.own.items() if name in own}}
    steps = steps_per_round(study.training, len(cases))
    first = (ask.round - 1) * steps
    piece = Piece(steps, first, steps * study.training.rounds, study.seed, ("round", ask.round, site.name))
    moments = state.moments if study.training.moments == "keep" else {}
    module = parts.module()
    result = train(
        module, parts.task, cases, study.cases, study.training, piece, start, moments,
        _correction(site, {name: array for name, array in ask.arrays.items() if name not in own}, state.kept),
        site.pieces, beside=spare_core(study.training.threads, site.hospital.simulation.workers),
        noisy=parts.noisy,
    )  # fmt: skip
    _write_lost(ask, site, result.lost)
    # for what stays here, the strategy sees neither where it was nor where it came to
    reached = {name: received[name] if name in own else array for name, array in result.arrays.items()}
    leaving, kept = parts.strategy.send(Trained(received, reached, len(cases), steps), consensus, state.kept)
    hidden = _released(leaving, ask, site, trained_of(module) - own, len(cases))
    # by round and site, not by run: a round asked twice is packed the same, and so is a study that is run again
    seed = derive(study.seed, "codec", ask.round, site.name)
    travelling, residual = timed("serialise")(parts.codec.encode)(hidden.arrays, state.residual, seed)
    update = Update(
        site=site.name, run=ask.run, round=ask.round, nonce=ask.nonce, study=ask.digest, cases=len(cases),
        steps=steps, loss=0.0 if study.privacy else result.loss, seconds=time.monotonic() - started,
        codec=study.wire["name"], arrays=travelling, below=hidden.below,
    )  # fmt: skip
    stays = result.moments if study.training.moments == "keep" else {}
    return update, SiteState(stays, kept, residual, {name: result.arrays[name] for name in sorted(own)})


def _released(difference: Arrays, ask: Ask, site: Site, trained: Collection[str], cases: int) -> Released:
    """What leaves of the difference: all of it, or as much as a study that hides hospitals lets of each.

    Raises:
        UpdateError: FR-R72 the coordinator names no clip. Else as `dp.sums.released`.
    """
    how = site.parts.noisy_sum
    if how is None:
        return Released(difference, 0.0)
    return released(difference, trained, how, _clip(how, ask), cases, Secret())


def most_of(site: Site, ask: Ask) -> float:
    """The largest norm of an update that may leave: the site's own, and room for the noise that it has added."""
    how = site.parts.noisy_sum
    if how is None:
        return site.max_norm
    return site.max_norm + 2 * size_of_noise(how, _clip(how, ask), sum(array.size for array in ask.arrays.values()))


def _clip(how: NoisySum, ask: Ask) -> float:
    """This round's. Raises UpdateError: FR-R72 the coordinator names none."""
    if how.quantile is None:
        return how.clip
    said = np.ravel(ask.shared.get(CLIP, ()))
    if said.size != 1 or not np.isfinite(said[0]) or said[0] <= 0:
        raise UpdateError("FR-R72", "no clip came with the request", wanted="this round's, a number above 0")
    return float(said[0])


def _correction(site: Site, consensus: Arrays, kept: Arrays) -> Correct | None:
    """What the strategy does to gradients; None of one that corrects nothing, which needs no copy of the consensus."""
    if type(site.parts.strategy).correct is Strategy.correct:
        return None
    import torch

    fixed = {name: torch.from_numpy(np.array(array)) for name, array in consensus.items()}

    def correct(gradients: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        federated = {name: gradient for name, gradient in gradients.items() if name in fixed}
        for name in federated:  # onto the weights' own device, once
            fixed[name] = fixed[name].to(weights[name].device)
        site.parts.strategy.correct(federated, {name: weights[name] for name in federated}, fixed, kept)

    return correct


def _write_lost(ask: Ask, site: Site, lost: Lost) -> None:
    """Into the site's own log: that a patient's part was left out must not be seen from outside."""
    if lost:
        add_text(
            (site.books or site.folder) / "log",
            f"FR-R31 round {ask.round}: left out of noisy steps: {lost.unreadable} times a patient whose cases could not be "
            f"drawn from, {lost.not_finite} times one whose loss or gradient was not finite",
        )
    if lost.alone:
        add_text((site.books or site.folder) / "log", f"FR-R32 noisy steps take one patient at a time: {lost.alone}")


def judge(ask: Ask, site: Site) -> Scores:
    """Score the model that came on one cohort of this site; the single scores stay here.

    Raises:
        RefusedError: FR-C36 training cases of a study that protects them by noise, which scores have not.
    """
    if ask.cohort == "train" and site.parts.noisy is not None:
        raise RefusedError("FR-C36", "scores of training cases", wanted="cases that the noise need not protect")
    cases, beside = site.hospital.cohort(ask.cohort), beside_judged(ask, site)
    _refuse_few(len(cases), site)
    scores, pictures = score_cases([ask.arrays], cases, site.parts, site.hospital.pictures, beside)
    write_scores(site.folder, ask, scores, pictures)
    tally = _tally(scores, site)
    behind = len(scores) - len(beside)
    return Scores(site.name, ask.run, ask.round, ask.nonce, ask.model, ask.cohort, behind, tally, ask.digest)


def _tally(scores: Sequence[CaseScore], site: Site) -> Tally:
    """What leaves of scores. At a real site replicates are made in secret: the coordinator knows the study's seed."""
    study, task = site.parts.study, site.parts.task

    def tallied(scores: Sequence[CaseScore], seed: int) -> Tally:
        return task.tally(scores, study.cases, study.evaluation, seed)

    if site.secret:
        return in_secret(tallied, scores, site.secret, site.name)
    # a seed of the site's own: patient "1" here and patient "1" elsewhere must not be resampled together
    return tallied(scores, derive(study.seed, "bootstrap", site.name))


def beside_judged(ask: Ask, site: Site) -> Cases:
    """The training cases that are looked at beside the judged ones: of a model that was trained on them."""
    if ask.trained_at not in ("all", site.name) or ask.cohort != "local-val":
        return ()
    if site.parts.noisy is not None:  # sums over training cases have no noise
        return ()
    study = site.parts.study
    return site.parts.task.beside(site.hospital.open_all().training, study.cases, derive(study.seed, "beside"))


def gather(ask: Ask, site: Site) -> Statistics:
    """Sum over this site's cases, to train or to validate, what the study's task wants to know of all sites' together.

    Raises:
        RefusedError: FR-C34 the task asks for nothing of that name. DataError: there is no case.
    """
    wanted = purposes(site.parts.task)
    if ask.purpose not in wanted:
        raise RefusedError(
            "FR-C34",
            f"sums for {ask.purpose!r}",
            wanted=f"what this study's task asks for: {', '.join(wanted) or 'none'}",
        )
    cases = site.cases_behind(ask)
    if not cases:
        raise DataError("FR-H01", "no case here can be summed over", do="see this site's log for each case left out")
    _refuse_few(len(cases), site)
    tally = gather_sums(site.parts, ask.purpose, ask.arrays, cases)
    return Statistics(site.name, ask.run, ask.round, ask.nonce, ask.digest, ask.purpose, len(cases), tally)


def _refuse_few(cases: int, site: Site) -> None:
    """Raises RefusedError FR-C19: fewer cases than the study tells scores or sums of."""
    if cases < site.parts.smallest:
        wanted = f"the {site.parts.smallest} of the study's [[privacy]]"
        raise RefusedError("FR-C19", f"{cases} cases stand behind the answer", wanted=wanted)
