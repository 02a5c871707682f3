"""The main command: `accelerate launch -m fastinfogan.train [PRESET] …`."""

from __future__ import annotations

if __name__ == "__main__":  # before what may not be installed is imported
    from .requirements import require_trainer

    require_trainer()

from .cli import guarded, parse
from .evaluation.hooks import HOOKS
from .runs.loop import run


def main(args: list[str] | None = None) -> int:
    """Train as the command line says, and return the exit code."""
    return guarded(lambda: run(parse(args), HOOKS))


if __name__ == "__main__":
    raise SystemExit(main())
