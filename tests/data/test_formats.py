"""Files of arrays by their wild names and keys; files that promise more than they hold."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.sets import labels_of, noise, pixels

from fastinfogan import data
from fastinfogan.errors import UserError

IMAGES = noise(40, 8, 1)[..., 0]
LABELS = np.arange(40) % 7


def load(spec: str, channels: int = 1) -> dict[data.Split, data.Images]:
    return data.load(spec, image_size=8, channels=channels)


def refused(spec: str) -> str:
    with pytest.raises(UserError) as caught:
        load(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write(path: Path, array: np.ndarray) -> Path:
    content = idx(array)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


# idx


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"),
        ("{}-images.idx3-ubyte", "{}-labels.idx1-ubyte"),
        ("{}-images.idx3-ubyte", "{}-labels-idx1-ubyte"),
        ("{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz"),
        ("{}-images.idx3-ubyte.gz", "{}-labels.idx1-ubyte"),
        ("emnist-letters-{}-images-idx3-ubyte.gz", "emnist-letters-{}-labels-idx1-ubyte.gz"),
        ("{}_images.idx", "{}_labels.idx"),
        ("{}-images-ubyte", "{}-labels-ubyte"),
    ],
)
@pytest.mark.parametrize("test", ["t10k", "test"])
def test_every_naming_of_idx_files_keeps_its_labels(
    tmp_path: Path, images: str, labels: str, test: str
) -> None:
    for part, n in (("train", 30), (test, 5)):
        write(tmp_path / images.format(part), IMAGES[:n])
        write(tmp_path / labels.format(part), LABELS[:n])
    train, other = load(f"idx:{tmp_path}").values()
    assert (pixels(train)[..., 0] == IMAGES[:30]).all()
    assert labels_of(train) == LABELS[:30].tolist()
    assert labels_of(other) == LABELS[:5].tolist()
    single = load(f"idx:{tmp_path / images.format('train')}")["test"]
    assert labels_of(single) == LABELS[9:30:10].tolist()


def test_a_plain_idx_file_is_read_rather_than_its_gz(tmp_path: Path) -> None:
    """An unpacked copy may be the newer one, and needs no unpacking."""
    for name, images in (("train-images-idx3-ubyte", 0), ("train-images-idx3-ubyte.gz", 1)):
        write(tmp_path / name, IMAGES[20 * images : 20 * images + 20])
    train = load(f"idx:{tmp_path}")["train"]
    assert (pixels(train)[..., 0] == np.delete(IMAGES[:20], np.s_[9::10], 0)).all()


def test_a_folder_of_several_sets_names_them(tmp_path: Path) -> None:
    for name in ("digits", "letters"):
        write(tmp_path / f"emnist-{name}-train-images-idx3-ubyte", IMAGES)
    message = refused(f"idx:{tmp_path}")
    assert "emnist-digits-train-images-idx3-ubyte, emnist-letters-train" in message


@pytest.mark.parametrize("rank", [0, 5, 255])
def test_a_header_of_too_many_axes_is_refused(tmp_path: Path, rank: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes([0, 0, 8, rank]) + bytes(4 * rank))
    assert f"{path}: not an idx file of images or labels; its header says {rank} axes" in refused(
        f"idx:{path}"
    )


def test_a_gz_that_unpacks_to_more_than_its_header_says_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.gz"
    with gzip.open(path, "wb", 9) as file:
        file.write(idx(IMAGES))
        for _ in range(64):
            file.write(bytes(2**20))
    read = 0
    real = gzip.GzipFile.read

    def counting(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        nonlocal read
        content = real(self, size)
        read += len(content)
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counting)
    assert f"{path}: damaged; its header promises 2560 values, more" in refused(f"idx:{path}")
    assert read <= 4 + 12 + 2560 + 1


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_header_that_promises_terabytes_reserves_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    content = struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**10, 2**10) + bytes(100)
    path.write_bytes(gzip.compress(content) if suffix else content)
    assert "its header promises" in refused(f"idx:{path}")


# npz


@pytest.mark.parametrize("key", ["labels", "label", "y", "targets", "target", "classes"])
def test_npz_labels_are_found_by_their_usual_names(tmp_path: Path, key: str) -> None:
    arrays: dict[str, Any] = {"images": IMAGES, key: LABELS}
    np.savez(tmp_path / "x.npz", **arrays)
    test = load(f"npz:{tmp_path / 'x.npz'}")["test"]
    assert labels_of(test) == LABELS[9::10].tolist()
    assert any(f"labels from {key}" in line for line in test.notes) is (key != "labels")


def test_arrays_of_an_npz_that_are_not_read_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES, y=LABELS / 2)
    assert (
        "no labels: y float64 [40] is not 40 integers"
        in load(f"npz:{tmp_path / 'x.npz'}")["train"].notes
    )
    np.savez(tmp_path / "x.npz", images=IMAGES, kind=LABELS)
    assert "not read: kind" in load(f"npz:{tmp_path / 'x.npz'}")["train"].notes


def test_the_keys_of_another_npz_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", pictures=IMAGES, labels=LABELS)
    message = refused(f"npz:{tmp_path / 'x.npz'}")
    assert 'an array "images"' in message
    assert "pictures uint8 [40, 8, 8]" in message


@pytest.mark.parametrize("x", ["x", "X"])
def test_keras_arrays_are_the_two_splits(tmp_path: Path, x: str) -> None:
    arrays: dict[str, Any] = {
        f"{x}_train": IMAGES,
        "y_train": LABELS[:, None],
        f"{x}_test": IMAGES[:5],
    }
    np.savez(tmp_path / "x.npz", **arrays, y_test=LABELS[:5])
    train, test = load(f"npz:{tmp_path / 'x.npz'}").values()
    assert (pixels(train)[..., 0] == IMAGES).all()
    assert labels_of(train) == LABELS.tolist()
    assert labels_of(test) == LABELS[:5].tolist()


def test_known_factors_come_with_their_names(tmp_path: Path) -> None:
    factors = np.stack([np.arange(40.0), np.arange(40.0) ** 2], 1)
    np.savez(
        tmp_path / "x.npz", images=IMAGES, factors=factors, factor_names=["azimuth:360", "size"]
    )
    train, test = load(f"npz:{tmp_path / 'x.npz'}").values()
    assert test.factor_names == train.factor_names == ("azimuth:360", "size")
    assert test.factors is not None
    assert test.factors.tolist() == factors[9::10].tolist()


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"factors": np.zeros(40)}, "factors must be numbers [40, K]"),
        ({"factors": np.zeros((39, 2))}, "factors must be numbers [40, K]"),
        ({"factors": np.full((40, 2), "a")}, "factors must be numbers [40, K]"),
        ({"factors": np.zeros((40, 2)), "factor_names": ["a"]}, "factor_names must be 2 strings"),
        ({"factors": np.zeros((40, 1)), "factor_names": [1]}, "factor_names must be 1 strings"),
    ],
)
def test_factors_that_do_not_fit_are_refused(
    tmp_path: Path, arrays: dict[str, Any], reason: str
) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES, **arrays)
    assert reason in refused(f"npz:{tmp_path / 'x.npz'}")


def test_an_npz_member_that_promises_more_than_it_holds_reserves_nothing(tmp_path: Path) -> None:
    header = io.BytesIO()
    shape = (10**6, 1000, 1000)
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(1000))
    assert f"{path}: not a readable .npz file" in refused(f"npz:{path}")
