"""Categories of a shape alone: two copies of an image, set upright, must agree.

An extension of InfoGAN for images of one bright shape on a dark ground, where a category must not
depend on place, size and direction. A copy is moved, scaled and turned until its centre, area and
direction are those of all others; the shape is what is left.

A shape's place is its centre, its size its area, its direction the principal axis of its second
moments (Hu 1962, "Visual pattern recognition by moment invariants"). A copy that is moved, scaled
and turned until these are the same for all tells of none of them, where a random warp would have to
drown them in chance. How long it is for its width stays. Where no axis is longer, as in a square,
the direction is what the pixels make of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import philox
from ..latents import LatentSpec
from ..options import Group, option
from ..philox import Stream
from .invariance import SHARPNESS, mutual_information, needs_categories
from .pixels import centre, places
from .protocol import Address, Extra, Seen, Term

NUMBERS = 7  # random numbers per copy
AREA = 0.2  # of the image, which an upright shape covers
# What moments do not fix is left to chance, and so is what tells of the image's pixels (those of a
# small shape are coarser): each uniform in ± its value, the blur in this range.
TURN = math.radians(10.0)
GROWTH = 0.2  # of the logarithm of the area
SHIFT = 0.03  # of the side
BLUR = (1.5 / 64, 3 / 64)  # standard deviation, of the side; then the edge is made sharp again
_SHARPEN = 4.0
LOGIT_STD = 3.0  # standard deviation of the copies' logits, over the batch
_EPSILON = 1e-10


@dataclass(frozen=True)
class UprightOptions(Group):
    """Categories of a shape that do not depend on its place, size and direction; in place of
    --invariance.weight, for images of one bright shape on a dark ground; an extension of InfoGAN.
    Example: --upright.weight 2
    """

    prefix: ClassVar[str] = "upright"
    weight: float = option(
        0.0,
        "Weight of the mutual information between the categories of two upright images made from "
        "a real one (moved, scaled and turned until centre, area and direction are those of all "
        "others), which must be the real image's too; 0: off.",
        at_least=0,
        alias="upright",
    )

    def check(self, spec: LatentSpec) -> None:
        """Raise UserError for values that no run with this spec can have."""
        super().check(spec)
        if self.weight:
            needs_categories(self, spec)


def upright(images: Tensor, u: Tensor) -> Tensor:
    """Return upright copies of bright shapes on 0: [B, C, H, W], in the images' dtype, 0 to 1.

    The longer principal axis lies along the rows, either way round and mirrored or not by chance.
    What is brighter than half of an image's brightest is the shape. One of five times its width or
    more is cut off at the copy's sides.

    Args:
        images: [B, C, H, W] in 0 … 1.
        u: uniform numbers in 0 … 1, [B, 7].
    """
    rows, _, height, width = images.shape
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    u = u.to(wide.dtype)
    wide = wide / wide.amax((1, 2, 3), keepdim=True).clamp_min(_EPSILON)
    maps, middle = wide.mean(1), centre(wide)
    mass = maps.sum((1, 2)).clamp_min(_EPSILON)
    y, x = (places(n, wide) for n in (height, width))
    x, y = x - middle[:, :1], y - middle[:, 1:]  # [B, W], [B, H]
    xx, yy = (maps.sum(1) * x**2).sum(1), (maps.sum(2) * y**2).sum(1)
    xy = torch.einsum("bhw,bh,bw->b", maps, y, x)
    axis = torch.atan2(2 * xy, xx - yy) / 2
    area = AREA * height * width * (GROWTH * (2 * u[:, 0] - 1)).exp()
    larger = (area / mass).sqrt()
    angle = axis + math.pi * (u[:, 1] < 0.5) + TURN * (2 * u[:, 2] - 1)
    mirror = 1 - 2 * (u[:, 3] < 0.5).to(wide.dtype)
    cos, sin = angle.cos() / larger, angle.sin() / larger
    linear = torch.stack((cos, -sin * mirror, sin, cos * mirror), 1).view(rows, 2, 2)
    moved = 2 * SHIFT * (2 * u[:, 4:6] - 1).unsqueeze(2)
    matrix = torch.cat((linear, middle.unsqueeze(2) - linear @ moved), 2)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    copies = F.grid_sample(wide, grid, align_corners=False)
    least, most = (part * width for part in BLUR)
    soft = _blur(copies, least + (most - least) * u[:, 6])
    return ((soft - 0.5) * _SHARPEN + 0.5).clamp(0, 1).to(images.dtype)


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur by Gaussians of these standard deviations [B], at least of a pixel; 0 outside."""
    sigma = sigma.clamp_min(1)
    along = []
    for n in images.shape[2:]:
        at = torch.arange(n, device=images.device, dtype=images.dtype)
        part = (at - at.unsqueeze(1)) / sigma.view(-1, 1, 1)
        bell = (-0.5 * part**2).exp() / (math.sqrt(2 * math.pi) * sigma.view(-1, 1, 1))
        along.append(bell.unsqueeze(1))  # [B, 1, n, n]
    return along[0] @ images @ along[1]


@dataclass(frozen=True)
class UprightCopies:
    """The recipe for two upright copies of each image.

    background: the value of a dark pixel; a bright pixel is 1.
    """

    background: float

    def __call__(self, real: Tensor, at: Address) -> Extra:
        """Return two sets of copies of `real`, [B, C, H, W] each."""
        u = philox.uniform(at.words(Stream.UPRIGHT, real, 2 * NUMBERS))
        bright = (real - self.background) / (1 - self.background)
        copies = upright(bright.repeat(2, 1, 1, 1), torch.cat(u.chunk(2, 1)))
        return Extra((copies * (1 - self.background) + self.background).chunk(2))


@dataclass(frozen=True)
class Upright(Term):
    """Mutual information of the categories of two upright copies of a real image.

    The copies' categories must predict each other, and the image's categories are taught by theirs.
    Upright copies are nearly one image for a network whose slope is bounded (spectral norm), so
    their logits are standardised over the batch first: otherwise all stay alike. Logs the
    information in nats.
    """

    weight: float
    categories: slice  # columns of Q's output
    recipe: UprightCopies
    name = "upright"
    real_only: ClassVar[bool] = True

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        """Return −weight · (the objective of `mutual_information` + the taught log-likelihood)."""
        q, *copies = (x[:, self.categories] for x in (seen.q, *seen.q_extra))
        both = torch.cat(copies)
        variance, mean = torch.var_mean(both, 0, correction=0)
        standard = LOGIT_STD * (both - mean) / (variance + _EPSILON).sqrt()
        first, second = standard.softmax(1).chunk(2)
        objective, nats = mutual_information(first, second)
        target = (first + second).detach() / 2
        likelihood = (target * (SHARPNESS * q).log_softmax(1)).sum(1).mean()
        return -self.weight * (objective + likelihood), nats
