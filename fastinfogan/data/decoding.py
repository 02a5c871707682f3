"""Image files, decoded by Pillow, as a viewer shows them, and fitted into a square."""

from __future__ import annotations

import functools
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from ..atomic import open_regular
from ..errors import UserError
from .reading import Fit, Kind, Reading, ValueRange, background_colour, kind_of, to_uint8

# Of Pillow's formats those of pictures. None of them starts another program, as EPS does, or draws
# vectors; the content decides, not the suffix.
FORMATS = (
    *("PNG", "JPEG", "MPO", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "AVIF"),
    *("JPEG2000", "SGI", "QOI"),
)
# These have no mark that tells them from damage, and are read under their own suffixes alone.
UNMARKED = {".tga": "TGA", ".icb": "TGA", ".vda": "TGA", ".vst": "TGA", ".pcx": "PCX"}
MAX_PIXELS = 89_478_485  # of one image: 256 MiB of colour; Pillow warns from there on
MIN_CONTRAST = 8  # levels of 255: an image of less contrast shows nothing
MAX_BYTES = 2**30  # of a member of an archive, and of a file that is read whole
_READ_WHOLE = {"AVIF", "WEBP"}  # Pillow's decoders that read a file of any size into memory
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PHOTOMETRIC = 262  # the TIFF tag; 0 is WhiteIsZero
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = {b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tIME", b"pHYs", b"sPLT", b"hIST"}
# JPEG's segments of metadata: APP1 … APP13 and APP15, and comments. APP14 tells how colours are
# stored.
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that are read, in small letters."""
    extensions = Image.registered_extensions().items()
    return frozenset([*UNMARKED, *(suffix for suffix, kind in extensions if kind in FORMATS)])


@functools.cache
def _formats(suffix: str) -> tuple[str, ...]:
    Image.init()
    kinds = (UNMARKED[suffix],) if suffix in UNMARKED else FORMATS
    return tuple(kind for kind in kinds if kind in Image.OPEN)


@contextmanager
def _open_image(content: Path | bytes) -> Iterator[Image.Image]:
    """Open an image. Pillow gets a file that is open, and opens no path: it may be a pipe's."""
    if isinstance(content, bytes):
        with Image.open(io.BytesIO(content), formats=_formats("")) as image:
            yield image
        return
    with open_regular(content) as file:
        formats = _formats(content.suffix.lower())
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            formats = tuple(kind for kind in formats if kind not in _READ_WHOLE)
        with Image.open(file, formats=formats) as image:
            yield image


@dataclass(frozen=True)
class Picture:
    """One frame of an image file, upright, whole, its value range as stored."""

    image: Image.Image | None  # 8 bits: L, RGB or RGBA
    levels: NDArray[Any] | None  # gray beyond 8 bits: uint16, int32 or float32 [H, W]
    mask: NDArray[np.uint8] | None  # alpha of `levels`, 0 or 255
    mode: str  # Pillow's, as stored
    frames: int
    alpha: bool  # some pixel is not opaque
    profile: str  # the colour profile that was converted to sRGB, "" where none was

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        if self.image is not None:
            return self.image.size
        assert self.levels is not None
        return self.levels.shape[1], self.levels.shape[0]

    @property
    def stored(self) -> bytes:
        """The pixels as bytes, which tell exact duplicates."""
        pixels = self.levels if self.image is None else np.asarray(self.image)
        assert pixels is not None
        return repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()

    @property
    def extremes(self) -> tuple[Kind, float, float]:
        """The kind of values, the least and the greatest, alpha aside."""
        if self.image is not None:
            extrema: Any = self.image.getextrema()
            bands = [extrema] if self.image.mode == "L" else list(extrema)[:3]
            return "8-bit", min(low for low, _ in bands), max(high for _, high in bands)
        assert self.levels is not None
        low, high = float(self.levels.min()), float(self.levels.max())
        if self.levels.dtype == np.uint16 and not (self.levels % 257).any():
            high = max(high, 65535.0 if high else 0.0)  # 8 bits, each twice: white is 65535
        return kind_of(self.levels.dtype, max(high, 256)), low, high


def decode(content: Path | bytes, frame: int = 0, count_frames: bool = False) -> Picture:
    """Decode one frame of an image file, given by its path or its bytes.

    Where metadata alone are damaged or too large (text of a PNG, EXIF), the pixels are decoded
    without them. Raises ValueError, in one line, for whatever else a decoder raises, for a format
    that is none of FORMATS, and for more than MAX_PIXELS pixels.
    """
    with _quiet():
        try:
            return _decode(content, frame, count_frames)
        except Exception as error:  # decoders raise what they happen to meet
            reason = _reason(error, content)
            try:
                bare = without_metadata(content)
                if bare is not None:
                    return _decode(bare, frame, count_frames)
            except Exception:  # the first reason counts
                pass
            raise ValueError(reason) from None


def _reason(error: Exception, content: Path | bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "of none of the known formats, or damaged"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # Pillow's, on what is torn or large; we report it ourselves
        warnings.simplefilter("ignore")
        yield


def _decode(content: Path | bytes, frame: int, count_frames: bool) -> Picture:
    with _open_image(content) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} pixels, expected at most {MAX_PIXELS:,}")
        if width * height == 0:
            raise ValueError("no pixels")
        frames = number_of_frames(image) if count_frames else 1
        mode = image.mode
        if frame:
            image.seek(frame)
        image.load()
        turn = _TURNS.get(_orientation(image))
        if image.mode.startswith("I") or image.mode == "F":
            return _deep(image, turn, mode, frames)
        flat = _alpha_or_colour(image)
        flat, profile = _to_srgb(flat, image)
        if turn is not None:
            flat = flat.transpose(turn)
        alpha = flat.mode == "RGBA" and flat.getchannel("A").getextrema() != (255, 255)
        return Picture(flat, None, None, mode, frames, alpha, profile)


def number_of_frames(image: Image.Image) -> int:
    """Return the number of frames or pages. A JPEG's further pictures are previews, not frames."""
    if image.format in ("JPEG", "MPO"):
        return 1
    return int(getattr(image, "n_frames", 1))


def frames_in(content: Path | bytes) -> int:
    """Return the number of frames of a file. Raises ValueError as `decode` does."""
    with _quiet():
        try:
            with _open_image(content) as image:
                return number_of_frames(image)
        except Exception as error:
            raise ValueError(_reason(error, content)) from None


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 where it cannot be read; nothing is encoded anew."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # odd EXIF does not hide sound pixels
        return 1


def _deep(image: Image.Image, turn: Image.Transpose | None, mode: str, frames: int) -> Picture:
    """Convert gray beyond 8 bits per pixel, which Pillow's own conversion would clip."""
    levels = np.asarray(image)
    if levels.dtype.kind == "u" and levels.dtype.itemsize == 2:
        levels = levels.astype(np.uint16)  # of either byte order
        if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # type: ignore[attr-defined]
            levels = 65535 - levels
    transparent = image.info.get("transparency")
    mask = None
    if isinstance(transparent, int):  # a PNG's tRNS: the one value that is not there
        mask = np.where(levels == transparent, 0, 255).astype(np.uint8)
    if turn is not None:
        levels = _turn(levels, turn)
        mask = None if mask is None else _turn(mask, turn)
    alpha = mask is not None and not mask.all()
    return Picture(None, levels, mask if alpha else None, mode, frames, alpha, "")


def _turn(array: NDArray[Any], turn: Image.Transpose) -> NDArray[Any]:
    t = Image.Transpose
    turned = {
        t.FLIP_LEFT_RIGHT: lambda a: a[:, ::-1],
        t.ROTATE_180: lambda a: a[::-1, ::-1],
        t.FLIP_TOP_BOTTOM: lambda a: a[::-1],
        t.TRANSPOSE: lambda a: a.T,
        t.ROTATE_270: lambda a: np.rot90(a, -1),
        t.TRANSVERSE: lambda a: a[::-1, ::-1].T,
        t.ROTATE_90: lambda a: np.rot90(a),
    }[turn]
    return np.ascontiguousarray(turned(array))


def _alpha_or_colour(image: Image.Image) -> Image.Image:
    """Convert to L, RGB or, where there may be transparency, RGBA."""
    transparency = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(transparency, tuple) and max(transparency) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in transparency)  # of 16 bits
    if transparency is not None or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        return image.convert("RGBA")
    if image.mode in ("1", "L"):
        return image.convert("L")
    return image.convert("RGB")


