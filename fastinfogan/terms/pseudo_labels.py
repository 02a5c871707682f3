"""Pseudo-labels: where Q is sure of a real image's category, its warped copy must have it too.

An extension of InfoGAN that needs no further image: the copies are those of `invariance`. Mutual
information treats an image and its copy alike, and moves both. Here the image's category is a
target, to which no gradient goes, and only sure ones count. No label of the image set is seen.

Lee 2013 ("Pseudo-Label"); with a copy: Sohn et al. 2020 ("FixMatch", eq. 4); after clustering: Van
Gansbeke et al. 2020 ("SCAN", §2.3, where it is called self-labelling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..latents import LatentSpec
from ..options import Group, option
from .invariance import apart, needs_categories
from .protocol import Seen, Term
from .warp import WarpedCopies


@dataclass(frozen=True)
class PseudoLabelsOptions(Group):
    """A warped copy of a real image has the category that Q is sure of in the image (Lee 2013,
    Sohn et al. 2020); an extension of InfoGAN. Example: --pseudo-labels.weight 3
    --pseudo-labels.start 1000
    """

    prefix: ClassVar[str] = "pseudo-labels"
    weight: float = option(
        0.0,
        "Weight of the cross entropy of a warped copy's category, of the first categorical code; "
        "0: off. The copies are those of --invariance.weight (--warp).",
        at_least=0,
    )
    start: int = option(
        0,
        "First update, counted from 0, that has the term. Before categories are apart it holds "
        "wrong ones fast.",
        at_least=0,
    )
    threshold: float = option(
        0.9, "Probability from which Q is sure of a category.", above=0, below=1
    )

    def check(self, spec: LatentSpec) -> None:
        """Raise UserError for values that no run with this spec can have."""
        super().check(spec)
        if self.weight:
            needs_categories(self, spec)


@dataclass(frozen=True)
class PseudoLabels(Term):
    """Cross entropy of the copies' categories with those that Q is sure of in the images.

    The mean is over all images of a rank's own batch; images that Q is not sure of add 0. Logs the
    share of images that it is sure of. Where logits are standardised, an image has a gradient by
    the mean and the deviation that it shares with the copies, and no other.
    """

    weight: float
    categories: slice  # columns of Q's output
    recipe: WarpedCopies
    standardise: bool = False  # as `invariance` does
    threshold: float = 0.9
    start: int = 0  # first update that has the term
    name = "pseudo_labels"
    real_only: ClassVar[bool] = True

    def active(self, step: int) -> bool:
        """Return whether `step` is `start` or later."""
        return step >= self.start

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        """Return weight · cross entropy, and the share of images whose category is sure."""
        logits = (x[:, self.categories] for x in (seen.q, seen.q_extra[0]))
        of_image, of_copy = apart(*logits, standardise=self.standardise)
        probability, category = of_image.softmax(1).max(1)
        sure = (probability >= self.threshold).to(of_copy.dtype)
        entropy = F.cross_entropy(of_copy, category, reduction="none")
        return self.weight * (sure * entropy).mean(), sure.mean()
