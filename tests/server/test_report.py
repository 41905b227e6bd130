"""The page is one file that says what is in the folder, hides no failure and shows no case it may not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from fedrounds_common.errors import RunFileError
from fedrounds_common.explain import explanations
from fedrounds_server.history import SiteLine
from fedrounds_server.report.folder import read_run
from fedrounds_server.report.honesty import limits, privacy, what_left
from fedrounds_server.report.page import page, write_report
from fedrounds_server.report.results import models_table, regions_table
from fedrounds_server.report.runs import table_of_runs
from fedrounds_server.report.sites import failures_table, hospital_tables, left_out_table, measures_table, traffic_table
from fedrounds_server.report.summary import summary
from fedrounds_server.report.table import Table, as_lines
from fedrounds_server.report.words import ended, in_short, took_part
from fedrounds_server.tables import read_metrics, write_metrics

Write = Callable[..., Path]
VOID = {"meta", "img", "br", "link", "input", "hr"}


@dataclass
class Page(HTMLParser):
    """Reads a page and keeps what the tests ask about; fails on tags that do not nest."""

    open: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    def of(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def read_page(text: str) -> Page:
    read = Page()
    read.feed(text)
    assert read.open == []
    return read


@pytest.fixture(scope="module")
def report(default_run: Path) -> str:
    return write_report(default_run).read_text(encoding="utf-8")


def words_of(text: str) -> str:
    return " ".join(" ".join(read_page(text).text).split())


def quick_page(path: Path, with_sites: bool = True) -> str:
    """The page without its figures, which are drawn elsewhere."""
    return page(read_run(path, with_sites), ())


# ---------------------------------------------------------------- one file, for everybody


def test_the_page_needs_no_other_file_and_no_script(report: str) -> None:
    read = read_page(report)
    assert read.of("script", "link", "iframe", "object") == []
    assert not re.search(r"""(?:https?:)?//\w|@import|url\(""", re.sub(r"base64,[\w+/=]+", "", report))
    sources = [image["src"] or "" for image in read.of("img")]
    assert len(sources) == 7
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert all((link["href"] or "").startswith("#") for link in read.of("a"))


def test_every_link_has_its_target(report: str) -> None:
    read = read_page(report)
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {(link["href"] or "")[1:] for link in read.of("a")}
    labels = {attributes["aria-labelledby"] for _, attributes in read.tags if "aria-labelledby" in attributes}
    assert links | labels <= set(ids)


