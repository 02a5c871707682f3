"""R1 and R2: penalties on D's gradient at real and at generated images.

Mescheder et al. 2018 ("Which training methods for GANs do actually converge?"), eq. 9 and 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..networks.base import Discriminator
from ..networks.convolution import only_grads_of
from ..options import Group, option
from .protocol import Seen, Term, widen


@dataclass(frozen=True)
class PenaltyOptions(Group):
    """Penalties on D's gradient (Mescheder et al. 2018). Example: --penalty.r1 10"""

    prefix: ClassVar[str] = "penalty"
    r1: float = option(
        0.0,
        "γ: γ/2 times D's squared gradient at real images is added to D's loss in every update; "
        "0: off.",
        at_least=0,
        alias="r1",
    )
    r2: float = option(0.0, "γ of the same at generated images; 0: off.", at_least=0, alias="r2")


@dataclass(frozen=True)
class GradientPenalty(Term):
    """γ/2 times D's squared gradient at real images (R1) and at generated ones (R2).

    Logs the penalty with its weights.
    """

    r1: float  # γ at real images
    r2: float  # γ at generated images
    name = "penalty"
    differentiated_twice: ClassVar[bool] = True
    fp16: ClassVar[bool] = False

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        """Return the sum of the penalties whose γ is not 0."""
        kinds = ((self.r1, seen.real), (self.r2, seen.fake))
        parts = [
            gamma / 2 * gradient_penalty(seen.discriminator, images)
            for gamma, images in kinds
            if gamma
        ]
        return torch.stack(parts).sum(), None


def gradient_penalty(discriminator: Discriminator, images: Tensor) -> Tensor:
    """Return E‖∇ₓD(x)‖² of D's logit, a scalar that is differentiable in D's parameters.

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
    with only_grads_of("inputs"):
        (slopes,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return widen(slopes).square().flatten(1).sum(1).mean()
