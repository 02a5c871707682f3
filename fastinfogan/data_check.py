"""All that is to know of an image set before training on it: `fastinfogan data check SPEC`."""

from __future__ import annotations

if __name__ == "__main__":  # before what may not be installed is imported
    from .requirements import require_trainer

    require_trainer()

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from . import data
from .cli import named, run_command
from .console import say
from .data.census import Census, sample, take_census
from .data.reading import Fit, Frames
from .data.streaming import should_stream
from .errors import UserError

FILES = ("folder:", "tar:", "parquet:", "hf:")


@dataclass(frozen=True)
class DataCheckConfig:
    """Read a whole image set and print what training would see; exit code 2 if some of it is
    damaged.

    Example: fastinfogan data check folder:pictures --image-size 32 --out sheet.png
    """

    spec: Annotated[tyro.conf.Positional[str], named("SPEC")]
    """The set, as --data of the training command has it."""
    image_size: Annotated[int | None, named("INT")] = None
    """Side of the images, in pixels; an array's own, 32 for image files by default."""
    channels: Annotated[int | None, named("INT")] = None
    """1 gray, 3 colour, 4 colour and alpha; the set's own by default."""
    out: Annotated[Path | None, named("PATH")] = None
    """Write a contact sheet of 100 evenly spaced images to this .png."""
    background: str = "white"
    """The colour under transparent pixels, and around padded images."""
    frames: Frames = "first"
    """Of files with several frames: the first, or all."""
    fit: Fit = "crop"
    """How image files become squares."""
    value_range: str = "auto"
    """The values that become black and white: auto, full or LOW,HIGH."""
    factors: Annotated[str, named("NAMES")] = ""
    """Columns of known factors in a hub's or Parquet set."""


def check_set(config: DataCheckConfig) -> int:
    """Run the command: print the facts and the command to train, and write the sheet."""
    spec = data.absolute(config.spec)
    options = {
        name: getattr(config, name)
        for name in ("background", "frames", "fit", "value_range", "factors")
    }
    splits = data.open_set(spec, config.image_size, config.channels, **options)
    train = splits["train"]
    for line in train.notes:
        say(line)
    census = take_census(splits)
    for line in census.lines(config.fit):
        say(line)
    side, channels = train.images.shape[1], train.images.shape[3]
    if spec.startswith(FILES) and config.channels is None and not census.coloured:
        channels = 1
    nbytes = sum(len(part) for part in splits.values()) * side * side * channels
    place = (
        "read while training" if should_stream("auto", nbytes) else "read into memory at the start"
    )
    say(f"{nbytes / 1e6:,.1f} MB at {side}x{side}x{channels}: {place}")
    if config.out is not None:
        _draw_sheet(train, spec, config.out)
        say(f"contact sheet in {config.out}")
    trained = len(train) - len(census.damaged)
    say(f"train with: {_command(config, spec, side, channels, trained, census)}")
    if census.damaged:
        n = len(census.damaged)
        raise UserError(
            f"{n} of {n + census.images} images are damaged; mend them, remove them, or train with "
            f"--skip-bad {n}"
        )
    return 0


def _draw_sheet(train: data.Images, spec: str, out: Path) -> None:
    from .evaluation import pictures

    images = sample(train)
    if not len(images):
        raise UserError(f"--out {out}: no image can be read")
    pictures.save(pictures.grid(images, min(10, len(images)), spec), out)


def _command(
    config: DataCheckConfig, spec: str, side: int, channels: int, trained: int, census: Census
) -> str:
    """Return the command that trains on the set; `trained` is the number of training images."""
    from .presets import PRESETS

    words = ["fastinfogan", "train", *(["own"] if "own" in PRESETS else []), "--data", spec]
    words += ["--image-size", str(side), "--channels", str(channels)]
    if trained < PRESETS["own"].batch_size:
        words += ["--batch-size", str(max(2, 2 ** (trained.bit_length() - 1)))]
    defaults = DataCheckConfig("")
    for name in ("background", "frames", "fit", "value_range", "factors"):
        if getattr(config, name) != getattr(defaults, name):
            words += [f"--{name.replace('_', '-')}", getattr(config, name)]
    if census.damaged:
        words += ["--skip-bad", str(len(census.damaged))]
    return shlex.join(words)


def main(args: list[str] | None = None) -> int:
    """Run `fastinfogan data check`."""
    return run_command(check_set, DataCheckConfig, "fastinfogan data check", args)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
