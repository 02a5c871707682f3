"""Image sources, and the one place where images get the generator's range.

Every source becomes uint8 [N, H, W, C] with optional labels; labels serve evaluation alone. What
fits is resident: on the device, uint8 until a batch is drawn. What does not is streamed.
"""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import philox
from .errors import UserError
from .stream import (
    HELD_OUT_EVERY,
    ImageFolder,
    Mode,
    NpyFile,
    Source,
    Stream,
    Streamed,
    open_npy,
    split_rows,
    wanted,
)

Split = Literal["train", "test"]
SPECS = "mnist, fashion-mnist, idx:PATH, npz:PATH, npy:PATH or folder:PATH"
_DAMAGE = (OSError, EOFError, ValueError, zlib.error)  # what reading a damaged file raises
ORDERED_AT_ONCE = 2**14  # places of a long epoch's order


@dataclass(frozen=True)
class Images:
    """One split of an image set."""

    images: NDArray[np.uint8] | Streamed  # [N, H, W, C]; either is read by a slice or by rows
    labels: NDArray[np.integer[Any]] | None  # [N]; of a streamed training split None

    def __len__(self) -> int:
        return len(self.images)


def load(
    spec: str,
    *,
    image_size: int,
    channels: int,
    stream: Mode = "auto",
    advise: bool = True,
) -> dict[Split, Images]:
    """Read both splits of the set that `spec` names, or open them (`stream`) to be read later.

    A set without a test split holds out every tenth image for it. "auto" streams an npy file or a
    folder that takes over 4 GiB decoded, or over a quarter of the available memory shared by the
    ranks of this machine; "always" any. Raises UserError, in one line, when nothing is found, a
    file is not what it should be, or the images are of another size (`advise`: the line names the
    options that would take them).
    """
    name, _, path = spec.partition(":")
    if stream == "always" and not can_stream(spec):
        raise UserError(f"--stream always: npy:PATH and folder:PATH can be streamed, not {spec}")
    if name == "folder" and path:
        folder = ImageFolder(Path(path), image_size, channels)
        splits = _opened(folder, folder.labels, stream)
    elif name == "npy" and path:
        file = NpyFile(Path(path))
        splits = _opened(file, _npy_labels(file), stream)
    elif name == "npz" and path:
        splits = _split(_read_npz(Path(path)))
    elif name == "idx" and path:
        splits = _read_idx_source(Path(path))
    elif spec == "mnist":
        splits = _read_idx_folder(Path(__file__).parent / "assets" / "mnist")
    elif spec == "fashion-mnist":
        splits = _read_idx_folder(_first_with_idx(spec, _FASHION_MNIST_PLACES))
    else:
        raise UserError(f"--data {spec}: expected {SPECS}")
    for split, data in splits.items():
        _check_shape(f"--data {spec}", split, data.images.shape, image_size, channels, advise)
    return splits


def can_stream(spec: str) -> bool:
    """Whether the set that `spec` names can be streamed."""
    return spec.startswith(("npy:", "folder:"))


def _check_shape(
    where: str,
    split: Split,
    shape: tuple[int, ...],
    image_size: int,
    channels: int,
    advise: bool,
) -> None:
    count, height, width, depth = shape
    if (height, width) != (image_size, image_size):
        advice = "use folder:PATH, which resizes, or crop them to squares"
        if height == width:
            advice = f"pass --image-size {height}"
        raise UserError(
            f"{where}: images are {height}x{width}, expected {image_size}x{image_size}"
            + f"; {advice}" * advise
        )
    if depth != channels:
        raise UserError(
            f"{where}: images have {depth} channels, expected {channels}"
            + f"; pass --channels {depth}" * advise
        )
    if count == 0:
        held_out = f"; every {HELD_OUT_EVERY}th image is held out, so {HELD_OUT_EVERY} are needed"
        raise UserError(f"{where}: no images in the {split} split{held_out}")


