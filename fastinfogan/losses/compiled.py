"""`plain_loss` under `torch.compile`, its gradient with it: one compiled callable a layout.

The batch size is dynamic, so that another one does not recompile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from ..latents import LatentSpec
from .reference import Inputs, arithmetic_dtype, plain_loss

COMPILER = "inductor"  # what torch.compile hands the graph to


def compiled_loss(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return (total, NLL per code), as `plain_loss`. A layout's first call compiles: seconds."""
    q, spec, categorical, continuous, weights, reduction, sigma = inputs
    differentiated = torch.is_grad_enabled() and q.requires_grad
    others = continuous.requires_grad or (weights is not None and weights.requires_grad)
    # Within a compiled caller the definition is a part of its graph. A batch of none or one would
    # be compiled for that size alone; gradients of weights and targets are not made here.
    if torch.compiler.is_compiling() or q.shape[0] < 2 or (others and torch.is_grad_enabled()):
        return plain_loss(inputs)
    if differentiated:
        return _Compiled.apply(*inputs)
    run = _callable(spec, reduction, sigma, weights is None, q.dtype, False)
    total, per_code = run(q, categorical, continuous, weights)
    return total, per_code


class _Compiled(torch.autograd.Function):
    """The gradient is made in the forward pass; a second derivative is the definition's."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        q, spec, categorical, continuous, weights, reduction, sigma = args
        run = _callable(spec, reduction, sigma, weights is None, q.dtype, True)
        total, per_code, of_q = run(q, categorical, continuous, weights)
        ctx.spec, ctx.options = spec, (reduction, sigma)
        ctx.save_for_backward(q, categorical, continuous, weights, of_q)
        ctx.mark_non_differentiable(per_code)
        return total, per_code

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        q, categorical, continuous, weights, of_q = ctx.saved_tensors
        if torch.is_grad_enabled():
            total, _ = plain_loss(
                Inputs(q, ctx.spec, categorical, continuous, weights, *ctx.options)
            )
            (of_q,) = torch.autograd.grad(total, q, grad, create_graph=True)
        else:
            of_q = (of_q * (grad.unsqueeze(1) if grad.ndim else grad)).to(q.dtype)
        return (of_q, *[None] * 6)


@lru_cache(maxsize=128)
def _callable(
    spec: LatentSpec,
    reduction: str,
    sigma: float,
    own_weights: bool,
    dtype: torch.dtype,
    differentiated: bool,
) -> Callable[..., tuple[Tensor, ...]]:
    """The compiled loss of a layout and, where asked for, its gradient by q in fp32 or fp64.

    `own_weights` and `dtype` are what else would make it compile anew.
    """

    def loss(
        q: Tensor, categorical: Tensor, continuous: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, ...]:
        def summed(q: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            inputs = Inputs(q, spec, categorical, continuous, weights, reduction, sigma)
            out = plain_loss(inputs)
            return out[0].sum(), out  # rows do not depend on one another

        q = q.to(arithmetic_dtype(q))
        if not differentiated:
            return summed(q)[1]
        of_q, out = torch.func.grad(summed, has_aux=True)(q)
        return (*out, of_q)

    # torch.compile counts recompiles, of which it allows 8, a code object: each has its own
    own = FunctionType(loss.__code__.replace(), globals(), "loss", None, loss.__closure__)
    compiled = torch.compile(own, fullgraph=True, dynamic=True, backend=COMPILER)

    def without_graph(*args: Tensor | None) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return compiled(*args)

    return without_graph
