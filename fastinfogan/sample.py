"""Pictures of what a run's codes do: `fastinfogan sample RUN --out grid.png`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .cli import run_command
from .data import from_range
from .errors import UserError
from .evaluation.clustering import in_order
from .latents import Categorical, Continuous, LatentSpec
from .networks import Generator
from .runs.checkpoint import writing

_GAP, _TILE = 2, 56  # pixels between tiles; the least a tile is enlarged to


@dataclass(frozen=True)
class SampleConfig:
    """Draw pictures from a run: along a row one code varies, all else stays the same."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    out: Path = Path("samples.png")
    """A .png file, or a folder that gets one picture per code."""
    traverse: str | None = None
    """The code to vary, by name (digit, or c1_categorical or c1 where it has none) or index
    (0, 1, …); all by default."""
    ordered: bool = False
    """Vary the categorical code that `evaluate` scored, its columns in the order of the labels."""
    seed: int = 0
    """Fixes the noise and the other codes."""
    rows: int = 10
    """Rows of each picture."""


@torch.no_grad()
def traversal(
    generator: Generator,
    spec: LatentSpec,
    code: int,
    *,
    rows: int = 10,
    seed: int = 0,
    matching: Sequence[int | None] | None = None,
) -> Image.Image:
    """One code's picture: a column per value, a row per noise; one block per dim of the code.

    `matching`, a categorical code's labels, puts its columns in the order of these and heads them
    with them; categories without a label come last, under a dash.
    """
    device = next(generator.parameters()).device
    chosen = spec.codes[code]
    blocks = []
    for dim in range(chosen.dim):
        batch = spec.traverse(code, rows=rows, dim=dim, seed=seed, device=device)
        images = from_range(generator(batch.input, "running"), generator.image_range).cpu().numpy()
        values: list[str]
        if isinstance(chosen, Continuous):
            steps = chosen.traverse_values(len(images) // rows)
            values = [f"{v:+.1f}" for v in steps.tolist()]
        else:
            values = [str(v) for v in range(chosen.n if isinstance(chosen, Categorical) else 2)]
        title = spec.names[code] + (f", dim {dim}" if chosen.dim > 1 else "")
        if matching is not None:
            order = in_order(matching)
            images = rearrange(images, "(r c) h w ch -> r c h w ch", r=rows)[:, order]
            images = rearrange(images, "r c h w ch -> (r c) h w ch")
            values = ["–" if (label := matching[i]) is None else str(label) for i in order]
            title += ", by label"
        blocks.append(grid(images, len(values), title, values))
    return stack(blocks)


def grid(
    images: NDArray[np.uint8], columns: int, title: str = "", headings: list[str] | None = None
) -> Image.Image:
    """Tile images [N, H, W, C] row by row under a title and column headings."""
    zoom = max(1, -(-_TILE // images.shape[1]))
    tiles = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    tiles = np.pad(tiles, ((0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
    missing = -len(tiles) % columns
    tiles = np.pad(tiles, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=255)
    pixels = rearrange(tiles, "(r c) h w ch -> (r h) (c w) ch", c=columns)
    if pixels.shape[2] not in (1, 3):  # no colours to show: the first channel stands for all
        pixels = pixels[:, :, :1]
    body = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).convert("RGB")
    top = 18 * bool(title) + 16 * bool(headings)
    out = Image.new("RGB", (body.width + _GAP, body.height + top + _GAP), "white")
    out.paste(body, (_GAP, top))
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(12)
    if title:
        draw.text((_GAP, 2), title, fill="black", font=font)
    for i, text in enumerate(headings or []):
        middle = (i + 0.5) * body.width / columns
        draw.text((middle, top - 15), text, fill="black", font=font, anchor="ma")
    return out


def stack(pictures: list[Image.Image]) -> Image.Image:
    """One below the other."""
    out = Image.new(
        "RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white"
    )
    top = 0
    for picture in pictures:
        out.paste(picture, (0, top))
        top += picture.height
    return out


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


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture, and its folder if need be."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


def find_order(
    spec: LatentSpec, traverse: str | None, scored: str, matching: list[int | None]
) -> int:
    """The index of the code `scored` that `matching` orders. Raises UserError where that is not
    the code to traverse, or not of this run.
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
    """The command."""
    from .runs.folder import RunDir, load_all

    if config.rows < 1:
        raise UserError(f"--rows: expected at least 1, got {config.rows}")
    (generator, _, spec), _, found = load_all(config.run)
    matching = None
    if config.ordered:
        scored, matching = RunDir(config.run).read_matching(found.step)
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
    if config.out.suffix.lower() == ".png":
        save(stack(list(pictures.values())), config.out)
        print(f"wrote {config.out}")
        return
    if config.out.suffix:
        raise UserError(f"--out {config.out}: expected a .png file or a folder")
    for name, picture in pictures.items():
        save(picture, config.out / f"{name}.png")
    print(f"wrote {', '.join(str(config.out / f'{name}.png') for name in pictures)}")


def main(args: list[str] | None = None) -> int:
    """`python -m fastinfogan.sample`."""
    return run_command(sample, SampleConfig, "fastinfogan sample", args)


if __name__ == "__main__":
    raise SystemExit(main())
