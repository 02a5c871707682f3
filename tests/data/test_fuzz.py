"""Hostile files: whatever is in a file, reading it gives images or one line that names it."""

from __future__ import annotations

import gzip
import io
import json
import resource
import struct
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from fastinfogan import data
from fastinfogan.config import from_yaml, to_yaml
from fastinfogan.data.known import _read_mat
from fastinfogan.errors import UserError
from fastinfogan.presets import PRESETS
from fastinfogan.runs import checkpoint

SIDE = 16
QUICK, LONG, CAMPAIGN = 60, 150, 1250  # files of each kind


def picture(kind: str, **options: Any) -> bytes:
    y, x = np.mgrid[:SIDE, :SIDE]
    pixels = np.stack([x * 15, y * 15, (x * y) % 256], -1).astype(np.uint8)
    image = Image.fromarray(pixels)
    if options.pop("gray16", False):
        image = Image.fromarray((x * 4000).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif, **options) if kind in ("PNG", "JPEG", "WEBP", "TIFF") else (
        image.save(buffer, kind, **options)
    )
    return buffer.getvalue()


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (SIDE, SIDE), (i * 60, 90, 10)) for i in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def array(write: Callable[..., Any], **more: Any) -> bytes:
    buffer = io.BytesIO()
    images = (np.arange(12 * 64) % 251).astype(np.uint8).reshape(12, 8, 8)
    write(buffer, images) if not more else write(buffer, images=images, labels=np.arange(12))
    return buffer.getvalue()


def shard() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(12):
            for suffix, content in (("png", picture("PNG")), ("cls", str(i % 3).encode())):
                member = tarfile.TarInfo(f"{i:03}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def parquet() -> bytes:
    images = [{"bytes": picture("PNG"), "path": None}] * 12
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": images, "label": np.arange(12) % 3}), buffer)
    return buffer.getvalue().to_pybytes()


def mat() -> bytes:
    buffer = io.BytesIO()
    images = np.zeros((8, 8, 3, 12), np.uint8)
    savemat(buffer, {"X": images, "y": np.ones((12, 1), np.uint8)}, do_compression=True)
    return buffer.getvalue()


def idx() -> bytes:
    values = (np.arange(12 * 64) % 251).astype(np.uint8)
    return struct.pack(">4B3I", 0, 0, 8, 3, 12, 8, 8) + values.tobytes()


SEEDS: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "png": ("folder", "x.png", lambda: picture("PNG")),
    "png16": ("folder", "x.png", lambda: picture("PNG", gray16=True)),
    "apng": ("folder", "x.png", lambda: animation("PNG")),
    "jpeg": ("folder", "x.jpg", lambda: picture("JPEG")),
    "gif": ("folder", "x.gif", lambda: animation("GIF")),
    "bmp": ("folder", "x.bmp", lambda: picture("BMP")),
    "tiff": ("folder", "x.tif", lambda: picture("TIFF")),
    "tiff-lzw": ("folder", "x.tif", lambda: picture("TIFF", compression="tiff_lzw")),
    "webp": ("folder", "x.webp", lambda: picture("WEBP")),
    "ppm": ("folder", "x.ppm", lambda: picture("PPM")),
    "tga": ("folder", "x.tga", lambda: picture("TGA")),
    "npy": ("npy", "x.npy", lambda: array(np.save)),
    "npz": ("npz", "x.npz", lambda: array(np.savez, labels=True)),
    "npz-deflated": ("npz", "x.npz", lambda: array(np.savez_compressed, labels=True)),
    "idx": ("idx", "x", idx),
    "gz": ("idx", "x.gz", lambda: gzip.compress(idx(), mtime=0)),
    "tar": ("tar", "x.tar", shard),
    "parquet": ("parquet", "x.parquet", parquet),
    "mat": ("mat", "x.mat", mat),
}
MEMORY = 2 << 30  # bytes, above what the process has


