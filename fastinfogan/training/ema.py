"""An exponential moving average of the generator's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .player import Flat


class Ema:
    """A copy of `source` whose parameters follow it slowly and whose buffers equal its own.

    The decay of update n (from 0) is min(decay, (1 + n) / (10 + n)), so that short runs are not
    dominated by the initial weights.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(source).eval().requires_grad_(False)
        self.flat = Flat(self.module.parameters())
        self._buffers = list(self.module.buffers()), list(source.buffers())

    @torch.no_grad()
    def update(self, n: int | Tensor, flat: Tensor) -> None:
        """Follow the source after update n (from 0).

        Args:
            n: a tensor on the device gives the same without a read by the host.
            flat: the buffer of a `Flat` whose first parameters are the source's.
        """
        if isinstance(n, Tensor):
            count = n.double()
            decay = ((count + 1) / (count + 10)).clamp(max=self.decay)
            weight: float | Tensor = (1.0 - decay).to(self.flat.value.dtype)
        else:
            weight = 1.0 - min(self.decay, (1 + n) / (10 + n))
        value = self.flat.value.detach()
        value.lerp_(flat[: len(value)], weight)
        self.copy_buffers()

    @torch.no_grad()
    def copy_buffers(self) -> None:
        """Copy the source's buffers, where a kernel has moved the parameters."""
        if self._buffers[0]:
            torch._foreach_copy_(*self._buffers)