def _to_srgb(flat: Image.Image, image: Image.Image) -> tuple[Image.Image, str]:
    """Convert colours of another RGB profile; returns the profile's name, "" where there is none.

    A profile that is damaged, or of another kind of colour, is passed over.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "P"):
        return flat, ""
    try:
        name, convert = _conversion(bytes(profile), flat.mode)
        if convert is None:
            return flat, ""
        return ImageCms.applyTransform(flat, convert) or flat, name
    except Exception:  # of littlecms, or where Pillow has none
        return flat, ""


@functools.lru_cache(16)
def _conversion(profile: bytes, mode: str) -> tuple[str, Any]:
    """Return a profile's name and the transform to sRGB, None where it is sRGB itself."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    name = " ".join(ImageCms.getProfileDescription(source).split())
    if source.profile.xcolor_space.strip() != "RGB" or "srgb" in name.lower():
        return name, None
    target = ImageCms.createProfile("sRGB")
    return name or "without a name", ImageCms.buildTransform(source, target, mode, mode)


def without_metadata(content: Path | bytes) -> bytes | None:
    """Return a PNG's or JPEG's bytes without its metadata, None for another format."""
    if isinstance(content, Path):
        with open_regular(content) as file:
            start = file.read(len(_PNG))
            if start != _PNG and not start.startswith(b"\xff\xd8"):
                return None
            content = start + file.read(MAX_BYTES)
    if content.startswith(_PNG):
        return _bare_png(content)
    if content.startswith(b"\xff\xd8"):
        return _bare_jpeg(content)
    return None


