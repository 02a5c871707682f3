"""An exponential moving average of the generator's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """A copy of `source` whose parameters follow it slowly and whose buffers equal its own.

    The decay of update n (from 0) is min(decay, (1 + n) / (10 + n)), so that short runs are not
    dominated by the initial weights.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(source).eval().requires_grad_(False)
        self._params: tuple[list[Tensor], list[Tensor]] = (
            list(self.module.parameters()),
            list(source.parameters()),
        )
        self._buffers = list(self.module.buffers()), list(source.buffers())

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Follow the source after update n (from 0)."""
        decay = min(self.decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(*self._params, 1.0 - decay)
        torch._foreach_copy_(*self._buffers)
