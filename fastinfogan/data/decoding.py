"""Image files, decoded by Pillow, as square uint8 arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import UserError

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # of Pillow


def check_decodable(channels: int) -> None:
    """Raise UserError for a number of channels that a decoded image cannot be given."""
    if channels not in (1, 3):
        raise UserError(f"--channels: an image folder gives 1 (gray) or 3 (colour), got {channels}")


def square(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """The central square, upright, scaled to `size`: uint8 [size, size, channels].

    Raises one of `UNREADABLE` where the image is damaged or of a mode without 8 or 16 bits.
    """
    if image.mode.startswith("I;16"):  # convert() would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}: expected 8 or 16 bits a channel")
    upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    fitted = ImageOps.fit(upright, (size, size), method=Image.Resampling.LANCZOS)
    return np.asarray(fitted).reshape(size, size, channels)
