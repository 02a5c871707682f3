"""An exponential moving average of the generator's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """A copy of `source` whose parameters follow it slowly and whose buffers equal its own.

    The decay of update n (from 0) is min(decay, (1 + n) / (10 + n)), so that short runs are not
    dominated by the initial weights.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(source).eval().requires_grad_(False)
        self._to = [list(self.module.parameters()), list(self.module.buffers())]
        self._from = [list(source.parameters()), list(source.buffers())]

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Follow the source after update n (from 0)."""
        decay = min(self.decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(self._to[0], self._from[0], 1.0 - decay)
        torch._foreach_copy_(self._to[1], self._from[1])
