"""Folders of image files: which files are data, their classes, splits and factors."""

from __future__ import annotations

import csv
import io
import os
import stat
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..atomic import open_regular
from ..errors import UserError
from .decoding import image_suffixes
from .encoded import EncodedImages
from .reading import Reading
from .splits import Images, Split, held_out, open_both
from .streaming import Streamed

FACTORS_FILE = "factors.csv"
MAX_TABLE = 2**30  # bytes of a table with a line for each image
# Images next to class folders are left out up to this share; else there are no labels.
MAX_LOOSE_SHARE = 0.1
NAMES = 10  # classes that are named in a line
# Folders that systems and programs leave, besides those whose name begins with a dot
_JUNK = {"@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "__macosx"}
_JUNK |= {"system volume information", "lost+found", "__pycache__"}
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class Listing(NamedTuple):
    """The image files below a folder, and what was left out."""

    files: list[tuple[str, ...]]  # parts of each path, sorted
    left_out: Counter[str]  # kinds of things, such as "hidden folder"
    notes: list[str]


def list_images(folder: Path) -> Listing:
    """List the image files below `folder`, at any depth.

    Hidden folders and files are left out, and so are folders that systems leave (`@eaDir`,
    `__MACOSX`), and what is no regular file. A linked folder is followed, each folder is read once.
    Raises UserError for a folder that cannot be listed.
    """
    files: list[tuple[str, ...]] = []
    left_out: Counter[str] = Counter()
    identities = {_identity(folder)}
    places: deque[tuple[str, ...]] = deque([()])
    links: list[tuple[str, ...]] = []
    followed = 0
    while places or links:
        if not places:  # links after all true folders, so that a folder keeps its own name
            links.sort()
            parts = links.pop(0)
            identity = _identity(folder.joinpath(*parts))
            if identity in identities:
                left_out["linked folder read elsewhere"] += 1
                continue
            identities.add(identity)
            followed += 1
            places.append(parts)
        above = places.popleft()
        for entry in _entries(folder.joinpath(*above)):
            parts = (*above, entry.name)
            kind = _kind(entry)
            if kind == "folder":
                if _is_hidden(entry.name):
                    left_out["hidden folder"] += 1
                elif entry.is_symlink():
                    links.append(parts)
                elif (identity := _identity(Path(entry.path))) not in identities:
                    identities.add(identity)
                    places.append(parts)
                continue
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in image_suffixes() and not entry.name.startswith("."):
                if kind == "file":
                    files.append(parts)
                else:
                    left_out[kind] += 1
            elif suffix in image_suffixes():
                left_out["hidden file"] += 1
            elif not entry.name.startswith(".") and parts != (FACTORS_FILE,):
                left_out[printable(suffix) or "file without a suffix"] += 1
    notes = [f"{count(followed, 'linked folder')} followed"] if followed else []
    return Listing(sorted(files), left_out, notes)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"{printable(str(folder))}: this folder cannot be listed ({error.strerror}); allow it "
            "to be read, or move it out of the set"
        ) from None


def _identity(path: Path) -> tuple[int, int]:
    try:
        there = path.stat()
    except OSError:
        return (-1, -1)  # a folder that is gone: listing it will tell
    return there.st_dev, there.st_ino


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        mode = entry.stat().st_mode
    except OSError:
        return "broken link"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "pipe or device"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def printable(text: str) -> str:
    """Return a name as it can be printed: what is no text in it, or no character, becomes "?"."""
    return "".join(c if c.isprintable() and not 0xD800 <= ord(c) < 0xE000 else "?" for c in text)


_PLURALS = {
    "file without a suffix": "files without a suffix",
    "linked folder read elsewhere": "linked folders read elsewhere",
    "pipe or device": "pipes or devices",
}


def count(n: int, noun: str) -> str:
    """Return "1 file", "2 files": the number with its noun; a suffix such as ".svg" stays."""
    if n == 1 or noun.startswith("."):
        return f"{n} {noun}"
    return f"{n} {_PLURALS.get(noun, noun + 's')}"


