"""The kernel as autograd and torch.compile see it.

Eager calls go from an `autograd.Function` straight to the launcher: at InfoGAN's sizes the host is
what costs, and an op between the two would double it (profiling/host_overhead.py measures that).
Under torch.compile the same function calls an opaque op with a fake.

The launch computes loss and gradient. Backward is one elementwise product with the upstream
gradient, whatever that is, as often as it is asked for.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .launch import Adversarial, Losses, Player, launch
from .layout import KINDS, Layout, make_layout

_NAMES = {number: name for name, number in KINDS.items()}
_library = torch.library.Library("fastinfogan", "FRAGMENT")
_library.define(
    "head_loss(Tensor q, Tensor? logits, Tensor categorical, Tensor continuous, Tensor weights, "
    "int[] runs, float sigma, str reduction, str adversarial, str player, bool grad) "
    "-> (Tensor total, Tensor per_code, Tensor dq, Tensor adversarial, Tensor dlogits)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _head_loss(
    q: Tensor,
    logits: Tensor | None,
    categorical: Tensor,
    continuous: Tensor,
    weights: Tensor,
    layout: Layout,
    sigma: float,
    reduction: str,
    adversarial: Adversarial,
    player: Player,
    grad: bool,
) -> Losses:
    mean = 1.0 / max(categorical.shape[0], 1)
    return launch(
        q,
        layout,
        categorical,
        continuous,
        weights,
        sigma=sigma,
        scale=mean if reduction == "mean" else 1.0,
        code_scale=mean,
        grad=grad,
        per_row=reduction == "none",
        logits=logits,
        adversarial=adversarial,
        player=player,
    )


@lru_cache(maxsize=256)
def _layout(runs: tuple[int, ...]) -> Layout:
    """A layout from (kind, width, count) of each run, as an op's schema can carry it."""
    codes: list[tuple[str, int]] = []
    for kind, width, n in zip(runs[::3], runs[1::3], runs[2::3], strict=True):
        codes += [(_NAMES[kind], width)] * n
    return make_layout(codes)


