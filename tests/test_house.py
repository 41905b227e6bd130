"""The house holds: arrows, forbidden calls, light front door, described codes, no machine's traces."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGES = (
    "common/fedrounds",
    "common/fedrounds_common",
    "sites/fedrounds_sites",
    "client/fedrounds_client",
    "server/fedrounds_server",
)
MODULES = sorted(file for package in PACKAGES for file in (REPO / package).rglob("*.py"))
MAY_LOAD_BY_NAME = {"common/fedrounds_common/plugins.py"}
MAY_SEED_TORCH = {"common/fedrounds_common/rng.py"}

# what runs code out of data, and what loads it by name
RUNS_DATA = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.save", "yaml.load",
    "yaml.unsafe_load", "yaml.full_load", "joblib.load", "runpy.run_path", "runpy.run_module",
}  # fmt: skip
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
LOADS_BY_NAME = {"import_module", "__import__", "spec_from_file_location"}
SEEDS_GLOBALLY = {"manual_seed_all", "fork_rng"}

# a folder of somebody's machine: home folders, mounted work folders, local indexes
MACHINE = re.compile(r"(?<![\w.~$}])/(?:home/(?!fedrounds\b)\w+|root|Users/\w+|work)/|file://|[Ii]ndex-url[ =]+http")
CODE = re.compile(r"\bFR-[A-Z]\d{2}\b")


def place(file: Path) -> str:
    return file.relative_to(REPO).as_posix()


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Every text file that git knows, or every file if this is not a checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=False)
    names = listed.stdout.split("\0") if listed.returncode == 0 else [place(file) for file in MODULES]
    for name in names:
        file = REPO / name
        if not name or not file.is_file():
            continue
        try:
            yield name, file.read_text("utf-8")
        except UnicodeDecodeError:
            continue


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain, the name of a name, else nothing."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inside = dotted(node.value)
        return f"{inside}.{node.attr}" if inside else node.attr
    return ""


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def dangers(source: str) -> set[str]:
    """Names in a source text that could run code out of data."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        found |= {name for name in imported(node) if name.split(".")[0] in PICKLES or name in RUNS_DATA}
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            # torch reads tensors and plain containers only, where it is told to
            harmless = name == "torch.load" and _says(node, "weights_only", True)
            if (name in RUNS_DATA and not harmless) or _says(node, "allow_pickle", True) or _says(node, "shell", True):
                found.add(name)
    return found


def _says(call: ast.Call, keyword: str, value: object) -> bool:
    return any(
        word.arg == keyword and isinstance(word.value, ast.Constant) and word.value.value is value
        for word in call.keywords
    )


