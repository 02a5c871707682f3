"""The settings of `accelerate launch` that a training cannot follow, and so refuses."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil
import yaml

from ..errors import UserError

# What `accelerate launch` may ask for by these variables, and no training here does.
_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}
_STEPS = "gradient_accumulation_steps"


def refuse_what_would_be_ignored() -> None:
    """Raise UserError for settings of the launcher that the training cannot follow."""
    advice = "answer `accelerate config` anew, or pass --config_file with a plain configuration"
    for name, engine in _ENGINES.items():
        if os.environ.get(name, "").lower() in ("1", "true", "yes", "on"):
            raise UserError(f"the launcher asks for {engine}, expected data parallelism; {advice}")
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS") or _launched_steps()
    if steps != "1":
        raise UserError(
            f"the launcher asks for {steps} gradient accumulation steps, expected 1: BatchNorm "
            f"couples the rows of a batch; use a larger --batch-size, leave --{_STEPS} out, and "
            f"{advice}"
        )
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() not in ("", "no"):
        raise UserError(
            f"the launcher asks for the compiler {backend}, expected none; use --compile on"
        )


def _launched_steps() -> str:
    """Return the accumulation steps of the launcher's command line or configuration file.

    Accelerate 1.15 exports them with DeepSpeed alone.
    """
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:  # which the launcher always sets
        return "1"
    options = _launcher_options()
    if options is None:
        return "1"
    if options.gradient_accumulation_steps is not None:
        return str(options.gradient_accumulation_steps)
    if options.config_file is None and options.cpu:  # then the launcher reads no file either
        return "1"
    from accelerate.commands.config import default_config_file

    return _steps_in(Path(options.config_file or default_config_file))


def _launcher_options() -> Any:
    """Return the options of the nearest parent that is `accelerate launch`; None if none is."""
    try:
        parents = psutil.Process().parents()
    except (psutil.Error, OSError):
        return None
    for parent in parents:
        try:
            words = parent.cmdline()
        except (psutil.Error, OSError):
            continue
        for i, word in enumerate(words):
            path = Path(word)
            if path.stem in ("accelerate", "accelerate_cli") or word.endswith(".accelerate_cli"):
                if words[i + 1 : i + 2] == ["launch"]:
                    return _parse(words[i + 2 :])
            elif (
                path.stem == "accelerate-launch"
                or word == "accelerate.commands.launch"
                or path.parts[-3:] == ("accelerate", "commands", "launch.py")
            ):
                return _parse(words[i + 1 :])
    return None


def _parse(words: Sequence[str]) -> Any:
    """Return the launcher's options, None where it is another version with other options."""
    from accelerate.commands.launch import launch_command_parser  # of use to launched runs alone

    parser: argparse.ArgumentParser = launch_command_parser()

    def fail(message: str) -> NoReturn:  # in place of a line on stderr and an exit
        raise ValueError(message)

    parser.error = fail  # type: ignore[method-assign]
    try:
        return parser.parse_args(words)
    except ValueError:
        return None


def _steps_in(path: Path) -> str:
    """Return the accumulation steps of a configuration file; "1" where it names none."""
    try:
        content = yaml.safe_load(path.read_bytes())  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError):
        return "1"
    if not isinstance(content, dict):
        return "1"
    for section in (content, *content.values()):  # the launcher takes it from any section
        if isinstance(section, dict) and section.get(_STEPS) is not None:
            return str(section[_STEPS])
    return "1"
