"""The experiments as a table, or one with its options: `fastinfogan presets [NAME]`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
import yaml

from .. import presets
from ..cli import named, run_command
from ..config import TrainConfig, to_yaml
from ..console import say
from ..errors import UserError
from ..presets import PRESETS
from .measured import MEASURED, NOTE


@dataclass(frozen=True)
class PresetsConfig:
    """List the experiments, or show one with the reasons for its options.

    Example: fastinfogan presets mnist
    """

    name: Annotated[str, tyro.conf.Positional, named("[NAME]")] = ""
    """An experiment; all by default."""


def table() -> str:
    """Return a line per experiment, with minutes and code accuracy where they were measured."""
    rows = [("preset", "data", "images", "codes", "updates", "minutes", "code accuracy")]
    for name, config in PRESETS.items():
        size, channels = config.data.image_size, config.data.channels
        images = f"{size}×{size}{' colour' if channels == 3 else ''}"
        codes = _shorten(config.codes.codes)
        rows.append((name, config.data.data, images, codes, f"{config.steps:,}", *_result(name)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join((*lines, "", NOTE))


def _result(name: str) -> tuple[str, str]:
    """Return minutes and code accuracy as text; a dash where they were not measured."""
    if name not in MEASURED:
        return "–", "–"
    seeds, (least, greatest), minutes = MEASURED[name]
    if seeds == 1:
        return f"{minutes:.0f}", f"{100 * least:.1f} % (1 seed)"
    return f"{minutes:.0f}", f"{100 * least:.1f} to {100 * greatest:.1f} % ({seeds} seeds)"


def _shorten(codes: str) -> str:
    """Return the codes with repetitions counted: "4 × cat20, uniform"."""
    counts: dict[str, int] = {}
    for code in codes.split(","):
        counts[code.strip()] = counts.get(code.strip(), 0) + 1
    return ", ".join(code if n == 1 else f"{n} × {code}" for code, n in counts.items())


def details(name: str) -> str:
    """Return an experiment's docstring and what it changes of the defaults. Raises UserError."""
    if name not in PRESETS:
        raise UserError(f"expected one of {', '.join(PRESETS)}, got {name!r}")
    config = PRESETS[name]
    home = next(
        module
        for _, module in inspect.getmembers(presets, inspect.ismodule)
        if any(value is config for value in vars(module).values())
    )
    changed = _changes(yaml.safe_load(to_yaml(config)), yaml.safe_load(to_yaml(TrainConfig())))
    options = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True).rstrip()
    start = f"start it: fastinfogan train {name}"
    return f"{inspect.getdoc(home)}\n\nOptions that differ from the defaults:\n{options}\n\n{start}"


def _changes(options: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in options.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            if inner := _changes(value, default):
                changed[key] = inner
        elif value != default:
            changed[key] = value
    return changed


def show(config: PresetsConfig) -> None:
    """Run the command."""
    say(details(config.name) if config.name else table())


def main(args: list[str] | None = None) -> int:
    """Run `fastinfogan presets`."""
    return run_command(show, PresetsConfig, "fastinfogan presets", args)
