"""Arrays of images: their layout and their value range; .npy files, mapped into memory."""

from __future__ import annotations

import io
import math
import mmap
import os
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..atomic import open_regular
from ..errors import UserError
from .reading import Reading, ValueRange, choose_range, kind_of, to_uint8
from .streaming import Rows, evenly

SURVEY_IMAGES = 256  # images of a file that tell its value range
CONVERTED_AT_ONCE = 1024  # images
CHANNELS = (1, 2, 3, 4)
MAX_HEADER = 10_000  # bytes of a .npy file's header; numpy parses no longer one
_NPY = b"\x93NUMPY"


def with_channels_last(images: NDArray[Any], where: object) -> tuple[NDArray[Any], list[str]]:
    """Return [N, H, W] or [N, H, W, C] as [N, H, W, C]; [N, C, H, W] is turned, with a line.

    Raises UserError for another shape.
    """
    if images.ndim == 3:
        return images[..., None], []
    if images.ndim != 4:
        raise UserError(
            f"{where}: images must be [N, H, W] or [N, H, W, C], got shape {list(images.shape)}"
        )
    if images.shape[3] in CHANNELS or images.shape[1] not in CHANNELS:
        if images.shape[2] in CHANNELS and images.shape[3] > max(CHANNELS):
            raise UserError(
                f"{where}: images must be [N, H, W] or [N, H, W, C], got {list(images.shape)}, "
                "[H, W, C, N] by the look of it; save images.transpose(3, 0, 1, 2)"
            )
        return images, []
    turned = images.transpose(0, 2, 3, 1)
    line = f"images {list(images.shape)} are taken as [N, C, H, W] and turned to [N, H, W, C]"
    return turned, [line]


def value_range(
    images: NDArray[Any], reading: Reading, where: object
) -> tuple[ValueRange, list[str]]:
    """Return the value range of images, from these that are looked at, and lines on it.

    Raises UserError for values that are no pixels.
    """
    if images.dtype.kind not in "buif":
        raise UserError(f"{where}: images must be uint8, got {images.dtype}")
    if not images.size:
        return ValueRange(0, 255), []
    if images.dtype.kind == "b":
        return ValueRange(0, 1), ["images of true and false: true is white"]
    low, high = float(images.min()), float(images.max())
    try:
        chosen, line = choose_range(kind_of(images.dtype, high), low, high, reading.value_range)
    except ValueError as error:
        raise UserError(f"{where}: images must be uint8, got {images.dtype} {error}") from None
    lines = [line] if line else []
    if not lines and images.dtype != np.uint8:
        lines = [f"{images.dtype} images of 0…{chosen.high:g}"]
    return chosen, lines


def as_images(
    images: NDArray[Any], reading: Reading, where: object
) -> tuple[NDArray[np.uint8], list[str]]:
    """Return an array in memory as uint8 [N, H, W, C], and lines on what was converted.

    uint8 images are not copied where nothing is converted. Raises UserError.
    """
    images, lines = with_channels_last(images, where)
    chosen, more = value_range(images, reading, where)
    if images.dtype == np.uint8 and chosen[:2] == (0, 255):
        return images, lines + more
    out = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), CONVERTED_AT_ONCE):
        part = slice(start, start + CONVERTED_AT_ONCE)
        out[part] = to_uint8(images[part], chosen)
    return out, lines + more


class NpyFile:
    """A .npy of images [N, H, W], [N, H, W, C] or [N, C, H, W], mapped and never held in memory."""

    slow = False
    on_disk = True

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path, self._scattered = path, False
        mapped = open_npy(path)
        images, self.notes = with_channels_last(mapped, path)
        n, height, width, channels = images.shape
        self.shape = (n, height, width, channels)
        # scattered: where the system reads ahead, a sample of a large file would read gigabytes
        rows = open_npy(path, scattered=True)[evenly(n, SURVEY_IMAGES)]
        sample = with_channels_last(rows, path)[0]
        self._range, lines = value_range(sample, reading, path)
        self.notes += lines
        self._mapped: NDArray[Any] | None = mapped

    def scatter(self) -> None:
        """Expect reads of rows here and there from now on."""
        self._scattered, self._mapped = True, None

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        """Return the images at `rows`. Raises UserError for values outside the file's range."""
        mapped = self._mapped
        if mapped is None:  # here, or in a worker that was not forked
            mapped = self._mapped = open_npy(self.path, self._scattered)
        images = with_channels_last(mapped[rows], self.path)[0]
        try:
            return np.ascontiguousarray(to_uint8(images, self._range))
        except ValueError as error:
            raise UserError(f"{self.path}: {error}") from None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_mapped": None}


class NpyHeader(NamedTuple):
    """The header of a .npy file or of an .npz file's member."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    length: int  # bytes before the values

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(int(size) for size in self.shape) * self.dtype.itemsize


def read_npy_header(file: IO[bytes]) -> NpyHeader:
    """Read the header of a .npy file or member. Raises ValueError where it is none.

    A header that promises more than MAX_HEADER bytes is not read; numpy would read all of it.
    """
    start = file.read(len(_NPY) + 2)
    if len(start) < len(_NPY) + 2 or not start.startswith(_NPY):
        raise ValueError("it does not begin as a .npy file does")
    version = (start[-2], start[-1])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"a .npy file of version {version[0]}.{version[1]}, expected 1.0 to 3.0")
    size = file.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(size, "little")
    if length > MAX_HEADER:
        raise ValueError(f"its header promises {length:,} bytes, expected at most {MAX_HEADER:,}")
    text = file.read(length)
    formats: Any = np.lib.format
    read = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
    try:
        shape, fortran, dtype = read(io.BytesIO(size + text))
    except Exception as error:  # numpy evaluates it as Python, which raises what it happens to meet
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"a damaged header, {reason}") from None
    if any(int(n) < 0 for n in shape):
        raise ValueError(f"its header gives the shape {list(shape)}")
    return NpyHeader(shape, fortran, dtype, len(start) + len(size) + length)


def open_npy(path: Path, scattered: bool = False) -> NDArray[Any]:
    """Map a .npy file for reading. Raises UserError where it is not one, or not whole.

    `scattered`: the system shall not read ahead around each row. On a disk that reads 8 MiB ahead,
    128 rows of a 20 GB file took 1 ms, and 200 to 480 ms without this word
    (docs/notes/streaming.md).
    """
    if not path.is_file():
        raise UserError(f"--data npy:{path}: no such file")
    try:
        with open_regular(path) as file:
            header = read_npy_header(file)
            if header.dtype.hasobject:
                raise ValueError("it holds Python objects")
            size = os.fstat(file.fileno()).st_size
            if size < header.length + header.nbytes:
                raise ValueError(f"{size:,} bytes, its header promises {header.nbytes:,} of values")
            order: Literal["F", "C"] = "F" if header.fortran else "C"
            mapped = np.memmap(file, header.dtype, "r", header.length, header.shape, order)
    except (OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: not a readable .npy file, or not a whole one ({reason})"
        ) from None
    if size != mapped.offset + mapped.nbytes:
        raise UserError(f"{path}: damaged; longer than its header promises")
    if not mapped.flags.c_contiguous:
        raise UserError(f"{path}: in Fortran order; save np.ascontiguousarray(images)")
    if scattered and hasattr(mmap, "MADV_RANDOM") and isinstance(mapped.base, mmap.mmap):
        mapped.base.madvise(mmap.MADV_RANDOM)
    return mapped.view(np.ndarray)
