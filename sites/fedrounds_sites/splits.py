"""Which patients of a site train and which are kept to validate: derived from the seed, then written down.

A patient is in one part with all of its cases. Without folds the rule looks at one patient alone, so
new cases never move old ones. Folds are dealt out evenly, which no rule about one patient can do:
there it is the written split that holds old patients where they were, and new ones fill the gaps.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from fedrounds_common import rng
from fedrounds_common.case import CaseRef
from fedrounds_common.disk import write_whole
from fedrounds_common.errors import DataError

FORMAT = 1
SMALLEST = 5  # patients: a site with fewer trains on all and has no local validation
TRAIN, VALIDATION = "train", "validation"

Parts = Mapping[str, str]  # patient → "train", "validation", or with folds "0/5" ... "4/5"


@final
@dataclass(frozen=True)
class Split:
    """A site's cases, sorted by name; `validation` is empty where the site is too small for one."""

    train: tuple[CaseRef, ...]
    validation: tuple[CaseRef, ...]


def is_validation(seed: int, site: str, patient: str, share: float) -> bool:
    """Whether this patient of this site validates; says the same whoever else is there."""
    return rng.share(seed, "split", site, patient) < share


def split(
    refs: Iterable[CaseRef],
    site: str,
    seed: int,
    share: float = 0.2,
    *,
    folds: int = 0,
    fold: int = 0,
    strata: Mapping[str, int] | None = None,
    written: Parts | None = None,
) -> Split:
    """Part a site's cases.

    Args:
        refs: the site's cases, in any order.
        share: of patients that validate, when there are no folds.
        folds: 2 or more: k-fold, and the patients of `fold` (from 0) validate.
        strata: patient → a coarse number of its target (none, small, large); each fold gets its part of each.
        written: an earlier `parts` of this site, which wins over the rule.

    Raises:
        DataError: FR-D26 `written` is of another number of folds.
    """
    cases = sorted(refs)
    kept = parts(cases, site, seed, share, folds=folds, strata=strata, written=written)
    chosen = f"{fold}/{folds}" if folds > 1 else VALIDATION
    return Split(
        train=tuple(ref for ref in cases if kept[ref.patient] != chosen),
        validation=tuple(ref for ref in cases if kept[ref.patient] == chosen),
    )


def parts(
    refs: Iterable[CaseRef],
    site: str,
    seed: int,
    share: float = 0.2,
    *,
    folds: int = 0,
    strata: Mapping[str, int] | None = None,
    written: Parts | None = None,
) -> dict[str, str]:
    """The part of each patient, sorted by patient: what `write_split` keeps. Arguments as `split`.

    Patients of `written` that have no case today stay in it, so that they return to their part.
    """
    written = dict(written or {})
    _check_written(written, site, folds)
    patients = {ref.patient for ref in refs}
    new = sorted(patients - set(written))
    if len(patients | set(written)) < SMALLEST:
        ruled = dict.fromkeys(new, TRAIN)
    elif folds > 1:
        ruled = _dealt(new, written, site, seed, folds, strata or {})
    else:
        ruled = {patient: VALIDATION if is_validation(seed, site, patient, share) else TRAIN for patient in new}
    return dict(sorted((written | ruled).items()))


def some(refs: Sequence[CaseRef], count: int, site: str, seed: int) -> tuple[CaseRef, ...]:
    """At most `count` of a site's cases (0: all), the same ones each time, sorted by name."""
    if not count:
        return tuple(sorted(refs))
    return tuple(sorted(sorted(refs, key=lambda ref: rng.derive(seed, "some", site, ref.name))[:count]))


def write_split(file: Path, site: str, kept: Parts) -> None:
    """Keep a site's split, whole or not at all; the file stays at the site."""
    content = {"format": FORMAT, "kind": "split", "site": site, "patients": dict(sorted(kept.items()))}
    write_whole(file, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_split(file: Path, site: str) -> dict[str, str] | None:
    """What `write_split` kept, or None if nothing was.

    Raises:
        DataError: FR-D25 the file is damaged, of a newer format, or another site's.
    """
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unusable(file, f"cannot be read ({error})") from None
    if not isinstance(content, dict) or content.get("kind") != "split":
        raise _unusable(file, "is not a split")
    if content.get("format") != FORMAT:
        raise _unusable(file, f"has format {content.get('format')!r}", f"format {FORMAT}")
    if content.get("site") != site:
        raise _unusable(file, f"belongs to site {content.get('site')!r}", f"the split of {site!r}")
    return _checked_patients(file, content.get("patients"))


def _checked_patients(file: Path, patients: Any) -> dict[str, str]:
    if not isinstance(patients, dict) or not all(isinstance(part, str) for part in patients.values()):
        raise _unusable(file, "names no patients")
    return dict(patients)


def _unusable(file: Path, found: str, wanted: str = "a split as fedrounds writes it") -> DataError:
    return DataError(
        "FR-D25",
        found,
        wanted=wanted,
        do="put the site's own file back; without it patients that trained may validate",
        where=str(file),
    )


def _check_written(written: Parts, site: str, folds: int) -> None:
    allowed = {TRAIN, *(f"{fold}/{folds}" for fold in range(folds))} if folds > 1 else {TRAIN, VALIDATION}
    strange = sorted(set(written.values()) - allowed)
    if strange:
        raise DataError(
            "FR-D26",
            f"the written split of {site} has the parts {', '.join(strange)}",
            wanted=", ".join(sorted(allowed)),
            do="use another run folder, or set evaluation.folds back",
        )


def _dealt(
    new: Sequence[str], written: Parts, site: str, seed: int, folds: int, strata: Mapping[str, int]
) -> dict[str, str]:
    """Give each new patient to the fold with fewest of its stratum, then fewest of all, then by the seed."""
    total: Counter[str] = Counter(written.values())
    filled: dict[int, Counter[str]] = defaultdict(Counter)
    for patient, part in written.items():
        filled[strata.get(patient, 0)][part] += 1
    names = [f"{fold}/{folds}" for fold in range(folds)]
    ruled: dict[str, str] = {}
    for patient in sorted(new, key=lambda patient: (strata.get(patient, 0), rng.derive(seed, "deal", site, patient))):
        stratum = filled[strata.get(patient, 0)]
        part = min(names, key=lambda name: (stratum[name], total[name], rng.derive(seed, "fold", site, name)))
        stratum[part] += 1
        total[part] += 1
        ruled[patient] = part
    return ruled
