"""Shards: image files in .tar archives, as WebDataset writes them, read by their places."""

from __future__ import annotations

import glob
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from ..atomic import open_regular
from ..errors import UserError
from .decoding import MAX_BYTES, image_suffixes
from .encoded import EncodedImages
from .folder import Named, class_folders, printable
from .reading import Reading
from .splits import Images, Split, expand_user, held_out
from .streaming import Rows

_LABEL_SUFFIXES = (".cls", ".label")
_PACKED_TARS = (".tgz", ".tbz", ".tbz2", ".txz", ".tlz", ".tzst")
_UNPACKERS = {  # by the first bytes of a compressed file
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
}
MAX_LABEL = 32  # bytes of a file that holds a label
MAX_RECORD = 2**20  # bytes of a member's name or extended header, which tarfile reads whole


class Member(NamedTuple):
    """One file in a shard."""

    shard: int
    name: str
    start: int
    size: int


class TarShards(EncodedImages):
    """The image files of uncompressed .tar archives. Each row is read by its place in its shard.

    Rows are addressed as those of a folder are, so that every guarantee of folders holds.
    """

    def __init__(self, paths: Sequence[Path], members: Sequence[Member], reading: Reading) -> None:
        super().__init__(len(members), reading)
        self.paths = list(paths)
        self._names = np.array([os.fsencode(member.name) for member in members])
        places = [(member.shard, member.start, member.size) for member in members]
        self._places = np.array(places, np.int64).reshape(-1, 3)
        self.prepare()

    def content(self, file: int) -> bytes:
        """Return a member's bytes. Raises ValueError where there are not so many, or too many."""
        shard, start, size = self._places[file].tolist()
        return _content(self.paths[shard], start, size)

    def name(self, file: int) -> str:
        """Return the shard with the member's name."""
        shard = self.paths[int(self._places[file, 0])]
        return printable(f"{shard}: {os.fsdecode(self._names[file])}")


def _content(path: Path, start: int, size: int) -> bytes:
    """Return a part of a shard. Raises ValueError before it reserves more than there is."""
    if size > MAX_BYTES:
        raise ValueError(f"its header promises {size:,} bytes, expected at most {MAX_BYTES:,}")
    try:
        with open_regular(path) as archive:
            if start + size > os.fstat(archive.fileno()).st_size:
                raise ValueError("its shard ends before it")
            content = os.pread(archive.fileno(), size, start)
    except OSError as error:
        raise ValueError(f"its shard cannot be read, {error.strerror}") from None
    if len(content) != size:
        raise ValueError("its shard ends before it")
    return content


def read_tar(reference: str, reading: Reading) -> dict[Split, Images]:
    """Read or open the images of one .tar file, of all in a folder, or of a pattern of names.

    The labels are those of files name.cls next to name.jpg, integers, where every image has one;
    else the first folder of each member's path. Every tenth image is held out, in the order of
    shards and members. Raises UserError.
    """
    where = f"--data tar:{reference}"
    paths = _shards(expand_user(reference), where)
    images: list[Member] = []
    labels: dict[str, Member] = {}
    for shard, path in enumerate(paths):
        for member in _members(path, shard):
            stem, suffix = os.path.splitext(member.name)
            if os.path.basename(member.name).startswith("."):
                continue
            if suffix.lower() in image_suffixes():
                images.append(member)
            elif suffix in _LABEL_SUFFIXES and member.size <= MAX_LABEL:
                labels[f"{shard}/{stem}"] = member
    if not images:
        known = " ".join(sorted(image_suffixes()))
        raise UserError(f"{where}: no images in its {len(paths)} .tar files ({known})")
    source = TarShards(paths, images, reading)
    classes, names, notes = _labels(paths, images, labels, where)
    splits = held_out(source, source.of_rows(classes), reading.stream)
    lines = [f"{len(paths)} shards" if len(paths) > 1 else "1 shard", *notes, *source.notes]
    return {split: part.with_facts(lines, names) for split, part in splits.items()}


def _shards(path: Path, where: str) -> list[Path]:
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.is_file() and _is_tar(p.name))
    elif path.is_file():
        paths = [path]
    else:
        paths = sorted(p for p in map(Path, glob.glob(str(path))) if p.is_file())
    if not paths:
        raise UserError(f"{where}: no .tar file there; expected a file, a folder or a pattern")
    for packed in paths:
        if (tool := _unpacker(packed)) is not None:
            raise UserError(
                f"{where}: {printable(packed.name)} is compressed, and its images cannot be "
                f"addressed; unpack it ({tool}), its images are compressed anyway"
            )
    return paths


def _is_tar(name: str) -> bool:
    """Return True for the name of a .tar file, compressed or not."""
    suffixes = Path(name.lower()).suffixes[-2:]
    return ".tar" in suffixes or (bool(suffixes) and suffixes[-1] in _PACKED_TARS)


def _unpacker(path: Path) -> str | None:
    """Return the tool that unpacks a compressed file, by its first bytes; None for another file."""
    try:
        with open_regular(path) as file:
            start = file.read(max(map(len, _UNPACKERS)))
    except OSError:
        return None  # reading it tells
    return next((tool for magic, tool in _UNPACKERS.items() if start.startswith(magic)), None)


class _Records:
    """A .tar file whose headers are read, and no more of it than a header takes.

    tarfile reads as many bytes as a record of a long name promises, and goes back in the file
    where a size is negative, which may never end.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes. Raises ValueError for more than a header takes."""
        if not 0 <= size <= MAX_RECORD:
            raise ValueError(f"a header promises {size:,} bytes, expected at most {MAX_RECORD:,}")
        return self.file.read(size)

    def seek(self, place: int) -> None:
        """Go to a place further on. Raises ValueError for one further back."""
        if place < self.file.tell() - 1:  # tarfile looks at the byte before each header
            raise ValueError("a header leads back")
        self.file.seek(place)

    def tell(self) -> int:
        """Return the place."""
        return self.file.tell()


def _members(path: Path, shard: int) -> list[Member]:
    try:
        with (
            open_regular(path) as file,
            tarfile.open(fileobj=cast(Any, _Records(file)), mode="r:") as archive,
        ):
            return [
                Member(shard, info.name, info.offset_data, info.size)
                for info in archive
                if info.isreg() and not info.issparse()
            ]
    except Exception as error:  # tarfile raises what it happens to meet in a header
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not a readable .tar file ({reason})") from None


def _labels(
    paths: Sequence[Path], images: Sequence[Member], labels: dict[str, Member], where: str
) -> tuple[Rows | None, tuple[str, ...], list[str]]:
    """Return the label of each image, the names of the classes, and lines on them."""
    if not labels:
        parts = [tuple(p for p in image.name.split("/") if p not in ("", ".")) for image in images]
        files, classes, names, lines = class_folders([Named("train", p, p) for p in parts])
        if len(files) < len(images):
            return None, (), ["no labels: some images lie outside class folders"]
        return classes, names, lines
    numbers = []
    for image in images:
        label = labels.get(f"{image.shard}/{os.path.splitext(image.name)[0]}")
        if label is None:
            return None, (), [f"no labels: {printable(image.name)} has none"]
        text = b""
        try:
            text = _content(paths[label.shard], label.start, label.size)
            numbers.append(np.int64(int(text)))
        except (ValueError, OverflowError):
            raise UserError(
                f"{where}: {printable(label.name)}: expected an integer, got {text[:20]!r}"
            ) from None
    return np.array(numbers, np.int64), (), ["labels from .cls files"]
