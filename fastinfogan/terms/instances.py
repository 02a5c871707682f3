"""A continuous code that tells every real image from all others, whatever a warp does to it.

An extension of InfoGAN: instance discrimination (Wu et al. 2018) with the loss of Chen et al. 2020
("SimCLR", eq. 1). Q's means of one continuous code are an image's embedding. That of a warped copy
must be nearer to its own image's than to those of all other images in the batch.

It is there for the categories' sake. On cluttered images of any colour these start where no
category predicts anything, and the mutual information of `invariance` is flat; the embedding's is
not, and Q's layers are shared.

The other images are those of a rank's own batch: unlike the paper's losses, two ranks of B are not
one of 2B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..latents import LatentSpec, Real
from ..options import Group, option
from .protocol import Seen, Term
from .warp import WarpedCopies


@dataclass(frozen=True)
class InstancesOptions(Group):
    """A continuous code, the last one, that tells a real image and its warped copy from all other
    images (Wu et al. 2018, Chen et al. 2020); an extension of InfoGAN. Example:
    --codes cat10,gaussian32*0 --instances.weight 1
    """

    prefix: ClassVar[str] = "instances"
    weight: float = option(
        0.0,
        "Weight of telling images apart by the last continuous code, of two dims or more; 0: off. "
        "The copies are those of --invariance.weight (--warp).",
        at_least=0,
    )
    temperature: float = option(0.2, "Divides the cosine of two embeddings.", above=0)

    def check(self, spec: LatentSpec) -> None:
        """Raise UserError for values that no run with this spec can have."""
        super().check(spec)
        if self.weight and embedding(spec) is None:
            raise UserError(
                f"--{self.prefix}.weight: needs a last uniform or gaussian code of two dims or "
                f"more (gaussian32), got {', '.join(spec.names)}"
            )


def embedding(spec: LatentSpec) -> slice | None:
    """Return the columns of Q's output for the last continuous code's means.

    None without a continuous code, or where the last one has one dim only.
    """
    last = None
    for code, slot in zip(spec.codes, spec.slots, strict=True):
        if isinstance(code, Real):
            last = slice(slot.q.start, slot.q.start + code.dim) if code.dim > 1 else None
    return last


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return how well images and their copies find each other: log B less a cross entropy, in nats.

    A lower bound of the mutual information of the two embeddings (InfoNCE: van den Oord et al.
    2018, eq. 5), at most log B. The mean of finding the copy by the image, and the image by the
    copy (Chen et al. 2020, eq. 1, without the similarities of images with images). The mean of all
    embeddings is taken away first: under spectral normalisation they start too much alike.

    Args:
        first, second: embeddings [B, D] of images and of their copies, fp32 or wider.
        temperature: divides cosine similarities.
    """
    middle = (first + second).mean(0) / 2
    first, second = (F.normalize(x - middle, dim=1) for x in (first, second))
    similarity = first @ second.T / temperature
    own = similarity.diagonal()
    likelihood = 2 * own - similarity.logsumexp(0) - similarity.logsumexp(1)
    return math.log(len(first)) + likelihood.mean() / 2


@dataclass(frozen=True)
class Instances(Term):
    """Cross entropy of finding an image's warped copy, and a copy's image, in the batch.

    Logs log B less that cross entropy, in nats.
    """

    weight: float
    temperature: float
    columns: slice  # of Q's output
    recipe: WarpedCopies
    name = "instances"
    real_only: ClassVar[bool] = True

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        """Return −weight · `info_nce`, and that."""
        first, second = (x[:, self.columns] for x in (seen.q, seen.q_extra[0]))
        nats = info_nce(first, second, self.temperature)
        return -self.weight * nats, nats