def test_a_screen_reader_finds_language_headings_captions_and_scopes(report: str) -> None:
    read = read_page(report)
    assert read.of("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(len(image["alt"] or "") > 40 for image in read.of("img"))
    assert all({"width", "height"} <= set(image) for image in read.of("img"))
    assert len(read.of("caption")) == len(read.of("table")) >= 6
    assert all(cell.get("scope") in ("row", "col") for cell in read.of("th"))
    # what scrolls sideways can be reached by keyboard
    assert all(box.get("tabindex") == "0" for box in read.of("div") if box.get("class") == "scroll")


def test_a_name_from_outside_is_text_and_never_markup(fake_run: Write) -> None:
    path = fake_run()
    evil = '<img src=x onerror="alert(1)">'
    status = json.loads((path / "status.json").read_text())
    (path / "status.json").write_text(json.dumps({**status, "failed": {evil: "error:<b>FR-D07</b>"}}))
    study = (path / "study.resolved.toml").read_text()
    (path / "study.resolved.toml").write_text(study.replace('name = "fake"', "name = '</title><script>x</script>'"))
    made = quick_page(path)
    read = read_page(made)
    assert read.of("script", "b") == []
    assert not any("onerror" in attributes for _, attributes in read.tags)
    assert evil in "".join(read.text)


def test_the_same_folder_gives_the_same_page(default_run: Path, report: str) -> None:
    assert quick_page(default_run) == quick_page(default_run)
    assert not re.search(r"\d{4}-\d\d-\d\dT", report.replace("2025-01-01T00:00:00+00:00", ""))


def test_light_and_dark_paper_and_screen_are_provided_for(report: str) -> None:
    for rule in ("@media (prefers-color-scheme: dark)", "@media print", "@media (max-width: 40rem)"):
        assert rule in report


# ---------------------------------------------------------------- what it says


def test_the_models_table_holds_the_folders_numbers(fake_run: Write) -> None:
    path = fake_run(sites=14, held_out=6)
    run = read_run(path)
    table = models_table(run)
    assert table is not None
    at = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    rows = [row for row in run.rows if row.cohort == "held-out" and row.region == "mean" and row.round == 4]
    ours = {row.site: row for row in rows if row.model == "consensus" and row.site != "all"}
    pooled = {row.site: row for row in rows if row.model == "pooled" and row.site != "all"}
    mean = sum(row.value for row in ours.values()) / 6
    assert at["consensus"]["Mean over hospitals"].startswith(f"{mean:.2f} [")
    total = next(row for row in rows if row.model == "consensus" and row.site == "all")
    assert at["consensus"]["Mean over cases"] == f"{total.value:.2f} [{total.low:.2f}, {total.high:.2f}]"
    difference = sum(ours[site].value - pooled[site].value for site in ours) / 6
    assert at["pooled"]["Consensus minus it"].startswith(f"−{-difference:.3f} [−")
    assert at["pooled"]["Better at"] == "0 of 6"
    assert at["pooled"]["Verdict"] == "shown: worse"
    assert at["floor"]["Verdict"] == "shown: better"
    assert at["consensus"]["Cases"] == str(sum(row.n for row in ours.values()))
    worst = min(ours.values(), key=lambda row: row.value)
    assert at["consensus"]["Worst hospital"] == f"{worst.site}: {worst.value:.2f}"
    assert table.rows[next(iter(table.strong))][0] == "consensus"


def test_counts_of_empties_stand_beside_every_mean(fake_run: Write) -> None:
    run = read_run(fake_run())
    # s07 missed one in every region, and it is no held-out hospital
    [held_out, local] = hospital_tables(run)
    assert held_out.columns[-4:] == ("Empty", "Missed", "Spurious", "Remark")
    assert {row[0]: row[-3] for row in local.rows}["s07"] == "1"
    measures = measures_table(run)
    assert measures is not None
    assert {row[0]: row[-3:] for row in measures.rows}["ET"] == ("1", "0", "0")
    assert all("Empty" in " ".join(table.columns) for table in (held_out, local, measures))


def test_the_worst_hospital_is_first_and_marked(fake_run: Write) -> None:
    [_, local] = hospital_tables(read_run(fake_run()))
    assert local.rows[0][0] == "s07"
    assert local.rows[0][-1] == "worst"
    assert local.strong == frozenset({0})
    remarks = {row[0]: row[-1] for row in local.rows}
    assert remarks["s01"] == "fewer than 10 cases"  # four
    assert remarks["s04"] == ""  # thirteen


def test_two_held_out_hospitals_show_nothing_and_the_page_says_so(report: str) -> None:
    text = words_of(report)
    assert "Too few hospitals to show a difference to floor, initial, best local-only" in text
    assert "2 hospitals: an interval from so few holds the true mean about 50 % of the time, not 95 %" in text
    assert "shown to be better" not in text


def test_an_interval_that_holds_zero_is_printed_as_not_shown(fake_run: Write) -> None:
    path = fake_run(sites=14, held_out=6)
    rows = read_metrics(path / "metrics.csv")
    # the ensemble's held-out rows become the consensus's, up at half of the hospitals and down at the others
    ours = {(row.site, row.region): row.value for row in rows if row.model == "consensus" and row.round == 4}
    shift = {f"s{number:02d}": 0.05 if number % 2 else -0.05 for number in range(9, 15)}
    changed = [
        replace(row, value=ours[row.site, row.region] + shift[row.site])
        if row.model == "ensemble" and row.site in shift and row.cohort == "held-out"
        else row
        for row in rows
    ]
    write_metrics(path / "metrics.csv", changed)
    run = read_run(path)
    assert "No difference is shown to ensemble." in in_short(run)
    regions = regions_table(run)
    assert regions is not None
    assert all(cell.endswith("not\u00a0shown") for row in regions.rows if row[0] == "ensemble" for cell in row[1:])


def test_what_was_asked_is_stated(report: str) -> None:
    text = words_of(report)
    for fact in (
        "10: 8 train, 2 held out",
        "11 held-out, 68 local-val",
        "Dice, mean over the regions of a case",
        "as many steps as all sites together",
        "Partial (exit status 9: finished, but not with all hospitals, cases or models). 8 hospitals planned, 7 finished, 1 failed; 4 rounds.",
    ):
        assert fact in text


def test_failures_and_bad_cases_are_named_with_their_codes(fake_run: Write) -> None:
    run = read_run(fake_run())
    failed, left_out = failures_table(run), left_out_table(run)
    assert failed is not None
    assert failed.rows == (("s05", "error:FR-D07", "4 of 4"),)
    assert left_out is not None
    assert left_out.rows == (("s02", "FR-D03", "1"),)
    assert took_part(run) == "Not everything that was planned took part:"
    assert "Not all took part: s05 (error:FR-D07)." in in_short(run)


def test_the_terminal_names_each_thing_that_a_partial_run_did_without(fake_run: Write) -> None:
    path = fake_run()
    status = json.loads((path / "status.json").read_text())
    left_out = {"s01": {"FR-D29": 2}, "s02": {"FR-D29": 1, "FR-D03": 1}}
    more = {"left_out_cases": left_out, "failed_models": {"local-only-s03": "error:FR-R05"}}
    (path / "status.json").write_text(json.dumps({**status, **more}))
    lines = summary(path)
    assert lines[1:5] == [
        "  hospital s05: error:FR-D07",
        f"  1 case left out, FR-D03 ({explanations()['FR-D03'].title[0].lower()}{explanations()['FR-D03'].title[1:]}): 1 of s02",
        "  3 cases left out, FR-D29 (a channel of a case is blank): 2 of s01, 1 of s02",
        "  model local-only-s03: error:FR-R05",
    ]
    whole = {"state": "done", "exit": 0, "failed": {}, "left_out_cases": {}}
    (path / "status.json").write_text(json.dumps({**status, **whole}))
    assert not {"left out", "hospital s05", "model local"} & {
        word for line in summary(path) for word in ("left out", "hospital s05", "model local") if word in line
    }


def test_a_run_that_broke_off_still_has_a_page_and_no_path_in_it(fake_run: Write) -> None:
    path = fake_run()
    for name in ("metrics.csv", "history.jsonl"):
        (path / name).unlink()
    broken = {"state": "failed", "exit": 4, "code": "FR-D01", "message": "FR-D01 /data/ada lovelace/scan: not there"}
    (path / "status.json").write_text(json.dumps(broken))
    text = words_of(write_report(path, with_sites=False).read_text())
    assert "No consensus was judged. Failed (exit status 4: the data could not be used)." in text
    assert "The run did not reach its end (FR-D01: fedrounds explain FR-D01 says why)." in text
    assert "lovelace" not in text
    assert "No round was finished: no update left any hospital." in text


def test_a_phantom_says_so_at_the_top_and_in_every_caption(fake_run: Write, report: str) -> None:
    text = words_of(report)
    assert "Phantom data. Simulated images, no patients." in text
    assert "<title>fake, run 0001 (phantom) – fedrounds report</title>" in report
    run = read_run(fake_run("0002-b"))
    scored = [models_table(run), regions_table(run), measures_table(run), *hospital_tables(run)]
    assert all(table is not None and "(phantom)" in table.caption for table in scored)
    real = words_of(quick_page(fake_run("0003-c", data="real")))
    assert "phantom" not in real.lower()


def test_scores_and_names_of_cases_stay_out_without_the_sites(fake_run: Write) -> None:
    path = fake_run(rounds=2, models=("consensus",))
    inside = write_report(path).read_text()
    assert "s07-c00" in inside  # in the alternative text of the worst cases
    assert (path / "figures" / "worst.png").exists()
    outside = write_report(path, with_sites=False).read_text()
    assert not re.search(r"s\d\d-[cp]\d\d", outside)
    assert "worst cases" not in outside.lower()
    # nor may a picture of theirs stay behind in the folder that is sent with the page
    assert not (path / "figures" / "worst.png").exists()


def test_what_left_is_counted_from_the_history(fake_run: Write) -> None:
    run = read_run(fake_run())
    [text] = what_left(run)
    # 8 hospitals in 4 rounds, without s05's four and three that were late, refused and absent
    assert text.startswith("25 updates left the hospitals in 4 rounds: 2.2 MB out and 2.8 MB in")
    table = traffic_table(run)
    assert table is not None
    assert {row[0]: row[1:4] for row in table.rows}["s02"] == ("3", "270.0 kB", "364.0 kB")


@pytest.mark.parametrize(
    ("sites", "weights", "said"),
    [
        (8, 1000, "with the mean of all."),
        (8, 10**6, "with the mean of all, told from at most 16,384 weights of each: to about 0.01."),
        (1024, 10**6, "with the mean of all, told from at most 4,096 weights of each: to about 0.02."),
        (5000, 1025, "with the mean of all, told from at most 1,024 weights of each: to about 0.03."),
        (5000, 1024, "with the mean of all."),
    ],
)
@pytest.mark.slow
def test_the_report_says_from_how_many_weights_cosines_are_told(
    sites: int, weights: int, said: str, fake_run: Write
) -> None:
    run = read_run(fake_run())
    asked = tuple(SiteLine(f"s{number}", "ok", bytes_up=1, bytes_down=1, cosine=0.5) for number in range(sites))
    idle = tuple(SiteLine(f"t{number}", "absent", part="idle") for number in range(sites))
    line = replace(run.history[0], sites=(*asked, *idle), model_bytes=4 * weights)
    table = traffic_table(replace(run, history=(line,)))
    assert table is not None
    assert table.note.endswith(said)


def test_what_is_said_of_resampled_sums_is_that_of_a_simulation_or_of_hospitals(fake_run: Write) -> None:
    run = read_run(fake_run())
    assert "drawn from the study's seed, which hides nothing" in what_left(run)[0]
    [real] = what_left(replace(run, record={**run.record, "engine": {"name": "flower"}}))
    assert "drawn from a secret of the hospital's and mixed, which tells of means and sums of products only" in real
    assert "of fewer than 10 patients nothing more" in real
    [without] = what_left(replace(run, study={**run.study, "evaluation": {"resamples": 0}}))
    assert "resamplings" not in without


def test_a_run_without_protection_says_so_plainly(fake_run: Write, report: str) -> None:
    text = words_of(report)
    assert "No differential privacy: nothing limits what an update or the consensus can reveal" in text
    assert "No secure aggregation: the coordinator sees each hospital's update by itself." in text
    path = fake_run()
    with (path / "study.resolved.toml").open("a") as file:
        file.write('[[privacy]]\nname = "clip_patient"\n[wire]\nname = "int8"\n')
    assert "the int8 differences" in what_left(read_run(path))[0]
    with (path / "study.resolved.toml").open("a") as file:
        file.write('[wire.channel]\nname = "secure_sum"\n')
    run = read_run(path)
    assert privacy(run)[0] == "Privacy measures of this study, in order: clip_patient."
    assert "secure_sum" in privacy(run)[1]
    assert "under masks, as whole numbers" in what_left(run)[0]
    assert "the int8 differences" not in what_left(run)[0]


def test_the_limits_are_those_of_this_run(fake_run: Write) -> None:
    phantom = " ".join(limits(read_run(fake_run("0001-a"))))
    assert "For research only." in phantom
    assert "Every number is a phantom number" in phantom
    assert "one machine played the coordinator and all hospitals" in phantom
    path = fake_run("0002-b", data="real", unit="image", held_out=0)
    record = json.loads((path / "record.json").read_text())
    (path / "record.json").write_text(json.dumps({**record, "engine": {"name": "flower"}}))
    real = " ".join(limits(read_run(path)))
    assert "phantom" not in real
    assert "one machine played" not in real
    assert "Several images of one patient may lie on both sides of a split." in real
    assert "No hospital was held out" in real


def test_digests_versions_and_commands_to_repeat_it_are_there(report: str) -> None:
    text = words_of(report)
    for piece in ("ab" * 32, "cd" * 32, "torch 2.13.0", "fedrounds runs verify 0001-fake --again", "held_out = ["):
        assert piece in text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match=r"FR-F26 .*neither status\.json nor record\.json; a run folder"):
        write_report(tmp_path)


