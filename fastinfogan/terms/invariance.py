"""Categories that survive a warp of the image: mutual information on real images.

An extension of InfoGAN, off in `mnist-paper`. The paper's information loss asks that Q reads the
code off a *generated* image. That loss is at its floor long before the categories are the classes,
since nothing in it looks at real images. This term does: the categories that Q gives a real image
and a warped copy of it must predict each other. Only what a warp leaves alone can be predicted, and
only if all categories are used. No label is seen; the prior knowledge is the choice of warps.

The joint distribution is that of a rank's own batch: unlike the paper's losses, two ranks of B are
not one of 2B.

Mutual information of the two predictions: Ji, Henriques and Vedaldi 2019 ("Invariant information
clustering", eq. 3); of a prediction and its image under augmentation: Hu et al. 2017 (IMSAT).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UserError
from ..latents import Categorical, LatentSpec
from ..options import Group, option
from .protocol import Seen, Term
from .warp import Warp, WarpedCopies, parse_warp

# Categories start nearly equal, where mutual information is flat: one split grows, the others
# follow slowly or never, and digits stay together. Sharper predictions and a greater weight on
# using all categories start all of them at once (docs/notes/quality.md has the figures).
SHARPNESS = 10.0  # multiplies the logits
LOGIT_STD = 2.0  # of standardised logits, over the batch and the categories
BALANCE = 2.0  # weight of the categories' entropy; 1 is the mutual information itself
_EPSILON = 1e-10
_LEAST_STD = 1e-6  # of logits that are standardised: equal ones have finite gradients


Logits = Literal["auto", "sharp", "standard", "anchored", "centred"]
Compared = Literal["first", "all"]


class Information(NamedTuple):
    """The mutual information of two predictions of one batch."""

    objective: Tensor  # to be maximised
    nats: Tensor  # the mutual information


def mutual_information(first: Tensor, second: Tensor, balance: float = BALANCE) -> Information:
    """Return I(a; b) of two categorical predictions, in nats, and the objective that leads there.

    The joint distribution is the batch's mean of p(a|x)·p(b|x'), made symmetric (Ji et al. 2019,
    eq. 2 and 3); the objective is 2·balance·H(a) − H(a, b), which at balance 1 is I.

    Args:
        first, second: probabilities [B, K] of x and of its copy x', B ≥ 1, fp32 or wider.
    """
    joint = first.T @ second / first.shape[0]
    joint = ((joint + joint.T) / 2).clamp_min(_EPSILON)
    marginal = joint.sum(1)
    entropy = -(marginal * marginal.log()).sum()
    together = -(joint * joint.log()).sum()
    return Information(2 * balance * entropy - together, 2 * entropy - together)


def apart(first: Tensor, second: Tensor, *, standardise: bool) -> tuple[Tensor, Tensor]:
    """Return the logits [B, K] of images and of their copies made apart, as `Logits` says.

    standardise: over both batches, to a deviation of `LOGIT_STD`; else times `SHARPNESS`.
    """
    if not standardise:
        return first * SHARPNESS, second * SHARPNESS
    both = _centred(torch.cat((first, second)))
    first, second = (LOGIT_STD * both / _deviation(both)).chunk(2)
    return first, second


def needs_categories(group: Group, spec: LatentSpec) -> None:
    """Raise UserError where the spec has no categorical code, naming the group's weight."""
    if not any(isinstance(code, Categorical) for code in spec.codes):
        raise UserError(
            f"--{group.prefix}.weight: needs a categorical code, got {', '.join(spec.names)}"
        )


@dataclass(frozen=True)
class InvarianceOptions(Group):
    """Categories that stay the same as real images are warped (Ji et al. 2019, Hu et al. 2017);
    an extension of InfoGAN. Example: --invariance.weight 3 --warp "rotate=20,scale=0.15", which
    sets the whole warp (what it does not name is 0), or --invariance.warp.rotate 20, which sets
    one of its values.
    """

    prefix: ClassVar[str] = "invariance"
    weight: float = option(
        0.0,
        "Weight of the mutual information between the categories (of the first categorical code, "
        "or of those of --invariance.codes) of a real image and of a warped one; 0: off.",
        at_least=0,
        alias="real-info",
    )
    warp: Warp = option(
        Warp(rotate=20, scale=0.15, shear=0.3, shift=0.06, thickness=0.7),
        "The warps of this term and of following (--follow.weight).",
        alias="warp",
        parse=parse_warp,
    )
    logits: Logits = option(
        "auto",
        "How the categories' logits are made apart before they are compared: sharp (times 10), "
        "standard (standardised over the batch, to a standard deviation of 2), anchored (standard, "
        "and in the game Q's own logits are drawn to that deviation, so that the information loss "
        "reads sure categories), centred (anchored, and in the game the categories' means are "
        "drawn together, so that Q's greatest logit is the category that was compared), or auto: "
        "standard with --spectral-norm, else sharp.",
    )

    codes: Compared = option(
        "first",
        "Which categorical codes are compared: first, or all. Codes of weight 0, such as cat30*0, "
        "then help the first: D and Q must tell apart what they sort, and G need not draw it.",
    )

    restarts: int = option(
        0,
        "Random starts of the last layer of the first categorical code, fitted to Q's features of "
        "real images before update --invariance.restart-at; the one of the greatest mutual "
        "information is kept. Until then that code is not compared. 0: none.",
        at_least=0,
    )
    restart_at: int = option(
        0, "Update, counted from 0, before which --invariance.restarts are made.", at_least=0
    )

    def standardise(self, spectral_norm: bool) -> bool:
        """Return whether the logits are standardised."""
        if self.logits == "auto":
            return spectral_norm
        return self.logits in ("standard", "anchored", "centred")

    @property
    def restart_step(self) -> int | None:
        """The update, from 0, before which categories are started anew; None where they are not."""
        return self.restart_at if self.weight and self.restarts else None

    @property
    def anchor(self) -> bool:
        """Return whether Q's logits are drawn to a deviation of 2 in the game."""
        return self.logits in ("anchored", "centred")

    @property
    def centre(self) -> bool:
        """Return whether the means of Q's logits are drawn to 0."""
        return self.logits == "centred"

    def check(self, spec: LatentSpec) -> None:
        """Raise UserError for values that no run with this spec can have."""
        super().check(spec)
        for name, value in asdict(self.warp).items():
            if not math.isfinite(value):
                raise UserError(
                    f"--{self.prefix}.warp.{name}: expected a finite number, got {value}"
                )
        try:
            parse_warp(",".join(f"{name}={value!r}" for name, value in asdict(self.warp).items()))
        except ValueError as error:
            raise UserError(f"--{self.prefix}.warp: {error}") from None
        if self.weight:
            needs_categories(self, spec)


