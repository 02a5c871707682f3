"""Weights of the codes by which their losses have gradients of equal norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..latents import LatentBatch, LatentSpec
from ..losses import Backend, info_loss

MAX_FACTOR = 10.0  # by which balancing may multiply or divide a code's own weight


class Balance(nn.Module):
    """Weights of the codes by which their losses pull alike: gradient-norm balancing.

    A code's pull is the norm of its NLL's gradient at Q's output. Each code's weight is multiplied
    by the codes' mean pull over its own, between 1/`MAX_FACTOR` and `MAX_FACTOR`, so that the pulls
    stand as the codes' own weights do. (GradNorm, Chen et al. 2018, learns such weights from the
    gradients of shared layers; here they are computed, from the gradients of Q's output.)

    `pulls` [n_codes] are running averages, to a factor that is the same for all. As BatchNorm's
    buffers they are each rank's own until they are averaged, and are part of a checkpoint.
    """

    pulls: Tensor

    def __init__(self, spec: LatentSpec, decay: float, backend: Backend = "auto") -> None:
        super().__init__()
        self.spec, self.decay, self.backend = spec, decay, backend
        self.register_buffer("pulls", torch.zeros(len(spec.codes)))

    def factors(self) -> Tensor:
        """Return the factors of the weights, [n_codes]; 1 before the first batch."""
        tiny = torch.finfo(self.pulls.dtype).tiny
        return ((self.pulls.mean() + tiny) / (self.pulls + tiny)).clamp(1 / MAX_FACTOR, MAX_FACTOR)

    def follow(self, q: Tensor, latents: LatentBatch) -> None:
        """Move the averages by a batch: Q's output [B, q_dim] on images of these latents."""
        with torch.enable_grad():
            wide = q.to(torch.promote_types(q.dtype, torch.float32))
            if not wide.requires_grad:
                wide = wide.detach().requires_grad_()
            loss = info_loss(
                wide,
                self.spec,
                latents.categorical,
                latents.continuous,
                weights=torch.ones_like(self.pulls),
                backend=self.backend,
                validate=False,
            )
            (gradient,) = torch.autograd.grad(loss.total, wide)
        norms = [gradient[:, slot.q].norm() for slot in self.spec.slots]
        self.pulls.lerp_(torch.stack(norms).to(self.pulls.dtype), 1 - self.decay)
