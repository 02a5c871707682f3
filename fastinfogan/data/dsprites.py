"""dSprites: its archive, mapped where it can be, and its factors.

The archive holds `imgs`, uint8 [N, 64, 64] of 0 and 1, and `latents_classes`, int64 [N, 6]: colour
(one class), then the five factors of `sprites.FACTORS`, the last varying fastest.
"""

from __future__ import annotations

import math
import mmap
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ..atomic import open_new, open_regular
from ..console import say
from ..errors import UserError
from .formats import ZIP_DAMAGE, Npz
from .splits import Images, Split, cache, missing, places, whole_grid
from .sprites import FACTORS, Grid
from .streaming import Mode, Rows

ARCHIVE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
_LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name


def dsprites(mode: Mode) -> dict[Split, Images]:
    """Read dSprites, whole in both splits; the labels are its shapes.

    Images that lie compressed in the archive, as the original's do, are decoded once into the
    cache, 3 GB, and mapped from there.
    """
    path = find_archive()
    if path is None:
        raise missing(
            "dsprites",
            ARCHIVE,
            _places(),
            "get it from https://github.com/google-deepmind/dsprites-dataset and put it into "
            f"{cache() / 'dsprites'}, or use dsprites-like, which draws such sprites itself",
        )
    try:
        return whole_grid(_open(path), mode)
    except ZIP_DAMAGE as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable dSprites archive ({reason})") from None


def find_archive() -> Path | None:
    """Return the file of dSprites' images, if there is one."""
    files = (place / ARCHIVE for place in _places())
    return next((path for path in files if path.is_file()), None)


def _places() -> tuple[Path, ...]:
    return places("dsprites", "dsprites-dataset", "")


class Bits:
    """Images of 0 and 1 in a file, uint8 from `offset` on, read as 0 and 255 through a map."""

    slow = False
    on_disk = True

    def __init__(self, path: Path, offset: int, shape: tuple[int, int, int, int]) -> None:
        self.path, self.offset, self.shape = path, offset, shape
        self._scattered = False
        self._mapped: NDArray[np.uint8] | None = None

    def scatter(self) -> None:
        self._scattered, self._mapped = True, None

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        if self._mapped is None:
            with open_regular(self.path) as file:
                mapped = np.memmap(file, np.uint8, "r", self.offset, self.shape)
            if self._scattered and hasattr(mmap, "MADV_RANDOM"):  # see stream.open_npy
                mapped.base.madvise(mmap.MADV_RANDOM)  # type: ignore[union-attr]
            self._mapped = mapped.view(np.ndarray)
        out = self._mapped[rows]
        np.minimum(out, 1, out=out)
        out *= 255
        return out

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_mapped": None}


def _open(path: Path) -> Grid:
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        arrays = Npz(archive, path)
        if "imgs" not in arrays or "latents_classes" not in arrays:
            raise UserError(f"{path}: expected an .npz with imgs and latents_classes")
        classes = arrays["latents_classes"]
        sizes = _grid_sizes(classes, path)
        info = archive.getinfo("imgs.npy")
        shape, header = _images_header(arrays, path)
        if shape[0] != len(classes):
            raise UserError(f"{path}: {shape[0]} images, but classes of {len(classes)}")
        if info.compress_type == zipfile.ZIP_STORED:
            source = Bits(path, _start(path, info) + header, shape)
        else:
            source = Bits(_decode_member(archive, info, path), header, shape)
    source.read(np.array([0, shape[0] - 1]))  # a file that ends early fails here
    return Grid(source, sizes)


def _grid_sizes(classes: NDArray[np.int64], path: Path) -> tuple[int, ...]:
    """Return the number of classes of each factor; the rows must be their grid, in its order."""
    columns = 1 + len(FACTORS)
    if classes.ndim != 2 or classes.shape[1] != columns or classes.dtype.kind not in "iu":
        raise UserError(
            f"{path}: latents_classes must be integers [N, {columns}], "
            f"got {classes.dtype} {list(classes.shape)}"
        )
    if not len(classes):
        raise UserError(f"{path}: no images")
    sizes = tuple(int(size) + 1 for size in classes.max(axis=0))
    period = n = len(classes)
    in_order = math.prod(sizes) == n and sizes[0] == 1
    for column, size in zip(classes.T, sizes, strict=True):
        if in_order:
            period //= size
            in_order = bool((column == np.arange(n) // period % size).all())
    if not in_order:
        raise UserError(
            f"{path}: latents_classes are not one colour and every combination of "
            f"{', '.join(FACTORS)} in order; get the archive anew"
        )
    return sizes[1:]


def _images_header(arrays: Npz, path: Path) -> tuple[tuple[int, int, int, int], int]:
    """Return the shape of the images, and the bytes before them in their .npy."""
    shape, fortran, dtype, length = arrays.header("imgs")
    if dtype != np.uint8 or len(shape) != 3 or fortran:
        raise UserError(f"{path}: imgs must be uint8 [N, H, W], got {dtype} {list(shape)}")
    return (*shape, 1), length


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """Return the offset of a stored member's bytes: after its own header, name and extras."""
    with open_regular(path) as file:
        file.seek(info.header_offset)
        own = file.read(_LOCAL_HEADER)
    name, extra = (int.from_bytes(own[at : at + 2], "little") for at in (26, 28))
    return info.header_offset + _LOCAL_HEADER + name + extra


def _decode_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Path:
    """Return the member as a file of its own in the cache, decoded once for all runs and ranks."""
    out = cache() / f"dsprites-{info.CRC:08x}.npy"
    partial = out.with_suffix(".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{out}.lock"):
            if out.is_file() and out.stat().st_size == info.file_size:
                return out
            size, free = info.file_size, shutil.disk_usage(out.parent).free
            if free < size:
                raise UserError(
                    f"{out.parent}: {size / 1e9:.1f} GB are needed to decode {path.name}, "
                    f"{free / 1e9:.1f} GB are free; set XDG_CACHE_HOME to a larger disk"
                )
            say(f"decoding {path} once, {size / 1e9:.1f} GB, to {out}", sys.stderr)
            # read to its end, where zipfile holds it to the archive's checksum
            try:
                with archive.open(info) as member, open_new(partial) as file:
                    shutil.copyfileobj(member, file, 2**24)
                partial.replace(out)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error}); set XDG_CACHE_HOME to another folder"
        ) from None
    return out
