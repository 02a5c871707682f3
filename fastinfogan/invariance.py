"""Information on real images: an extension of InfoGAN, off in `mnist-paper`.

The paper's term asks that Q can read the code off a *generated* image. It is at its ceiling long
before the categories are the classes, since nothing in it looks at real images. This one does:
the categories that Q gives a real image and a warped copy of it must tell as much as possible of
each other. Only what a warp leaves alone can, and only if all categories are used. No label is
seen; what is known beforehand is the choice of warps.

Continuous codes may follow what the categories ignore: one is to move with a warp's slant, say,
another with its stroke width. Then G, whose images Q must read, gives them that meaning. One that
follows nothing, that no warp is to move, is left what all warps leave alone: a shape, say.

The joint distribution is that of a rank's own batch: unlike the paper's losses, two ranks of B are
not one of 2B.

Warps know only what was thought of. A virtual adversarial copy is the small change of an image that
alters its categories most, found by their gradient; they are to bear that too, and so no category
borders on another where there are images.

Mutual information of the two predictions: Ji, Henriques and Vedaldi 2019 ("Invariant information
clustering", eq. 3); of a prediction and its image under augmentation, or under an adversarial
change: Hu et al. 2017 (IMSAT); how that is found: Miyato et al. 2018 ("Virtual adversarial
training").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import philox
from .layers import asking
from .networks_base import Discriminator
from .philox import Stream

# Categories start nearly equal, where mutual information is flat: one split grows, the others
# follow slowly or never, and digits stay together. Sharper predictions and a greater weight on
# using all categories start all of them at once (docs/quality.md has the figures).
SHARPNESS = 10.0  # multiplies the logits
BALANCE = 2.0  # weight of the categories' entropy; 1 is the mutual information itself
FOLLOWED = 0.75  # how far the greatest warp moves a code that follows it; a uniform one spans ±1
STILL = "nothing"  # followed by a code that no warp is to move
CHANGES = ("slant", "width", "x", "y", "size", STILL)  # what a warp does that a code may follow
PROBE = 1.0  # length of the random step from which the worst direction is looked for
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


class Warped(NamedTuple):
    """Copies of images, and what was done to them that a continuous code may follow."""

    images: Tensor  # [B, C, H, W]
    change: Tensor  # [B, 6], of `CHANGES`: in ±1 of the most that the warp does; by `place` more


@dataclass(frozen=True)
class RealTerms:
    """What Q is asked on real images and their warped copies."""

    weight: float = 0.0  # of the categories' information
    categories: slice | None = None  # their columns of Q's output
    follow: float = 0.0  # weight of the codes' following
    followers: tuple[int, ...] = ()  # columns of Q's output, the means of continuous codes
    changes: tuple[int, ...] = ()  # which column of `Warped.change` each follows
    vat: float = 0.0  # weight of the virtual adversarial copies
    radius: float = 1.5  # how far these are from the images

    def loss(self, q: Tensor, of_warped: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """(what is added to D's loss, the categories' information in nats).

        Args:
            q, of_warped: Q's output [B, q_dim] on real images and on their copies.
            change: [B, 6], as in `Warped`.
        """
        wide = torch.promote_types(q.dtype, torch.float32)
        q, of_warped = q.to(wide), of_warped.to(wide)
        total = nats = q.new_zeros(())
        if self.weight:
            assert self.categories is not None
            first, second = (x[:, self.categories] * SHARPNESS for x in (q, of_warped))
            objective, nats = mutual_information(first.softmax(1), second.softmax(1))
            total = total - self.weight * objective
        if self.follow:
            # Columns one by one: an index in a list is a tensor made anew, and copied to a device.
            for column, which in zip(self.followers, self.changes, strict=True):
                moved = of_warped[:, column] - q[:, column]
                miss = moved - FOLLOWED * change[:, which].to(wide)
                total = total + self.follow * miss.square().mean()
        return total, nats.detach()

    def adversarial(
        self, discriminator: Discriminator, images: Tensor, q: Tensor, probes: Tensor
    ) -> Tensor:
        """KL(p(x) ‖ p(x + r)) of the categories in nats, for the r of length `radius` that makes
        most of it: Miyato et al. 2018, algorithm 1, one power iteration, from `probes`.

        Two more passes of D, whose batch statistics are the copies' own and which no buffer
        follows; the first has no gradient in D's parameters.

        Args:
            images: real ones [B, C, H, W], in the dtype that D computes in.
            q: Q's output on them, [B, q_dim]; the target, to which no gradient goes.
            probes: directions [B, C, H, W], of any length.
        """
        target = q.detach()
        probe = (images + PROBE * _unit(probes).to(images.dtype)).detach().requires_grad_()
        found = self._divergence(discriminator, target, probe)
        with asking("inputs"):
            (slope,) = torch.autograd.grad(found, probe)
        copies = (images + self.radius * _unit(slope).to(images.dtype)).detach()
        return self._divergence(discriminator, target, copies)

    def _divergence(self, discriminator: Discriminator, target: Tensor, images: Tensor) -> Tensor:
        q = discriminator.q(discriminator.trunk(images, "batch"), "batch")
        wide = torch.promote_types(q.dtype, torch.float32)
        log_p, log_q = (
            (x[:, self.categories].to(wide) * SHARPNESS).log_softmax(1) for x in (target, q)
        )
        return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def _unit(directions: Tensor) -> Tensor:
    """Each row [C, H, W] divided by its length, in fp32 or wider."""
    wide = directions.to(torch.promote_types(directions.dtype, torch.float32))
    length = wide.flatten(1).norm(dim=1).clamp_min(_SMALL)
    return wide / length.view(-1, 1, 1, 1)


@dataclass(frozen=True)
class Warp:
    """Random affine maps, mirroring, strokes and brightness: what a category is to bear.

    Each is uniform in ± its value: `rotate` in degrees, `scale` of each axis, `shear`, `shift` in
    parts of the side, `thickness` in pixels on either side of a bright stroke (at most 1). `flip`
    is the probability of mirroring left and right. `zoom` is of both axes alike, from 1/(1 + zoom)
    to 1 + zoom times the size, uniform in its logarithm. All but shifts and mirroring leave an
    image's centre of brightness where it is. `place`, instead of `shift`, puts it anywhere within ±
    its value of the image's middle, in parts of the side: a copy's place tells nothing of where
    the shape was. `gamma`: brightness, from 0 at the background to 1, is raised to a power between
    exp(-gamma) and exp(gamma), uniform in its logarithm. `stroke` is the probability that a short
    bright line is drawn on the copy, of any direction, in the middle half of the image.
    """

    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    flip: float = 0.0
    thickness: float = 0.0
    zoom: float = 0.0
    place: float = 0.0
    gamma: float = 0.0
    stroke: float = 0.0

    def makes(self, change: str) -> bool:
        """Whether it does that one of `CHANGES`."""
        of = {
            "slant": self.rotate or self.shear,
            "width": self.thickness,
            "size": self.zoom,
            STILL: 1.0,
        }
        return bool(of.get(change, self.shift or self.place))

    def __call__(
        self,
        images: Tensor,
        *,
        seed: int,
        step: int | Tensor,
        first_row: int = 0,
        background: float = 0.0,
    ) -> Warped:
        """Warped copies of images [B, C, H, W]; what comes in from outside is `background`.

        Row i's warp is a function of (seed, step, first_row + i): see `philox`.
        """
        rows = images.shape[0]
        drawn = philox.words(
            rows,
            15 if self.stroke else 10,
            seed=seed,
            step=step & 0xFFFFFFFF,
            stream=Stream.WARP,
            first_row=first_row,
            device=images.device,
        )
        u = philox.uniform(drawn)
        angle, scale_x, scale_y, shear, x, y = (u[:, :6] * 2 - 1).unbind(1)
        angle = angle * math.radians(self.rotate)
        scale_x, scale_y = 1 + scale_x * self.scale, 1 + scale_y * self.scale
        shear = shear * self.shear
        cos, sin = angle.cos(), angle.sin()
        thicker, larger = (u[:, 7:9] * 2 - 1).unbind(1)
        # Where a pixel of the copy comes from: turned and scaled about the centre of brightness.
        linear = torch.stack(
            (
                *(cos * scale_x, cos * shear - sin * scale_y),
                *(sin * scale_x, sin * shear + cos * scale_y),
            ),
            dim=1,
        ).view(rows, 2, 2)
        linear = linear * (1 + self.zoom) ** -larger.view(-1, 1, 1)
        wide = images.to(torch.promote_types(images.dtype, torch.float32)) - background
        mirror = torch.ones(rows, 2, 1, device=images.device, dtype=wide.dtype)
        mirror[:, 0, 0] -= 2 * (u[:, 6] < self.flip)
        centre = mirror * _centre(wide).unsqueeze(2)  # [B, 2, 1]
        moved = torch.stack((x, y), 1).to(wide.dtype).unsqueeze(2)
        moved = 2 * self.place * moved if self.place else centre + 2 * self.shift * moved
        if self.place:
            x, y = ((moved - centre) / (2 * self.place)).squeeze(2).unbind(1)
        linear = linear.to(wide.dtype)
        matrix = mirror * torch.cat((linear, centre - linear @ moved), 2)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        warped = F.grid_sample(wide, grid, align_corners=False)
        if self.gamma:
            power = (self.gamma * (2 * u[:, 9] - 1)).exp().to(wide.dtype).view(-1, 1, 1, 1)
            whole = 1 - background
            warped = whole * (warped / whole).clamp(0, 1) ** power
        warped = warped + background
        if self.thickness:
            warped = _thickened(warped, self.thickness * thicker.to(warped.dtype))
        if self.stroke:
            some = (u[:, 10] < self.stroke).view(-1, 1, 1, 1)
            line = some * _lines(u[:, 11:15], warped.shape[-1]).to(warped.dtype)
            warped = warped + line * (1 - warped)
        # To first order a turn slants as much as a shear of its angle.
        most = self.shear + math.radians(self.rotate)
        slant = (shear - angle) / most if most else torch.zeros_like(shear)
        change = (slant, thicker, x, y, larger, torch.zeros_like(x))
        return Warped(warped.to(images.dtype), torch.stack([c.float() for c in change], 1))


def _centre(bright: Tensor) -> Tensor:
    """The centre of brightness (x, y) [B, 2] of images [B, C, H, W], from -1 to 1 as in a grid."""
    maps = bright.sum(1)  # [B, H, W]
    mass = maps.sum((1, 2)).clamp_min(_SMALL)
    parts = []
    for dim in (1, 2):  # summed over rows, over columns
        line = maps.sum(dim)
        n = line.shape[1]
        places = (2 * torch.arange(n, device=line.device, dtype=line.dtype) + 1) / n - 1
        parts.append((line * places).sum(1) / mass)
    return torch.stack(parts, 1)


def _thickened(images: Tensor, by: Tensor) -> Tensor:
    """Bright strokes widened (by > 0) or thinned (by < 0); by: [B], ±1 is a pixel on each side."""
    by = by.view(-1, 1, 1, 1)
    wider, thinner = F.max_pool2d(images, 3, 1, 1), -F.max_pool2d(-images, 3, 1, 1)
    return images + by.clamp(min=0) * (wider - images) - by.clamp(max=0) * (thinner - images)


def _lines(u: Tensor, side: int) -> Tensor:
    """Short lines with round ends on 0, [B, 1, side, side], of four uniform numbers each, [B, 4].

    Of MNIST's 28 pixels they are 3 wide and 7 to 11 long, 8 or less from the middle on each axis.
    """
    pixel = 28 / side
    place = (torch.arange(side, device=u.device, dtype=u.dtype) + 0.5) * pixel - 14
    x, y = (place - (16 * middle - 8).unsqueeze(1) for middle in u[:, :2].unbind(1))  # [B, side]
    cos, sin = (math.pi * u[:, 2]).cos().view(-1, 1, 1), (math.pi * u[:, 2]).sin().view(-1, 1, 1)
    x, y = x.unsqueeze(1), y.unsqueeze(2)
    along, across = x * cos + y * sin, y * cos - x * sin
    beyond = (along.abs() - (2 + 2 * u[:, 3]).view(-1, 1, 1)).clamp_min(0)
    return (1.8 - torch.hypot(beyond, across)).clamp(0, 1).unsqueeze(1)


def parse_warp(text: str) -> Warp:
    """The warp of "rotate=20,scale=0.15,shear=0.3,flip=0.5" and the like. Raises ValueError."""
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
        most = {"rotate": 180.0, "shear": 2.0, "gamma": 3.0}.get(name, 1.0)
        if not 0 <= values[name] <= most or (name == "scale" and values[name] == 1):
            raise ValueError(f"{name}: expected 0 to {most:g}, got {number}")
    if values.get("shift") and values.get("place"):
        raise ValueError("shift and place: expected one of them, got both")
    return Warp(**values)


def parse_changes(text: str) -> tuple[str, ...]:
    """The changes of "slant,width" and the like. Raises ValueError."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in CHANGES or (names.count(name) > 1 and name != STILL):
            raise ValueError(f"expected each of {', '.join(CHANGES)} at most once, got {name!r}")
    return names
