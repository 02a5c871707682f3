"""InfoGAN's losses: the information loss of all codes at once, and the adversarial losses.

Imports torch and the standard library alone, so that another GAN codebase can take it as it is.

The information loss is the part of InfoGAN's objective (arXiv 1606.03657, eq. 4 and 5) that
training can change: L_I = H(c) − E[−log Q(c|x)], so maximising the bound L_I is minimising the
negative log-likelihood (NLL) of the codes under Q. `reference.py` defines it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..latents import Bernoulli, Categorical, LatentSpec, Uniform
from ..latents.codes import LOG_2PI
from . import triton as kernel
from .adversarial import Player, adversarial_losses, player_loss
from .compiled import compiled_loss
from .grouped import StrayClass, applies, grouped_loss
from .reference import Inputs, layout, n_classes, plain_loss

__all__ = [
    "HeadLossOutput",
    "InfoLoss",
    "InfoLossOutput",
    "adversarial_losses",
    "head_loss",
    "info_loss",
    "information",
    "pack",
]

Reduction = Literal["mean", "sum", "none"]
Backend = Literal["auto", "reference", "triton", "compiled"]
Convention = Literal["exact", "openai"]
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class InfoLossOutput(NamedTuple):
    """The information loss of a batch."""

    total: Tensor  # scalar, or [B] with reduction="none": Σ_codes weight · NLL, differentiable
    per_code: Tensor  # [n_codes], detached: unweighted NLL in nats, Σ over dims, mean over batch


class HeadLossOutput(NamedTuple):
    """The losses on D's heads; `information` and `adversarial` are differentiable."""

    information: Tensor  # as InfoLossOutput.total
    per_code: Tensor  # as InfoLossOutput.per_code
    adversarial: Tensor  # scalar: mean over the real rows + mean over the generated rows


def info_loss(
    q: Tensor,
    spec: LatentSpec,
    categorical: Tensor,
    continuous: Tensor,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
    sigma: float = 1.0,
    validate: bool | None = None,
) -> InfoLossOutput:
    """Σ_codes weight · NLL(code), the negative of InfoGAN's L_I up to the constant H(c).

    Args:
        q: Q's output [B, spec.q_dim], fp32, bf16, fp16 or fp64, any row stride; never written.
            Computed in fp32 (fp64 for fp64); the gradient comes back in q's dtype.
        spec: the codes, which fix q's columns.
        categorical: [B, n_cat] of an integer dtype: the class of each Categorical and the 0/1 of
            each Bernoulli.
        continuous: [B, n_cont] of a floating dtype: all continuous dims.
        weights: floating [n_codes] that replaces the codes' own weights (λ per code).
        reduction: "mean" or "sum" over the batch, or "none" for [B]. B = 0 gives 0.
        backend: "triton": one kernel launch for loss and gradient, once differentiable, in q
            alone; on CUDA and ROCm tensors, and on CPU tensors under TRITON_INTERPRET=1.
            "reference": PyTorch, as often differentiable as one likes. "compiled": the reference,
            one compiled callable a layout. "auto": triton on CUDA and ROCm tensors where it can do
            what is asked, else reference.
        sigma: σ of the continuous codes whose spec says "fixed". A learned log-variance is
            clamped to [-16, 16], with gradient zero outside.
        validate: check the values of `categorical`. None: in eager calls on the CPU only.
            Unchecked, a value out of range gives NaN in loss and gradient.

    Raises:
        ValueError: a shape, dtype, device, option or checked value that does not fit.
    """
    inputs = Inputs(q, spec, categorical, continuous, weights, reduction, sigma)
    _check_arguments(inputs, backend)
    check = _is_eager_cpu(q) if validate is None else validate
    chosen = _choose_backend(q, continuous, weights, backend)
    if chosen == "reference" and applies(inputs):
        try:
            return InfoLossOutput(*grouped_loss(inputs))
        except StrayClass:
            pass  # refused by the check below, or else NaN by the definition
    if check:
        _check_values(spec, categorical)
    if chosen == "triton":
        return InfoLossOutput(*kernel.info_loss(inputs))
    if chosen == "compiled":
        return InfoLossOutput(*compiled_loss(inputs))
    return InfoLossOutput(*plain_loss(inputs))


