"""Information on real images: an extension of InfoGAN, off in `mnist-paper`.

The paper's term asks that Q can read the code off a *generated* image. It is at its ceiling long
before the categories are the classes, since nothing in it looks at real images. This one does:
the categories that Q gives a real image and a warped copy of it must tell as much as possible of
each other. Only what a warp leaves alone can, and only if all categories are used. No label is
seen; what is known beforehand is the choice of warps.

Continuous codes may follow what the categories ignore: one is to move with a warp's slant, say,
another with its stroke width. Then G, whose images Q must read, gives them that meaning.

The joint distribution is that of a rank's own batch: unlike the paper's losses, two ranks of B are
not one of 2B.

Where a category is to bear all of place, size and direction, copies without them say more than
chance would (`upright`).

Warps know only what was thought of. A virtual adversarial copy is the small change of an image that
alters its categories most, found by their gradient; they are to bear that too, and so no category
borders on another where there are images.

Mutual information of the two predictions: Ji, Henriques and Vedaldi 2019 ("Invariant information
clustering", eq. 3); of a prediction and its image under augmentation, or under an adversarial
change: Hu et al. 2017 (IMSAT); how that is found: Miyato et al. 2018 ("Virtual adversarial
training").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..networks.base import Discriminator
from ..networks.convolution import asking

# Categories start nearly equal, where mutual information is flat: one split grows, the others
# follow slowly or never, and digits stay together. Sharper predictions and a greater weight on
# using all categories start all of them at once (docs/quality.md has the figures).
SHARPNESS = 10.0  # multiplies the logits
BALANCE = 2.0  # weight of the categories' entropy; 1 is the mutual information itself
FOLLOWED = 0.75  # how far the greatest warp moves a code that follows it; a uniform one spans ±1
SPREAD = 3.0  # standard deviation of upright copies' logits, over the batch
PROBE = 1.0  # length of the random step from which the worst direction is looked for
_SMALL = 1e-10


class Information(NamedTuple):
    """Of two predictions of one batch."""

    objective: Tensor  # to be maximised
    nats: Tensor  # the mutual information


def mutual_information(first: Tensor, second: Tensor, balance: float = BALANCE) -> Information:
    """I(a; b) of two categorical predictions, in nats, and the objective that leads there.

    The joint distribution is the batch's mean of p(a|x)·p(b|x'), made symmetric (Ji et al. 2019,
    eq. 2 and 3); the objective is 2·balance·H(a) − H(a, b), which at balance 1 is I.

    Args:
        first, second: probabilities [B, K] of x and of its copy x', B ≥ 1, fp32 or wider.
    """
    joint = first.T @ second / first.shape[0]
    joint = ((joint + joint.T) / 2).clamp_min(_SMALL)
    marginal = joint.sum(1)
    entropy = -(marginal * marginal.log()).sum()
    together = -(joint * joint.log()).sum()
    return Information(2 * balance * entropy - together, 2 * entropy - together)


@dataclass(frozen=True)
class RealTerms:
    """What Q is asked on real images and their copies, warped, adversarial or upright."""

    weight: float = 0.0  # of the categories' information
    categories: slice | None = None  # their columns of Q's output
    follow: float = 0.0  # weight of the codes' following
    followers: tuple[int, ...] = ()  # columns of Q's output, the means of continuous codes
    changes: tuple[int, ...] = ()  # which column of `Warped.change` each follows
    vat: float = 0.0  # weight of the virtual adversarial copies
    radius: float = 1.5  # how far these are from the images
    upright: float = 0.0  # weight of the categories of upright copies

    def loss(self, q: Tensor, of_warped: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """(what is added to D's loss, the categories' information in nats).

        Args:
            q, of_warped: Q's output [B, q_dim] on real images and on their copies.
            change: [B, 6], as in `Warped`.
        """
        wide = torch.promote_types(q.dtype, torch.float32)
        q, of_warped = q.to(wide), of_warped.to(wide)
        total = nats = q.new_zeros(())
        if self.weight:
            assert self.categories is not None
            first, second = (x[:, self.categories] * SHARPNESS for x in (q, of_warped))
            objective, nats = mutual_information(first.softmax(1), second.softmax(1))
            total = total - self.weight * objective
        if self.follow:
            # Columns one by one: an index in a list is a tensor made anew, and copied to a device.
            for column, which in zip(self.followers, self.changes, strict=True):
                moved = of_warped[:, column] - q[:, column]
                miss = moved - FOLLOWED * change[:, which].to(wide)
                total = total + self.follow * miss.square().mean()
        return total, nats.detach()

    def of_upright(self, q: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """(what is added to D's loss, the information of upright copies in nats).

        The copies' categories must tell of each other; the image's are taught by theirs. Copies
        that are set upright are nearly one image for a network whose slope is bounded (spectral
        norm), so their logits are standardised over the batch before: else all stay alike.

        Args:
            q, first, second: Q's output [B, q_dim] on real images and two copies of each.
        """
        wide = torch.promote_types(q.dtype, torch.float32)
        q, *copies = (x[:, self.categories].to(wide) for x in (q, first, second))
        both = torch.cat(copies)
        variance, mean = torch.var_mean(both, 0, correction=0)
        one, other = (SPREAD * (both - mean) / (variance + _SMALL).sqrt()).softmax(1).chunk(2)
        objective, nats = mutual_information(one, other)
        taught = (one + other).detach() / 2
        told = (taught * (SHARPNESS * q).log_softmax(1)).sum(1).mean()
        return -self.upright * (objective + told), nats.detach()

    def adversarial(
        self, discriminator: Discriminator, images: Tensor, q: Tensor, probes: Tensor
    ) -> Tensor:
        """KL(p(x) ‖ p(x + r)) of the categories in nats, for the r of length `radius` that makes
        most of it: Miyato et al. 2018, algorithm 1, one power iteration, from `probes`.

        Two more passes of D, whose batch statistics are the copies' own and which no buffer
        follows; the first has no gradient in D's parameters.

        Args:
            images: real ones [B, C, H, W], in the dtype that D computes in.
            q: Q's output on them, [B, q_dim]; the target, to which no gradient goes.
            probes: directions [B, C, H, W], of any length. To be compiled by torch before 2.13
                they must require grad; none is computed for them.
        """
        target = q.detach()
        probe = images + PROBE * _unit(probes).to(images.dtype)
        if not probe.requires_grad:  # which not every compiler can be told within a graph
            probe.requires_grad_()
        found = self._divergence(discriminator, target, probe)
        with asking("inputs"):
            (slope,) = torch.autograd.grad(found, probe)
        copies = (images + self.radius * _unit(slope).to(images.dtype)).detach()
        return self._divergence(discriminator, target, copies)

    def _divergence(self, discriminator: Discriminator, target: Tensor, images: Tensor) -> Tensor:
        q = discriminator.q(discriminator.trunk(images, "batch"), "batch")
        wide = torch.promote_types(q.dtype, torch.float32)
        log_p, log_q = (
            (x[:, self.categories].to(wide) * SHARPNESS).log_softmax(1) for x in (target, q)
        )
        return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def _unit(directions: Tensor) -> Tensor:
    """Each row [C, H, W] divided by its length, in fp32 or wider."""
    wide = directions.to(torch.promote_types(directions.dtype, torch.float32))
    length = wide.flatten(1).norm(dim=1).clamp_min(_SMALL)
    return wide / length.view(-1, 1, 1, 1)
