"""Adapter from a LatentSpec to `fastinfogan_kernels`, which it imports on first use."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..latents import Angle, Bernoulli, Categorical, LatentSpec

if TYPE_CHECKING:
    from fastinfogan_kernels import Layout
    from fastinfogan_kernels.launch import Call

    from .adversarial import Adversarial, Player
    from .reference import Inputs


@lru_cache(maxsize=1)
def _is_installed() -> bool:
    try:
        import fastinfogan_kernels
    except ImportError:
        return False
    return fastinfogan_kernels.available()


def available() -> bool:
    """Return whether the kernels and triton are installed; imports neither triton nor a driver."""
    if torch.compiler.is_compiling():
        return True  # or the import says so
    return _is_installed()


def _build(spec: LatentSpec) -> Layout:
    from fastinfogan_kernels import make_layout

    codes = []
    for code in spec.codes:
        if isinstance(code, Categorical):
            codes.append(("categorical", code.n))
        elif isinstance(code, Bernoulli):
            codes.append(("bernoulli", 1))
        elif isinstance(code, Angle):
            codes.append(("angle" if code.concentration == "fixed" else "learned_angle", 1))
        else:
            codes.append((code.sigma, code.dim))
    return make_layout(codes)


def _weights(spec: LatentSpec, device: torch.device) -> Tensor:
    return torch.tensor([code.weight for code in spec.codes], dtype=torch.float32, device=device)


_cached_layout = lru_cache(maxsize=256)(_build)


# Kept for good, since a captured graph holds their address.
_weights_of: dict[tuple[LatentSpec, torch.device], Tensor] = {}


def _cached_weights(spec: LatentSpec, device: torch.device) -> Tensor:
    weights = _weights_of.get((spec, device))
    if weights is None:
        from fastinfogan_kernels.memory import keep

        # of two threads that come here at once, both get the first one's
        made = keep(device, lambda: _weights(spec, device))
        weights = _weights_of.setdefault((spec, device), made)
    return weights


def layout_of(spec: LatentSpec) -> Layout:
    """Return how the spec's codes lie in q."""
    return _build(spec) if torch.compiler.is_compiling() else _cached_layout(spec)


def own_weights(spec: LatentSpec, q: Tensor) -> Tensor:
    """Return the codes' own weights, fp32 [n_codes] on q's device, copied there once."""
    real = type(q) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()
    return (_cached_weights if real else _weights)(spec, q.device)


def _call(inputs: Inputs) -> Call:
    from fastinfogan_kernels.launch import Call

    q, spec, categorical, continuous, weights, reduction, sigma, labelled = inputs
    return Call(
        q,
        layout_of(spec),
        categorical,
        continuous,
        own_weights(spec, q) if weights is None else weights,
        sigma=sigma,
        reduction=reduction,  # type: ignore[arg-type]
        labelled=labelled,
    )


def info_loss(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return (total, NLL per code), as `reference.plain_loss`, in one launch."""
    from fastinfogan_kernels import functional

    return functional.info_loss(_call(inputs))


def head_loss(
    logits: Tensor, inputs: Inputs, adversarial: Adversarial, player: Player, real: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (total, NLL per code, adversarial loss) in one launch."""
    from fastinfogan_kernels import functional

    call = _call(inputs)._replace(logits=logits, adversarial=adversarial, player=player, real=real)
    return functional.head_loss(call)
