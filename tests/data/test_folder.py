"""Files mean what a person meant: hidden folders, links, suffixes, splits, classes, factors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.sets import labels_of, pixels
from PIL import Image

from fastinfogan import data
from fastinfogan.errors import UserError


def load(root: Path, **options: Any) -> dict[data.Split, data.Images]:
    return data.load(f"folder:{root}", image_size=8, channels=1, **options)


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fill(folder: Path, value: int, n: int = 10, suffix: str = "png", first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + n):
        Image.new("L", (8, 8), value).save(folder / f"{i:02}.{suffix}")
    return folder


def values(images: data.Images) -> list[int]:
    return sorted(set(pixels(images)[:, 0, 0, 0].tolist()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of two classes, of gray 50 and of gray 100."""
    fill(tmp_path / "set" / "cat", 50)
    fill(tmp_path / "set" / "dog", 100)
    return tmp_path / "set"


def first_line(root: Path, **options: Any) -> str:
    return load(root, **options)["train"].notes[0]


# What is no data


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", ".thumbnails", "@eaDir", ".Trash-1000", "__MACOSX", "@eadir"]
)
@pytest.mark.parametrize("place", ["", "cat"])
def test_hidden_folders_are_no_data_at_any_depth(root: Path, name: str, place: str) -> None:
    fill(root / place / name, 200)
    train = load(root)["train"]
    assert values(train) == [50, 100]
    assert train.label_names == ("cat", "dog")
    assert train.notes[0].endswith("left out: 1 hidden folder")


def test_one_line_lists_the_images_and_the_files_left_out(root: Path) -> None:
    fill(root / "horse", 150)
    for name in (".git", "cat/@eaDir"):
        (root / name).mkdir()
    for i in range(4):
        (root / "dog" / f"{i}.svg").touch()
    (root / "notes.txt").touch()
    assert first_line(root) == (
        f"folder:{root}: 30 images in 3 classes (cat, dog, horse), 27 to train on, 3 to test on; "
        "left out: 4 .svg, 2 hidden folders, 1 .txt"
    )


def test_a_folder_pipe_or_broken_link_with_an_images_name_is_passed_over(root: Path) -> None:
    os.mkfifo(root / "cat" / "pipe.png")
    (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "cat" / "folder.png").mkdir()
    train = load(root)["train"]
    assert values(train) == [50, 100]
    assert "1 pipe or device" in train.notes[0]
    assert "1 broken link" in train.notes[0]


def test_a_folder_that_cannot_be_listed_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    message = refused(root)
    assert str(root / "dog") in message
    assert "Permission denied" in message


def test_names_that_cannot_be_printed_do_not_end_a_run(root: Path) -> None:
    strange = os.fsdecode(os.fsencode(root) + b"/h\xff\n")
    fill(Path(strange), 150)
    train = load(root)["train"]
    assert values(train) == [50, 100, 150]
    for line in train.notes:
        line.encode()
        assert "\n" not in line


# Links


def test_a_linked_class_folder_is_followed_once(root: Path, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", 150)
    (root / "horse").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    train = load(root)["train"]
    assert values(train) == [50, 100, 150]
    assert train.label_names == ("again", "cat", "dog")
    assert "1 linked folder read elsewhere" in train.notes[0]
    assert "1 linked folder followed" in train.notes


def test_links_that_lead_back_end(root: Path) -> None:
    (root / "cat" / "up").symlink_to(root)
    (root / "a").symlink_to(root / "dog")
    train = load(root)["train"]
    assert len(train) == 18
    assert train.label_names == ("cat", "dog")  # a true folder goes before a link to it


def test_a_linked_file_is_read(root: Path, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", 150, 1)
    (root / "cat" / "link.png").symlink_to(tmp_path / "elsewhere" / "00.png")
    assert len(load(root)["train"]) == 19


# Suffixes


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        ("jfif", "JPEG"),
        ("jpe", "JPEG"),
        ("JPG", "JPEG"),
        ("avif", "AVIF"),
        ("pgm", "PPM"),
        ("webp", "WEBP"),
        ("jp2", "JPEG2000"),
        ("tga", "TGA"),
        ("pcx", "PCX"),
        ("qoi", "QOI"),
    ],
)
def test_every_format_that_pillow_reads_is_read(root: Path, suffix: str, kind: str) -> None:
    (root / "horse").mkdir()
    mode = "RGB" if kind == "QOI" else "L"
    for i in range(10):
        path = root / "horse" / f"{i}.{suffix}"
        if kind == "QOI":  # one colour, and a run of 62 and of 1 pixels more
            header = b"qoif" + (8).to_bytes(4, "big") * 2 + bytes([3, 0])
            path.write_bytes(header + b"\xfe\x96\x96\x96\xfd\xc0" + bytes(7) + b"\1")
        else:
            Image.new(mode, (8, 8), 150).save(path, kind)
    train = load(root)["train"]
    assert train.label_names == ("cat", "dog", "horse")
    assert abs(int(pixels(train).max()) - 150) <= 2


