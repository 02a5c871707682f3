"""Images that a caller holds in memory, as a set with two splits."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .splits import Images, Split
from .streaming import HELD_OUT_EVERY, split_rows

NAME = "memory"  # in config.yaml, in place of a set's name


def from_memory(images: Any) -> dict[Split, Images]:
    """Return both splits of images in memory; every tenth image is held out.

    Args:
        images: uint8 array or tensor [N, H, W] or [N, H, W, C], or a dataset (with `len` and
            indices) whose items are uint8 images [H, W] or [H, W, C] or (image, label) pairs.

    Raises UserError in one line for another dtype or shape, and for fewer than ten images.
    """
    array, labels = _read(images)
    if array.ndim == 3:
        array = array[..., np.newaxis]
    if array.dtype != np.uint8 or array.ndim != 4:
        raise UserError(
            f"data: expected uint8 images [N, H, W] or [N, H, W, C], got {array.dtype} "
            f"{list(array.shape)}"
        )
    if array.shape[1] in (1, 3) and array.shape[3] > 4:
        raise UserError(
            f"data: expected channels last, [N, H, W, C], got {list(array.shape)}; "
            "use images.permute(0, 2, 3, 1)"
        )
    if len(array) < HELD_OUT_EVERY:
        raise UserError(
            f"data: every {HELD_OUT_EVERY}th image is held out, so {HELD_OUT_EVERY} are needed, "
            f"got {len(array)}"
        )
    out: dict[Split, Images] = {}
    splits: tuple[tuple[Split, bool], ...] = (("train", False), ("test", True))
    for split, held in splits:
        rows = split_rows(len(array), held)
        of_split = None if labels is None else labels[rows]
        out[split] = Images(np.ascontiguousarray(array[rows]), of_split)
    return out


def _read(images: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
    if isinstance(images, np.ndarray) or hasattr(images, "detach"):
        return _array(images), None
    if not isinstance(images, Sized) or not hasattr(images, "__getitem__"):
        raise UserError(
            "data: expected the name of a set, a uint8 array or tensor, or a dataset, got "
            f"{type(images).__name__}"
        )
    items: list[Any] = [images[i] for i in range(len(images))]
    if not items:
        raise UserError("data: expected images, got an empty dataset")
    labels = None
    if isinstance(items[0], tuple | list):
        if any(not isinstance(item, tuple | list) or len(item) != 2 for item in items):
            raise UserError("data: expected each item to be an image or a pair (image, label)")
        labels = _labels([label for _, label in items])
        items = [image for image, _ in items]
    arrays = [_array(item) for item in items]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise UserError(f"data: expected images of one size, got {shapes[0]} and {shapes[-1]}")
    return np.stack(arrays), labels


def _labels(labels: list[Any]) -> NDArray[Any]:
    try:
        return np.array([int(label) for label in labels], np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"data: expected labels that are whole numbers: {error}") from None


def _array(value: Any) -> NDArray[Any]:
    try:
        return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # bf16, no memory behind it, ragged
        raise UserError(f"data: expected uint8 images: {str(error).splitlines()[0]}") from None
