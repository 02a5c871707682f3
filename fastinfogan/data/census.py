"""All images of a set looked at, one by one: sizes, values, duplicates, damage."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .decoding import cut_off, decode, square
from .encoded import EncodedImages, Survey
from .folder import count
from .reading import Fit, background_colour
from .splits import Images, Split, progress_bar
from .streaming import Rows, Streamed, spread

AT_ONCE = 256  # images that are read between two counts
MAX_NAMED = 5  # duplicates that are named
SHEET_IMAGES = 100  # images of a contact sheet


@dataclass
class Census:
    """Facts on every image of a set."""

    images: int = 0
    survey: Survey = field(default_factory=Survey)  # of image files, as they are stored
    low: int = 255  # of the images as they are trained on
    high: int = 0
    coloured: bool = False
    damaged: list[str] = field(default_factory=list)  # a line for each
    duplicates: list[tuple[str, str]] = field(default_factory=list)  # a later image, the first
    classes: Counter[str] = field(default_factory=Counter)
    _digests: dict[bytes, str] = field(default_factory=dict)

    def add(self, image: NDArray[np.uint8], name: Callable[[], str], stored: bytes) -> None:
        """Count an image [H, W, C]; `stored` are the bytes that tell duplicates."""
        self.images += 1
        self.low = min(self.low, int(image.min(initial=255)))
        self.high = max(self.high, int(image.max(initial=0)))
        if image.shape[2] >= 3 and not self.coloured:
            self.coloured = bool((image[..., :3] != image[..., :1]).any())
        digest = hashlib.blake2b(stored, digest_size=16).digest()
        first = self._digests.setdefault(digest, name())
        if first != name():
            self.duplicates.append((name(), first))

    def lines(self, fit: Fit = "crop") -> Iterator[str]:
        """Yield the facts, each in a line; what a crop cuts off where the images are not cropped.

        Of cropped images the data set's own notes say it.
        """
        survey = self.survey
        if survey.sizes:
            widths, heights = zip(*survey.sizes, strict=True)
            order = sorted(survey.sizes, key=lambda size: size[0] * size[1])
            least, middle, most = (order[i] for i in (0, len(order) // 2, -1))
            same = len({*widths}) == len({*heights}) == 1
            yield "sizes: " + (
                f"all {least[0]}x{least[1]}"
                if same
                else f"{least[0]}x{least[1]} to {most[0]}x{most[1]}, median {middle[0]}x{middle[1]}"
            )
            if fit != "crop":
                cuts = [cut_off(*size) for size in survey.sizes]
                yield (
                    f"a square crop would cut off {median(cuts):.0%} of the median image, "
                    f"{max(cuts):.0%} at most"
                )
            modes = ", ".join(f"{mode} {n}" for mode, n in survey.modes.most_common())
            yield f"modes as stored: {modes}"
            yield f"transparency: {count(survey.alpha, 'image')}"
            for kind, (low, high) in survey.extremes.items():
                yield f"values as stored, {kind}: {low:g} to {high:g}"
        if self.images:
            colour = "coloured" if self.coloured else "gray"
            yield f"values as trained on: {self.low} to {self.high}, {colour}"
        if self.classes:
            some = ", ".join(f"{name} {n}" for name, n in self.classes.most_common(20))
            more = len(self.classes) - 20
            yield f"images of each class: {some}{f', and {more} more' if more > 0 else ''}"
        names = "; ".join(f"{later} = {first}" for later, first in self.duplicates[:MAX_NAMED])
        more_names = "; …" if len(self.duplicates) > MAX_NAMED else ""
        n = len(self.duplicates)
        yield f"exact duplicates: {n}" + (f" ({names}{more_names})" if n else "")
        yield f"damaged: {count(len(self.damaged), 'image')}"
        yield from (f"  {line}" for line in self.damaged)


def take_census(splits: dict[Split, Images]) -> Census:
    """Look at every image of a set that was opened, with a bar; damaged ones are listed."""
    census = Census()
    whole = splits["train"].grid is not None
    parts: dict[Split, Images] = {"train": splits["train"]} if whole else splits
    files = {id(s): s for s in map(_source, parts.values()) if isinstance(s, EncodedImages)}
    arrays = {
        name: part for name, part in parts.items() if not isinstance(_source(part), EncodedImages)
    }
    total = sum(source.shape[0] for source in files.values()) + sum(map(len, arrays.values()))
    with progress_bar(total, "checking") as bar:
        for source in files.values():  # which splits may share
            _count_files(census, source, bar.update)
        for name, part in arrays.items():
            _count_rows(census, part, name, bar.update)
    for part in parts.values():
        if part.labels is not None:
            names = dict(enumerate(part.label_names))
            labels, counts = np.unique(part.labels, return_counts=True)
            for label, n in zip(labels.tolist(), counts.tolist(), strict=True):
                census.classes[names.get(label, str(label))] += n
    return census


def _source(part: Images) -> object:
    return part.images.source if isinstance(part.images, Streamed) else part.images


def _count_files(census: Census, source: EncodedImages, done: Callable[[], object]) -> None:
    background = background_colour(source.reading.background)
    for row in range(source.shape[0]):
        file, frame = source.place(row)
        try:
            picture = decode(source.content(file), frame, count_frames=True)
            census.survey.add(picture, background)
            image = square(picture, source.reading, source.ranges)
        except ValueError as error:
            census.damaged.append(f"{source.name(file)}: {error}")
        else:
            name = source.name(file) + (f", frame {frame}" if frame else "")
            census.add(image, lambda name=name: name, picture.stored)  # type: ignore[misc]
        done()


def _count_rows(census: Census, part: Images, split: Split, done: Callable[[int], object]) -> None:
    n = len(part)
    for start in range(0, n, AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, n))
        for row, image in zip(rows, _readable(part, rows, census), strict=True):
            if image is not None:
                stored = np.ascontiguousarray(image).tobytes()
                census.add(image, lambda row=row: f"{split} image {row}", stored)  # type: ignore[misc]
        done(len(rows))


def _readable(part: Images, rows: Rows, census: Census) -> list[NDArray[np.uint8] | None]:
    """Return the images at `rows`, None for one that cannot be read."""
    try:
        return [*part.images[rows]]
    except UserError:
        out: list[NDArray[np.uint8] | None] = []
        for row in rows:
            try:
                out.append(part.images[np.array([row])][0])
            except UserError as error:
                census.damaged.append(str(error))
                out.append(None)
        return out


def sample(images: Images, most: int = SHEET_IMAGES) -> NDArray[np.uint8]:
    """Return up to `most` images [B, H, W, C], as `spread`, less those that cannot be read."""
    rows = spread(images.images, most)
    readable = [image for image in _readable(images, rows, Census()) if image is not None]
    if not readable:
        return np.zeros((0, *images.images.shape[1:]), np.uint8)
    return np.stack(readable)
