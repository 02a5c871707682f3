"""One update of the pair: gradients as pure functions, then the optimizers.

`d_grads` and `g_grads` return gradients and mutate nothing but BatchNorm's running buffers: D's
and Q's follow the real batches, G's the batches of its own step. Nothing here reads a value back
to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .config import Routing, TrainConfig
from .ema import Ema
from .latents import LatentBatch, LatentSpec
from .losses import adversarial_losses, info_loss
from .networks import MnistDiscriminator, MnistGenerator, initialise, mnist_pair
from .parallel import Ranks
from .philox import Stream

D_LOSS, G_LOSS = adversarial_losses("nonsaturating")  # the paper's game, eq. 1, with -log D for G


@dataclass(frozen=True)
class Objective:
    """What is minimised: V(D, G) − λ·L_I (eq. 5), and whom the second term trains."""

    spec: LatentSpec
    weights: Tensor  # [n_codes] on the device: λ times each code's own weight
    routing: Routing
    backend: str = "auto"

    def information_loss(self, q: Tensor, latents: LatentBatch) -> tuple[Tensor, Tensor]:
        """(λ-weighted NLL, NLL per code in nats)."""
        return info_loss(
            q,
            self.spec,
            latents.categorical,
            latents.continuous,
            weights=self.weights,
            backend=self.backend,  # type: ignore[arg-type]
            validate=False,
        )


class DTerms(NamedTuple):
    """D's step, each a device scalar but nll [n_codes]."""

    loss: Tensor  # adversarial
    real: Tensor  # mean of D(x) on real images
    fake: Tensor  # mean of D(G(z))
    nll: Tensor


class GTerms(NamedTuple):
    """G's step."""

    loss: Tensor  # adversarial
    nll: Tensor


class Networks(NamedTuple):
    """The pair."""

    generator: MnistGenerator
    discriminator: MnistDiscriminator

    def split(self, routing: Routing) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters that D's step and that G's step trains."""
        q = self.discriminator.q_parameters()
        q_ids = {id(p) for p in q}
        d = [p for p in self.discriminator.parameters() if id(p) not in q_ids]
        g = list(self.generator.parameters())
        return (d, g + q) if routing == "generator-step" else (d + q, g)


def build(config: TrainConfig, spec: LatentSpec) -> Networks:
    """The preset's networks with weights drawn from the seed, on the CPU."""
    networks = Networks(*mnist_pair(spec.input_dim, spec.q_dim, config.image_size, config.channels))
    draw = torch.Generator().manual_seed(config.seed)
    for network in networks:
        initialise(network, draw)
    return networks


