"""The adversarial losses, on D's logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Player = Literal["discriminator", "generator"]
Adversarial = Literal["nonsaturating", "hinge", "lsgan", "wgan", "relativistic"]


class DiscriminatorLoss(Protocol):
    """Mean loss of the discriminator from its logits on real and on fake images."""

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor: ...


class GeneratorLoss(Protocol):
    """Mean loss of the generator from D's logits on fake, and where needed on real, images."""

    def __call__(self, fake: Tensor, real: Tensor | None = None) -> Tensor: ...


def adversarial_losses(name: str) -> tuple[DiscriminatorLoss, GeneratorLoss]:
    """Return the pair (d_loss(real, fake), g_loss(fake, real=None)), on logits, batch means.

    - "nonsaturating": Goodfellow et al. 2014, §3, with −log D(G(z)) for the generator
    - "hinge": Lim & Ye 2017; the generator's is −D(G(z))
    - "lsgan": Mao et al. 2017, eq. 9, with targets 1 and 0 and its factor ½
    - "wgan": Arjovsky et al. 2017; the Lipschitz constraint is the caller's
    - "relativistic": Jolicoeur-Martineau 2018, the paired RSGAN; g_loss needs `real`

    Computed in fp32 (fp64 for fp64). Raises ValueError for another name.
    """
    if name not in _ADVERSARIAL:
        raise ValueError(f"adversarial loss: expected one of {sorted(_ADVERSARIAL)}, got {name!r}")
    d_terms, g_terms = _ADVERSARIAL[name]

    def check_pair(real: Tensor, fake: Tensor) -> None:
        if name == "relativistic" and real.shape != fake.shape:  # pairs would broadcast
            raise ValueError(f"fake: expected {list(real.shape)}, got {list(fake.shape)}")

    def d_loss(real: Tensor, fake: Tensor) -> Tensor:
        check_pair(real, fake)
        return d_terms(_wide(real), _wide(fake))

    def g_loss(fake: Tensor, real: Tensor | None = None) -> Tensor:
        if name == "relativistic" and real is None:
            raise ValueError("relativistic g_loss: expected D's logits on real images, got None")
        if real is None:
            real = fake  # unused
        check_pair(real, fake)
        return g_terms(_wide(fake), _wide(real))

    return d_loss, g_loss


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _softplus(x: Tensor) -> Tensor:
    return -F.logsigmoid(-x)  # F.softplus turns linear at 20, an error of 2e-9


_Terms = Callable[[Tensor, Tensor], Tensor]
_ADVERSARIAL: dict[str, tuple[_Terms, _Terms]] = {  # d(real, fake), g(fake, real)
    "nonsaturating": (
        lambda real, fake: _softplus(-real).mean() + _softplus(fake).mean(),
        lambda fake, real: _softplus(-fake).mean(),
    ),
    "hinge": (
        lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        lambda fake, real: -fake.mean(),
    ),
    "lsgan": (
        lambda real, fake: 0.5 * ((real - 1).square().mean() + fake.square().mean()),
        lambda fake, real: 0.5 * (fake - 1).square().mean(),
    ),
    "wgan": (
        lambda real, fake: fake.mean() - real.mean(),
        lambda fake, real: -fake.mean(),
    ),
    "relativistic": (
        lambda real, fake: _softplus(fake - real).mean(),
        lambda fake, real: _softplus(real - fake).mean(),
    ),
}


def player_loss(real: Tensor, fake: Tensor, name: Adversarial, player: Player) -> Tensor:
    """Return one player's loss from logits of which a side may have no rows, and then counts 0.

    A generator has real logits only where the loss is relativistic.
    """

    def mean(x: Tensor) -> Tensor:
        return x.sum() / max(x.shape[0], 1)

    real, fake = _wide(real), _wide(fake)
    of_d = player == "discriminator"
    match name:
        case "nonsaturating":
            if of_d:
                return mean(_softplus(-real)) + mean(_softplus(fake))
            return mean(_softplus(-fake))
        case "hinge":
            return mean(F.relu(1 - real)) + mean(F.relu(1 + fake)) if of_d else mean(-fake)
        case "lsgan":
            if of_d:
                return mean(0.5 * (real - 1).square()) + mean(0.5 * fake.square())
            return mean(0.5 * (fake - 1).square())
        case "wgan":
            return mean(-real) + mean(fake) if of_d else mean(-fake)
        case "relativistic":
            return mean(_softplus(fake - real if of_d else real - fake))
