"""What the readers of image sets share: a set's splits and labels, and the places it may lie in."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .sprites import Grid
from .streaming import HELD_OUT_EVERY, Mode, Source, Streamed, split_rows, wanted

Split = Literal["train", "test"]
Labels = NDArray[np.integer[Any]]
READ_AT_ONCE = 1024  # images that are decoded between two looks at the clock
SILENT = 2  # seconds of decoding without a bar


@dataclass(frozen=True)
class Images:
    """One split of an image set. Labels and factors serve evaluation alone."""

    images: NDArray[np.uint8] | Streamed  # [N, H, W, C]; either is read by a slice or by rows
    labels: Labels | None  # [N]; of a streamed training split None
    grid: Grid | None = None  # of a set with known factors, whose rows are then those of its grid
    factors: NDArray[np.float32] | None = None  # [N, K], what is known of each image
    factor_names: tuple[str, ...] = ()  # K; "azimuth:360" is circular, with that period

    def __len__(self) -> int:
        return len(self.images)


def held_out(source: Source, labels: Labels | None, mode: Mode) -> dict[Split, Images]:
    """Both splits of a source that has one: every tenth image is held out."""
    return opened(Streamed(source, False), Streamed(source, True), (labels, labels), mode)


def opened(
    train: Streamed, test: Streamed, labels: tuple[Labels | None, Labels | None], mode: Mode
) -> dict[Split, Images]:
    """Both splits, streamed or read into memory; `labels` are those of each split's source."""
    if wanted(mode, train.nbytes + test.nbytes):
        train.source.scatter()
        test.source.scatter()
        return {"train": Images(train, None), "test": Images(test, _of_split(labels[1], test))}
    return {
        "train": Images(_read(train), _of_split(labels[0], train)),
        "test": Images(_read(test), _of_split(labels[1], test)),
    }


def whole_grid(grid: Grid, mode: Mode) -> dict[Split, Images]:
    """A factor grid, whole in both splits: what disentanglement is measured on in the literature.

    Every tenth image would not do for a test split: along a grid, factors have periods too. The
    labels are the first factor's classes.
    """
    whole = Streamed(grid.source, None)
    images: NDArray[np.uint8] | Streamed = whole
    if wanted(mode, whole.nbytes):
        grid.source.scatter()
    else:
        images = _read(whole)
    first = np.arange(grid.sizes[0], dtype=np.uint8)
    split = Images(images, np.repeat(first, len(whole) // len(first)), grid)
    return {"train": split, "test": split}


def halves(images: NDArray[np.uint8], labels: Labels | None) -> dict[Split, Images]:
    """Both splits of images in memory: every tenth is held out."""

    def part(held_out: bool) -> Images:
        rows = split_rows(len(images), held_out)
        return Images(images[rows], None if labels is None else labels[rows])

    return {"train": part(held_out=False), "test": part(held_out=True)}


def _of_split(labels: Labels | None, split: Streamed) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    if split.held_out:  # nothing but these is read of a mapped file
        return labels[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY].astype(np.int64)
    return labels[split_rows(len(labels), split.held_out)].astype(np.int64)


def _read(split: Streamed) -> NDArray[np.uint8]:
    """All of a split; where it takes a while, with a bar."""
    if not split.source.slow:
        return split[:]
    from tqdm import tqdm

    out, n = np.empty(split.shape, np.uint8), len(split)
    with tqdm(
        total=n,
        desc="decoding",
        unit=" images",
        delay=SILENT,
        mininterval=0.1 if sys.stderr.isatty() else 30,
        disable=os.environ.get("LOCAL_RANK", "0") != "0",
    ) as bar:
        for start in range(0, n, READ_AT_ONCE):
            part = slice(start, min(start + READ_AT_ONCE, n))
            out[part] = split[part]
            bar.update(part.stop - start)
    return out


def check_labels(labels: NDArray[Any], n: int, path: object) -> Labels:
    """Raise UserError, naming `path`, where labels are not n integers."""
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{path}: labels must be {n} integers, got {labels.dtype} {list(labels.shape)}"
        )
    return labels


# Places


def cache() -> Path:
    """The user's folder for what this package keeps between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastinfogan"


def places(*names: str) -> tuple[Path, ...]:
    """Where a set may lie, in the order of looking: local folders first, then the cache."""
    return tuple(base / name for base in (Path("data"), Path(), cache()) for name in names)


def missing(name: str, file: str, tried: Sequence[Path], advice: str) -> UserError:
    """The line that says that a named set is nowhere, and what to do."""
    return UserError(f"--data {name}: no {file} in any of {', '.join(map(str, tried))}; {advice}")
