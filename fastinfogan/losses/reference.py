"""The definition of the information loss in plain PyTorch: every other backend is held to it.

The negative log-likelihood (NLL) of the codes under Q, per code, in nats:

    categorical     logsumexp(logits) − logits[c]; for soft targets p: −Σ p·log softmax(logits)
    Bernoulli       softplus(−x) for c = 1, softplus(x) for c = 0
    continuous      Σ_dims ½ log 2π + log σ + ½ ((c − μ) / σ)²
    angle           log 2π I₀(κ) − κ·cos(c − μ), for the two columns (a, b) = κ·(cos μ, sin μ);
                    with a fixed concentration (a, b) is scaled to κ = 1

Differentiable as often as one likes, in q, in the weights, in soft and in continuous targets;
compiled and traced as it stands; reads nothing back to the host. Arguments are those of
`info_loss`, checked there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..latents import Bernoulli, Categorical, Gaussian, LatentSpec, Uniform
from ..latents.codes import LOG_2PI

LOG_VARIANCE_LIMIT = 16.0
LOG_I0_OF_1 = 0.2359143585071787  # log I₀(1)
# log I₀(√s) = Σ c_k s^k, k from 1 on; the series converges for s < 5.78
_LOG_I0_SERIES = (
    1 / 4,
    -1 / 64,
    1 / 576,
    -11 / 49152,
    19 / 614400,
    -473 / 106168320,
    229 / 346816512,
    -101369 / 1014686023680,
    946523 / 61642175938560,
    -65467219 / 27396522639360000,
    249045899 / 662995847872512000,
)
_SERIES_BELOW = 0.1  # the next term is then below fp64's rounding


class Inputs(NamedTuple):
    """The arguments of one information loss, checked; `info_loss` documents them."""

    q: Tensor
    spec: LatentSpec
    categorical: Tensor  # integers [B, n_cat], or soft rows (`is_soft`)
    continuous: Tensor
    weights: Tensor | None = None
    reduction: str = "mean"
    sigma: float = 1.0
    labelled: Tensor | None = None  # bool [B, n_codes]: False where a code's label is missing


def is_soft(inputs: Inputs) -> bool:
    """Return whether the categorical targets are probabilities."""
    return inputs.categorical.dtype.is_floating_point


def plain_loss(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return (total, scalar or [B]; NLL per code [n_codes], detached)."""
    q, spec, weights, reduction = inputs.q, inputs.spec, inputs.weights, inputs.reduction
    nll = plain_nll(inputs)
    batch = max(q.shape[0], 1)
    if inputs.labelled is not None:
        return _reduce_labelled(inputs, nll, inputs.labelled)
    if weights is None:  # as Python numbers: a tensor made of them here would cost a copy
        total = torch.stack([c.weight * n for c, n in zip(spec.codes, nll, strict=True)]).sum(0)
    else:
        total = (weights.to(nll.dtype).unsqueeze(1) * nll).sum(0)
    if reduction != "none":
        total = total.sum() / (batch if reduction == "mean" else 1)
    return total, nll.detach().sum(1) / batch


