"""Image sets that are read row by row, so that they may be larger than memory.

A streamed run sees the batches of a resident one, in the same order; only where the images lie
until then differs.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import Literal, Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

Mode = Literal["auto", "always", "never"]
Rows = NDArray[np.int64]
HELD_OUT_EVERY = 10  # of a set without a test split
MAX_RESIDENT = 4 * 2**30  # bytes, decoded: beyond it "auto" streams
SHARE_RESIDENT = 1 / 4  # or beyond this share of the available memory, over this machine's ranks
MAX_HASHED = 2**28  # bytes; of a larger set a sample is hashed
SAMPLE = 1024  # images


class Source(Protocol):
    """An image set that is read row by row. Pickles without its images, as workers need it."""

    slow: bool  # a row takes decoding, not just a copy
    on_disk: bool  # a row may have to be waited for

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, H, W, C."""

    def scatter(self) -> None:
        """Expect reads of rows here and there from now on."""

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        """Return the images [B, H, W, C] at `rows` [B]. Raises UserError, naming the file."""


class Grouped:
    """A source of which groups of rows are fetched, from far away, and not single rows."""

    group_sizes: Rows  # [G], rows of each group; they come one after the other
    group_bytes: Rows  # [G], as fetched

    @property
    def digest(self) -> str:
        """A hash of what the source holds. Reads no images."""
        raise NotImplementedError

    def spread(self, most: int) -> Rows:
        """Return up to `most` rows of the whole set that lie in few groups."""
        raise NotImplementedError

    def fetch_ahead(self, groups: Rows) -> None:
        """Fetch these groups, and hold no others. Does not wait."""
        raise NotImplementedError


class Streamed:
    """One split of a source, read where it is indexed: by a slice or by rows, int64 [B].

    `held_out`: every tenth image, or the others; None: the source is the split.
    """

    def __init__(self, source: Source, held_out: bool | None) -> None:
        self.source, self.held_out = source, held_out
        self.shape = (split_size(source.shape[0], held_out), *source.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all its images, decoded."""
        return math.prod(self.shape)

    def __getitem__(self, chosen: slice | Rows) -> NDArray[np.uint8]:
        rows = np.arange(*chosen.indices(len(self))) if isinstance(chosen, slice) else chosen
        return self.source.read(in_whole(rows, self.held_out))


def split_size(n: int, held_out: bool | None) -> int:
    """Return the size of a split of n images; every tenth is held out (None: all of them)."""
    if held_out is None:
        return n
    return n // HELD_OUT_EVERY if held_out else n - n // HELD_OUT_EVERY


def in_whole(rows: Rows, held_out: bool | None) -> Rows:
    """Return rows of a split as rows of the whole set."""
    if held_out is None:
        return rows
    if held_out:
        return rows * HELD_OUT_EVERY + (HELD_OUT_EVERY - 1)
    return rows + rows // (HELD_OUT_EVERY - 1)


def split_rows(n: int, held_out: bool | None) -> Rows:
    """Return all rows of a split of n images, as rows of the whole set."""
    return in_whole(np.arange(split_size(n, held_out)), held_out)


def evenly(n: int, most: int) -> Rows:
    """Return up to `most` rows of n, evenly spaced from the first on, int64."""
    count = min(n, most)
    return np.arange(count) * n // max(count, 1)


def grouped_source(images: object) -> Grouped | None:
    """Return the source of a split that is streamed from a grouped one, else None."""
    source = images.source if isinstance(images, Streamed) else None
    return source if isinstance(source, Grouped) else None


def spread(images: NDArray[np.uint8] | Streamed, most: int) -> Rows:
    """Return up to `most` rows of a split: evenly spaced; of a grouped source in few groups."""
    source = grouped_source(images)
    return evenly(len(images), most) if source is None else source.spread(most)


def checksum(images: NDArray[np.uint8] | Streamed) -> str:
    """Return a hash to compare a resumed run's images by, the same resident and streamed.

    Up to 256 MiB every byte is hashed. Of a larger set the shape and 1,024 evenly spaced images
    are: enough to tell one set from another, not to find a single image that was changed. Of a
    grouped source, the hub's own hashes of its files are.
    """
    source = grouped_source(images)
    if source is not None:
        return f"{source.digest} ({len(images)} images in row groups)"
    hashed, n = hashlib.sha256(), len(images)
    if images.nbytes <= MAX_HASHED:
        for start in range(0, n, SAMPLE):
            hashed.update(np.ascontiguousarray(images[start : start + SAMPLE]).data)
        return f"{hashed.hexdigest()[:16]} ({n} images)"
    hashed.update(repr(images.shape).encode())
    hashed.update(np.ascontiguousarray(images[evenly(n, SAMPLE)]).data)
    return f"{hashed.hexdigest()[:16]} ({SAMPLE} of {n} images)"


def should_stream(mode: Mode, nbytes: int) -> bool:
    """Return True if a set of `nbytes` bytes (decoded) is to be streamed."""
    if mode != "auto":
        return mode == "always"
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    share = psutil.virtual_memory().available * SHARE_RESIDENT / ranks
    return nbytes > min(MAX_RESIDENT, share)
