"""Random warps of images, and what each did that a code may follow."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import philox
from ..philox import Stream
from .photo import NO_CHANGE, PhotoOptions
from .pixels import centre, places
from .protocol import Address, Extra

# The changes of a warp that a code may follow.
CHANGES = ("slant", "width", "x", "y", "size", "stretch", "light_x", "light_y", "nod")
NOD_RADIUS = 0.8  # of the disc that a nod moves, in halves of the side
NOD_HEIGHT = -0.25  # of the disc's middle, from -1 at the image's top to 1 at its bottom
SHAPE = 0.04  # from 0 at the background to 1: what is brighter is the shape that nods
ERASED_BELOW = (0.4, 0.7)  # heights at which `erase_below` cuts, from 0 at the image's top to 1


class Warped(NamedTuple):
    """Copies of images, and what was done to them that a continuous code may follow."""

    images: Tensor  # [B, C, H, W]
    # [B, 6], the first of `CHANGES`; [B, 8] with `light`, [B, 9] with `nod`. In ±1 of the most that
    # the warp does; by `place` more.
    change: Tensor


# Help for Warp's fields on the command line.
WARP_HELP = {
    "rotate": "Rotation, so many degrees either way, at most 180.",
    "scale": "Scale of each axis, 1 ± scale; under 1.",
    "shear": "Shear, up to this slope either way, at most 2.",
    "shift": "Shift, up to this part of the side either way.",
    "flip": "Probability of mirroring left and right.",
    "thickness": "Pixels a side by which strokes widen or thin, at most 1.",
    "zoom": "Scale of both axes, from 1/(1 + zoom) to 1 + zoom.",
    "shift_x": "Instead of shift: to the left and right alone.",
    "place": "Instead of shift: distance from the image's middle, in parts of the side.",
    "gamma": "Brightness, to a power of exp(±gamma), at most 3.",
    "stroke": "Probability of a short bright line on the image.",
    "light": "Light from one side: brightness grows by up to this part from the middle to an "
    "edge, and falls as much to the other.",
    "nod": "Up and down of what lies about the middle, and of the top, in parts of the side.",
    "aside": "A shape so far from the image's middle, in halves of the side, does not nod; one "
    "between nods less. 0: all do.",
    "erase_below": "Probability that all below a random height is erased, 0.4 to 0.7 of the side "
    "from the top.",
    "white": "1: the ground is white, and what is darker is warped.",
}


@dataclass(frozen=True)
class Warp:
    """Random affine maps, mirroring, strokes and brightness, which a category must survive.

    Each is uniform in ± its value: `rotate` in degrees, `scale` of each axis, `shear`, `shift` in
    parts of the side (`shift_x`: left and right alone), `thickness` in pixels on either side of a
    bright stroke (at most 1). `flip` is the probability of mirroring left and right. `zoom` is of
    both axes alike, from 1/(1 + zoom) to 1 + zoom times the size, uniform in its logarithm. All but
    shifts and mirroring leave an image's centre of brightness where it is. `place`, instead of
    `shift`, puts it anywhere within ± its value of the image's middle, in parts of the side: a
    copy's place tells nothing of where the shape was. `gamma`: brightness, from 0 at the background
    to 1, is raised to a power between exp(-gamma) and exp(gamma), uniform in its logarithm.
    `stroke` is the probability that a short bright line is drawn on the copy, of any direction, in
    the middle half of the image. `light`: brightness grows by up to this part from the middle to
    the right, and to the bottom, and falls as much to the other side. `nod` moves what lies in a
    disc about the bright shape's middle down, by `nod` of the side in its middle and by less
    towards its edge, and stretches heights above the image's bottom by exp(nod). With `aside` both
    fall with the distance d of that middle from the image's, in halves of the side, by a factor of
    1 - (d / aside)²: features of a face that looks aside lie near its outline. `erase_below` is the
    probability that the copy becomes background below a height of 0.4 to 0.7 of its own, counted
    from the top (after cutout, DeVries and Taylor 2017): what the lower part alone tells does not
    survive it. With `white` 1, the images are warped as negatives: the ground is white, and what is
    dark counts as bright.
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
    light: float = 0.0
    nod: float = 0.0
    shift_x: float = 0.0
    aside: float = 0.0
    erase_below: float = 0.0
    white: float = 0.0

    def makes(self, change: str) -> bool:
        """Return whether the warp makes this one of `CHANGES`."""
        of = {
            "slant": self.rotate or self.shear,
            "width": self.thickness,
            "size": self.zoom or self.scale,
            "stretch": self.scale,
            "light_x": self.light,
            "light_y": self.light,
            "nod": self.nod,
        }
        if change == "x":
            return bool(self.shift or self.shift_x or self.place)
        return bool(of.get(change, self.shift or self.place))

    def __call__(
        self,
        images: Tensor,
        *,
        seed: int,
        step: int | Tensor,
        first_row: int = 0,
        background: float = 0.0,
        photographs: bool = False,
    ) -> Warped:
        """Return warped copies of images [B, C, H, W]; what comes in from outside is `background`.

        Photographs have no dark ground: their maps are about the image's middle, not its centre of
        brightness, and what comes in from outside is the image, mirrored. Row i's warp is a
        function of (seed, step, first_row + i): see `philox`.
        """
        if self.white:
            whole = 1 + background
            wide = images.to(torch.promote_types(images.dtype, torch.float32))
            black = replace(self, white=0.0)
            copies, moves = black(
                whole - wide,
                seed=seed,
                step=step,
                first_row=first_row,
                background=background,
                photographs=photographs,
            )
            return Warped((whole - copies).to(images.dtype), moves)
        rows = images.shape[0]
        words = philox.words(
            rows,
            self._draws(),
            seed=seed,
            step=step & 0xFFFFFFFF,
            stream=Stream.WARP,
            first_row=first_row,
            device=images.device,
        )
        u = philox.uniform(words)
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
        middle = mirror * centre(wide).unsqueeze(2)  # [B, 2, 1]
        if photographs:
            middle = torch.zeros_like(middle)
        moved = torch.stack((x, y), 1).to(wide.dtype).unsqueeze(2)
        if self.shift_x:
            moved = torch.cat((2 * self.shift_x * moved[:, :1], torch.zeros_like(middle[:, 1:])), 1)
            moved = middle + moved
        else:
            moved = 2 * self.place * moved if self.place else middle + 2 * self.shift * moved
        if self.place:
            x, y = ((moved - middle) / (2 * self.place)).squeeze(2).unbind(1)
        linear = linear.to(wide.dtype)
        matrix = mirror * torch.cat((linear, middle - linear @ moved), 2)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        outside = "reflection" if photographs else "zeros"
        warped = F.grid_sample(wide, grid, padding_mode=outside, align_corners=False)
        if self.nod:
            nod = u[:, 17] * 2 - 1
            warped = _nod(warped, self.nod * nod.to(wide.dtype), self.aside)
        if self.erase_below:
            warped = warped * _above(u[:, 18:20].to(wide.dtype), warped.shape[2], self.erase_below)
        further: tuple[Tensor, ...] = ()
        whole = 1 - background
        if self.light:
            drawn_light = u[:, 15:17] * 2 - 1
            further = drawn_light.unbind(1)
            slope = self.light * drawn_light.to(warped.dtype).view(rows, 2, 1, 1)
            across = slope[:, :1] * places(images.shape[3], warped)
            down = slope[:, 1:] * places(images.shape[2], warped).unsqueeze(1)
            warped = whole * (warped / whole * (1 + across + down)).clamp(0, 1)
        if self.gamma:
            power = (self.gamma * (2 * u[:, 9] - 1)).exp().to(wide.dtype).view(-1, 1, 1, 1)
            warped = whole * (warped / whole).clamp(0, 1) ** power
        warped = warped + background
        if self.thickness:
            warped = _thicken(warped, self.thickness * thicker.to(warped.dtype))
        if self.stroke:
            some = (u[:, 10] < self.stroke).view(-1, 1, 1, 1)
            line = some * _lines(u[:, 11:15], warped.shape[-1]).to(warped.dtype)
            warped = warped + line * (1 - warped)
        # To first order a turn slants as much as a shear of its angle.
        most = self.shear + math.radians(self.rotate)
        slant = (shear - angle) / most if most else torch.zeros_like(shear)
        size, stretch = self._sizes(larger, scale_x, scale_y)
        if self.nod:
            none = torch.zeros_like(slant)
            further = (*(further or (none, none)), nod)
        change = (slant, thicker, x, y, size, stretch, *further)
        return Warped(warped.to(images.dtype), torch.stack([c.float() for c in change], 1))

    def _draws(self) -> int:
        """Return how many random numbers an image takes; each has its place, whatever is on."""
        last = ((self.erase_below, 20), (self.nod, 18), (self.light, 17), (self.stroke, 15))
        return next((n for value, n in last if value), 10)

    def _sizes(self, larger: Tensor, scale_x: Tensor, scale_y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithms of size and of width over height, in parts of their largest values.

        The latter adds up only where the copy is not turned as well (`rotate`).
        """
        wider, higher = -scale_x.log(), -scale_y.log()
        zoom, least = math.log1p(self.zoom), math.log1p(-self.scale)
        most = zoom - least
        size = (larger * zoom + (wider + higher) / 2) / most if most else torch.zeros_like(larger)
        most = math.log1p(self.scale) - least
        stretch = (wider - higher) / most if most else torch.zeros_like(larger)
        return size, stretch


@dataclass(frozen=True)
class WarpedCopies:
    """The recipe for one warped copy of each image, and for what the warp did to it.

    background: the value of a dark pixel; a bright pixel is 1.
    photo: further changes, where images are photographs.
    """

    warp: Warp
    background: float
    photo: PhotoOptions = NO_CHANGE

    def __call__(self, real: Tensor, at: Address) -> Extra:
        """Return the copies of `real` and `Warped.change`."""
        photographs = self.photo.active
        images, change = self.warp(
            real, **at._asdict(), background=self.background, photographs=photographs
        )
        if photographs:
            images = self.photo.change(images, real, at, self.background)
        return Extra((images,), (change,))


def _nod(images: Tensor, by: Tensor, aside: float) -> Tensor:
    """Return images [B, C, H, W] with the shape's middle lower, by `by` [B] of the side.

    Heights above the bottom edge grow by exp(by); where rows are missing the top one is repeated.
    """
    middle = centre((images > SHAPE).to(images.dtype))[:, :1]  # [B, 1]
    by = by.view(-1, 1)
    if aside:
        by = by * (1 - (middle / aside).square()).clamp_min(0)
    by = by.unsqueeze(2)
    x = places(images.shape[3], images).view(1, 1, -1)
    y = 1 - (1 - places(images.shape[2], images).view(1, -1, 1)) * (-by).exp()
    across = x - middle.unsqueeze(2)
    near = (1 - (across.square() + (y - NOD_HEIGHT).square()) / NOD_RADIUS**2).clamp_min(0)
    grid = torch.stack((x.expand_as(near), y - 2 * by * near), 3)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _above(u: Tensor, height: int, share: float) -> Tensor:
    """Return 0 for rows to erase and 1 for others, [B, 1, height, 1], from uniform numbers [B, 2].

    A share of the images is cut, at a height between the two of `ERASED_BELOW`.
    """
    high, low = ERASED_BELOW
    cut = torch.where(u[:, 0] < share, high + (low - high) * u[:, 1], torch.ones_like(u[:, 1]))
    return ((places(height, u) + 1) / 2 < cut.unsqueeze(1)).to(u.dtype).view(len(u), 1, height, 1)


def _thicken(images: Tensor, by: Tensor) -> Tensor:
    """Return images with bright strokes widened (by > 0) or thinned (by < 0).

    by: [B]; ±1 is a pixel on each side.
    """
    by = by.view(-1, 1, 1, 1)
    wider, thinner = F.max_pool2d(images, 3, 1, 1), -F.max_pool2d(-images, 3, 1, 1)
    return images + by.clamp(min=0) * (wider - images) - by.clamp(max=0) * (thinner - images)


def _lines(u: Tensor, side: int) -> Tensor:
    """Return short lines with round ends on 0, [B, 1, side, side], from uniform numbers [B, 4].

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
    """Return the warp of "rotate=20,scale=0.15,flip=0.5" and the like. Raises ValueError."""
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
    if values.get("white", 0.0) not in (0.0, 1.0):
        raise ValueError(f"white: expected 0 or 1, got {values['white']:g}")
    if values.get("aside") and not values.get("nod"):
        raise ValueError("aside: there is no nod to take from; give nod a value")
    shifts = [name for name in ("shift", "shift_x", "place") if values.get(name)]
    if len(shifts) > 1:
        raise ValueError(f"{' and '.join(shifts[:2])}: expected one of them, got both")
    return Warp(**values)


def warp_text(warp: Warp) -> str:
    """Return the text from which `parse_warp` makes this warp."""
    return ",".join(f"{name}={value:g}" for name, value in asdict(warp).items() if value)


def parse_changes(text: str) -> tuple[str, ...]:
    """Return the changes of "slant,width" and the like. Raises ValueError."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in CHANGES or names.count(name) > 1:
            raise ValueError(f"expected each of {', '.join(CHANGES)} at most once, got {name!r}")
    return names
