"""A spec in the terms of `fastinfogan_kernels`, which is imported here, when first used."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .latents import Bernoulli, Categorical, LatentSpec

if TYPE_CHECKING:
    from fastinfogan_kernels import Layout


def _build(spec: LatentSpec) -> Layout:
    from fastinfogan_kernels import make_layout

    codes = []
    for code in spec.codes:
        if isinstance(code, Categorical):
            codes.append(("categorical", code.n))
        elif isinstance(code, Bernoulli):
            codes.append(("bernoulli", 1))
        else:
            codes.append((code.sigma, code.dim))
    return make_layout(codes)


def _weights(spec: LatentSpec, device: torch.device) -> Tensor:
    return torch.tensor([code.weight for code in spec.codes], dtype=torch.float32, device=device)


_cached_layout = lru_cache(maxsize=256)(_build)
_cached_weights = lru_cache(maxsize=256)(_weights)


def layout_of(spec: LatentSpec) -> Layout:
    """How the spec's codes lie in q."""
    return _build(spec) if torch.compiler.is_compiling() else _cached_layout(spec)


def own_weights(spec: LatentSpec, device: torch.device) -> Tensor:
    """The codes' own weights, fp32 [n_codes] on the device, copied there once."""
    return (
        _weights(spec, device) if torch.compiler.is_compiling() else _cached_weights(spec, device)
    )
