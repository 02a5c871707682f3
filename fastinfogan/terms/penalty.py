"""What may be added to the game: gradient penalties on D, codes balanced by their gradients.

Each is off unless it is asked for, and then costs what its function does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..latents import LatentBatch, LatentSpec
from ..losses import Backend, info_loss
from ..networks.base import Discriminator
from ..networks.convolution import asking

MOST = 10.0  # times what its own weight says a code may gain by balancing, or lose


def gradient_penalty(discriminator: Discriminator, images: Tensor) -> Tensor:
    """E‖∇ₓD(x)‖² of D's logit, a scalar that is differentiable in D's parameters.

    Mescheder et al. 2018 ("Which training methods for GANs do actually converge?"), eq. 9 on real
    images, eq. 10 on generated ones, less the factor γ/2. Every image's gradient comes from the
    one of the logits' sum. Where D has BatchNorm, which couples the rows of a batch, that is not
    quite the paper's: an image's gradient then holds what it does to the other rows' logits too.

    A pass of its own, whose batch statistics are the images' own and which no buffer follows; it
    must run eagerly, as torch.compile does not differentiate twice.

    Args:
        images: [B, C, H, W] in the generator's range, in the dtype that D computes in.
    """
    images = images.detach().requires_grad_()
    logits = discriminator.logit(discriminator.trunk(images, "batch"))
    with asking("inputs"):
        (slopes,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    wide = slopes.to(torch.promote_types(slopes.dtype, torch.float32))
    return wide.square().flatten(1).sum(1).mean()


class Balance(nn.Module):
    """Weights of the codes by which their losses pull alike: gradient-norm balancing.

    A code's pull is the norm of its NLL's gradient at Q's output. Each code's weight is multiplied
    by the codes' mean pull over its own, between 1/`MOST` and `MOST`, so that the pulls stand as
    the codes' own weights do. (GradNorm, Chen et al. 2018, learns such weights from the gradients
    of shared layers; here they are computed, from the gradients of Q's output, which are at hand.)

    `pulls` [n_codes] are running averages, to a factor that is the same for all. As BatchNorm's
    buffers they are each rank's own until they are averaged, and are part of a checkpoint.
    """

    pulls: Tensor

    def __init__(self, spec: LatentSpec, decay: float, backend: Backend = "auto") -> None:
        super().__init__()
        self.spec, self.decay, self.backend = spec, decay, backend
        self.register_buffer("pulls", torch.zeros(len(spec.codes)))

    def factors(self) -> Tensor:
        """What multiplies the weights, [n_codes]; 1 before the first batch."""
        tiny = torch.finfo(self.pulls.dtype).tiny
        return ((self.pulls.mean() + tiny) / (self.pulls + tiny)).clamp(1 / MOST, MOST)

    def follow(self, q: Tensor, latents: LatentBatch) -> None:
        """Take up a batch: Q's output [B, q_dim] on images of these latents."""
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
