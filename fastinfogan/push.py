"""A run on the Hugging Face hub: `fastinfogan push RUN USER/NAME`."""

from __future__ import annotations

if __name__ == "__main__":  # before what may not be installed is imported
    from .requirements import require_trainer

    require_trainer()

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .atomic import write_atomically
from .cli import RunFolder, named, run_command
from .console import say
from .runs.hub import split_name, upload
from .sharing import graphs, page
from .sharing.card import save_run, space_card
from .sharing.description import load_described


@dataclass(frozen=True)
class PushConfig:
    """Upload a run's networks, card and picture to the Hugging Face hub.

    In Python `fastinfogan.load("hf:USER/NAME")` loads them. Log in first: hf auth login.

    Example: fastinfogan push runs/mnist USER/digits
    """

    run: RunFolder
    name: Annotated[tyro.conf.Positional[str], named("USER/NAME")]
    """The repository, USER/NAME; created where it is missing."""
    private: bool = False
    """Create the repository as a private one."""
    onnx: bool = False
    """Add generator.onnx and reader.onnx."""
    space: bool = False
    """Upload the page of `fastinfogan explore` as a static space, instead of the networks."""


def push(config: PushConfig) -> None:
    """Run the command."""
    split_name(config.name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if config.space:
            networks, facts = load_described(config.run)
            models = [graphs.for_page(networks, facts, part) for part in ("generator", "reader")]
            write_atomically(folder / "index.html", page.single_page(facts, *models))
            write_atomically(folder / "README.md", space_card(facts["title"]))
        else:
            save_run(config.run, folder, onnx=config.onnx)
        address = upload(folder, config.name, private=config.private, space=config.space)
    say(f"pushed {config.run} to {address}")


def main(args: list[str] | None = None) -> int:
    """Run `python -m fastinfogan.push`."""
    return run_command(push, PushConfig, "fastinfogan push", args)


if __name__ == "__main__":
    raise SystemExit(main())
