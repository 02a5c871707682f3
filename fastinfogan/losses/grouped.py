"""`plain_loss` in few operations: what the "reference" backend runs eagerly on the CPU.

At InfoGAN's sizes the loss is bound by the dispatch of its operations, some microseconds each. So
neighbouring codes of equal width are taken at once, and the gradient in q is made in the forward
pass from its closed form; backward is one product. Of the NLL, before weights, it is

    categorical     softmax(logits) − onehot(c)
    Bernoulli       sigmoid(x) − c
    mean            (μ − c) / σ²
    log σ²          ½ (1 − (c − μ)² / σ²), 0 outside ±16
    angle           (a, b)·I₁(κ) / (κ I₀(κ)) − (cos c, sin c), κ = ‖(a, b)‖ learned; for κ fixed
                    the part of −(cos c, sin c) / ‖(a, b)‖ across (a, b)
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..latents import Angle, Bernoulli, Categorical, Gaussian, LatentSpec, Uniform
from ..latents.codes import LOG_2PI
from .checks import is_transformed
from .few_codes import is_ordinary
from .reference import (
    LOG_I0_OF_1,
    LOG_VARIANCE_LIMIT,
    Inputs,
    arithmetic_dtype,
    is_soft,
    log_i0,
    n_labelled,
    plain_loss,
)

# Classes below which log_softmax along them is up to an order slower than across the batch:
# the 16 numbers of a vector register (AVX-512, fp32).
VECTOR_WIDTH = 16


class StrayClass(Exception):
    """A class that does not exist among the targets."""


class _Run(NamedTuple):
    """`n` neighbouring codes with equal columns in q."""

    kind: str  # categorical, bernoulli, fixed, learned, angle, learned angle
    n: int
    width: int  # classes of a categorical, dims of a continuous code, 1 of a Bernoulli
    q: slice  # columns of q
    target: slice | None  # columns of their target tensor; None: all that it has


class _Plan(NamedTuple):
    """The layout of a spec as the loss needs it, on the CPU."""

    runs: tuple[_Run, ...]
    sizes: list[int]  # each run's columns in q
    weights: Tensor | None  # [n_codes], the codes' own, where they are not all 1
    owner: Tensor  # int64 [q_dim]: the code of each column of q
    offset: Tensor  # [n_codes]: the constant part of each code's NLL
    zero: Tensor  # scalar
    discrete: Tensor  # int64 [n_cat]: the code of each column of `categorical`


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
        elif isinstance(code, Angle):
            constant, width = LOG_2PI, 1
            if code.concentration == "learned":
                kind = "learned angle"
            else:
                constant += LOG_I0_OF_1
        run = _Run(kind, 1, width, q, target)
        if runs and (runs[-1].kind, runs[-1].width) == (kind, width):
            last = runs.pop()
            assert last.target is not None
            q, target = slice(last.q.start, q.stop), slice(last.target.start, target.stop)
            run = _Run(kind, last.n + 1, width, q, target)
        runs.append(run)
        owner += [i] * code.q_dim
        offset.append(constant)
    for i, run in enumerate(runs):
        columns = spec.n_cat if run.kind in ("categorical", "bernoulli") else spec.n_cont
        if run.target == slice(0, columns):
            runs[i] = run._replace(target=None)
    own = [code.weight for code in spec.codes]
    discrete = [i for i, c in enumerate(spec.codes) if isinstance(c, Categorical | Bernoulli)]
    return _Plan(
        tuple(runs),
        [run.q.stop - run.q.start for run in runs],
        None if all(w == 1 for w in own) else torch.tensor(own, dtype=dtype, device="cpu"),
        torch.tensor(owner, device="cpu"),
        torch.tensor(offset, dtype=dtype, device="cpu"),
        torch.zeros((), dtype=dtype, device="cpu"),
        torch.tensor(discrete, dtype=torch.int64, device="cpu"),
    )


def applies(inputs: Inputs) -> bool:
    """Return whether `grouped_loss` takes these: eager CPU tensors, a gradient in q alone."""
    q, _, categorical, continuous, weights = inputs[:5]
    return (
        not torch.compiler.is_compiling()
        and is_ordinary(q)
        and is_ordinary(categorical)
        and is_ordinary(continuous)
        and not is_soft(inputs)
        and not continuous.requires_grad
        and (inputs.labelled is None or is_ordinary(inputs.labelled))
        and (weights is None or (is_ordinary(weights) and not weights.requires_grad))
        and q.shape[0] > 0
        and not is_transformed()
    )


def grouped_loss(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return (total, NLL per code), as `plain_loss`. Raises StrayClass."""
    q, spec, _, _, _, _, sigma, _ = inputs
    plan = _plan(spec, sigma, arithmetic_dtype(q))
    if q.requires_grad and torch.is_grad_enabled():
        loss = _Loss(inputs, plan)
        return _Grouped.apply(q, loss), loss.per_code
    with torch.no_grad():
        return _forward(inputs, plan, None)