def head_loss(
    logits: Tensor,
    q: Tensor,
    spec: LatentSpec,
    categorical: Tensor,
    continuous: Tensor,
    *,
    player: Player,
    adversarial: Literal["nonsaturating", "hinge"] = "nonsaturating",
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
    sigma: float = 1.0,
    validate: bool | None = None,
) -> HeadLossOutput:
    """Both losses of one pass through D, the adversarial one and `info_loss`.

    With the triton backend, one launch. D's pass over real and generated images at once has the
    real ones, R of them, in front: they have no code and take no part in the information loss.

    Args:
        logits: D's logits [R + B] or [R + B, 1].
        q: Q's output on the B generated rows, [B, spec.q_dim], or on all, [R + B, spec.q_dim].
        player: "discriminator" (R ≥ 1), or "generator", whose rows are all generated (R = 0).
        adversarial: "nonsaturating" or "hinge", see `adversarial_losses`.
        spec, categorical, continuous, weights, reduction, backend, sigma, validate: as in
            `info_loss`, for the B generated rows. `reduction` is the information loss's; the
            adversarial loss is always a mean over each side, 0 for a side without rows.

    Raises:
        ValueError: a shape, dtype, device, option or checked value that does not fit.
    """
    if player not in ("discriminator", "generator"):
        raise _mismatch("player", "discriminator or generator", player)
    if adversarial not in ("nonsaturating", "hinge"):
        raise _mismatch("adversarial", "nonsaturating or hinge", adversarial)
    batch, rows = categorical.shape[0], logits.shape[0] if logits.ndim else 0
    n_real = rows - batch
    column = logits.ndim == 1 or (logits.ndim == 2 and logits.shape[1] == 1)
    if not column or (n_real < 1 if player == "discriminator" else n_real != 0):
        expected = f"R + {batch} with R ≥ 1" if player == "discriminator" else batch
        raise _mismatch(
            f"{player}'s logits", f"[{expected}] or [{expected}, 1]", list(logits.shape)
        )
    if logits.dtype not in _DTYPES:
        raise _mismatch("logits' dtype", "float32, bfloat16, float16 or float64", logits.dtype)
    if logits.device != q.device:
        raise _mismatch("logits' device", q.device, logits.device)
    logits = logits.reshape(rows)
    generated = q[n_real:] if q.ndim and q.shape[0] == rows else q
    if _choose_backend(q, continuous, weights, backend) != "triton" or _is_wide(logits):
        value = player_loss(logits[:n_real], logits[n_real:], adversarial, player)
        total, per_code = info_loss(
            generated, spec, categorical, continuous, weights, reduction, backend, sigma, validate
        )
        return HeadLossOutput(total, per_code, value)
    inputs = Inputs(generated, spec, categorical, continuous, weights, reduction, sigma)
    _check_arguments(inputs, backend)
    if _is_eager_cpu(q) if validate is None else validate:
        _check_values(spec, categorical)
    return HeadLossOutput(*kernel.head_loss(logits, inputs._replace(q=q), adversarial, player))


def _is_wide(x: Tensor) -> bool:
    return x.dtype == torch.float64


def _choose_backend(
    q: Tensor, continuous: Tensor, weights: Tensor | None, backend: Backend
) -> Literal["reference", "compiled", "triton"]:
    """What runs for these arguments. Raises ValueError where "triton" cannot."""
    if backend in ("reference", "compiled"):
        return backend
    differentiates = continuous.requires_grad or (weights is not None and weights.requires_grad)
    transformed = not torch.compiler.is_compiling() and (
        torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    )
    fits = not (_is_wide(q) or transformed or (differentiates and torch.is_grad_enabled()))
    if backend == "auto":
        return "triton" if q.is_cuda and fits and kernel.available() else "reference"
    if not kernel.available():
        raise ValueError('backend "triton": triton is not installed; use backend="reference"')
    if not fits:
        what = "gradients of weights and of continuous targets"
        if transformed:
            what = "function transforms and forward-mode derivatives"
        elif _is_wide(q):
            what = "float64"
        raise ValueError(f'backend "triton" has no {what}; use backend="reference"')
    return "triton"


def _is_eager_cpu(q: Tensor) -> bool:
    return q.device.type == "cpu" and not torch.compiler.is_compiling()


def _mismatch(what: str, expected: object, got: object) -> ValueError:
    return ValueError(f"{what}: expected {expected}, got {got}")


