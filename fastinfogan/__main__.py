"""The console script: `fastinfogan train|evaluate|sample|export|data check …`."""

from __future__ import annotations

import sys

COMMANDS = {
    "train": "train an InfoGAN, or go on with a run",
    "evaluate": "measure a run on its test images",
    "sample": "draw pictures from a run",
    "export": "write a run's networks as ONNX files",
    "data check": "look at a whole image set before training on it",
}


def main(args: list[str]) -> int:
    """Hand the rest of the line to the command."""
    usage = "usage: fastinfogan train|evaluate|sample|export|data check ..."
    if args[:2] == ["data", "check"]:
        args = ["data check", *args[2:]]
    if args[:1] in (["-h"], ["--help"]):
        print(usage, *(f"  {name:10} {what}" for name, what in COMMANDS.items()), sep="\n")
        return 0
    if args[:1] == ["--version"]:
        from fastinfogan import __version__

        print(__version__)
        return 0
    if not args or args[0] not in COMMANDS:
        got = f", got {args[0]!r}" if args else ""
        print(f"{usage}\nerror: expected one of {', '.join(COMMANDS)}{got}", file=sys.stderr)
        return 2
    from importlib import import_module

    from .requirements import require_trainer

    require_trainer()
    return int(import_module(f"fastinfogan.{args[0].replace(' ', '_')}").main(args[1:]))


def entry() -> None:
    """The entry point in pyproject.toml."""
    raise SystemExit(main(sys.argv[1:]))


if __name__ == "__main__":
    entry()
