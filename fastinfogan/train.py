"""The main command: `accelerate launch -m fastinfogan.train [PRESET] …`."""

from __future__ import annotations

if __name__ == "__main__":  # before torch, and what may not be installed, are imported
    from .requirements import require_trainer
    from .training.openmp import spin_briefly

    require_trainer()
    spin_briefly()

from .cli import guard, parse, spellings_in
from .evaluation.hooks import HOOKS
from .runs.loop import run


def main(args: list[str] | None = None) -> int:
    """Train as the command line says, and return the exit code."""
    return guard(lambda: _train(args))


def _train(args: list[str] | None) -> int:
    return run(parse(args), HOOKS, given=spellings_in(args))


if __name__ == "__main__":
    raise SystemExit(main())
