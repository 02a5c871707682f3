"""Digits like those of house numbers, composed when they are read: `street-digits-like`.

A stand-in for SVHN (Netzer et al. 2011) where SVHN is missing, not a copy of it: each image of
the embedded MNIST once, 60,000 and 10,000, as the middle digit of a picture of 32×32 pixels in
colour. The digit is scaled, slanted and coloured; other digits stand to its left and right in most
pictures, cut off by the border. The ground has two colours, edges and bars; light falls unevenly on
all of it, with a shadow now and then; and the picture is blurred and noisy. The label is the middle
digit.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .. import philox
from ..philox import Stream
from .formats import read_embedded_mnist
from .splits import Images, Split, open_both
from .streaming import Mode, Rows, Streamed

SIDE = 32  # pixels of an image
_BORDER = (SIDE - 28) // 2  # around an MNIST image
_DRAWS = 64  # random numbers per image
_TEXTURE = 256  # side of the sheet from which noise is cut
_SEEDS = {"train": 0, "test": 1}
_BINOMIAL = tuple(n / 16 for n in (1, 4, 6, 4, 1))
_AT_ONCE = 512  # images


class StreetDigits:
    """One split as a source: a function of the row, composed at each read.

    Args:
        digits: the MNIST images uint8 [N, 28, 28, 1] whose digits are shown.
        split: fixes the random numbers.
    """

    slow = True
    on_disk = False

    def __init__(self, digits: NDArray[np.uint8], split: Split) -> None:
        self.digits, self.seed = digits, _SEEDS[split]
        self.shape = (len(digits), SIDE, SIDE, 3)

    def scatter(self) -> None:
        pass

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        parts = [self._read(rows[i : i + _AT_ONCE]) for i in range(0, len(rows), _AT_ONCE)]
        return np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), np.uint8)

    def _read(self, rows: Rows) -> NDArray[np.uint8]:
        draws = _Draws(torch.from_numpy(rows), self.seed)
        others = (draws.take(2) * len(self.digits)).long().numpy()  # of the left, of the right
        chosen = np.concatenate((rows, others[:, 0], others[:, 1]))
        digits = torch.from_numpy(self.digits[chosen, :, :, 0]).float().div_(255)
        return _picture(digits.view(3, -1, 28, 28), draws)


def street_digits_like(mode: Mode) -> dict[Split, Images]:
    """Return both splits of the composed digits; the labels are the middle digits."""
    mnist = read_embedded_mnist()
    train, test = (
        Streamed(StreetDigits(np.asarray(mnist[split].images[:]), split), None)
        for split in ("train", "test")
    )
    return open_both(train, test, (mnist["train"].labels, mnist["test"].labels), mode)


class _Draws:
    """The random numbers of some images, in [0, 1), handed out in order."""

    def __init__(self, rows: Tensor, seed: int) -> None:
        blocks = torch.arange(_DRAWS // 4).unsqueeze(0)
        row = rows.unsqueeze(1)
        stream = torch.full_like(row, Stream.STREET)
        words = philox.philox4x32((row, blocks, torch.zeros_like(row), stream), (seed, 0))
        self._numbers = philox.uniform(torch.stack(words, -1)).flatten(1)  # [B, _DRAWS]
        self._next = 0

    def take(self, n: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return the next n of each image, between `low` and `high`: [B, n]."""
        numbers = self._numbers[:, self._next : self._next + n]
        assert numbers.shape[1] == n
        self._next += n
        return low + (high - low) * numbers

    def one(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return the next of each image, to be multiplied with maps: [B, 1, 1, 1]."""
        return self.take(1, low, high).view(-1, 1, 1, 1)


def _picture(digits: Tensor, draws: _Draws) -> NDArray[np.uint8]:
    """Compose pictures uint8 [B, 32, 32, 3] of the middle, left and right digits [3, B, 28, 28]."""
    ground, ink = _colours(draws)
    image = _ground(ground, draws)
    mask = _digits(digits, draws)  # [B, 1, 32, 32]
    image = image + mask * (ink - image)
    image = image * _light(draws)
    blur = draws.one(0.0, 1.0)
    image = image + blur * (_blur(image) - image)
    image = image + draws.one(0.0, 0.05) * _texture(draws)
    pixels = image.clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


def _colours(draws: _Draws) -> tuple[Tensor, Tensor]:
    """Return ground and digit [B, 3, 1, 1]; one is clearly brighter than the other."""
    bright = draws.one(0.1, 0.9)
    contrast = draws.one(0.3, 0.65)
    # towards the side on which there is space; in the middle towards either
    up = bright + draws.one(-0.25, 0.25) < 0.5
    other = (bright + torch.where(up, contrast, -contrast)).clamp(0.02, 0.98)
    tints = draws.take(6, -0.16, 0.16).view(-1, 2, 3, 1, 1)
    tints = tints - tints.mean(2, keepdim=True)
    return bright + tints[:, 0], other + tints[:, 1]


def _ground(colour: Tensor, draws: _Draws) -> Tensor:
    """Return a wall [B, 3, 32, 32]: spots of a similar colour, an edge and bars of others."""
    spots = F.interpolate(
        _texture(draws)[:, :, :5, :5], size=(SIDE, SIDE), mode="bicubic", align_corners=True
    )
    image = colour + draws.one(0.0, 0.09) * spots
    for _ in range(2):  # the edge of another wall, some pixels from the middle
        there = draws.one() < 0.5
        shade = draws.take(3, -0.3, 0.3).view(-1, 3, 1, 1)
        inside = (_across(draws) - draws.one(8.0, 16.0)).sigmoid()
        image = image + there * inside * shade
    there = draws.one() < 0.4  # a bar: a frame, a pipe, a joint
    distance = (_across(draws) - draws.one(9.0, 15.0)).abs()
    shade = draws.take(3, -0.4, 0.4).view(-1, 3, 1, 1)
    return image + there * (draws.one(0.6, 2.0) - distance).add(0.5).clamp(0, 1) * shade


def _across(draws: _Draws) -> Tensor:
    """Return each pixel's distance, signed, from a line through the middle: [B, 1, 32, 32].

    Walls and shadows are upright or level, more often than not.
    """
    quarter = (draws.one() * 4).floor() * (math.pi / 2)
    angle = quarter + draws.one(-1.0, 1.0) ** 3 * (math.pi / 4)
    places = torch.arange(SIDE) - (SIDE - 1) / 2
    return places.view(1, 1, 1, -1) * angle.cos() + places.view(1, 1, -1, 1) * angle.sin()


def _digits(digits: Tensor, draws: _Draws) -> Tensor:
    """Return the ink of the middle, left and right digits, 0 to 1, [B, 1, 32, 32]."""
    size = draws.one(0.8, 1.2)  # a number's digits have one size, slant and row
    narrow = size * draws.one(0.75, 1.0)
    turn, slant = draws.one(-0.12, 0.12), draws.one(-0.2, 0.2)
    x, y = draws.one(-1.5, 1.5), draws.one(-1.5, 1.5)
    apart = draws.one(17.0, 22.0) * narrow
    climb = draws.one(-2.0, 2.0)
    cos, sin = turn.cos(), turn.sin()
    # from a place in the picture to one in the digit
    linear = torch.cat(
        (
            torch.cat((cos / narrow, (sin + slant * cos) / narrow), 3),
            torch.cat((-sin / size, (cos - slant * sin) / size), 3),
        ),
        2,
    )[:, 0]  # [B, 2, 2]
    ink = torch.zeros(digits.shape[1], 1, SIDE, SIDE)
    for digit, side in zip(digits, (0, -1, 1), strict=True):
        there = draws.one() < (0.6 if side else 1.0)
        centre = torch.cat((x + side * apart, y + side * climb), 3)[:, 0].transpose(1, 2)
        moved = -linear @ centre * (2 / SIDE)
        grid = F.affine_grid(
            torch.cat((linear, moved), 2), [len(digit), 1, SIDE, SIDE], align_corners=False
        )
        padded = F.pad(digit, (_BORDER,) * 4).unsqueeze(1)
        ink = torch.maximum(ink, there * F.grid_sample(padded, grid, align_corners=False))
    return ink


def _light(draws: _Draws) -> Tensor:
    """Return the light on each pixel, about 1: [B, 1, 32, 32]."""
    slope = 1 + draws.one(0.0, 0.02) * _across(draws)
    shaded = (_across(draws) - draws.one(-10.0, 14.0)).mul(1.5).sigmoid()
    return slope * (1 - (draws.one() < 0.3) * draws.one(0.15, 0.5) * shaded)


def _blur(image: Tensor) -> Tensor:
    """Blur over 5×5 pixels, by binomial weights."""
    # slices, because a convolution may round otherwise for another number of images
    padded = F.pad(image, (2,) * 4, mode="replicate")
    rows = torch.zeros_like(padded[:, :, :SIDE])
    for i, weight in enumerate(_BINOMIAL):
        rows += weight * padded[:, :, i : i + SIDE]
    out = torch.zeros_like(image)
    for i, weight in enumerate(_BINOMIAL):
        out += weight * rows[..., i : i + SIDE]
    return out


def _texture(draws: _Draws) -> Tensor:
    """Return noise [B, 3, 32, 32] of variance 1, cut from a fixed sheet."""
    sheet = _sheet()
    place = (draws.take(2) * (_TEXTURE - SIDE)).long()
    offsets = torch.arange(SIDE)
    rows = (place[:, :1] + offsets).unsqueeze(2)
    columns = (place[:, 1:] + offsets).unsqueeze(1)
    return sheet[:, rows, columns].transpose(0, 1)


@functools.cache
def _sheet() -> Tensor:
    words = philox.words(_TEXTURE, 3 * _TEXTURE, seed=2, stream=Stream.STREET)
    return philox.normal(words).view(_TEXTURE, 3, _TEXTURE).transpose(0, 1).contiguous()