@pytest.fixture(autouse=True)
def _limited_memory() -> Iterator[None]:
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, most))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (before, most))


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return damaged bytes: flipped bits, mostly near the start, or cut, repeated, zeroed parts."""
    out = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        n = len(out)
        at = int(rng.integers(0, min(n, 96) if rng.random() < 0.6 else n)) if n else 0
        way = int(rng.integers(0, 7))
        if way <= 2 and n:
            out[at] = int(rng.integers(0, 256)) if way else out[at] ^ (1 << int(rng.integers(8)))
        elif way == 3:
            del out[at:]
        elif way == 4:
            del out[at : at + int(rng.integers(1, 9))]
        elif way == 5:
            out[at:at] = out[at : at + int(rng.integers(1, 33))]
        else:
            value = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000)[int(rng.integers(5))]
            out[at : at + 4] = struct.pack("><"[int(rng.integers(2))] + "I", value)
    return bytes(out)


def read(spec: str, path: Path) -> bool:
    """Return True if the images are read; else the error is one line that names the file."""
    options: dict[str, Any] = {} if spec == "folder" else {"stream": "never"}
    try:
        if spec == "mat":
            _read_mat(path)
            return True
        for frames in ("first", "all") if spec == "folder" else ("first",):
            where = f"{spec}:{path.parent if spec == 'folder' else path}"
            splits = data.load(where, image_size=8, channels=1, frames=frames, **options)
            for split in splits.values():
                assert split.images[:].shape == (len(split), 8, 8, 1)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert path.name in str(error) or str(path.parent) in str(error)  # noqa: PT017
        return False
    return True


def campaign(kind: str, root: Path, n: int) -> int:
    """Read n damaged files of a kind; returns how many of them are read as images."""
    spec, name, make = SEEDS[kind]
    rng = np.random.default_rng([7, *kind.encode()])
    sound = make()
    path = root / name
    sound_images = 0
    if kind == "mat":  # which has a process per file
        n //= 10
    if spec == "folder":  # so many that one of each split is there
        for i in range(19):
            Image.new("L", (8, 8), 200).save(root / f"sound{i:02}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be a second line
        for _ in range(n):
            path.write_bytes(damaged(sound, rng))
            sound_images += read(spec, path)
    return sound_images


@pytest.mark.quick_cases(8)
@pytest.mark.parametrize("kind", SEEDS)
def test_damage_gives_images_or_one_line_with_the_files_name(tmp_path: Path, kind: str) -> None:
    spec, name, make = SEEDS[kind]
    assert campaign(kind, tmp_path, QUICK) < QUICK  # some damage is damage
    (tmp_path / name).write_bytes(make())
    assert read(spec, tmp_path / name)


@pytest.mark.parametrize("kind", SEEDS)
@pytest.mark.parametrize(
    "files",
    [
        pytest.param(LONG, marks=pytest.mark.slow),
        pytest.param(CAMPAIGN, marks=pytest.mark.chaos),
    ],
)
def test_much_damage_gives_images_or_one_line_with_the_files_name(
    tmp_path: Path, kind: str, files: int
) -> None:
    campaign(kind, tmp_path, files)


# A run's own files


def read_config(path: Path) -> None:
    from_yaml(path.read_text(encoding="utf-8", errors="surrogateescape"), str(path))


def read_checkpoint(path: Path) -> None:
    checkpoint.load_newest(path.parent.parent)


def read_checkpoint_with_its_checksum(path: Path) -> None:
    """Read a checkpoint whose manifest was made true for the damaged file, as a forger would."""
    manifest = path.with_name(checkpoint.MANIFEST)
    content = json.loads(manifest.read_text())
    content["files"][path.name] = checkpoint._fingerprint(path.read_bytes())
    del content["sha256"]
    content["sha256"] = checkpoint._seal(content)
    manifest.write_text(json.dumps(content))
    read_checkpoint(path)


RUN_FILES: dict[str, Callable[[Path], None]] = {
    "config.yaml": read_config,
    "checkpoints/step-00000004/manifest.json": read_checkpoint,
    "checkpoints/step-00000004/model.safetensors": read_checkpoint_with_its_checksum,
}


@pytest.mark.parametrize("name", RUN_FILES)
@pytest.mark.parametrize(
    "files",
    [
        pytest.param(LONG, marks=pytest.mark.slow),
        pytest.param(CAMPAIGN, marks=pytest.mark.chaos),
    ],
)
def test_damaged_files_of_a_run_are_read_or_refused_in_one_line(
    tmp_path: Path, name: str, files: int
) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(PRESETS["mnist"]))
    tensors = {"model": {"w": torch.arange(24.0).view(4, 6), "b": torch.arange(3)}}
    checkpoint.save(tmp_path / "checkpoints", 4, tensors, {"good": True, "scaler": None}, keep=1)
    path, rng = tmp_path / name, np.random.default_rng([8, *name.encode()])
    sound = path.read_bytes()
    for _ in range(files):
        path.write_bytes(damaged(sound, rng))
        try:
            RUN_FILES[name](path)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
