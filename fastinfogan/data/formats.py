"""Image sets in files of the user's: idx, npz, npy."""

from __future__ import annotations

import gzip
import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .arrays import NpyFile, open_npy
from .splits import Images, Labels, Split, check_labels, halves, held_out
from .streaming import Mode

DAMAGE = (OSError, EOFError, ValueError, zlib.error)  # what reading a damaged file raises
# What numpy makes of an array's damaged header besides
HEADER_DAMAGE = (SyntaxError, tokenize.TokenError, OverflowError, MemoryError, TypeError)
ZIP_DAMAGE = (*DAMAGE, *HEADER_DAMAGE, zipfile.BadZipFile, NotImplementedError, RuntimeError)
# Below the folder that is given: nothing; torchvision's for one of its sets; its root's for MNIST.
_IDX_FOLDERS = ("", "raw", "MNIST/raw")


def read_idx(path: Path) -> dict[Split, Images]:
    """A folder with MNIST's file names, or torchvision's root of one, or a single file of images.

    Without t10k files, and of a single file, every tenth image is held out.
    """
    if path.is_dir():
        return read_idx_folder(path)
    if not path.is_file():
        raise UserError(f"--data idx:{path}: no such file or folder")
    images, labels = _idx_images(path)
    return halves(images, labels)


def read_embedded_mnist() -> dict[Split, Images]:
    """Return both splits of the MNIST that comes with the package."""
    return read_idx_folder(Path(__file__).parent.parent / "assets" / "mnist")


def read_idx_folder(folder: Path) -> dict[Split, Images]:
    """Both splits, from a folder with MNIST's file names."""
    found = (find_idx(folder / below, "train-images-idx3-ubyte") for below in _IDX_FOLDERS)
    train = next((path for path in found if path is not None), None)
    if train is None:
        raise UserError(f"--data idx:{folder}: no train-images-idx3-ubyte or .gz in that folder")
    test = find_idx(train.parent, "t10k-images-idx3-ubyte")
    if test is None:
        return halves(*_idx_images(train))
    return {"train": Images(*_idx_images(train)), "test": Images(*_idx_images(test))}


def find_idx(folder: Path, stem: str) -> Path | None:
    """The file of that name, plain or compressed, if there is one."""
    return next((p for p in (folder / stem, folder / f"{stem}.gz") if p.is_file()), None)


def _idx_images(path: Path) -> tuple[NDArray[np.uint8], Labels | None]:
    """A file of images, with the file of labels that lies beside it."""
    images = _with_channel(_read_idx(path), path)
    stem = path.name.replace("images-idx3", "labels-idx1").removesuffix(".gz")
    beside = find_idx(path.parent, stem) if "images-idx3" in path.name else None
    return images, None if beside is None else _labels(_read_idx(beside), len(images), beside)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes: magic 0, 0, 8, rank; then big-endian sizes; then values."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except DAMAGE as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise UserError(f"{path}: not an idx file of unsigned bytes")
    rank = content[3]
    start = 4 + 4 * rank
    sizes = np.frombuffer(content[4:start], ">u4") if len(content) >= start else np.empty(0)
    expected = math.prod(int(s) for s in sizes)
    if len(sizes) != rank or len(content) - start != expected:
        raise UserError(
            f"{path}: damaged; its header promises {expected} values, "
            f"{max(len(content) - start, 0)} are there"
        )
    values = np.frombuffer(bytearray(content), np.uint8, offset=start)  # writable, as torch wants
    return values.reshape(tuple(int(s) for s in sizes))


def read_npz(path: Path) -> dict[Split, Images]:
    """An .npz of `images`, uint8 [N, H, W] or [N, H, W, C], and perhaps `labels` [N]."""
    if not path.is_file():
        raise UserError(f"--data npz:{path}: no such file")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile) or "images" not in archive:
                raise UserError(f'{path}: expected an .npz with an array "images"')
            images = archive["images"]
            labels = archive.get("labels")
    except ZIP_DAMAGE as error:
        raise UserError(f"{path}: not a readable .npz file ({error})") from None
    if images.dtype != np.uint8:
        raise UserError(f"{path}: images must be uint8, got {images.dtype}")
    images = _with_channel(images, path)
    return halves(images, None if labels is None else _labels(labels, len(images), path))


def open_npy_set(path: Path, mode: Mode) -> dict[Split, Images]:
    """images.npy, and images.labels.npy if it is there, mapped as they are."""
    file, beside = NpyFile(path), path.with_suffix(".labels.npy")
    labels = check_labels(open_npy(beside), file.shape[0], beside) if beside.is_file() else None
    return held_out(file, labels, mode)


def _with_channel(images: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise UserError(
            f"{path}: images must be [N, H, W] or [N, H, W, C], got shape {list(images.shape)}"
        )
    return images


def _labels(labels: NDArray[Any], n: int, path: Path) -> NDArray[np.int64]:
    return check_labels(labels, n, path).astype(np.int64)