def _op(
    q: Tensor,
    logits: Tensor | None,
    categorical: Tensor,
    continuous: Tensor,
    weights: Tensor,
    runs: list[int],
    sigma: float,
    reduction: str,
    adversarial: str,
    player: str,
    grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    out = _head_loss(
        q, logits, categorical, continuous, weights, _layout(tuple(runs)),
        sigma, reduction, adversarial, player, grad,  # type: ignore[arg-type]
    )  # fmt: skip
    none = [q.new_empty(0, dtype=torch.float32) for _ in range(3)]
    filled = (
        other if tensor is None else tensor
        for tensor, other in zip((out.dq, out.adversarial, out.dlogits), none, strict=True)
    )
    return (out.total, out.per_code, *filled)  # type: ignore[return-value]


def _fake(
    q: Tensor,
    logits: Tensor | None,
    categorical: Tensor,
    continuous: Tensor,
    weights: Tensor,
    runs: list[int],
    sigma: float,
    reduction: str,
    adversarial: str,
    player: str,
    grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    def new(*shape: int | torch.SymInt) -> Tensor:
        return q.new_empty(shape, dtype=torch.float32)

    dq_dtype = torch.float32 if q.dtype == torch.float16 else q.dtype
    return (
        new(categorical.shape[0]) if reduction == "none" else new(),
        new(weights.shape[0]),
        q.new_empty(q.shape, dtype=dq_dtype) if grad else new(0),
        new() if logits is not None else new(0),
        new(logits.shape[0]) if logits is not None and grad else new(0),
    )


for _key in ("CPU", "CUDA"):
    _library.impl("head_loss", _op, _key)
torch.library.register_fake("fastinfogan::head_loss", _fake, lib=_library)


def _call(q: Tensor, layout: Layout, *args: Any, logits: Tensor | None, grad: bool) -> Losses:
    """The launcher, or, where tensors have no memory yet, the op that stands for it."""
    categorical, continuous, weights, sigma, reduction, adversarial, player = args
    if not torch.compiler.is_compiling() and type(q) in (Tensor, torch.nn.Parameter):
        return _head_loss(
            q, logits, categorical, continuous, weights, layout,
            sigma, reduction, adversarial, player, grad,
        )  # fmt: skip
    runs = [number for run in layout.runs for number in (run.kind, run.width, run.n)]
    total, per_code, dq, value, dlogits = torch.ops.fastinfogan.head_loss(
        q, logits, categorical, continuous, weights, runs,
        sigma, reduction, adversarial, player, grad,
    )  # fmt: skip
    return Losses(total, per_code, dq, value, dlogits)


class _InfoLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, layout: Layout, *args: Any) -> tuple[Tensor, Tensor]:
        out = _call(q, layout, *args, logits=None, grad=True)
        ctx.save_for_backward(out.dq)
        _remember(ctx, q)
        ctx.mark_non_differentiable(out.per_code)
        return out.total, out.per_code

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        (dq,) = ctx.saved_tensors
        return (_gradient(ctx, 0, dq, upstream), *[None] * 8)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, logits: Tensor, layout: Layout, *args: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        out = _call(q, layout, *args, logits=logits, grad=True)
        assert out.adversarial is not None
        ctx.save_for_backward(out.dq, out.dlogits)
        _remember(ctx, q, logits)
        ctx.mark_non_differentiable(out.per_code)
        return out.total, out.per_code, out.adversarial

    @staticmethod
    def backward(
        ctx: Any, upstream: Tensor | None, _: Any, adversarial: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        dq, dlogits = ctx.saved_tensors
        real = ctx.rows - upstream.shape[0] if upstream is not None and upstream.ndim else 0
        if upstream is not None and real:  # each real row's gradient is zero, whatever its factor
            upstream = torch.cat((upstream.new_zeros(real), upstream))
        return (
            _gradient(ctx, 0, dq, upstream),
            _gradient(ctx, 1, dlogits, adversarial),
            *[None] * 8,
        )


def _remember(ctx: Any, *inputs: Tensor) -> None:
    ctx.dtypes = tuple(x.dtype for x in inputs)
    ctx.rows = inputs[0].shape[0]
    if torch.compiler.is_compiling():
        ctx.inputs = None
        return
    # As attributes, not among the saved tensors: they are here for the graph that they belong to,
    # their values are not needed and may change.
    ctx.inputs = inputs
    ctx.set_materialize_grads(False)  # zeros for an output that was not used would be a launch


def _gradient(ctx: Any, i: int, stored: Tensor, upstream: Tensor | None) -> Tensor | None:
    if upstream is None or not ctx.needs_input_grad[i]:
        return None
    dtype = ctx.dtypes[i]
    if upstream.ndim:
        upstream = upstream.unsqueeze(1)
    if ctx.inputs is not None and torch.is_grad_enabled():
        return _Once.apply(ctx.inputs[i], upstream, stored, dtype)
    return _product(stored, upstream, dtype)


def _product(stored: Tensor, upstream: Tensor, dtype: torch.dtype) -> Tensor:
    """stored · upstream in fp32, rounded once to `dtype`: one launch."""
    if torch.compiler.is_compiling():
        return (stored.float() * upstream).to(dtype)
    if stored.dtype == dtype == torch.float32:
        return stored * upstream
    if not upstream.ndim:  # a scalar would first be rounded to a narrow `stored`'s dtype
        upstream = upstream.reshape(1)
    return torch.mul(stored, upstream, out=torch.empty_like(stored, dtype=dtype))


class _Once(torch.autograd.Function):
    """The gradient as a function of its input, so that differentiating it again is an error."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, upstream: Tensor, stored: Tensor, dtype: Any) -> Tensor:
        return _product(stored, upstream, dtype)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            "the Triton kernel's information loss can be differentiated once; for a second "
            'derivative (a gradient penalty, say) use backend="reference"'
        )


def info_loss(
    q: Tensor,
    layout: Layout,
    categorical: Tensor,
    continuous: Tensor,
    weights: Tensor,
    *,
    sigma: float = 1.0,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """(total, per_code) of the information loss; `total` is differentiable by q, once.

    Args, see `launch`. total: fp32 scalar, or [B] for reduction="none"; per_code: fp32 [n_codes],
    mean NLL in nats.
    """
    args = (categorical, continuous, weights, sigma, reduction, "nonsaturating", "discriminator")
    if torch.is_grad_enabled() and q.requires_grad:
        return _InfoLoss.apply(q, layout, *args)
    out = _call(q, layout, *args, logits=None, grad=False)
    return out.total, out.per_code


def head_loss(
    logits: Tensor,
    q: Tensor,
    layout: Layout,
    categorical: Tensor,
    continuous: Tensor,
    weights: Tensor,
    *,
    sigma: float = 1.0,
    reduction: str = "mean",
    adversarial: Adversarial = "nonsaturating",
    player: Player = "discriminator",
) -> tuple[Tensor, Tensor, Tensor]:
    """(total, per_code, adversarial): `info_loss` and the loss of D's logits, one launch.

    logits: [R + B], R real rows in front. adversarial: fp32 scalar, the mean over the real rows
    plus the mean over the generated ones; differentiable by the logits, once.
    """
    args = (categorical, continuous, weights, sigma, reduction, adversarial, player)
    if torch.is_grad_enabled() and (q.requires_grad or logits.requires_grad):
        return _HeadLoss.apply(q, logits, layout, *args)
    out = _call(q, layout, *args, logits=logits, grad=False)
    assert out.adversarial is not None
    return out.total, out.per_code, out.adversarial
