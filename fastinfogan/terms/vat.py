"""Virtual adversarial training: categories that survive the worst small change of a real image.

An extension of InfoGAN. Warps know only the changes that somebody thought of. A virtual adversarial
copy is the small change of an image that alters its categories most, found by their gradient; the
categories must not change under it, so no border between two categories lies where images are.

Miyato et al. 2018 ("Virtual adversarial training", algorithm 1); for clusters: Hu et al. 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import philox
from ..errors import UserError
from ..latents import LatentSpec
from ..networks.base import Discriminator
from ..networks.convolution import only_grads_of
from ..options import Group, option
from ..philox import Stream
from .invariance import SHARPNESS, needs_categories
from .protocol import Address, Extra, Seen, Term, widen

PROBE_LENGTH = 1.0  # of the random step from which the worst direction is searched
_EPSILON = 1e-10


@dataclass(frozen=True)
class VatOptions(Group):
    """Categories that withstand the small change of a real image that alters them most (virtual
    adversarial training: Hu et al. 2017, Miyato et al. 2018); an extension of InfoGAN that takes
    two more passes of D. Example: --vat.weight 3 --vat.start 700 --vat.stop 1000
    """

    prefix: ClassVar[str] = "vat"
    weight: float = option(0.0, "Weight of the term; 0: off.", at_least=0, alias="vat")
    start: int = option(
        0,
        "First update, counted from 0, that has the term. Too early it keeps categories together "
        "that the warps would separate.",
        at_least=0,
        alias="vat-start",
    )
    stop: int = option(
        0, "First update that has it no more; 0: it stays.", at_least=0, alias="vat-stop"
    )
    radius: float = option(
        1.5,
        "Euclidean length of the change, over all of an image's values.",
        above=0,
        alias="vat-radius",
    )

    def check(self, spec: LatentSpec) -> None:
        """Raise UserError for values that no run with this spec can have."""
        super().check(spec)
        if self.weight:
            needs_categories(self, spec)
        if 0 < self.stop <= self.start:
            raise UserError(
                f"--{self.prefix}.stop: expected 0 or more than --{self.prefix}.start "
                f"{self.start}, got {self.stop}"
            )


@dataclass(frozen=True)
class Probes:
    """The recipe for random directions, one per image, with entries ±1."""

    def __call__(self, real: Tensor, at: Address) -> Extra:
        """Return one tensor like `real`."""
        pixels = real[0].numel()
        words = at.words(Stream.PROBE, real, -(-pixels // 32))
        signs = philox.signs(words)[:, :pixels].view(real.shape)
        # torch before 2.13 cannot trace requires_grad_, so the directions bring it.
        return Extra(tensors=(signs.requires_grad_(),))


@dataclass(frozen=True)
class VirtualAdversarial(Term):
    """KL divergence of the categories under the worst change of length `radius`.

    Logs the divergence in nats.
    """

    weight: float
    categories: slice  # columns of Q's output
    radius: float = 1.5  # Euclidean length of the change
    start: int = 0  # first update that has the term
    stop: int = 0  # first update that does not; 0: none
    recipe: Probes = Probes()
    name = "vat"
    fp16: ClassVar[bool] = False
    real_only: ClassVar[bool] = True

    def active(self, step: int) -> bool:
        """Return whether `step` lies in start … stop − 1."""
        return step >= self.start and (not self.stop or step < self.stop)

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        """Return weight · divergence, and the divergence."""
        value = self.divergence(seen.discriminator, seen.real, seen.q, seen.tensors[0])
        return self.weight * value, value

    def divergence(
        self, discriminator: Discriminator, images: Tensor, q: Tensor, probes: Tensor
    ) -> Tensor:
        """Return KL(p(x) ‖ p(x + r)) of the categories in nats, for the r of length `radius` that
        makes most of it: one power iteration from `probes`.

        Two more passes of D, whose batch statistics are the copies' own and which no buffer
        follows; the first has no gradient in D's parameters.

        Args:
            images: real images [B, C, H, W], in the dtype that D computes in.
            q: Q's output on them, [B, q_dim]; the target, to which no gradient goes.
            probes: directions [B, C, H, W], of any length. To be compiled by torch before 2.13
                they must require grad; none is computed for them.
        """
        target = q.detach()
        probe = images + PROBE_LENGTH * _unit(probes).to(images.dtype)
        if not probe.requires_grad:  # not every compiler can set this within a graph
            probe.requires_grad_()
        value = self._divergence(discriminator, target, probe)
        with only_grads_of("inputs"):
            (slope,) = torch.autograd.grad(value, probe)
        copies = (images + self.radius * _unit(slope).to(images.dtype)).detach()
        return self._divergence(discriminator, target, copies)

    def _divergence(self, discriminator: Discriminator, target: Tensor, images: Tensor) -> Tensor:
        q = discriminator.q(discriminator.q_trunk(images, "batch"), "batch")
        log_p, log_q = (
            (widen(x[:, self.categories]) * SHARPNESS).log_softmax(1) for x in (target, q)
        )
        return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def _unit(directions: Tensor) -> Tensor:
    """Return each row [C, H, W] divided by its length, in fp32 or wider."""
    wide = widen(directions)
    length = wide.flatten(1).norm(dim=1).clamp_min(_EPSILON)
    return wide / length.view(-1, 1, 1, 1)