def absolute(spec: str) -> str:
    """The same spec with an absolute path, so that it means the same from another folder."""
    name, colon, path = spec.partition(":")
    return f"{name}:{Path(path).expanduser().resolve()}" if colon and path else spec


_FASHION_MNIST_PLACES = (
    Path("data/fashion-mnist"),
    Path("fashion-mnist"),
    Path.home() / ".cache" / "fastinfogan" / "fashion-mnist",
    Path("/usr/share/datasets/fashion-mnist"),
)


def _first_with_idx(name: str, places: tuple[Path, ...]) -> Path:
    for place in places:
        if _find_idx(place, "train-images-idx3-ubyte") is not None:
            return place
    tried = ", ".join(str(place) for place in places)
    raise UserError(
        f"--data {name}: no train-images-idx3-ubyte[.gz] in any of {tried}; install Debian's "
        f"dataset-{name} or put the four idx files in one of them"
    )


def _find_idx(folder: Path, stem: str) -> Path | None:
    return next((p for p in (folder / stem, folder / f"{stem}.gz") if p.is_file()), None)


def _read_idx_source(path: Path) -> dict[Split, Images]:
    if path.is_dir():
        return _read_idx_folder(path)
    if not path.is_file():
        raise UserError(f"--data idx:{path}: no such file or folder")
    return _split(_read_idx_images(path))


def _read_idx_folder(folder: Path) -> dict[Split, Images]:
    train = _find_idx(folder, "train-images-idx3-ubyte")
    if train is None:
        raise UserError(f"--data idx:{folder}: no train-images-idx3-ubyte or .gz in that folder")
    test = _find_idx(folder, "t10k-images-idx3-ubyte")
    if test is None:
        return _split(_read_idx_images(train))
    return {"train": _read_idx_images(train), "test": _read_idx_images(test)}


def _read_idx_images(path: Path) -> Images:
    """A file of images, with the file of labels that lies beside it."""
    images = _with_channel(_read_idx(path), path)
    stem = path.name.replace("images-idx3", "labels-idx1").removesuffix(".gz")
    beside = _find_idx(path.parent, stem) if "images-idx3" in path.name else None
    labels = None if beside is None else _labels(_read_idx(beside), len(images), beside)
    return Images(images, labels)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes: magic 0, 0, 8, rank; then big-endian sizes; then values."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except _DAMAGE as error:
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


