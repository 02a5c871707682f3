"""Splits and labels of image sets, and the places that a set may lie in; shared by the readers."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..console import is_terminal
from ..errors import UserError
from .sprites import Grid
from .streaming import HELD_OUT_EVERY, Mode, Source, Streamed, should_stream, split_rows

Split = Literal["train", "test"]
Labels = NDArray[np.integer[Any]]
READ_AT_ONCE = 1024  # images that are decoded between two looks at the clock
QUIET_SECONDS = 2  # seconds of decoding without a bar


@dataclass(frozen=True)
class Images:
    """One split of an image set. Labels and factors serve evaluation alone."""

    images: NDArray[np.uint8] | Streamed  # [N, H, W, C]; either is read by a slice or by rows
    labels: Labels | None  # [N]; of a training split that is mapped None
    grid: Grid | None = None  # of a set that holds every combination of its factors, in order
    factors: NDArray[Any] | None = None  # [N, K], numbers; NaN where one is not known
    factor_names: tuple[str, ...] = ()  # K; "azimuth:360" has the period 360
    label_names: tuple[str, ...] = ()  # of the labels 0, 1, …, where they have names
    notes: tuple[str, ...] = ()  # lines on what was found, converted and left out
    left_out: str = ""  # for the first line

    def __len__(self) -> int:
        return len(self.images)

    def with_facts(
        self,
        notes: Sequence[str] = (),
        label_names: tuple[str, ...] = (),
        factor_names: tuple[str, ...] = (),
        left_out: str = "",
    ) -> Images:
        """Return the same images with what their reader knows of them."""
        return replace(
            self,
            notes=(*self.notes, *notes),
            label_names=label_names or self.label_names,
            factor_names=factor_names or self.factor_names,
            left_out=left_out or self.left_out,
        )


Pair = tuple[NDArray[Any] | None, NDArray[Any] | None]  # of train's source and of test's


def held_out(
    source: Source,
    labels: Labels | None,
    mode: Mode,
    *,
    factors: NDArray[Any] | None = None,
) -> dict[Split, Images]:
    """Return both splits of a source that has one: every tenth image is held out."""
    train, test = Streamed(source, False), Streamed(source, True)
    return open_both(train, test, (labels, labels), mode, factors=(factors, factors))


def open_both(
    train: Streamed, test: Streamed, labels: Pair, mode: Mode, *, factors: Pair = (None, None)
) -> dict[Split, Images]:
    """Return both splits, streamed or in memory, with the labels and factors of their sources."""
    streamed = should_stream(mode, train.nbytes + test.nbytes)
    splits: dict[Split, Images] = {}
    parts: tuple[tuple[Split, Streamed, int], ...] = (("train", train, 0), ("test", test, 1))
    for name, split, i in parts:
        if streamed:
            split.source.scatter()
        # the labels of a mapped file stay there
        mapped = streamed and name == "train" and not split.source.slow
        own = None if mapped else _of_split(labels[i], split)
        images = split if streamed else _read(split)
        splits[name] = Images(
            images,
            None if own is None else own.astype(np.int64),
            factors=_of_split(factors[i], split),
        )
    return splits


def whole_grid(grid: Grid, mode: Mode) -> dict[Split, Images]:
    """Return a factor grid, whole in both splits, as disentanglement is measured.

    Every tenth image would not do for a test split: along a grid, factors have periods too. The
    labels are the first factor's classes.
    """
    whole = Streamed(grid.source, None)
    images: NDArray[np.uint8] | Streamed = whole
    if should_stream(mode, whole.nbytes):
        grid.source.scatter()
    else:
        images = _read(whole)
    first = np.arange(grid.sizes[0], dtype=np.uint8)
    split = Images(images, np.repeat(first, len(whole) // len(first)), grid)
    return {"train": split, "test": split}


def halves(whole: Images) -> dict[Split, Images]:
    """Return both splits of images in memory: every tenth is held out."""

    def part(held_out: bool) -> Images:
        rows = split_rows(len(whole), held_out)
        return replace(
            whole,
            images=whole.images[rows],
            labels=None if whole.labels is None else whole.labels[rows],
            factors=None if whole.factors is None else whole.factors[rows],
        )

    return {"train": part(held_out=False), "test": part(held_out=True)}


def _of_split(values: NDArray[Any] | None, split: Streamed) -> NDArray[Any] | None:
    if values is None:
        return None
    if split.held_out:  # nothing but these is read of a mapped file
        return values[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    return values[split_rows(len(values), split.held_out)]


def _read(split: Streamed) -> NDArray[np.uint8]:
    """Read all of a split; where it takes a while, with a bar."""
    if not split.source.slow:
        return split[:]
    out, n = np.empty(split.shape, np.uint8), len(split)
    with progress_bar(n, "decoding") as bar:
        for start in range(0, n, READ_AT_ONCE):
            part = slice(start, min(start + READ_AT_ONCE, n))
            out[part] = split[part]
            bar.update(part.stop - start)
    return out


def progress_bar(total: int, task: str, unit: str = "images") -> Any:
    """Return a bar on stderr that one rank shows, where a task takes a while."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=task,
        unit=f" {unit}",
        delay=QUIET_SECONDS,
        mininterval=0.1 if is_terminal(sys.stderr) else 30,
        disable=sys.stderr is None or os.environ.get("LOCAL_RANK", "0") != "0",
    )


def check_labels(labels: NDArray[Any], n: int, path: object) -> Labels:
    """Raise UserError, naming `path`, where labels are not n integers."""
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{path}: labels must be {n} integers, got {labels.dtype} {list(labels.shape)}"
        )
    return labels


# Places


def cache() -> Path:
    """Return the user's folder for what this package keeps between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "fastinfogan"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user without a home, as in some containers
        return Path(tempfile.gettempdir())


def expand_user(path: str | Path) -> Path:
    """Return a path with ~ and ~user as folders. Raises UserError for a user who is not there."""
    if "\0" in str(path):
        raise UserError(f"{str(path)!r}: expected a path, which has no NUL character")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path}: no user of that name, or no home folder; write the whole path, or ./~… for a "
            "folder of that name"
        ) from None


def places(*names: str) -> tuple[Path, ...]:
    """Return the places where a set may lie, in order of search: local folders, then the cache."""
    return tuple(base / name for base in (Path("data"), Path(), cache()) for name in names)


def missing(name: str, file: str, tried: Sequence[Path], advice: str) -> UserError:
    """Return the line that says that a named set is nowhere, and what to do."""
    return UserError(f"--data {name}: no {file} in any of {', '.join(map(str, tried))}; {advice}")
