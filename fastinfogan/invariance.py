"""Information on real images: an extension of InfoGAN, off in `mnist-paper`.

The paper's term asks that Q can read the code off a *generated* image. It is at its ceiling long
before the categories are the classes, since nothing in it looks at real images. This one does:
the categories that Q gives a real image and a warped copy of it must tell as much as possible of
each other. Only what a warp leaves alone can, and only if all categories are used. No label is
seen; what is known beforehand is the choice of warps.

Mutual information of the two predictions: Ji, Henriques and Vedaldi 2019 ("Invariant information
clustering", eq. 3); of a prediction and its image under augmentation: Hu et al. 2017 (IMSAT).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import philox
from .philox import Stream

# Categories start nearly equal, where mutual information is flat: one split grows, the others
# follow slowly or never, and digits stay together. Sharper predictions and a greater weight on
# using all categories start all of them at once (docs/quality.md has the figures).
SHARPNESS = 10.0  # multiplies the logits
BALANCE = 2.0  # weight of the categories' entropy; 1 is the mutual information itself
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
class Warp:
    """Random affine maps, and mirroring: what a category should not depend on.

    Each is uniform in ± its value: `rotate` in degrees, `scale` of each axis, `shear`, `shift` in
    parts of the side. `flip` is the probability of mirroring left and right.
    """

    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    flip: float = 0.0

    def __call__(
        self,
        images: Tensor,
        *,
        seed: int,
        step: int | Tensor,
        first_row: int = 0,
        background: float = 0.0,
    ) -> Tensor:
        """Warped copies of images [B, C, H, W]; what comes in from outside is `background`.

        Row i's warp is a function of (seed, step, first_row + i): see `philox`.
        """
        rows = images.shape[0]
        drawn = philox.words(
            rows,
            7,
            seed=seed,
            step=step & 0xFFFFFFFF,
            stream=Stream.WARP,
            first_row=first_row,
            device=images.device,
        )
        u = philox.uniform(drawn)
        angle, scale_x, scale_y, shear, x, y = (u[:, :6] * 2 - 1).unbind(1)
        angle = angle * math.radians(self.rotate)
        mirror = 1 - 2 * (u[:, 6] < self.flip).float()
        scale_x, scale_y = (1 + scale_x * self.scale) * mirror, 1 + scale_y * self.scale
        shear = shear * self.shear
        cos, sin = angle.cos(), angle.sin()
        matrix = torch.stack(
            (
                *(cos * scale_x, cos * shear - sin * scale_y, x * 2 * self.shift),
                *(sin * scale_x, sin * shear + cos * scale_y, y * 2 * self.shift),
            ),
            dim=1,
        ).view(rows, 2, 3)
        wide = images.to(torch.promote_types(images.dtype, torch.float32))
        grid = F.affine_grid(matrix.to(wide.dtype), list(images.shape), align_corners=False)
        warped = F.grid_sample(wide - background, grid, align_corners=False) + background
        return warped.to(images.dtype)


def parse_warp(text: str) -> Warp:
    """The warp of "rotate=20,scale=0.15,shear=0.3,shift=0.06,flip=0.5". Raises ValueError."""
    known = {field.name for field in fields(Warp)}
    values: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in known or name in values:
            raise ValueError(f"expected each of {', '.join(sorted(known))} once, got {part!r}")
        try:
            values[name] = float(number)
        except ValueError:
            raise ValueError(f"{name}: expected a number, got {number!r}") from None
        most = {"rotate": 180.0, "shear": 2.0}.get(name, 1.0)
        if not 0 <= values[name] <= most or (name == "scale" and values[name] == 1):
            raise ValueError(f"{name}: expected 0 to {most:g}, got {number}")
    return Warp(**values)
