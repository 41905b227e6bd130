"""`fedrounds site …` as a data manager types it: what is answered, with which status, and that it needs no coordinator."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Fedrounds = Callable[..., Any]
STUDY = """
[model]
name = "tiny_unet"
channels = [8]
[cases]
dims = 2
channels = ["grey"]
orientation = "none"
[training]
rounds = 2
local_steps = 2
[evaluation]
local_validation = 0.0
resamples = 10
"""


@pytest.fixture(autouse=True)
def own_umask() -> Iterator[None]:
    before = os.umask(0o022)  # a verb of a site sets it for good
    yield
    os.umask(before)


@pytest.fixture
def site(fedrounds: Fedrounds, pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site made by the verb, with three pictures of its own and nothing allowed; later verbs find it by itself."""
    data = [f"data.root={pictures()}", r"data.pattern=(?P<site>[^_/]+)_(?P<patient>[^_/]+)\.png$", "data.only=a"]
    settings = [part for entry in (*data, "policy.minimum_cases=1") for part in ("-s", entry)]
    said = fedrounds("site", "init", "oslo", "--name", "a", "--reader", "image_pairs", *settings)
    assert said.status == 0, said
    monkeypatch.setenv("FEDROUNDS_SITE", str(tmp_path / "oslo"))
    return tmp_path / "oslo"


@pytest.fixture
def ask(site: Path, study: Callable[..., Path]) -> Callable[..., Any]:
    """Sends the site a request as its coordinator would; returns the answer."""
    from fedrounds_client.boundary import answer_enrolled
    from fedrounds_client.home import SiteHome
    from fedrounds_client.site import build_parts
    from fedrounds_common.arrays import of_module
    from fedrounds_common.disk import write_json
    from fedrounds_common.leaving import Ask, from_wire, signed_bytes, to_wire
    from fedrounds_common.signing import SigningKey, sign_json
    from fedrounds_common.study.canonical import canonical_text, digest
    from fedrounds_common.study.parse import read_study

    key, home = SigningKey.create(), SiteHome(site)
    table = {"format": 1, "kind": "invitation", "site": "a", "coordinator": key.public.text}
    write_json(home.invitation, sign_json(key, table))
    file = study(STUDY)

    def send(kind: str = "train", round_: int = 1, overrides: tuple[str, ...] = ()) -> Any:
        read = read_study(file, overrides).study
        arrays = of_module(build_parts(read).module())
        request = Ask(kind, "0001-small", round_, f"n{round_}", canonical_text(read), digest(read), arrays=arrays)  # type: ignore[arg-type]
        header, buffer = to_wire(request)
        return from_wire(*answer_enrolled(header, buffer, key.sign(signed_bytes(header, buffer)), site)[:2])

    return send


def waiting(fedrounds: Fedrounds) -> list[dict[str, Any]]:
    return list(fedrounds("site", "review", "--format", "json").envelope["data"]["waiting"])


def test_a_new_site_allows_nothing_and_tells_its_fingerprint(fedrounds: Fedrounds, site: Path) -> None:
    assert waiting(fedrounds) == []
    assert "no study waits" in fedrounds("site", "review").out
    assert "nothing was allowed" in fedrounds("site", "allow", "--all").out
    again = fedrounds("site", "init", "bergen", "--name", "b", "--reader", "phantom_glioma", "--format", "json")
    assert len(again.envelope["data"]["fingerprint"]) == 49
    assert site.stat().st_mode & 0o777 == 0o700


def test_a_site_is_not_made_twice(fedrounds: Fedrounds, site: Path) -> None:
    said = fedrounds("site", "init", site, "--name", "a", "--reader", "phantom_glioma")
    assert said.status == 2
    assert "FR-C28" in said.err


def test_settings_with_faults_make_no_site(fedrounds: Fedrounds, tmp_path: Path) -> None:
    said = fedrounds("site", "init", "x", "--name", "a b", "--reader", "nifti_folder", "-s", "policy.rounds=0")
    assert said.status == 3
    assert all(key in said.err for key in ("name", "data.root", "policy.rounds"))
    assert not (tmp_path / "x").exists()


def test_outside_a_sites_folder_the_verbs_say_where_they_looked(fedrounds: Fedrounds, tmp_path: Path) -> None:
    for verb in (["review"], ["allow", "--all"], ["refuse", "ab"], ["pause"], ["leave"], ["outbox"], ["journal"]):
        said = fedrounds("site", *verb)
        assert said.status == 2, verb
        assert "FR-C23" in said.err
        assert str(tmp_path) in said.err