def test_a_damaged_study_file_is_named(fake_run: Write) -> None:
    path = fake_run()
    (path / "study.resolved.toml").write_text("name = ")
    with pytest.raises(RunFileError, match=r"FR-F25 .*study\.resolved\.toml: not TOML"):
        read_run(path)


# ---------------------------------------------------------------- on a terminal, and over seeds


def test_the_terminal_shows_models_by_region_and_what_to_open(fake_run: Write) -> None:
    path = fake_run("0007-fake", sites=14, held_out=6)
    (path / "report.html").touch()
    lines = summary(path)
    assert lines[0].startswith("fake, run 0007: Partial (exit status 9")
    assert "mean Dice at hospitals that never trained: 6 hospitals, 45 cases, phantom" in lines
    header = next(line for line in lines if line.startswith("  model"))
    assert header.split() == ["model", "mean", "of", "regions", "ET", "TC", "WT", "consensus", "minus", "it", "verdict"]
    pooled = next(line for line in lines if line.startswith("  pooled"))
    assert pooled.endswith("shown: worse")
    assert any(line.endswith(str(path / "report.html")) for line in lines)
    assert "\x1b" not in "".join(lines)


def test_where_this_machine_keeps_its_files_is_not_on_the_page(fake_run: Write) -> None:
    path = fake_run("0001-places")
    with (path / "study.resolved.toml").open("a") as file:
        file.write(
            '[simulation.reader]\nroot = "/pacs/ward \\"7\\"/MUELLER"  # line 9\nlayout = "msd"\nkey_file = "/etc/key"\n'
        )
    page = write_report(path).read_text()
    assert "MUELLER" not in page
    assert "/etc/key" not in page
    assert "layout = &#34;msd&#34;" in page
    assert "root = &#34;…&#34;  # line 9" in page


