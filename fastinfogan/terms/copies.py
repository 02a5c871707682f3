"""What is asked on real images: the terms that the options name, the copies that these need."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import philox
from ..config import TrainConfig
from ..latents import Categorical, LatentSpec, Real
from ..parallel import Ranks
from ..philox import Stream
from .invariance import RealTerms
from .upright import NUMBERS, upright
from .warp import CHANGES, Warped, parse_changes


def real_terms(config: TrainConfig, spec: LatentSpec) -> RealTerms | None:
    """What is asked on real images: of the first categorical, of the first continuous codes."""
    if not (
        config.invariance.weight
        or config.follow.weight
        or config.vat.weight
        or config.upright.weight
    ):
        return None
    categories: list[slice] = []
    means: list[int] = []
    for code, slot in zip(spec.codes, spec.slots, strict=True):
        if isinstance(code, Categorical):
            categories.append(slot.q)
        elif isinstance(code, Real):
            means += range(slot.q.start, slot.q.start + code.dim)
    names = parse_changes(config.follow.changes)[: len(means)]
    changes = tuple(CHANGES.index(name) for name in names)
    return RealTerms(
        config.invariance.weight,
        categories[0] if categories else None,
        config.follow.weight,
        tuple(means[: len(changes)]) if config.follow.weight else (),
        changes if config.follow.weight else (),
        config.vat.weight,
        config.vat.radius,
        config.upright.weight,
    )


class Copies(NamedTuple):
    """Of a batch [B, C, H, W], where they are asked for."""

    warped: Warped | None
    probes: Tensor | None  # like the batch, requiring grad: `RealTerms.adversarial`
    upright: Tensor | None  # [2B, C, H, W], two of each image, all first ones first


class Copier:
    """Makes them; those of a row are a function of (seed, step, its place in the global batch)."""

    def __init__(self, config: TrainConfig, ranks: Ranks, low: float) -> None:
        """low: what is dark in an image; what is bright is 1."""
        self.config, self.ranks, self.low = config, ranks, low
        self.warp = (
            config.invariance.warp if config.invariance.weight or config.follow.weight else None
        )

    def __call__(self, step: int | Tensor, real: Tensor, vat: bool) -> Copies:
        """vat: whether adversarial ones are asked for."""
        return Copies(
            self._warped(step, real),
            self._probes(step, real) if vat else None,
            self._upright(step, real) if self.config.upright.weight else None,
        )

    def _warped(self, step: int | Tensor, real: Tensor) -> Warped | None:
        if self.warp is None:
            return None
        first_row = self.ranks.rank * len(real)
        return self.warp(
            real, seed=self.config.seed, step=step, first_row=first_row, background=self.low
        )

    def _probes(self, step: int | Tensor, real: Tensor) -> Tensor:
        pixels = real[0].numel()
        words = self._words(step, real, Stream.PROBE, -(-pixels // 32))
        return philox.signs(words)[:, :pixels].view(real.shape).requires_grad_()

    def _upright(self, step: int | Tensor, real: Tensor) -> Tensor:
        u = philox.uniform(self._words(step, real, Stream.UPRIGHT, 2 * NUMBERS))
        bright = (real - self.low) / (1 - self.low)
        copies = upright(bright.repeat(2, 1, 1, 1), torch.cat(u.chunk(2, 1)))
        return copies * (1 - self.low) + self.low

    def _words(self, step: int | Tensor, real: Tensor, stream: Stream, columns: int) -> Tensor:
        return philox.words(
            len(real),
            columns,
            seed=self.config.seed,
            step=step & 0xFFFFFFFF,
            stream=stream,
            first_row=self.ranks.rank * len(real),
            device=real.device,
        )
