"""InfoGAN's losses: the information loss of all codes at once, and the adversarial losses.

Imports torch and the standard library alone, so that another GAN codebase can take it as it is.

The information loss is the part of InfoGAN's objective (arXiv 1606.03657, eq. 4 and 5) that
training can change: L_I = H(c) − E[−log Q(c|x)], so maximising the bound L_I is minimising the
negative log-likelihood (NLL) of the codes under Q. `reference.py` defines it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .compiled import compiled_loss
from .grouped import StrayClass, applies, grouped_loss
from .latents import LOG_2PI, Bernoulli, Categorical, LatentSpec, Uniform
from .reference import layout, n_classes, plain_loss

Reduction = Literal["mean", "sum", "none"]
Backend = Literal["auto", "reference", "triton", "compiled"]
Convention = Literal["exact", "openai"]
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class InfoLossOutput(NamedTuple):
    """The information loss of a batch."""

    total: Tensor  # scalar, or [B] with reduction="none": Σ_codes weight · NLL, differentiable
    per_code: Tensor  # [n_codes], detached: unweighted NLL in nats, Σ over dims, mean over batch


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
        backend: "auto" or "reference"; "compiled", one compiled callable a layout, once
            differentiable; "triton" is not in this version.
        sigma: σ of the continuous codes whose spec says "fixed". A learned log-variance is
            clamped to [-16, 16], with gradient zero outside.
        validate: check the values of `categorical`. None: in eager calls on the CPU only.
            Unchecked, a value out of range gives NaN in loss and gradient.

    Raises:
        ValueError: a shape, dtype, device, option or checked value that does not fit.
    """
    _check_arguments(q, spec, categorical, continuous, weights, reduction, backend, sigma)
    args = q, spec, categorical, continuous, weights, reduction, sigma
    check = _is_eager_cpu(q) if validate is None else validate
    chosen = _choose_backend(backend)
    if chosen == "reference" and applies(q, categorical, continuous, weights):
        try:
            return InfoLossOutput(*grouped_loss(*args))
        except StrayClass:
            pass  # refused by the check below, or else NaN by the definition
    if check:
        _check_values(spec, categorical)
    if chosen == "compiled":
        return InfoLossOutput(*compiled_loss(*args))
    return InfoLossOutput(*plain_loss(*args))


def _choose_backend(backend: Backend) -> Literal["reference", "compiled"]:
    """What runs for arguments that fit."""
    if backend == "triton":
        raise ValueError(
            'backend "triton" is not in this version; use "auto", "reference" or "compiled"'
        )
    return "compiled" if backend == "compiled" else "reference"


def _is_eager_cpu(q: Tensor) -> bool:
    return q.device.type == "cpu" and not torch.compiler.is_compiling()


def _mismatch(what: str, expected: object, got: object) -> ValueError:
    return ValueError(f"{what}: expected {expected}, got {got}")


def _check_arguments(
    q: Tensor,
    spec: LatentSpec,
    categorical: Tensor,
    continuous: Tensor,
    weights: Tensor | None,
    reduction: str,
    backend: str,
    sigma: float,
) -> None:
    """Raise on what does not fit. Messages are made only then: most calls cost microseconds."""
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


class DiscriminatorLoss(Protocol):
    """Mean loss of the discriminator from its logits on real and on fake images."""

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor: ...


class GeneratorLoss(Protocol):
    """Mean loss of the generator from D's logits on fake, and where needed on real, images."""

    def __call__(self, fake: Tensor, real: Tensor | None = None) -> Tensor: ...


def adversarial_losses(name: str) -> tuple[DiscriminatorLoss, GeneratorLoss]:
    """The pair (d_loss(real, fake), g_loss(fake, real=None)), on logits, means over the batch.

    - "nonsaturating": Goodfellow et al. 2014, §3, with −log D(G(z)) for the generator
    - "hinge": Lim & Ye 2017; the generator's is −D(G(z))
    - "lsgan": Mao et al. 2017, eq. 9, with targets 1 and 0 and its factor ½
    - "wgan": Arjovsky et al. 2017; the Lipschitz constraint is the caller's
    - "relativistic": Jolicoeur-Martineau 2018, the paired RSGAN; g_loss needs `real`

    Computed in fp32 (fp64 for fp64). Raises ValueError for another name.
    """
    if name not in _ADVERSARIAL:
        raise ValueError(f"adversarial loss: expected one of {sorted(_ADVERSARIAL)}, got {name!r}")
    d_terms, g_terms = _ADVERSARIAL[name]

    def check_pair(real: Tensor, fake: Tensor) -> None:
        if name == "relativistic" and real.shape != fake.shape:  # pairs would broadcast
            raise _mismatch("fake", list(real.shape), list(fake.shape))

    def d_loss(real: Tensor, fake: Tensor) -> Tensor:
        check_pair(real, fake)
        return d_terms(_wide(real), _wide(fake))

    def g_loss(fake: Tensor, real: Tensor | None = None) -> Tensor:
        if name == "relativistic" and real is None:
            raise ValueError("relativistic g_loss: expected D's logits on real images, got None")
        if real is None:
            real = fake  # unused
        check_pair(real, fake)
        return g_terms(_wide(fake), _wide(real))

    return d_loss, g_loss


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _softplus(x: Tensor) -> Tensor:
    return -F.logsigmoid(-x)  # F.softplus turns linear at 20, an error of 2e-9


_Terms = Callable[[Tensor, Tensor], Tensor]
_ADVERSARIAL: dict[str, tuple[_Terms, _Terms]] = {  # d(real, fake), g(fake, real)
    "nonsaturating": (
        lambda real, fake: _softplus(-real).mean() + _softplus(fake).mean(),
        lambda fake, real: _softplus(-fake).mean(),
    ),
    "hinge": (
        lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        lambda fake, real: -fake.mean(),
    ),
    "lsgan": (
        lambda real, fake: 0.5 * ((real - 1).square().mean() + fake.square().mean()),
        lambda fake, real: 0.5 * (fake - 1).square().mean(),
    ),
    "wgan": (
        lambda real, fake: fake.mean() - real.mean(),
        lambda fake, real: -fake.mean(),
    ),
    "relativistic": (
        lambda real, fake: _softplus(fake - real).mean(),
        lambda fake, real: _softplus(real - fake).mean(),
    ),
}
