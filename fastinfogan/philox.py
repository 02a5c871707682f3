"""Counter-based random numbers: Philox4x32-10 in plain PyTorch.

A number depends on its address alone, (seed, stream, step, row, word), never on what was drawn
before. So every device and every number of ranks sees the same rows, and a resumed run needs no
saved generator state. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
(SC'11); the tests hold it to the known-answer vectors of the authors' Random123.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


class Stream(IntEnum):
    """What a draw is for. Streams of one (seed, step) are independent."""

    D_LATENTS = 0
    G_LATENTS = 1
    PERMUTATION = 2
    SAMPLES = 3


def philox4x32(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox4x32.

    Args:
        counter: four int64 tensors that broadcast, each holding 32-bit values.
        key: two 32-bit integers.

    Returns:
        Four int64 tensors of 32-bit values, in the broadcast shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap, but their 64 bits are those of the unsigned product.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def words(
    rows: int,
    per_row: int,
    *,
    seed: int,
    step: int | Tensor = 0,
    stream: int = 0,
    first_row: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Uniform 32-bit words, int64 [rows, per_row], at addresses (seed, stream, step, row, word)."""
    blocks = -(-per_row // 4)
    row = torch.arange(first_row, first_row + rows, device=device).unsqueeze(1)
    block = torch.arange(blocks, device=device).unsqueeze(0)
    counter = (
        row & _MASK,
        block,
        torch.full_like(row, step & _MASK) if isinstance(step, int) else step.expand_as(row),
        torch.full_like(row, stream),
    )
    out = philox4x32(counter, (seed & _MASK, (seed >> 32) & _MASK))
    return torch.stack(out, dim=-1).reshape(rows, 4 * blocks)[:, :per_row]


def uniform(word: Tensor) -> Tensor:
    """32-bit words to float32 in [0, 1), a multiple of 2⁻²⁴: exact on every device."""
    return (word >> 8).to(torch.float32) * 2.0**-24


def normal(word: Tensor) -> Tensor:
    """Pairs of 32-bit words [rows, 2k] to standard normals, float32 [rows, 2k] (Box–Muller)."""
    first, second = word[:, 0::2], word[:, 1::2]
    # (0, 1], so that the logarithm is finite
    radius = (uniform(first) + 2.0**-24).log().mul(-2.0).sqrt()
    angle = uniform(second) * (2.0 * math.pi)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).reshape(word.shape)


def below(word: Tensor, n: int) -> Tensor:
    """32-bit words to int64 in [0, n) by multiply-high; biased by less than n/2³²."""
    return (word * n) >> 32


def permutation(
    n: int, *, seed: int, epoch: int, device: torch.device | str | None = None
) -> Tensor:
    """A permutation of 0 … n-1, int64 [n], that depends on (seed, epoch) alone on any device."""
    pair = words(n, 2, seed=seed, step=epoch, stream=Stream.PERMUTATION, device=device)
    return ((pair[:, 0] << 31) | (pair[:, 1] >> 1)).argsort(stable=True)
