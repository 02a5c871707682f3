"""The information loss as PyTorch would have it written: what every other way is held to.

The negative log-likelihood (NLL) of the codes under Q, per code, in nats:

    categorical     logsumexp(logits) − logits[c]
    Bernoulli       softplus(−x) for c = 1, softplus(x) for c = 0
    continuous      Σ_dims ½ log 2π + log σ + ½ ((c − μ) / σ)²

Differentiable as often as one likes, in q, in the weights and in continuous targets; compiled and
traced as it stands; reads nothing back to the host. Arguments are those of `info_loss`, checked
there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..latents import Angle, Bernoulli, Categorical, Gaussian, LatentSpec, Slot, Uniform
from ..latents.codes import LOG_2PI

LOG_VARIANCE_LIMIT = 16.0


class Inputs(NamedTuple):
    """The arguments of one information loss, checked; `info_loss` documents them."""

    q: Tensor
    spec: LatentSpec
    categorical: Tensor
    continuous: Tensor
    weights: Tensor | None = None
    reduction: str = "mean"
    sigma: float = 1.0


def plain_loss(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return (total, scalar or [B]; NLL per code [n_codes], detached)."""
    q, spec, _, _, weights, reduction, _ = inputs
    nll = plain_nll(inputs)
    batch = max(q.shape[0], 1)
    if weights is None:  # as Python numbers: a tensor made of them here would cost a copy
        total = torch.stack([c.weight * n for c, n in zip(spec.codes, nll, strict=True)]).sum(0)
    else:
        total = (weights.to(nll.dtype).unsqueeze(1) * nll).sum(0)
    if reduction != "none":
        total = total.sum() / (batch if reduction == "mean" else 1)
    return total, nll.detach().sum(1) / batch


def plain_nll(inputs: Inputs) -> Tensor:
    """Return the NLL of each code for each row, [n_codes, B], in fp32 (fp64 for an fp64 q)."""
    q, spec, categorical, continuous, _, _, sigma = inputs
    dtype = arithmetic_dtype(q)
    q, continuous = q.to(dtype), continuous.to(dtype)
    rows = []
    for code, columns, target in layout(spec)[0]:
        x = q[:, columns]
        if isinstance(code, Uniform | Gaussian):
            mean, c = x[:, : code.dim], continuous[:, target]
            if code.sigma == "learned":
                log_variance = x[:, code.dim :].clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
                nll = 0.5 * (LOG_2PI + log_variance + (c - mean).square() * (-log_variance).exp())
            else:
                nll = 0.5 * (LOG_2PI + 2 * math.log(sigma) + ((c - mean) / sigma).square())
            rows.append(nll.sum(1))
            continue
        if isinstance(code, Angle):
            raise NotImplementedError("the information loss of an Angle")
        n = n_classes(code)
        c = categorical[:, target].long()
        # NaN for a class that does not exist, in the loss and, being a factor, in the gradient
        known = torch.where((c >= 0) & (c < n), 1.0, math.nan).to(dtype)
        c = c.clamp(0, n - 1)
        if isinstance(code, Categorical):
            nll = -x.log_softmax(1).gather(1, c)
        else:
            nll = -F.logsigmoid(x * (2 * c - 1))
        rows.append((nll * known).squeeze(1))
    return torch.stack(rows)


def layout(spec: LatentSpec) -> tuple[tuple[Slot, ...], int, int, int]:
    """Return the spec's slots, q_dim, n_cat and n_cont."""
    return spec.slots, spec.q_dim, spec.n_cat, spec.n_cont


def arithmetic_dtype(q: Tensor) -> torch.dtype:
    """fp32, or fp64 for an fp64 q."""
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def n_classes(code: Categorical | Bernoulli) -> int:
    """How many values the code's target may have, from 0."""
    return code.n if isinstance(code, Categorical) else 2
