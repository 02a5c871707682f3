"""Pictures read back as numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from fastinfogan.evaluation.pictures import GAP
from fastinfogan.evaluation.pictures import MIN_TILE as TILE
from fastinfogan.latents import Bernoulli, Categorical, LatentSpec, Uniform

TITLE, HEADINGS = 18, 16  # pixels above the tiles


def blues(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the pixels of full cells."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    red, _, blue = np.moveaxis(pixels, 2, 0)
    y, x = np.nonzero((blue - red > 80) & (red < 60))
    return y, x


def block_means(images: np.ndarray) -> np.ndarray:
    """Return the means of the 4×4 blocks of images [B, H, W, C], int [B, 4, 4, C]."""
    n, height, width, channels = images.shape
    blocks = images.reshape(n, 4, height // 4, 4, width // 4, channels).astype(float)
    return blocks.mean((2, 4)).round().astype(int)


def pixels(picture: Image.Image) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture)


def tiles(picture: Image.Image, rows: int, columns: int, *, side: int = TILE, top: int = 0):
    """Return the picture cut into [rows, columns, side, side, 3]."""
    array = pixels(picture)
    return np.stack(
        [
            np.stack(
                [
                    array[y : y + side, x : x + side]
                    for x in range(GAP, GAP + columns * (side + GAP), side + GAP)
                ]
            )
            for y in range(top, top + rows * (side + GAP), side + GAP)
        ]
    )


class Echo(nn.Module):
    """A generator whose whole image is one column of its input, from (low, high)."""

    image_range = (0.0, 1.0)

    def __init__(self, column: int, low: float, high: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.column, self.low, self.high = column, low, high

    def forward(self, latent, stats=None):
        assert stats == "running"  # an image must not depend on those next to it
        gray = (latent[:, self.column] - self.low) / (self.high - self.low)
        return gray.view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


#                          input's columns:  0 noise, 1-4 cat, 5 bernoulli, 6-7 uniform
SPEC = LatentSpec(noise=1, codes=(Categorical(4), Bernoulli(), Uniform(-1, 1, dim=2)))
