"""Image sets that have a name: where they may lie, and how to come by them."""

from __future__ import annotations

import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..atomic import open_regular, read_regular
from ..errors import UserError
from .folder import MAX_TABLE, ImageFolder, flat_images
from .formats import find_idx, read_idx_folder
from .reading import Reading
from .splits import Images, Split, cache, halves, missing, open_both, places
from .streaming import Streamed

_LETTERS = "emnist-letters-"  # begins the names of its files
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")  # CelebA's own, and Kaggle's


def fashion_mnist(reading: Reading) -> dict[Split, Images]:
    """Read Fashion-MNIST (Xiao et al. 2017): idx files in torchvision's layout or Debian's."""
    tried = (*places("fashion-mnist", "FashionMNIST/raw"), _DEBIAN)
    for place in tried:
        if find_idx(place, "train-images-idx3-ubyte") is not None:
            return read_idx_folder(place, reading)
    raise missing(
        "fashion-mnist",
        "train-images-idx3-ubyte[.gz]",
        tried,
        "install Debian's dataset-fashion-mnist, or put the four idx files of "
        f"https://github.com/zalandoresearch/fashion-mnist into {cache() / 'fashion-mnist'}",
    )


def emnist_letters(reading: Reading) -> dict[Split, Images]:
    """Read EMNIST's letters (Cohen et al. 2017): its idx files, as published or torchvision's.

    Their images lie on their side, and their labels begin at 1.
    """
    tried = places("emnist-letters", "EMNIST/raw", "emnist", "EMNIST")
    for place in tried:
        if find_idx(place, f"{_LETTERS}train-images-idx3-ubyte") is not None:
            parts = read_idx_folder(place, reading, _LETTERS)
            return {split: _upright(part, place) for split, part in parts.items()}
    raise missing(
        "emnist-letters",
        f"{_LETTERS}train-images-idx3-ubyte[.gz]",
        tried,
        "get gzip.zip from https://www.nist.gov/itl/products-and-services/emnist-dataset and put "
        f"its four files {_LETTERS}* into {cache() / 'emnist-letters'}",
    )


def _upright(letters: Images, place: Path) -> Images:
    """Return EMNIST's letters as they are read, a as label 0."""
    assert isinstance(letters.images, np.ndarray)
    labels = letters.labels
    if labels is not None and not np.isin(labels, np.arange(1, 27)).all():
        raise UserError(
            f"{place}: labels of {_LETTERS}* must be 1 … 26, got {labels.min()} … {labels.max()}"
        )
    return replace(
        letters,
        images=np.ascontiguousarray(letters.images.swapaxes(1, 2)),
        labels=None if labels is None else labels - 1,
        label_names=() if labels is None else tuple(string.ascii_lowercase),
    )


def svhn() -> dict[Split, Images]:
    """Read SVHN's cropped digits (Netzer et al. 2011), 32x32 in colour, without the extra ones.

    Where test_32x32.mat does not lie next to train_32x32.mat, every tenth image is held out.
    """
    train = find_svhn()
    if train is None:
        raise missing(
            "svhn",
            "train_32x32.mat",
            _svhn_places(),
            "get it and test_32x32.mat from http://ufldl.stanford.edu/housenumbers and put them "
            f"into {cache() / 'svhn'}",
        )
    test = train.with_name("test_32x32.mat")
    if not test.is_file():
        return halves(Images(*_read_mat(train)))
    return {"train": Images(*_read_mat(train)), "test": Images(*_read_mat(test))}


def find_svhn() -> Path | None:
    """Return the file of SVHN's training images, if there is one."""
    files = (place / "train_32x32.mat" for place in _svhn_places())
    return next((path for path in files if path.is_file()), None)


def _svhn_places() -> tuple[Path, ...]:
    return places("svhn", "SVHN", "")  # torchvision puts the files into the root itself


# scipy's reader of .mat files can crash on a damaged one, and would take this process with it.
_READ_MAT = """
import sys
import numpy as np
from scipy.io import loadmat
content = loadmat(sys.stdin.buffer, variable_names=["X", "y"])
for name in ("X", "y"):
    if name in content:
        np.save(f"{sys.argv[1]}/{name}.npy", content[name], allow_pickle=False)
"""