class ImageFolder(EncodedImages):
    """Image files of a folder, named by the parts of their paths below it.

    Of each image its name alone is held: some tens of bytes.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[tuple[str, ...]],
        reading: Reading,
        like: EncodedImages | None = None,
    ) -> None:
        super().__init__(len(names), reading)
        self.folder = folder
        # One array, not a list: workers share its memory.
        self._names = np.array([os.fsencode(os.path.join(*parts)) for parts in names])
        self.prepare(like)

    def content(self, file: int) -> Path:
        """Return the path of a file."""
        return self.folder / os.fsdecode(self._names[file])

    def name(self, file: int) -> str:
        """Return the path of a file, as it can be printed."""
        return printable(str(self.content(file)))


def read_folder(folder: Path, reading: Reading) -> dict[Split, Images]:
    """Read or open the image files below a folder, cropped and scaled.

    Where all images lie in sub-folders, the first of these are the classes. Folders train, test
    and val (or validation) at the root, and nothing else, are splits: val serves as the test split
    where there is no other. Without them every tenth image is held out. A file factors.csv gives
    known factors. Raises UserError.
    """
    if not folder.is_dir():
        raise UserError(
            f"--data folder:{folder}: no such folder; put images there, "
            "in sub-folders if you like, or name another"
        )
    listing = list_images(folder)
    left_out, notes = listing.left_out, listing.notes
    if not listing.files:
        known = " ".join(sorted(image_suffixes()))
        there = f"; there are {_phrase(left_out)}" if left_out else ""
        raise UserError(f"--data folder:{folder}: no images found below it ({known}){there}")
    parts, dropped = split_folders(listing.files)
    notes += dropped
    names, labels, classes, more = class_folders(parts)
    notes += more
    factors = _factors(folder, [(split, name) for split, name, _ in names], notes)
    chosen = [np.array([s == split for s, _, _ in names]) for split in ("train", "test")]
    files = [[parts for s, parts, _ in names if s == split] for split in ("train", "test")]
    if not files[0]:
        raise UserError(f"--data folder:{folder}: no images in its train folder")
    train = ImageFolder(folder, files[0], reading)
    of = [_of_files(train, labels, chosen[0]), _of_files(train, factors[0], chosen[0])]
    if not files[1]:
        splits = held_out(train, of[0], reading.stream, factors=of[1])
    else:
        test = ImageFolder(folder, files[1], reading, train)
        of_test = [_of_files(test, labels, chosen[1]), _of_files(test, factors[0], chosen[1])]
        splits = open_both(
            *(Streamed(train, None), Streamed(test, None)),
            *((of[0], of_test[0]), reading.stream),
            factors=(of[1], of_test[1]),
        )
        notes += test.notes
    lines = (*notes, *train.notes)
    out = _phrase(left_out)
    return {
        split: images.with_facts(lines, classes, factors[1], f"left out: {out}" if out else "")
        for split, images in splits.items()
    }


def _of_files(source: ImageFolder, values: NDArray[Any] | None, chosen: NDArray[np.bool]) -> Any:
    return None if values is None else source.of_rows(values[chosen])


def _phrase(left_out: Counter[str]) -> str:
    """Return "2 hidden folders, 4 .svg", "" for nothing."""
    return ", ".join(count(n, what) for what, n in left_out.most_common())


class Named(NamedTuple):
    """A file with its split and its path below the split's folder."""

    split: str
    parts: tuple[str, ...]
    below: tuple[str, ...]


