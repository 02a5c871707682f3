"""The batches of a run: which images each update sees, and the generator's range."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import philox
from ..errors import UserError
from .streaming import Streamed
from .workers import Stream

ORDERED_AT_ONCE = 2**14  # places of a long epoch's order


def to_range(images: Tensor, image_range: tuple[float, float]) -> Tensor:
    """Map uint8 [B, H, W, C] to float32 [B, C, H, W], channels_last, in the generator's range."""
    low, high = image_range
    scaled = images.permute(0, 3, 1, 2).float() * ((high - low) / 255.0)
    return scaled + low if low else scaled


def from_range(images: Tensor, image_range: tuple[float, float]) -> Tensor:
    """Invert `to_range`: float [B, C, H, W] to uint8 [B, H, W, C]."""
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
                f" ({batch_size} x {world_size} ranks); lower --batch-size to {n // world_size} or "
                "less"
            )
        self.n, self._device = n, device
        self.batch_size, self.global_batch = batch_size, global_batch
        self.seed, self.first = seed, rank * batch_size
        self.per_epoch = n // global_batch
        at_once = n if n <= philox.MAX_SORTED else ORDERED_AT_ONCE
        self._per_part = max(at_once // global_batch, 1)  # batches
        self._held, self._part = (-1, -1), torch.empty(0, dtype=torch.int64)

    def indices(self, step: int) -> Tensor:
        """Return this rank's image indices in update `step` (from 0), int64 [batch_size]."""
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
        """Return the images themselves, uint8 [batch_size, H, W, C]."""
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
    """Return a function of `step` (from 0) that gives its images, uint8 [batch_size, H, W, C]."""
    if not isinstance(images, Streamed):
        resident = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        return BatchSampler(
            resident, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )
    order = Order(len(images), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
    return Stream(images, order.indices, device)