def _read_mat(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read images [N, H, W, 3] and digits [N] of a Matlab file of X [H, W, 3, N] and y [N, 1]."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with open_regular(path) as file:
                reader = subprocess.run(
                    [sys.executable, "-c", _READ_MAT, folder],
                    stdin=file,
                    capture_output=True,
                    text=True,
                )
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        if reader.returncode:
            lines = reader.stderr.split("\n") if reader.returncode > 0 else []
            reason = next((line for line in reversed(lines) if line.strip()), "damaged")
            raise UserError(f"{path}: not a readable .mat file ({reason})")
        files = [Path(folder, f"{name}.npy") for name in ("X", "y")]
        if not all(file.is_file() for file in files):
            raise UserError(f"{path}: expected a .mat file with X and y")
        images, digits = (np.load(file, allow_pickle=False) for file in files)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != 3:
        raise UserError(
            f"{path}: X must be uint8 [H, W, 3, N], got {images.dtype} {list(images.shape)}"
        )
    count = images.shape[3]
    if digits.shape != (count, 1) or not np.isin(digits, np.arange(1, 11)).all():
        raise UserError(
            f"{path}: y must be [{count}, 1] of 1 … 10, got {digits.dtype} {list(digits.shape)}"
        )
    # 10 stands for the digit 0
    labels = digits[:, 0].astype(np.int64) % 10
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels


def celeba(reading: Reading) -> dict[Split, Images]:
    """Read CelebA's aligned faces (Liu et al. 2015), the central 178x178 scaled.

    list_eval_partition.txt tells training images (0) from test images (2); validation images (1)
    are in neither split. Without that file every tenth image is held out. There are no labels:
    no identity is in two parts, and the attributes are forty answers of yes or no, not a class.
    """
    tried = places("celeba")  # torchvision's too
    root = next((place for place in tried if (place / "img_align_celeba").is_dir()), None)
    if root is None:
        raise missing(
            "celeba",
            "folder img_align_celeba",
            tried,
            "get img_align_celeba.zip and list_eval_partition.txt from "
            "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and unpack them into "
            f"{cache() / 'celeba'}",
        )
    pictures = root / "img_align_celeba"
    if (pictures / pictures.name).is_dir():  # as Kaggle packs it
        pictures /= pictures.name
    there = set(flat_images(pictures))
    if not there:
        raise UserError(f"{pictures}: no images; unpack img_align_celeba.zip into it")
    partition = next((root / name for name in _PARTITIONS if (root / name).is_file()), None)
    if partition is None:
        folder = ImageFolder(pictures, [(name,) for name in sorted(there)], reading)
        splits = open_both(
            Streamed(folder, False), Streamed(folder, True), (None, None), reading.stream
        )
        return {split: images.with_facts(folder.notes) for split, images in splits.items()}
    parts: dict[str, list[str]] = {"0": [], "1": [], "2": []}
    for name, part in _partition(partition):
        parts[part].append(name)
    named = parts["0"] + parts["2"]
    lost = [name for name in named if name not in there]
    if lost:
        raise UserError(
            f"{pictures}: {len(lost)} of the {len(named)} images that {partition.name} names are "
            f"missing, {lost[0]} first; unpack img_align_celeba.zip again"
        )
    train = ImageFolder(pictures, [(name,) for name in parts["0"]], reading)
    test = ImageFolder(pictures, [(name,) for name in parts["2"]], reading, train)
    splits = open_both(Streamed(train, None), Streamed(test, None), (None, None), reading.stream)
    notes = (*train.notes, *test.notes)
    return {split: images.with_facts(notes) for split, images in splits.items()}


def _partition(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each image's name with its part, "0", "1" or "2"."""
    try:
        lines = read_regular(path, MAX_TABLE).decode().splitlines()
    except (OSError, ValueError, MemoryError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        fields = line.replace(",", " ").split()
        if fields in ([], ["image_id", "partition"]):
            continue
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise UserError(f"{path}: line {number}: expected NAME 0, 1 or 2, got {line[:60]!r}")
        yield fields[0], fields[1]
