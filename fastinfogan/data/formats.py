"""Image sets in files of arrays: idx, npz, npy."""

from __future__ import annotations

import gzip
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import psutil
from numpy.typing import NDArray

from ..atomic import open_regular
from ..errors import UserError
from .arrays import (
    NpyFile,
    NpyHeader,
    as_images,
    open_npy,
    read_npy_header,
    with_channels_last,
)
from .reading import Reading
from .splits import Images, Labels, Split, check_labels, halves, held_out

DAMAGE = (OSError, EOFError, ValueError, zlib.error)  # what reading a damaged file raises
# What numpy and zipfile raise besides
ZIP_DAMAGE = (
    *DAMAGE,
    *(OverflowError, MemoryError, TypeError),
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError),
)
# Below the folder that is given: nothing; torchvision's for one of its sets; its root's for MNIST.
_IDX_FOLDERS = ("", "raw", "MNIST/raw")
# As MNIST's authors name the files, as others unpack them (train-images.idx3-ubyte), and with the
# name of a set before (emnist-letters-train-images-idx3-ubyte.gz)
_IDX_IMAGES = re.compile(
    r"(?P<set>(?:.*[-_.])?)(?P<part>train|t10k|test)(?P<a>[-_.])images"
    r"(?P<rest>(?:[-_.]idx[34])?(?:[-_.]u?byte)?(?:\.idx)?)(?:\.gz)?",
    re.IGNORECASE,
)
MAX_RANK = 4  # axes of an idx file of images
DEFLATE = 1032  # bytes that one byte of a deflated file gives at most
READ_AT_ONCE = 2**24  # bytes
_LABEL_NAMES = ("labels", "label", "y", "targets", "target", "classes")
_SPLIT_NAMES: tuple[tuple[str, str, str, str], ...] = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "y_train", "X_test", "y_test"),
)


# idx


def read_idx(path: Path, reading: Reading) -> dict[Split, Images]:
    """Read a folder with MNIST's file names, torchvision's root of one, or one file of images.

    Without t10k or test files, and of a single file, every tenth image is held out.
    """
    if path.is_dir():
        return read_idx_folder(path, reading)
    if not path.is_file():
        raise UserError(f"--data idx:{path}: no such file or folder")
    return halves(_idx_images(path, reading))


def read_embedded_mnist() -> dict[Split, Images]:
    """Return both splits of the MNIST that comes with the package."""
    return read_idx_folder(Path(__file__).parent.parent / "assets" / "mnist", Reading(28, 1))


def read_idx_folder(folder: Path, reading: Reading, of: str = "") -> dict[Split, Images]:
    """Read both splits from a folder with MNIST's file names or others' spellings of them.

    of: what the names of the wanted set's files begin with, where others' may lie next to them.
    """
    parts = next(filter(None, (_idx_files(folder / below, of) for below in _IDX_FOLDERS)), {})
    if "train" not in parts:
        raise UserError(
            f"--data idx:{folder}: no train-images-idx3-ubyte, .idx3-ubyte or .gz in that folder; "
            "name the file itself"
        )
    train = _idx_images(parts["train"], reading)
    if "test" not in parts:
        return halves(train)
    test = _idx_images(parts["test"], reading)
    return {"train": train, "test": test.with_facts(train.notes)}


def _idx_files(folder: Path, of: str) -> dict[Split, Path]:
    """Return the files of training and of test images. Raises UserError for several sets."""
    if not folder.is_dir():
        return {}
    places: dict[Split, dict[str, Path]] = {"train": {}, "test": {}}
    for file in sorted(folder.iterdir(), reverse=True):  # the plain file before its .gz
        match = _IDX_IMAGES.fullmatch(file.name)
        if match is not None and file.is_file():
            part: Split = "train" if match["part"].lower() == "train" else "test"
            places[part][match["set"]] = file
    sets = {of} if of else set(places["train"])
    if len(sets) > 1 and "" not in sets:
        names = ", ".join(sorted(file.name for file in places["train"].values()))
        raise UserError(f"--data idx:{folder}: several sets, {names}; name the file of one")
    name = "" if "" in sets else next(iter(sets), "")
    return {part: files[name] for part, files in places.items() if name in files}


def find_idx(folder: Path, stem: str) -> Path | None:
    """Return the file of that name, plain or compressed, if there is one."""
    return next((p for p in (folder / stem, folder / f"{stem}.gz") if p.is_file()), None)


def _idx_labels(path: Path) -> Path | None:
    """Return the file of labels that belongs to a file of images, by any spelling of its name."""
    own = path.name.removesuffix(".gz")
    at = own.lower().rfind("images")
    if at < 0:
        return None
    word = "LABELS" if own[at : at + 6].isupper() else "labels"
    name = own[:at] + word + re.sub(r"(?i)idx[34]", "idx1", own[at + 6 :])
    spellings = [name, name.replace(".idx1", "-idx1"), name.replace("-idx1", ".idx1")]
    return next(filter(None, (find_idx(path.parent, n) for n in spellings)), None)


