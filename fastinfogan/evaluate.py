"""The evaluate command: `fastinfogan evaluate RUN`."""

from __future__ import annotations

if __name__ == "__main__":  # before what may not be installed is imported
    from .requirements import require_trainer

    require_trainer()

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from . import data
from .cli import RunFolder, named, run_command
from .console import say
from .data import streaming
from .errors import UserError
from .evaluation import measure
from .evaluation.features import load_features
from .runs.folder import RunDir, load_all


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a run on its test images; prints one JSON object and writes RUN/eval.json.

    Example: fastinfogan evaluate runs/mnist
    """

    run: RunFolder
    data: Annotated[str | None, named("SPEC")] = None
    """Another image set than the run's own, as --data of the training command has it."""
    seed: int = 0
    """Fixes the generated images."""
    features: Annotated[Path | None, named("PATH")] = None
    """A network of image features: TorchScript, or a .pt2 of torch.export.
    It maps images [B, C, H, W] in [0, 1] to features [B, F]. By default it
    is a fixed random one."""


def evaluate_run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate the newest checkpoint: print the result, then write eval.json.

    A folder that cannot be written costs a warning, not the result.
    """
    if config.seed < 0:
        raise UserError(f"--seed: expected at least 0, got {config.seed}")
    loaded, run_config, checkpoint = load_all(config.run)
    extractor = None
    if config.features is not None:
        extractor = load_features(config.features, torch.device("cpu"))
    name = run_config.data.data if config.data is None else data.absolute(config.data)
    of = run_config.data
    size = {"image_size": of.image_size, "channels": of.channels}
    reading: streaming.Mode = "always" if data.can_stream(name) else "never"  # a part is read
    remote: streaming.Mode = "always" if of.stream == "always" else "never"  # as its training
    splits = data.load(name, **size, stream=reading, remote=remote, advise=False, **of.reading())
    say(f"evaluating {config.run} after update {checkpoint.step} …", sys.stderr)
    measured = measure.evaluate(loaded, splits, seed=config.seed, extractor=extractor)
    result = measure.as_written(checkpoint.step, name, measured)
    say(json.dumps(result, indent=2))
    try:
        measure.write(RunDir(config.run), result, measured["contingency"])
    except UserError as error:
        say(f"warning: {error}; the result above is not kept", sys.stderr)
    return result


def main(args: list[str] | None = None) -> int:
    """Run `python -m fastinfogan.evaluate`."""
    return run_command(evaluate_run, EvaluateConfig, "fastinfogan evaluate", args)


if __name__ == "__main__":
    raise SystemExit(main())
