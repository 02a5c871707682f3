"""Pictures of what a run's codes do: `fastinfogan sample RUN --out grid.png`."""

from __future__ import annotations

if __name__ == "__main__":  # before what may not be installed is imported
    from .requirements import require_trainer

    require_trainer()

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .atomic import check_writable
from .cli import RunFolder, named, run_command
from .console import say
from .errors import UserError
from .evaluation.pictures import save, stack, traversal
from .latents import LatentSpec
from .runs.folder import RunDir, load_all


@dataclass(frozen=True)
class SampleConfig:
    """Draw pictures from a run: along a row one code varies, all else stays the same.

    Example: fastinfogan sample runs/mnist --out digits.png --ordered
    """

    run: RunFolder
    out: Path = Path("samples.png")
    """A .png file, or a folder that gets one picture per code."""
    traverse: Annotated[str | None, named("CODE")] = None
    """The code to vary, by name (slant), by place (c2) or by index (1); all codes by default."""
    ordered: bool = False
    """Vary the categorical code that `evaluate` scored, its columns in the order of the labels."""
    seed: int = 0
    """Fixes the noise and the other codes."""
    rows: int = 10
    """Rows of each picture."""


def find_code(spec: LatentSpec, text: str) -> int:
    """Return the index of the code that `text` names. Raises UserError."""
    if text in spec.names:
        return spec.names.index(text)
    numbers = [str(i) for i in range(len(spec.codes))]
    short = [f"c{i}" for i in range(1, len(spec.codes) + 1)]
    for known in (numbers, short):
        if text in known:
            return known.index(text)
    listed = ", ".join(f"{i} ({name})" for i, name in enumerate(spec.names))
    raise UserError(f"--traverse {text}: no such code; the run has {listed}")


def find_order(
    spec: LatentSpec, traverse: str | None, scored: str, matching: list[int | None]
) -> int:
    """Return the index of the code `scored`, whose categories `matching` orders.

    Raises UserError where it is not the code to traverse, or not of this run.
    """
    code = spec.names.index(scored) if scored in spec.names else None
    if code is None or getattr(spec.codes[code], "n", None) != len(matching):
        raise UserError(
            f"--ordered: eval.json has {len(matching)} labels for {scored}, which is no code of "
            "this run; evaluate it again"
        )
    if traverse is not None and find_code(spec, traverse) != code:
        raise UserError(
            f"--ordered: labels are matched to {scored}; expected --traverse {scored} or none, "
            f"got {traverse}"
        )
    return code


def sample(config: SampleConfig) -> None:
    """Run the command."""
    if config.rows < 1:
        raise UserError(f"--rows: expected at least 1, got {config.rows}")
    is_file = config.out.suffix.lower() == ".png"
    if config.out.suffix and not is_file:
        raise UserError(f"--out {config.out}: expected a .png file or a folder")
    check_writable(config.out.parent if is_file else config.out, "--out")
    (generator, _, spec), _, checkpoint = load_all(config.run)
    matching = None
    if config.ordered:
        scored, matching = RunDir(config.run).read_matching(checkpoint.step)
        chosen = [find_order(spec, config.traverse, scored, matching)]
    elif config.traverse is not None:
        chosen = [find_code(spec, config.traverse)]
    else:
        chosen = list(range(len(spec.codes)))
    pictures = {
        spec.names[i]: traversal(
            generator, spec, i, rows=config.rows, seed=config.seed, matching=matching
        )
        for i in chosen
    }
    if is_file:
        save(stack(list(pictures.values())), config.out)
        say(f"wrote {config.out}")
        return
    for name, picture in pictures.items():
        save(picture, config.out / f"{name}.png")
    say(f"wrote {', '.join(str(config.out / f'{name}.png') for name in pictures)}")


def main(args: list[str] | None = None) -> int:
    """Run `python -m fastinfogan.sample`."""
    return run_command(sample, SampleConfig, "fastinfogan sample", args)


if __name__ == "__main__":
    raise SystemExit(main())
