"""`plain_loss` in few operations: what the "reference" backend runs eagerly on the CPU.

At InfoGAN's sizes the loss is bound by the dispatch of its operations, some microseconds each. So
neighbouring codes of equal width are taken at once, and the gradient in q is made in the forward
pass from its closed form; backward is one product. Of the NLL, before weights, it is

    categorical     softmax(logits) − onehot(c)
    Bernoulli       sigmoid(x) − c
    mean            (μ − c) / σ²
    log σ²          ½ (1 − (c − μ)² / σ²), 0 outside ±16
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..latents import Gaussian, LatentSpec, Uniform
from ..latents.codes import LOG_2PI
from .reference import LOG_VARIANCE_LIMIT, Inputs, arithmetic_dtype, plain_loss

# Classes below which log_softmax along them is up to an order slower than across the batch:
# the 16 numbers of a vector register (AVX-512, fp32).
NARROW = 16


class StrayClass(Exception):
    """A class that does not exist among the targets."""


class _Run(NamedTuple):
    """`n` neighbouring codes with equal columns in q."""

    kind: str  # categorical, bernoulli, fixed, learned
    n: int
    width: int  # classes of a categorical, dims of a continuous code, 1 of a Bernoulli
    q: slice  # columns of q
    target: slice  # columns of their target tensor


class _Plan(NamedTuple):
    """What the loss needs to know of a spec, on the CPU."""

    runs: tuple[_Run, ...]
    weights: Tensor | None  # [n_codes], the codes' own, where they are not all 1
    owner: Tensor  # int64 [q_dim]: the code of each column of q
    offset: Tensor  # [n_codes]: the constant part of each code's NLL
    zero: Tensor  # scalar


@lru_cache(maxsize=256)
def _plan(spec: LatentSpec, sigma: float, dtype: torch.dtype) -> _Plan:
    runs: list[_Run] = []
    owner, offset = [], []
    for i, (code, q, target) in enumerate(spec.slots):
        kind, width, constant = code.kind, code.q_dim, 0.0
        if isinstance(code, Uniform | Gaussian):
            kind, width = code.sigma, code.dim
            constant = width * 0.5 * LOG_2PI
            if kind == "fixed":
                constant += width * math.log(sigma)
        run = _Run(kind, 1, width, q, target)
        if runs and (runs[-1].kind, runs[-1].width) == (kind, width):
            last = runs.pop()
            q, target = slice(last.q.start, q.stop), slice(last.target.start, target.stop)
            run = _Run(kind, last.n + 1, width, q, target)
        runs.append(run)
        owner += [i] * code.q_dim
        offset.append(constant)
    own = [code.weight for code in spec.codes]
    return _Plan(
        tuple(runs),
        None if all(w == 1 for w in own) else torch.tensor(own, dtype=dtype, device="cpu"),
        torch.tensor(owner, device="cpu"),
        torch.tensor(offset, dtype=dtype, device="cpu"),
        torch.zeros((), dtype=dtype, device="cpu"),
    )


def applies(inputs: Inputs) -> bool:
    """Return whether `grouped_loss` takes these: eager CPU tensors, a gradient in q alone."""
    q, _, categorical, continuous, weights, _, _ = inputs
    return (
        not torch.compiler.is_compiling()
        and _is_ordinary(q)
        and _is_ordinary(categorical)
        and _is_ordinary(continuous)
        and not continuous.requires_grad
        and (weights is None or (_is_ordinary(weights) and not weights.requires_grad))
        and q.shape[0] > 0
        and not torch._C._are_functorch_transforms_active()
    )


def _is_ordinary(t: Tensor) -> bool:
    # no subclass, such as a fake tensor; an inference tensor cannot be saved for a derivative
    return t.is_cpu and type(t) in (Tensor, nn.Parameter) and not t.is_inference()


def grouped_loss(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return (total, NLL per code), as `plain_loss`. Raises StrayClass."""
    if inputs.q.requires_grad and torch.is_grad_enabled():
        return _Grouped.apply(*inputs)
    with torch.no_grad():
        return _forward(inputs, None)


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        inputs = Inputs(*args)
        gradient: list[Tensor] = []
        total, per_code = _forward(inputs, gradient)
        ctx.spec, ctx.options = inputs.spec, (inputs.reduction, inputs.sigma)
        ctx.save_for_backward(
            inputs.q, inputs.categorical, inputs.continuous, inputs.weights, *gradient
        )
        ctx.mark_non_differentiable(per_code)
        ctx.set_materialize_grads(False)
        return total, per_code

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 7
        q, categorical, continuous, weights, *gradient = ctx.saved_tensors
        reduction, sigma = ctx.options
        if torch.is_grad_enabled():  # to be differentiated again: by the definition
            inputs = Inputs(q, ctx.spec, categorical, continuous, weights, *ctx.options)
            (of_q,) = torch.autograd.grad(plain_loss(inputs)[0], q, grad, create_graph=True)
            return of_q, None, None, None, None, None, None
        dtype = arithmetic_dtype(q)
        plan = _plan(ctx.spec, sigma, dtype)
        if reduction == "mean":
            grad = grad / q.shape[0]
        elif reduction == "none":
            grad = grad.unsqueeze(1)
        weights = plan.weights if weights is None else weights.to(dtype)
        if weights is not None:
            grad = grad * weights[plan.owner]
        of_nll = gradient[0] if len(gradient) == 1 else torch.cat(gradient, 1)
        # laid out as q commonly is, by one copy: a leaf would else copy it, more slowly, itself
        of_q = (of_nll * grad).to(q.dtype, memory_format=torch.contiguous_format).contiguous()
        return of_q, None, None, None, None, None, None


