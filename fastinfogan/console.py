"""Lines on the terminal, whatever has become of it.

Standard streams may be closed, gone, of another encoding than UTF-8, or stand-ins that a notebook
or a service has put in their place. None of that may end a run.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata
from typing import Any, TextIO

# What the lines of this package hold beyond ASCII, for terminals that cannot show it.
_PLAIN = {
    "…": "...",
    "×": "x",
    "–": "-",
    "≥": ">=",
    "≤": "<=",
    "±": "+-",
    "λ": "lambda",
    "σ": "sigma",
    "β": "beta",
    "θ": "theta",
    "π": "pi",
    "−": "-",
    "█": "#",
}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding does not have: the error handler of the standard streams."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter) or _base(letter) for letter in text), error.end


def _base(letter: str) -> str:
    """Return an accented letter without its accent; ? for any other."""
    return unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?"


codecs.register_error("fastinfogan", _plain)


def prepare() -> None:
    """Make the standard streams of a command's process fit for any text.

    A closed one becomes /dev/null, its number too: else the next file that is opened would get the
    number, and with it what libraries write to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            free = os.open(os.devnull, os.O_RDWR)
            if free != number:
                os.dup2(free, number)
                os.close(free)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream: Any = getattr(sys, name)
        if stream is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif number and isinstance(stream, io.TextIOWrapper) and not _is_utf8(stream.encoding):
            stream.reconfigure(errors="fastinfogan")


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name == "utf-8"


def is_terminal(stream: Any) -> bool:
    """Return True if somebody watches the stream. Stand-ins without `isatty` are no terminals."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError, OSError):  # none, no such method, closed
        return False


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line now. A reader that is gone (a closed terminal, a `tee` that Ctrl-C ended) costs
    the run nothing.
    """
    stream = stream or sys.stdout
    if stream is None:  # a process without streams
        return
    try:
        _print(line, stream)
    except OSError:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (OSError, AttributeError):
            return
    except (ValueError, AttributeError):  # closed, or no stream at all
        return


def _print(line: str, stream: TextIO) -> None:
    try:
        print(line, file=stream, flush=True)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        print(line.encode(encoding, "fastinfogan").decode(encoding), file=stream, flush=True)
