"""Surroundings and tones of photographs' copies, which a category must survive.

An extension of InfoGAN, for images in whose middle something stands out from a ground that is
neither dark nor even. Which of the two is the brighter, their colours, and what lies around them
do not tell what it is; but they are what a network sees first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import philox
from ..options import Group, option
from ..philox import Stream
from .pixels import places
from .protocol import Address

# Half the width and height of what `surround` keeps, in halves of the side, and how much they vary.
KEPT, KEPT_VARIES = (0.55, 0.75), 0.12
_EDGE = 4.0  # of what is kept: the greater, the sharper
_NUMBERS = 6  # random numbers per copy, and one more for each channel


@dataclass(frozen=True)
class PhotoOptions(Group):
    """Other surroundings and tones of photographs' copies, next to --warp: for images in whose
    middle something stands out from any ground; an extension of InfoGAN. With one of them, --warp
    is about the image's middle. Example: --photo.surround 1 --photo.invert 0.5
    """

    prefix: ClassVar[str] = "photo"
    surround: float = option(
        0.0,
        "Probability that what lies around the middle is that of another image of the batch.",
        at_least=0,
        at_most=1,
    )
    invert: float = option(
        0.0, "Probability that dark and bright change places.", at_least=0, at_most=1
    )
    contrast: float = option(
        0.0, "Contrast, from 1 - this to 1 + this times as much.", at_least=0, at_most=1
    )
    brightness: float = option(
        0.0,
        "Mean brightness is drawn anew: this far from the middle of the range, or less, in parts "
        "of the range; 0: stays as it is.",
        at_least=0,
        at_most=0.5,
    )
    tint: float = option(
        0.0,
        "Brightness of each channel changes by this part of the range, or less.",
        at_least=0,
        at_most=1,
    )

    @property
    def active(self) -> bool:
        """True where copies are changed."""
        return self != NO_CHANGE

    def change(self, copies: Tensor, images: Tensor, at: Address, background: float) -> Tensor:
        """Return copies with other surroundings and tones, in their dtype, in background … 1.

        A row's draws are those of its place in the global batch; its surroundings are those of the
        image before it in the rank's own batch.

        Args:
            copies: warped copies [B, C, H, W] of `images`.
            images: the batch's images.
            at: the address of the draws.
            background: the value of a dark pixel; a bright pixel is 1.
        """
        u = philox.uniform(at.words(Stream.PHOTO, images, _NUMBERS + images.shape[1]))
        wide = torch.promote_types(copies.dtype, torch.float32)
        u = u.to(wide).unsqueeze(2).unsqueeze(3)  # [B, 6 + C, 1, 1]
        whole = 1 - background
        changed, others = ((x.to(wide) - background) / whole for x in (copies, images.roll(1, 0)))
        if self.surround:
            kept = _box(changed, u[:, 1:3])
            kept = torch.where(u[:, :1] < self.surround, kept, torch.ones_like(kept))
            changed = others + kept * (changed - others)
        changed = self._tones(changed, u[:, 3:])
        return (whole * changed + background).to(copies.dtype)

    def _tones(self, images: Tensor, u: Tensor) -> Tensor:
        """Return images in 0 … 1 with other tones, by uniform numbers [B, 3 + C, 1, 1]."""
        mean = images.mean((1, 2, 3), keepdim=True)
        sign = 1 - 2 * (u[:, :1] < self.invert).to(images.dtype)
        slope = sign * (1 + self.contrast * (2 * u[:, 1:2] - 1))
        if self.brightness:
            level = 0.5 + self.brightness * (2 * u[:, 2:3] - 1)
        else:
            level = 0.5 + sign * (mean - 0.5)
        level = level + self.tint * (2 * u[:, 3:] - 1)
        return (level + slope * (images - mean)).clamp(0, 1)


NO_CHANGE = PhotoOptions()


def _box(like: Tensor, u: Tensor) -> Tensor:
    """Return boxes about the middle, 1 inside and 0 outside with soft edges: [B, 1, H, W].

    u: uniform numbers [B, 2, 1, 1], for width and height.
    """
    half_x, half_y = (half + KEPT_VARIES * (2 * u[:, i : i + 1] - 1) for i, half in enumerate(KEPT))
    x = places(like.shape[3], like) / half_x  # [B, 1, 1, W]
    y = places(like.shape[2], like).unsqueeze(1) / half_y  # [B, 1, H, 1]
    return (_EDGE * (1 - x**4 - y**4)).sigmoid()
