"""What the commands share: their exit codes, and one line on stderr for a user's mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

from .errors import NonFiniteLoss, UserError

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
    except (UserError, NonFiniteLoss) as error:
        rank = os.environ.get("RANK", "0")
        print(f"{'' if rank == '0' else f'rank {rank}: '}error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return code if isinstance(code, int) else 0