def _check_arguments(inputs: Inputs, backend: str) -> None:
    """Raise on what does not fit. Messages are made only then: most calls cost microseconds."""
    q, spec, categorical, continuous, weights, reduction, sigma = inputs
    if not isinstance(spec, LatentSpec):
        raise _mismatch("spec", "a LatentSpec", type(spec).__name__)
    _, q_dim, n_cat, n_cont = layout(spec)
    shape, device = q.shape, q.device
    if len(shape) != 2 or shape[1] != q_dim:
        kinds = [code.kind for code in spec.codes]
        raise _mismatch("q", f"shape [B, {q_dim}] for {kinds}", list(shape))
    if q.dtype not in _DTYPES:
        raise _mismatch("q's dtype", "float32, bfloat16, float16 or float64", q.dtype)
    batch = shape[0]
    if categorical.shape != (batch, n_cat):
        raise _mismatch("categorical", f"shape [{batch}, {n_cat}]", list(categorical.shape))
    if continuous.shape != (batch, n_cont):
        raise _mismatch("continuous", f"shape [{batch}, {n_cont}]", list(continuous.shape))
    if categorical.device != device:
        raise _mismatch("categorical's device", device, categorical.device)
    if continuous.device != device:
        raise _mismatch("continuous's device", device, continuous.device)
    dtype = categorical.dtype
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        raise _mismatch("categorical's dtype", "an integer dtype", dtype)
    if not continuous.dtype.is_floating_point:
        raise _mismatch("continuous's dtype", "a floating dtype", continuous.dtype)
    if weights is not None:
        n_codes = len(spec.codes)
        if weights.shape != (n_codes,):
            raise _mismatch("weights", f"shape [{n_codes}]", list(weights.shape))
        if not weights.dtype.is_floating_point:
            raise _mismatch("weights' dtype", "a floating dtype", weights.dtype)
        if weights.device != device:
            raise _mismatch("weights' device", device, weights.device)
    if reduction not in ("mean", "sum", "none"):
        raise _mismatch("reduction", "mean, sum or none", reduction)
    if not 0 < sigma < math.inf:
        raise _mismatch("sigma", "a finite number > 0", sigma)
    if backend not in ("auto", "reference", "triton", "compiled"):
        raise _mismatch("backend", "auto, reference, triton or compiled", backend)


def _check_values(spec: LatentSpec, categorical: Tensor) -> None:
    """Raise on a class that does not exist. Reads values back to the host."""
    if categorical.shape[0] == 0 or spec.n_cat == 0:
        return
    classes = categorical.long()  # unsigned dtypes have no amin
    lowest, highest = classes.amin(0).tolist(), classes.amax(0).tolist()
    for name, (code, _, target) in zip(spec.names, spec.slots, strict=True):
        if isinstance(code, Categorical | Bernoulli):
            n, column = n_classes(code), target.start
            if lowest[column] < 0 or highest[column] >= n:
                raise _mismatch(
                    f"categorical[:, {column}] of {name}",
                    f"classes 0 … {n - 1}",
                    f"values from {lowest[column]} to {highest[column]}",
                )


class InfoLoss(nn.Module):
    """`info_loss` as a module. `weights` [n_codes], where given, is a buffer that moves with it."""

    weights: Tensor | None

    def __init__(
        self,
        spec: LatentSpec,
        weights: Tensor | None = None,
        reduction: Reduction = "mean",
        backend: Backend = "auto",
        sigma: float = 1.0,
        validate: bool | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.reduction: Reduction = reduction
        self.backend: Backend = backend
        self.sigma = sigma
        self.validate = validate
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, q: Tensor, categorical: Tensor, continuous: Tensor) -> InfoLossOutput:
        return info_loss(
            q,
            self.spec,
            categorical,
            continuous,
            weights=self.weights,
            reduction=self.reduction,
            backend=self.backend,
            sigma=self.sigma,
            validate=self.validate,
        )


def information(per_code: Tensor, spec: LatentSpec, convention: Convention = "exact") -> Tensor:
    """Lower bound on the mutual information I(c; G(z, c)) of each code, H(c) − NLL, in nats.

    Args:
        per_code: [n_codes], the NLL that `info_loss` gives.
        spec: the codes.
        convention: "exact" takes the prior's own entropy. "openai" takes, for uniform codes, the
            prior's cross entropy under N(0, 1), as openai/InfoGAN does: for U(−1, 1) and σ = 1
            that bound ends at 1/6 per dim, the exact one at −0.226.

    Returns:
        [n_codes]; eq. 4 of arXiv 1606.03657.
    """
    if per_code.shape != (len(spec.codes),):
        raise _mismatch("per_code", f"shape [{len(spec.codes)}]", list(per_code.shape))
    if convention not in ("exact", "openai"):
        raise _mismatch("convention", "exact or openai", convention)
    entropy = list(spec.entropy())
    if convention == "openai":
        for i, code in enumerate(spec.codes):
            if isinstance(code, Uniform):
                second_moment = (code.low**2 + code.low * code.high + code.high**2) / 3
                entropy[i] = code.dim * 0.5 * (LOG_2PI + second_moment)
    return per_code.new_tensor(entropy) - per_code


def pack(heads: Sequence[Tensor]) -> Tensor:
    """Join Q heads [B, k], given in the spec's order, into one q [B, Σk].

    A learned-σ code's head is its means, then its log-variances.
    """
    if len(heads) == 0:
        raise _mismatch("heads", "at least one tensor", "none")
    batch = heads[0].shape[0] if heads[0].ndim else None
    for i, head in enumerate(heads):
        if head.ndim != 2 or head.shape[0] != batch:
            shape = f"shape [{'B' if batch is None else batch}, k]"
            raise _mismatch(f"heads[{i}]", shape, list(head.shape))
        if head.device != heads[0].device:
            raise _mismatch(f"heads[{i}]'s device", heads[0].device, head.device)
    return torch.cat(list(heads), dim=1)
