"""What NVFlare runs at each client: the work of `workload.py` through its Client API."""

from __future__ import annotations

import sys

import nvflare.client as flare
import torch
import workload


def main() -> None:
    work = workload.work_of(sys.argv[1:])
    flare.init()
    site = int(flare.get_site_name().rpartition("-")[2]) - 1
    module = workload.network(work)
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        module.load_state_dict({name: torch.as_tensor(array) for name, array in received.params.items()})
        loss = workload.train(work, module, site, (received.current_round or 0) + 1)
        meta = {"NUM_STEPS_CURRENT_ROUND": work.steps}
        flare.send(flare.FLModel(params=module.state_dict(), metrics={"loss": loss}, meta=meta))


if __name__ == "__main__":
    main()
