"""Hostile sets: pipes under the names of files, headers that promise too much, planted paths."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.sets import load, noise, own_folders, pixels, refused
from PIL import Image

from fastinfogan import data
from fastinfogan.data import arrays, decoding, dsprites, folder, shards
from fastinfogan.data.decoding import decode, frames_in, without_metadata
from fastinfogan.data.formats import read_npz
from fastinfogan.data.reading import Reading
from fastinfogan.errors import UserError

IMAGES = noise(40, 8, 1)[..., 0]
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_folders(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """End a test that waits for a pipe's writer."""

    def stop(*_: object) -> None:
        raise BaseExceptionGroup("waited for a pipe", [KeyboardInterrupt()])

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def block(path: Path, kind: str) -> Path:
    """Put a pipe, a device or a folder in a file's place."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


# Pipes, devices, folders


@needs_pipes
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("read", [decode, frames_in, without_metadata])
def test_an_image_that_is_no_file_is_refused_at_once(
    tmp_path: Path, kind: str, read: Callable[[Path], object]
) -> None:
    path = block(tmp_path / "x.png", kind)
    with pytest.raises((ValueError, OSError), match="not a regular file"):
        read(path)


def test_an_image_behind_a_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(IMAGES[0]))
    (tmp_path / "y.png").symlink_to(tmp_path / "x.png")
    assert (np.asarray(decode(tmp_path / "y.png").image) == IMAGES[0]).all()


def celeba(names: list[str]) -> Path:
    root = Path("celeba/img_align_celeba")
    root.mkdir(parents=True)
    for i, name in enumerate(names):
        (root / name).write_bytes(png(IMAGES[i]))
    return root


@needs_pipes
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_celebas_pipe_counts_as_a_damaged_image(kind: str) -> None:
    names = [f"{i:06}.jpg" for i in range(1, 31)]
    block(celeba(names) / names[11], kind)
    assert "000012.jpg: not a readable image (not a regular file)" in refused("celeba")
    splits = data.load("celeba", image_size=8, channels=3, stream="never", skip_bad=1)
    assert sum(map(len, splits.values())) == 29


@needs_pipes
@pytest.mark.parametrize("suffix", ["npy", "npz", "idx", "gz", "tar", "parquet", "mat"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_no_reader_opens_what_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, kind: str
) -> None:
    """Also not where it takes the file's place after it was looked at."""
    path = block(tmp_path / f"x.{suffix}", kind)
    spec = {"gz": "idx"}.get(suffix, suffix)
    if suffix == "mat":
        path = block(Path("train_32x32.mat"), kind)
        spec = "svhn"
    whole = "svhn" if spec == "svhn" else f"{spec}:{path}"
    assert refused(whole)
    if suffix == "parquet":
        return
    monkeypatch.setattr(Path, "is_file", lambda path: os.path.lexists(path))
    assert "not a regular file" in refused(whole)


@needs_pipes
def test_a_folder_of_parquet_files_with_a_pipe_among_them_is_read(tmp_path: Path, hf: Any) -> None:
    write_parquet(Path("set/train.parquet"), [{"bytes": png(i), "path": None} for i in IMAGES])
    os.mkfifo("set/more.parquet")
    assert len(load("parquet:set")["train"]) == 36


@needs_pipes
def test_a_table_that_is_no_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_file", lambda path: os.path.lexists(path))
    celeba(["000001.jpg"])
    block(Path("celeba/list_eval_partition.txt"), "pipe")
    assert "list_eval_partition.txt: cannot be read" in refused("celeba")
    Path("set").mkdir()
    Path("set/0.png").write_bytes(png(IMAGES[0]))
    block(Path("set/factors.csv"), "pipe")
    assert "factors.csv: cannot be read" in refused("folder:set")


