"""Hooks of a run: pictures of the codes while it goes on, and the evaluation at its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .. import data
from ..data import census
from ..latents import LatentSpec
from ..networks import Generator
from ..runs.folder import Loaded, RunDir
from ..runs.loop import Hooks, LogPictures, Splits
from . import measure, pictures


def draw(
    folder: Path,
    done: int,
    generator: Generator,
    spec: LatentSpec,
    real: data.Images,
    log: LogPictures | None,
) -> None:
    """Draw a picture per code after `done` updates, and before the first one of real images."""
    if done == 0:
        images = census.sample(real)
        pictures.save(pictures.grid(images, 10, "real images"), folder / "real.png")
    for i, name in enumerate(spec.names):
        picture = pictures.traversal(generator, spec, i)
        pictures.save(picture, folder / f"step-{done:08d}-{name}.png")
        if log is not None:
            log(done, {f"samples/{name}": picture})


def evaluate(
    run: RunDir,
    done: int,
    name: str,
    networks: Loaded,
    splits: Splits,
    say: Callable[..., None],
) -> None:
    """Measure the networks, print the summary, and write eval.json."""
    result = measure.evaluate(networks, splits)
    spec = networks.spec
    free = [name for name, code in zip(spec.names, spec.codes, strict=True) if not code.weight]
    say(*measure.summary(result, free))
    measure.write(run, measure.as_written(done, name, result), result["contingency"])


HOOKS = Hooks(draw, evaluate, measure.watch)
