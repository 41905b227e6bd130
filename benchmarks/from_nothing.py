"""From nothing to a running federation of two hospitals: which commands, and how long each takes.

    python benchmarks/from_nothing.py [--out FILE.json]

Real processes over TLS with authenticated nodes, on this machine: on networks of their own where that is allowed,
else on loopback. What is counted ends when both hospitals have allowed the study and round 1 has begun; training
is beside it, and so is the telephone call in which two people read fingerprints to each other.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "tests" / "real"))

from fedworld import World, may_be_apart, wait_until  # noqa: E402  (the path comes first)

SITES = ("s1", "s2")
STUDY = str(REPO / "studies" / "three-hospitals.toml")
PHANTOM = ("--reader", "phantom_glioma", "--set", "data.profile=eight", "--set", "data.scale=0.3",
           "--set", "data.spacing_mm=5.0", "--set", "policy.minimum_cases=1", "--cases", "20")  # fmt: skip
AGREED = ("-s", 'cohort.sites=["s1","s2"]')


def measure(folder: Path) -> dict[str, Any]:
    """Seconds of each step, and the commands typed."""
    steps: dict[str, float] = {}
    with World(folder, SITES, may_be_apart()) as world:
        where = ("--folder", str(world.coordinator))
        at = f"{world.host}:{world.port}"

        def timed(name: str, do: Callable[[], Any]) -> Any:
            started = time.monotonic()
            found = do()
            steps[name] = round(time.monotonic() - started, 1)
            return found

        timed("init", lambda: world.call("co", "coordinator", "init", at, *where, "--bind", at,
                                         "--superlink-port", str(world.superlink_port)))  # fmt: skip
        timed("invite", lambda: world.call("co", "coordinator", "invite", *SITES, *where, "--out", str(folder)))
        timed("start", lambda: world.call("co", "coordinator", "start", "--detach", *where))
        timed("join, up to the fingerprints", lambda: joined(world))
        told = [word for site in SITES for word in ("--fingerprint", world.fingerprint(site))]
        timed("enrol", lambda: world.call("co", "coordinator", "enrol", *SITES, *where, *told, "--wait", "60"))
        run = timed("submit", lambda: world.submit(STUDY, *AGREED))
        timed("asked at both, and allowed", lambda: [world.allow(site) for site in SITES])
        timed("until round 1 begins", lambda: wait_until((run / "rounds").exists, "round 1 begins", 120))
        status = world.ended(run)
        return {"commands": world.commands, "seconds": steps, "in_all": round(sum(steps.values()), 1),
                "apart": world.apart, "ended": status["state"]}  # fmt: skip


def joined(world: World) -> None:
    for site in SITES:
        world.join(site, *PHANTOM, "--set", f"data.only={site}")
    for site in SITES:
        world.fingerprint(site)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the numbers here, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    kinds = [" ".join(line.split()[:3]) for line in found["commands"]]
    for name, seconds in found["seconds"].items():
        print(f"{seconds:6.1f} s  {name}")
    print(
        f"{found['in_all']:6.1f} s  in all; {len(kinds)} commands: {', '.join(kinds)}; the run ended {found['ended']}"
    )
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
