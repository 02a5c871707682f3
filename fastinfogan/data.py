"""Image sources, and the one place where images get the generator's range.

Every source becomes uint8 [N, H, W, C] with optional labels; labels serve evaluation alone. On
the device the images stay uint8 until a batch is drawn.
"""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from . import philox
from .errors import UserError

Split = Literal["train", "test"]
SPECS = "mnist, fashion-mnist, idx:PATH, npz:PATH or folder:PATH"
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
_DAMAGE = (OSError, EOFError, ValueError, zlib.error)  # what reading a damaged file raises
HELD_OUT_EVERY = 10  # of a set without a test split


@dataclass(frozen=True)
class Images:
    """One split of an image set."""

    images: NDArray[np.uint8]  # [N, H, W, C]
    labels: NDArray[np.int64] | None  # [N]

    def __len__(self) -> int:
        return len(self.images)


def load(spec: str, *, image_size: int, channels: int, advise: bool = True) -> dict[Split, Images]:
    """Read both splits of the set that `spec` names.

    A set without a test split holds out every tenth image for it. Raises UserError, in one line,
    when nothing is found, a file is not what it should be, or the images are of another size
    (`advise`: the line names the options that would take them).
    """
    name, _, path = spec.partition(":")
    if name == "folder" and path:
        splits = _split(_read_folder(Path(path), image_size, channels))
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
        _check_shape(f"--data {spec}", split, data.images, image_size, channels, advise)
    return splits


def _check_shape(
    where: str,
    split: Split,
    images: NDArray[np.uint8],
    image_size: int,
    channels: int,
    advise: bool,
) -> None:
    count, height, width, depth = images.shape
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


def _read_folder(folder: Path, image_size: int, channels: int) -> Images:
    """Every image below the folder; where all lie in sub-folders, these are the labels."""
    if not folder.is_dir():
        raise UserError(f"--data folder:{folder}: no such folder")
    if channels not in (1, 3):
        raise UserError(f"--channels: an image folder gives 1 (gray) or 3 (colour), got {channels}")
    paths = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")
    )
    if not paths:
        known = " ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"--data folder:{folder}: no images found below it ({known})")
    out = np.empty((len(paths), image_size, image_size, channels), np.uint8)
    for i, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                square = _square(image, image_size, "L" if channels == 1 else "RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: not a readable image ({error})") from None
        out[i] = np.asarray(square).reshape(image_size, image_size, channels)
    classes = [p.relative_to(folder).parts[0] for p in paths if p.parent != folder]
    labels = np.unique(classes, return_inverse=True)[1] if len(classes) == len(paths) else None
    return Images(out, None if labels is None else labels.astype(np.int64))


def _square(image: Image.Image, size: int, mode: str) -> Image.Image:
    """The central square, upright, the shorter side scaled to `size`."""
    if image.mode.startswith("I;16"):  # convert() would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}: expected 8 or 16 bits a channel")
    upright = ImageOps.exif_transpose(image).convert(mode)
    return ImageOps.fit(upright, (size, size), method=Image.Resampling.LANCZOS)


def _with_channel(images: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise UserError(
            f"{path}: images must be [N, H, W] or [N, H, W, C], got shape {list(images.shape)}"
        )
    return images


def _labels(labels: NDArray[np.generic], n: int, path: Path) -> NDArray[np.int64]:
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{path}: labels must be {n} integers, got {labels.dtype} {list(labels.shape)}"
        )
    return labels.astype(np.int64)


def _split(data: Images) -> dict[Split, Images]:
    held_out = np.arange(len(data)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1

    def part(chosen: NDArray[np.bool_]) -> Images:
        return Images(data.images[chosen], None if data.labels is None else data.labels[chosen])

    return {"train": part(~held_out), "test": part(held_out)}


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


class BatchSampler:
    """Which images each update sees: a function of (seed, step, rank), computed on the device.

    Each epoch is a permutation keyed by (seed, epoch), cut into global batches; what is left over
    at its end is skipped.
    """

    def __init__(
        self,
        images: Tensor,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        global_batch = batch_size * world_size
        if len(images) < global_batch:
            raise UserError(
                f"{len(images)} training images are fewer than one global batch of {global_batch}"
                f" ({batch_size} x {world_size} ranks); lower --batch-size"
            )
        self.images = images
        self.batch_size, self.global_batch = batch_size, global_batch
        self.seed, self.first = seed, rank * batch_size
        self.per_epoch = len(images) // global_batch
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.int64)

    def indices(self, step: int) -> Tensor:
        """This rank's image indices in update `step` (from 0), int64 [batch_size]."""
        epoch, batch = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._permutation = philox.permutation(
                len(self.images), seed=self.seed, epoch=epoch, device=self.images.device
            )
            self._epoch = epoch
        start = batch * self.global_batch + self.first
        return self._permutation[start : start + self.batch_size]

    def __call__(self, step: int) -> Tensor:
        """The images themselves, uint8 [batch_size, H, W, C]."""
        return self.images.index_select(0, self.indices(step))
