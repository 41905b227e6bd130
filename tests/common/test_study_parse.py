"""A study file becomes one object, or every fault of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrounds_common.errors import Fault, StudyError, UsageError
from fedrounds_common.study.parse import StudyFile, parse_study, read_study
from fedrounds_common.study.study import Study
from fedrounds_common.study.tables import Table

HEAD = 'format = 1\nname = "chest"\n'


def parsed(text: str, *settings: str) -> StudyFile:
    return parse_study(text, Path("study.toml"), settings)


def faults_of(text: str, *settings: str) -> tuple[Fault, ...]:
    with pytest.raises(StudyError) as caught:
        parsed(text, *settings)
    return caught.value.faults


def fault_of(text: str, *settings: str) -> str:
    (fault,) = faults_of(text, *settings)
    return f"{fault.line} {fault.key}: {fault.message}"


def test_two_lines_are_a_whole_study() -> None:
    study = parsed(HEAD).study
    assert (study.task["name"], study.model["name"], study.strategy["name"]) == ("segmentation", "unet", "fedavg")
    assert study.wire == {"name": "float32", "down": {"name": "float32"}, "channel": {"name": "plain"}}
    assert (study.training.local_epochs, study.training.local_steps) == (1.0, None)


def test_a_plug_ins_table_holds_every_field_of_it() -> None:
    study = parsed(HEAD + '[strategy]\nname = "fedprox"\n').study
    assert set(study.strategy) == {"name", "mu", "weights"}


def test_a_name_alone_is_short_for_a_table_with_that_name() -> None:
    assert parsed(HEAD + 'strategy = "fedprox"\n').study == parsed(HEAD + '[strategy]\nname = "fedprox"\n').study


def test_a_study_builds_what_it_names() -> None:
    study = parsed(HEAD + '[strategy]\nname = "fedprox"\nmu = 0.5\n').study
    built = (study.build_task(), study.build_network(), study.build_strategy(), study.build_codec())
    assert [type(part).__name__ for part in built] == ["Segmentation", "UNet", "FedProx", "Float32"]
    assert getattr(built[2], "mu") == 0.5  # noqa: B009  (the base class has no such field)


NINE = """\
format = 1
name = "x"
[cases]
dims = 4
spacing_mm = [1.0, 1.0, 1.0]
[training]
rounds = "5"
learning_rate = nan
optimiser = "adma"
local_steps = 10
local_epochs = 1
[strategi]
name = "fedavg"
[cohort]
sites = ["a", "b"]
held_out = ["b"]
minimum = 3
[evaluation]
primary = "dise"
"""


def test_nine_faults_are_nine_lines_in_the_files_order() -> None:
    faults = faults_of(NINE)
    assert [(fault.line, fault.key) for fault in faults] == [
        (4, "cases.dims"),
        (7, "training.rounds"),
        (8, "training.learning_rate"),
        (9, "training.optimiser"),
        (10, "training.local_steps"),
        (12, "strategi"),
        (16, "cohort.held_out"),
        (17, "cohort.minimum"),
        (19, "evaluation.primary"),
    ]


def test_the_message_of_several_faults_has_one_line_each_and_names_the_file() -> None:
    with pytest.raises(StudyError) as caught:
        parsed(NINE)
    lines = str(caught.value).splitlines()
    assert lines[0] == "FR-S01 study.toml: 9 faults"
    assert lines[1] == "  line 4    cases.dims: 4 is not one of 2, 3"
    assert len(lines) == 10


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[training]\nrounds = 0", "4 training.rounds: 0: nothing would be learned; segmentation asks sites for no sums, so 1 or more"),
        ("[training]\nrounds = -1", "4 training.rounds: -1: must be greater than or equal to 0"),
        ("[training]\nrounds = 2.0", "4 training.rounds: 2.0: must be a whole number"),
        ("[training]\nrounds = true", "4 training.rounds: True: must be a whole number"),
        ("[training]\nroundz = 2", "4 training.roundz: there is no such key; did you mean 'rounds'?"),
        ("[training]\npatch = [8, 8]", "4 training.patch: [8, 8]: 3 numbers wanted, as cases.dims = 3"),
        ("[training]\npatch = [\n 8,\n 0,\n 8]", "6 training.patch.1: 0: must be greater than or equal to 1"),
        ("training = 3", "3 training: 3: must be a table, [training]"),
        ("privacy = 3", "3 privacy: 3: must be a list of tables, [[privacy]]"),
        ("[[privacy]]\nname = 'dp_sdg'", "4 privacy.0.name: 'dp_sdg' is not one of dp_sgd, hospital_dp, minimum_group (did you mean 'dp_sgd'?)"),
        ("[wire]\nchannel = 3", "4 wire.channel: 3: must be a table, [wire.channel]"),
        ("[wire]\ndown = 3", "4 wire.down: 3: must be a table, [wire.down]"),
        ('[wire]\ndown = "int9"', "4 wire.down.name: 'int9' is not one of float16, float32, int8, top_k (did you mean 'int8'?)"),
        ("[wire.down]\nname = 'int8'\nblock = 3", "5 wire.down.block: 3: must be greater than or equal to 8"),
        ("seed = -1", "3 seed: -1: must be greater than or equal to 0"),
        ("seed = 99999999999999999999", "3 seed: an integer past 64 bits: smaller is wanted"),
        ("seed = inf", "3 seed: inf: a finite number is wanted"),
        ("seed = 2024-01-01", "3 seed: 2024-01-01: a date or time has no use here; as text, put it in quotes"),
        ("[cases]\nchannels = []", "4 cases.channels: []: at least one is wanted, in the order of the network's inputs"),
        ("[cases]\nchannels = ['t1', 't1']", "4 cases.channels: t1: listed more than once"),
        ("[cases]\nlabels = { a = 1, b = 1 }", "4 cases.labels: {'a': 1, 'b': 1}: at least one is wanted, and no value twice"),
        ("[cases]\nlabels = { a = 0 }", "4 cases.labels.a: 0: must be greater than or equal to 1"),
        ("[cases]\nregions = { ET = ['core'] }", "4 cases.regions.ET: ['core']: names of labels wanted (target)"),
        ("[cases]\nlabels = { mean = 1 }", "4 cases.labels.mean: another name is wanted: the row of means is called so"),
        ("[cases]\nspacing_mm = [1]", "4 cases.spacing_mm: [1.0]: 3 numbers wanted, one a dimension"),
        ("[cases]\norientation = 'RSA'", "4 cases.orientation: 'RSA' is not one of RAS, LPS, LAS (did you mean 'RAS'?)"),
        ("[strategy]\nname = 'fedavgg'\nmu = 1", "4 strategy.name: 'fedavgg' is not one of fedavg, fedavgm, fedprox, median, trimmed_mean (did you mean 'fedavg'?)"),
        ("[strategy]\nname = 'fedprox'\nmu = -1", "5 strategy.mu: -1: must be greater than or equal to 0"),
        ("[evaluation]\nwindow = [8, 8]", "4 evaluation.window: [8, 8]: 3 numbers wanted, as cases.dims = 3"),
        ("[evaluation]\nfolds = 1", "4 evaluation.folds: 1: 0 for none, or at least 2"),
        ("[evaluation]\nfolds = 3\nfold = 3", "5 evaluation.fold: 3: must be below folds = 3 (the first is 0)"),
        ("[cohort]\nper_round = 1\nminimum = 2", "4 cohort.per_round: 1: at least minimum = 2 wanted, or 0 for all"),
        ("[cohort]\nsites = ['a']\nper_round = 2", "5 cohort.per_round: 2: only 1 sites are listed"),
        ("[cohort]\nheld_out = ['a']\ninitial_sites = ['a']", "5 cohort.initial_sites: a: in held_out too"),
        ("[simulations]\nworkers = 1", "3 simulations: there is no such table or key; did you mean 'simulation'?"),
        ("simulation = 1", "3 simulation: 1: must be a table, [simulation]"),
        ("[simulation]\nx = nan", "4 simulation.x: nan: a finite number is wanted"),
    ],
)  # fmt: skip
def test_a_fault_tells_its_line_the_value_and_what_is_wanted(body: str, message: str) -> None:
    assert fault_of(HEAD + body + "\n") == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format = 1\nname = \n", "2 file: 'name =': invalid value; this is not TOML"),
        ("a = 1\n\na = 2\n", "3 file: 'a = 2': this key or table stands twice; keep one"),
        ("[a]\n[b]\n[a]\n", "3 file: '[a]': this key or table stands twice; keep one"),
        ("x = [1,\n2\n", "2 file: '2': unclosed array; this is not TOML"),
        ("x = " + "[" * 5000, "0 file: brackets are nested too deep"),
        ("x = " + "9" * 5000, "0 file: a number has thousands of digits"),
    ],
)
def test_what_is_not_toml_is_told_with_its_line(text: str, message: str) -> None:
    assert fault_of(text) == message


def test_a_name_that_is_misspelt_is_missing_too() -> None:
    faults = faults_of("format = 1\n\nnmae = 'x'\n")
    assert [str(fault) for fault in faults] == [
        "line 1    name: must be given",
        "line 3    nmae: there is no such table or key; did you mean 'name'?",
    ]


def test_a_newer_format_is_refused_with_both_numbers_and_nothing_else() -> None:
    assert fault_of("format = 2\nnew_table = 1\n") == (
        "1 format: 2 is newer than 1, the newest this fedrounds reads; update fedrounds"
    )


@pytest.mark.parametrize("found", ["0", "-3"])
def test_a_format_that_never_was_is_refused(found: str) -> None:
    assert (
        fault_of(f'format = {found}\nname = "x"\n') == f"1 format: {found}: there is no such format; write format = 1"
    )


def test_wrong_fields_do_not_hide_the_rules_between_the_others() -> None:
    # the rule between spacing and dims is not checked: dims is wrong itself, and no one can say which is meant
    faults = faults_of(HEAD + "[cases]\ndims = 5\nspacing_mm = [1.0]\nchannels = ['a', 'a']\n")
    assert [fault.key for fault in faults] == ["cases.dims", "cases.channels"]


def test_none_switches_a_default_off() -> None:
    study = parsed(HEAD + '[training]\ngradient_norm = "none"\n[cases]\norientation = "none"\n').study
    assert (study.training.gradient_norm, study.cases.orientation) == (None, None)


def test_faults_of_the_rehearsal_get_their_lines_and_are_told_with_the_others() -> None:
    def more(table: Table, study: Study | None) -> list[Fault]:
        assert (table, study) == ({"reader": {"root": "nowhere"}}, None)
        return [Fault("simulation.reader.root", "no such folder")]

    text = HEAD + '[simulation.reader]\nroot = "nowhere"\n[training]\nrounds = 0\n'
    with pytest.raises(StudyError) as caught:
        parse_study(text, Path("study.toml"), more_faults=more)
    assert [(fault.line, fault.key) for fault in caught.value.faults] == [
        (4, "simulation.reader.root"),
        (6, "training.rounds"),
    ]


def test_a_strategy_that_reads_each_update_cannot_stand_beside_a_channel_that_hides_them(tmp_path: Path) -> None:
    for kind, text in {
        "strategies": (
            "from dataclasses import dataclass\nfrom fedrounds_common.strategy import Strategy\n"
            "@dataclass(frozen=True)\nclass Median(Strategy):\n    reads = 'each'\n"
            "    def aggregate(self, consensus, updates):\n        return consensus\n"
        ),
        "channels": (
            "from dataclasses import dataclass\nfrom fedrounds_common.channel import Channel\n"
            "@dataclass(frozen=True)\nclass Hidden(Channel):\n    hides_sites = True\n"
            "    def seen(self):\n        return 'Nothing.'\n"
        ),
    }.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "own.py").write_text(text)
    text = HEAD + 'strategy = "own"\n[wire]\nchannel = "own"\n'
    with pytest.raises(
        StudyError, match=r"a strategy that reads each update beside secure_sum: there are none to read"
    ):
        parse_study(text, Path("study.toml"), plugins=[tmp_path])
    assert parse_study(HEAD + 'strategy = "own"\n', Path("s.toml"), plugins=[tmp_path]).study.strategy == {
        "name": "own"
    }


@pytest.mark.parametrize(
    ("kind", "text", "table", "said"),
    [
        (
            "channels",
            "from dataclasses import dataclass\nfrom fedrounds_common.channel import Channel\n"
            "@dataclass(frozen=True)\nclass Masked(Channel):\n"
            "    def seen(self):\n        return 'Nothing.'\n",
            '[wire.channel]\nname = "own"\n',
            r"wire\.channel\.name: 'own': this version sends by plain",
        ),
        (
            "privacy",
            "from dataclasses import dataclass\nfrom fedrounds_common.privacy import Privacy\n"
            "@dataclass(frozen=True)\nclass Noise(Privacy):\n    unit = 'patient'\n"
            "    def spent(self, training, sites_by_round):\n        return None\n",
            '[[privacy]]\nname = "own"\n',
            r"privacy\.0\.name: Noise does nothing in a step, and nothing else of what this version carries out",
        ),
    ],
)
def test_a_protection_that_no_round_carries_out_is_refused_and_not_left_out_in_silence(
    tmp_path: Path, kind: str, text: str, table: str, said: str
) -> None:
    (tmp_path / kind).mkdir()
    (tmp_path / kind / "own.py").write_text(text)
    with pytest.raises(StudyError, match=said):
        parse_study(HEAD + table, Path("study.toml"), plugins=[tmp_path])


def test_a_plug_in_that_lacks_a_method_is_told_which(tmp_path: Path) -> None:
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies/own.py").write_text(
        "from fedrounds_common.strategy import Strategy\nclass Own(Strategy):\n    pass\n"
    )
    with pytest.raises(
        UsageError, match="holds 0 classes of Strategy; exactly one; still to be written in it: aggregate"
    ):
        parse_study(HEAD + 'strategy = "own"\n', Path("study.toml"), plugins=[tmp_path])


def test_a_plug_in_that_raises_when_it_is_imported_is_told_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies/own.py").write_text("import nothing_of_that_name\n")
    for _ in range(2):  # the second time it must not be taken for imported
        with pytest.raises(UsageError, match=r"own\.py: ModuleNotFoundError: No module named 'nothing_of_that_name'"):
            parse_study(HEAD + 'strategy = "own"\n', Path("study.toml"), plugins=[tmp_path])


def test_every_value_tells_where_it_comes_from() -> None:
    text = HEAD + "[training]\nrounds = 3\nbatch = 4\n[simulation]\nworkers = 2\n"
    read = parsed(text, "training.batch=8", "seed=7")
    assert (read.study.training.batch, read.study.seed) == (8, 7)
    wanted = {
        "name": "line 2",
        "training.rounds": "line 4",
        "training.batch": "command line",
        "training.amp": "default",
        "seed": "command line",
        "strategy.name": "default",
        "simulation.workers": "line 7",
    }
    assert {key: read.origins[key] for key in wanted} == wanted


def test_a_fault_of_the_command_line_says_so_and_has_no_line() -> None:
    text = HEAD + "[training]\nrounds = 3\n"
    assert fault_of(text, "training.rounds=-1") == (
        "0 training.rounds: -1: must be greater than or equal to 0 (given on the command line)"
    )


# ---------------------------------------------------------------- files


def written(folder: Path, data: bytes) -> Path:
    file = folder / "study.toml"
    file.write_bytes(data)
    return file


def test_a_mark_that_windows_editors_put_first_is_read_over(tmp_path: Path) -> None:
    assert read_study(written(tmp_path, b"\xef\xbb\xbf" + HEAD.encode())).study.name == "chest"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEAD.encode() + b"# caf\xe9\n", r"line 3    file: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        (HEAD.encode("utf-16"), r"line 1    file: the file is UTF-16; save it as UTF-8"),
        (b"#" * 10_000_000, r"10,000,000 bytes; at most 1,000,000: a study holds settings, not data"),
    ],
)
def test_a_file_that_is_no_utf8_text_of_a_studys_size_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        read_study(written(tmp_path, data))


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    written(tmp_path, HEAD.encode())
    with pytest.raises(UsageError, match=r"there is no such file; a study file \(TOML\); did you mean .*study\.toml\?"):
        read_study(tmp_path / "stduy.toml")
    with pytest.raises(UsageError, match="is a folder"):
        read_study(tmp_path)
