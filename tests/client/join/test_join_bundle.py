"""Only bundles of studies pass: no program, no other entry point, nothing to install, no path that leads away."""

from __future__ import annotations

import hashlib
import io
import stat
import tomllib
import zipfile
from pathlib import Path

import pytest
import tomli_w

from fedrounds_client.join.bundle import COMPONENTS, check_bundle
from fedrounds_common.errors import RefusedError

PROJECT = tomli_w.dumps(
    {
        "project": {
            "name": "fedrounds-app",
            "version": "1.0.0",
            "license": "Apache-2.0",
            "dependencies": ["flwr>=1.41"],
        },
        "tool": {"flwr": {"app": {"publisher": "fedrounds", "components": COMPONENTS, "config": {"study": ""}}}},
    }
)
FILES = {"pyproject.toml": PROJECT, "LICENSE": "Apache", "studies/demo.toml": "format = 1", ".info/CONTENT": "x"}


def packed(*changed: tuple[str | zipfile.ZipInfo, str | bytes], without: str = "") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in FILES.items():
            if name not in (without, *(str(entry) for entry, _ in changed)):
                archive.writestr(name, text)
        for entry, body in changed:
            archive.writestr(entry, body)
    return stream.getvalue()


def check(content: bytes) -> None:
    check_bundle(content, hashlib.sha256(content).hexdigest())


def refusal(content: bytes) -> str:
    with pytest.raises(RefusedError) as raised:
        check(content)
    assert raised.value.code == "FR-E47"
    assert hashlib.sha256(content).hexdigest() in str(raised.value)
    return raised.value.found


def project(old: str, new: str) -> bytes:
    assert old in PROJECT
    return packed(("pyproject.toml", PROJECT.replace(old, new)))


def test_a_bundle_of_studies_passes() -> None:
    check(packed())


def test_the_bundle_that_flower_builds_of_this_repository_passes(repo: Path) -> None:
    from flwr.cli.build import build_fab_from_files

    paths = [repo / "pyproject.toml", repo / "LICENSE", *sorted((repo / "studies").glob("*.toml"))]
    content, _ = build_fab_from_files({str(path.relative_to(repo)): path for path in paths})
    assert tomllib.loads((repo / "pyproject.toml").read_text())["project"]["dependencies"]  # ours, all of them
    check(content)


@pytest.mark.parametrize(
    "name",
    ["sitecustomize.py", "fedrounds_client/app.py", "studies/x.py", "torch.so", "x.pth", "studies/x.pyc", "../pyproject.toml",
     "/etc/x.toml", "studies/../../x.toml", "studies\\x.toml", "studies/a/b.toml", "studies/", "STUDIES/x.toml",
     "studies/.toml", "pyproject.toml\n", "lib/x.toml", "uv.lock", "studies/x.toml.py"],
)  # fmt: skip
def test_any_other_name_refuses_the_whole(name: str) -> None:
    assert "it holds" in refusal(packed((name, "x")))


def test_a_link_is_no_plain_file() -> None:
    link = zipfile.ZipInfo("studies/x.toml")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "no plain file" in refusal(packed((link, "/etc/shadow")))


def test_one_name_twice_is_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = packed(("studies/x.toml", "a"), ("studies/x.toml", "b"))
    assert "twice" in refusal(content)


@pytest.mark.parametrize(
    ("old", "new"),
    [("fedrounds_client.app:app", "os:system"), ("fedrounds_client.app:app", "fedrounds_client.app:other"),
     ("fedrounds_server.app:app", "evil:app"), ("clientapp", "agentapp"), ("serverapp", "extra = 1\nserverapp")],
)  # fmt: skip
def test_other_entry_points_are_refused(old: str, new: str) -> None:
    assert "entry points" in refusal(project(old, new))


@pytest.mark.parametrize(
    "line",
    ["evil", "flwr>=99", "torch @ https://evil.example/torch.whl", "flwr-evil>=1", "flwr evil", "git+https://x/y"],
)
def test_a_dependency_that_is_not_installed_here_is_refused(line: str) -> None:
    assert "installed" in refusal(project("flwr>=1.41", line))


def test_too_much_is_refused_before_it_is_opened() -> None:
    assert "too many" in refusal(packed(("studies/x.toml", b"\0" * 9_000_000)))
    assert "at most" in refusal(b"x" * 2_000_001)
    assert "too many" in refusal(packed(*((f"studies/s{n}.toml", "") for n in range(250))))


@pytest.mark.parametrize("content", [b"", b"PK", packed()[:-30], packed(without="pyproject.toml")])
def test_what_cannot_be_read_is_refused(content: bytes) -> None:
    refusal(content)


def test_a_project_that_is_no_toml_is_refused() -> None:
    refusal(packed(("pyproject.toml", "[")))
    refusal(packed(("pyproject.toml", "tool = 1")))
    refusal(packed(("pyproject.toml", b"\xff\xfe")))


def test_a_bundle_of_another_digest_than_the_run_names_is_refused() -> None:
    with pytest.raises(RefusedError, match="the run names another bundle"):
        check_bundle(packed(), "0" * 64)
