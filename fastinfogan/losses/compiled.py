"""`plain_loss` under `torch.compile`, its gradient with it: one compiled callable per layout.

The batch size is dynamic, so that another one does not recompile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from ..latents import LatentSpec
from .grouped import gradient_of_definition
from .reference import Inputs, arithmetic_dtype, is_soft, plain_loss

COMPILER = "inductor"  # what torch.compile hands the graph to


def compiled_loss(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return (total, NLL per code), as `plain_loss`. A layout's first call compiles: seconds."""
    q, continuous, weights = inputs.q, inputs.continuous, inputs.weights
    differentiated = torch.is_grad_enabled() and q.requires_grad
    others = continuous.requires_grad or (weights is not None and weights.requires_grad)
    # Within a compiled caller the definition is a part of its graph. A batch of none or one would
    # be compiled for that size alone; gradients of weights and targets are not made here.
    if (
        torch.compiler.is_compiling()
        or q.shape[0] < 2
        or is_soft(inputs)
        or (others and torch.is_grad_enabled())
    ):
        return plain_loss(inputs)
    if differentiated:
        return _Compiled.apply(*inputs)
    total, per_code = _run(inputs, differentiated=False)
    return total, per_code


class _Compiled(torch.autograd.Function):
    """The gradient is made in the forward pass; a second derivative is the definition's."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        inputs = Inputs(*args)
        total, per_code, of_q = _run(inputs, differentiated=True)
        q, ctx.spec, categorical, continuous, weights, ctx.reduction, ctx.sigma, labelled = inputs
        ctx.save_for_backward(q, categorical, continuous, weights, labelled, of_q)
        ctx.mark_non_differentiable(per_code)
        return total, per_code

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        q, categorical, continuous, weights, labelled, of_q = ctx.saved_tensors
        if torch.is_grad_enabled():
            rest = ctx.reduction, ctx.sigma, labelled
            inputs = Inputs(q, ctx.spec, categorical, continuous, weights, *rest)
            of_q = gradient_of_definition(inputs, grad)
        else:
            of_q = (of_q * (grad.unsqueeze(1) if grad.ndim else grad)).to(q.dtype)
        return (of_q, *[None] * (len(Inputs._fields) - 1))


def _run(inputs: Inputs, differentiated: bool) -> tuple[Tensor, ...]:
    """Call the compiled loss, with targets and weights of one dtype each: another would recompile.

    Where torch.compile refuses all the same, as it does after too many recompilations, the
    definition is computed as it stands.
    """
    q, spec, categorical, continuous, weights, reduction, sigma, labelled = inputs
    dtype = arithmetic_dtype(q)
    tensors = (
        categorical.long(),
        continuous.to(dtype),
        None if weights is None else weights.detach().to(dtype),
        labelled,
    )
    run = _callable(
        spec, reduction, sigma, weights is None, labelled is None, q.dtype, differentiated
    )
    with torch.no_grad():
        try:
            return run(q.detach(), *tensors)
        except Exception as error:  # its class is not to be had without importing the compiler
            if type(error).__name__ != "FailOnRecompileLimitHit":
                raise
            return run.__wrapped__(q.detach(), *tensors)  # type: ignore[attr-defined]


@lru_cache(maxsize=128)
def _callable(
    spec: LatentSpec,
    reduction: str,
    sigma: float,
    own_weights: bool,
    all_labelled: bool,
    dtype: torch.dtype,
    differentiated: bool,
) -> Callable[..., tuple[Tensor, ...]]:
    """Return the compiled loss of a layout and, if asked for, its gradient by q in fp32 or fp64.

    The three arguments before the last would otherwise make it compile anew.
    """

    def loss(
        q: Tensor,
        categorical: Tensor,
        continuous: Tensor,
        weights: Tensor | None,
        labelled: Tensor | None,
    ) -> tuple[Tensor, ...]:
        def summed(q: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            out = plain_loss(
                Inputs(q, spec, categorical, continuous, weights, reduction, sigma, labelled)
            )
            return out[0].sum(), out  # rows do not depend on one another

        q = q.to(arithmetic_dtype(q))
        if not differentiated:
            return summed(q)[1]
        of_q, out = torch.func.grad(summed, has_aux=True)(q)
        return (*out, of_q)

    # torch.compile counts recompiles, of which it allows 8, per code object: each has its own
    own = FunctionType(loss.__code__.replace(), globals(), "loss", None, loss.__closure__)
    compiled = torch.compile(own, fullgraph=True, dynamic=True, backend=COMPILER)

    @wraps(own)  # which keeps the uncompiled loss as __wrapped__
    def run(*tensors: Tensor | None) -> tuple[Tensor, ...]:
        return compiled(*tensors)

    return run
