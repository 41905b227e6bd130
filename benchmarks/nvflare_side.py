"""NVFlare's side of a benchmark: the work of `workload.py` as its FedAvg recipe in its simulator; one line of JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

import torch
import workload
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=1)
    given, rest = parser.parse_known_args()
    work = workload.work_of(rest)
    here = Path.cwd()
    module = workload.network(work)
    workload.put(module, workload.start(work))
    # what a site of its own may load by name must be on a list, which a simulation's workspace may bring
    policy = here / "work" / "bench" / "local" / "resources.json"
    policy.parent.mkdir(parents=True)
    policy.write_text(json.dumps({"format_version": 2, "class_allow_list": ["*"]}), encoding="utf-8")
    first = here / "start.pt"
    torch.save(module.state_dict(), first)  # noqa: TID251  (what NVFlare starts from)
    started = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        recipe = FedAvgRecipe(
            name="bench", model=workload.named(work), initial_ckpt=str(first), min_clients=work.sites, num_rounds=work.rounds,
            train_script=str(Path(__file__).with_name("nvflare_client.py")), train_args=" ".join(work.words()),
        )  # fmt: skip
        recipe.execute(SimEnv(num_clients=work.sites, num_threads=given.workers, workspace_root=str(here / "work")))
    seconds = time.perf_counter() - started
    (saved,) = (here / "work").rglob("FL_global_model.pt")
    stored = torch.load(saved, weights_only=True)  # noqa: TID251  (what NVFlare leaves)
    last = {name: array.numpy() if hasattr(array, "numpy") else array for name, array in stored["model"].items()}
    print(json.dumps({
        "seconds": seconds, "steps": work.rounds * work.sites * work.steps, "rounds": work.rounds,
        "probe": workload.probe(last),
    }))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