@dataclass(frozen=True)
class Invariance(Term):
    """Mutual information of the categories of a real image and of its warped copy.

    Logs that information, in nats. `others`: further categorical codes, each of which adds the same
    term, as Ji et al.'s heads for overclustering do. `standardise`: the logits of both are
    standardised over the batch. Spectral normalisation bounds D's slope, so that images start too
    much alike otherwise; and where `instances` has made images different, sharp logits would be
    sure of a poor partition.
    """

    weight: float
    categories: slice  # columns of Q's output
    recipe: WarpedCopies
    standardise: bool = False
    others: tuple[slice, ...] = ()
    start: int = 0  # first update that has the term
    name = "invariance"
    real_only: ClassVar[bool] = True

    def active(self, step: int) -> bool:
        """Return whether `step` is `start` or later."""
        return step >= self.start

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        """Return −weight · the objective of `mutual_information`, and the nats of the first."""
        objective, nats = self._of(seen, self.categories)
        for columns in self.others:
            objective = objective + self._of(seen, columns).objective
        return -self.weight * objective, nats

    def _of(self, seen: Seen, columns: slice) -> Information:
        logits = (x[:, columns] for x in (seen.q, seen.q_extra[0]))
        first, second = apart(*logits, standardise=self.standardise)
        return mutual_information(first.softmax(1), second.softmax(1))


@dataclass(frozen=True)
class Finer(Invariance):
    """The same information of the further categorical codes alone, before the first one's restarts.

    Logs that of the first of them, in nats. `start`: the first update that does not have the term.
    """

    name = "finer"

    def active(self, step: int) -> bool:
        """Return whether `step` is before `start`."""
        return step < self.start


@dataclass(frozen=True)
class Anchor(Term):
    """Draws the standard deviation of the categories' logits on real images to 2, in the game.

    The deviation is that of a rank's own batch and of all categories, about each category's mean.

    Standardised logits may be of any size, and the information loss reads them as they are: where
    they are small it asks nothing of G. Adds |log(deviation / 2)|, below 1 its half square (Huber's
    loss), and logs the deviation. Before the game it would outweigh a category at its start.
    """

    categories: slice  # columns of Q's output
    name = "anchor"

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        """Return Huber's loss of log(deviation / 2), and the deviation."""
        std = _deviation(_centred(seen.q[:, self.categories]))
        away = (std / LOGIT_STD).log()
        return functional.huber_loss(away, torch.zeros_like(away)), std.detach()


@dataclass(frozen=True)
class Centre(Term):
    """Draws each category's mean logit on real images to that of all categories, in the game.

    Standardised logits have no mean, so their information leaves it free. But Q's own have one, and
    the greatest of them is an image's category for the evaluation and for users. Where the means
    differ by as much as an image's logits do, some categories take images of others. Adds the
    variance of the means over that of the logits, which has no gradient, and logs its square root.
    Before the game it would hold categories at their start, as `Anchor` would.
    """

    categories: slice  # columns of Q's output
    name = "centre"

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        """Return the ratio of the variances, and its square root."""
        logits = seen.q[:, self.categories]
        means = logits.mean(0)
        std = _deviation(logits - means).detach()
        away = ((means - means.mean()) / std).square().mean()
        return away, away.detach().sqrt()


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(0)


def _deviation(centred: Tensor) -> Tensor:
    """Return the standard deviation over the batch and the categories, above 0."""
    return (centred.square().mean() + _LEAST_STD**2).sqrt()


def categorical_columns(spec: LatentSpec) -> tuple[slice, ...]:
    """Return the columns of Q's output for each categorical code, in the spec's order."""
    return tuple(
        slot.q
        for code, slot in zip(spec.codes, spec.slots, strict=True)
        if isinstance(code, Categorical)
    )
