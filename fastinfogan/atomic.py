"""Files that are read only where they are files, of a bounded size, and written as a whole."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import UserError


def parse_json(text: str | bytes) -> Any:
    """Return the content of JSON. Raises ValueError for all else, too deep a nesting included."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def open_regular(path: Path, most: int | None = None) -> IO[bytes]:
    """Open a file to read its bytes; a link is followed.

    Raises OSError for a pipe, a device or a folder, which `open` would wait for or never finish
    reading, and for a file of more than `most` bytes.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if most is not None and status.st_size > most:
            words = f"has {status.st_size:,} bytes, expected at most {most:,}"
            raise OSError(errno.EFBIG, words, str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path, most: int) -> bytes:
    """Return the bytes of a file of at most `most` bytes. Raises OSError as `open_regular`."""
    with open_regular(path, most) as file:
        return file.read(most)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write (full disk, no permission) into a UserError that names the place."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it holds either its old or its whole new content."""
    data = content.encode() if isinstance(content, str) else content
    with writing(path):
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            write_and_sync(temporary, data)
            temporary.replace(path)
            sync_folder(path.parent)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def clear_leftovers(folder: Path) -> None:
    """Delete what killed writers left in a folder. Not while another process may be writing."""
    for path in folder.glob(".*.tmp"):
        if not path.is_dir():
            path.unlink(missing_ok=True)


def write_and_sync(path: Path, data: bytes) -> None:
    """Write a new file and wait until its bytes are on the disk.

    A file or a link of that name is removed first and never written through: in a folder that
    others may write to, a link could lead anywhere.
    """
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    flags |= getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        file.write(data)
        file.flush()
        _sync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            _sync(handle)
        finally:
            os.close(handle)


# SMB, FUSE and others refuse to sync; nothing can be done about it, and the bytes are written.
_REFUSALS = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS}


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
