"""Figures say what is in the folder: order, numbers, n, phantom; and leave no trace in the process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from fedrounds_common.errors import RunFileError
from fedrounds_server.report.curves import band, draw_curves, losses, scores
from fedrounds_server.report.figures import drawings, save_all
from fedrounds_server.report.folder import RunView, read_run
from fedrounds_server.report.hospitals import draw_hospitals, places
from fedrounds_server.report.models import draw_models, draw_regions
from fedrounds_server.report.rounds import STATES, draw_participation, draw_traffic, traffic
from fedrounds_server.report.style import Drawing, png
from fedrounds_server.report.worst import draw_worst, worst_pictures
from fedrounds_server.tables import read_metrics, write_metrics

Write = Callable[..., Path]
ALL_FIGURES = ["hospitals", "models", "regions", "curves", "worst", "participation", "traffic"]


@pytest.fixture(scope="module")
def run(default_run: Path) -> RunView:
    return read_run(default_run)


@pytest.fixture(scope="module")
def made(run: RunView) -> dict[str, Drawing]:
    """Every figure of the default run, laid out."""
    return {drawing.name: laid_out(drawing) for drawing in drawings(run)}


def laid_out(drawing: Drawing) -> Drawing:
    png(drawing)
    return drawing


def drawn(drawing: Drawing | None) -> Drawing:
    assert drawing is not None
    return drawing


@pytest.mark.slow
def test_the_same_folder_gives_the_same_files_of_two_columns_width(default_run: Path, tmp_path: Path) -> None:
    def drawn_to(folder: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in save_all(drawings(read_run(default_run)), folder)}

    first = drawn_to(tmp_path / "first")
    assert [Path(name).stem for name in first] == ALL_FIGURES
    for name in first:
        with Image.open(tmp_path / "first" / name) as picture:
            assert picture.width == 1440  # 7.2 inches at 200 dots
            assert "Software" not in picture.info
    assert drawn_to(tmp_path / "second") == first


def test_a_phantoms_figures_say_so_and_a_real_runs_do_not(made: dict[str, Drawing], fake_run: Write) -> None:
    assert list(made) == ALL_FIGURES
    for drawing in made.values():
        assert drawing.title.endswith("(phantom)")
        assert drawing.figure._suptitle.get_text() == drawing.title
    real = drawings(read_run(fake_run(data="real")))
    assert not any("phantom" in drawing.title + drawing.caption for drawing in real)


def test_every_figure_tells_its_content_in_words(made: dict[str, Drawing]) -> None:
    assert all(len(drawing.alt) > 40 for drawing in made.values())
    assert "from 0.50 at s07 (10 cases)" in made["hospitals"].alt
    assert "25 took part, 1 late, 4 failed, 1 refused, 1 absent" in made["participation"].alt


def assert_whole(drawing: Drawing) -> None:
    """Everything drawn lies on the sheet."""
    width, height = drawing.figure.get_size_inches()
    box = drawing.figure.get_tightbbox()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -0.01, drawing.name


def test_nothing_is_cut_off_at_the_edge(made: dict[str, Drawing]) -> None:
    for drawing in made.values():
        assert_whole(drawing)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"sites": 71, "held_out": 6, "rounds": 30, "pictures": 2}, {"sites": 3, "held_out": 1, "broken": ""}]
)
def test_nothing_is_cut_off_with_many_hospitals_or_few(fake_run: Write, options: dict[str, object]) -> None:
    for drawing in drawings(read_run(fake_run(**options))):
        assert_whole(laid_out(drawing))


def test_drawing_leaves_no_trace_in_the_process(run: RunView) -> None:
    before = dict(mpl.rcParams)
    laid_out(drawn(draw_traffic(run)))
    assert dict(mpl.rcParams) == before


def test_a_persons_own_settings_do_not_reach_the_figures(run: RunView) -> None:
    plain = png(drawn(draw_traffic(run)))
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 10}):
        assert png(drawn(draw_traffic(run))) == plain


@pytest.mark.slow
def test_pyplot_is_never_loaded(fake_run: Write) -> None:
    program = (
        "import sys; from pathlib import Path; from fedrounds_server.report.page import write_report;"
        "write_report(Path(sys.argv[1]));"
        "print([name for name in ('matplotlib.pyplot', 'torch', 'pydicom', 'nibabel', 'fedrounds_sites',"
        " 'fedrounds_client') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(fake_run(sites=4))]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == "[]"


def test_hospitals_stand_in_the_order_of_their_medians(run: RunView) -> None:
    found = places(run)
    medians = [float(np.median(place.values)) for place in found]
    assert medians == sorted(medians)
    assert found[0].site == "s07"
    assert len(found) == 10
    labels = [label.get_text() for label in drawn(draw_hospitals(run)).figure.axes[0].get_xticklabels()]
    assert labels == [f"{place.site} (n={place.cases})" for place in found]


def test_a_hospital_of_four_cases_has_dots_and_no_box(run: RunView) -> None:
    axes = drawn(draw_hospitals(run)).figure.axes[0]
    # s01, s05 and s09 have four cases each, the other seven more
    assert sorted(place.site for place in places(run) if place.cases < 5) == ["s01", "s05", "s09"]
    assert len(axes.patches) == 7


def test_without_the_sites_means_with_intervals_take_the_place_of_boxes(fake_run: Write) -> None:
    run = read_run(fake_run(), with_sites=False)
    assert run.cases == ()
    assert run.pictures == ()
    drawing = drawn(draw_hospitals(run))
    assert drawing.alt.startswith("Dot plot with intervals of Dice at 10 hospitals")
    assert len(drawing.figure.axes[0].patches) == 0
    rows = {
        row.site: row.value for row in run.rows if row.model == "consensus" and row.round == 4 and row.region == "mean"
    }
    assert [place.middle for place in places(run)] == sorted(value for site, value in rows.items() if site != "all")
    assert draw_worst(run) is None


def test_without_the_sites_their_folders_are_not_even_read(fake_run: Write) -> None:
    path = fake_run()
    (path / "sites" / "s01" / "cases.csv").write_text("not,a,table\n")
    assert read_run(path, with_sites=False).cases == ()
    with pytest.raises(RunFileError, match="FR-F27 "):
        read_run(path, with_sites=True)


def test_the_curve_is_the_median_and_the_band_holds_four_fifths(run: RunView) -> None:
    # eleven hospitals with the values 0 to 10: quantiles 1, 5 and 9
    over = band({f"s{number}": {1: float(number), 2: 5.0} for number in range(11)})
    assert over.rounds == (1, 2)
    assert (over.low[0], over.median[0], over.high[0]) == (1.0, 5.0, 9.0)
    assert (over.low[1], over.high[1]) == (5.0, 5.0)
    assert over.hospitals == (11, 11)


def test_a_hospital_that_sent_nothing_has_no_loss(run: RunView) -> None:
    found = losses(run)
    assert "s05" not in found
    assert sorted(found["s02"]) == [1, 3, 4]  # late in round 2
    assert sorted(scores(run, "held-out")) == ["s09", "s10"]


def test_one_judged_round_is_no_curve(fake_run: Write) -> None:
    run = read_run(fake_run(every=0))
    drawing = drawn(draw_curves(run))
    assert len(drawing.figure.axes) == 1
    assert "Training loss, 7 hospitals" in drawing.figure.axes[0].get_title(loc="left")


def test_the_forest_shows_the_differences_of_the_table(fake_run: Write) -> None:
    run = read_run(fake_run(sites=14, held_out=6))
    _, right = drawn(draw_models(run)).figure.axes
    held_out = {row.model: row for row in run.rows if row.site == "all"}
    assert held_out["pooled"].model == "pooled"
    texts = [text.get_text() for text in right.texts]
    assert len(texts) == 6
    assert texts[0].endswith("shown: better")  # floor
    assert texts[-1].endswith("shown: worse")  # pooled
    # pooled lies 0.02 above the consensus by construction, less where a case reaches the ceiling of 0.99
    points = [line.get_xdata()[0] for line in right.lines if line.get_marker() in "so" and len(line.get_xdata()) == 1]
    assert points[-1] == pytest.approx(-0.02, abs=0.002)


def test_one_region_needs_no_figure_of_regions(fake_run: Write) -> None:
    path = fake_run()
    rows = [row for row in read_metrics(path / "metrics.csv") if row.region in ("mean", "WT")]
    write_metrics(path / "metrics.csv", rows)
    assert draw_regions(read_run(path)) is None


def test_a_run_of_the_consensus_alone_is_compared_with_nothing(fake_run: Write) -> None:
    run = read_run(fake_run(models=("consensus",)))
    assert [drawing.name for drawing in drawings(run)] == ["hospitals", "curves", "worst", "participation", "traffic"]


def test_bytes_are_added_over_hospitals_and_rounds(run: RunView) -> None:
    # eight hospitals, four rounds; s05 always fails; s02 late, s03 refused, s06 absent once each
    assert traffic(run.history) == ((32 - 4 - 3) * 90_000, (32 - 1) * 91_000)
    assert "2.2 MB left the hospitals and 2.8 MB went to them" in drawn(draw_traffic(run)).caption


def test_every_state_has_its_own_letter() -> None:
    letters = [letter for _, letter, _ in STATES.values()]
    assert len(set(letters)) == len(letters)


def test_the_map_of_rounds_shows_each_state_where_it_was(run: RunView) -> None:
    axes = drawn(draw_participation(run)).figure.axes[0]
    letters = {(text.get_position()[0], text.get_position()[1]): text.get_text() for text in axes.texts}
    # (round − 0.5, hospital − 0.5): s02 late in round 2, s03 refused in 3, s06 absent in 1, s05 always failed
    assert (letters[1.5, 1.5], letters[2.5, 2.5], letters[0.5, 5.5]) == ("L", "R", "–")
    assert [letters[round + 0.5, 4.5] for round in range(4)] == ["E"] * 4
    assert letters[0.5, 0.5] == ""


def test_hospitals_that_never_missed_a_round_share_a_line_when_they_are_many(fake_run: Write) -> None:
    drawing = drawn(draw_participation(read_run(fake_run(sites=50, held_out=6, models=("consensus",)))))
    labels = [label.get_text() for label in drawing.figure.axes[0].get_yticklabels()]
    assert labels == ["s02", "s03", "s05", "s06", "40 others"]


def test_the_worst_cases_come_worst_first(fake_run: Write) -> None:
    run = read_run(fake_run(pictures=2))
    found = worst_pictures(run)
    assert len(found) == 12  # of twenty
    assert [one.value for one in found] == sorted(one.value for one in found)
    assert found[0].site == "s07"
    assert drawn(draw_worst(run)).alt.startswith(
        "Contact sheet of image, reference and prediction. Dice of each: s07-c0"
    )


def test_a_picture_of_an_earlier_consensus_is_not_shown(fake_run: Write) -> None:
    path = fake_run()
    says = path / "sites" / "s07" / "pictures" / "consensus-s07-c00.json"
    text = says.read_text()
    # s07 drew another case in the last round
    for suffix in (".png", ".json"):
        source = says.with_suffix(suffix)
        source.with_name(f"consensus-s07-c99{suffix}").write_bytes(source.read_bytes())
    says.write_text(text.replace('"round": 4', '"round": 2'))
    cases = [picture.file.stem for picture in read_run(path).pictures if picture.site == "s07"]
    assert cases == ["consensus-s07-c99"]
