"""Random specs, and random problems for them: what the property tests draw from."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from fastinfogan.latents import Angle, Bernoulli, Categorical, Gaussian, LatentSpec, Uniform

# Few examples, no deadline: the tests share two cores with whatever else runs there.
modest = settings(max_examples=30, deadline=None)

seeds = st.integers(0, 2**64 - 1)


def _numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, width=32)


# silent, its own, or any: none so small that products with it are subnormal
_weights = st.sampled_from([0.0, 1.0]) | _numbers(2.0**-10, 16)
_sigmas = st.sampled_from(["fixed", "learned"])

categoricals = st.builds(Categorical, n=st.integers(2, 12), weight=_weights)
bernoullis = st.builds(Bernoulli, p=_numbers(0.015625, 0.984375), weight=_weights)
uniforms = st.builds(
    lambda low, width, **rest: Uniform(low, low + width, **rest),
    _numbers(-4, 4),
    _numbers(0.125, 8),
    dim=st.integers(1, 4),
    sigma=_sigmas,
    weight=_weights,
)
gaussians = st.builds(
    Gaussian,
    mean=_numbers(-4, 4),
    std=_numbers(0.125, 4),
    dim=st.integers(1, 4),
    sigma=_sigmas,
    weight=_weights,
)
codes = categoricals | bernoullis | uniforms | gaussians
specs = st.builds(
    LatentSpec,
    noise=st.integers(0, 9),
    codes=st.lists(codes, min_size=1, max_size=6).map(tuple),
)

# the same, with every prior and kind of code that there is
priors = st.builds(
    lambda counts, weight: Categorical(
        len(counts), probs=[c / sum(counts) for c in counts], weight=weight
    ),
    st.lists(st.integers(0, 9), min_size=2, max_size=12).filter(any),
    _weights,
)
angles = st.builds(Angle, concentration=_sigmas, weight=_weights)


def _named(spec: LatentSpec, named: list[bool]) -> LatentSpec:
    """Give names of their own to the codes for which `named` holds True."""
    codes = [
        dataclasses.replace(code, name=f"name_{i}") if own else code
        for i, (code, own) in enumerate(zip(spec.codes, named, strict=False))
    ]
    return LatentSpec(spec.noise, (*codes, *spec.codes[len(codes) :]))


all_specs = st.builds(
    _named,
    st.builds(
        LatentSpec,
        noise=st.integers(0, 9),
        codes=st.lists(codes | priors | angles, min_size=1, max_size=6).map(tuple),
    ),
    st.lists(st.booleans(), max_size=6),
)


class Problem(NamedTuple):
    """The arguments of `info_loss` for one batch."""

    q: Tensor
    spec: LatentSpec
    categorical: Tensor
    continuous: Tensor


def problem(
    spec: LatentSpec,
    batch: int = 8,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    spread: float = 2.0,
) -> Problem:
    """Return targets from the prior and a q ~ N(0, spread²) in `dtype` that has a gradient."""
    latents = spec.sample(batch, seed=seed)
    generator = torch.Generator().manual_seed(seed % 2**63)
    q = spread * torch.randn(batch, spec.q_dim, generator=generator, dtype=torch.float64)
    return Problem(q.to(dtype).requires_grad_(), spec, latents.categorical, latents.continuous)