def test_a_table_of_more_bytes_than_any_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with (celeba(["000001.jpg"]).parent / "list_eval_partition.txt").open("wb") as file:
        file.truncate(folder.MAX_TABLE + 1)
    assert "list_eval_partition.txt: cannot be read" in refused("celeba")
    Path("set").mkdir()
    Path("set/0.png").write_bytes(png(IMAGES[0]))
    with Path("set/factors.csv").open("wb") as file:
        file.truncate(folder.MAX_TABLE + 1)
    assert f"expected at most {folder.MAX_TABLE:,}" in refused("folder:set")


def test_an_image_that_a_decoder_reads_whole_has_at_most_so_many_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(IMAGES[0]).save(tmp_path / "x.webp")
    decode(tmp_path / "x.webp")
    monkeypatch.setattr(decoding, "MAX_BYTES", 20)
    with pytest.raises(ValueError, match="of none of the known formats"):
        decode(tmp_path / "x.webp")


# Headers of arrays


def long_header() -> bytes:
    """Return a .npy file that promises a header of a gigabyte, as long as a reader ever reads."""
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**30) + b" " * 20_000


class Watched(io.BytesIO):
    """A file that remembers the most bytes that were asked for at once."""

    most = 0

    def read(self, size: int | None = -1) -> bytes:
        self.most = max(self.most, 2**40 if size is None or size < 0 else size)
        return super().read(size)


def test_a_long_header_is_refused_before_it_is_read() -> None:
    file = Watched(long_header())
    with pytest.raises(ValueError, match="promises 1,073,741,824 bytes, expected at most 10,000"):
        arrays.read_npy_header(file)
    assert file.most < 100


@pytest.mark.parametrize(
    "text",
    ["-" * 9000 + "1", "(" * 9000, "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -1)}"],
)
def test_a_header_that_cannot_be_evaluated_is_refused(text: str) -> None:
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
    with pytest.raises(ValueError, match="header"):
        arrays.read_npy_header(io.BytesIO(content))


