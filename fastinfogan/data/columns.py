"""The columns of a table that a set of Hugging Face's `datasets` has: images, labels, factors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .splits import Labels

_LABELS = ("label", "labels", "fine_label")


def image_column(features: Mapping[str, Any], where: str) -> str:
    """Return the first column of the Image feature, else of image bytes. Raises UserError."""
    import datasets

    names = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    names += [name for name, feature in features.items() if _holds_bytes(feature)]
    if not names:
        raise UserError(f"{where}: no column of images, got columns {', '.join(features)}")
    return names[0]


def label_column(features: Mapping[str, Any]) -> str | None:
    """Return the column of labels: integers of a known name, else the first of classes."""
    import datasets

    classes = [name for name, f in features.items() if isinstance(f, datasets.ClassLabel)]
    whole = [n for n in _LABELS if "int" in str(getattr(features.get(n), "dtype", ""))]
    return next(iter((*whole, *classes)), None)


def class_names(features: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes, where the set gives them."""
    column = label_column(features)
    return tuple(getattr(features[column], "names", None) or ()) if column else ()


def labels_of(values: NDArray[Any]) -> Labels | None:
    """Return the values of the label column [N]; None where some are null or -1, "not known"."""
    if not np.issubdtype(values.dtype, np.integer) or (values < 0).any():
        return None
    return values


def factor_columns(option: str, features: Iterable[str], where: str) -> tuple[list[str], list[str]]:
    """Return the columns of --factors, and the names of the factors. Raises UserError."""
    factors = [name.strip() for name in option.split(",") if name.strip()]
    columns = [name.partition(":")[0] for name in factors]
    there = list(features)
    missing = [name for name in columns if name not in there]
    if missing:
        raise UserError(f"{where}: --factors: no column {missing[0]}, got {', '.join(there)}")
    return columns, factors


def factors_of(columns: Mapping[str, Any], where: str) -> NDArray[np.float64]:
    """Return columns of numbers as [N, K]. Raises UserError."""
    try:
        return np.stack([np.array(column, np.float64) for column in columns.values()], 1)
    except (TypeError, ValueError):
        raise UserError(
            f"{where}: --factors: expected columns of numbers, got {', '.join(columns)}"
        ) from None


def cell_bytes(cell: Any) -> bytes | None:
    """Return the bytes in a cell of an image column; None where it gives a path alone.

    Raises ValueError for a null, and for a cell without either.
    """
    if cell is None:
        raise ValueError("it is null")
    content = cell if isinstance(cell, bytes) else cell["bytes"]
    if content is None:
        if not isinstance(cell["path"], str):
            raise ValueError("neither bytes nor a path")
        return None
    if not isinstance(content, bytes | list):  # bytes(N) would be N zeros
        raise ValueError(f"expected bytes, got {type(content).__name__}")
    try:
        return bytes(content)
    except TypeError:
        raise ValueError("expected bytes, got a list of something else") from None


def _holds_bytes(feature: Any) -> bool:
    """Return True if a column has bytes, or the structs that the hub's images are in Parquet."""
    if isinstance(feature, dict):
        return "bytes" in feature and "path" in feature
    return getattr(feature, "dtype", "") in ("binary", "large_binary")
