"""Shards and Parquet files: rows are addressed, so that streamed and resident sets are the same."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.sets import labels_of, load, noise, pixels, refused
from PIL import Image

from fastinfogan.data import columns
from fastinfogan.data import streaming as stream


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def shards(root: Path, name: str = "{:06}", label: bool = True, n: int = 40) -> Path:
    """Return two shards of half of `noise` each, image i of class i % 3."""
    root.mkdir(exist_ok=True)
    for shard in range(2):
        with tarfile.open(root / f"set-{shard:03}.tar", "w") as archive:
            for i in range(shard * n // 2, (shard + 1) * n // 2):
                stem = name.format(i, kind="abc"[i % 3])
                add(archive, f"{stem}.png", png(noise(n)[i]))
                add(archive, f"{stem}.json", b"{}")
                if label:
                    add(archive, f"{stem}.cls", str(i % 3).encode())
    return root


@pytest.mark.parametrize("mode", ["never", "always"])
@pytest.mark.parametrize("given", ["", "/set-*.tar"])
def test_shards_are_one_set_with_the_labels_next_to_the_images(
    tmp_path: Path, mode: stream.Mode, given: str
) -> None:
    train, test = load(f"tar:{shards(tmp_path / 'x')}{given}", mode=mode).values()
    assert (pixels(train) == np.delete(noise(40), np.s_[9::10], 0)).all()
    assert (pixels(test) == noise(40)[9::10]).all()
    assert labels_of(test) == [i % 3 for i in range(9, 40, 10)]
    assert isinstance(train.images, stream.Streamed) is (mode == "always")
    assert "2 shards" in train.notes


def test_one_shard_is_a_set(tmp_path: Path) -> None:
    root = shards(tmp_path / "x")
    assert len(load(f"tar:{root / 'set-000.tar'}")["train"]) == 18


def test_folders_in_shards_are_classes(tmp_path: Path) -> None:
    root = shards(tmp_path / "x", "./{kind}/{:06}", label=False)
    train = load(f"tar:{root}")["train"]
    assert train.label_names == ("a", "b", "c")
    assert labels_of(train)[:4] == [0, 1, 2, 0]


def test_images_outside_class_folders_leave_shards_without_labels(tmp_path: Path) -> None:
    root = shards(tmp_path / "x", "{kind}/{:06}", label=False)
    with tarfile.open(root / "set-002.tar", "w") as archive:
        add(archive, "loose.png", png(noise(40)[0]))
    train, test = load(f"tar:{root}").values()
    assert train.labels is None
    assert len(train) + len(test) == 41
    assert any("some images lie outside class folders" in line for line in train.notes)


def test_shards_pickle_without_their_images(tmp_path: Path) -> None:
    images = load(f"tar:{shards(tmp_path / 'x')}", mode="always")["train"].images
    whole = images[:]
    assert (pickle.loads(pickle.dumps(images))[:] == whole).all()


def test_a_torn_shard_is_named(tmp_path: Path) -> None:
    root = shards(tmp_path / "x")
    path = root / "set-001.tar"
    path.write_bytes(path.read_bytes()[:700])
    assert "set-001.tar" in refused(f"tar:{root}")
    path.write_bytes(b"no archive at all" * 100)
    assert f"{path}: not a readable .tar file" in refused(f"tar:{root}")


def test_a_damaged_image_in_a_shard_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        add(archive, "a.png", b"no image")
    assert f"{tmp_path / 'x.tar'}: a.png: not a readable image" in refused(f"tar:{tmp_path}/x.tar")


@pytest.mark.parametrize(
    ("name", "start", "tool"),
    [
        ("x.tar.gz", b"\x1f\x8b\x08", "gunzip"),
        ("x.tgz", b"\x1f\x8b\x08", "gunzip"),
        ("x.tar", b"\x1f\x8b\x08", "gunzip"),  # as its content says
        ("X.TBZ2", b"BZh91AY", "bunzip2"),
        ("x.tar.xz", b"\xfd7zXZ\0", "unxz"),
        ("x.tar.zst", b"\x28\xb5\x2f\xfd", "unzstd"),
    ],
)
def test_a_compressed_shard_is_answered_with_what_to_do(
    tmp_path: Path, name: str, start: bytes, tool: str
) -> None:
    shards(tmp_path / "x")
    (tmp_path / "x" / name).write_bytes(start + bytes(100))
    for reference in (tmp_path / "x", tmp_path / "x" / name, tmp_path / "x" / "*"):
        message = refused(f"tar:{reference}")
        assert f"{name} is compressed" in message
        assert f"unpack it ({tool})" in message


def test_shards_that_are_not_there_or_empty_are_refused(tmp_path: Path) -> None:
    assert "no .tar file there" in refused(f"tar:{tmp_path / 'x*.tar'}")
    tarfile.open(tmp_path / "x.tar", "w").close()
    assert "no images in its 1 .tar files" in refused(f"tar:{tmp_path}")


# Parquet


def parquet(hf: Any, path: Path, first: int, last: int, raw: bool = False) -> None:
    path.parent.mkdir(exist_ok=True)
    images = noise(40)[first:last]
    rows = range(first, last)
    kind = hf.Value("binary") if raw else hf.Image()
    features = {"image": kind, "label": hf.Value("int64"), "size": hf.Value("float32")}
    values = {
        "image": [png(i) for i in images] if raw else [Image.fromarray(i) for i in images],
        "label": [i % 3 for i in rows],
        "size": [i / 2 for i in rows],
    }
    hf.Dataset.from_dict(values, features=hf.Features(features)).to_parquet(str(path))


@pytest.mark.parametrize("mode", ["never", "always"])
@pytest.mark.parametrize("raw", [False, True])
def test_parquet_files_of_a_folder_are_one_set(
    hf: Any, tmp_path: Path, mode: stream.Mode, raw: bool
) -> None:
    for part in range(2):
        parquet(hf, tmp_path / "x" / f"part-{part}.parquet", 20 * part, 20 * part + 20, raw)
    for spec in (f"parquet:{tmp_path / 'x'}", f"parquet:{tmp_path / 'x'}/part-*.parquet"):
        train, test = load(spec, mode=mode).values()
        assert (pixels(train) == np.delete(noise(40), np.s_[9::10], 0)).all()
        assert labels_of(test) == [0, 1, 2, 0]


def test_the_first_column_of_images_is_read(hf: Any) -> None:
    features = {"size": hf.Value("float32"), "photo": hf.Image(), "mask": hf.Image()}
    assert columns.image_column(features, "x") == "photo"


def test_parquet_files_named_train_and_test_are_splits(hf: Any, tmp_path: Path) -> None:
    parquet(hf, tmp_path / "x" / "train-00000-of-00001.parquet", 0, 30)
    parquet(hf, tmp_path / "x" / "test-00000-of-00001.parquet", 30, 40)
    train, test = load(f"parquet:{tmp_path / 'x'}").values()
    assert (len(train), len(test)) == (30, 10)


def test_columns_give_known_factors(hf: Any, tmp_path: Path) -> None:
    from fastinfogan import data
    from fastinfogan.errors import UserError

    parquet(hf, tmp_path / "x.parquet", 0, 40)
    spec = f"parquet:{tmp_path / 'x.parquet'}"
    read = data.load(spec, image_size=8, channels=3, factors="size:360,label")
    assert read["test"].factor_names == ("size:360", "label")
    assert read["test"].factors is not None
    assert read["test"].factors.tolist() == [[i / 2, i % 3] for i in range(9, 40, 10)]
    with pytest.raises(UserError, match="no column width, got image, label, size"):
        data.load(spec, image_size=8, channels=3, factors="width")


def test_parquet_files_that_are_not_there_or_none_are_refused(hf: Any, tmp_path: Path) -> None:
    assert "no .parquet file there" in refused(f"parquet:{tmp_path / 'x*'}")
    (tmp_path / "x.parquet").write_bytes(b"no table")
    assert "cannot be read" in refused(f"parquet:{tmp_path / 'x.parquet'}")


def test_a_folder_named_datasets_is_not_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in [n for n in sys.modules if n.partition(".")[0] == "datasets"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "x.parquet").write_bytes(b"")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    message = refused(f"parquet:{tmp_path / 'x.parquet'}")
    assert str(tmp_path / "datasets") in message
    assert "fastinfogan[hf]" in message
