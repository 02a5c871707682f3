"""The evaluate command: `fastinfogan evaluate RUN`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from . import data
from .cli import run_command
from .data import streaming
from .errors import UserError
from .evaluation import measure
from .runs.folder import RunDir, load_all


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a run on its test images; prints one JSON object and writes RUN/eval.json."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    data: str | None = None
    """Another image set than the run's own."""
    seed: int = 0
    """Fixes the generated images."""


def evaluate_run(config: EvaluateConfig) -> dict[str, Any]:
    """The command, less its printing: evaluate the newest checkpoint and write eval.json."""
    if config.seed < 0:
        raise UserError(f"--seed: expected at least 0, got {config.seed}")
    loaded, run_config, found = load_all(config.run)
    name = run_config.data.data if config.data is None else data.absolute(config.data)
    size = {"image_size": run_config.data.image_size, "channels": run_config.data.channels}
    reading: streaming.Mode = "always" if data.can_stream(name) else "never"  # not all is looked at
    splits = data.load(name, **size, stream=reading, advise=False)
    result = measure.evaluate(loaded, splits, seed=config.seed)
    return measure.write(RunDir(config.run), found.step, name, result)


def main(args: list[str] | None = None) -> int:
    """`python -m fastinfogan.evaluate`."""
    return run_command(
        lambda config: print(json.dumps(evaluate_run(config), indent=2)),
        EvaluateConfig,
        "fastinfogan evaluate",
        args,
    )


if __name__ == "__main__":
    raise SystemExit(main())
