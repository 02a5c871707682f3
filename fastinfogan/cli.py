"""What the commands share: their exit codes, and one line on stderr for a user's mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

import tyro

from .errors import Stop

C = TypeVar("C")
INTERRUPTED = 130


def run_command(
    work: Callable[[C], Any], config_type: type[C], prog: str, args: list[str] | None
) -> int:
    """Parse `args` into the config, do the work, and give the exit code."""
    return guarded(lambda: work(tyro.cli(config_type, args=args, prog=prog)))


def guarded(work: Callable[[], Any]) -> int:
    """Do the work; its result if that is an exit code, else 0; errors as the contract has them."""
    try:
        code = work()
    except Stop as error:
        rank = os.environ.get("RANK", "0")
        if not error.said_by_main:
            say(f"{'' if rank == '0' else f'rank {rank}: '}error: {error}", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted", sys.stderr)
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line now. A reader that is gone (a closed terminal, a `tee` that Ctrl-C ended) costs
    the run nothing.
    """
    stream = stream or sys.stdout
    try:
        print(line, file=stream, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
