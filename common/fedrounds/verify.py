"""`fedrounds runs verify RUN`: is the folder as its run left it, and does the run come out the same again?"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from fedrounds.origin import REHEARSAL, Origin, origin_of, refuse_real
from fedrounds.playing import carry_out
from fedrounds.record import PACKAGES
from fedrounds.run import Run
from fedrounds.simulation import prepared_of
from fedrounds_common.arrays import digest as digest_of_arrays
from fedrounds_common.errors import DONE, FedroundsError, RunFileError
from fedrounds_common.plugins import digest_of_folders
from fedrounds_common.study.canonical import digest as study_digest
from fedrounds_common.study.parse import parse_study
from fedrounds_server import history
from fedrounds_server.checkpoint import load_arrays
from fedrounds_server.folder import RunFolder, read_json
from fedrounds_server.manifest import files_now, read_manifest
from fedrounds_server.plan import Listener, nobody
from fedrounds_sites.simulation import Simulation


@final
@dataclass(frozen=True)
class Check:
    """One thing that two places of the folder must say alike."""

    what: str
    found: str
    wanted: str

    @property
    def ok(self) -> bool:
        return bool(self.wanted) and self.found == self.wanted


@final
@dataclass(frozen=True)
class Again:
    """The consensus of a second run of the same study; `notes`: what is not as it was, where digests differ."""

    found: str
    wanted: str
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.found == self.wanted


@final
@dataclass(frozen=True)
class Verification:
    """Files by name. What is new is said and is no fault; anything else that is not as it was is one."""

    run: str
    files: int
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    new: tuple[str, ...]
    checks: tuple[Check, ...]
    again: Again | None = None

    @property
    def ok(self) -> bool:
        whole = not self.changed and not self.missing and all(check.ok for check in self.checks)
        return whole and (self.again is None or self.again.ok)

    @property
    def exit(self) -> int:
        return DONE if self.ok else RunFileError.exit_status

    def rows(self) -> tuple[tuple[str, str], ...]:
        """State and what is in it, one line each; files that are as they were are counted."""
        same = self.files - len(self.changed) - len(self.missing)
        rows = [("ok", f"{same} of {self.files} files as the run left them")]
        rows += [("changed", name) for name in self.changed] + [("missing", name) for name in self.missing]
        rows += [("new", name) for name in self.new]
        for check in self.checks:
            differs = f": {check.found or 'nothing'}, where {check.wanted or 'nothing'} stands elsewhere"
            rows.append(("ok" if check.ok else "differs", check.what + ("" if check.ok else differs)))
        if self.again is not None:
            found = f"the same consensus again, in {self.again.seconds:.0f} s"
            other = f"run again, the consensus is {self.again.found}, not {self.again.wanted}"
            rows.append(("ok", found) if self.again.ok else ("differs", other))
            rows += [("note", note) for note in self.again.notes]
        return tuple(rows)

    def text(self) -> str:
        verdict = "nothing has changed" if self.ok else "NOT as the run left it"
        return "\n".join([f"{self.run}: {verdict}", *(f"  {state:<8} {what}" for state, what in self.rows())])

    def as_dict(self) -> dict[str, Any]:
        again = None if self.again is None else {**vars(self.again), "ok": self.again.ok}
        return {
            "run": self.run,
            "ok": self.ok,
            "exit": self.exit,
            "files": self.files,
            "changed": list(self.changed),
            "missing": list(self.missing),
            "new": list(self.new),
            "checks": [{**vars(check), "ok": check.ok} for check in self.checks],
            "again": again,
        }


def verify(run: Run | Path | str, again: bool = False, listen: Listener = nobody) -> Verification:
    """Recompute every digest of a run's folder.

    Args:
        again: also run the study once more, in a temporary folder, and compare the consensus.
        listen: as in `simulate`, for that second run.

    Raises:
        RunFileError: the run has not ended, or what says how it should look is itself unreadable.
        FedroundsError: of the second run, e.g. DataError where its data are no longer there.
    """
    folder = (run.path if isinstance(run, Run) else Path(run)).resolve()
    if again:
        refuse_real(folder, "it cannot be run again here")
    wanted, found = read_manifest(folder), files_now(folder)
    changed = sorted(name for name in wanted if name in found and found[name] != wanted[name])
    return Verification(
        run=folder.name,
        files=len(wanted),
        changed=tuple(changed),
        missing=tuple(sorted(set(wanted) - set(found))),
        new=tuple(sorted(set(found) - set(wanted))),
        checks=tuple(_checks(folder)),
        again=run_again(folder, listen) if again else None,
    )


def _checks(run: Path) -> list[Check]:
    """What must hold between the files, whatever the manifest says."""
    folder = RunFolder(run)
    lines = history.read(folder.history)
    consensus, says = _consensus(folder)
    status, record = _says(folder.status), _says(folder.record)
    origin = _origin(run)
    study = origin.found_digest
    resolved = _resolved_digest(run, origin.plugins)
    return [
        Check("consensus.safetensors and status.json: the consensus", consensus, str(status.get("consensus", ""))),
        Check("history.jsonl, last line, and status.json: the consensus", lines[-1].digest if lines else "",
              str(status.get("consensus", ""))),
        Check("history.jsonl and status.json: rounds", str(lines[-1].round if lines else 0), str(status.get("rounds"))),
        Check(f"{origin.file}: the study's text and its digest", study, origin.digest),
        Check(f"record.json and {origin.file}: the study", str(record.get("study", {}).get("digest", "")), study),
        Check(f"consensus.safetensors and {origin.file}: the study", str(says.get("study", "")), study),
        Check(f"study.resolved.toml and {origin.file}: the study", resolved, study),
    ]  # fmt: skip


def _says(file: Path) -> dict[str, Any]:
    """A file that is missing or damaged stands in the list of files already; here it says nothing."""
    try:
        return read_json(file)
    except RunFileError:
        return {}


def _origin(run: Path) -> Origin:
    try:
        return origin_of(run)
    except (RunFileError, KeyError):
        return Origin(REHEARSAL, "", "")


def _consensus(folder: RunFolder) -> tuple[str, dict[str, Any]]:
    try:
        arrays, says = load_arrays(folder.consensus)
    except RunFileError:
        return "", {}
    return digest_of_arrays(arrays), says


def _resolved_digest(run: Path, plugins: tuple[Path, ...]) -> str:
    file = run / "study.resolved.toml"
    try:
        return study_digest(parse_study(file.read_text(encoding="utf-8"), file, (), plugins).study)
    except (OSError, ValueError, FedroundsError):
        return ""


def run_again(run: Path, listen: Listener = nobody) -> Again:
    """The same study with the same workers in a temporary folder, without baselines and pictures.

    Neither of those touches the consensus, and they take most of the time.
    """
    prepared = prepared_of(run)
    prepared = replace(prepared, simulation=_bare(prepared.simulation, run))
    wanted = str(read_json(RunFolder(run).status).get("consensus", ""))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedrounds-again-") as folder:
        second = carry_out(prepared, Path(folder), prepared.study.name, None, False, listen)
        found = str(second.status.get("consensus", ""))
    notes = () if found == wanted else tuple(_what_is_new(run, prepared.plugins))
    return Again(found, wanted, time.monotonic() - started, notes)


def _bare(simulation: Simulation, run: Path) -> Simulation:
    # the file it started from may have moved; the run kept what was in it
    weights = None if simulation.initial_weights is None else run / "initial.safetensors"
    return replace(simulation, baselines=(), pictures=0, initial_weights=weights)


def _what_is_new(run: Path, plugins: tuple[Path, ...]) -> list[str]:
    """What could explain another consensus: versions, the user's own code."""
    from importlib.metadata import version

    record = read_json(RunFolder(run).record)
    then = record.get("versions", {})
    now = {name: version(name) for name in PACKAGES}
    notes = [f"{name} was {then[name]} and is {now[name]}" for name in now if then.get(name, now[name]) != now[name]]
    code = record.get("outside_code", {}).get("plugins_sha256")
    if code and code != digest_of_folders(plugins):
        notes.append("the plug-ins have changed since")
    return notes or [str(record.get("same_bits", "")) or "nothing of what the record names has changed"]
