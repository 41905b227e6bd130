"""site.toml: what is left out is strict, and every fault is named at once, with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedrounds_client.founding import REMARKS, found
from fedrounds_client.home import SiteHome
from fedrounds_client.settings import Policy, read_settings
from fedrounds_common.errors import NetworkError, StudyError, UsageError
from fedrounds_common.plugins import field_names
from fedrounds_common.signing import SigningKey

WELL = """format = 1
name = "oslo"

[data]
name = "phantom_glioma"
only = "s01"
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "site.toml"
    file.write_text(text, "utf-8")
    return file


def test_what_is_left_out_has_its_strictest_value(tmp_path: Path) -> None:
    policy = read_settings(written(tmp_path, WELL)).policy
    assert (policy.tasks, policy.networks, policy.outgoing) == ((), (), ())
    assert (policy.minimum_privacy, policy.rounds, policy.gpu) == ("patient", 1, "none")
    assert read_settings(tmp_path / "site.toml").machine.network == "none"


def test_the_readers_own_table_has_no_group_in_it_and_absolute_paths(tmp_path: Path) -> None:
    text = WELL.replace('"phantom_glioma"', '"nifti_folder"\nroot = "images"')
    settings = read_settings(written(tmp_path, text))
    assert settings.only == "s01"
    assert settings.data == {"name": "nifti_folder", "root": str(tmp_path / "images")}


FAULTY = """format = 1
name = "os lo"
colour = "red"

[data]
name = "nifty_folder"

[policy]
tasks = ["segmentaton"]
networks = ["unet", "unett"]
minimum_cases = 0
minimum_privacy = "patients"
hours = "25:00-07:00"
outgoing = ["hello", "images"]
disk = 3

[machine]
memory_gb = -1
network = "internet"
"""


def test_all_faults_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        read_settings(written(tmp_path, FAULTY))
    found = {fault.key: (fault.line, fault.message) for fault in caught.value.faults}
    assert {key: line for key, (line, _) in found.items()} == {
        "name": 2, "colour": 3, "data.name": 6, "policy.tasks.0": 9, "policy.networks.1": 10, "policy.minimum_cases": 11, "policy.minimum_privacy": 12,
        "policy.hours": 13, "policy.outgoing.1": 14, "policy.disk": 15, "machine.memory_gb": 18, "machine.network": 19,
    }  # fmt: skip
    assert "did you mean 'nifti_folder'" in found["data.name"][1]
    assert "did you mean 'disk_gb'" in found["policy.disk"][1]
    assert "did you mean 'patient'" in found["policy.minimum_privacy"][1]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (WELL.replace("format = 1", "format = 2"), "format"),
        (WELL.replace('only = "s01"', "only = 1"), "data.only"),
        ("policy = 3\n" + WELL, "policy"),
        (WELL + "[policy]\nminimum_cases = nan\n", "policy.minimum_cases"),
        (WELL.replace('name = "oslo"\n', ""), "name"),
        ("name = [", "file"),
    ],
)
def test_each_fault_is_named_by_its_key(text: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        read_settings(written(tmp_path, text))
    assert key in [fault.key for fault in caught.value.faults]


def test_a_folder_without_settings_is_no_site(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="FR-C23"):
        SiteHome(tmp_path).read_settings()


def test_another_policy_has_another_digest() -> None:
    fields: list[dict[str, Any]] = [
        {}, {"tasks": ("segmentation",)}, {"networks": ("unet",)}, {"minimum_cases": 11}, {"minimum_privacy": "none"},
        {"maximum_epsilon": 8.0}, {"budget_epsilon": 8.0}, {"budget_delta": 1e-6}, {"hours": "19:00-07:00"}, {"gpu": "0"}, {"disk_gb": 11.0}, {"rounds": 2},
        {"days": 31}, {"outgoing": ("hello",)},
    ]  # fmt: skip
    assert len({Policy(**each).digest for each in fields}) == len(fields)


# ---------------------------------------------------------------- a new site


def test_a_new_site_is_its_accounts_alone_and_every_value_says_what_it_means(tmp_path: Path) -> None:
    home = found(tmp_path / "site", "oslo", "phantom_glioma", ["data.only=s01", "policy.minimum_cases=20"])
    assert home.folder.stat().st_mode & 0o777 == 0o700
    assert [f.stat().st_mode & 0o777 for f in (home.site_toml, home.signing_key, home.lineage_key, home.withdrawn)] == [
        0o600
    ] * 4
    settings = home.read_settings()
    assert (settings.name, settings.only, settings.policy.minimum_cases) == ("oslo", "s01", 20)
    lines = [line for line in home.site_toml.read_text().splitlines() if " = " in line]
    assert all("  # " in line and not line.endswith("# default") for line in lines)
    known = {f"policy.{field}" for field in field_names(Policy)}
    assert known <= set(REMARKS)


def test_a_new_site_with_faults_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"data\.root"):
        found(tmp_path / "site", "oslo", "nifti_folder")
    assert not (tmp_path / "site").exists()


def test_a_site_is_never_written_over(tmp_path: Path) -> None:
    home = found(tmp_path / "site", "oslo", "phantom_glioma")
    before = home.signing_key.read_bytes()
    with pytest.raises(UsageError, match="FR-C28"):
        found(tmp_path / "site", "bergen", "phantom_glioma")
    assert home.signing_key.read_bytes() == before


def test_two_sites_have_keys_of_their_own_and_others_may_not_read_them(tmp_path: Path) -> None:
    one, two = (found(tmp_path / name, name, "phantom_glioma") for name in ("one", "two"))
    assert one.key.public != two.key.public
    assert SigningKey.load(one.signing_key).public == one.key.public
    two.signing_key.chmod(0o640)
    with pytest.raises(NetworkError, match="FR-C92"):
        _ = SiteHome(two.folder).key
