"""Sets of encoded images: files, a hub's column, members of shards; decoded when they are read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .decoding import Picture, check_decodable, cut_off, decode, frames_in, is_blank, square
from .reading import FULL, Kind, Reading, ValueRange, background_colour, choose_range
from .splits import progress_bar
from .streaming import Rows, evenly

SURVEY_IMAGES = 256  # images that tell of the set: their value range, their alpha, their frames


@dataclass
class Survey:
    """Facts on decoded images, gathered one by one."""

    sizes: list[tuple[int, int]] = field(default_factory=list)
    modes: Counter[str] = field(default_factory=Counter)
    profiles: Counter[str] = field(default_factory=Counter)
    extremes: dict[Kind, tuple[float, float]] = field(default_factory=dict)
    alpha: int = 0
    blank: int = 0  # images with alpha of which nothing is seen on the background
    further_frames: int = 0
    files_with_frames: int = 0

    def add(self, picture: Picture, background: tuple[int, int, int]) -> None:
        """Count one image."""
        self.sizes.append(picture.size)
        self.modes[picture.mode] += 1
        self.alpha += picture.alpha
        self.blank += picture.alpha and is_blank(picture, background)
        self.further_frames += picture.frames - 1
        self.files_with_frames += picture.frames > 1
        if picture.profile:
            self.profiles[picture.profile] += 1
        kind, low, high = picture.extremes
        before = self.extremes.get(kind, (low, high))
        self.extremes[kind] = min(low, before[0]), max(high, before[1])

    def ranges(self, requested: str) -> tuple[dict[Kind, ValueRange], list[str]]:
        """Return the value range of each kind of image, and lines on those that are not plain."""
        ranges, lines = dict(FULL), []
        kinds: list[Kind] = [*self.extremes] if requested in ("auto", "full") else [*FULL]
        for kind in kinds:
            low, high = self.extremes.get(kind, (0, 0))
            ranges[kind], line = choose_range(kind, low, high, requested)
            if line and line not in lines and not (high == 0 and self.alpha):
                lines.append(line)
        return ranges, lines

    def notes(self, reading: Reading, n: int) -> list[str]:
        """Return lines on what is converted or left out, of `n` files in all."""
        share = "" if len(self.sizes) >= n else f" of {len(self.sizes)} looked at"
        lines = []
        if self.alpha:
            way = "kept as channel 4" if reading.channels == 4 else f"put on {reading.background}"
            lines.append(f"transparency in {self.alpha} images{share}: {way} (--background)")
        if self.blank and reading.channels != 4:
            lines.append(
                f"{self.blank} images{share} are blank on {reading.background}: choose another "
                "--background"
            )
        if self.further_frames and reading.frames == "first":
            lines.append(
                f"only the first frame is read: {self.further_frames} frames or pages of "
                f"{self.files_with_frames} files{share} left out (--frames all reads them)"
            )
        if self.profiles:
            names = ", ".join(name for name, _ in self.profiles.most_common(3))
            count = self.profiles.total()
            lines.append(f"colours of {count} images{share} converted to sRGB, from {names}")
        lines += self._size_lines(reading)
        return lines

    def _size_lines(self, reading: Reading) -> list[str]:
        if not self.sizes:
            return []
        cuts = [cut_off(*size) for size in self.sizes]
        sides = [min(size) for size in self.sizes]
        lines = []
        if reading.fit == "crop" and max(cuts) > 0:
            lines.append(
                f"cropped to the central square: {median(cuts):.0%} of the median image is cut "
                f"off, {max(cuts):.0%} at most (--fit pad or stretch keeps it)"
            )
        if median(sides) < reading.image_size:
            lines.append(
                f"enlarged to {reading.image_size}x{reading.image_size}: the median image has "
                f"a shorter side of {median(sides):g}"
            )
        return lines


class EncodedImages:
    """A source whose rows are decoded when they are read; rows are files, or frames of files.

    A subclass gives `content(file)` and `name(file)`; its constructor ends with `prepare`.
    """

    slow = True
    on_disk = True

    def __init__(self, files: int, reading: Reading) -> None:
        check_decodable(reading.channels)
        self.reading, self.files = reading, files
        self.ranges = dict(FULL)
        self.notes: list[str] = []
        self._index: NDArray[np.int64] | None = None  # [N, 2]: file and frame, where they differ

    def content(self, file: int) -> Path | bytes:
        """Return the file's path, or its bytes. Raises ValueError where there are none."""
        raise NotImplementedError

    def name(self, file: int) -> str:
        """Return the name of a file, for messages."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, H, W, C."""
        n = self.files if self._index is None else len(self._index)
        return n, self.reading.image_size, self.reading.image_size, self.reading.channels

    def prepare(self, like: EncodedImages | None = None) -> None:
        """Pass over damaged files and count frames, where asked to; look at a sample.

        `like`: another split of the same set, whose value ranges count. Raises UserError.
        """
        if self.reading.skip_bad:
            self._skip_damaged(0 if like is None else like.files - len(like.file_rows()))
        if self.reading.frames == "all":
            self._count_frames()
        if like is not None:
            self.ranges = like.ranges
            return
        survey, background = Survey(), background_colour(self.reading.background)
        for row in self.survey_rows(SURVEY_IMAGES).tolist():
            file, frame = self.place(row)
            try:
                picture = decode(self.content(file), frame, count_frames=True)
                survey.add(picture, background)
            except ValueError:
                continue  # reading it will tell
        try:
            self.ranges, lines = survey.ranges(self.reading.value_range)
        except ValueError as error:
            raise UserError(f"{self.name(0)} and its like: values {error}") from None
        self.notes += [*survey.notes(self.reading, self.shape[0]), *lines]

    def file_rows(self) -> NDArray[np.int64]:
        """Return the file of each row, int64 [N]."""
        return np.arange(self.files) if self._index is None else self._index[:, 0]

    def survey_rows(self, most: int) -> Rows:
        """Return up to `most` rows that tell of the set."""
        return evenly(self.shape[0], most)

    def place(self, row: int) -> tuple[int, int]:
        """Return the file and the frame of a row."""
        if self._index is None:
            return row, 0
        return int(self._index[row, 0]), int(self._index[row, 1])

    def _skip_damaged(self, already: int) -> None:
        good, bad = [], []
        with progress_bar(self.files, "checking") as bar:
            for file in range(self.files):
                try:
                    decode(self.content(file))
                    good.append(file)
                except ValueError as error:
                    bad.append(f"{self.name(file)}: not a readable image ({error})")
                bar.update()
        most = self.reading.skip_bad
        if len(bad) + already > most:
            more = "" if len(bad) == 1 else f", and {len(bad) - 1} more"
            raise UserError(
                f"{bad[0]}{more}; --skip-bad {most} passes over {most}, pass --skip-bad "
                f"{len(bad) + already} or mend them (fastinfogan data check lists them)"
            )
        self.notes += [f"passed over {line}" for line in bad]
        if bad:
            self._index = np.stack([np.array(good, np.int64), np.zeros(len(good), np.int64)], 1)

    def _count_frames(self) -> None:
        places = []
        files = self.file_rows().tolist()
        with progress_bar(len(files), "counting frames") as bar:
            for file in files:
                try:
                    frames = frames_in(self.content(file))
                except ValueError:
                    frames = 1  # reading it will tell
                places += [(file, frame) for frame in range(frames)]
                bar.update()
        if len(places) > len(files):
            self.notes.append(f"{len(places)} frames of {len(files)} files, each an image")
        self._index = np.array(places, np.int64).reshape(-1, 2)

    def scatter(self) -> None:
        """Do nothing: each image is read on its own anyway."""

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        """Decode the images at `rows` [B]: uint8 [B, H, W, C]. Raises UserError, naming a file."""
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for i, row in enumerate(rows.tolist()):
            file, frame = self.place(row)
            try:
                picture = decode(self.content(file), frame)
                out[i] = square(picture, self.reading, self.ranges)
            except ValueError as error:
                raise UserError(f"{self.name(file)}: not a readable image ({error})") from None
        return out

    def of_rows(self, values: NDArray[Any] | None) -> NDArray[Any] | None:
        """Return the values of files, such as labels, for each row."""
        return values if values is None or self._index is None else values[self._index[:, 0]]
