"""InfoGAN's losses: the information loss of all codes at once, and the adversarial losses.

Imports torch and the standard library alone, so that another GAN codebase can take it as it is.

The information loss is the part of InfoGAN's objective (arXiv 1606.03657, eq. 4 and 5) that
training can change: L_I = H(c) − E[−log Q(c|x)], so maximising the bound L_I is minimising the
negative log-likelihood (NLL) of the codes under Q. `reference.py` defines it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, get_args

import torch
from torch import Tensor, nn

from ..latents import LatentBatch, LatentSpec, Uniform
from ..latents.codes import LOG_2PI
from ..latents.heads import Heads
from . import triton as kernel
from .adversarial import Adversarial, Player, adversarial_losses, player_loss
from .checks import (
    DTYPES,
    Weights,
    check_values,
    is_transformed,
    mismatch,
    prepare,
    unpack,
    weights_tensor,
)
from .compiled import compiled_loss
from .few_codes import few_codes_loss
from .grouped import StrayClass, applies, grouped_loss
from .reference import Inputs, is_soft, plain_loss

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


def _use_total(self: Any, *_: object) -> NoReturn:
    raise TypeError(f"{type(self).__name__} is a tuple of results: {self._loss}")


def _by_name(per_code: Tensor, spec: LatentSpec) -> dict[str, Tensor]:
    if per_code.shape != (len(spec.codes),):
        raise mismatch("spec", f"a spec of {len(per_code)} codes", len(spec.codes))
    return dict(zip(spec.names, per_code.unbind(), strict=True))


class InfoLossOutput(NamedTuple):
    """The information loss of a batch."""

    total: Tensor  # scalar, or [B] with reduction="none": Σ_codes weight · NLL, differentiable
    per_code: Tensor  # [n_codes], detached: unweighted NLL in nats, Σ over dims, mean over batch

    @property
    def _loss(self) -> str:
        return "the loss is its .total, as in out.total.backward()"

    def by_name(self, spec: LatentSpec) -> dict[str, Tensor]:
        """Return `per_code` by the codes' names: scalar tensors, nothing is read back."""
        return _by_name(self.per_code, spec)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} has no {name!r}: {self._loss}")


class HeadLossOutput(NamedTuple):
    """The losses on D's heads; `information` and `adversarial` are differentiable."""

    information: Tensor  # as InfoLossOutput.total
    per_code: Tensor  # as InfoLossOutput.per_code
    adversarial: Tensor  # scalar: mean over the real rows + mean over the generated rows

    @property
    def _loss(self) -> str:
        return "the losses are its .information and .adversarial"

    def by_name(self, spec: LatentSpec) -> dict[str, Tensor]:
        """Return `per_code` by the codes' names: scalar tensors, nothing is read back."""
        return _by_name(self.per_code, spec)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} has no {name!r}: {self._loss}")


for _output in (InfoLossOutput, HeadLossOutput):  # arithmetic on a tuple would join or repeat it
    for _name in ("add", "radd", "iadd", "mul", "rmul", "sub", "rsub", "truediv"):
        setattr(_output, f"__{_name}__", _use_total)


