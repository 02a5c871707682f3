"""Counter-based random numbers: Philox4x32-10 in plain PyTorch.

A number depends on its address alone, (seed, stream, step, row, word), never on what was drawn
before. So every device and every number of ranks sees the same rows, and a resumed run needs no
saved generator state. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
(SC'11); the tests hold it to the known-answer vectors of the authors' Random123.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
MAX_SORTED = 2**20  # up to here a permutation is sorted whole, beyond it is computed place by place
_ROUNDS = 6


class Stream(IntEnum):
    """The purpose of a draw. Streams of one (seed, step) are independent."""

    D_LATENTS = 0
    G_LATENTS = 1
    PERMUTATION = 2
    SAMPLES = 3
    ORDER = 4
    WARP = 5
    PROBE = 6
    UPRIGHT = 7
    CHAIRS = 8
    STREET = 9
    GROUPS = 10
    PHOTO = 11
    PAIR_LATENTS = 16
    PAIR_FACTORS = 17


def philox4x32(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Run ten rounds of Philox4x32.

    Under torch.compile the rounds are one opaque operator where they run on a CPU, and an ordinary
    part of the graph, to be fused, elsewhere.

    Args:
        counter: four int64 tensors that broadcast, each holding 32-bit values.
        key: two 32-bit integers.

    Returns:
        Four int64 tensors of 32-bit values, in the broadcast shape.
    """
    if torch.compiler.is_compiling() and counter[0].device.type == "cpu":
        return getattr(torch.ops, _LIBRARY).philox4x32(*counter, *key)
    return _philox4x32(*counter, *key)  # type: ignore[call-arg, arg-type]


def _philox4x32(
    c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: int, k1: int
) -> tuple[Tensor, ...]:
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


# Inductor's vectorised C++ (torch 2.13, AVX-512) computes these 64-bit products wrongly, so its
# CPU code must not contain them. The name follows the package's, which may be a renamed copy.
_LIBRARY = __name__.replace(".", "_")
_operators = torch.library.Library(_LIBRARY, "DEF")
_operators.define(
    "philox4x32(Tensor c0, Tensor c1, Tensor c2, Tensor c3, int k0, int k1)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
_operators.impl("philox4x32", _philox4x32, "CPU")


def _fake(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: int, k1: int) -> tuple[Tensor, ...]:
    shape = torch.broadcast_shapes(c0.shape, c1.shape, c2.shape, c3.shape)
    return tuple(c0.new_empty(shape) for _ in range(4))


# not `register_fake`, which reads its caller's source: 2 ms of every import
_operators.impl("philox4x32", _fake, "Meta")


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
    """Return uniform 32-bit words, int64 [rows, per_row], at (seed, stream, step, row, word)."""
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
    """Map 32-bit words to float32 in [0, 1), a multiple of 2⁻²⁴: exact on every device."""
    return (word >> 8).to(torch.float32) * 2.0**-24


def normal(word: Tensor) -> Tensor:
    """Map pairs of 32-bit words [rows, 2k] to standard normals, float32 [rows, 2k] (Box–Muller)."""
    first, second = word[:, 0::2], word[:, 1::2]
    # (0, 1], so that the logarithm is finite
    radius = (uniform(first) + 2.0**-24).log().mul(-2.0).sqrt()
    angle = uniform(second) * (2.0 * math.pi)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).reshape(word.shape)


def signs(word: Tensor) -> Tensor:
    """Map 32-bit words [rows, n] to as many bits' signs, float32 [rows, 32·n] of ±1."""
    bits = word.unsqueeze(2) >> torch.arange(32, device=word.device)
    return (1 - 2 * (bits & 1)).to(torch.float32).flatten(1)


def below(word: Tensor, n: int) -> Tensor:
    """Map 32-bit words to int64 in [0, n) by multiply-high; biased by less than n/2³²."""
    return (word * n) >> 32


def choose(word: Tensor, thresholds: Sequence[int]) -> Tensor:
    """Map 32-bit words w to classes k, int64, with thresholds[k] ≤ w < thresholds[k + 1].

    `thresholds` are n + 1 integers that do not fall, from 0 to 2³².
    """
    inner = torch.tensor(thresholds[1:-1], dtype=torch.int64, device=word.device)
    return torch.bucketize(word.contiguous(), inner, right=True)


def permutation(
    n: int, *, seed: int, epoch: int, device: torch.device | str | None = None
) -> Tensor:
    """Return a permutation of 0 … n-1, int64 [n], that depends on (seed, epoch) alone."""
    return sort_keys(n, seed=seed, epoch=epoch, device=device).argsort(stable=True)


def sort_keys(
    n: int,
    *,
    seed: int,
    epoch: int,
    first_row: int = 0,
    stream: int = Stream.PERMUTATION,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return random keys of rows first_row …, 63 bits each, int64 [n], to sort the rows by."""
    pair = words(n, 2, seed=seed, step=epoch, stream=stream, first_row=first_row, device=device)
    return (pair[:, 0] << 31) | (pair[:, 1] >> 1)


def permute(
    start: int,
    stop: int,
    n: int,
    *,
    seed: int,
    epoch: int,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return places start … stop-1 of the permutation of 0 … n-1 of (seed, epoch), int64.

    Up to `MAX_SORTED` it is `permutation`. Beyond, memory and time are those of the requested
    places: they are computed on the CPU, and a GPU is not waited for.
    """
    if n <= MAX_SORTED:
        return permutation(n, seed=seed, epoch=epoch, device=device)[start:stop]
    out = encipher(torch.arange(start, stop), n, seed=seed, epoch=epoch)
    if torch.device(device or "cpu").type == "cuda":
        return out.pin_memory().to(device, non_blocking=True)
    return out.to(device)


def encipher(places: Tensor, n: int, *, seed: int, epoch: int) -> Tensor:
    """Return the values at `places` (int64, in [0, n)) of a permutation of 0 … n-1: int64, as many.

    An alternating Feistel network on pairs (left, right) of [0, a) × [0, b), with a·b just above n,
    whose round function is Philox; what falls outside [0, n) goes through again until it is inside
    (cycle walking). Black and Rogaway, "Ciphers with arbitrary finite domains" (CT-RSA 2002). Both
    steps are bijections, so this is one for every n, seed and epoch.
    """
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    out = _feistel(places, a, b, seed, epoch)
    outside = (out >= n).nonzero().flatten()
    while len(outside):
        out[outside] = _feistel(out[outside], a, b, seed, epoch)
        outside = outside[out[outside] >= n]
    return out


def _feistel(x: Tensor, a: int, b: int, seed: int, epoch: int) -> Tensor:
    key = (seed & _MASK, (seed >> 32) & _MASK)
    left, right = x // b, x % b

    def word(half: Tensor, turn: int) -> Tensor:
        rest = (turn, epoch & _MASK, Stream.ORDER)
        counter = (half & _MASK, *(torch.full_like(half, value) for value in rest))
        return philox4x32(counter, key)[0]

    for turn in range(0, _ROUNDS, 2):
        left = (left + word(right, turn)) % a
        right = (right + word(left, turn + 1)) % b
    return left * b + right
