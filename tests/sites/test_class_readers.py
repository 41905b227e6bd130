"""Readers of cases that have a class: archives of arrays, folders, tables. Every fault is named, none is mended."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedrounds_common.case import Case, CaseRef
from fedrounds_common.errors import CaseError, DataError
from fedrounds_common.plugins import validate
from fedrounds_common.study.tables import CaseForm
from fedrounds_sites.guess import reader_for
from fedrounds_sites.reader import Reader
from fedrounds_sites.readers.class_folders import ClassFolders
from fedrounds_sites.readers.npz_arrays import NpzArrays
from fedrounds_sites.readers.table_csv import TableCsv
from fedrounds_sites.simulation import READERS
from fedrounds_sites.targets import stratum_of

DATA = Path(__file__).resolve().parents[1] / "data"
LUNG = CaseForm(dims=2, channels=("radiograph",), classes=("normal", "pneumonia"))
MEDNIST = CaseForm(dims=2, classes=("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"))
TWO = CaseForm(dims=2, classes=("ill", "well"))
SIGNS = CaseForm(dims=2, classes=("effusion", "mass", "nodule"), multi_label=True)
RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4)


def save(file: Path, array: NDArray[Any] = RAMP) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)
    return file


def classes_of(case: Case) -> list[float]:
    assert case.target is not None
    assert case.target.classes is not None
    return case.target.classes.tolist()


def loaded(reader: Reader, form: CaseForm) -> dict[str, Case]:
    return {ref.name: reader.load(ref, form) for ref in reader.cases(form)}


def refusal(reader: Reader, form: CaseForm) -> CaseError:
    (ref,) = reader.cases(form)
    with pytest.raises(CaseError) as caught:
        reader.load(ref, form)
    assert caught.value.case == ref.name
    return caught.value


# ---------------------------------------------------------------- archives of arrays


def archive(file: Path, labels: list[Any], images: NDArray[Any] | None = None, part: str = "train") -> Path:
    stored = np.zeros((len(labels), 4, 5), np.uint8) if images is None else images
    np.savez(file, **{f"{part}_images": stored, f"{part}_labels": np.array(labels, np.uint8).reshape(len(labels), -1)})
    return file


def test_an_archives_test_part_is_a_site_and_the_rest_has_none() -> None:
    refs = NpzArrays(DATA / "medmnist/pneumonia24.npz").cases(LUNG)
    assert [ref.site for ref in refs if ref.name.startswith("test")] == ["test"] * 8
    assert {ref.site for ref in refs if not ref.name.startswith("test")} == {None}
    assert [ref.name for ref in refs][8:10] == ["train-00001", "train-00002"]
    assert len(refs) == 24


@pytest.mark.parametrize(
    ("fields", "sites"),
    [
        ({"test": "deal"}, {None: 24}),
        ({"test": "leave"}, {None: 16}),
        ({"val": "apart"}, {None: 12, "val": 4, "test": 8}),
    ],
)
def test_what_becomes_of_an_archives_parts_is_said_in_the_table(fields: Any, sites: dict[Any, int]) -> None:
    refs = NpzArrays(DATA / "medmnist/pneumonia24.npz", **fields).cases(LUNG)
    assert {site: sum(ref.site == site for ref in refs) for site in {ref.site for ref in refs}} == sites


def test_a_picture_of_an_archive_has_its_values_and_its_class() -> None:
    stored = np.load(DATA / "medmnist/pneumonia24.npz")
    reader = NpzArrays(DATA / "medmnist/pneumonia24.npz")
    for part in ("train", "val", "test"):
        for number, (image, label) in enumerate(zip(stored[f"{part}_images"], stored[f"{part}_labels"], strict=True)):
            name = f"{part}-{number + 1:05d}"
            case = reader.load(CaseRef(name, name), LUNG)
            np.testing.assert_array_equal(case.image, image[None])
            assert classes_of(case) == [1 - label[0], label[0]]
            assert stratum_of(case.target) == 1 << label[0]


def test_volumes_of_an_archive_are_volumes_or_stacks_of_slices() -> None:
    reader = NpzArrays(DATA / "medmnist/adrenal8.npz", spacing_mm=(2.0, 1.0, 0.5))
    ref = reader.cases(LUNG)[0]
    volume = reader.load(ref, CaseForm(dims=3, classes=("normal", "mass")))
    assert volume.image.shape == (1, 28, 28, 28)
    assert volume.spacing_mm == (2.0, 1.0, 0.5)
    np.testing.assert_array_equal(reader.load(ref, LUNG).image, volume.image)


def test_colours_of_an_archive_are_channels(tmp_path: Path) -> None:
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    form = CaseForm(dims=2, channels=("red", "green", "blue"), classes=("ill", "well"))
    reader = NpzArrays(archive(tmp_path / "a.npz", [0, 1], images))
    np.testing.assert_array_equal(loaded(reader, form)["train-00002"].image[1], images[1, :, :, 1])
    with pytest.raises(CaseError, match="FR-D32 .*3 channels"):
        loaded(reader, TWO)


def test_several_labels_are_columns(tmp_path: Path) -> None:
    reader = NpzArrays(archive(tmp_path / "a.npz", [[0, 1, 1], [0, 0, 0]]))
    assert [classes_of(case) for case in loaded(reader, SIGNS).values()] == [[0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "form", "said"),
    [
        ([0, 1, 2], TWO, "values 0, 1, 2; one column of 0 to 1, each of them, for ill, well"),
        ([0, 0], TWO, "values 0; one column of 0 to 1"),
        ([[0, 1], [1, 0]], TWO, "labels of 2 columns"),
        ([[0, 1], [1, 0]], SIGNS, "labels of 2 columns.*3 columns of 0 and 1"),
    ],
)
def test_numbers_that_are_not_those_of_the_classes_are_refused(
    labels: list[Any], form: CaseForm, said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"FR-D42 .*{said}"):
        NpzArrays(archive(tmp_path / "a.npz", labels)).cases(form)


def test_an_archive_of_python_objects_is_never_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_images=np.zeros((2, 4, 4)), train_labels=np.array([{}, {}], object))
    with pytest.raises(DataError, match="FR-D43"):
        NpzArrays(tmp_path / "a.npz").cases(TWO)
    (tmp_path / "b.npz").write_bytes(b"PK no archive")
    with pytest.raises(DataError, match="FR-D43"):
        NpzArrays(tmp_path / "b.npz").cases(TWO)
    with pytest.raises(DataError, match="FR-D01"):
        NpzArrays(tmp_path / "c.npz").cases(TWO)


def test_images_and_labels_of_an_archive_go_together(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_images=np.zeros((3, 4, 4)), train_labels=np.zeros((2, 1)))
    with pytest.raises(DataError, match="FR-D43 .*3 train_images and 2 train_labels"):
        NpzArrays(tmp_path / "a.npz").cases(TWO)


# ---------------------------------------------------------------- folders


def test_the_folder_says_the_class() -> None:
    cases = loaded(ClassFolders(DATA / "mednist"), MEDNIST)
    assert len(cases) == 24
    for name, case in cases.items():
        assert case.image.shape == (1, 64, 64)
        assert case.ref.site is None
        assert MEDNIST.classes[int(np.argmax(classes_of(case)))] == name.split("_")[0]


def test_an_archive_of_folders_reads_as_the_folder_does(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "mednist.tar.gz", "w:gz") as packed:
        packed.add(DATA / "mednist", "resized")
    inside = loaded(ClassFolders(tmp_path / "mednist.tar.gz"), MEDNIST)
    for name, case in loaded(ClassFolders(DATA / "mednist"), MEDNIST).items():
        np.testing.assert_array_equal(inside[f"resized_{name}"].image, case.image)
        assert classes_of(inside[f"resized_{name}"]) == classes_of(case)


@pytest.mark.parametrize("name", ["../Hand/1.png", "/Hand/1.png", "Hand/../../1.png", "Hand\\..\\1.png"])
def test_an_archive_whose_names_lead_out_of_it_is_refused(name: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        packed.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DataError, match="FR-D46"):
        ClassFolders(tmp_path / "a.tar").cases(MEDNIST)


def test_a_damaged_archive_is_refused_and_links_in_it_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as packed:
        packed.add(DATA / "mednist" / "Hand", "Hand")
        link = tarfile.TarInfo("Hand/link.jpeg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
    assert len(ClassFolders(tmp_path / "a.tar.gz").cases(MEDNIST)) == 4
    content = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="FR-D45"):
        ClassFolders(tmp_path / "b.tar.gz").cases(MEDNIST)


def test_a_folder_that_the_study_does_not_know_is_an_error(tmp_path: Path) -> None:
    for folder in ("ill", "well", "unclear"):
        save(tmp_path / folder / "1.png")
    with pytest.raises(DataError, match=r"FR-D41 .*unclear/1\.png: class 'unclear'; one of ill, well"):
        ClassFolders(tmp_path).cases(TWO)
    assert len(ClassFolders(tmp_path, leave=("unclear",)).cases(TWO)) == 2
    assert len(ClassFolders(tmp_path, class_map={"unclear": "ill"}).cases(TWO)) == 3


def test_a_study_without_classes_reads_the_pictures_alone(tmp_path: Path) -> None:
    save(tmp_path / "anything" / "1.png")
    (case,) = loaded(ClassFolders(tmp_path), CaseForm(dims=2)).values()
    assert case.target is None


def test_the_test_share_is_taken_of_each_class_and_stays_the_same(tmp_path: Path) -> None:
    for number in range(20):
        save(tmp_path / "ill" / f"{number}.png")
        save(tmp_path / "well" / f"{number}.png")
    reader = ClassFolders(tmp_path, test_share=0.25)
    apart = [ref for ref in reader.cases(TWO) if ref.site == "test"]
    assert [sum(ref.name.startswith(name) for ref in apart) for name in ("ill", "well")] == [5, 5]
    assert reader.set_apart == {"test"}
    assert [ref for ref in ClassFolders(tmp_path, test_share=0.25).cases(TWO) if ref.site] == apart
    fewer = {ref.name for ref in ClassFolders(tmp_path, test_share=0.1).cases(TWO) if ref.site}
    assert fewer < {ref.name for ref in apart}


def test_a_patients_pictures_go_one_way_and_parts_that_were_set_apart_stay_so(tmp_path: Path) -> None:
    for patient in range(8):
        for view in range(3):
            save(tmp_path / ("ill" if view else "well") / f"p{patient}_{view}.png")
    reader = ClassFolders(tmp_path, pattern=r"(?P<class>[^/]+)/(?P<patient>p\d)_\d\.png", test_share=0.3)
    homes: dict[str, set[str | None]] = {}
    for ref in reader.cases(TWO):
        homes.setdefault(ref.patient, set()).add(ref.site)
    assert reader.split_by == "patient"
    assert all(len(sites) == 1 for sites in homes.values())
    assert {"test"} in homes.values()
    for part in ("train", "test"):
        save(tmp_path / "parts" / part / "ill" / "1.png")
    parts = ClassFolders(tmp_path / "parts", pattern=r"(?P<part>[^/]+)/(?P<class>[^/]+)/[^/]+")
    assert {ref.name: ref.site for ref in parts.cases(TWO)} == {"test_ill_1": "test", "train_ill_1": None}


def test_two_files_that_would_be_one_case_are_named(tmp_path: Path) -> None:
    save(tmp_path / "ill" / "1.png")
    save(tmp_path / "ill" / "1.tif")
    with pytest.raises(DataError, match=r"FR-D07 .*ill/1\.png and ill/1\.tif"):
        ClassFolders(tmp_path).cases(TWO)


def test_a_pattern_without_a_class_is_refused(tmp_path: Path) -> None:
    _, faults = validate(ClassFolders, {"root": str(tmp_path), "pattern": ".*"}, "reader")
    assert "no group (?P<class>...)" in str(faults)
    with pytest.raises(DataError, match="FR-D02"):
        ClassFolders(tmp_path).cases(TWO)


# what would have to be guessed is refused, in every reader of pictures: name → file, what is said
def _palette(file: Path) -> None:
    Image.fromarray(RAMP).convert("P").save(file)


def _frames(file: Path) -> None:
    first, *rest = (Image.fromarray(RAMP + number) for number in range(3))
    first.save(file, save_all=True, append_images=rest)


GUESSED = {
    "a palette in a PNG": ("1.png", _palette, "FR-D31 .*a palette picture; save it as grey or RGB"),
    "frames in a PNG": ("1.png", _frames, "FR-D31 .*3 pages or frames in one file; save each as a file of its own"),
    "pages in a TIFF": ("1.tif", _frames, "FR-D31 .*3 pages or frames"),
    "a palette in a TIFF": ("1.tiff", _palette, "FR-D31 .*a palette picture"),
    "a GIF": ("1.gif", _frames, "FR-D31 .*a GIF: a palette, and perhaps several frames"),
    "a GIF called PNG": ("1.png", lambda file: file.write_bytes(b"GIF89a\1\0\1\0"), "FR-D31 .*a GIF"),
}


@pytest.mark.parametrize(("name", "write", "said"), GUESSED.values(), ids=GUESSED.keys())
def test_pictures_that_would_have_to_be_guessed_are_refused_in_every_reader(
    name: str, write: Any, said: str, tmp_path: Path
) -> None:
    (tmp_path / "ill").mkdir()
    write(tmp_path / "ill" / name)
    (tmp_path / "table.csv").write_text(f"image,label\nill/{name},ill\n", encoding="utf-8")
    one = CaseForm(dims=2, classes=("ill", "well"))
    for reader in (ClassFolders(tmp_path), TableCsv(tmp_path / "table.csv")):
        (ref,) = reader.cases(one)
        with pytest.raises(CaseError, match=said):
            reader.load(ref, one)
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        packed.add(tmp_path / "ill", "ill")
    with pytest.raises(CaseError, match=said):
        loaded(ClassFolders(tmp_path / "a.tar"), one)


def test_volumes_in_folders_are_volumes_and_colour_is_refused_or_made_grey(tmp_path: Path) -> None:
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    (tmp_path / "ill").mkdir()
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / "ill" / "1.nii.gz")
    form = CaseForm(dims=3, classes=("ill", "well"))
    (case,) = loaded(ClassFolders(tmp_path), form).values()
    np.testing.assert_array_equal(case.image[0], voxels)
    assert case.spacing_mm == (2.0, 2.0, 3.0)
    (stack,) = loaded(ClassFolders(tmp_path), TWO).values()
    assert stack.image.shape == (1, 5, 4, 3)  # slices, rows, columns
    save(tmp_path / "colour" / "ill" / "1.png", np.stack([RAMP, RAMP + 1, RAMP], axis=-1))
    assert refusal(ClassFolders(tmp_path / "colour"), TWO).code == "FR-D32"
    assert refusal(ClassFolders(tmp_path / "colour"), form).code == "FR-D17"
    (grey,) = loaded(ClassFolders(tmp_path / "colour", grey_from_rgb="luminance"), TWO).values()
    np.testing.assert_allclose(grey.image[0], RAMP + 0.587, atol=1e-4)


# ---------------------------------------------------------------- tables


def table(beside: Path, text: str, **fields: Any) -> TableCsv:
    (beside / "table.csv").write_text(text, encoding="utf-8")
    return TableCsv(beside / "table.csv", **fields)


def test_a_table_names_image_class_patient_site_and_split(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "images" / f"{number}.png")
    reader = table(
        tmp_path,
        "image,label,patient,site,split\n0.png,ill,7,east,train\n1.png,well,7,east,train\n2.png,ill,9,west,test\n",
        folder="images",
    )
    cases = loaded(reader, TWO)
    assert reader.split_by == "patient"
    assert [(case.ref.patient, case.ref.site) for case in cases.values()] == [
        ("east_7", "east"), ("east_7", "east"), ("west_9", "test"),
    ]  # fmt: skip
    assert [classes_of(case) for case in cases.values()] == [[1, 0], [0, 1], [1, 0]]
    assert reader.set_apart == {"test"}


def test_several_labels_stand_in_one_column_or_in_a_column_each(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png")
    words = table(tmp_path, "image,label\n0.png,mass|nodule\n1.png,\n2.png,effusion\n")
    assert [classes_of(case) for case in loaded(words, SIGNS).values()] == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    ticks = table(
        tmp_path,
        "image,Nodule,effusion,mass\n0.png,1,0,1\n1.png,0,0,0\n2.png,0,1,0\n",
        label="",
        class_map={"Nodule": "nodule"},
    )
    assert [classes_of(case) for case in loaded(ticks, SIGNS).values()] == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]


def test_a_file_a_channel(tmp_path: Path) -> None:
    save(tmp_path / "a.png", RAMP)
    save(tmp_path / "b.png", RAMP + 1)
    form = CaseForm(dims=2, channels=("t1", "t2"), classes=("ill", "well"))
    reader = table(tmp_path, "first,second,label\na.png,b.png,ill\n", image=("first", "second"))
    (case,) = loaded(reader, form).values()
    np.testing.assert_array_equal(case.image, np.stack([RAMP, RAMP + 1]))
    save(tmp_path / "b.png", RAMP[:2])
    assert refusal(reader, form).code == "FR-D08"


def test_a_missing_file_is_named_with_its_line_and_the_others_are_read(tmp_path: Path) -> None:
    save(tmp_path / "0.png")
    reader = table(tmp_path, "image,label\n0.png,ill\n1.png,ill\n")
    there, missing = reader.cases(TWO)
    assert reader.load(there, TWO).image.shape == (1, 3, 4)
    with pytest.raises(CaseError, match=r"FR-D44 .*table\.csv:3: 1\.png: there is no such file") as caught:
        reader.load(missing, TWO)
    assert caught.value.case == "1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,label\n0.png,ill\n1.png,sick\n", r"FR-D41 .*table\.csv:3: class 'sick'; one of ill, well"),
        ("image,label\n0.png,ill\n0.png,well\n", r"FR-D07 .*lines 2 and 3 both name 0\.png"),
        ("image,label\n0.png,ill\n./0.png,well\n", r"FR-D07 .*lines 2 and 3 both name"),
        ("image,label\n0.png,ill\n0.tif,well\n", r"FR-D07 .*lines 2 and 3 would be one case"),
        ("picture,label\n0.png,ill\n", "FR-D44 .*no column image; one of picture, label"),
        ("image,label\n0.png\n", "FR-D44 .*line 2: 1 cells; 2"),
        ("image,label\n0.png,\n", r"FR-D44 .*table\.csv:2: 0 classes; one"),
        ("image,label\n../0.png,ill\n", r"FR-D44 .*line 2: \.\./0\.png"),
        ("image,label\n/etc/0.png,ill\n", "FR-D44 .*line 2: /etc"),
        ("image,label,patient\n0.png,ill,\n", "FR-D44 .*line 2: no patient"),
        ("image,label\n", "FR-D02 "),
        ('image,label\n"0.png,ill\n', "FR-D44 "),
    ],
)
def test_a_fault_of_a_table_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    save(tmp_path / "0.png")
    with pytest.raises(DataError, match=said):
        table(tmp_path, text).cases(TWO)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,mass,nodule\n0.png,1,0\n", "FR-D44 .*no column for effusion"),
        ("image,mass,nodule,effusion\n0.png,1,0,-1\n", r"FR-D44 .*table\.csv:2: effusion is '-1'; 0 or 1"),
    ],
)
def test_a_fault_of_a_tables_columns_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        table(tmp_path, text, label="").cases(SIGNS)


def test_a_dicom_still_is_a_picture_of_a_table(tmp_path: Path) -> None:
    source = min((DATA / "dicom" / "ge_epi").rglob("*.dcm"))
    (tmp_path / "one.dcm").write_bytes(source.read_bytes())
    (case,) = loaded(table(tmp_path, "image,label\none.dcm,ill\n"), TWO).values()
    assert case.image.ndim == 3
    assert case.image.std() > 0
    assert classes_of(case) == [1, 0]


# ---------------------------------------------------------------- guessing


def test_files_that_hold_many_cases_and_folders_of_classes_are_known_by_sight(tmp_path: Path) -> None:
    found = reader_for(DATA / "medmnist" / "pneumonia24.npz", LUNG)
    assert found["name"] == "npz_arrays"
    assert len(READERS.load(found).cases(LUNG)) == 24
    assert reader_for(DATA / "mednist", MEDNIST)["name"] == "class_folders"
    for number in range(2):
        save(tmp_path / "flat" / f"{number}.png")
    flat = reader_for(tmp_path / "flat", TWO, {"name": "class_folders", "root": "elsewhere"}, labelled=False)
    assert len(READERS.load(flat).cases(TWO)) == 2