def info_loss(
    q: Heads,
    spec: LatentSpec,
    categorical: Tensor | LatentBatch | None = None,
    continuous: Tensor | None = None,
    weights: Weights | None = None,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
    sigma: float = 1.0,
    validate: bool | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
) -> InfoLossOutput:
    """Return Σ_codes weight · NLL(code), the negative of InfoGAN's L_I up to the constant H(c).

    `info_loss(q, spec, batch)` takes the LatentBatch that `spec.sample` gave in the place of
    `categorical` and `continuous`.

    Args:
        q: Q's output [B, spec.q_dim], fp32, bf16, fp16 or fp64, any row stride; never written.
            Computed in fp32 (fp64 for fp64); the gradient comes back in q's dtype. Or Q's heads,
            in a list in the spec's order or in a dict by code name. A head is a tensor [B, k] or
            [B, k, 1, 1]; for a code with learned σ it may be a pair (mean, log_var) or a dict with
            the keys mean and var (or log_var); or it is a distribution of torch.distributions.
        spec: the codes, which fix q's columns.
        categorical: [B, n_cat] of an integer dtype: the class of each Categorical and the 0/1 of
            each Bernoulli; [B] for one such code. Or one-hot rows of integers, or soft rows of a
            floating dtype, [B, Σ classes]: all Categoricals side by side, then the Bernoullis'
            bits. Soft rows are always computed by the reference, whatever the backend.
        continuous: [B, n_cont] of a floating dtype: all continuous dims, an angle in radians.
            Either may be left out where the spec has no such code.
        weights: floating [n_codes] that replaces the codes' own weights (λ per code), or as many
            numbers. A tensor saves the copy to a GPU at each call.
        reduction: "mean" or "sum" over the batch, or "none" for [B]. B = 0 gives 0.
        backend: "triton": one kernel launch for loss and gradient, once differentiable, in q
            alone; on CUDA and ROCm tensors, and on CPU tensors under TRITON_INTERPRET=1.
            "reference": PyTorch, as often differentiable as one likes. "compiled": the reference,
            one compiled callable per layout. "auto": triton on CUDA and ROCm tensors where it can
            do what is asked, else reference. Under torch.func's transforms and in forward mode
            each is the reference.
        sigma: σ of the continuous codes whose spec says "fixed". A learned log-variance is
            clamped to [-16, 16], with gradient zero outside.
        validate: check the values of `categorical`. None: in eager calls on the CPU only, and not
            under torch.func's transforms, which hide values. Unchecked, a value out of range gives
            NaN in loss and gradient.
        ignore_index: the class that stands for a missing label; a NaN among a continuous code's
            targets, or in a soft row, is then a missing label too.
        mask: bool [B] or [B, n_codes]; False where a label is missing. A missing label has factor
            0 in loss and gradient, whatever stands in its row. `total` and `per_code` are means
            over a code's labelled rows, 0 where it has none. The kernel reads the labels' mask;
            what it takes to make it and to count it are small PyTorch operations in front.

    Raises:
        ValueError: a shape, dtype, device, option or checked value that does not fit.
    """
    special = weights is not None or ignore_index is not None or mask is not None
    if not special and reduction == "mean" and backend in ("auto", "reference"):
        short = few_codes_loss(q, spec, categorical, continuous, sigma)
        if short is not None:
            return InfoLossOutput(*short)
    inputs = prepare(
        q, spec, categorical, continuous, weights, reduction, backend, sigma, ignore_index, mask
    )
    return InfoLossOutput(*_information(inputs, backend, validate))


def _information(inputs: Inputs, backend: Backend, validate: bool | None) -> tuple[Tensor, Tensor]:
    chosen = _choose_backend(inputs, backend)
    if chosen == "reference" and applies(inputs):
        try:
            return grouped_loss(inputs)
        except StrayClass:
            pass  # refused by the check below, or else NaN by the definition
    _validate(inputs, validate)
    if chosen == "triton":
        return kernel.info_loss(inputs)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        inputs = _savable(inputs)
    if chosen == "compiled":
        return compiled_loss(inputs)
    return plain_loss(inputs)


def _savable(inputs: Inputs) -> Inputs:
    """Replace tensors made in inference mode, which cannot be saved for backward, by copies."""
    copies: dict[str, Any] = {
        name: x.clone()
        for name, x in zip(Inputs._fields, inputs, strict=True)
        if isinstance(x, Tensor) and x.is_inference()
    }
    return inputs._replace(**copies) if copies else inputs


