"""The coordinator runs in a process that never imported what opens a hospital's data."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CUBES = Path(__file__).parents[1] / "data" / "cubes"

COORDINATOR = """
import json, sys
from flwr.app import Context, RecordDict
from fedrounds_server.app import server_app
from fedrounds_server.engines.inline import SERVER_NODE, InlineGrid
from fedrounds_server.engines.pool import Workers, programs

command, config, sites = json.loads(sys.argv[1])
with Workers(programs(command), 1) as pool:
    grid = InlineGrid(pool, sites, config)
    server_app()(grid, Context(1, SERVER_NODE, {}, RecordDict(), config))
seen = [name for name in ("fedrounds_sites", "fedrounds_client", "pydicom", "nibabel", "fedrounds") if name in sys.modules]
print(json.dumps({"seen": seen}))
"""


def test_a_real_coordinator_runs_a_round_without_any_code_that_opens_a_case(
    tmp_path: Path, cubes: Callable[..., Path]
) -> None:
    from fedrounds.layout import lay_out
    from fedrounds.simulation import prepare
    from fedrounds_server.folder import RunFolder
    from fedrounds_sites.hospitals import assign

    # the hospitals' side is laid out here; the process below holds the coordinator's side alone
    prepared = prepare(cubes(tmp_path, rounds=1), plugins=[CUBES])
    sites = assign(prepared.simulation, prepared.study, prepared.plugins)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    lay_out(prepared, folder, sites)
    config = {
        "study": prepared.text, "run": str(folder.path), "simulation": str(folder.path / "rehearsal.json"),
        "plugins": str(CUBES), "initial": "", "resume": False,
    }  # fmt: skip
    worker = [sys.executable, "-m", "fedrounds.worker", str(folder.path)]
    done = subprocess.run(
        [sys.executable, "-c", COORDINATOR, json.dumps([worker, config, list(sites)])],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"seen": []}
    assert json.loads(folder.status.read_text())["state"] == "done"
    assert folder.consensus.exists()