def test_from_a_request_to_a_yes_to_an_update(fedrounds: Fedrounds, ask: Callable[..., Any]) -> None:
    assert ask("hello").code == "FR-C02"
    (found,) = waiting(fedrounds)
    assert (found["name"], found["cases"]["found"], found["times"]) == ("small", 3, 1)
    screen = fedrounds("site", "review").out
    assert found["study"] in screen
    assert "3 cases of 3 patients" in screen
    said = fedrounds("site", "allow", found["study"][:10], "--rounds", "1")
    assert said.status == 0
    assert "for 1 rounds" in said.out
    assert ask("train").kind == "update"
    assert ask("train", 2).code == "FR-C10"
    (again,) = waiting(fedrounds)
    assert (again["why"], again["used"]) == ("FR-C10", 1)
    assert fedrounds("site", "allow", "--all").status == 0
    assert ask("train", 2).kind == "update"


@pytest.mark.parametrize(
    ("options", "code", "status"),
    [
        (["--rounds", "101"], "FR-C15", 7),
        (["--until", "2999-01-01"], "FR-C15", 7),
        (["--rounds", "0"], "FR-C30", 2),
        (["--until", "2001-01-01"], "FR-C30", 2),
        (["--until", "soon"], "FR-C30", 2),
    ],
)
def test_a_yes_stays_within_the_policy(
    options: list[str], code: str, status: int, fedrounds: Fedrounds, ask: Callable[..., Any]
) -> None:
    ask("hello")
    said = fedrounds("site", "allow", "--all", *options)
    assert said.status == status
    assert code in said.err
    assert ask("hello").code == "FR-C02"


def test_a_study_that_the_policy_forbids_cannot_be_allowed(
    fedrounds: Fedrounds, ask: Callable[..., Any], site: Path
) -> None:
    ask("hello")
    file = site / "site.toml"
    file.write_text(file.read_text().replace('minimum_privacy = "none"', 'minimum_privacy = "patient"'))
    said = fedrounds("site", "allow", "--all")
    assert said.status == 7
    assert "FR-C14" in said.err
    assert list((site / "permits").iterdir()) == []


def test_a_study_is_named_or_all_are(fedrounds: Fedrounds, ask: Callable[..., Any]) -> None:
    ask("hello")
    for arguments in ([], ["ab", "--all"]):
        assert "FR-C31" in fedrounds("site", "allow", *arguments).err
    assert "FR-C24" in fedrounds("site", "allow", "0000").err
    assert "FR-C24" in fedrounds("site", "review", "zz").err


def test_a_no_can_become_a_yes(fedrounds: Fedrounds, ask: Callable[..., Any]) -> None:
    ask("hello")
    (found,) = waiting(fedrounds)
    assert fedrounds("site", "refuse", found["study"][:8]).status == 0
    assert ask("hello").code == "FR-C21"
    assert waiting(fedrounds) == []
    assert fedrounds("site", "allow", found["study"][:8]).status == 0
    assert ask("hello").kind == "hello"


def test_pause_and_resume(fedrounds: Fedrounds, ask: Callable[..., Any]) -> None:
    ask("hello")
    fedrounds("site", "allow", "--all")
    assert fedrounds("site", "pause", "--format", "json").envelope["data"] == {"paused": True, "changed": True}
    assert fedrounds("site", "pause", "--format", "json").envelope["data"]["changed"] is False
    assert ask("hello").code == "FR-C05"
    assert fedrounds("site", "resume").out.strip() == "goes on"
    assert "not paused" in fedrounds("site", "resume").out
    assert ask("hello").kind == "hello"


def test_leaving_deletes_images_and_models_and_keeps_the_books(
    fedrounds: Fedrounds, ask: Callable[..., Any], site: Path
) -> None:
    ask("hello")
    fedrounds("site", "allow", "--all")
    ask("train")
    assert list(site.glob("runs/*/cache/*.case"))
    assert list(site.glob("runs/*/state/*"))
    freed = fedrounds("site", "leave", "--format", "json").envelope["data"]["bytes_deleted"]
    assert freed > 0
    assert list((site / "runs").iterdir()) == []
    assert ask("hello").code == "FR-C06"
    assert fedrounds("site", "journal", "--verify").status == 0
    events = [line["event"] for line in fedrounds("site", "journal", "--format", "json").envelope["data"]["lines"]]
    assert events == ["asked", "permitted", "trained", "left", "refused"]
    assert (site / "outbox.jsonl").is_file()