def head_loss(
    logits: Tensor,
    q: Heads,
    spec: LatentSpec,
    categorical: Tensor | LatentBatch | None = None,
    continuous: Tensor | None = None,
    *,
    player: Player,
    adversarial: Adversarial = "nonsaturating",
    real: Tensor | None = None,
    weights: Weights | None = None,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
    sigma: float = 1.0,
    validate: bool | None = None,
    ignore_index: int | None = None,
    mask: Tensor | None = None,
) -> HeadLossOutput:
    """Return both losses of one pass through D, the adversarial one and `info_loss`.

    With the triton backend, one launch. D's pass over real and generated images at once has the
    real ones, R of them, in front: they have no code and take no part in the information loss.

    Args:
        logits: D's logits [R + B] or [R + B, 1].
        q: Q's output on the B generated rows, [B, spec.q_dim], or on all, [R + B, spec.q_dim].
        player: "discriminator" (R ≥ 1), or "generator", whose rows are all generated (R = 0).
        adversarial: one of the losses of `adversarial_losses`. "relativistic" compares row i of
            the real images with row i of the generated ones: R = B.
        real: [B] or [B, 1], D's logits on real images, for a relativistic generator alone, which
            sees them as constants.
        reduction: of the information loss; the adversarial loss is always a mean over each side, 0
            for a side without rows.

    All other arguments are those of `info_loss`, for the B generated rows.

    Raises:
        ValueError: a shape, dtype, device, option or checked value that does not fit.
    """
    if player not in ("discriminator", "generator"):
        raise mismatch("player", "discriminator or generator", player)
    if adversarial not in get_args(Adversarial):
        raise mismatch("adversarial", " or ".join(get_args(Adversarial)), adversarial)
    q, categorical, continuous = unpack(q, spec, categorical, continuous)
    targets = categorical if categorical is not None else continuous
    batch = q.shape[0] if targets is None else targets.shape[0]
    rows = logits.shape[0] if logits.ndim else 0
    n_real = rows - batch
    logits = _logit_column(logits, f"{player}'s logits", batch, player, n_real, q.device)
    if adversarial == "relativistic":
        if player == "discriminator" and n_real != batch:
            raise mismatch("real rows of relativistic logits", batch, n_real)
        if player == "generator":
            if real is None:
                raise mismatch("real", "D's logits on real images", None)
            real = _logit_column(real, "real", batch, "generator", real.numel() - batch, q.device)
            real = real.detach()
    elif real is not None:
        raise mismatch("real", f"None for {adversarial}", "a tensor")
    if player == "discriminator" and adversarial == "relativistic" and real is not None:
        raise mismatch("real", "None for a discriminator, whose logits hold them", "a tensor")
    generated = q[n_real:] if q.ndim and q.shape[0] == rows else q
    inputs = prepare(
        generated,
        spec,
        categorical,
        continuous,
        weights,
        reduction,
        backend,
        sigma,
        ignore_index,
        mask,
    )
    wide = logits.dtype == torch.float64
    if wide or _choose_backend(inputs, backend) != "triton":
        side = logits[:n_real] if real is None else real
        value = player_loss(side, logits[n_real:], adversarial, player)
        return HeadLossOutput(*_information(inputs, backend, validate), value)
    _validate(inputs, validate)
    return HeadLossOutput(
        *kernel.head_loss(logits, inputs._replace(q=q), adversarial, player, real)
    )


def _logit_column(
    logits: Tensor, what: str, batch: int, player: Player, n_real: int, device: torch.device
) -> Tensor:
    column = logits.ndim == 1 or (logits.ndim == 2 and logits.shape[1] == 1)
    if not column or (n_real < 1 if player == "discriminator" else n_real != 0):
        expected = f"R + {batch} with R ≥ 1" if player == "discriminator" else batch
        raise mismatch(what, f"[{expected}] or [{expected}, 1]", list(logits.shape))
    if logits.dtype not in DTYPES:
        expected = "float32, bfloat16, float16 or float64"
        raise mismatch(f"{what.split()[-1]}' dtype", expected, logits.dtype)
    if logits.device != device:
        raise mismatch(f"{what.split()[-1]}' device", device, logits.device)
    return logits.reshape(logits.shape[0])


