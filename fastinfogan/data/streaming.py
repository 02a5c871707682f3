"""Image sets larger than memory: what reads their rows, and the batches that come of it.

A streamed run sees the batches of a resident one, in the same order; only where the images lie
until then differs.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import mmap
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal, Protocol

import joblib
import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError

Mode = Literal["auto", "always", "never"]
Rows = NDArray[np.int64]
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
HELD_OUT_EVERY = 10  # of a set without a test split
MOST_RESIDENT = 4 * 2**30  # bytes, decoded: beyond it "auto" streams
SHARE_RESIDENT = 1 / 4  # or beyond this share of the available memory, over this machine's ranks
HASHED_WHOLE = 2**28  # bytes; of a larger set a sample is hashed
SAMPLE = 1024  # images
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # of Pillow
PREFETCH = 4  # batches that each worker keeps ready
MOST_WORKERS = 8


class Source(Protocol):
    """An image set that is read row by row. Pickles without its images, as workers need it."""

    shape: tuple[int, int, int, int]  # N, H, W, C
    slow: bool  # a row takes decoding, not just a copy
    on_disk: bool  # a row may have to be waited for

    def scatter(self) -> None:
        """Expect reads of rows here and there from now on."""

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        """The images [B, H, W, C] at `rows` [B]. Raises UserError, naming the file."""


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


def check_decodable(channels: int) -> None:
    """Raise UserError for a number of channels that a decoded image cannot be given."""
    if channels not in (1, 3):
        raise UserError(f"--channels: an image folder gives 1 (gray) or 3 (colour), got {channels}")


def _below(folder: Path) -> Iterator[tuple[str, ...]]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            yield path.relative_to(folder).parts


def _class_folders(found: list[tuple[str, ...]]) -> NDArray[np.int64] | None:
    """Where all images lie in sub-folders, these are the labels."""
    if any(len(parts) == 1 for parts in found):
        return None
    return np.unique([parts[0] for parts in found], return_inverse=True)[1].astype(np.int64)


def square(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """The central square, upright, scaled to `size`: uint8 [size, size, channels].

    Raises one of `UNREADABLE` where the image is damaged or of a mode without 8 or 16 bits.
    """
    if image.mode.startswith("I;16"):  # convert() would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}: expected 8 or 16 bits a channel")
    upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    fitted = ImageOps.fit(upright, (size, size), method=Image.Resampling.LANCZOS)
    return np.asarray(fitted).reshape(size, size, channels)


class Streamed:
    """One split of a source, read where it is indexed: by a slice or by rows, int64 [B].

    `held_out`: every tenth image, or the others; None: the source is the split.
    """

    def __init__(self, source: Source, held_out: bool | None) -> None:
        self.source, self.held_out = source, held_out
        self.shape = (split_size(source.shape[0], held_out), *source.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all its images, decoded."""
        return math.prod(self.shape)

    def __getitem__(self, chosen: slice | Rows) -> NDArray[np.uint8]:
        rows = np.arange(*chosen.indices(len(self))) if isinstance(chosen, slice) else chosen
        return self.source.read(in_whole(rows, self.held_out))


def split_size(n: int, held_out: bool | None) -> int:
    """How many of n images a split has, where every tenth is held out (None: all of them)."""
    if held_out is None:
        return n
    return n // HELD_OUT_EVERY if held_out else n - n // HELD_OUT_EVERY


def in_whole(rows: Rows, held_out: bool | None) -> Rows:
    """Rows of a split as rows of the whole set."""
    if held_out is None:
        return rows
    if held_out:
        return rows * HELD_OUT_EVERY + (HELD_OUT_EVERY - 1)
    return rows + rows // (HELD_OUT_EVERY - 1)


def split_rows(n: int, held_out: bool | None) -> Rows:
    """All rows of a split of n images, as rows of the whole set."""
    return in_whole(np.arange(split_size(n, held_out)), held_out)


def evenly(n: int, most: int) -> Rows:
    """Up to `most` rows of n, evenly spaced from the first on, int64."""
    count = min(n, most)
    return np.arange(count) * n // max(count, 1)