def _forward(inputs: Inputs, gradient: list[Tensor] | None) -> tuple[Tensor, Tensor]:
    """Compute the loss, and append each run's dNLL/dq [B, columns], unweighted, to `gradient`."""
    q, spec, categorical, continuous, weights, reduction, sigma = inputs
    dtype = arithmetic_dtype(q)
    plan = _plan(spec, sigma, dtype)
    columns = q if q.dtype is dtype else q.to(dtype)
    classes = categorical if categorical.dtype is torch.int64 else categorical.long()
    values = continuous if continuous.dtype is dtype else continuous.to(dtype)
    parts = []
    for run in plan.runs:
        x = columns if len(plan.runs) == 1 else columns[:, run.q]
        if run.kind == "categorical":
            part = _categorical(x, run, classes[:, run.target], gradient)
        elif run.kind == "bernoulli":
            part = _bernoulli(x, classes[:, run.target], gradient)
        elif run.kind == "learned":
            part = _learned(x, run, values[:, run.target], gradient)
        else:
            part = _fixed(x, run, values[:, run.target], sigma, plan.zero, gradient)
        parts.append(part)
    log_q = torch.cat(parts, 1) if len(parts) > 1 else parts[0]  # [B, n_codes], less its constants
    per_code = plan.offset - log_q.mean(0)
    nll = plan.offset - log_q if reduction == "none" else per_code
    weights = plan.weights if weights is None else weights.to(dtype)
    if weights is not None:
        nll = nll * weights
    total = nll.sum(-1)
    return total * q.shape[0] if reduction == "sum" else total, per_code


def _pick(log_p: Tensor, dim: int, c: Tensor) -> Tensor:
    try:
        return log_p.gather(dim, c)
    except (IndexError, RuntimeError) as error:
        raise StrayClass(str(error)) from error


def _categorical(x: Tensor, run: _Run, c: Tensor, gradient: list[Tensor] | None) -> Tensor:
    """log Q [B, n] from logits [B, n·K] and classes [B, n]."""
    x = x.view(-1, run.n, run.width)
    narrow = run.width < NARROW
    if narrow:  # [n, K, B]; the copy that this takes costs less than it saves
        x, c, dim = x.permute(1, 2, 0), c.t().unsqueeze(1), 1
    else:
        c, dim = c.unsqueeze(2), 2
    log_p = x.log_softmax(dim)
    log_q = _pick(log_p, dim, c)
    if gradient is not None:
        of_x = log_p.exp_().scatter_(dim, c, log_q.expm1())
        gradient.append(of_x.flatten(0, 1).t() if narrow else of_x.flatten(1, 2))
    return log_q.squeeze(dim).t() if narrow else log_q.squeeze(dim)


def _bernoulli(x: Tensor, c: Tensor, gradient: list[Tensor] | None) -> Tensor:
    """log Q [B, n] from logits [B, n] and bits [B, n]."""
    if gradient is not None:
        gradient.append(x.sigmoid().sub_(c))
    return _pick(F.logsigmoid(torch.stack((-x, x), 2)), 2, c.unsqueeze(2)).squeeze(2)


def _fixed(
    x: Tensor, run: _Run, c: Tensor, sigma: float, zero: Tensor, gradient: list[Tensor] | None
) -> Tensor:
    """log Q [B, n], less its constants, from means [B, n·dim] and values [B, n·dim]."""
    error = x - c
    if gradient is not None:
        gradient.append(error if sigma == 1 else error * (1 / sigma**2))
    log_q = torch.addcmul(zero, error, error, value=-0.5 / sigma**2)
    return log_q if run.width == 1 else log_q.view(-1, run.n, run.width).sum(2)


def _learned(x: Tensor, run: _Run, c: Tensor, gradient: list[Tensor] | None) -> Tensor:
    """log Q [B, n], less its constants, from means and log-variances [B, n·2·dim]."""
    mean, raw = x.view(-1, run.n, 2, run.width).unbind(2)
    log_variance = raw.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
    error = mean - c.view(-1, run.n, run.width)
    scaled = error * log_variance.neg().exp_()
    squares = scaled * error
    if gradient is not None:
        of_raw = (0.5 - 0.5 * squares).masked_fill_(raw != log_variance, 0.0)
        gradient.append(torch.stack((scaled, of_raw), 2).flatten(1))
    return (log_variance + squares).sum(2).mul_(-0.5)
