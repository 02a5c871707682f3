"""The options that decide how stored images become uint8 pixels, for every reader alike.

The decisions, each made here once:

- **Background: white.** A transparent pixel is composited on `background`, as a page or a viewer
  shows it; its hidden colour is never trained on. Drawings and logos with an alpha channel are
  mostly dark on nothing, so that black would erase them. `fit="pad"` fills with the same colour.
- **Value range: stretched where the bit depth is certain, else kept and reported.** 8-bit images
  that reach 1 are masks: 1 becomes white. 16-bit images that reach no more than 1, 255, 1023, 4095
  or 16383 hold 1, 8, 10, 12 or 14 bits: that value becomes white. Other 8-bit images that reach
  less than 64 of 255 may simply be dark: they are kept, and a line names the option. Floats must
  lie in 0…1 or −1…1. The range is that of up to 256 evenly spaced images of a file or folder, so
  that a streamed set is read like a resident one; an image outside it is an error that names the
  option.
- **Frames: the first.** A line says how many were left out; "all" makes every frame an image.
- **Fit: crop.** The central square, so that shapes keep their proportions and no border is learned;
  the start says how much of the median image that cuts off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from ..errors import UserError
from .streaming import Mode

Frames = Literal["first", "all"]
Fit = Literal["crop", "pad", "stretch"]
Kind = Literal["8-bit", "16-bit", "float"]
BIT_DEPTHS = {1: 1, 255: 8, 1023: 10, 4095: 12, 16383: 14, 65535: 16}  # white, by bits
MIN_BRIGHT = 64  # of 255: images that reach less are reported
TOLERANCE = 1e-4  # of a float's range, for the rounding of whoever scaled the images


class ValueRange(NamedTuple):
    """The values that become black and white; outside them values are clipped or refused."""

    low: float
    high: float
    clip: bool = False


FULL: dict[Kind, ValueRange] = {
    "8-bit": ValueRange(0, 255),
    "16-bit": ValueRange(0, 65535),
    "float": ValueRange(0, 1),
}


@dataclass(frozen=True)
class Reading:
    """Options for reading one set: the size and channels of its images, and what pixels mean."""

    image_size: int
    channels: int
    stream: Mode = "auto"
    background: str = "white"  # a colour's name, #rrggbb or rgb(r, g, b)
    frames: Frames = "first"
    fit: Fit = "crop"
    skip_bad: int = 0  # damaged files to pass over
    value_range: str = "auto"  # or "full", or "LOW,HIGH"
    remote: Mode = "auto"  # as `stream`: whether a set of the hub is read from there
    factors: str = ""  # columns of a hub's or Parquet set, "azimuth:360,elevation"

    def check(self) -> None:
        """Raise UserError, naming the option, for a value that cannot be used."""
        for name, kinds in (("stream", Mode), ("frames", Frames), ("fit", Fit)):
            value = getattr(self, name)
            if value not in get_args(kinds):
                expected = ", ".join(get_args(kinds))
                raise UserError(f"--{name}: expected one of {expected}, got {value!r}")
        if self.skip_bad < 0:
            raise UserError(f"--skip-bad: expected at least 0, got {self.skip_bad}")
        background_colour(self.background)
        parse_value_range(self.value_range)


def background_colour(text: str) -> tuple[int, int, int]:
    """Return the colour that `text` names, as red, green, blue. Raises UserError."""
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise UserError(
            f"--background: expected a colour such as white, black or #808080, got {text!r}"
        ) from None


def parse_value_range(text: str) -> ValueRange | None:
    """Return the range of "LOW,HIGH", None for "auto" and "full". Raises UserError."""
    if text in ("auto", "full"):
        return None
    low, _, high = text.partition(",")
    try:
        chosen = ValueRange(float(low), float(high), clip=True)
    except ValueError:
        chosen = ValueRange(0, 0)
    if not (np.isfinite(chosen[:2]).all() and chosen.low < chosen.high):
        raise UserError(f"--value-range: expected auto, full or LOW,HIGH, got {text!r}")
    return chosen


def choose_range(
    kind: Kind, low: float, high: float, requested: str
) -> tuple[ValueRange, str | None]:
    """Return the range of images whose values reach from `low` to `high`, and a line about it.

    The line is None where there is nothing to say. Raises ValueError for floats outside −1…1,
    integers outside 0…65535, and values that are not finite, unless `requested` gives the range.
    """
    value_range = parse_value_range(requested)
    if value_range is not None:
        black, white = (f"{value:g}" for value in value_range[:2])
        return (
            value_range,
            f"values from {black} (black) to {white} (white), clipped outside, as asked",
        )
    if not np.isfinite([low, high]).all():
        raise ValueError("values that are not finite")
    if kind == "float":
        return _float_range(low, high)
    if low < 0 or high > FULL[kind].high:
        raise ValueError(
            f"from {low:g} to {high:g}: expected 0…{FULL[kind].high:g}; pass --value-range "
            f"LOW,HIGH (black,white), say --value-range {low:g},{high:g}"
        )
    if requested == "full":
        return FULL[kind], None
    if kind == "8-bit":
        if high == 1:
            line = "images reach 1 of 255; stretched, so that 1 is white (--value-range full: not)"
            return ValueRange(0, 1), line
        if high == 0:
            return FULL[kind], "the images looked at are black"
        if high < MIN_BRIGHT:
            line = f"images reach {high:g} of 255, and are kept so dark; --value-range 0,{high:g} "
            return FULL[kind], line + "makes that white"
        return FULL[kind], None
    if high == 0:
        return FULL[kind], "the images looked at are black"
    top = next((level for level in BIT_DEPTHS if high <= level), 65535)
    if top == 65535:
        return FULL[kind], None
    line = f"16-bit images reach {high:g}; stretched, so that {top} is white "
    return ValueRange(0, top), line + f"({BIT_DEPTHS[top]} bits; --value-range full: not)"


def _float_range(low: float, high: float) -> tuple[ValueRange, str]:
    bottom = 0 if low >= -TOLERANCE else -1
    if low < bottom - TOLERANCE or high > 1 + TOLERANCE:
        raise ValueError(
            f"from {low:g} to {high:g}: expected 0…1 or −1…1; save them as uint8, or pass "
            f"--value-range LOW,HIGH (black,white), say --value-range {min(low, 0):g},{high:g}"
        )
    return ValueRange(bottom, 1), f"float images of {'0' if bottom == 0 else '−1'}…1"


def kind_of(dtype: np.dtype[Any], high: float) -> Kind:
    """Return the kind of values that numbers of this type are, the highest of them being `high`."""
    if dtype.kind == "f":
        return "float"
    small = dtype.itemsize == 1 or (dtype != np.uint16 and high <= 255)
    return "8-bit" if small else "16-bit"


def to_uint8(values: NDArray[Any], chosen: ValueRange) -> NDArray[np.uint8]:
    """Map values to 0…255, black to white. The array itself where it is that already.

    Raises ValueError where values lie outside a range that was found on other images.
    """
    if values.dtype == np.uint8 and chosen[:2] == (0, 255):
        return values
    if not values.size:
        return values.astype(np.uint8)
    low, high = float(values.min()), float(values.max())
    slack = TOLERANCE * (chosen.high - chosen.low) if values.dtype.kind == "f" else 0
    if not (np.isfinite([low, high]).all()):
        raise ValueError("values that are not finite")
    if not chosen.clip and (low < chosen.low - slack or high > chosen.high + slack):
        raise ValueError(
            f"values from {low:g} to {high:g}, but of the images looked at from {chosen.low:g} to "
            f"{chosen.high:g}; pass --value-range full or LOW,HIGH"
        )
    if values.dtype == np.uint8:
        table = (np.arange(256) - chosen.low) * (255 / (chosen.high - chosen.low))
        return np.rint(table).clip(0, 255).astype(np.uint8)[values]
    scaled = (values.astype(np.float64) - chosen.low) * (255 / (chosen.high - chosen.low))
    return np.rint(scaled).clip(0, 255).astype(np.uint8)
