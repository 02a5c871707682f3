"""A finished run to experiment trackers: `fastinfogan track RUN --with tensorboard`."""

from __future__ import annotations

if __name__ == "__main__":  # before what may not be installed is imported
    from .requirements import require_trainer

    require_trainer()

import re
import shutil
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from .atomic import read_text
from .cli import RunFolder, run_command
from .console import say
from .data.decoding import decode
from .errors import UserError
from .options import parse_yaml
from .runs.folder import RunDir
from .training import metrics
from .training.tracking import Tracking, parse_trackers

_PICTURE = re.compile(r"step-(\d{8,})-(\w+)\.png")


@dataclass(frozen=True)
class TrackConfig:
    """Send a run's metrics, options and pictures to experiment trackers.

    Example: fastinfogan track runs/mnist --with tensorboard
    """

    run: RunFolder
    trackers: Annotated[str, tyro.conf.arg(name="with")] = "tensorboard"
    """tensorboard, wandb, trackio or mlflow, or several with commas between."""
    project: str = "fastinfogan"
    """The project in W&B and trackio, the experiment in MLflow."""


def track(config: TrackConfig) -> None:
    """Run the command."""
    names = parse_trackers(config.trackers)
    if not names:
        raise UserError("--with: expected a tracker, got none")
    run = RunDir(config.run)
    if not run.config.is_file():
        raise UserError(f"{config.run} holds no run: {run.config} is missing")
    records = metrics.read(run.metrics)
    if not records:
        raise UserError(f"{config.run} has no metrics yet; train it first")
    try:
        options = parse_yaml(read_text(run.config))
    except OSError as error:
        raise UserError(f"cannot read {run.config}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{run.config} is not a configuration of fastinfogan: {error}") from None
    if "tensorboard" in names:  # everything is written again
        shutil.rmtree(config.run / "tensorboard", ignore_errors=True)
    errors: list[str] = []
    tracking = Tracking(
        names, config.run, project=config.project, config=options, warn=errors.append
    )
    for record in records:
        tracking.log(record)
    pictures = 0
    for path in sorted(run.samples.glob("step-*.png")):
        name = _PICTURE.fullmatch(path.name)
        if name is None:
            continue
        try:
            picture = decode(path).image
        except ValueError as error:
            say(f"passed over {path}: {error}", sys.stderr)
            continue
        if picture is not None:
            tracking.log_pictures(int(name[1]), {f"samples/{name[2]}": picture})
            pictures += 1
    working = tracking.names
    tracking.close()
    if errors:
        raise UserError("; ".join(errors))
    say(f"sent records: {len(records)}, pictures: {pictures}; to {', '.join(working)}")


def main(args: list[str] | None = None) -> int:
    """Run `python -m fastinfogan.track`."""
    return run_command(track, TrackConfig, "fastinfogan track", args)


if __name__ == "__main__":
    raise SystemExit(main())
