"""The kernel as autograd and torch.compile see it.

Eager calls go from an `autograd.Function` straight to the launcher. At InfoGAN's sizes the host's
time dominates, and an op between the two would double it (profiling/host_overhead.py measures it).
Under torch.compile the same function calls an opaque op with a fake.

The launch computes loss and gradient. Each backward pass is one elementwise product with the
upstream gradient.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .launch import Call, Losses, launch
from .layout import KINDS, Layout, make_layout

_NAMES = {number: name for name, number in KINDS.items()}
# The package's name, so that a copy of the package under another name loads in the same process.
NAMESPACE = __name__.rpartition(".")[0].replace(".", "_")
_library = torch.library.Library(NAMESPACE, "FRAGMENT")
_library.define(
    "head_loss(Tensor q, int[] runs, Tensor categorical, Tensor continuous, Tensor weights, "
    "Tensor? logits, float sigma, str reduction, str adversarial, str player, bool grad, "
    "bool code_sums, Tensor? labelled, Tensor? real) "
    "-> (Tensor total, Tensor per_code, Tensor dq, Tensor adversarial, Tensor dlogits)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@lru_cache(maxsize=256)
def _layout(runs: tuple[int, ...]) -> Layout:
    """Return a layout from (kind, width, count) of each run, as an op's schema can carry it."""
    codes: list[tuple[str, int]] = []
    for kind, width, n in zip(runs[::3], runs[1::3], runs[2::3], strict=True):
        codes += [(_NAMES[kind], width)] * n
    return make_layout(codes)


def _op(q: Tensor, runs: list[int], *args: Any) -> tuple[Tensor, ...]:
    out = launch(Call(q, _layout(tuple(runs)), *args))
    none = [q.new_empty(0, dtype=torch.float32) for _ in range(3)]
    filled = (
        other if tensor is None else tensor
        for tensor, other in zip((out.dq, out.adversarial, out.dlogits), none, strict=True)
    )
    return (out.total, out.per_code, *filled)


def _fake(q: Tensor, runs: list[int], *args: Any) -> tuple[Tensor, ...]:
    call = Call(q, _layout(tuple(runs)), *args)
    logits, grad = call.logits, call.grad

    def new(*shape: int | torch.SymInt) -> Tensor:
        return q.new_empty(shape, dtype=torch.float32)

    dq_dtype = torch.float32 if q.dtype == torch.float16 else q.dtype
    return (
        new(call.categorical.shape[0]) if call.reduction == "none" else new(),
        new(call.weights.shape[0]),
        q.new_empty(q.shape, dtype=dq_dtype) if grad else new(0),
        new() if logits is not None else new(0),
        new(logits.shape[0]) if logits is not None and grad else new(0),
    )


for _key in ("CPU", "CUDA"):
    _library.impl("head_loss", _op, _key)
torch.library.register_fake(f"{NAMESPACE}::head_loss", _fake, lib=_library)
_head_loss = getattr(torch.ops, NAMESPACE).head_loss


def _run(call: Call) -> Losses:
    """Launch; for tensors without memory (traced, fake) call the op that stands for the launch."""
    if not torch.compiler.is_compiling() and type(call.q) in (Tensor, torch.nn.Parameter):
        return launch(call)
    runs = [number for run in call.layout.runs for number in (run.kind, run.width, run.n)]
    return Losses(*_head_loss(call.q, runs, *call[2:]))


class _InfoLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        call = Call(*args)
        out = _run(call)
        ctx.save_for_backward(out.dq)
        _remember(ctx, call.q)
        ctx.mark_non_differentiable(out.per_code)
        return out.total, out.per_code

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        (dq,) = ctx.saved_tensors
        return (_gradient(ctx, 0, dq, upstream), *[None] * (len(Call._fields) - 1))


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        call = Call(*args)._replace(logits=logits)
        out = _run(call)
        assert out.adversarial is not None
        ctx.save_for_backward(out.dlogits, out.dq)
        _remember(ctx, logits, call.q)
        ctx.mark_non_differentiable(out.per_code)
        return out.total, out.per_code, out.adversarial

    @staticmethod
    def backward(
        ctx: Any, upstream: Tensor | None, _: Any, adversarial: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        dlogits, dq = ctx.saved_tensors
        real = ctx.rows - upstream.shape[0] if upstream is not None and upstream.ndim else 0
        if upstream is not None and real:  # each real row's gradient is zero, whatever its factor
            upstream = torch.cat((upstream.new_zeros(real), upstream))
        return (
            _gradient(ctx, 0, dlogits, adversarial),
            _gradient(ctx, 1, dq, upstream),
            *[None] * (len(Call._fields) - 1),
        )


def _remember(ctx: Any, *inputs: Tensor) -> None:
    ctx.dtypes = tuple(x.dtype for x in inputs)
    ctx.rows = inputs[-1].shape[0]  # q's
    if torch.compiler.is_compiling():
        ctx.inputs = None
        return
    # As attributes, not as saved tensors: only the graph that they belong to is needed. Their
    # values are not, and may change.
    ctx.inputs = inputs
    ctx.set_materialize_grads(False)  # zeros for an unused output would cost a launch


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
    """Return stored · upstream in fp32, rounded once to `dtype`: one launch."""
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


def info_loss(call: Call) -> tuple[Tensor, Tensor]:
    """Return (total, per_code) of the information loss; `total` is differentiable by q, once."""
    if torch.is_grad_enabled() and call.q.requires_grad:
        return _InfoLoss.apply(*call)
    out = _run(call._replace(grad=False))
    return out.total, out.per_code


def head_loss(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Return (total, per_code, adversarial): `info_loss` and the loss of D's logits, one launch.

    Both losses are differentiable once, by q and by the logits.
    """
    logits = call.logits
    assert logits is not None
    if torch.is_grad_enabled() and (call.q.requires_grad or logits.requires_grad):
        return _HeadLoss.apply(logits, *call._replace(logits=None))
    out = _run(call._replace(grad=False))
    assert out.adversarial is not None
    return out.total, out.per_code, out.adversarial
