"""An exponential moving average of the generator's weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable

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
        self._params = _tensors(self.module.parameters()), _tensors(source.parameters())
        self._buffers = _tensors(self.module.buffers()), _tensors(source.buffers())

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Follow the source after update n (from 0)."""
        decay = min(self.decay, (1 + n) / (10 + n))
        ours, theirs = self._params
        torch._foreach_lerp_(ours, theirs, 1.0 - decay)
        ours, theirs = self._buffers
        torch._foreach_copy_(ours, theirs)


def _tensors(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list(tensors)
