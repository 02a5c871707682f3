"""Arrays in .npy files, mapped into memory."""

from __future__ import annotations

import mmap
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .streaming import Rows


class NpyFile:
    """A uint8 .npy of [N, H, W] or [N, H, W, C], mapped into memory and never held there."""

    slow = False
    on_disk = True

    def __init__(self, path: Path) -> None:
        self.path, self._scattered = path, False
        images = open_npy(path)
        if images.dtype != np.uint8:
            raise UserError(f"{path}: images must be uint8, got {images.dtype}")
        if images.ndim not in (3, 4):
            raise UserError(
                f"{path}: images must be [N, H, W] or [N, H, W, C], got shape {list(images.shape)}"
            )
        n, height, width = images.shape[:3]
        self.shape = (n, height, width, images.shape[3] if images.ndim == 4 else 1)
        self._mapped: NDArray[Any] | None = images.reshape(self.shape)

    def scatter(self) -> None:
        self._scattered, self._mapped = True, None

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        mapped = self._mapped
        if mapped is None:  # here, or in a worker that was not forked
            mapped = self._mapped = open_npy(self.path, self._scattered).reshape(self.shape)
        return mapped[rows]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_mapped": None}


def open_npy(path: Path, scattered: bool = False) -> NDArray[Any]:
    """Map a .npy file for reading. Raises UserError where it is not one, or not whole.

    `scattered`: the system shall not read ahead around each row. On a disk that reads 8 MiB ahead,
    128 rows of a 20 GB file took 1 ms, and 200 to 480 ms without this word (docs/streaming.md).
    """
    if not path.is_file():
        raise UserError(f"--data npy:{path}: no such file")
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except (OSError, EOFError, ValueError, SyntaxError, TokenError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: not a readable .npy file, or not a whole one ({reason})"
        ) from None
    if path.stat().st_size != mapped.offset + mapped.nbytes:
        raise UserError(f"{path}: damaged; longer than its header promises")
    if not mapped.flags.c_contiguous:
        raise UserError(f"{path}: in Fortran order; save np.ascontiguousarray(images)")
    if scattered and hasattr(mmap, "MADV_RANDOM") and isinstance(mapped.base, mmap.mmap):
        mapped.base.madvise(mmap.MADV_RANDOM)
    return mapped.view(np.ndarray)
