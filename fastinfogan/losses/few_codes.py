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

from ..latents import Categorical, Gaussian, LatentBatch, LatentSpec, Uniform
from ..latents.codes import LOG_2PI
from ..latents.heads import Heads
from .checks import is_transformed

MAX_CODES = 2  # of one tensor q, beyond which the grouped loss has fewer operations
MAX_HEADS = 4  # of heads that are tensors of their own, which the grouped loss would first join
# The class that cross_entropy leaves out, by default -100: a number that no label is, and no
# conversion to int64 gives, as that of NaN gives -2⁶³.
NO_CLASS = -0x5EED_C0DE_0DD5_1DE5
_ORDINARY = (Tensor, nn.Parameter)
_MEAN = 1  # PyTorch's number of the reduction
# F.mse_loss without what it does for shapes that differ
_mse = getattr(torch._C._nn, "mse_loss", lambda x, c, _: F.mse_loss(x, c))


class _Code(NamedTuple):
    """One code, with NLL = offset + scale · mean squared error for a continuous one."""

    width: int  # in q
    column: int | None  # in `categorical`; None for a continuous code
    columns: slice | None  # in `continuous`; None: all of it
    scale: float
    offset: Tensor  # scalar
    weight: float


class _Plan(NamedTuple):
    """The layout of a spec."""

    codes: list[_Code]
    widths: list[int]
    alike: bool  # two continuous codes, which the grouped loss takes at once


@lru_cache(maxsize=256)
def _plan(spec: LatentSpec, sigma: float, dtype: torch.dtype) -> _Plan | None:
    """Return the plan of a spec; None for a spec that is not taken."""
    if len(spec.codes) > MAX_HEADS or not 0 < sigma < math.inf:
        return None
    codes = []
    for code, _, target in spec.slots:
        column, columns, scale, offset = None, None, 1.0, 0.0
        if isinstance(code, Categorical):
            column = target.start
        elif isinstance(code, Uniform | Gaussian) and code.sigma == "fixed":
            columns = None if target == slice(0, spec.n_cont) else target
            scale = 0.5 * code.dim / sigma**2
            offset = code.dim * (0.5 * LOG_2PI + math.log(sigma))
        else:
            return None
        constant = torch.tensor(offset, dtype=dtype, device="cpu")
        codes.append(_Code(code.q_dim, column, columns, scale, constant, code.weight))
    continuous = all(code.column is None for code in codes)
    return _Plan(codes, [code.width for code in codes], len(codes) > 1 and continuous)


def few_codes_loss(
    q: Heads,
    spec: LatentSpec,
    categorical: Tensor | LatentBatch | None,
    continuous: Tensor | None,
    sigma: float,
) -> tuple[Tensor, Tensor] | None:
    """Return (total, NLL per code) as `info_loss` does by default; None if not taken here."""
    if torch.compiler.is_compiling() or is_transformed():
        return None
    if isinstance(categorical, LatentBatch):
        if continuous is not None:
            return None
        _, categorical, continuous = categorical
    if type(spec) is not LatentSpec or type(sigma) is not float:
        return None
    joined = isinstance(q, Tensor)
    pieces: Sequence[object] = ()
    if joined:
        pieces = (q,)
    elif type(q) is list:
        pieces = q
    elif type(q) is dict and len(q) == len(spec.codes):
        pieces = [q.get(name) for name in spec.names]
    first = pieces[0] if pieces else None
    if not is_ordinary(first) or first.ndim != 2:
        return None
    dtype, batch = first.dtype, first.shape[0]
    if not batch or dtype not in (torch.float32, torch.float64):
        return None
    plan = _plan(spec, sigma, dtype)
    if plan is None or not (
        _fits(categorical, batch, spec.n_cat, torch.int64)
        and _fits(continuous, batch, spec.n_cont, dtype)
    ):
        return None
    if joined:
        if len(plan.codes) > MAX_CODES or plan.alike or first.shape[1] != spec.q_dim:
            return None
        if len(plan.codes) > 1:
            pieces = first.split_with_sizes(plan.widths, 1)
    elif len(pieces) != len(plan.codes):
        return None
    values, total = [], None
    for x, (width, column, columns, scale, offset, weight) in zip(pieces, plan.codes, strict=True):
        if not (is_ordinary(x) and x.shape == (batch, width) and x.dtype is dtype):
            return None
        if column is not None:
            assert categorical is not None
            try:
                value = F.cross_entropy(x, categorical[:, column], ignore_index=NO_CLASS)
            except IndexError:  # a class that does not exist
                return None
        else:
            assert continuous is not None
            c = continuous if columns is None else continuous[:, columns]
            value = torch.add(offset, _mse(x, c, _MEAN), alpha=scale)
        values.append(value.detach())
        if total is None:
            total = value if weight == 1 else value * weight
        elif weight == 1:
            total = total + value
        else:
            total = torch.add(total, value, alpha=weight)
    assert total is not None
    return total, values[0].view(1) if len(values) == 1 else torch.stack(values)


def is_ordinary(x: object) -> TypeGuard[Tensor]:
    """Return True for a CPU tensor that is no subclass, such as a fake tensor.

    An inference tensor is none either: it cannot be saved for a derivative.
    """
    return isinstance(x, Tensor) and type(x) in _ORDINARY and x.is_cpu and not x.is_inference()


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
