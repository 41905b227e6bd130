"""Does the canary audit let the real mechanism pass and catch broken ones? `python benchmarks/canaries.py [RUNS] [EPSILON ...]`

1,000 canaries a run, put in by fair coins, through the drawing, cutting, adding and noise of `fedrounds_client.private`,
for claims of epsilon 1 and 3 at delta 1e-4; 20 runs each of the real mechanism and of three that are broken on purpose.
Then what shuffled batches cost against what an account of Poisson samples says of them. Five minutes on one core.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from fedrounds_client.attacks.canaries import Audited, Claim, audit, claims, together
from fedrounds_common.dp.accounting import epsilon
from fedrounds_common.dp.shuffling import shuffled_epsilon
from fedrounds_common.privacy import NoisySteps
from fedrounds_common.privacy.dp_sgd import DPSGD
from fedrounds_common.study.tables import Training

DELTA, STEPS, BATCH = 1e-4, 4, 100
UNCUT = 1e6  # a clip that no gradient reaches


def claim_of(target: float) -> Claim:
    """Everybody in every step: then the account is tight, and an audit finds the most that can be found."""
    measure = DPSGD(epsilon=target, delta=DELTA, sampling_rate=1.0, accountant="prv")
    return claims([measure], Training(rounds=1, local_steps=STEPS, batch=BATCH))[0]


def broken(steps: NoisySteps) -> dict[str, NoisySteps]:
    """Other steps than were claimed, by the very same code."""
    return {
        "noise left out": replace(steps, multiplier=0.0),
        "clipping left out": replace(steps, clip=UNCUT, multiplier=steps.multiplier * steps.clip / UNCUT),
        "a third of the noise": replace(steps, multiplier=steps.multiplier / 3),
    }


def audited(claim: Claim, done: NoisySteps, runs: int) -> list[Audited]:
    return [audit(claim, done=done) for _ in range(runs)]


def shown(name: str, found: list[Audited]) -> str:
    bounds = [each.bound for each in found]
    over = sum(each.refuted for each in found)
    return (
        f"  {name}: at least {min(bounds):.2f} to {max(bounds):.2f}; above the claim in {over} of {len(found)} runs; "
        f"all runs together: at least {together(found):.2f}"
    )


def print_shuffled() -> None:
    print("one pass in shuffled batches, delta 1e-5: epsilon is at least … where the account of Poisson samples says …")
    for batches in (100, 1000):
        for multiplier in (0.5, 0.7, 1.0):
            least = shuffled_epsilon(multiplier, batches, 1e-5)
            poisson = epsilon("rdp", multiplier, 1 / batches, batches, 1e-5)
            print(
                f"  {batches} batches, noise multiplier {multiplier}: at least {least:.2f}; Poisson: at most {poisson:.2f}"
            )


def main(runs: int, targets: list[float]) -> int:
    torch.set_num_threads(1)
    right = True
    for target in targets:
        claim = claim_of(target)
        real = audited(claim, claim.steps, runs)
        right &= not any(each.refuted for each in real)
        print(
            f"claim: epsilon {target:g} at delta {DELTA:g}, noise multiplier {claim.steps.multiplier:g}, {STEPS} steps"
        )
        print(f"  power: {real[0].power.text()}; no audit of so many guesses can show more than {real[0].most:.2f}")
        print(shown("the real mechanism", real), flush=True)
        for name, done in broken(claim.steps).items():
            found = audited(claim, done, runs)
            right &= together(found) > claim.epsilon
            print(shown(name, found), flush=True)
    print_shuffled()
    print("the real one passed every time, and each broken one was caught" if right else "NOT as it should be")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, [float(word) for word in sys.argv[2:]] or [1.0, 3.0]))
