"""Files that are read only where they are files, of a bounded size, and written as a whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from .errors import UserError


def parse_json(text: str | bytes) -> Any:
    """Return the content of JSON. Raises ValueError for all else, too deep a nesting included."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


MAX_TEXT = 2**26  # bytes of a file of text that is read whole: a configuration, an evaluation


class UnexpectedFile(OSError):
    """Something else in place of a file, or a file that is too large."""


class NotAFile(UnexpectedFile):
    """A pipe, a device or a folder in place of a file."""


def open_regular(path: Path, most: int | None = None) -> BufferedReader:
    """Open a file to read its bytes; a link is followed.

    Raises UnexpectedFile for a pipe, a device or a folder, which `open` would wait for or never
    finish reading, and for a file of more than `most` bytes; OSError where it cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise NotAFile(errno.EINVAL, "not a regular file", str(path))
        if most is not None and status.st_size > most:
            words = f"has {status.st_size:,} bytes, expected at most {most:,}"
            raise UnexpectedFile(errno.EFBIG, words, str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path, most: int) -> bytes:
    """Return the bytes of a file of at most `most` bytes. Raises OSError as `open_regular`."""
    with open_regular(path, most) as file:
        return file.read(most)


def read_text(path: Path, errors: str = "strict") -> str:
    """Return a file of text, at most `MAX_TEXT` bytes. Raises OSError, UnicodeDecodeError."""
    return read_regular(path, MAX_TEXT).decode("utf-8", errors)


def check_writable(folder: Path, option: str) -> None:
    """Write and delete a file in a folder, or in the first of those above it that exists.

    Before work that takes long: raises UserError, which names the option for another folder, where
    its result could not be written. Makes no folder.
    """
    try:
        place = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
        probe = place / f".{os.getpid()}.tmp"
        write_and_sync(probe, b"")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write to {folder}: {reason}; choose another {option}") from None


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
        remove(path)


def remove(path: Path) -> None:
    """Delete a file, a link (never what it leads to), or a folder with all in it, if it is there.

    Raises OSError where a file or link stays; a folder may stay.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def open_new(path: Path) -> IO[bytes]:
    """Open a new file to write its bytes.

    What has that name is removed first and a link never written through: in a folder that others
    may write to, it could lead anywhere.
    """
    remove(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    flags |= getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def write_and_sync(path: Path, data: bytes) -> None:
    """Write a new file, as `open_new` does, and wait until its bytes are on the disk."""
    with open_new(path) as file:
        file.write(data)
        file.flush()
        _sync(file.fileno())


def open_to_append(path: Path) -> IO[bytes]:
    """Open a file to add to its end, and make it if it is missing. Raises OSError for a link.

    In a folder that others may write to, a link could lead anywhere.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotAFile(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(handle, "ab")
    except BaseException:
        os.close(handle)
        raise


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