def _choose_backend(inputs: Inputs, backend: Backend) -> Literal["reference", "compiled", "triton"]:
    """Return what runs for these arguments. Raises ValueError where "triton" cannot."""
    transformed = not torch.compiler.is_compiling() and is_transformed()
    if backend == "reference" or transformed or is_soft(inputs):
        return "reference"
    if backend == "compiled":
        return backend
    q, continuous, weights = inputs.q, inputs.continuous, inputs.weights
    differentiates = continuous.requires_grad or (weights is not None and weights.requires_grad)
    wide = q.dtype == torch.float64
    fits = not (wide or (differentiates and torch.is_grad_enabled()))
    if backend == "auto":
        return "triton" if q.is_cuda and fits and kernel.available() else "reference"
    if not kernel.available():
        raise ValueError('backend "triton": triton is not installed; use backend="reference"')
    if not fits:
        what = "float64" if wide else "gradients of weights and of continuous targets"
        raise ValueError(f'backend "triton" has no {what}; use backend="reference"')
    return "triton"


def _validate(inputs: Inputs, validate: bool | None) -> None:
    """Check the values of the targets where that is asked for and possible."""
    if validate is None:
        on_cpu = inputs.q.device.type == "cpu" and not torch.compiler.is_compiling()
        if not on_cpu or torch._C._are_functorch_transforms_active():
            return
    elif not validate:
        return
    elif torch._C._are_functorch_transforms_active():
        raise mismatch("validate", "None or False under torch.func, which hides values", validate)
    check_values(inputs)