def d_grads(
    networks: Networks,
    objective: Objective,
    params: list[nn.Parameter],
    real: Tensor,
    latents: LatentBatch,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> tuple[tuple[Tensor, ...], DTerms]:
    """Gradients of D's loss, −log D(x) − log(1 − D(G(z))) + λ·NLL, in `params`.

    Args:
        real: images [B, C, H, W] in the generator's range.
        latents: a batch of as many rows.
        scale: multiplies the loss (fp16's loss scale).
    """
    generator, discriminator = networks
    with torch.no_grad():
        fake = generator(latents.input, "batch")
    real_features = discriminator.trunk(real, "update")
    real_logit = discriminator.logit(real_features)
    # Q has no loss on real images, but its running statistics are theirs. Not under no_grad: an
    # autocast that keeps casts made there would leave Q's weights without a gradient below.
    discriminator.q(real_features.detach(), "update")
    fake_features = discriminator.trunk(fake, "batch")
    fake_logit = discriminator.logit(fake_features)
    loss = D_LOSS(real_logit, fake_logit)
    total = loss
    if objective.routing == "generator-step":
        with torch.no_grad():
            q = discriminator.q(fake_features, "batch")
            nll = objective.information_loss(q, latents)[1]
    else:
        shared = fake_features if objective.routing == "openai" else fake_features.detach()
        weighted, nll = objective.information_loss(discriminator.q(shared, "batch"), latents)
        total = loss + weighted
    grads = torch.autograd.grad(scale(total), params)
    on_real, on_fake = (_probability(x) for x in (real_logit, fake_logit))
    return grads, DTerms(loss.detach(), on_real, on_fake, nll)


def _probability(logit: Tensor) -> Tensor:
    """Mean of D's output; near 1 bf16 has no more than two digits."""
    wide = torch.promote_types(logit.dtype, torch.float32)
    return logit.detach().to(wide).sigmoid().mean()


def g_grads(
    networks: Networks,
    objective: Objective,
    params: list[nn.Parameter],
    latents: LatentBatch,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> tuple[tuple[Tensor, ...], GTerms]:
    """Gradients of G's loss, −log D(G(z)) + λ·NLL, in `params`.

    D is frozen: autograd computes the gradients of `params` alone, and D's and Q's running
    buffers stay as they are.
    """
    generator, discriminator = networks
    features = discriminator.trunk(generator(latents.input, "update"), "batch")
    loss = G_LOSS(discriminator.logit(features))
    weighted, nll = objective.information_loss(discriminator.q(features, "batch"), latents)
    grads = torch.autograd.grad(scale(loss + weighted), params)
    return grads, GTerms(loss.detach(), nll)


def fused_adam(params: list[nn.Parameter], lr: float, config: TrainConfig) -> torch.optim.Adam:
    """Adam whose state exists from the start, so that it can be saved, loaded and broadcast."""
    optimizer = torch.optim.Adam(params, lr=lr, betas=(config.beta1, config.beta2), fused=True)
    for p in params:
        optimizer.state[p] = {
            "step": torch.zeros((), dtype=torch.float32, device=p.device),
            "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
        }
    return optimizer


class Step:
    """The whole update: D's gradients, Adam, G's gradients, Adam, EMA."""

    def __init__(self, config: TrainConfig, spec: LatentSpec, ranks: Ranks) -> None:
        self.config, self.spec, self.ranks = config, spec, ranks
        self.networks = build(config, spec)
        for network in self.networks:
            network.to(device=ranks.device)
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = Objective(
            spec,
            torch.tensor(
                [config.info_weight * code.weight for code in spec.codes],
                device=ranks.device,
                dtype=torch.float32,
            ),
            config.routing,
            config.backend,
        )
        self.d_params, self.g_params = self.networks.split(config.routing)
        self.d_optimizer = fused_adam(self.d_params, config.lr_d, config)
        self.g_optimizer = fused_adam(self.g_params, config.lr_g, config)
        self.ema = Ema(self.networks.generator, config.ema)
        self.scaler: torch.amp.GradScaler | None = ranks.accelerator.scaler
        self._autocast: Callable[[], AbstractContextManager[None]] = ranks.accelerator.autocast

    def __call__(self, step: int, real: Tensor) -> tuple[DTerms, GTerms]:
        """Update `step` (from 0) on real images [B, C, H, W]."""
        scale = self.scaler.scale if self.scaler is not None else lambda loss: loss
        latents = self._latents(step, Stream.D_LATENTS, len(real))
        with self._autocast():
            grads, d_terms = d_grads(
                self.networks, self.objective, self.d_params, real, latents, scale
            )
        self._apply(self.d_optimizer, self.d_params, grads)
        latents = self._latents(step, Stream.G_LATENTS, len(real))
        with self._autocast():
            grads, g_terms = g_grads(self.networks, self.objective, self.g_params, latents, scale)
        self._apply(self.g_optimizer, self.g_params, grads)
        if self.scaler is not None:
            self.scaler.update()
        self.ema.update(step)
        return d_terms, g_terms

    def _latents(self, step: int, stream: Stream, batch: int) -> LatentBatch:
        """This rank's rows of the global batch."""
        return self.spec.sample(
            batch,
            device=self.ranks.device,
            seed=self.config.seed,
            step=step,
            stream=stream,
            first_row=self.ranks.rank * batch,
        )

    def _apply(
        self,
        optimizer: torch.optim.Adam,
        params: list[nn.Parameter],
        grads: tuple[Tensor, ...],
    ) -> None:
        self.ranks.average_(grads)
        for param, grad in zip(params, grads, strict=True):
            # Fused Adam takes the gradient's memory to lie as the parameter's does.
            same = grad.stride() == param.stride()
            param.grad = grad if same else torch.empty_like(param).copy_(grad)
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
        for param in params:
            param.grad = None

    def modules(self) -> dict[str, nn.Module]:
        """The networks by the names that checkpoints use."""
        return {
            "generator": self.networks.generator,
            "generator_ema": self.ema.module,
            "discriminator": self.networks.discriminator,
        }

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Adam's moments and counts, live, by name."""
        out = {}
        for name, optimizer, params in (
            ("d", self.d_optimizer, self.d_params),
            ("g", self.g_optimizer, self.g_params),
        ):
            for i, param in enumerate(params):
                for key, value in optimizer.state[param].items():
                    out[f"adam_{name}.{i:02d}.{key}"] = value
        return out

    def average_buffers(self) -> None:
        """BatchNorm's running buffers, which are each rank's own, averaged over the ranks."""
        self.ranks.average_([b for module in self.modules().values() for b in module.buffers()])
