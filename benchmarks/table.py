"""Put what the benchmarks wrote into the page of the docs: `python benchmarks/table.py [FOLDER]`.

Every number of docs/benchmarks.md between its two marks comes from here, and none is written by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pairs import OUTPUT, REPO, machine_in_words, row_of, table

PAGE = REPO / "docs" / "benchmarks.md"
BEGIN, END = "<!-- written by benchmarks/table.py -->", "<!-- to here -->"
# file → heading, in this order; what else lies there comes after
TITLES = {
    "overhead": "OVH: overhead over a bare loop",
    "aggregate": "AGG: aggregating large updates",
    "round71": "ROUND: 71 sites of 100 MB",
    "many_sites": "K1000: a thousand sites a round",
    "start": "START: from the shell to the end of a first round",
    "bytes_sent": "BYTES: bytes up and down",
    "loading": "LOAD: cases from the cache",
    "sliding_window": "SWI: predicting a whole volume",
    "scale": "SCALE: from 10 to 1,000 sites",
    "time_to_dice": "TTD: seconds to a Dice of 0.80",
    "private_steps": "DP: a step that hides each patient",
    "secure_sum": "SUM: what a secure sum costs",
    "gpu": "GPU: the FeTS network",
}


def sections(folder: Path) -> Iterator[str]:
    """Markdown of each benchmark that was run."""
    there = {file.stem: file for file in sorted(folder.glob("*.json"))}
    for name in [*(name for name in TITLES if name in there), *(name for name in there if name not in TITLES)]:
        said = json.loads(there[name].read_text("utf-8"))
        yield f"### {TITLES.get(name, name)}"
        if "shown" in said:
            settings = ", ".join(f"{key} {value}" for key, value in said["settings"].items())
            versions = ", ".join(f"{key} {value}" for key, value in said["versions"].items())
            yield table([row_of(row) for row in said["rows"]], said["shown"])
            yield f"{said['written'][:10]}, {machine_in_words(said['machine'])}; {versions}; {settings}."
        else:  # a program with a table of its own
            yield "\n".join(
                line for line in there[name].with_suffix(".md").read_text("utf-8").splitlines() if line[:2] != "# "
            ).strip()


def missing(folder: Path) -> Iterator[str]:
    """One line that names what was not run."""
    if lacks := [title.partition(":")[0] for name, title in TITLES.items() if not (folder / f"{name}.json").exists()]:
        yield f"Not measured yet: {', '.join(lacks)}. `make bench`, then `python benchmarks/table.py`."


def filled(page: str, folder: Path) -> str:
    """The page with what lies in `folder` between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    found = "\n\n".join([*sections(folder), *missing(folder)])
    return f"{before}{BEGIN}\n\n{found}\n\n{END}{after}"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT
    PAGE.write_text(filled(PAGE.read_text("utf-8"), folder), encoding="utf-8")
    print(f"{PAGE}: {len(list(folder.glob('*.json')))} benchmarks")


if __name__ == "__main__":
    main()
