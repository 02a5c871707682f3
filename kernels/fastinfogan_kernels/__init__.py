"""Triton kernels for InfoGAN: the information loss of all codes, and the sampling of latents.

Imports torch, and triton when a kernel is first used: importing this package works without a GPU,
without a driver and without triton.
"""

from __future__ import annotations

import importlib.util
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from .layout import Layout, make_layout

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Layout", "available", "info_loss_forward_backward", "make_layout"]


def __getattr__(name: str) -> ModuleType:
    """Import `functional` or `sampling` when it is first used."""
    if name in ("functional", "sampling"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def available() -> bool:
    """Return whether triton is installed. Never raises; imports neither triton nor a driver."""
    try:
        return importlib.util.find_spec("triton") is not None
    except (ImportError, ValueError):
        return False


def info_loss_forward_backward(
    q: Tensor,
    layout: Layout,
    categorical: Tensor,
    continuous: Tensor,
    weights: Tensor,
    sigma: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Compute the information loss of a batch and its gradient, in one launch.

    Args:
        q: Q's output [B, layout.q_dim], fp32, bf16 or fp16, any strides; never written.
        layout: `make_layout` of the codes.
        categorical: [B, layout.n_cat], any integer dtype.
        continuous: [B, layout.n_cont], any floating dtype.
        weights: [layout.n_codes], read on the device.
        sigma: σ of the codes whose kind is "fixed".

    Returns:
        per_code_sums, fp32 [n_codes]: NLL in nats summed over the batch, unweighted; and dq
        [B, q_dim]: the gradient of Σ_codes weight · sum by q, in q's dtype (fp32 for an fp16 q,
        whose range it may leave).

    Raises:
        ValueError: a tensor that does not fit the layout, or a device that the kernel can't use.
    """
    from .launch import Call, launch

    call = Call(q, layout, categorical, continuous, weights, sigma=sigma, reduction="sum")
    out = launch(call._replace(code_sums=True))
    assert out.dq is not None
    return out.per_code, out.dq
