"""dSprites' factor grid, and sprites like its own, drawn when they are read.

The grid is that of Matthey et al., "dSprites: Disentanglement testing Sprites dataset" (2017,
github.com/google-deepmind/dsprites-dataset). It has every combination once of 3 shapes (square,
ellipse, heart), 6 scales from 0.5 to 1, 40 orientations from 0 to 2π, both ends included, and
32 × 32 positions. These are 737,280 images of 64 × 64, black and white. The sprites here differ
from the original's in single pixels: their outlines are our own, at about the same sizes.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .streaming import Rows, Source

FACTORS = ("shape", "scale", "orientation", "x", "y")
SIZES = (3, 6, 40, 32, 32)
SIDE = 64  # pixels of an image
_REACH = 16  # pixels from a sprite's central pixel to its mask's edge
_MASK = 2 * _REACH + 1  # 31 steps of one pixel fill the image: 33 + 31 = 64
# Half the square's side, the ellipse's half axes, and the heart's unit, in pixels at scale 1.
_SQUARE, _ELLIPSE, _HEART = 9.0, (11.25, 7.2), 9.0
# A sprite's centre, in pixels from its central pixel's: off every symmetry of the pixels, so that
# no two of 39 orientations come out alike (0 and 2π, the first and the last, do).
_CENTRE = (0.25, 0.35)


@dataclass(frozen=True)
class Grid:
    """A set that holds every combination of its factors' classes once, the last varying fastest.

    For the evaluation of disentanglement, as labels are: training never sees it.
    """

    source: Source
    sizes: tuple[int, ...]  # classes of each factor
    names: tuple[str, ...] = FACTORS

    def factors(self, rows: Rows) -> NDArray[np.int64]:
        """Return the classes int64 [B, factors] of the images at `rows` [B] of the whole set."""
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < math.prod(self.sizes):
            raise ValueError(f"rows must lie in 0 … {math.prod(self.sizes) - 1}")
        return np.stack(np.unravel_index(rows, self.sizes), axis=-1).astype(np.int64)

    def rows(self, factors: NDArray[np.int64]) -> Rows:
        """Return the rows, int64 [B], of the images that have the classes [B, factors].

        Raises ValueError where one is outside its factor's.
        """
        _check(factors, self.sizes)
        columns = tuple(factors.astype(np.int64).T)
        return np.asarray(np.ravel_multi_index(columns, self.sizes), np.int64)

    def images(self, factors: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images [B, H, W, C] of the classes [B, factors]."""
        return self.source.read(self.rows(factors))


def _check(factors: NDArray[np.int64], sizes: tuple[int, ...]) -> None:
    if factors.ndim != 2 or factors.shape[1] != len(sizes) or factors.dtype.kind not in "iu":
        raise ValueError(
            f"factors must be integers [B, {len(sizes)}], got {factors.dtype} {list(factors.shape)}"
        )
    if ((factors < 0) | (factors >= sizes)).any():
        raise ValueError(
            f"factors must lie in 0 … {[size - 1 for size in sizes]}, column by column"
        )


def render(factors: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return sprites uint8 [B, 64, 64, 1], 0 and 255, of the classes [B, 5] in `FACTORS`' order.

    x grows to the right, y downwards, the orientation counter-clockwise. Raises ValueError where a
    class is outside its factor's.
    """
    _check(factors, SIZES)
    shape, scale, orientation, x, y = factors.T
    out = np.zeros((len(factors), SIDE, SIDE), np.uint8)
    places = np.lib.stride_tricks.sliding_window_view(
        out, (_MASK, _MASK), axis=(1, 2), writeable=True
    )  # [B, 32, 32, 33, 33], a view: writing a mask at its place is all that drawing is
    places[np.arange(len(factors)), y, x] = _masks()[shape, scale, orientation]
    return out[..., None]


class Sprites:
    """All sprites of the grid as a source: 0.8 MB of masks, whatever is read."""

    shape = (math.prod(SIZES), SIDE, SIDE, 1)
    slow = False
    on_disk = False

    def scatter(self) -> None:
        pass

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        return render(np.stack(np.unravel_index(rows, SIZES), axis=-1))


@functools.cache
def _masks() -> NDArray[np.uint8]:
    """Return every shape at every scale and orientation, uint8 [3, 6, 40, 33, 33] of 0 and 255.

    A pixel is white where its centre lies inside the outline: the original is not anti-aliased.
    """
    pixels = np.arange(-_REACH, _REACH + 1)
    x, y = pixels - _CENTRE[0], -pixels[:, None] - _CENTRE[1]  # y upwards
    scales = np.linspace(0.5, 1.0, SIZES[1])[:, None, None, None]
    angles = np.linspace(0.0, 2 * np.pi, SIZES[2])[:, None, None]
    # the pixels in a sprite's own axes, in units of scale 1: [6, 40, 33, 33]
    u = (np.cos(angles) * x + np.sin(angles) * y) / scales
    v = (np.cos(angles) * y - np.sin(angles) * x) / scales
    square = np.maximum(abs(u), abs(v)) <= _SQUARE
    ellipse = (u / _ELLIPSE[0]) ** 2 + (v / _ELLIPSE[1]) ** 2 <= 1
    # (h² + k² − 1)³ ≤ h² k³, a sextic; the 0.1 puts its middle at the centre
    h, k = u / _HEART, v / _HEART + 0.1
    heart = (h**2 + k**2 - 1) ** 3 <= h**2 * k**3
    return np.stack([square, ellipse, heart]).astype(np.uint8) * np.uint8(255)