def _read_npz(path: Path) -> Images:
    if not path.is_file():
        raise UserError(f"--data npz:{path}: no such file")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile) or "images" not in archive:
                raise UserError(f'{path}: expected an .npz with an array "images"')
            images = archive["images"]
            labels = archive.get("labels")
    except (*_DAMAGE, zipfile.BadZipFile, TypeError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: not a readable .npz file ({error})") from None
    if images.dtype != np.uint8:
        raise UserError(f"{path}: images must be uint8, got {images.dtype}")
    images = _with_channel(images, path)
    return Images(images, None if labels is None else _labels(labels, len(images), path))


def _npy_labels(file: NpyFile) -> NDArray[np.integer[Any]] | None:
    """Of images.npy, images.labels.npy, mapped as they are."""
    path = file.path.with_suffix(".labels.npy")
    return _check_labels(open_npy(path), file.shape[0], path) if path.is_file() else None


def _opened(
    source: Source, labels: NDArray[np.integer[Any]] | None, stream: Mode
) -> dict[Split, Images]:
    """Both splits of a source, streamed or read into memory."""
    train, test = Streamed(source, held_out=False), Streamed(source, held_out=True)
    if wanted(stream, train.nbytes + test.nbytes):
        source.scatter()
        held_out = None if labels is None else labels[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
        return {"train": Images(train, None), "test": Images(test, held_out)}
    return {
        "train": Images(train[:], _labels_of(labels, held_out=False)),
        "test": Images(test[:], _labels_of(labels, held_out=True)),
    }


def _with_channel(images: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise UserError(
            f"{path}: images must be [N, H, W] or [N, H, W, C], got shape {list(images.shape)}"
        )
    return images


def _labels(labels: NDArray[np.generic], n: int, path: Path) -> NDArray[np.int64]:
    return _check_labels(labels, n, path).astype(np.int64)


def _check_labels(labels: NDArray[Any], n: int, path: Path) -> NDArray[np.integer[Any]]:
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{path}: labels must be {n} integers, got {labels.dtype} {list(labels.shape)}"
        )
    return labels


def _labels_of(labels: NDArray[np.integer[Any]] | None, held_out: bool) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    return labels[split_rows(len(labels), held_out)].astype(np.int64)


def _split(data: Images) -> dict[Split, Images]:
    def part(held_out: bool) -> Images:
        rows = split_rows(len(data), held_out)
        return Images(data.images[rows], _labels_of(data.labels, held_out))

    return {"train": part(held_out=False), "test": part(held_out=True)}


def to_range(images: Tensor, image_range: tuple[float, float]) -> Tensor:
    """uint8 [B, H, W, C] to float32 [B, C, H, W] (channels_last) in the generator's range."""
    low, high = image_range
    scaled = images.permute(0, 3, 1, 2).float() * ((high - low) / 255.0)
    return scaled + low if low else scaled


def from_range(images: Tensor, image_range: tuple[float, float]) -> Tensor:
    """The inverse of `to_range`: float [B, C, H, W] to uint8 [B, H, W, C]."""
    low, high = image_range
    scaled = (images.float() - low) * (255.0 / (high - low))
    return scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class Order:
    """Which images each update sees: a function of (seed, step, rank).

    Each epoch is a permutation keyed by (seed, epoch), cut into global batches; what is left over
    at its end is skipped. Of an epoch of over 2^20 images a part of its order is held at a time.
    """

    def __init__(
        self,
        n: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
    ) -> None:
        global_batch = batch_size * world_size
        if n < global_batch:
            raise UserError(
                f"{n} training images are fewer than one global batch of {global_batch}"
                f" ({batch_size} x {world_size} ranks); lower --batch-size"
            )
        self.n, self._device = n, device
        self.batch_size, self.global_batch = batch_size, global_batch
        self.seed, self.first = seed, rank * batch_size
        self.per_epoch = n // global_batch
        at_once = n if n <= philox.WHOLE else ORDERED_AT_ONCE
        self._per_part = max(at_once // global_batch, 1)  # batches
        self._held, self._part = (-1, -1), torch.empty(0, dtype=torch.int64)

    def indices(self, step: int) -> Tensor:
        """This rank's image indices in update `step` (from 0), int64 [batch_size]."""
        epoch, batch = divmod(step, self.per_epoch)
        part, batch = divmod(batch, self._per_part)
        if (epoch, part) != self._held:
            size = self._per_part * self.global_batch
            start, stop = part * size, min((part + 1) * size, self.n)
            self._part = philox.permuted(
                start, stop, self.n, seed=self.seed, epoch=epoch, device=self._device
            )
            self._held = (epoch, part)
        start = batch * self.global_batch + self.first
        return self._part[start : start + self.batch_size]


class BatchSampler(Order):
    """The batches of resident images, picked on their device."""

    def __init__(
        self,
        images: Tensor,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            len(images),
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            device=images.device,
        )
        self.images = images

    def __call__(self, step: int) -> Tensor:
        """The images themselves, uint8 [batch_size, H, W, C]."""
        return self.images.index_select(0, self.indices(step))

    def close(self) -> None:
        """Nothing is open."""


def batches(
    images: NDArray[np.uint8] | Streamed,
    device: torch.device,
    *,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> BatchSampler | Stream:
    """What gives update `step` (from 0) its images on `device`, uint8 [batch_size, H, W, C]."""
    if not isinstance(images, Streamed):
        resident = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        return BatchSampler(
            resident, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )
    order = Order(len(images), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
    return Stream(images, order.indices, device)