class _Loss:
    """One object to pass through autograd, which takes less time than its parts would."""

    per_code: Tensor

    def __init__(self, inputs: Inputs, plan: _Plan) -> None:
        self.inputs, self.plan = inputs, plan


class _Grouped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, loss: _Loss) -> Tensor:
        _, spec, categorical, continuous, weights, reduction, sigma, labelled = loss.inputs
        gradient: list[Tensor] = []
        total, loss.per_code = _forward(loss.inputs, loss.plan, gradient)
        ctx.save_for_backward(q, categorical, continuous, weights, labelled, *gradient)
        ctx.options = spec, reduction, sigma, loss.plan
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        q, categorical, continuous, weights, labelled, *gradient = ctx.saved_tensors
        spec, reduction, sigma, plan = ctx.options
        if torch.is_grad_enabled():  # to be differentiated again: by the definition
            rest = weights, reduction, sigma, labelled
            inputs = Inputs(q, spec, categorical, continuous, *rest)
            return gradient_of_definition(inputs, grad), None
        dtype = plan.zero.dtype
        if reduction == "mean":
            if labelled is None:
                grad = grad / q.shape[0]
            else:
                grad = (grad / n_labelled(labelled, dtype))[plan.owner]
        elif reduction == "none":
            grad = grad.unsqueeze(1)
        weights = plan.weights if weights is None else weights.to(dtype)
        if weights is not None:
            grad = grad * weights[plan.owner]
        of_nll = gradient[0] if len(gradient) == 1 else torch.cat(gradient, 1)
        if labelled is not None:
            of_nll = torch.where(labelled[:, plan.owner], of_nll, 0.0)
        of_q = of_nll * grad
        if of_q.dtype is not q.dtype or not of_q.is_contiguous():
            # laid out as q commonly is, by one copy: a leaf would else copy it, more slowly, itself
            of_q = of_q.to(q.dtype, memory_format=torch.contiguous_format).contiguous()
        return of_q, None


def gradient_of_definition(inputs: Inputs, grad: Tensor) -> Tensor:
    """Return the definition's gradient by q times `grad`, to be differentiated again.

    By an alias of q: the hooks of q itself are run by the caller's backward pass.
    """
    alias = inputs.q.view_as(inputs.q)
    total, _ = plain_loss(inputs._replace(q=alias))
    return torch.autograd.grad(total, alias, grad, create_graph=True)[0]