def _idx_images(path: Path, reading: Reading) -> Images:
    """Read a file of images, with the file of labels that lies next to it."""
    images, notes = as_images(_read_idx(path), reading, path)
    label_file = _idx_labels(path)
    labels = None if label_file is None else _labels(_read_idx(label_file), len(images), label_file)
    return Images(images, labels, notes=tuple(notes))


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes: magic 0, 0, 8, rank; big-endian sizes; values.

    No more is read than the header promises, and one byte.
    """
    try:
        with _open_idx(path) as (file, size):
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != b"\0\0\x08":
                raise UserError(f"{path}: not an idx file of unsigned bytes")
            rank = magic[3]
            if not 1 <= rank <= MAX_RANK:
                raise UserError(
                    f"{path}: not an idx file of images or labels; its header says {rank} axes"
                )
            header = file.read(4 * rank)
            sizes = [int(s) for s in np.frombuffer(header, ">u4", len(header) // 4)]
            expected = math.prod(sizes) if len(sizes) == rank else 0
            most = size * (DEFLATE if path.suffix == ".gz" else 1)
            values = bytearray()
            if expected <= most:  # else it is not read at all
                check_memory(expected, path)
                values = _read_at_most(file, expected + 1)
    except DAMAGE as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if len(sizes) != rank or len(values) != expected:
        there = "more" if len(values) > expected else f"{len(values)}"
        raise UserError(
            f"{path}: damaged; its header promises {expected} values, "
            f"{there if expected <= most else f'at most {most}'} are there"
        )
    return np.frombuffer(values, np.uint8).reshape(sizes)  # writable, as torch wants


@contextmanager
def _open_idx(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Open an idx file, unpacked where its name ends in .gz; gives also its size on the disk."""
    with open_regular(path) as stored:
        size = os.fstat(stored.fileno()).st_size
        if path.suffix != ".gz":
            yield stored, size
            return
        with gzip.GzipFile(fileobj=stored) as unpacked:
            yield cast(IO[bytes], unpacked), size


def _read_at_most(file: Any, n: int) -> bytearray:
    values = bytearray()
    while len(values) < n:
        part = file.read(min(READ_AT_ONCE, n - len(values)))
        if not part:
            break
        values += part
    return values


def check_memory(nbytes: int, path: Path) -> None:
    """Raise UserError where so much is promised as this machine has not free."""
    free = psutil.virtual_memory().available
    if nbytes > free:
        raise UserError(
            f"{path}: promises {nbytes / 1e9:,.1f} GB of values, {free / 1e9:,.1f} GB of memory "
            "are free; save the images as .npy (npy:PATH is read while training)"
        )


# npz


def read_npz(path: Path, reading: Reading) -> dict[Split, Images]:
    """Read an .npz of `images` [N, H, W], [N, H, W, C] or [N, C, H, W], and perhaps more.

    Labels [N] are `labels`, label, y, targets, target or classes; `factors` [N, K] with
    `factor_names` [K] are known factors. x_train and x_test with y_train and y_test, as Keras
    stores them, are the two splits.
    """
    with _npz(path) as arrays:
        for names in _SPLIT_NAMES:
            if "images" not in arrays and names[0] in arrays:
                return _keras(arrays, names, path, reading)
        if "images" not in arrays:
            there = ", ".join(f"{name} {arrays.describe(name)}" for name in arrays.names)
            raise UserError(
                f'{path}: expected an .npz with an array "images" (or x_train and x_test), got '
                f"{there or 'no arrays'}"
            )
        images, notes = as_images(arrays["images"], reading, path)
        labels, more = _npz_labels(arrays, len(images), path)
        factors, factor_names = _npz_factors(arrays, len(images), path)
    whole = Images(images, labels, None, factors, factor_names, notes=(*notes, *more))
    return halves(whole)


def _keras(
    arrays: Npz, names: tuple[str, str, str, str], path: Path, reading: Reading
) -> dict[Split, Images]:
    parts = []
    for images_name, labels_name in (names[:2], names[2:]):
        if images_name not in arrays:
            break
        images, notes = as_images(arrays[images_name], reading, path)
        labels = None
        if labels_name in arrays:
            given = arrays[labels_name]
            given = given[:, 0] if given.ndim == 2 and given.shape[1] == 1 else given
            labels = _labels(given, len(images), path)
        parts.append(Images(images, labels, notes=(f"images from {images_name}", *notes)))
    if len(parts) == 1:
        return halves(parts[0])
    train, test = parts
    return {"train": train, "test": test.with_facts(train.notes)}


