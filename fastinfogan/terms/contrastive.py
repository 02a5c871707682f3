"""InfoGAN-CR's contrastive regulariser: of two images, which factor of the code do they share?

Lin, Thekumparampil, Fanti and Oh 2020 ("InfoGAN-CR and ModelCentrality", §3, eq. 4 and 5). Pairs of
generated images have one factor of the code in common, all others and the noise drawn anew; a
classifier H, a network of its own that sees both images as channels of one, names the factor.
G and H minimise its cross entropy together, so that each factor must leave a trace of its own.

A factor is a categorical or Bernoulli code, or one dim of a continuous code. Two draws of a
categorical code may agree by chance, which bounds how well H can do. The paper's annealed gap
between the factors that are not shared is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import philox
from ..latents import LatentBatch, LatentSpec
from ..networks.base import Discriminator, Generator
from ..philox import Stream


class Pairs(NamedTuple):
    """Latents of P pairs."""

    input: Tensor  # [2P, input_dim]: the pairs' first halves, then the second
    factor: Tensor  # int64 [P]: which one a pair shares, in 0 … n_factors - 1


def n_factors(spec: LatentSpec) -> int:
    """What a pair may share: each column of the categorical and of the continuous targets."""
    return spec.n_cat + spec.n_cont


def draw_pairs(
    spec: LatentSpec,
    pairs: int,
    *,
    device: torch.device | str | None = None,
    seed: int = 0,
    step: int | Tensor = 0,
    first_pair: int = 0,
) -> Pairs:
    """Draw pairs that share one factor. Pair i is a function of (seed, step, first_pair + i)."""
    drawn = spec.sample(
        2 * pairs,
        device=device,
        seed=seed,
        step=step,
        stream=Stream.PAIR_LATENTS,
        first_row=2 * first_pair,
    )
    word = philox.words(
        pairs,
        1,
        device=device,
        seed=seed,
        step=step & 0xFFFFFFFF,
        stream=Stream.PAIR_FACTORS,
        first_row=first_pair,
    )
    factor = philox.below(word, n_factors(spec))  # [P, 1]
    first, second = (LatentBatch(*(t[half::2] for t in drawn)) for half in (0, 1))
    shared = factor == torch.arange(n_factors(spec), device=device)
    second = spec.assemble(
        second.input[:, : spec.noise],
        torch.where(shared[:, : spec.n_cat], first.categorical, second.categorical),
        torch.where(shared[:, spec.n_cat :], first.continuous, second.continuous),
    )
    return Pairs(torch.cat((first.input, second.input)), factor.squeeze(1))


class Critic(nn.Module):
    """H: a discriminator's trunk and Q, on images of twice the channels.

    Args:
        network: takes [P, 2C, H, W]; its Q has a column a factor. Its own logit plays no part.
    """

    def __init__(self, network: Discriminator) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """[2P, C, H, W], first halves and then second, to the factors' logits, [P, n_factors]."""
        both = torch.cat(images.chunk(2), dim=1)
        return self.network.q(self.network.trunk(both, "update"), "update")


def contrastive_grads(
    generator: Generator,
    critic: Critic,
    params: Sequence[nn.Parameter],
    pairs: Pairs,
    weight: float | Tensor,
    scale: Callable[[Tensor], Tensor],
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Gradients of weight · cross entropy (eq. 4) in `params`, and the cross entropy in nats.

    G's running buffers stay: they follow the batch that it is trained on otherwise. H's follow.
    """
    logits = critic(generator(pairs.input, "batch"))
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(wide, pairs.factor)
    # zeros for H's unused logit
    grads = torch.autograd.grad(scale(weight * loss), params, materialize_grads=True)
    return grads, loss.detach()