def calls(source: str, names: set[str]) -> set[str]:
    """Calls and imports whose last word is one of `names`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        words = imported(node) + ([dotted(node.func)] if isinstance(node, ast.Call) else [])
        found |= {word for word in words if word.split(".")[-1] in names}
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as c",
        "eval('1')",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=maybe)",
        "from torch import load",
        "yaml.load(f)",
        "np.load(f, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
        "__import__(name)",
    ],
)
def test_the_search_for_dangers_finds_each_of_them(source: str) -> None:
    assert dangers(source)


@pytest.mark.parametrize(
    "source",
    [
        "re.compile('a')",
        "torch.load(f, weights_only=True)",
        "np.load(f)",
        "np.load(f, allow_pickle=False)",
        "yaml.safe_load(f)",
    ],
)
def test_the_search_for_dangers_leaves_the_harmless_alone(source: str) -> None:
    assert not dangers(source)


def test_no_module_runs_code_out_of_data() -> None:
    assert {place(file): found for file in MODULES if (found := dangers(file.read_text("utf-8")))} == {}


def test_only_plugins_loads_by_name() -> None:
    found = {place(file) for file in MODULES if calls(file.read_text("utf-8"), LOADS_BY_NAME)}
    assert found == MAY_LOAD_BY_NAME


def test_only_rng_touches_the_global_generators() -> None:
    found = set()
    for file in MODULES:
        source = file.read_text("utf-8")
        direct = {"torch.manual_seed", "torch.seed", "np.random.seed", "numpy.random.seed", "random.seed"}
        if calls(source, SEEDS_GLOBALLY) or any(dotted_call in direct for dotted_call in _calls_in(source)):
            found.add(place(file))
    assert found == MAY_SEED_TORCH


def _calls_in(source: str) -> set[str]:
    return {dotted(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}


def test_every_class_is_abstract_or_final_and_never_both() -> None:
    classes: dict[str, tuple[set[str], bool]] = {}
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {dotted(base.value if isinstance(base, ast.Subscript) else base) for base in node.bases}
                final = any(dotted(mark) == "final" for mark in node.decorator_list)
                classes[f"{place(file)}:{node.name}"] = (bases, final)
    parents = {"ABC", "Protocol"}.union(*(bases for bases, _ in classes.values()))

    def abstract(name: str, bases: set[str]) -> bool:
        return bool(bases & {"ABC", "Protocol"}) or name.split(":")[1] in parents

    assert [name for name, (bases, final) in classes.items() if final == abstract(name, bases)] == []


def test_functions_and_files_stay_short_enough_to_read() -> None:
    long = []
    for file in MODULES:
        source = file.read_text("utf-8")
        long += [place(file)] if len(source.splitlines()) > 400 else []
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and lines_of_code(node) > 60:
                long.append(f"{place(file)}:{node.name}")
    assert long == []


def lines_of_code(function: ast.FunctionDef) -> int:
    """From the first line to the last, without the docstring: a long one is no fault."""
    said = ast.get_docstring(function)
    return (function.end_lineno or 0) - function.lineno - (len(said.splitlines()) if said else 0)


def test_plugins_of_the_coordinator_name_common_packages_only() -> None:
    from fedrounds_common.plugins import PACKAGES as SHARED
    from fedrounds_common.plugins import SITE_PACKAGES

    assert {package.split(".")[0] for package in SHARED.values()} == {"fedrounds_common"}
    assert {package.split(".")[0] for package in SITE_PACKAGES.values()} == {"fedrounds_sites"}


def test_the_import_arrows_hold() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    linted = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout[-3000:] + linted.stderr[-1000:]


def test_the_front_door_opens_without_the_heavy_libraries() -> None:
    heavy = ["torch", "monai", "numpy", "ray", "flwr", "opacus", "scipy", "matplotlib", "pydantic", "fedrounds_sites"]
    program = (
        "import sys, json; before = set(sys.modules); import fedrounds, fedrounds.cli.main; "
        f"print(json.dumps([name for name in {heavy!r} if name in sys.modules and name not in before]))"
    )
    # a coverage hook in the child would import more than the program does
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COV_")}
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=clean)
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == []


def described_codes() -> dict[str, dict[str, str]]:
    codes: dict[str, dict[str, str]] = {}
    for file in sorted((REPO / "common/fedrounds_common/codes").glob("*.toml")):
        for code, text in tomllib.loads(file.read_text("utf-8")).items():
            assert code not in codes, f"{code} is described twice"
            assert code[3].lower() == file.stem, f"{code} is described in {file.name}"
            codes[code] = text
    return codes


def used_codes() -> dict[str, str]:
    return {code: place(file) for file in MODULES for code in CODE.findall(file.read_text("utf-8"))}


def test_every_code_that_is_raised_is_described() -> None:
    described = described_codes()
    assert {code: where for code, where in used_codes().items() if code not in described} == {}


def test_every_described_code_is_raised_somewhere() -> None:
    assert set(described_codes()) - set(used_codes()) == set()


def test_every_description_says_what_why_and_what_to_do() -> None:
    short = {
        code: text for code, text in described_codes().items() if not all(text.get(k) for k in ("title", "why", "do"))
    }
    assert short == {}


def test_the_search_for_machine_paths_finds_them() -> None:
    home = "/" + "home/ada/data"
    assert MACHINE.search(f"root = '{home}'")
    assert not MACHINE.search("COPY --from=build /opt/fedrounds /opt/fedrounds")


def test_no_file_names_the_machine_it_was_written_on() -> None:
    here = {str(REPO) + "/", str(Path.home()) + "/", sys.prefix + "/"}
    found = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in tracked_texts()
        if name != place(Path(__file__))
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE.search(line) or any(path in line for path in here)
    ]
    assert found == []


def test_constraints_name_exact_public_versions_and_no_torchvision() -> None:
    lines = [line for line in (REPO / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    names = [line.split("==")[0] for line in lines]
    assert names == sorted(names)
    assert len(names) == len(set(names))
    assert not {"torchvision", "torchaudio", "fedrounds"} & set(names)


def test_constraints_hold_every_direct_dependency() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += [line for line in extra if not line.startswith("fedrounds")]
    names = {re.split(r"[\[<>=!~;]", line)[0].strip().lower().replace("_", "-") for line in wanted}
    held = {line.split("==")[0] for line in (REPO / "constraints.txt").read_text("utf-8").splitlines() if "==" in line}
    assert names - held == set()


def test_torchvision_is_not_installed_here() -> None:
    from importlib.metadata import distributions

    assert "torchvision" not in {str(found.metadata["Name"]).lower() for found in distributions()}


def test_images_of_others_lie_beside_their_licence_and_the_notice_names_them() -> None:
    notice = (REPO / "NOTICE").read_text("utf-8")
    found = (file for part in ("sites", "tests/data") for file in (REPO / part).rglob("*"))
    folders = {file.parent for file in found if file.name.endswith((".dcm", ".nii.gz", ".npz", ".png"))}
    assert len(folders) >= 5
    for folder in folders:
        home = next(place for place in (folder, folder.parent) if list(place.glob("LICENCE*")))
        assert home.relative_to(REPO).as_posix() in notice
        said = "".join(file.read_text("utf-8") for file in home.glob("LICENCE*"))
        assert "http" in said or "Copyright" in said, f"{home}: where is the licence stated?"