def _forward(inputs: Inputs, plan: _Plan, gradient: list[Tensor] | None) -> tuple[Tensor, Tensor]:
    """Compute the loss, and append each run's dNLL/dq [B, columns], unweighted, to `gradient`."""
    q, _, categorical, continuous, weights, reduction, sigma, labelled = inputs
    dtype = plan.zero.dtype
    columns = q if q.dtype is dtype else q.to(dtype)
    classes = categorical if categorical.dtype is torch.int64 else categorical.long()
    values = continuous if continuous.dtype is dtype else continuous.to(dtype)
    if labelled is not None:  # a missing class may lie out of range
        classes = torch.where(labelled[:, plan.discrete], classes, 0)
    runs = plan.runs
    pieces = (columns,) if len(runs) == 1 else columns.split_with_sizes(plan.sizes, 1)
    parts = []
    for x, run in zip(pieces, runs, strict=True):
        discrete = run.kind == "categorical" or run.kind == "bernoulli"
        c = classes if discrete else values
        if run.target is not None:
            c = c[:, run.target]
        if run.kind == "categorical":
            part = _categorical(x, run, c, gradient)
        elif run.kind == "fixed":
            part = _fixed_log_q(x, run, c, sigma, plan.zero, gradient)
        elif run.kind == "learned":
            part = _learned_log_q(x, run, c, gradient)
        elif run.kind == "bernoulli":
            part = _bernoulli(x, c, gradient)
        else:
            part = _angle(x, run, c, gradient)
        parts.append(part)
    log_q = torch.cat(parts, 1) if len(parts) > 1 else parts[0]  # [B, n_codes], less its constants
    if labelled is not None:
        nll = torch.where(labelled, plan.offset - log_q, 0.0)
        sums = nll.sum(0)
        per_code = sums / n_labelled(labelled, dtype)
        weights = plan.weights if weights is None else weights.to(dtype)
        if reduction != "none":
            nll = sums if reduction == "sum" else per_code
        return (nll if weights is None else nll * weights).sum(-1), per_code
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
    """Return log Q [B, n] from logits [B, n·K] and classes [B, n]."""
    narrow = run.width < VECTOR_WIDTH
    if narrow and run.n == 1:  # as below, in fewer operations
        log_p, c = x.t().log_softmax(0), c.t()
        log_q = _pick(log_p, 0, c)
        if gradient is not None:
            gradient.append(log_p.exp_().scatter_(0, c, log_q.expm1()).t())
        return log_q.t()
    x = x.view(-1, run.n, run.width)
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
    """Return log Q [B, n] from logits [B, n] and bits [B, n]."""
    if gradient is not None:
        gradient.append(x.sigmoid().sub_(c))
    return _pick(F.logsigmoid(torch.stack((-x, x), 2)), 2, c.unsqueeze(2)).squeeze(2)


def _fixed_log_q(
    x: Tensor, run: _Run, c: Tensor, sigma: float, zero: Tensor, gradient: list[Tensor] | None
) -> Tensor:
    """Return log Q [B, n], less its constants, from means [B, n·dim] and values [B, n·dim]."""
    error = x - c
    if gradient is not None:
        gradient.append(error if sigma == 1 else error * (1 / sigma**2))
    log_q = torch.addcmul(zero, error, error, value=-0.5 / sigma**2)
    return log_q if run.width == 1 else log_q.view(-1, run.n, run.width).sum(2)


def _learned_log_q(x: Tensor, run: _Run, c: Tensor, gradient: list[Tensor] | None) -> Tensor:
    """Return log Q [B, n], less its constants, from means and log-variances [B, n·2·dim]."""
    mean, raw = x.view(-1, run.n, 2, run.width).unbind(2)
    log_variance = raw.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT)
    error = mean - c.view(-1, run.n, run.width)
    scaled = error * log_variance.neg().exp_()
    squares = scaled * error
    if gradient is not None:
        of_raw = (0.5 - 0.5 * squares).masked_fill_(raw != log_variance, 0.0)
        gradient.append(torch.stack((scaled, of_raw), 2).flatten(1))
    return (log_variance + squares).sum(2).mul_(-0.5)


def _angle(x: Tensor, run: _Run, c: Tensor, gradient: list[Tensor] | None) -> Tensor:
    """Compute log Q [B, n], less its constants, from (a, b) [B, n·2] and angles [B, n]."""
    x = x.view(-1, run.n, 2)
    target = torch.stack((c.cos(), c.sin()), 2)
    square = x.square().sum(2)
    along = (x * target).sum(2)
    if run.kind == "angle":
        inverse = torch.where(square == 0, 1.0, square).rsqrt()
        along = along * inverse
        if gradient is not None:
            across = x * (along * inverse).unsqueeze(2) - target
            gradient.append((across * inverse.unsqueeze(2)).flatten(1))
        return along
    if gradient is not None:
        kappa = square.sqrt()
        ratio = torch.special.i1e(kappa) / (kappa * torch.special.i0e(kappa))
        ratio = torch.where(kappa == 0, 0.5, ratio)
        gradient.append((x * ratio.unsqueeze(2) - target).flatten(1))
    return along - log_i0(square)
