"""Folders of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from .decoding import UNREADABLE, check_decodable, square
from .streaming import Rows

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})


class ImageFolder:
    """Every image below a folder, or those named, decoded, cropped and resized when it is read.

    Of each image its name alone is held: some tens of bytes.
    """

    slow = True
    on_disk = True

    def __init__(
        self, folder: Path, image_size: int, channels: int, names: Sequence[str] | None = None
    ) -> None:
        if not folder.is_dir():
            raise UserError(
                f"--data folder:{folder}: no such folder; put images there, "
                "in sub-folders if you like, or name another"
            )
        check_decodable(channels)
        found: list[tuple[str, ...]] = [(name,) for name in names or ()]
        if names is None and not (found := sorted(_below(folder))):
            known = " ".join(sorted(IMAGE_SUFFIXES))
            raise UserError(f"--data folder:{folder}: no images found below it ({known})")
        self.folder = folder
        # One array, not a list: workers share its memory.
        self._names = np.array([os.fsencode(os.path.join(*parts)) for parts in found])
        self.shape = (len(found), image_size, image_size, channels)
        self.labels = _class_folders(found)

    def scatter(self) -> None:
        pass

    def path(self, row: int) -> Path:
        """The file of an image."""
        return self.folder / os.fsdecode(self._names[row])

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for i, row in enumerate(rows.tolist()):
            path = self.path(row)
            try:
                with Image.open(path) as image:
                    out[i] = square(image, self.shape[1], self.shape[3])
            except UNREADABLE as error:
                raise UserError(f"{path}: not a readable image ({error})") from None
        return out


def _below(folder: Path) -> Iterator[tuple[str, ...]]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            yield path.relative_to(folder).parts


def _class_folders(found: list[tuple[str, ...]]) -> NDArray[np.int64] | None:
    """Where all images lie in sub-folders, these are the labels."""
    if any(len(parts) == 1 for parts in found):
        return None
    return np.unique([parts[0] for parts in found], return_inverse=True)[1].astype(np.int64)
