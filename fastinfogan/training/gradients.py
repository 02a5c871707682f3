"""The gradients of one update, as pure functions.

They mutate nothing but running buffers: BatchNorm's, of which D's and Q's follow the real batches,
G's the batches that it is trained on, and `Balance`'s. Nothing here reads a value back to the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import Adversarial, Routing
from ..latents import LatentBatch, LatentSpec
from ..losses import head_loss, info_loss
from ..losses.adversarial import Player, adversarial_losses
from ..networks import Discriminator, Generator
from ..networks.convolution import Stats, asking
from ..terms.invariance import RealTerms
from ..terms.penalty import Balance, gradient_penalty
from ..terms.warp import Warped

Gradients = tuple[Tensor, ...]
Scale = Callable[[Tensor], Tensor]  # multiplies a loss, by fp16's loss scale


@dataclass(frozen=True)
class Objective:
    """What is minimised: V(D, G) − λ·L_I (eq. 5), and whom the second term trains."""

    spec: LatentSpec
    weights: Tensor  # [n_codes] on the device: λ times each code's own weight
    routing: Routing
    backend: str = "auto"
    real: RealTerms | None = None  # what Q is asked on real images, an extension
    adversarial: Adversarial = "nonsaturating"
    smoothing: float = 0.0  # D's target for real images is 1 less this
    r1: float = 0.0  # γ of the penalty on D's gradient at real images
    r2: float = 0.0  # and at generated ones
    balance: Balance | None = None  # what follows the codes' pulls

    def losses(
        self,
        player: Player,
        logits: Tensor,
        q: Tensor,
        latents: LatentBatch,
        of_real: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(adversarial loss, λ-weighted NLL, NLL per code in nats).

        logits: D's, of real rows, for D alone, and then of the generated ones; q: of these.
        of_real: D's logits of real rows, for G where the objective compares them.
        """
        if self.adversarial not in ("nonsaturating", "hinge"):
            return self._losses_apart(player, logits, q, latents, of_real)
        total, per_code, adversarial = head_loss(
            logits,
            q,
            self.spec,
            latents.categorical,
            latents.continuous,
            player=player,
            adversarial=self.adversarial,
            weights=self.weights,
            backend=self.backend,  # type: ignore[arg-type]
            validate=False,
        )
        if self.smoothing and player == "discriminator":
            adversarial = adversarial + self.smoothing * _mean(logits[: -len(q)])
        return adversarial, total, per_code

    def _losses_apart(
        self,
        player: Player,
        logits: Tensor,
        q: Tensor,
        latents: LatentBatch,
        of_real: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same for the objectives that `head_loss` does not have."""
        d_loss, g_loss = adversarial_losses(self.adversarial)
        information = info_loss(
            q,
            self.spec,
            latents.categorical,
            latents.continuous,
            weights=self.weights,
            backend=self.backend,  # type: ignore[arg-type]
            validate=False,
        )
        if player == "discriminator":
            real, fake = logits[: -len(q)], logits[-len(q) :]
            return d_loss(real, fake), information.total, information.per_code
        return g_loss(logits, of_real), information.total, information.per_code

    def penalty(self, discriminator: Discriminator, real: Tensor, fake: Tensor) -> Tensor:
        """γ/2 times D's squared gradients at real and at generated images; for γ that are not 0."""
        kinds = [(gamma, x) for gamma, x in ((self.r1, real), (self.r2, fake)) if gamma]
        parts = [gamma / 2 * gradient_penalty(discriminator, x) for gamma, x in kinds]
        return torch.stack(parts).sum()


class DTerms(NamedTuple):
    """D's step, each a device scalar but nll [n_codes]."""

    loss: Tensor  # adversarial
    real: Tensor  # mean of D(x) on real images
    fake: Tensor  # mean of D(G(z))
    nll: Tensor
    real_information: Tensor  # nats, of real and warped images, or of two upright copies; or 0
    penalty: Tensor  # on D's gradients, with its weights; 0 where there is none


class GTerms(NamedTuple):
    """G's step."""

    loss: Tensor  # adversarial
    nll: Tensor
    contrastive: Tensor  # InfoGAN-CR's cross entropy, nats; 0 before its start or where it is not


class Networks(NamedTuple):
    """The pair."""

    generator: Generator
    discriminator: Discriminator

    def split(self, routing: Routing) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters that D's step and that G's step trains; in the latter G's come first."""
        q = self.discriminator.q_parameters()
        q_ids = {id(p) for p in q}
        d = [p for p in self.discriminator.parameters() if id(p) not in q_ids]
        g = list(self.generator.parameters())
        return (d, g + q) if routing == "generator-step" else (d + q, g)


def unscaled(loss: Tensor) -> Tensor:
    """No loss scale."""
    return loss


def d_grads(
    networks: Networks,
    objective: Objective,
    params: Sequence[nn.Parameter],
    real: Tensor,
    latents: LatentBatch,
    scale: Scale = unscaled,
    *,
    warped: Warped | None = None,
    probes: Tensor | None = None,
    upright: Tensor | None = None,
    fake: Tensor | None = None,
    together: bool = True,
) -> tuple[Gradients, DTerms]:
    """Gradients of D's loss, −log D(x) − log(1 − D(G(z))) + λ·NLL, in `params`.

    Or with another adversarial loss in the place of the first two terms. With `warped` or `upright`
    the information that Q finds on real images is added, for its weight; and the gradient
    penalties, if the objective has them.

    Args:
        real: images [B, C, H, W] in the generator's range.
        latents: a batch of as many rows.
        scale: multiplies the loss (fp16's loss scale).
        warped: warped copies of `real`, in the same order.
        probes: directions like `real` from which adversarial copies are looked for, if they are.
        upright: two upright copies of each image, [2B, C, H, W], all first ones first.
        fake: G(latents), where it was begun before (by `generate`).
        together: all images go through D in one pass, those of a kind normalised by their own
            statistics; the same as a pass for each, to rounding.
    """
    if fake is None:
        with torch.no_grad():
            fake = networks.generator(latents.input, "batch")
    fake = fake.detach()
    kinds = [x.to(fake.dtype) for x in (real, fake, *_kinds(warped, upright))]
    of_real, of_fake, *of_copies = _features(networks, kinds, together)
    copied = Copied(kinds[0], warped, of_copies, probes)
    total, terms, _ = _d_loss(networks, objective, of_real, of_fake, latents, copied)
    if objective.r1 or objective.r2:
        penalty = objective.penalty(networks.discriminator, *kinds[:2])
        total, terms = total + penalty, terms._replace(penalty=penalty.detach())
    with asking("weights"):
        return torch.autograd.grad(scale(total), params), terms


def _kinds(warped: Warped | None, upright: Tensor | None) -> list[Tensor]:
    """The copies of real images that D is to see, in parts of as many rows."""
    parts = [] if upright is None else [*upright.chunk(2)]
    return parts if warped is None else [warped.images, *parts]


def _features(
    networks: Networks, kinds: Sequence[Tensor], together: bool = True
) -> tuple[Tensor, ...]:
    """D's features of as many images of each kind; the running buffers follow the first."""
    trunk = networks.discriminator.trunk
    others: list[Stats] = ["batch"] * (len(kinds) - 1)
    stats: tuple[Stats, ...] = ("update", *others)
    if together and len(kinds) > 1:
        return trunk(torch.cat(list(kinds)), stats).chunk(len(kinds))
    return tuple(trunk(images, s) for images, s in zip(kinds, stats, strict=True))


class Copied(NamedTuple):
    """What the terms on real images need."""

    real: Tensor  # the images, in the dtype that D computes in
    warped: Warped | None
    features: Sequence[Tensor]  # D's of the warped copies and of the upright ones, if there are any
    probes: Tensor | None


def _d_loss(
    networks: Networks,
    objective: Objective,
    of_real: Tensor,
    of_fake: Tensor,
    latents: LatentBatch,
    copied: Copied,
) -> tuple[Tensor, DTerms, Tensor]:
    """D's loss from its features, and D's logits of real images."""
    discriminator = networks.discriminator
    logits = torch.cat([discriminator.logit(x) for x in (of_real, of_fake)])
    shared = of_fake if objective.routing == "openai" else of_fake.detach()
    q = discriminator.q(shared, "batch")
    loss, information, nll = objective.losses("discriminator", logits, q, latents)
    total = loss if objective.routing == "generator-step" else loss + information
    terms, none = objective.real, torch.zeros_like(loss)
    nats = none
    if terms is None or not copied.features:
        # Q has no loss on real images, but its running statistics are theirs.
        with torch.no_grad():
            on_real = discriminator.q(of_real, "update")
    else:
        on_real = discriminator.q(of_real, "update")
        on_copies = [discriminator.q(x, "batch") for x in copied.features]
        if copied.warped is not None:
            of_copies, nats = terms.loss(on_real, on_copies.pop(0), copied.warped.change)
            total = total + of_copies
        if on_copies:
            of_copies, nats = terms.of_upright(on_real, *on_copies)
            total = total + of_copies
    if terms is not None and copied.probes is not None:
        divergence = terms.adversarial(discriminator, copied.real, on_real, copied.probes)
        total = total + terms.vat * divergence
    real_logits, fake_logits = logits.detach().chunk(2)
    on_real, on_fake = _probability(real_logits), _probability(fake_logits)
    told = DTerms(loss.detach(), on_real, on_fake, nll, nats.detach(), none.detach())
    return total, told, real_logits


def _mean(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).mean()


def _probability(logit: Tensor) -> Tensor:
    """Mean of D's output; near 1 bf16 has no more than two digits."""
    wide = torch.promote_types(logit.dtype, torch.float32)
    return logit.to(wide).sigmoid().mean()


def g_grads(
    networks: Networks,
    objective: Objective,
    params: Sequence[nn.Parameter],
    latents: LatentBatch,
    scale: Scale = unscaled,
    *,
    fake: Tensor | None = None,
    real: Tensor | None = None,
) -> tuple[Gradients, GTerms]:
    """Gradients of G's loss, −log D(G(z)) + λ·NLL, in `params`, of which G's are the first.

    Or with another adversarial loss in the place of the first term.

    D is frozen: autograd computes the gradients of `params` alone, and D's and Q's running
    buffers stay as they are.

    Args:
        fake: G(latents), where it was begun before (by `generate`).
        real: as many real images [B, C, H, W], for a relativistic objective alone.
    """
    if fake is None:
        fake = generate(networks, latents)
    discriminator = networks.discriminator
    of_real = None
    if objective.adversarial == "relativistic":
        assert real is not None
        with torch.no_grad():
            of_real = discriminator.logit(discriminator.trunk(real.to(fake.dtype), "batch"))
    features = discriminator.trunk(fake, "batch")
    return _g_grads(networks, objective, params, latents, scale, fake, fake, features, of_real)


def generate(networks: Networks, latents: LatentBatch) -> Tensor:
    """G's own forward pass, which its running buffers follow: it does not depend on D."""
    return networks.generator(latents.input, "update")


def _g_grads(
    networks: Networks,
    objective: Objective,
    params: Sequence[nn.Parameter],
    latents: LatentBatch,
    scale: Scale,
    fake: Tensor,
    seen: Tensor,
    features: Tensor,
    of_real: Tensor | None,
) -> tuple[Gradients, GTerms]:
    """`fake` is G's output, `seen` the same as D took it, `features` D's of it.

    `of_real` are D's logits of real images, where the objective compares them.
    """
    discriminator = networks.discriminator
    q = discriminator.q(features, "batch")
    logits = discriminator.logit(features)
    loss, information, nll = objective.losses("generator", logits, q, latents, of_real)
    if objective.balance is not None:
        objective.balance.follow(q, latents)
    own = len(list(networks.generator.parameters()))
    with asking("inputs"):
        of_fake, *of_q = torch.autograd.grad(scale(loss + information), (seen, *params[own:]))
    of_g = torch.autograd.grad(fake, params[:own], of_fake)
    return (*of_g, *of_q), GTerms(loss.detach(), nll, torch.zeros_like(loss.detach()))


def shared_grads(
    networks: Networks,
    objective: Objective,
    d_params: Sequence[nn.Parameter],
    g_params: Sequence[nn.Parameter],
    real: Tensor,
    latents: LatentBatch,
    scale: Scale = unscaled,
    *,
    warped: Warped | None = None,
    probes: Tensor | None = None,
    upright: Tensor | None = None,
) -> tuple[Gradients, DTerms, Gradients, GTerms]:
    """What `d_grads` and `g_grads` give for the same latents and weights, from one pass.

    One forward pass of G and one of D over its images serve both losses, so both players move from
    the same point, where the paper's alternating step lets G answer the D that has just moved.
    D's backward pass is not shared: the adversarial gradient turns its sign between the players,
    the information gradient does not, and BatchNorm couples the rows, so no rescaling by rows
    makes one of the other. But G's asks D for no gradient of its weights.
    """
    discriminator = networks.discriminator
    fake = generate(networks, latents)
    # A leaf tells the layers that D's gradients need none of the images. A compiler sees that by
    # itself, and torch before 2.13 cannot trace requires_grad_.
    seen = fake if torch.compiler.is_compiling() else fake.detach().requires_grad_()
    kinds = [x.to(fake.dtype) for x in (real, *_kinds(warped, upright))]
    of_real, *of_copies = _features(networks, kinds)
    of_fake = discriminator.trunk(seen, "batch")
    copied = Copied(kinds[0], warped, of_copies, probes)
    total, d_terms, real_logits = _d_loss(networks, objective, of_real, of_fake, latents, copied)
    if objective.r1 or objective.r2:
        penalty = objective.penalty(discriminator, kinds[0], seen)
        total, d_terms = total + penalty, d_terms._replace(penalty=penalty.detach())
    with asking("weights"):
        of_d = torch.autograd.grad(scale(total), d_params, retain_graph=True)
    of_g, g_terms = _g_grads(
        networks, objective, g_params, latents, scale, fake, seen, of_fake, real_logits
    )
    return of_d, d_terms, of_g, g_terms
