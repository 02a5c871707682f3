"""The gradients of one update, as pure functions.

They change nothing but running buffers: BatchNorm's, of which D's and Q's follow the real batches
and G's the batches that it is trained on, and `Balance`'s. Nothing here reads a value back to the
host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..latents import LatentBatch, LatentSpec
from ..losses import adversarial_losses, head_loss, info_loss
from ..losses.adversarial import Player as Side
from ..networks import Discriminator, Generator
from ..networks.batchnorm import BatchStats, StatsPerPart
from ..networks.convolution import only_grads_of
from ..terms.protocol import Extra, Seen, TermSet, widen
from .balance import Balance

Routing = Literal["openai", "head", "generator-step"]
Gradients = tuple[Tensor, ...]
Trunk = Callable[[Tensor, StatsPerPart], Tensor]
Scale = Callable[[Tensor], Tensor]  # multiplies a loss, by fp16's loss scale
# (D's loss of real and generated logits, G's loss of generated logits and, where its attribute
# `needs_real` is true, of real ones), as `adversarial_losses` returns them.
AdversarialPair = tuple[Callable[..., Tensor], Callable[..., Tensor]]


@dataclass(frozen=True)
class Objective:
    """The game V(D, G) − λ·L_I (arXiv 1606.03657, eq. 5), and the routing of L_I's gradient."""

    spec: LatentSpec
    weights: Tensor  # [n_codes] on the device: λ times each code's own weight
    routing: Routing
    backend: str = "auto"
    adversarial: str | AdversarialPair = "nonsaturating"
    smoothing: float = 0.0  # D's target for real images is 1 less this
    balance: Balance | None = None  # follows the codes' gradients

    @property
    def needs_real(self) -> bool:
        """Return True if G's loss takes D's logits of real images."""
        if isinstance(self.adversarial, str):
            return self.adversarial == "relativistic"
        return bool(getattr(self.adversarial[1], "needs_real", False))

    def losses(
        self,
        side: Side,
        logits: Tensor,
        q: Tensor,
        latents: LatentBatch,
        of_real: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (adversarial loss, λ-weighted NLL, NLL per code in nats).

        Args:
            logits: D's logits [R + B]: of R real images, for D alone, then of B generated ones.
            q: Q's output on the generated images, [B, q_dim].
            of_real: D's logits of real images, for G where `needs_real`.
        """
        codes = (q, self.spec, latents.categorical, latents.continuous)
        if self.adversarial in ("nonsaturating", "hinge"):
            total, per_code, adversarial = head_loss(
                logits,
                *codes,
                player=side,
                adversarial=self.adversarial,  # type: ignore[arg-type]
                weights=self.weights,
                backend=self.backend,  # type: ignore[arg-type]
                validate=False,
            )
            if self.smoothing and side == "discriminator":
                adversarial = adversarial + self.smoothing * widen(logits[: -len(q)]).mean()
            return adversarial, total, per_code
        pair = self.adversarial
        d_loss, g_loss = adversarial_losses(pair) if isinstance(pair, str) else pair
        total, per_code = info_loss(
            *codes,
            weights=self.weights,
            backend=self.backend,  # type: ignore[arg-type]
            validate=False,
        )
        if side == "discriminator":
            adversarial = d_loss(logits[: -len(q)], logits[-len(q) :])
        else:
            adversarial = g_loss(logits, of_real) if self.needs_real else g_loss(logits)
        return adversarial, total, per_code


class DRecord(NamedTuple):
    """The values of D's step, each a device scalar but nll [n_codes]."""

    loss: Tensor  # adversarial
    real: Tensor  # mean of D(x) on real images
    fake: Tensor  # mean of D(G(z))
    nll: Tensor  # nats
    terms: dict[str, Tensor]  # of each loss term, by its name


class GRecord(NamedTuple):
    """The values of G's step, as in `DRecord`."""

    loss: Tensor
    nll: Tensor
    terms: dict[str, Tensor]


class Networks(NamedTuple):
    """The pair of networks."""

    generator: Generator
    discriminator: Discriminator

    def split(self, routing: Routing) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the parameters that D's step and that G's step trains; G's own come first."""
        q = self.discriminator.q_parameters()
        q_ids = {id(p) for p in q}
        d = [p for p in self.discriminator.parameters() if id(p) not in q_ids]
        g = list(self.generator.parameters())
        return (d, g + q) if routing == "generator-step" else (d + q, g)


NO_TERMS = TermSet()


def leave_unscaled(loss: Tensor) -> Tensor:
    """Return the loss as it is: no loss scale."""
    return loss


def d_grads(
    networks: Networks,
    objective: Objective,
    params: Sequence[nn.Parameter],
    real: Tensor,
    latents: LatentBatch,
    scale: Scale = leave_unscaled,
    *,
    terms: TermSet = NO_TERMS,
    extras: Sequence[Extra] = (),
    fake: Tensor | None = None,
) -> tuple[Gradients, DRecord]:
    """Return the gradients of D's loss in `params`, and its values.

    The loss is −log D(x) − log(1 − D(G(z))) + λ·NLL, or that of another adversarial objective, and
    the loss of each term. All images go through D in one pass, each kind normalised by its own
    statistics.

    Args:
        params: D's, and those of the terms' own networks.
        real: images [B, C, H, W] in the generator's range.
        latents: a batch of as many rows.
        scale: multiplies the loss (fp16's loss scale).
        terms, extras: D's terms, and what each of their recipes made of `real`.
        fake: G(latents), where `generate` has begun it.
    """
    if fake is None:
        with torch.no_grad():
            fake = networks.generator(latents.input, "batch")
    fake = fake.detach()
    kinds = [x.to(fake.dtype) for x in (real, fake, *_images(extras))]
    of_real, of_fake, *of_extra = _features(networks.discriminator, kinds, 2)
    batch = Batch(kinds[0], fake, latents, of_real, of_fake, of_extra)
    total, record, _ = _d_loss(networks, objective, batch, terms, extras)
    return _of_d(networks.discriminator, scale(total), params), record


def real_grads(
    networks: Networks,
    spec: LatentSpec,
    params: Sequence[nn.Parameter],
    real: Tensor,
    scale: Scale = leave_unscaled,
    *,
    terms: TermSet,
    extras: Sequence[Extra] = (),
) -> tuple[Gradients, dict[str, Tensor]]:
    """Return the gradients in `params` of terms on real images alone, and the terms' values.

    Nothing is generated and D's logit is not computed, so its layer's gradient is 0. Running
    buffers follow the real images, as in `d_grads`.

    Args:
        params: D's, and those of the terms' own networks.
        real: images [B, C, H, W] in the generator's range, in the dtype that D computes in.
        scale: multiplies the loss (fp16's loss scale).
        terms, extras: D's terms, one or more, all of them `real_only`, and what each of their
            recipes made of the batch.
    """
    discriminator = networks.discriminator
    kinds = [x.to(real.dtype) for x in (real, *_images(extras))]
    of_real, *of_extra = _features(discriminator, kinds, 0)
    q = widen(discriminator.q(of_real, "update"))
    q_extra = [widen(discriminator.q(x, "batch")) for x in of_extra]
    no_latents = LatentBatch(
        q.new_zeros(0, spec.input_dim),
        q.new_zeros(0, spec.n_cat, dtype=torch.int64),
        q.new_zeros(0, spec.n_cont),
    )
    seen = Seen(*networks, real, real[:0], no_latents, q, q[:0], q[:0, 0])
    total, logged = terms.add(q.new_zeros(()), seen, extras, q_extra)
    with only_grads_of("weights"):
        return torch.autograd.grad(scale(total), params, materialize_grads=True), logged


def g_grads(
    networks: Networks,
    objective: Objective,
    params: Sequence[nn.Parameter],
    latents: LatentBatch,
    scale: Scale = leave_unscaled,
    *,
    terms: TermSet = NO_TERMS,
    extras: Sequence[Extra] = (),
    fake: Tensor | None = None,
    real: Tensor | None = None,
) -> tuple[Gradients, GRecord]:
    """Return the gradients of G's loss in `params`, of which G's are the first, and its values.

    The loss is −log D(G(z)) + λ·NLL, or that of another adversarial objective, and the loss of each
    term. D is frozen: autograd computes the gradients of `params` alone, and D's and Q's running
    buffers stay as they are.

    Args:
        terms, extras: G's terms, and what each of their recipes made.
        fake: G(latents), where `generate` has begun it.
        real: as many real images [B, C, H, W], for an objective or terms that need them.
    """
    if fake is None:
        fake = generate(networks, latents)
    discriminator = networks.discriminator
    of_real = None
    if objective.needs_real:
        assert real is not None
        with torch.no_grad():
            of_real = discriminator.logit(discriminator.trunk(real.to(fake.dtype), "batch"))
    features = discriminator.trunk(fake, "batch")
    batch = Batch(fake[:0] if real is None else real.to(fake.dtype), fake, latents, None, features)
    return _g_grads(networks, objective, params, batch, fake, scale, terms, extras, of_real)


def shared_grads(
    networks: Networks,
    objective: Objective,
    d_params: Sequence[nn.Parameter],
    g_params: Sequence[nn.Parameter],
    real: Tensor,
    latents: LatentBatch,
    scale: Scale = leave_unscaled,
    *,
    d_terms: TermSet = NO_TERMS,
    d_extras: Sequence[Extra] = (),
    g_terms: TermSet = NO_TERMS,
    g_extras: Sequence[Extra] = (),
) -> tuple[Gradients, DRecord, Gradients, GRecord]:
    """Return what `d_grads` and `g_grads` give for the same latents and weights, from one pass.

    One forward pass of G and one of D over its images serve both losses, so both players move from
    the same point, where the paper's alternating step lets G answer the D that has just moved.
    D's backward pass is not shared: the adversarial gradient turns its sign between the players,
    the information gradient does not, and BatchNorm couples the rows, so no rescaling by rows
    makes one of the other. But G's pass computes no gradient of D's weights.
    """
    discriminator = networks.discriminator
    fake = generate(networks, latents)
    # A leaf tells the layers that D's gradients need none of the images. A compiler sees that by
    # itself, and torch before 2.13 cannot trace requires_grad_.
    leaf = fake if torch.compiler.is_compiling() else fake.detach().requires_grad_()
    kinds = [x.to(fake.dtype) for x in (real, *_images(d_extras))]
    of_real, *of_extra = _features(discriminator, kinds, 1)
    of_fake = discriminator.trunk(leaf, "batch")
    batch = Batch(kinds[0], leaf, latents, of_real, of_fake, of_extra)
    total, d_record, real_logits = _d_loss(networks, objective, batch, d_terms, d_extras)
    of_d = _of_d(discriminator, scale(total), d_params, retain_graph=True)
    of_g, g_record = _g_grads(
        networks, objective, g_params, batch, fake, scale, g_terms, g_extras, real_logits
    )
    return of_d, d_record, of_g, g_record


def generate(networks: Networks, latents: LatentBatch) -> Tensor:
    """Return G's images, whose pass its running buffers follow: it does not depend on D."""
    return networks.generator(latents.input, "update")


class Batch(NamedTuple):
    """The images of one update, and D's features of each kind."""

    real: Tensor  # [B, C, H, W] in the dtype that D computes in
    fake: Tensor  # as D took it
    latents: LatentBatch  # of `fake`
    of_real: Tensor | None  # features [B, F]; None where real images are not passed
    of_fake: Tensor
    of_extra: Sequence[Tensor] = ()  # of each extra image, in order


def _images(extras: Sequence[Extra]) -> list[Tensor]:
    return [image for extra in extras for image in extra.images]


def _features(
    discriminator: Discriminator, kinds: Sequence[Tensor], of_d: int
) -> tuple[Tensor, ...]:
    """Return features of as many images of each kind; running buffers follow the first.

    of_d: kinds of which D's logit is needed, the first ones. The others need Q's trunk alone, where
        it is not D's.
    """
    stats: list[BatchStats] = ["update", *("batch" for _ in kinds[1:])]  # type: ignore[list-item]
    of_d = of_d if discriminator.own_trunk else len(kinds)
    return (
        *_pass(discriminator.trunk, kinds[:of_d], stats[:of_d]),
        *_pass(discriminator.q_trunk, kinds[of_d:], stats[of_d:]),
    )


def _pass(trunk: Trunk, kinds: Sequence[Tensor], stats: Sequence[BatchStats]) -> tuple[Tensor, ...]:
    """Return a trunk's features of each kind, each normalised by its own statistics."""
    if not kinds:
        return ()
    if len(kinds) == 1:
        return (trunk(kinds[0], stats[0]),)
    return trunk(torch.cat(list(kinds)), tuple(stats)).chunk(len(kinds))


def _d_loss(
    networks: Networks,
    objective: Objective,
    batch: Batch,
    terms: TermSet,
    extras: Sequence[Extra],
) -> tuple[Tensor, DRecord, Tensor]:
    """Return D's loss, its values, and D's logits of real images."""
    discriminator = networks.discriminator
    assert batch.of_real is not None
    logits = torch.cat([discriminator.logit(x) for x in (batch.of_real, batch.of_fake)])
    shared = batch.of_fake if objective.routing == "openai" else batch.of_fake.detach()
    q_fake = discriminator.q(shared, "batch")
    loss, information, nll = objective.losses("discriminator", logits, q_fake, batch.latents)
    total = loss if objective.routing == "generator-step" else loss + information
    # Without a term Q has no loss on real images, but its running statistics are theirs.
    with torch.set_grad_enabled(len(terms.terms) > 0 and torch.is_grad_enabled()):
        q = discriminator.q(batch.of_real, "update")
    real_logits, fake_logits = logits.chunk(2)
    logged: dict[str, Tensor] = {}
    if terms.terms:
        q_extra = [discriminator.q(x, "batch") for x in batch.of_extra]
        seen = Seen(
            *networks,
            batch.real,
            batch.fake,
            batch.latents,
            widen(q),
            widen(q_fake),
            fake_logits,
        )
        total, logged = terms.add(total, seen, extras, [widen(x) for x in q_extra])
    real_logits = real_logits.detach()
    record = DRecord(
        loss.detach(), _probability(real_logits), _probability(fake_logits.detach()), nll, logged
    )
    return total, record, real_logits


def _of_d(
    discriminator: Discriminator,
    loss: Tensor,
    params: Sequence[nn.Parameter],
    *,
    retain_graph: bool = False,
) -> Gradients:
    """Return the gradients of D's loss in the game, 0 where a parameter is fixed by then."""
    fixed = {id(p) for p in discriminator.fixed_parameters()}
    learning = [p for p in params if id(p) not in fixed]
    with only_grads_of("weights"):
        grads = iter(
            torch.autograd.grad(loss, learning, retain_graph=retain_graph, materialize_grads=True)
        )
    return tuple(torch.zeros_like(p) if id(p) in fixed else next(grads) for p in params)


def _g_grads(
    networks: Networks,
    objective: Objective,
    params: Sequence[nn.Parameter],
    batch: Batch,
    fake: Tensor,
    scale: Scale,
    terms: TermSet,
    extras: Sequence[Extra],
    of_real: Tensor | None,
) -> tuple[Gradients, GRecord]:
    """Return G's gradients and values. `fake` is G's output with its graph to G.

    of_real: D's logits of real images, where the objective compares them.
    """
    discriminator = networks.discriminator
    q = discriminator.q(batch.of_fake, "batch")
    logits = discriminator.logit(batch.of_fake)
    loss, information, nll = objective.losses("generator", logits, q, batch.latents, of_real)
    if objective.balance is not None:
        objective.balance.follow(q, batch.latents)
    n_own = len(list(networks.generator.parameters()))
    n_pair = n_own
    if objective.routing == "generator-step":
        n_pair += len(discriminator.q_parameters())
    logged: dict[str, Tensor] = {}
    of_leaf: Tensor | None = None
    more: Gradients = tuple(torch.zeros_like(p) for p in params[n_pair:])
    if terms.terms:
        none, wide = widen(q[:0]), widen(q)
        seen = Seen(*networks, batch.real, fake, batch.latents, none, wide, logits)
        added, logged = terms.add(torch.zeros_like(information), seen, extras)
        of_leaf, *grads_of_terms = torch.autograd.grad(
            scale(added), (batch.fake, *params), retain_graph=True, materialize_grads=True
        )
        more = tuple(grads_of_terms)
    with only_grads_of("inputs"):
        of_fake, *of_q = torch.autograd.grad(
            scale(loss + information), (batch.fake, *params[n_own:n_pair])
        )
    if of_leaf is not None and batch.fake is not fake:  # the leaf cut the terms' way to G
        of_fake = of_fake + of_leaf
    grads: Gradients = (*torch.autograd.grad(fake, params[:n_own], of_fake), *of_q)
    if terms.terms:
        grads, more = tuple(torch._foreach_add(grads, more[:n_pair])), more[n_pair:]
    grads = (*grads, *more)
    return grads, GRecord(loss.detach(), nll, logged)


def _probability(logit: Tensor) -> Tensor:
    """Return the mean of D's output; near 1 bf16 has no more than two digits."""
    return widen(logit).sigmoid().mean()
