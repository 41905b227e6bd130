"""`fedrounds doctor --site` is the same look as `fedrounds site doctor`, from the general doctor's place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedrounds.cli.main import main
from fedrounds.health_site import WHATS


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    assert main(["site", "init", str(folder), "--name", "oslo", "--reader", "phantom_glioma"]) == 0
    return folder


def test_every_line_is_one_of_the_checklists(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    main(["doctor", "--site", str(site), "--format", "json"])
    found = json.loads(capsys.readouterr().out)["data"]["findings"]
    assert [each["what"] for each in found if each["what"] not in WHATS] == []
    assert {"folder", "keys", "walls"} <= {each["what"] for each in found}


def test_a_key_that_others_may_open_is_exit_5(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "keys/signing.key").chmod(0o644)
    assert main(["doctor", "--site", str(site)]) == 5
    assert "others may open" in capsys.readouterr().out


def test_kept_images_that_others_may_open_are_a_fault_wherever_they_lie(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o700)
    file = site / "site.toml"
    file.write_text(file.read_text("utf-8").replace('cache = ""', f'cache = "{kept}"'), "utf-8")
    main(["doctor", "--site", str(site)])
    assert "kept in" not in capsys.readouterr().out
    kept.chmod(0o755)
    assert main(["doctor", "--site", str(site)]) == 5
    assert "prepared images kept in" in capsys.readouterr().out


def test_images_left_in_a_folder_that_site_toml_names_no_more_are_told(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    (site / "caches.jsonl").write_text(json.dumps({"folder": str(kept)}) + "\n", "utf-8")
    (site / "caches.jsonl").chmod(0o600)
    kept.mkdir(mode=0o700)
    main(["doctor", "--site", str(site)])
    assert "still kept" not in capsys.readouterr().out
    (kept / "1.case").touch(0o600)
    main(["doctor", "--site", str(site)])
    assert "prepared images are still kept in" in capsys.readouterr().out


def test_a_coordinator_and_a_site_are_not_looked_at_in_one(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--site", str(site), "--coordinator", str(site)]) == 2
    assert "one of the two" in capsys.readouterr().err
