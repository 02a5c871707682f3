"""Sets read by Hugging Face's library, on files that the library itself writes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.sets import labels_of, load, noise, own_folders, pixels, refused
from PIL import Image

from fastinfogan import data
from fastinfogan.data import streaming as stream
from fastinfogan.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_folders(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def hf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return datasets


def dataset(hf: Any, n: int, *, seed: int = 0, **columns: Any) -> Any:
    """Return n images of noise, of classes i % 3."""
    pictures = [Image.fromarray(image) for image in noise(n, seed=seed)]
    features = {"text": hf.Value("string"), "picture": hf.Image()}
    values: dict[str, Any] = {"text": ["x"] * n, "picture": pictures}
    for name, (feature, column) in columns.items():
        features[name], values[name] = feature, column
    return hf.Dataset.from_dict(values, features=hf.Features(features))


def labelled(hf: Any, n: int, seed: int = 0) -> Any:
    kind = hf.ClassLabel(names=["a", "b", "c"])
    return dataset(hf, n, seed=seed, label=(kind, [i % 3 for i in range(n)]))


@pytest.mark.parametrize("mode", ["never", "always"])
def test_a_saved_set_gives_its_splits_images_and_classes(hf: Any, mode: stream.Mode) -> None:
    hf.DatasetDict({"test": labelled(hf, 12, 1), "train": labelled(hf, 30)}).save_to_disk("saved")
    train, test = load("hf:saved", mode=mode).values()
    assert (pixels(train) == noise(30)).all()
    assert (pixels(test) == noise(12, seed=1)).all()
    assert labels_of(test) == [i % 3 for i in range(12)]
    assert isinstance(train.images, stream.Streamed) is (mode == "always")
    if mode == "never":
        assert labels_of(train) == [i % 3 for i in range(30)]


@pytest.mark.parametrize("mode", ["never", "always"])
def test_of_a_set_without_splits_every_tenth_image_is_held_out(hf: Any, mode: stream.Mode) -> None:
    labelled(hf, 30).save_to_disk("saved")
    train, test = load("hf:saved", mode=mode).values()
    assert (pixels(test) == noise(30)[9::10]).all()
    assert len(train) == 27
    assert labels_of(test) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_parquet_is_read(hf: Any, kind: str) -> None:
    Path("set").mkdir()
    labelled(hf, 30).to_parquet("set/train.parquet")
    train, test = load(f"hf:set{'/train.parquet' if kind == 'file' else ''}").values()
    assert (pixels(test) == noise(30)[9::10]).all()
    assert labels_of(train)[:4] == [0, 1, 2, 0]


def test_a_cut_parquet_file_is_refused_and_nothing_else_logged(
    hf: Any, caplog: pytest.LogCaptureFixture
) -> None:
    labelled(hf, 30).to_parquet("cut.parquet")
    whole = Path("cut.parquet").read_bytes()
    Path("cut.parquet").write_bytes(whole[: len(whole) // 2])
    hf.logging.set_verbosity_warning()
    with pytest.raises(UserError, match="cannot be read"):
        load("parquet:cut.parquet")
    assert caplog.records == []


def test_images_are_cropped_scaled_and_made_gray(hf: Any) -> None:
    labelled(hf, 20).save_to_disk("saved")
    assert load("hf:saved", 4, 1)["train"].images.shape == (18, 4, 4, 1)
    assert "--channels" in refused("hf:saved", 4, 2)


@pytest.mark.parametrize(
    ("name", "feature", "values", "labelled"),
    [
        ("labels", "int64", range(20), True),
        ("fine_label", "uint8", range(20), True),
        ("kind", "ClassLabel", range(20), True),
        ("celeb_id", "int64", range(20), False),  # a number, but of what?
        ("label", "float32", range(20), False),
        ("label", "int64", [-1] * 20, False),  # the hub's "not known"
        ("label", "int64", [*range(19), None], False),
    ],
)
def test_labels_are_classes_or_integers_of_a_known_name(
    hf: Any, name: str, feature: str, values: Any, labelled: bool
) -> None:
    kind = hf.ClassLabel(num_classes=20) if feature == "ClassLabel" else hf.Value(feature)
    columns: dict[str, Any] = {name: (kind, list(values))}
    dataset(hf, 20, **columns).save_to_disk("saved")
    test = load("hf:saved")["test"]
    assert (labels_of(test) == [9, 19]) if labelled else (test.labels is None)


def test_a_set_without_images_is_refused_with_its_columns(hf: Any) -> None:
    hf.Dataset.from_dict({"text": ["x"] * 20}).save_to_disk("saved")
    assert "no column of images, got columns text" in refused("hf:saved")


def test_several_splits_without_train_are_refused_by_name(hf: Any) -> None:
    splits = {name: labelled(hf, 10) for name in ("one", "two")}
    hf.DatasetDict(splits).save_to_disk("saved")
    assert "expected a split train, got one, two" in refused("hf:saved")


@pytest.mark.parametrize("content", [None, {"bytes": b"torn", "path": None}])
def test_a_damaged_image_is_named_by_its_row(hf: Any, content: Any) -> None:
    good = labelled(hf, 20).cast_column("picture", hf.Image(decode=False))
    pictures = [row["picture"] for row in good]
    pictures[7] = content
    dataset(hf, 20).remove_columns("picture").add_column(
        "picture", pictures, feature=hf.Image()
    ).save_to_disk("saved")
    assert "image 7: not a readable image" in refused("hf:saved")


@pytest.mark.parametrize("spec", ["hf:nobody/nothing", "hf:nobody/nothing:plain", "hf:empty"])
def test_a_set_that_cannot_be_loaded_is_refused_in_one_line(spec: str) -> None:
    Path("empty").mkdir()
    message = refused(spec)
    assert f"--data {spec}: cannot be loaded" in message
    assert "huggingface.co" in message


def test_batches_are_the_same_streamed_and_resident(hf: Any) -> None:
    labelled(hf, 40).save_to_disk("saved")
    here, there = (
        data.batches(
            load("hf:saved", mode=mode)["train"].images,
            torch.device("cpu"),
            batch_size=8,
            seed=1,
        )
        for mode in ("always", "never")
    )
    for step in range(6):
        assert torch.equal(here(step), there(step))
    here.close()


def test_without_the_library_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # an import of it raises ImportError
    assert "pip install 'fastinfogan[hf]'" in refused("hf:ylecun/mnist")