def split_folders(files: Sequence[tuple[str, ...]]) -> tuple[list[Named], list[str]]:
    """Return each file's split, from folders train, test and val at the root; and lines on it.

    They count where train is among them, no other folder holds images, and few lie outside.
    """
    heads = Counter(parts[0] for parts in files if len(parts) > 1)
    kinds = {head: _SPLITS.get(head.lower()) for head in heads}
    loose = len(files) - heads.total()
    if (
        None in kinds.values()
        or "train" not in kinds.values()
        or loose > MAX_LOOSE_SHARE * len(files)
    ):
        return [Named("train", parts, parts) for parts in files], []
    test = "test" if "test" in kinds.values() else "val"
    names, unused = [], 0
    for parts in files:
        kind = kinds[parts[0]] if len(parts) > 1 else None
        if kind in ("train", test):
            names.append(Named("train" if kind == "train" else "test", parts, parts[1:]))
        else:
            unused += kind is not None
    folders = ", ".join(sorted(head for head, kind in kinds.items() if kind in ("train", test)))
    lines = [f"splits by folder: {folders}"]
    if unused:
        lines.append(f"{unused} images of the validation folder are not used")
    if loose:
        lines.append(f"left out {count(loose, 'image')} outside the folders of splits")
    return names, lines


def class_folders(
    names: Sequence[Named],
) -> tuple[list[Named], NDArray[np.int64] | None, tuple[str, ...], list[str]]:
    """Return the files to read, their labels, the names of the classes, and lines on them.

    Up to a tenth of loose images next to class folders are left out; with more of them there are
    no labels.
    """
    loose = sum(len(name.below) == 1 for name in names)
    if loose == len(names):
        return list(names), None, (), []
    if loose > MAX_LOOSE_SHARE * len(names):
        line = f"no labels: {count(loose, 'image')} of {len(names)} lie outside class folders"
        return list(names), None, (), [line]
    lines = []
    if loose:
        first = next(name.parts for name in names if len(name.below) == 1)
        example = printable("/".join(first))
        lines = [f"left out {count(loose, 'image')} outside the class folders ({example})"]
    nested = [name for name in names if len(name.below) > 1]
    classes, labels = np.unique([name.below[0] for name in nested], return_inverse=True)
    return nested, labels.astype(np.int64), tuple(printable(str(name)) for name in classes), lines


def _factors(
    folder: Path, names: Sequence[tuple[str, tuple[str, ...]]], notes: list[str]
) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """Return the factors [N, K] of the files and their names, from factors.csv where there is one.

    Its column `file` holds the path below the folder; words become numbers in alphabetic order. A
    file without a row has NaN. Raises UserError.
    """
    path = folder / FACTORS_FILE
    if not path.is_file():
        return None, ()
    try:
        with (
            open_regular(path, MAX_TABLE) as file,
            io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text,
        ):
            rows = list(csv.reader(text))
    except (OSError, ValueError, MemoryError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    header = [cell.strip() for cell in rows[0]] if rows else []
    if "file" not in header or len(header) < 2 or len(set(header)) < len(header):
        raise UserError(
            f"{path}: expected a first line with a column file and one column for each factor, "
            f"got {', '.join(header) or 'nothing'}"
        )
    table: dict[str, list[str]] = {}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != len(header):
            raise UserError(f"{path}: line {number}: expected {len(header)} values, got {len(row)}")
        key = os.path.normpath(row[header.index("file")].strip().replace("\\", "/"))
        table[key] = [v.strip() for v, name in zip(row, header, strict=True) if name != "file"]
    columns = [name for name in header if name != "file"]
    blank = [""] * len(columns)
    cells = [table.get("/".join(parts), blank) for _, parts in names]
    without = sum(cell is blank for cell in cells)
    if without == len(cells):
        raise UserError(
            f"{path}: none of its files is an image of the set; expected paths below it"
        )
    if without:
        notes.append(f"{FACTORS_FILE}: {without} of {len(cells)} images have no row")
    numbers = [_numbers([row[k] for row in cells]) for k in range(len(columns))]
    return np.stack(numbers, 1), tuple(columns)


def _numbers(column: list[str]) -> NDArray[np.float64]:
    try:
        return np.array([float(cell) if cell else np.nan for cell in column])
    except ValueError:
        words = sorted({cell for cell in column if cell})
        order = {word: float(i) for i, word in enumerate(words)}
        return np.array([order.get(cell, np.nan) for cell in column])


def flat_images(folder: Path) -> Iterator[str]:
    """Yield the names of the image files that lie in the folder itself."""
    for entry in os.scandir(folder):
        if os.path.splitext(entry.name)[1].lower() in image_suffixes():
            yield entry.name
