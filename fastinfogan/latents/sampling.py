"""Draws of a spec's codes: from addressed 32-bit words, or from a torch generator.

Neighbouring codes with equal priors are one run, drawn and laid out at once: at InfoGAN's sizes a
draw costs what its operators cost to dispatch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import philox
from .codes import PI, Angle, Bernoulli, Categorical, Code, Gaussian, Uniform


class Run(NamedTuple):
    """Neighbouring codes that differ in name, weight and σ at most."""

    code: Code  # the first of them
    n_codes: int  # codes; of Uniforms, dims
    width: int  # columns in their target tensor
    words: int  # columns of words
    discrete: bool  # their target tensor: `categorical`, else `continuous`


def make_runs(codes: Sequence[Code]) -> tuple[Run, ...]:
    """Return the runs of a spec's codes, in order."""
    runs: list[Run] = []
    for code in codes:
        discrete = isinstance(code, Categorical | Bernoulli)
        n_codes = code.dim if isinstance(code, Uniform) else 1
        words = even(code.dim) if isinstance(code, Gaussian) else code.dim
        run = Run(code, n_codes, code.dim, words, discrete)
        if runs and _prior(runs[-1].code) == _prior(code):
            last = runs.pop()
            run = Run(
                last.code,
                last.n_codes + n_codes,
                last.width + code.dim,
                last.words + words,
                discrete,
            )
        runs.append(run)
    return tuple(runs)


def _prior(code: Code) -> tuple[object, ...]:
    """Return what determines a code's draws, its dims aside where they are drawn alike."""
    match code:
        case Categorical():
            return code.kind, code.n, code.probs
        case Bernoulli():
            return code.kind, code.p
        case Uniform():
            return code.kind, code.low, code.high
        case Gaussian():
            return code.kind, code.mean, code.std, code.dim
        case Angle():
            return (code.kind,)


def even(n: int) -> int:
    """Return n, or n + 1 where n is odd."""
    return n + n % 2


def from_words(run: Run, words: Tensor) -> Tensor:
    """Return the targets [B, run.width] that 32-bit words [B, run.words] draw."""
    match run.code:
        case Categorical(n=n, probs=None):
            return philox.below(words, n)
        case Categorical() as code:
            return philox.choose(words, code.thresholds())
        case Bernoulli() as code:
            return (words < code.threshold()).long()
        case Uniform(low=low, high=high):
            return _affine(philox.uniform(words), high - low, low)
        case Angle():
            return _affine(philox.uniform(words), 2 * PI, -PI)
        case Gaussian(mean=mean, std=std, dim=dim):
            normals = philox.normal(words)
            if dim % 2:  # each code's last word belongs to nothing
                normals = normals.unflatten(1, (run.n_codes, dim + 1))[:, :, :dim].flatten(1)
            return _affine(normals, std, mean)


def _affine(values: Tensor, scale: float, shift: float) -> Tensor:
    """Return values·scale + shift, fp32, both operations rounded.

    A GPU's compiler fuses an fp32 product with its sum, which rounds once: near 0 the sum is then
    off by more than the contract of `LatentSpec.sample`. So a compiled draw multiplies in fp64,
    where the product of two fp32 numbers is exact, and converts it to fp32 before the sum.
    """
    if not torch.compiler.is_compiling():
        return values * scale + shift
    return (values.double() * values.new_full((), scale).double()).float() + shift


def from_generator(
    run: Run,
    batch: int,
    device: torch.device | str | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Return targets [batch, run.width] drawn from the generator, the device's own by default."""
    shape = batch, run.width
    match run.code:
        case Categorical(n=n, probs=None):
            return torch.randint(n, shape, generator=generator, device=device)
        case Categorical() as code:
            words = torch.randint(2**32, shape, generator=generator, device=device)
            return philox.choose(words, code.thresholds())
        case Bernoulli(p=p):
            bits = torch.empty(shape, dtype=torch.int64, device=device)
            return bits.bernoulli_(p, generator=generator)
    values = torch.empty(shape, dtype=torch.float32, device=device)
    match run.code:
        case Uniform(low=low, high=high):
            return values.uniform_(low, high, generator=generator)
        case Gaussian(mean=mean, std=std):
            return values.normal_(mean, std, generator=generator)
    return values.uniform_(-PI, PI, generator=generator)


def to_input(run: Run, targets: Tensor) -> Tensor:
    """Return a run's columns of G's input, fp32, from its targets [B, run.width]."""
    match run.code:
        case Categorical(n=n):
            classes = torch.arange(n, device=targets.device)
            return (targets.unsqueeze(2) == classes).float().flatten(1)
        case Bernoulli():
            return targets.float()
        case Angle():
            return torch.stack((targets.cos(), targets.sin()), 2).flatten(1)
    return targets