def test_the_outbox_lists_what_left(fedrounds: Fedrounds, ask: Callable[..., Any]) -> None:
    assert "nothing has left" in fedrounds("site", "outbox").out
    ask("hello")
    fedrounds("site", "allow", "--all")
    ask("train")
    data = fedrounds("site", "outbox", "--format", "json").envelope["data"]
    assert [line["kind"] for line in data["payloads"]] == ["refusal", "update"]
    assert data["bytes"] == sum(line["bytes"] for line in data["payloads"])
    assert data["payloads"][1]["sha256"][:16] in fedrounds("site", "outbox").out


MEDDLING: dict[str, tuple[str, Callable[[str], str], str]] = {
    "a journal's line": ("journal.jsonl", lambda text: text.replace('"rounds": 2', '"rounds": 200'), "FR-F40"),
    "a permit": ("permits/*.json", lambda text: text.replace('"rounds": 2', '"rounds": 200'), "FR-C07"),
    "the ledger": ("outbox.jsonl", lambda text: text.splitlines()[0] + "\n", "FR-F40"),
}


@pytest.mark.parametrize("what", MEDDLING)
def test_meddling_with_the_books_is_found(what: str, fedrounds: Fedrounds, ask: Callable[..., Any], site: Path) -> None:
    ask("hello")
    fedrounds("site", "allow", "--all")
    ask("train")
    well = fedrounds("site", "journal", "--verify", "--format", "json").envelope["data"]
    assert (well["lines"], well["permits"], well["payloads"]) == (3, 1, 2)
    pattern, meddle, code = MEDDLING[what]
    (file,) = site.glob(pattern)
    before = file.read_text()
    file.write_text(meddle(before))
    assert file.read_text() != before
    said = fedrounds("site", "journal", "--verify")
    assert said.status in (4, 7)
    assert code in said.err


def test_lineage_names_the_first_consensus_that_holds_a_trace(fedrounds: Fedrounds, ask: Callable[..., Any]) -> None:
    ask("hello")
    fedrounds("site", "allow", "--all")
    ask("train", 1)
    ask("train", 2)
    said = fedrounds("lineage", "p1", "--format", "json").envelope["data"]
    assert said["first_round"] == {"0001-small": 1}
    assert [sight["round"] for sight in said["sights"]] == [1, 2]
    assert "the consensus of round 1 and of every later round" in fedrounds("lineage", "p1").out
    assert "no round here" in fedrounds("lineage", "nobody").out


def test_lineage_names_the_sums_that_a_patient_is_in(fedrounds: Fedrounds, ask: Callable[..., Any], site: Path) -> None:
    from datetime import UTC, datetime

    from fedrounds_client.home import SiteHome
    from fedrounds_client.lineage import see
    from fedrounds_common.leaving import Ask

    for purpose, round_ in (("classes", 0), ("temperature", 2)):
        see(
            SiteHome(site),
            Ask("statistics", "0001-small", round_, "n", "", "d", purpose=purpose),
            ["p1"],
            datetime.now(UTC),
        )
    said = fedrounds("lineage", "p1").out
    assert "0001-small: in what sums over all sites settled before round 1, and so in all" in said
    assert "0001-small: in what sums over all sites settled after round 2" in said
    assert "sums" not in fedrounds("lineage", "p2").out


def test_the_screen_of_a_second_study_shows_what_is_new(fedrounds: Fedrounds, ask: Callable[..., Any]) -> None:
    ask("hello")
    fedrounds("site", "allow", "--all")
    ask("hello", 0, ("training.local_steps=3",))
    out = fedrounds("site", "review").out
    assert "1 value" in out
    assert "training.local_steps: 2 → 3" in out


def test_the_answers_are_json_all_through(fedrounds: Fedrounds, ask: Callable[..., Any]) -> None:
    ask("hello")
    for verb in (["review"], ["allow", "--all"], ["journal"], ["outbox"], ["pause"], ["resume"]):
        said = fedrounds("site", *verb, "--format", "json")
        assert json.loads(said.out)["status"] == "ok", verb