# Splits and classes


@pytest.mark.parametrize("test", ["val", "test", "valid", "validation", "Testing"])
def test_train_and_test_folders_at_the_root_are_splits(tmp_path: Path, test: str) -> None:
    for split, n in (("Train" if test == "Testing" else "train", 12), (test, 4)):
        fill(tmp_path / split / "cat", 50, n)
        fill(tmp_path / split / "dog", 100, n)
    train, other = load(tmp_path).values()
    assert (len(train), len(other)) == (24, 8)
    assert labels_of(train) == [0] * 12 + [1] * 12
    assert train.label_names == ("cat", "dog")
    assert any("splits by folder" in line for line in train.notes)


def test_with_three_splits_the_validation_images_are_left_out_with_a_line(tmp_path: Path) -> None:
    for split, value in (("train", 50), ("val", 100), ("test", 150)):
        fill(tmp_path / split, value)
    train, test = load(tmp_path).values()
    assert (values(train), values(test)) == ([50], [150])
    assert train.labels is None
    assert "10 images of the validation folder are not used" in train.notes


def test_classes_that_only_look_like_splits_are_classes(tmp_path: Path) -> None:
    for name in ("train", "plane", "car"):  # what one can travel in
        fill(tmp_path / name, 50)
    assert load(tmp_path)["train"].label_names == ("car", "plane", "train")


def test_a_few_loose_files_do_not_take_the_labels_away(root: Path) -> None:
    fill(root, 200, 1)
    train = load(root)["train"]
    assert train.label_names == ("cat", "dog")
    assert values(train) == [50, 100]
    assert any("left out 1 image outside the class folders (00.png)" in n for n in train.notes)


def test_many_loose_files_mean_no_labels_with_a_line(root: Path) -> None:
    fill(root, 200, 10)
    train = load(root)["train"]
    assert train.labels is None
    assert values(train) == [50, 100, 200]
    assert any("no labels: 10 images of 30" in line for line in train.notes)


# Damaged files


@pytest.mark.parametrize("stream", ["never", "always"])
def test_up_to_so_many_damaged_files_are_passed_over_by_name(root: Path, stream: Any) -> None:
    for name in ("cat/03.png", "dog/05.png"):
        (root / name).write_bytes(b"\x89PNG, but no more")
    message = refused(root, skip_bad=1)
    assert "cat/03.png" in message
    assert "1 more" in message
    assert "--skip-bad 2" in message
    splits = load(root, skip_bad=2, stream=stream)
    assert sum(len(images) for images in splits.values()) == 18
    assert values(splits["train"]) == [50, 100]
    notes = splits["train"].notes
    assert sum("passed over" in line for line in notes) == 2
    if stream == "never":
        assert labels_of(splits["train"]) == [0] * 9 + [1] * 8


def test_without_that_option_a_damaged_file_is_named(root: Path) -> None:
    (root / "cat" / "03.png").write_bytes(b"")
    assert "cat/03.png: not a readable image" in refused(root)


# Known factors


def test_a_table_gives_the_factors_of_each_image(root: Path) -> None:
    rows = [f"{name}/{i:02}.png,{10 * i},{name}" for name in ("dog", "cat") for i in range(10)]
    text = "\n".join(["file,azimuth:360,shape", *rows])
    (root / "factors.csv").write_text(text, encoding="utf-8-sig")
    train, test = load(root).values()
    assert train.factor_names == ("azimuth:360", "shape")
    assert train.factors is not None
    assert test.factors is not None
    assert train.factors[:3].tolist() == [[0, 0], [10, 0], [20, 0]]
    assert test.factors.tolist() == [[90, 0], [90, 1]]  # words by the alphabet
    assert "factors.csv" not in train.notes[0]


def test_streamed_sets_have_their_factors_too(root: Path) -> None:
    rows = [f"{name}/{i:02}.png,{i}" for name in ("dog", "cat") for i in range(10)]
    (root / "factors.csv").write_text("\n".join(["file,size", *rows]))
    splits = load(root, stream="always")
    for split in splits.values():
        assert split.factors is not None
        assert split.factors.shape == (len(split), 1)


def test_images_without_a_row_have_no_factors(root: Path) -> None:
    (root / "factors.csv").write_text("file,size\ncat/00.png,3\n")
    train = load(root)["train"]
    assert train.factors is not None
    assert train.factors[0, 0] == 3
    assert np.isnan(train.factors[1:]).all()
    assert any("19 of 20 images have no row" in line for line in train.notes)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a column file"),
        ("name,size\nx,1", "a column file"),
        ("file\nx", "a column file"),
        ("file,size,size\nx,1,1", "a column file"),
        ("file,size\ncat/00.png", "line 2: expected 2 values, got 1"),
        ("file,size\nx.png,1", "none of its files"),
    ],
)
def test_an_invalid_table_is_refused_by_name(root: Path, text: str, reason: str) -> None:
    (root / "factors.csv").write_text(text)
    message = refused(root)
    assert reason in message
    assert "factors.csv" in message