def test_a_table_is_the_same_on_any_terminal() -> None:
    table = Table("Dice", ("Model", "Mean"), (("pooled", "0.80 [0.70, 0.90]"), ("ours", "0.7")), strong=frozenset({1}))
    assert as_lines(table) == [
        "Dice",
        "  Model                 Mean",
        "  pooled   0.80 [0.70, 0.90]",
        "  ours                   0.7",
    ]


def test_seeds_give_mean_and_deviation(fake_run: Write) -> None:
    # the models of the second run lie 0.02 above those of the first, so of two runs the deviation is 0.02 / √2 = 0.014
    runs = [fake_run("0001-a", held_out=5), fake_run("0002-b", held_out=5, shift=0.02)]
    table = table_of_runs(runs)
    at = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    means = [
        sum(row.value for row in read_run(run, with_sites=False).rows
            if (row.model, row.cohort, row.region) == ("initial", "held-out", "mean") and row.site != "all") / 5
        for run in runs
    ]  # fmt: skip
    assert at["initial"]["Mean over hospitals"] == f"{sum(means) / 2:.3f} ± 0.014"
    assert at["initial"]["Runs"] == "2"
    # both models rise together, so their difference hardly moves
    assert re.fullmatch(r"\+0\.\d{3} ± 0\.00\d", at["initial"]["Consensus minus it"])
    assert at["initial"]["Verdict"] == "shown: better"
    assert "seeds 1, 1" in table.note
    assert "mean ± standard deviation over runs" in table.caption


