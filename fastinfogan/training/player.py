"""A player's parameters in one buffer, with their gradients and their working copies.

One buffer: one all-reduce, one Adam, one cast, one average, whatever the number of layers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..networks.convolution import BatchNorm

ALIGN = 64  # elements: a parameter begins on a cache line in every dtype
Network = TypeVar("Network", bound=nn.Module)


class Flat:
    """Parameters laid one after another, padded with zeros that stay zeros.

    Args:
        params: of one dtype, which become views of the buffer.
        dtype: what is computed in. Where it is another, `working` holds a copy of the buffer in it.
    """

    def __init__(self, params: Iterable[nn.Parameter], dtype: torch.dtype | None = None) -> None:
        self.params = list(params)
        self._starts, size = [], 0
        for p in self.params:
            self._starts.append(size)
            size += -(-p.numel() // ALIGN) * ALIGN
        first = self.params[0]
        self.value = nn.Parameter(torch.zeros(size, dtype=first.dtype, device=first.device))
        with torch.no_grad():
            for p, view in zip(self.params, self.views(self.value.data), strict=True):
                view.copy_(p)
                p.data = view
        self.working: Tensor | None = None
        if dtype not in (None, first.dtype):
            self.working = self.value.detach().to(dtype)

    @cached_property
    def grad(self) -> Tensor:
        """The gradients, in the buffer's dtype and layout; an optimizer finds them."""
        self.value.grad = torch.zeros_like(self.value.data)
        return self.value.grad

    @cached_property
    def _gradients(self) -> list[Tensor]:
        return self.views(self.grad)

    def views(self, buffer: Tensor) -> list[Tensor]:
        """Each parameter's place in a buffer of this layout, in its shape and memory format."""
        return [
            buffer.as_strided(p.shape, p.stride(), start)
            for p, start in zip(self.params, self._starts, strict=True)
        ]

    @torch.no_grad()
    def collect(self, grads: Sequence[Tensor]) -> None:
        """Write gradients of any dtype and memory format into `grad`."""
        torch._foreach_copy_(self._gradients, list(grads))

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the working copy up to date."""
        if self.working is not None:
            self.working.copy_(self.value)


def working_copies(flats: Sequence[Flat]) -> dict[nn.Parameter, nn.Parameter]:
    """For each parameter the one that is computed with: a view of `working`, or itself."""
    out = {}
    for flat in flats:
        views = flat.params if flat.working is None else flat.views(flat.working)
        for p, view in zip(flat.params, views, strict=True):
            out[p] = view if isinstance(view, nn.Parameter) else nn.Parameter(view)
    return out


def working_network(network: Network, copies: Mapping[nn.Parameter, nn.Parameter]) -> Network:
    """The same network on the working copies of its weights. BatchNorm's tensors are shared."""
    twin = copy.deepcopy(network)
    for (name, module), other in zip(network.named_modules(), twin.modules(), strict=True):
        for key, p in module.named_parameters(name, recurse=False):
            key = key.rpartition(".")[2]
            setattr(other, key, p if isinstance(module, BatchNorm) else copies[p])
        for key, buffer in module.named_buffers(recurse=False):
            setattr(other, key, buffer)
    return twin
