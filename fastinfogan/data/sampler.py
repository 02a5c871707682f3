"""The batches of a run: which images each update sees, and the generator's range."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import philox
from ..errors import UserError
from .streaming import Rows, Streamed, grouped_source
from .workers import Stream

ORDERED_AT_ONCE = 2**14  # places of a long epoch's order
WINDOW_BYTES = 2**28  # of row groups whose rows are mixed
MIN_GROUPS = 4  # of a window


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
    """The images that each update sees: a function of (seed, step, rank).

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
            self._part = philox.permute(
                start, stop, self.n, seed=self.seed, epoch=epoch, device=self._device
            )
            self._held = (epoch, part)
        start = batch * self.global_batch + self.first
        return self._part[start : start + self.batch_size]


class Window(NamedTuple):
    """Consecutive groups of an epoch, whose rows are mixed."""

    groups: Rows
    start: int  # of its places in the epoch
    stop: int


class WindowOrder(Order):
    """The images that each update sees of a source that is fetched in groups of rows.

    Also a function of (seed, step, rank). An epoch is a permutation of the groups, keyed by (seed,
    epoch), cut into windows: of at least `MIN_GROUPS` groups, and of as many as `WINDOW_BYTES`
    take. The rows of a window are permuted. The result is cut into global batches as in `Order`.
    """

    def __init__(
        self,
        sizes: Rows,
        nbytes: Rows,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            int(sizes.sum()), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
        )
        self._sizes, self._bytes = sizes, nbytes
        self._starts = sizes.cumsum() - sizes
        self._epochs: dict[int, list[Window]] = {}
        self._rows: dict[tuple[int, int], Rows] = {}

    def indices(self, step: int) -> Tensor:
        """Return this rank's image indices in update `step` (from 0), int64 [batch_size]."""
        epoch, start, stop, windows = self._place(step)
        parts = []
        for w in windows:
            window = self.windows(epoch)[w]
            rows = self._rows_of(epoch, w)
            parts.append(rows[max(start - window.start, 0) : stop - window.start])
        return torch.from_numpy(np.concatenate(parts))

    def ahead(self, step: int) -> Rows:
        """Return the groups to hold in update `step`: of its windows, and of the next one."""
        epoch, _, _, (*before, last) = self._place(step)
        there = self.windows(epoch)
        groups = [there[w].groups for w in (*before, last)]
        if not before:
            after = there[last + 1] if last + 1 < len(there) else self.windows(epoch + 1)[0]
            groups.append(after.groups)
        return np.concatenate(groups)

    def windows(self, epoch: int) -> list[Window]:
        """Return the windows of an epoch."""
        if epoch not in self._epochs:
            keys = philox.sort_keys(
                len(self._sizes), seed=self.seed, epoch=epoch, stream=philox.Stream.GROUPS
            )
            groups = keys.argsort(stable=True).numpy()
            bounds, nbytes = [0], 0
            for i, size in enumerate(self._bytes[groups].tolist()):
                if i - bounds[-1] >= MIN_GROUPS and nbytes + size > WINDOW_BYTES:
                    bounds.append(i)
                    nbytes = 0
                nbytes += size
            places = np.concatenate([[0], self._sizes[groups].cumsum()])
            cuts = list(itertools.pairwise([*bounds, len(groups)]))
            windows = [Window(groups[a:b], int(places[a]), int(places[b])) for a, b in cuts]
            _hold(self._epochs, epoch, windows)
        return self._epochs[epoch]

    def _place(self, step: int) -> tuple[int, int, int, range]:
        """Return the epoch, this rank's places in it, and the windows that these lie in."""
        epoch, batch = divmod(step, self.per_epoch)
        start = batch * self.global_batch + self.first
        stop = start + self.batch_size
        stops = [window.stop for window in self.windows(epoch)]
        first, last = np.searchsorted(stops, [start, stop - 1], side="right").tolist()
        return epoch, start, stop, range(first, last + 1)

    def _rows_of(self, epoch: int, w: int) -> Rows:
        """Return the rows of a window in their order."""
        if (epoch, w) not in self._rows:
            groups, start, stop = self.windows(epoch)[w]
            spans = [np.arange(self._sizes[g]) + self._starts[g] for g in groups]
            keys = philox.sort_keys(stop - start, seed=self.seed, epoch=epoch, first_row=start)
            rows = np.concatenate(spans)[keys.argsort(stable=True).numpy()]
            _hold(self._rows, (epoch, w), rows)
        return self._rows[epoch, w]


def _hold(cache: dict[Any, Any], key: object, value: object) -> None:
    """Put a value into `held`, of which the two latest stay."""
    while len(cache) > 1:
        del cache[next(iter(cache))]
    cache[key] = value


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
        """Do nothing: nothing is open."""


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
    source = grouped_source(images)
    if source is not None:
        windows = WindowOrder(
            source.group_sizes,
            source.group_bytes,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        return Stream(images, windows.indices, device, ahead=windows.ahead)
    order = Order(len(images), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
    return Stream(images, order.indices, device)