def _reduce_labelled(inputs: Inputs, nll: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
    """Reduce `plain_nll`, in which a missing label counts 0, with means over the labelled rows."""
    factor = 1 / n_labelled(labelled, nll.dtype)
    weights = inputs.weights
    if weights is None:
        weighted = torch.stack([c.weight * n for c, n in zip(inputs.spec.codes, nll, strict=True)])
    else:
        weighted = weights.to(nll.dtype).unsqueeze(1) * nll
    if inputs.reduction == "none":
        total = weighted.sum(0)
    else:
        sums = weighted.sum(1)
        total = (sums * factor if inputs.reduction == "mean" else sums).sum()
    return total, nll.detach().sum(1) * factor


def n_labelled(labelled: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the number of labelled rows of each code [n_codes], 1 where there is none."""
    return labelled.sum(0).clamp(min=1).to(dtype)


def plain_nll(inputs: Inputs) -> Tensor:
    """Return the NLL of each code for each row, [n_codes, B], in fp32 (fp64 for an fp64 q)."""
    spec, categorical = inputs.spec, inputs.categorical
    dtype = arithmetic_dtype(inputs.q)
    q, continuous = inputs.q.to(dtype), inputs.continuous.to(dtype)
    soft = soft_columns(spec) if is_soft(inputs) else None
    rows = []
    for i, (code, columns, target) in enumerate(spec.slots):
        x, labelled = q[:, columns], None
        if inputs.labelled is not None:  # zeros in a missing row: no NaN there can spoil a gradient
            labelled = inputs.labelled[:, i]
            x = torch.where(labelled.unsqueeze(1), x, 0.0)
        if not isinstance(code, Categorical | Bernoulli):
            c = continuous[:, target]
            if labelled is not None:
                c = torch.where(labelled.unsqueeze(1), c, 0.0)
            if isinstance(code, Uniform | Gaussian):
                nll = _gaussian_nll(code, x, c, inputs.sigma)
            else:
                nll = _angle_nll(code.concentration == "learned", x, c.squeeze(1))
        elif soft is not None:
            p = categorical[:, soft[i]].to(dtype)
            if labelled is not None:
                p = torch.where(labelled.unsqueeze(1), p, 0.0)
            nll = _soft_nll(code, x, p)
        else:
            c = categorical[:, target].long()
            if labelled is not None:
                c = torch.where(labelled.unsqueeze(1), c, 0)
            nll = _discrete_nll(code, x, c)
        rows.append(nll if labelled is None else torch.where(labelled, nll, 0.0))
    return torch.stack(rows)


def _gaussian_nll(code: Uniform | Gaussian, x: Tensor, c: Tensor, sigma: float) -> Tensor:
    mean = x[:, : code.dim]
    if code.sigma == "learned":
        log_variance = x[:, code.dim :].clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
        nll = 0.5 * (LOG_2PI + log_variance + (c - mean).square() * (-log_variance).exp())
    else:
        nll = 0.5 * (LOG_2PI + 2 * math.log(sigma) + ((c - mean) / sigma).square())
    return nll.sum(1)


def _discrete_nll(code: Categorical | Bernoulli, x: Tensor, c: Tensor) -> Tensor:
    n = n_classes(code)
    # NaN for a class that does not exist, in the loss and, being a factor, in the gradient
    known = torch.where((c >= 0) & (c < n), 1.0, math.nan).to(x.dtype)
    c = c.clamp(0, n - 1)
    if isinstance(code, Categorical):
        nll = -x.log_softmax(1).gather(1, c)
    else:
        nll = -F.logsigmoid(x * (2 * c - 1))
    return (nll * known).squeeze(1)


def _soft_nll(code: Categorical | Bernoulli, x: Tensor, p: Tensor) -> Tensor:
    if isinstance(code, Categorical):
        log_q = x.log_softmax(1)
    else:
        log_q, p = F.logsigmoid(torch.cat((x, -x), 1)), torch.cat((p, 1 - p), 1)
    # 0·(−∞) is 0 here: a class without probability costs nothing
    log_q = torch.where((p == 0) & torch.isinf(log_q), 0.0, log_q)
    return -(p * log_q).sum(1)


def _angle_nll(learned: bool, x: Tensor, angle: Tensor) -> Tensor:
    a, b = x.unbind(1)
    square = a * a + b * b
    along = a * angle.cos() + b * angle.sin()  # ‖(a, b)‖·cos(angle − μ)
    if learned:
        return LOG_2PI + log_i0(square) - along
    # at (0, 0), which has no direction, as though its length were 1: the gradient stays finite
    # and points to the target
    return LOG_2PI + LOG_I0_OF_1 - along * torch.where(square == 0, 1.0, square).rsqrt()


def log_i0(square: Tensor) -> Tensor:
    """Return log I₀(√square), smooth at 0 and without overflow."""
    near = square < _SERIES_BELOW
    root = torch.where(near, 1.0, square).sqrt()
    far = root + torch.special.i0e(root).log()
    s = torch.where(near, square, 0.0)
    series = torch.zeros_like(s)
    for coefficient in reversed(_LOG_I0_SERIES):
        series = (series + coefficient) * s
    return torch.where(near, series, far)


def soft_columns(spec: LatentSpec) -> list[slice]:
    """Return each discrete code's columns in a row of one-hot or soft targets.

    All Categoricals come first, then the Bernoullis' bits; a continuous code has none.
    """
    start, columns = 0, [slice(0, 0)] * len(spec.codes)
    for kind in (Categorical, Bernoulli):
        for i, code in enumerate(spec.codes):
            if isinstance(code, kind):
                columns[i] = slice(start, start := start + code.q_dim)
    return columns


def arithmetic_dtype(q: Tensor) -> torch.dtype:
    """Return fp32, or fp64 for an fp64 q."""
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def n_classes(code: Categorical | Bernoulli) -> int:
    """Return how many values the code's target may have, from 0."""
    return code.n if isinstance(code, Categorical) else 2
