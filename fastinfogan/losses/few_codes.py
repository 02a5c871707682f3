"""`plain_loss` of a few codes, by PyTorch's own losses: the shortest way on a CPU.

At InfoGAN's sizes the loss takes what its operations take to dispatch, some microseconds each. For
a few codes, one cross entropy and one mean squared error per code are fewer operations than the
grouped loss has, and autograd's own derivatives of them cost less than a Python function's.

Only the plain case is taken here; `few_codes_loss` returns None for all else, and for whatever the
checks of the arguments would refuse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..latents import Categorical, Gaussian, LatentBatch, LatentSpec, Uniform
from ..latents.codes import LOG_2PI
from ..latents.heads import Heads

MAX_CODES = 2  # of one tensor q, beyond which the grouped loss has fewer operations
MAX_HEADS = 4  # of heads that are tensors of their own, which the grouped loss would first join
NO_CLASS = -(2**63)  # for nll_loss, which by default leaves out the class -100
_ORDINARY = (Tensor, nn.Parameter)


class _Plan(NamedTuple):
    """The layout of a spec, and NLL = offset + scale · mean squared error."""

    widths: list[int]  # of each code in q
    columns: list[int | None]  # of each code in `categorical`; None for a continuous code
    slices: list[slice | None]  # of each code in `continuous`; None: all of it
    scales: list[float]
    offsets: list[Tensor]  # scalars
    weights: list[float]
    alike: bool  # two continuous codes, which the grouped loss takes at once


@lru_cache(maxsize=256)
def _plan(spec: LatentSpec, sigma: float, dtype: torch.dtype) -> _Plan | None:
    """Return the plan of a spec; None for a spec that is not taken."""
    if len(spec.codes) > MAX_HEADS or not 0 < sigma < math.inf:
        return None
    columns: list[int | None] = []
    slices: list[slice | None] = []
    scales, offsets = [], []
    for code, _, target in spec.slots:
        if isinstance(code, Categorical):
            columns.append(target.start)
            slices.append(None)
            scales.append(1.0)
            offsets.append(0.0)
        elif isinstance(code, Uniform | Gaussian) and code.sigma == "fixed":
            columns.append(None)
            slices.append(None if target == slice(0, spec.n_cont) else target)
            scales.append(0.5 * code.dim / sigma**2)
            offsets.append(code.dim * (0.5 * LOG_2PI + math.log(sigma)))
        else:
            return None
    return _Plan(
        [code.q_dim for code in spec.codes],
        columns,
        slices,
        scales,
        [torch.tensor(offset, dtype=dtype, device="cpu") for offset in offsets],
        [code.weight for code in spec.codes],
        len(columns) > 1 and not any(column is not None for column in columns),
    )


def few_codes_loss(
    q: Heads,
    spec: LatentSpec,
    categorical: Tensor | LatentBatch | None,
    continuous: Tensor | None,
    sigma: float,
) -> tuple[Tensor, Tensor] | None:
    """Return (total, NLL per code) as `info_loss` does by default; None if not taken here."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return None
    if forward_ad._current_level >= 0:
        return None
    if isinstance(categorical, LatentBatch):
        if continuous is not None:
            return None
        _, categorical, continuous = categorical
    if type(spec) is not LatentSpec or type(sigma) is not float:
        return None
    joined = isinstance(q, Tensor)
    heads: Sequence[object] = ()
    if joined:
        heads = (q,)
    elif type(q) is list:
        heads = q
    elif type(q) is dict and len(q) == len(spec.codes):
        heads = [q.get(name) for name in spec.names]
    if not heads:
        return None
    first = heads[0]
    if not is_ordinary(first) or first.dtype not in (torch.float32, torch.float64):
        return None
    plan = _plan(spec, sigma, first.dtype)
    if plan is None or (joined and (len(plan.widths) > MAX_CODES or plan.alike)):
        return None
    batch = first.shape[0] if first.ndim else 0
    if not (
        batch
        and (first.shape == (batch, spec.q_dim) if joined else _fit(heads, plan.widths, first))
        and _fits(categorical, batch, spec.n_cat, torch.int64)
        and _fits(continuous, batch, spec.n_cont, first.dtype)
    ):
        return None
    pieces: Sequence[Tensor] = heads  # type: ignore[assignment]  # by `_fit`
    if joined and len(plan.widths) > 1:
        pieces = first.split_with_sizes(plan.widths, 1)
    values = []
    for x, column, at, scale, offset in zip(
        pieces, plan.columns, plan.slices, plan.scales, plan.offsets, strict=True
    ):
        if column is not None:
            assert categorical is not None
            log_p = x.log_softmax(1)
            try:
                value = F.nll_loss(log_p, categorical[:, column], ignore_index=NO_CLASS)
            except IndexError:  # a class that does not exist
                return None
        else:
            assert continuous is not None
            c = continuous if at is None else continuous[:, at]
            value = torch.add(offset, F.mse_loss(x, c), alpha=scale)
        values.append(value)
    total = None
    for value, weight in zip(values, plan.weights, strict=True):
        if total is None:
            total = value if weight == 1 else value * weight
        else:
            total = torch.add(total, value, alpha=weight)
    assert total is not None
    if len(values) == 1:
        return total, values[0].detach().view(1)
    return total, torch.stack([value.detach() for value in values])


def is_ordinary(x: object) -> TypeGuard[Tensor]:
    """Return True for a CPU tensor that is no subclass, such as a fake tensor.

    An inference tensor is none either: it cannot be saved for a derivative.
    """
    return isinstance(x, Tensor) and type(x) in _ORDINARY and x.is_cpu and not x.is_inference()


def _fit(heads: Sequence[object], widths: list[int], first: Tensor) -> bool:
    """Return True if heads are ordinary tensors [batch, width] of one dtype."""
    batch, dtype = first.shape[0], first.dtype
    return len(heads) == len(widths) and all(
        is_ordinary(x) and x.dtype is dtype and x.shape == (batch, width)
        for x, width in zip(heads, widths, strict=True)
    )


def _fits(targets: Tensor | None, batch: int, columns: int, dtype: torch.dtype) -> bool:
    """Return True if targets are an ordinary tensor [batch, columns] without a gradient."""
    if targets is None:
        return not columns
    return (
        is_ordinary(targets)
        and targets.shape == (batch, columns)
        and (targets.dtype is dtype or not columns)
        and not targets.requires_grad
    )
