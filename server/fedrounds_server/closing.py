"""What a run's folder gets when the run has ended: figures, the report, and last the digests of all its files."""

from __future__ import annotations

import traceback

from fedrounds_common.disk import add_text, write_json
from fedrounds_common.errors import code_of
from fedrounds_server.folder import RunFolder, read_json
from fedrounds_server.manifest import write_manifest
from fedrounds_server.plan import Listener


def close_run(folder: RunFolder, listen: Listener, *, report: bool, with_sites: bool) -> None:
    """Draw the report and write the manifest. `with_sites`: as `report.write_report`.

    Where the report fails the run is what it was before, and says that its report is missing.
    """
    if report:
        _draw(folder, listen, with_sites=with_sites)
    write_manifest(folder.path)


def _draw(folder: RunFolder, listen: Listener, *, with_sites: bool) -> None:
    from fedrounds_server.report.page import write_report

    try:
        write_report(folder.path, with_sites)
    except Exception as error:  # noqa: BLE001  (hours of training are not lost to a picture, whatever went wrong with it)
        fault = f"FR-F35 the report could not be drawn: {code_of(error)} {type(error).__name__}"
        write_json(folder.status, {**read_json(folder.status), "report_fault": fault})
        add_text(folder.path / "logs" / "log", f"{fault}\n{''.join(traceback.format_exception(error))}")
        listen(
            "warning", {"text": f"{fault}; logs/log says where, `fedrounds report {folder.path.name}` draws it again"}
        )