@pytest.mark.parametrize("dtype", ["u1", ">f4", "i8"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_a_header_is_read_as_numpy_reads_it(dtype: str, version: tuple[int, int]) -> None:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros((3, 4), dtype), version)
    file.seek(0)
    header = arrays.read_npy_header(file)
    assert (header.shape, header.dtype) == ((3, 4), np.dtype(dtype))
    assert header.length == len(file.getvalue()) - header.nbytes


def refuse_numpys_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let numpy's own reader of headers fail a test: it reads what a header promises."""

    def read(*_: object, **__: object) -> None:
        raise AssertionError("numpy read a header that was not checked")

    monkeypatch.setattr(np.lib.format, "read_array", read)
    monkeypatch.setattr(np.lib.format, "read_magic", read)
    monkeypatch.setattr(np.lib.format, "open_memmap", read)


@pytest.mark.parametrize("name", ["images", "x_train", "factors", "labels"])
def test_no_member_of_an_npz_has_a_long_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / "x.npz"
    members = {"images": IMAGES, name: None} if name != "x_train" else {name: None}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in members.items():
            buffer = io.BytesIO()
            if array is not None:
                np.save(buffer, array)
            archive.writestr(f"{key}.npy", buffer.getvalue() or long_header())
    if name in ("images", "x_train"):
        refuse_numpys_reader(monkeypatch)
    with pytest.raises(UserError, match=r"x\.npz: not a readable .*1,073,741,824 bytes"):
        read_npz(path, Reading(8, 1))


def test_a_npy_file_with_a_long_header_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.npy").write_bytes(long_header())
    refuse_numpys_reader(monkeypatch)
    assert "expected at most 10,000" in refused(f"npy:{tmp_path / 'x.npy'}")


def write_dsprites(**members: bytes) -> Path:
    path = Path("dsprites") / dsprites.ARCHIVE
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


SIZES = (3, 2, 4, 2, 2)
CLASSES = np.stack([np.zeros(96, int), *np.unravel_index(np.arange(96), SIZES)], 1)


@pytest.mark.parametrize("name", ["imgs", "latents_classes"])
def test_no_member_of_dsprites_has_a_long_header(name: str) -> None:
    sound = {"imgs": npy(np.zeros((96, 8, 8), np.uint8)), "latents_classes": npy(CLASSES)}
    write_dsprites(**sound | {name: long_header()})
    assert "expected at most 10,000" in refused("dsprites", 8, 1)


def test_dsprites_classes_that_promise_more_than_is_there_reserve_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    header = io.BytesIO()
    described = {"descr": "<i8", "fortran_order": False, "shape": (10**11, 6)}
    np.lib.format.write_array_header_1_0(header, described)
    refuse_numpys_reader(monkeypatch)
    imgs = npy(np.zeros((96, 8, 8), np.uint8))
    write_dsprites(imgs=imgs, latents_classes=header.getvalue() + bytes(1000))
    assert "latents_classes is not as long as its header promises" in refused("dsprites", 8, 1)


# Shards


def sparse_shard(path: Path, size: int) -> None:
    """Write a .tar of ten images and one more, of `size` zeros, which take no space on the disk."""
    with tarfile.open(path, "w") as archive:
        for i in range(10):
            info = tarfile.TarInfo(f"{i}.png")
            content = png(IMAGES[i])
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        end = archive.offset
    info = tarfile.TarInfo("x.png")
    info.size = size
    with path.open("r+b") as file:
        file.seek(end)
        file.write(info.tobuf())
        file.truncate(end + 512 + -(-size // 512) * 512 + 1024)


def test_a_member_of_gigabytes_is_a_damaged_image(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    sparse_shard(path, 8 * 2**30)
    message = refused(f"tar:{path}")
    assert "x.png: not a readable image (its header promises 8,589,934,592 bytes" in message
    splits = data.load(f"tar:{path}", image_size=8, channels=3, frames="all", skip_bad=1)
    assert sum(map(len, splits.values())) == 10


def test_a_member_of_more_than_its_shard_has_left_reserves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.tar"
    sparse_shard(path, 2**29)
    os.truncate(path, 20_000)
    monkeypatch.setattr(os, "pread", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="its shard ends before it"):
        shards._content(path, 512, 2**29)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_record_of_gigabytes_before_a_member_is_not_read(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.size, info.type = 4 * 2**30, kind
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(5 * 2**30)
    message = refused(f"tar:{tmp_path / 'x.tar'}")
    assert "x.tar: not a readable .tar file (a header promises 4,294,967,296 bytes" in message


def test_a_member_of_less_than_nothing_ends_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a", "b"):
            archive.addfile(tarfile.TarInfo(name))
        info = tarfile.TarInfo("c.png")
        info.size = -1024
        archive.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
    assert "x.tar: not a readable .tar file (a header leads back)" in refused(f"tar:{path}")


def test_a_label_beyond_64_bits_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, content in (("0.png", png(IMAGES[0])), ("0.cls", b"9" * 30)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert "0.cls: expected an integer" in refused(f"tar:{tmp_path / 'x.tar'}")


# Tables of images


def write_parquet(path: Path, cells: list[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), path)


def secret() -> Path:
    path = Path("secret.png").absolute()
    path.write_bytes(png(IMAGES[0]))
    return path


@pytest.mark.parametrize(
    "spec", ["parquet:set", "parquet:set/x.parquet", "hf:set/x.parquet", "hf:set"]
)
def test_a_table_reads_no_file_by_its_path(hf: Any, spec: str) -> None:
    cells = [{"bytes": png(image), "path": None} for image in IMAGES[:19]]
    write_parquet(Path("set/x.parquet"), [*cells, {"bytes": None, "path": str(secret())}])
    assert "image 19: not a readable image (a path without its bytes" in refused(spec)
    write_parquet(Path("set/x.parquet"), [*cells, {"bytes": None, "path": None}])
    assert "image 19: not a readable image (neither bytes nor a path)" in refused(spec)


@pytest.mark.parametrize("content", [10**12, "text", [10**12], [None]])
def test_a_cell_of_something_else_than_bytes_is_a_damaged_image(content: Any) -> None:
    from fastinfogan.data.columns import cell_bytes

    with pytest.raises(ValueError, match="bytes"):
        cell_bytes({"bytes": content, "path": None})


def saved(hf: Any, paths: list[str], where: str = "set") -> None:
    """Save a set whose cells hold paths, as the library would if it did not store the bytes."""
    cells = [{"bytes": None, "path": path} for path in paths]
    kind = {"image": {"bytes": hf.Value("binary"), "path": hf.Value("string")}}
    hf.Dataset.from_dict({"image": cells}, features=hf.Features(kind)).save_to_disk(where)


def test_a_saved_set_reads_files_below_its_folder_alone(hf: Any) -> None:
    Path("set/images").mkdir(parents=True)
    paths = [Path(f"set/images/{i}.png").absolute() for i in range(20)]
    for path, image in zip(paths, noise(20), strict=True):
        path.write_bytes(png(image))
    saved(hf, [str(path) for path in paths])
    assert (pixels(load("hf:set")["test"]) == noise(20)[9::10]).all()
    for outside in (secret(), Path("set/../secret.png").absolute(), Path("/dev/zero")):
        saved(hf, [*map(str, paths[:19]), str(outside)])
        assert "image 19: not a readable image (a path without" in refused("hf:set")


def test_image_files_that_the_library_has_saved_are_read_without_them(hf: Any) -> None:
    path = secret()
    images = hf.Dataset.from_dict({"image": [str(path)] * 20}).cast_column("image", hf.Image())
    images.save_to_disk("set")
    path.unlink()
    assert len(load("hf:set")["train"]) == 18


def test_a_folder_of_images_is_read_by_the_library(hf: Any) -> None:
    Path("set").mkdir()
    for i, image in enumerate(noise(20)):
        Path(f"set/{i:02}.png").write_bytes(png(image))
    Path("link").symlink_to("set")
    for spec in ("hf:set", "hf:link"):
        assert (pixels(load(spec)["test"]) == noise(20)[9::10]).all()


def test_a_saved_set_names_no_table_outside_its_folder(hf: Any) -> None:
    hf.Dataset.from_dict({"image": [png(i) for i in IMAGES]}).save_to_disk("other")
    hf.DatasetDict(train=hf.Dataset.from_dict({"image": [png(i) for i in IMAGES]})).save_to_disk(
        "set"
    )
    assert len(load("hf:set")["train"]) == 36
    state = Path("set/train/state.json")
    content = json.loads(state.read_text())
    (file,) = content["_data_files"]
    outside = Path("other", file["filename"]).absolute()
    for name in (str(outside), f"../../other/{outside.name}", ".."):
        file["filename"] = name
        state.write_text(json.dumps(content))
        assert "expected a name in its folder" in refused("hf:set")


@needs_pipes
def test_a_saved_set_with_a_pipe_is_refused(hf: Any) -> None:
    hf.Dataset.from_dict({"image": [png(i) for i in IMAGES]}).save_to_disk("set")
    block(next(Path("set").glob("*.arrow")), "pipe")
    assert "is a pipe or a device" in refused("hf:set")


# The cache


@pytest.mark.parametrize("planted", ["link", "hard link"])
@pytest.mark.parametrize("suffix", [".partial", ".npy"])
def test_dsprites_cache_is_never_written_through_what_was_planted(
    cache: Path, suffix: str, planted: str
) -> None:
    imgs = npy(np.zeros((96, 8, 8), np.uint8))
    path = write_dsprites(imgs=imgs, latents_classes=npy(CLASSES))
    with zipfile.ZipFile(path) as archive:
        crc = archive.getinfo("imgs.npy").CRC
    cache.mkdir(parents=True)
    victim = Path("victim")
    victim.write_text("dear")
    name = cache / f"dsprites-{crc:08x}{suffix}"
    name.symlink_to(victim.absolute()) if planted == "link" else name.hardlink_to(victim)
    load("dsprites", 8, 1)
    assert victim.read_text() == "dear"
    assert [file.name for file in cache.glob("*.*") if file.suffix != ".lock"] == [
        f"dsprites-{crc:08x}.npy"
    ]