def _bare_png(content: bytes) -> bytes:
    chunks, at = [_PNG], len(_PNG)
    while at + 8 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] not in _PNG_METADATA:
            chunks.append(content[at:end])
        at = end
    return b"".join(chunks)


def _bare_jpeg(content: bytes) -> bytes:
    segments, at = [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if content[at + 1] not in _JPEG_METADATA:
            segments.append(content[at:end])
        at = end
    return b"".join([*segments, content[at:]])


def on_background(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Composite an RGBA image on a colour."""
    return Image.alpha_composite(Image.new("RGBA", image.size, (*colour, 255)), image)


def is_blank(picture: Picture, colour: tuple[int, int, int]) -> bool:
    """Return True if a picture with transparency has one colour once it is put on a background."""
    if picture.image is None:
        return False
    extrema: Any = on_background(picture.image, colour).getextrema()
    return all(high - low < MIN_CONTRAST for low, high in extrema)


def check_decodable(channels: int) -> None:
    """Raise UserError for a number of channels that a decoded image cannot be given."""
    if channels not in (1, 3, 4):
        raise UserError(
            "--channels: an image file gives 1 (gray), 3 (colour) or 4 (colour and alpha), "
            f"got {channels}"
        )


def square(picture: Picture, reading: Reading, ranges: dict[Kind, ValueRange]) -> NDArray[np.uint8]:
    """Return the picture fitted into a square: uint8 [size, size, channels].

    In this order: its value range, transparency composited on the background (kept as the fourth
    channel where 4 are asked for), gray or colour, and `reading.fit`. Raises ValueError where a
    value lies outside the set's range.
    """
    size, channels = reading.image_size, reading.channels
    image = _in_range(picture, ranges)
    colour = background_colour(reading.background)
    if image.mode == "RGBA" and channels != 4:
        image = on_background(image, colour) if picture.alpha else image
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    if image.mode == "RGBA" and mode == "L":
        image = image.convert("RGB")
    fitted = fit(image.convert(mode), size, reading.fit, colour)
    return np.asarray(fitted).reshape(size, size, channels)


def _in_range(picture: Picture, ranges: dict[Kind, ValueRange]) -> Image.Image:
    kind = picture.extremes[0] if picture.image is None else "8-bit"
    chosen = ranges[kind]
    if picture.image is not None:
        if chosen[:2] == (0, 255):
            return picture.image
        alpha = picture.image.getchannel("A") if picture.image.mode == "RGBA" else None
        plain = picture.image.convert("RGB") if alpha is not None else picture.image
        mapped = Image.fromarray(to_uint8(np.asarray(plain), chosen))
    else:
        assert picture.levels is not None
        mapped = Image.fromarray(to_uint8(picture.levels, chosen))
        alpha = None if picture.mask is None else Image.fromarray(picture.mask)
    if alpha is not None:
        mapped = mapped.convert("RGBA")
        mapped.putalpha(alpha)
    return mapped


def fit(image: Image.Image, size: int, way: Fit, colour: tuple[int, int, int]) -> Image.Image:
    """Scale to size x size: of the central square, of all with borders in `colour`, or of all."""
    scaling = Image.Resampling.LANCZOS
    if way == "crop":
        return ImageOps.fit(image, (size, size), method=scaling)
    if way == "stretch":
        return image.resize((size, size), scaling)
    longest = max(image.size)
    width, height = (max(1, round(side * size / longest)) for side in image.size)
    fill: Any = {"L": Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0))}.get(
        image.mode, (*colour, 0)[: len(image.getbands())]
    )
    ground = Image.new(image.mode, (size, size), fill)
    ground.paste(
        image.resize((width, height), scaling), ((size - width) // 2, (size - height) // 2)
    )
    return ground


def cut_off(width: int, height: int) -> float:
    """Return the share of an image's pixels that its central square leaves out."""
    return 1 - min(width, height) / max(width, height)
