"""A run as a folder for others: `fastinfogan save RUN DIR`."""

from __future__ import annotations

if __name__ == "__main__":  # before what may not be installed is imported
    from .requirements import require_trainer

    require_trainer()

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .cli import RunFolder, named, run_command
from .console import say
from .sharing.card import save_run


@dataclass(frozen=True)
class SaveConfig:
    """Write a run's networks for others: safetensors, JSON, a model card and a picture.

    In Python `fastinfogan.load(DIR)` reads them.

    Example: fastinfogan save runs/mnist digits --page
    """

    run: RunFolder
    out: Annotated[tyro.conf.Positional[Path], named("DIR")]
    """The folder to write."""
    onnx: bool = False
    """Add generator.onnx and reader.onnx."""
    page: bool = False
    """Add index.html, the page of `fastinfogan explore`."""


def save(config: SaveConfig) -> None:
    """Run the command."""
    files = save_run(config.run, config.out, onnx=config.onnx, with_page=config.page)
    say(f"wrote {config.out}: {', '.join(files)}")


def main(args: list[str] | None = None) -> int:
    """Run `python -m fastinfogan.save`."""
    return run_command(save, SaveConfig, "fastinfogan save", args)


if __name__ == "__main__":
    raise SystemExit(main())
