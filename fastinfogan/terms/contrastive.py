"""InfoGAN-CR's contrastive term: a classifier names the factor that two images share.

Lin, Thekumparampil, Fanti and Oh 2020 ("InfoGAN-CR and ModelCentrality", §3, eq. 4 and 5). Pairs of
generated images have one factor of the code in common, all others and the noise drawn anew; a
classifier H, a network of its own that sees both images as channels of one, names the factor.
G and H minimise its cross entropy together, so that each factor must leave a trace of its own.

A factor is a categorical or Bernoulli code, or one dim of a continuous code. Two draws of a
categorical code may agree by chance, which bounds how well H can do. The paper's annealed gap
between the factors that are not shared is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import philox
from ..errors import UserError
from ..latents import LatentBatch, LatentSpec
from ..networks.base import Discriminator
from ..options import Group, option
from ..philox import Stream
from .protocol import Address, Extra, Seen, Term, widen


@dataclass(frozen=True)
class ContrastiveOptions(Group):
    """InfoGAN-CR's term (Lin et al. 2020): a network of its own names the factor of the code that
    two generated images share, and G helps it. Example: --contrastive.weight 2
    """

    prefix: ClassVar[str] = "contrastive"
    weight: float = option(0.0, "Weight of the term; 0: off.", at_least=0, alias="contrastive")
    start: int = option(0, "Updates before the term counts.", at_least=0, alias="contrastive-start")

    def check(self, spec: LatentSpec) -> None:
        """Raise UserError for values that no run with this spec can have."""
        super().check(spec)
        if self.weight and spec.n_cat + spec.n_cont < 2:
            raise UserError(
                f"--{self.prefix}.weight: needs two factors or more, got {', '.join(spec.names)}"
            )


class Pairs(NamedTuple):
    """Latents of P pairs."""

    input: Tensor  # [2P, input_dim]: the pairs' first halves, then the second
    factor: Tensor  # int64 [P]: which one a pair shares, in 0 … n_factors - 1


def n_factors(spec: LatentSpec) -> int:
    """Return the number of factors that a pair may share: the columns of the targets."""
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
    batch = spec.sample(
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
    first, second = (LatentBatch(*(t[half::2] for t in batch)) for half in (0, 1))
    shared = factor == torch.arange(n_factors(spec), device=device)
    second = spec.assemble(
        second.input[:, : spec.noise],
        torch.where(shared[:, : spec.n_cat], first.categorical, second.categorical),
        torch.where(shared[:, spec.n_cat :], first.continuous, second.continuous),
        validate=False,
    )
    return Pairs(torch.cat((first.input, second.input)), factor.squeeze(1))


class Critic(nn.Module):
    """H: a discriminator's trunk and Q, on images of twice the channels.

    Args:
        network: takes [P, 2C, H, W]; its Q has a column per factor. Its own logit plays no part.
    """

    def __init__(self, network: Discriminator) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map images [2P, C, H, W], first halves in front, to the factors' logits [P, n]."""
        both = torch.cat(images.chunk(2), dim=1)
        return self.network.q(self.network.trunk(both, "update"), "update")


@dataclass(frozen=True)
class PairLatents:
    """The recipe for the latents of half as many pairs as there are images."""

    spec: LatentSpec

    def __call__(self, real: Tensor, at: Address) -> Extra:
        """Return `Pairs` of B // 2 pairs as tensors: a rank's rows of the global batch."""
        pairs = len(real) // 2
        first = at.first_row // len(real) * pairs
        drawn = draw_pairs(
            self.spec, pairs, device=real.device, seed=at.seed, step=at.step, first_pair=first
        )
        return Extra(tensors=tuple(drawn))


@dataclass(frozen=True)
class Contrastive(Term):
    """Cross entropy (eq. 4) of H's classification of the factor that two generated images share.

    Logs the cross entropy in nats. G's running buffers stay: they follow the batch that G is
    trained on otherwise. H's follow the pairs.
    """

    weight: float
    critic: Critic
    recipe: PairLatents
    start: int = 0  # first update that has the term
    name = "contrastive"
    player = "generator"

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """H, which G's optimizer trains."""
        return {"critic": self.critic}

    def active(self, step: int) -> bool:
        """Return whether `step` is `start` or later."""
        return step >= self.start

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        """Return weight · cross entropy, and the cross entropy."""
        latents, factor = seen.tensors
        logits = seen.modules["critic"](seen.generator(latents, "batch"))
        nats = F.cross_entropy(widen(logits), factor)
        return self.weight * nats, nats
