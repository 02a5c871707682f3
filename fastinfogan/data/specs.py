"""Image sources, and the one place where images get the generator's range.

Every source becomes uint8 [N, H, W, C] with optional labels; labels serve evaluation alone. What
fits is resident: on the device, uint8 until a batch is drawn. What does not is streamed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import philox
from ..errors import UserError
from . import dsprites, hub
from . import formats as files
from . import known as named
from .splits import Images, Split, held_out, whole_grid
from .sprites import SIZES, Grid, Sprites
from .streaming import HELD_OUT_EVERY, ImageFolder, Mode, Stream, Streamed

__all__ = [
    "BatchSampler",
    "Images",
    "Order",
    "Split",
    "absolute",
    "batches",
    "can_stream",
    "from_range",
    "load",
    "to_range",
]

SPECS = (
    "mnist, fashion-mnist, svhn, celeba, dsprites, dsprites-like, hf:ID[:CONFIG], idx:PATH, "
    "npz:PATH, npy:PATH or folder:PATH"
)
ORDERED_AT_ONCE = 2**14  # places of a long epoch's order


def load(
    spec: str,
    *,
    image_size: int,
    channels: int,
    stream: Mode = "auto",
    advise: bool = True,
) -> dict[Split, Images]:
    """Read both splits of the set that `spec` names, or open them (`stream`) to be read later.

    A set without a test split holds out every tenth image for it; dsprites and dsprites-like are
    whole in both. "auto" streams what `can_stream` where it takes over 4 GiB decoded, or over a
    quarter of the available memory shared by the ranks of this machine; "always" any; dsprites-like
    is drawn batch by batch in any mode. Raises UserError, in one line, when nothing is found, a
    file is not what it should be, or the images are of another size (`advise`: the line names the
    options that would take them).
    """
    if stream == "always" and not can_stream(spec):
        raise UserError(
            "--stream always: celeba, dsprites, hf:ID, npy:PATH and folder:PATH can be streamed, "
            f"not {spec}"
        )
    splits = _read(spec, image_size, channels, stream)
    for split, data in splits.items():
        _check_shape(f"--data {spec}", split, data.images.shape, image_size, channels, advise)
    return splits


def _read(spec: str, image_size: int, channels: int, stream: Mode) -> dict[Split, Images]:
    match spec.partition(":"):
        case "mnist", "", _:
            return files.read_idx_folder(Path(__file__).parent.parent / "assets" / "mnist")
        case "fashion-mnist", "", _:
            return named.fashion_mnist()
        case "svhn", "", _:
            return named.svhn()
        case "celeba", "", _:
            return named.celeba(image_size, channels, stream)
        case "dsprites", "", _:
            return dsprites.dsprites(stream)
        case "dsprites-like", "", _:
            return whole_grid(Grid(Sprites(), SIZES), "always")
        case "hf", _, reference if reference:
            return hub.read_hub(reference, image_size, channels, stream)
        case "idx", _, path if path:
            return files.read_idx(Path(path))
        case "npz", _, path if path:
            return files.read_npz(Path(path))
        case "npy", _, path if path:
            return files.open_npy_set(Path(path), stream)
        case "folder", _, path if path:
            folder = ImageFolder(Path(path), image_size, channels)
            return held_out(folder, folder.labels, stream)
    raise UserError(f"--data {spec}: expected {SPECS}")


def can_stream(spec: str) -> bool:
    """Whether the set that `spec` names can be streamed."""
    return spec in ("celeba", "dsprites", "dsprites-like") or spec.startswith(
        ("npy:", "folder:", "hf:")
    )


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
    if not colon or not path:
        return spec
    if name != "hf":
        return f"{name}:{Path(path).expanduser().resolve()}"
    here = hub.local(path)
    if here is None:
        return spec  # an ID of the hub
    return f"hf:{here[0].resolve()}" + (f":{here[1]}" if here[1] else "")


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
