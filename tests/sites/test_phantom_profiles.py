"""Profiles: real sizes and roles, one digest, faults named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fedrounds_common.case import CaseRef
from fedrounds_common.errors import DataError
from fedrounds_sites import profiles
from fedrounds_sites.phantom.check import FORM
from fedrounds_sites.profiles import Profile, SiteProfile
from fedrounds_sites.readers.phantom_glioma import PhantomGlioma


def write(folder: Path, text: str) -> str:
    file = folder / "mine.toml"
    file.write_text(text, "utf-8")
    return str(file)


def test_fets71_has_the_study_s_hospitals() -> None:
    profile = profiles.load("fets71")
    sizes = [site.cases for site in profile.sites.values()]
    assert (len(sizes), sum(sizes), sizes[0], sizes[-1]) == (71, 6314, 827, 1)
    assert sizes == sorted(sizes, reverse=True)
    assert profile.names("held-out") == ("s08", "s11", "s19", "s20", "s21", "s43")
    assert len(profile.names("initial")) == 16
    assert len(profile.timings.train_s_per_case) == 21
    assert len(profile.timings.upload_s) == 16


def test_fets71_is_what_the_facts_say(shared_data: Path) -> None:
    facts = json.loads((shared_data / "data/fets71/fets71.json").read_text("utf-8"))
    profile = profiles.load("fets71")
    assert {f"s{int(k):02d}": n for k, n in facts["cases_per_site"].items()} == {
        name: site.cases for name, site in profile.sites.items()
    }
    assert profile.names("initial") == tuple(f"s{k:02d}" for k in facts["initial_model_sites"])
    for name, entries in facts["timings"].items():
        assert getattr(profile.timings, name) == tuple(tuple(entry) for entry in entries)


def test_scaled_down_every_hospital_keeps_two_cases() -> None:
    counts = profiles.load("fets71").counts(0.06)
    assert counts["s01"] == 50  # 827 * 0.06 = 49.6
    assert min(counts.values()) == 2
    assert sum(counts.values()) == 402


def test_at_scale_one_the_sizes_are_the_real_ones() -> None:
    assert profiles.load("fets71").counts(1.0)["s71"] == 1


def test_the_digest_knows_every_number_and_no_order() -> None:
    profile = profiles.load("eight")
    turned = replace(profile, sites=dict(reversed(profile.sites.items())))
    assert turned.digest == profile.digest
    larger = replace(profile, sites={**profile.sites, "s1": replace(profile.sites["s1"], cases=25)})
    assert larger.digest != profile.digest
    assert replace(profile, version=2).digest != profile.digest


def test_every_shipped_profile_loads_under_its_own_name() -> None:
    assert {"eight", "fets71", "spoiled"} <= set(profiles.names())
    for name in profiles.names():
        assert profiles.load(name).name == name


def test_an_unknown_profile_is_named_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"FR-P01 .*did you mean 'fets71'"):
        profiles.load("fets17")


def test_a_profile_of_one_s_own_is_read_by_its_path(tmp_path: Path) -> None:
    file = write(tmp_path, 'name = "mine"\nversion = 3\n[sites]\na = { cases = 2, scanner = { noise = 0.0 } }\n')
    assert profiles.load(file) == Profile("mine", 3, {"a": SiteProfile(2, scanner={"noise": 0.0})})


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        ("a = { cases = 0 }", "sites.a.cases"),
        ('a = { cases = 2, role = "test" }', "sites.a.role"),
        ('a = { cases = 2, faults = ["late"] }', "sites.a.faults.0"),
        ("a = { cases = 2, size = 1 }", "sites.a.size"),
        ("a = { cases", "Expected '='"),
    ],
)
def test_a_fault_in_a_profile_is_named_by_its_key(tmp_path: Path, sites: str, said: str) -> None:
    with pytest.raises(DataError, match="FR-P02") as caught:
        profiles.load(write(tmp_path, f'name = "mine"\nversion = 1\n[sites]\n{sites}\n'))
    assert said in str(caught.value)


@pytest.mark.parametrize(("scanner", "said"), [("nois = 1", "did you mean 'noise'"), ('noise = "much"', "noise")])
def test_a_scanner_field_that_does_not_fit_is_named(tmp_path: Path, scanner: str, said: str) -> None:
    file = write(tmp_path, f'name = "mine"\nversion = 1\n[sites]\na = {{ cases = 2, scanner = {{ {scanner} }} }}\n')
    with pytest.raises(DataError, match="FR-P03") as caught:
        PhantomGlioma(profile=file).load(CaseRef("a-0000", "a-0000", "a"), FORM)
    assert said in str(caught.value)


def test_a_profile_s_scanner_overrides_the_drawn_one(tmp_path: Path) -> None:
    text = 'name = "mine"\nversion = 1\n[sites]\ns1 = {{ cases = 2, scanner = {{ gains = [{0}, {0}, {0}, {0}] }} }}\n'
    ref = CaseRef("s1-0000", "s1-0000", "s1")
    images = []
    for gain in (1.0, 3.0):
        folder = tmp_path / str(gain)
        folder.mkdir()
        images.append(PhantomGlioma(profile=write(folder, text.format(gain))).load(ref, FORM).image)
    assert images[1].sum() == pytest.approx(3 * images[0].sum(), rel=1e-5)
