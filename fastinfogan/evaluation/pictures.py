"""Pictures: grids of images, traversals of a code, the table of labels and categories."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..atomic import write_atomically, writing
from ..data import from_range
from ..latents import Categorical, Continuous, LatentSpec
from ..networks import Generator
from .clustering import in_order

GAP = 2  # pixels between tiles
MIN_TILE = 56  # pixels; smaller images are enlarged to it
MAX_PRINTED = 30  # rows or columns of a table whose cells still have space for their counts


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
    """Return one code's picture: a column per value, a row per noise, a block per dim.

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
    zoom = max(1, -(-MIN_TILE // images.shape[1]))
    tiles = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    tiles = np.pad(tiles, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    missing = -len(tiles) % columns
    tiles = np.pad(tiles, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=255)
    pixels = rearrange(tiles, "(r c) h w ch -> (r h) (c w) ch", c=columns)
    if pixels.shape[2] not in (1, 3):  # no colours to show: the first channel stands for all
        pixels = pixels[:, :, :1]
    body = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).convert("RGB")
    top = 18 * bool(title) + 16 * bool(headings)
    out = Image.new("RGB", (body.width + GAP, body.height + top + GAP), "white")
    out.paste(body, (GAP, top))
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(12)
    if title:
        draw.text((GAP, 2), title, fill="black", font=font)
    for i, text in enumerate(headings or []):
        middle = (i + 0.5) * body.width / columns
        draw.text((middle, top - 15), text, fill="black", font=font, anchor="ma")
    return out


def stack(pictures: list[Image.Image]) -> Image.Image:
    """Join pictures, one below the other."""
    out = Image.new(
        "RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white"
    )
    top = 0
    for picture in pictures:
        out.paste(picture, (0, top))
        top += picture.height
    return out


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture all at once, and its folder if need be."""
    content = io.BytesIO()
    picture.save(content, Image.registered_extensions().get(path.suffix.lower(), "PNG"))
    _write(path, content)


def _write(path: Path, content: io.BytesIO) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def draw_contingency(
    table: NDArray[np.int64],
    labels: Sequence[int],
    matching: Sequence[int | None],
    code: str,
    path: Path,
) -> None:
    """Write the table [labels, categories] as a PNG, categories in the order of their labels.

    A cell's shade is its share of its label's images; its number is the count. A perfect code
    shows one dark diagonal.
    """
    from matplotlib.figure import Figure  # the object interface: no display, no global state

    order = in_order(matching)
    counts = table[:, order]
    share = counts / counts.sum(axis=1, keepdims=True)
    rows, columns = counts.shape
    printed = max(rows, columns) <= MAX_PRINTED
    cell = 0.5 if printed else 0.12
    figure = Figure(figsize=(cell * columns + 2, cell * rows + 1.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    accuracy = sum(
        int(table[row, i])
        for i, label in enumerate(matching)
        for row, name in enumerate(labels)
        if label == name
    )
    title = f"{accuracy / table.sum():.1%} of {table.sum():,} test images on their category"
    axes.set(xlabel=f"category of {code}", ylabel="label")
    axes.set_title(title, fontsize="medium")
    if printed:
        axes.set_xticks(range(columns), [str(i) for i in order])
        axes.set_yticks(range(rows), [str(name) for name in labels])
        for row, column in zip(*np.nonzero(counts), strict=True):
            dark = share[row, column] > 0.5
            count = str(counts[row, column])
            axes.text(
                column, row, count, ha="center", va="center", fontsize=8, color="wk"[not dark]
            )
    content = io.BytesIO()
    figure.savefig(content, dpi=100)
    _write(path, content)