class InfoLoss(nn.Module):
    """`info_loss` as a module: `InfoLoss(spec)(q, batch)`.

    Args:
        spec: the codes.
        weights: [n_codes], λ per code, or as many numbers. An nn.Parameter is registered as a
            parameter, a tensor or numbers as a buffer that moves with the module.
        reduction, backend, sigma, validate, ignore_index: as in `info_loss`.
    """

    weights: Tensor | None

    def __init__(
        self,
        spec: LatentSpec,
        weights: Weights | None = None,
        reduction: Reduction = "mean",
        backend: Backend = "auto",
        sigma: float = 1.0,
        validate: bool | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.reduction: Reduction = reduction
        self.backend: Backend = backend
        self.sigma = sigma
        self.validate = validate
        self.ignore_index = ignore_index
        if isinstance(weights, nn.Parameter):
            self.weights = weights
            return
        if weights is not None and not isinstance(weights, Tensor):
            weights = weights_tensor(weights, len(spec.codes))
        self.register_buffer("weights", weights, persistent=False)

    def forward(
        self,
        q: Heads,
        categorical: Tensor | LatentBatch | None = None,
        continuous: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> InfoLossOutput:
        """Return `info_loss` of these arguments and the module's options."""
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
            ignore_index=self.ignore_index,
            mask=mask,
        )

    if TYPE_CHECKING:

        def __call__(
            self,
            q: Heads,
            categorical: Tensor | LatentBatch | None = None,
            continuous: Tensor | None = None,
            mask: Tensor | None = None,
        ) -> InfoLossOutput: ...

    def extra_repr(self) -> str:
        """Return the codes and the options for `repr`."""
        codes = ", ".join(
            f"{name}: {code!r}" for name, code in zip(self.spec.names, self.spec.codes, strict=True)
        )
        options = f"reduction={self.reduction!r}, backend={self.backend!r}, sigma={self.sigma}"
        if self.ignore_index is not None:
            options += f", ignore_index={self.ignore_index}"
        if self.weights is not None:
            kind = "parameter" if isinstance(self.weights, nn.Parameter) else "buffer"
            options += f", weights=a {kind} of {len(self.spec.codes)}"
        return f"{codes}; {options}"


def information(
    per_code: Tensor,
    spec: LatentSpec,
    convention: Convention = "exact",
    entropy: Tensor | Sequence[float] | Mapping[str, float] | None = None,
) -> Tensor:
    """Return the lower bound on the mutual information I(c; G(z, c)) of each code, in nats.

    The bound is H(c) − NLL, eq. 4 of arXiv 1606.03657.

    Args:
        per_code: [n_codes], the NLL that `info_loss` gives.
        spec: the codes.
        convention: "exact" takes the prior's own entropy, that of `probs` where a Categorical has
            them. "openai" takes, for uniform codes, the prior's cross entropy under N(0, 1), as
            openai/InfoGAN does: for U(−1, 1) and σ = 1 that bound ends at 1/6 per dim, the exact
            one at −0.226.
        entropy: H(c) in nats of each code, [n_codes], or of some codes by name, for a prior that
            is not the spec's: one that is learned, or one that a data set has. It replaces the
            convention's.

    Returns:
        [n_codes], in nats.

    Raises:
        ValueError: a shape, name or convention that does not fit.
    """
    n_codes = len(spec.codes)
    if per_code.shape != (n_codes,):
        raise mismatch("per_code", f"shape [{n_codes}]", list(per_code.shape))
    if convention not in ("exact", "openai"):
        raise mismatch("convention", "exact or openai", convention)
    own = list(spec.entropy())
    if convention == "openai":
        for i, code in enumerate(spec.codes):
            if isinstance(code, Uniform):
                second_moment = (code.low**2 + code.low * code.high + code.high**2) / 3
                own[i] = code.dim * 0.5 * (LOG_2PI + second_moment)
    if isinstance(entropy, Mapping):
        unknown = [str(name) for name in entropy if name not in spec.names]
        if unknown:
            names = ", ".join(spec.names)
            raise mismatch("entropy", f"names of codes ({names})", ", ".join(unknown))
        own = [float(entropy.get(name, prior)) for name, prior in zip(spec.names, own, strict=True)]
    elif entropy is not None:
        entropies = torch.as_tensor(entropy, dtype=per_code.dtype, device=per_code.device)
        if entropies.shape != (n_codes,):
            raise mismatch("entropy", f"shape [{n_codes}]", list(entropies.shape))
        return entropies - per_code
    return per_code.new_tensor(own) - per_code


def pack(heads: Iterable[Tensor] | Mapping[str, Tensor]) -> Tensor:
    """Join Q heads [B, k] or [B, k, 1, 1], given in the spec's order, into one q [B, Σk].

    A learned-σ code's head is its means, then its log-variances. A dict's heads are joined in the
    dict's own order. Widths are not checked here: `spec.pack`, and `info_loss` itself, take heads
    and check them code by code.
    """
    tensors = list(heads.values() if isinstance(heads, Mapping) else heads)
    if len(tensors) == 0:
        raise mismatch("heads", "at least one tensor", "none")
    for i, head in enumerate(tensors):
        if not isinstance(head, Tensor):
            raise mismatch(f"heads[{i}]", "a tensor", type(head).__name__)
        if head.ndim == 4 and head.shape[2:] == (1, 1):
            tensors[i] = head.flatten(1)
    several = [head.shape[0] for head in tensors if head.ndim == 2]
    batch = several[0] if several else "B"
    for i, head in enumerate(tensors):
        if head.ndim != 2 or head.shape[0] != batch:
            advice = "" if head.ndim != 1 else "the batch dimension is missing: don't squeeze() it"
            raise mismatch(f"heads[{i}]", f"shape [{batch}, k]", list(head.shape), advice)
        if head.device != tensors[0].device:
            raise mismatch(f"heads[{i}]'s device", tensors[0].device, head.device)
    return torch.cat(tensors, dim=1)