def test_one_run_has_no_deviation(fake_run: Write) -> None:
    table = table_of_runs([fake_run()])
    assert all("±" not in cell for row in table.rows for cell in row)


def test_settings_are_compared_with_the_first_paired_by_hospital(fake_run: Write) -> None:
    runs = [fake_run("0001-a", held_out=5), fake_run("0002-b", held_out=5, shift=-0.1)]
    table = table_of_runs(runs, ["strategy.name=fedavg", "strategy.name=fedprox"])
    assert table.columns[0] == "Setting"
    assert [row[1] for row in table.rows].count("consensus") == 2
    assert "Consensus, strategy.name=fedprox minus strategy.name=fedavg: −0.100 [−0.100, −0.100], shown." in table.note


def test_runs_that_judge_different_things_cannot_share_a_table(fake_run: Write) -> None:
    other = fake_run("0002-b")
    study = (other / "study.resolved.toml").read_text()
    (other / "study.resolved.toml").write_text(study.replace('primary = "dice"', 'primary = "iou"'))
    with pytest.raises(RunFileError, match="FR-F28 these runs judge dice on held-out; iou on nothing"):
        table_of_runs([fake_run("0001-a"), other])


def test_how_it_ended_is_said_for_every_exit_status(fake_run: Write) -> None:
    path = fake_run()
    for code, words in ((10, "stopped by a limit"), (11, "no consensus was made"), (130, "a checkpoint was written")):
        (path / "status.json").write_text(json.dumps({"state": "stopped", "exit": code}))
        assert words in ended(read_run(path))
    (path / "status.json").write_text(
        json.dumps({"state": "done", "exit": 0, "planned": 3, "finished": 3, "failed": {}})
    )
    assert ended(read_run(path)) == "Done (exit status 0). 3 hospitals planned, 3 finished, 0 failed."
    assert took_part(read_run(path)) == "Every hospital finished, and no case was left out."
    (path / "status.json").write_text(json.dumps({"state": "running"}))
    assert ended(read_run(path)) == "Running. "