def _npz_labels(arrays: Npz, n: int, path: Path) -> tuple[Labels | None, list[str]]:
    name = next((name for name in _LABEL_NAMES if name in arrays), None)
    others = [other for other in arrays.names if other not in ("images", name, *_FACTORS)]
    lines = [f"not read: {', '.join(others)}"] if others else []
    if name is None:
        return None, lines
    if name == "labels":
        return _labels(arrays[name], n, path), lines
    try:
        return _labels(arrays[name], n, path), [f"labels from {name}", *lines]
    except UserError:
        return None, [f"no labels: {name} {arrays.describe(name)} is not {n} integers", *lines]


_FACTORS = ("factors", "factor_names")


def _npz_factors(arrays: Npz, n: int, path: Path) -> tuple[NDArray[Any] | None, tuple[str, ...]]:
    if "factors" not in arrays:
        return None, ()
    factors = arrays["factors"]
    if factors.ndim != 2 or len(factors) != n or factors.dtype.kind not in "biuf":
        raise UserError(
            f"{path}: factors must be numbers [{n}, K], got {factors.dtype} {list(factors.shape)}"
        )
    if "factor_names" not in arrays:
        return factors, tuple(f"factor{k + 1}" for k in range(factors.shape[1]))
    names = arrays["factor_names"]
    if names.shape != (factors.shape[1],) or names.dtype.kind not in "US":
        raise UserError(
            f"{path}: factor_names must be {factors.shape[1]} strings, got {names.dtype} "
            f"{list(names.shape)}"
        )
    return factors, tuple(
        name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names
    )


class Npz:
    """The arrays of an open .npz, read one by one, each no longer than its header promises."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.archive, self.path = archive, path
        self.names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def header(self, name: str) -> NpyHeader:
        """Return the header of an array. Raises ValueError where the array is longer or shorter."""
        info = self.archive.getinfo(f"{name}.npy")
        with self.archive.open(info) as member:
            header = read_npy_header(member)
        if not header.dtype.hasobject and info.file_size != header.length + header.nbytes:
            raise ValueError(f"{name} is not as long as its header promises")
        return header

    def describe(self, name: str) -> str:
        """Return the type and shape of an array, such as "uint8 [40, 32, 32, 3]"."""
        header = self.header(name)
        return f"{header.dtype} {list(header.shape)}"

    def __getitem__(self, name: str) -> NDArray[Any]:
        expected = self.header(name).nbytes
        check_memory(expected, self.path)
        if expected > self.path.stat().st_size * DEFLATE:
            raise ValueError(f"{name} promises more than the file can hold")
        with self.archive.open(f"{name}.npy") as member:
            return np.asarray(np.lib.format.read_array(member, allow_pickle=False))


@contextmanager
def _npz(path: Path) -> Iterator[Npz]:
    """Open an .npz. What reading its arrays raises becomes a UserError that names it."""
    if not path.is_file():
        raise UserError(f"--data npz:{path}: no such file")
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            yield Npz(archive, path)
    except ZIP_DAMAGE as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable .npz file ({reason})") from None


# Sizes


def array_size(kind: str, path: Path) -> tuple[int, int, int] | None:
    """Return H, W, C of the images of an idx, npz or npy file, from its header alone.

    None where it is not there or damaged in a way that reading it whole tells. Raises UserError.
    """
    try:
        if kind == "npy":
            shape = open_npy(path).shape
        elif kind == "npz":
            with _npz(path) as arrays:
                names = ("images", *(names[0] for names in _SPLIT_NAMES))
                shape = arrays.header(next(name for name in names if name in arrays)).shape
        else:
            shape = _idx_shape(path)
        images, _ = with_channels_last(np.broadcast_to(np.uint8(0), shape), path)
    except (StopIteration, IndexError, *DAMAGE):
        return None
    _, height, width, channels = images.shape
    return height, width, channels


def _idx_shape(path: Path) -> tuple[int, ...]:
    """Return the sizes that the header of an idx file, or of a folder's training images, says."""
    if path.is_dir():
        parts = (_idx_files(path / below, "") for below in _IDX_FOLDERS)
        path = next(part["train"] for part in parts if "train" in part)
    with _open_idx(path) as (file, _):
        header = file.read(4 + 4 * MAX_RANK)
    return tuple(int(size) for size in np.frombuffer(header, ">u4", header[3], 4))


# npy


def open_npy_set(path: Path, reading: Reading) -> dict[Split, Images]:
    """Map images.npy, and images.labels.npy if it is there."""
    file, label_file = NpyFile(path, reading), path.with_suffix(".labels.npy")
    labels = None
    if label_file.is_file():
        labels = check_labels(open_npy(label_file), file.shape[0], label_file)
    splits = held_out(file, labels, reading.stream)
    return {split: images.with_facts(file.notes) for split, images in splits.items()}


def _labels(labels: NDArray[Any], n: int, path: Path) -> NDArray[np.int64]:
    return check_labels(labels, n, path).astype(np.int64)
