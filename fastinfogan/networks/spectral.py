"""Layers whose weight is divided by its largest singular value (Miyato et al. 2018, algorithm 1).

W / σ(W) with σ = uᵀWv, differentiable in W alone. A convolution's W is [outputs, inputs·4·4]. The
vectors u and v are buffers in fp32; a pass leaves them alone, and `iterate` brings them one power
iteration nearer. Who calls it decides when (a discriminator, where its running buffers would
follow), as BatchNorm's caller decides about its statistics.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import Conv, Same, convolve


class Spectral(nn.Module):
    """The shared part of the normalised layers."""

    weight: Tensor
    u: Tensor  # [outputs], the left singular vector; unit length
    v: Tensor  # [all others], the right one

    def _begin(self) -> None:
        for name, n in zip("uv", self.weight.flatten(1).shape, strict=True):
            self.register_buffer(name, torch.full((n,), n**-0.5))

    @torch.no_grad()
    def iterate(self) -> None:
        """Run one power iteration with the present weight."""
        w = self.weight.flatten(1).to(self.u.dtype)
        self.v.copy_(F.normalize(w.t() @ self.u, dim=0))
        self.u.copy_(F.normalize(w @ self.v, dim=0))

    def normalise(self) -> Tensor:
        """Return W / σ, in the weight's dtype and memory format."""
        w = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        # Copies: autograd keeps them, and `iterate` may come before the backward pass.
        u, v = (x.to(w.dtype, copy=True) for x in (self.u, self.v))
        return (w / torch.dot(u, w.flatten(1) @ v)).to(self.weight.dtype)


class SpectralConv(Spectral, Conv):
    """`Conv` with its weight normalised."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        self._begin()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H/2, W/2]."""
        return convolve(x, self.normalise(), self.bias)


class SpectralSame(Spectral, Same):
    """`Same` with its weight normalised."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        self._begin()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H, W]."""
        return F.conv2d(F.pad(x, self.PADDING), self.normalise(), self.bias)


class SpectralLinear(Spectral, nn.Linear):
    """`nn.Linear` with its weight normalised."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        self._begin()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs] to [B, outputs]."""
        return F.linear(x, self.normalise(), self.bias)
