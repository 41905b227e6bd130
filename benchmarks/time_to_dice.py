"""TTD: seconds of real training until the mean Dice is 0.80 on the hippocampus study, beside every peer.

    python benchmarks/time_to_dice.py [--pairs N] [--data FOLDER] [--without-installing]

Eight sites of unequal size, the same network, volumes, patches, batch, steps and learning rate, plain federated
averaging, two processes (pfl and the bare loop's own row: one); each side judges its consensus after every round on
the same validation volumes and stops at 0.80. Ours judges at the sites and by the study's own windows, the others at
the server on whole volumes. What is drawn differs from side to side, so rounds may differ too, and are printed.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from our_dice import OFF, STUDY
from pairs import Row, Side, Wanted, arguments, compare, write
from sides import HERE, OURS, REPO, bare, path_of, start_file, theirs
from workload import Work

SHOWN = ("seconds", "rounds", "dice", "wall", "cpu", "peak_mib")


def write_volumes(folder: Path, settings: list[str], most: int) -> int:
    """One file a site with its prepared volumes, to train on and to judge by; returns how many sites.

    Args:
        most: volumes of each kind a site; 0: all.
    """
    from fedrounds.simulation import prepare as prepared_study
    from fedrounds_sites.hospitals import assign
    from fedrounds_sites.keeping import acquired
    from fedrounds_sites.prepare import prepare
    from fedrounds_sites.splits import split

    prepared = prepared_study(STUDY, settings)
    study, simulation = prepared.study, prepared.simulation
    reader = simulation.build_reader()
    sites = assign(simulation, study)
    for name, refs in sites.items():
        both = split(refs, name, study.seed, study.evaluation.local_validation)
        arrays = {}
        for kind, chosen in (("train", both.train), ("judge", both.validation)):
            for number, ref in enumerate(chosen[: most or None]):
                case = prepare(acquired(ref, reader, simulation, study, name), study.cases)
                assert case.target is not None
                assert case.target.voxels is not None
                arrays[f"{kind}/image{number:03d}"] = np.asarray(case.image, np.float32)
                arrays[f"{kind}/labels{number:03d}"] = np.asarray(case.target.voxels, np.uint8)
        np.savez(folder / f"{name}.npz", **arrays)
    return len(sites)


def ours(work: Work, settings: list[str]) -> Side:
    words = (
        "--until",
        work.until,
        "--rounds",
        work.rounds,
        "--steps",
        work.steps,
        "--learning-rate",
        work.learning_rate,
    )
    more = [word for setting in settings for word in ("-s", setting)]
    command = (sys.executable, str(HERE / "our_dice.py"), *map(str, words), *more)
    return Side("fedrounds, 2 processes", command, path_of(HERE, *OURS), OFF)


def reached(row: Row, until: float) -> Row:
    """The row, without a bound where a side ended below `until`: seconds to another Dice are no seconds to this one."""
    short = [side for side, runs in row.runs.items() if any(run["dice"] < until for run in runs)]
    return replace(row, wanted=(), note=f"not reached by {' and '.join(short)}") if short else row


def main() -> None:
    given = arguments(
        __doc__, rounds=(30, "at most"), steps=(20, "of each site and round"), until=(0.80, "Dice to stop at"),
        data=(str(REPO.parent / "shared" / "data" / "msd_hippocampus"), "the folder of the volumes"),
        most=(0, "volumes of each kind a site, for a quick look; 0: all"),
        without_installing=(False, "take a peer that is there, and install none"),
    )  # fmt: skip
    if not Path(given.data).exists():
        print(f"not run: no volumes in {given.data}; --data FOLDER")
        return
    settings, install = [f'simulation.reader.root="{given.data}"'], not given.without_installing
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "volumes").mkdir()
        sites = write_volumes(folder / "volumes", settings, given.most)
        work = Work("hippocampus", sites, given.rounds, given.steps, learning_rate=6e-3)
        work = replace(work, data=str(folder / "volumes"), until=given.until)
        work = replace(work, start=str(start_file(work, folder)))
        # prepared by the run that is thrown away, as the others' volumes are prepared beforehand
        mine = ours(work, [*settings, f'simulation.cache="{folder / "cache"}"'])
        others = [bare(work, 2), theirs("flwr", work, 2, install), theirs("pfl", work, install=install)]
        rows = [
            reached(
                compare(
                    "TTD", mine, other, given.pairs, [Wanted("seconds", most=1.0)] if "Flower" in other.name else []
                ),
                given.until,
            )
            for other in others
        ]
        flare = theirs("nvflare", replace(work, until=0.0), 2, install)
        note = f"NVFlare's recipe cannot stop at a score: all {given.rounds} rounds, nothing judged"
        rows.append(compare("TTD", mine, flare, given.pairs, (), note=note))
    facts = {"until": given.until, "rounds": given.rounds, "steps": given.steps, "volumes": given.most or "all"}
    write("time_to_dice", rows, facts, given.output, SHOWN)


if __name__ == "__main__":
    main()
