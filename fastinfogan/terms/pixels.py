"""Places in an image, from -1 to 1 along each side."""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-10


def places(n: int, like: Tensor) -> Tensor:
    """Return the middles of n pixels, from -1 to 1, with the device and dtype of `like`."""
    return (2 * torch.arange(n, device=like.device, dtype=like.dtype) + 1) / n - 1


def centre(bright: Tensor) -> Tensor:
    """Return the centre of brightness (x, y) [B, 2] of images [B, C, H, W], from -1 to 1."""
    maps = bright.sum(1)  # [B, H, W]
    mass = maps.sum((1, 2)).clamp_min(_EPSILON)
    parts = []
    for dim in (1, 2):  # summed over rows, over columns
        line = maps.sum(dim)
        parts.append((line * places(line.shape[1], line)).sum(1) / mass)
    return torch.stack(parts, 1)
