"""The hospitals of a run, opened from its folder again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedrounds_common.errors import DataError
from fedrounds_sites.hospitals import forget, open_hospital, read_rehearsal

WHOLE = {"study": "{}", "digest": "", "simulation": {}, "plugins": [], "sites": {"a": "train"}}


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({**WHOLE, "plugins": 3}), json.dumps({"study": ""})])
def test_a_rehearsal_that_is_not_as_a_run_writes_it_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rehearsal.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"FR-H04 .*rehearsal\.json: cannot be read"):
        read_rehearsal(file)
    file.unlink()
    with pytest.raises(DataError, match="FileNotFoundError"):
        read_rehearsal(file)


def test_so_is_a_hospitals_list_of_cases(tmp_path: Path) -> None:
    table = {**WHOLE, "study": '{"format": 1, "name": "x"}'}
    (tmp_path / "rehearsal.json").write_text(json.dumps(table))
    (tmp_path / "sites" / "a").mkdir(parents=True)
    (tmp_path / "sites" / "a" / "cases.json").write_text('[{"name": "1"}]')
    with pytest.raises(DataError, match=r"FR-H04 .*cases\.json: cannot be read \(TypeError\)"):
        open_hospital(tmp_path, "a")


def test_what_was_read_is_forgotten_when_a_run_is_laid_out_anew(tmp_path: Path) -> None:
    file = tmp_path / "rehearsal.json"
    file.write_text(json.dumps(WHOLE))
    assert read_rehearsal(file).sites == {"a": "train"}
    file.write_text(json.dumps({**WHOLE, "sites": {"b": "train"}}))
    forget()
    assert read_rehearsal(file).sites == {"b": "train"}