def checksum(images: NDArray[np.uint8] | Streamed) -> str:
    """What a resumed run's images are held to: a hash, the same resident and streamed.

    Up to 256 MiB every byte is hashed. Of a larger set the shape and 1,024 evenly spaced images
    are: enough to tell one set from another, not to find a single image that was changed.
    """
    hashed, n = hashlib.sha256(), len(images)
    if images.nbytes <= HASHED_WHOLE:
        for start in range(0, n, SAMPLE):
            hashed.update(np.ascontiguousarray(images[start : start + SAMPLE]).data)
        return f"{hashed.hexdigest()[:16]} ({n} images)"
    hashed.update(repr(images.shape).encode())
    hashed.update(np.ascontiguousarray(images[evenly(n, SAMPLE)]).data)
    return f"{hashed.hexdigest()[:16]} ({SAMPLE} of {n} images)"


def wanted(mode: Mode, nbytes: int) -> bool:
    """Whether to stream a set of `nbytes` bytes (decoded)."""
    if mode != "auto":
        return mode == "always"
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    share = psutil.virtual_memory().available * SHARE_RESIDENT / ranks
    return nbytes > min(MOST_RESIDENT, share)


class _Batches(Dataset[Tensor]):
    """What a worker reads: a whole batch at once."""

    def __init__(self, images: Streamed) -> None:
        self.images = images

    def __getitems__(self, rows: Rows) -> Tensor | UserError:
        try:
            return torch.from_numpy(self.images[rows])
        except UserError as error:  # raised here, it would come out with the worker's traceback
            return error


class _Rows:
    """The rows of batch `first`, first + 1, …, without end."""

    def __init__(self, indices: Callable[[int], Tensor]) -> None:
        self.indices, self.first = indices, 0

    def __iter__(self) -> Iterator[Rows]:
        return (self.indices(step).numpy() for step in itertools.count(self.first))


class Stream:
    """The batches of a streamed set: workers read ahead, the next batch is waited for.

    `indices` gives an update's rows (a CPU tensor). Calls for update after update read ahead; any
    other update starts anew from there.
    """

    def __init__(
        self,
        images: Streamed,
        indices: Callable[[int], Tensor],
        device: torch.device,
        workers: int | None = None,
    ) -> None:
        self.device = device
        self._images, self._rows = images, _Rows(indices)
        self._workers = _workers(images.source, device) if workers is None else workers
        self._loader: DataLoader[Tensor] | None = None
        self._batches: Iterator[Tensor | UserError] | None = None
        self._next = 0

    def __call__(self, step: int) -> Tensor:
        """The images of update `step` (from 0) on the device, uint8 [batch_size, H, W, C].

        Raises UserError, in one line, where they cannot be read.
        """
        try:
            if self._batches is None or step != self._next:
                self._start(step)
            assert self._batches is not None
            batch = next(self._batches)
        except RuntimeError as error:  # a worker that was killed
            self.close()
            reason = str(error).splitlines()[0]
            raise UserError(f"the process that reads the images ended ({reason})") from None
        if isinstance(batch, UserError):
            self.close()
            raise UserError(str(batch))
        self._next = step + 1
        return batch.to(self.device, non_blocking=True)

    def _start(self, step: int) -> None:
        if self._loader is None:
            self._loader = DataLoader(
                _Batches(self._images),
                batch_sampler=self._rows,  # type: ignore[arg-type]
                collate_fn=_as_it_is,  # type: ignore[arg-type]
                num_workers=self._workers,
                prefetch_factor=PREFETCH if self._workers else None,
                persistent_workers=self._workers > 0,
                worker_init_fn=_ignore_signals,
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator(),  # so that the global one is not drawn from
            )
        self._rows.first = step
        # torch's handler of SIGCHLD would raise wherever this process happens to be. Without it a
        # worker that has died is found when its batch is waited for, within five seconds.
        handler = signal.getsignal(signal.SIGCHLD)
        self._batches = iter(self._loader)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)

    def close(self) -> None:
        """End the workers. A later call would start them again."""
        self._batches = self._loader = None


def _as_it_is(batch: Tensor | UserError) -> Tensor | UserError:
    return batch


def _ignore_signals(worker: int) -> None:
    """A signal to the process group is the trainer's, which saves before it ends its workers.

    Workers end with the trainer, however it ends: DataLoader's own look for it every 5 s.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _workers(source: Source, device: torch.device) -> int:
    """None, where there is no disk to wait for: a worker costs some 400 MB.

    One, where reading is copying, or where training itself takes the cores: on a CPU a batch is
    decoded in a fraction of an update. On a GPU decoding gets this rank's cores, up to eight.
    """
    if not source.on_disk:
        return 0
    if not source.slow or device.type == "cpu":
        return 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MOST_WORKERS, joblib.cpu_count() // ranks))
