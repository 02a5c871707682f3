"""Starting a run in its folder: refuse what does not belong together, find the checkpoint to start
from, and bring the folder in line with it. All of it happens on rank 0.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import filelock
from torch import Tensor

from ..atomic import clear_leftovers, write_atomically
from ..config import TrainConfig, differences, to_yaml
from ..errors import UserError
from ..training import metrics
from . import checkpoint
from .checkpoint import Checkpoint
from .folder import RunDir, write_json

Tensors = Mapping[str, Mapping[str, Tensor]]  # by file, by name


class Start(NamedTuple):
    """The state in which a run begins."""

    step: int = 0
    good: Path | None = None  # the checkpoint that it begins with
    scaler: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def open_folder(config: TrainConfig, run: RunDir) -> filelock.BaseFileLock:
    """Take the folder and return its lock. Raises UserError where it is not this run's."""
    run.make()
    lock = run.lock()
    try:
        _check_folder(config, run)
    except BaseException:
        lock.release()
        raise
    return lock


def _check_folder(config: TrainConfig, run: RunDir) -> None:
    checkpoint.clear_leftovers(run.checkpoints)
    for folder in (run.path, run.samples):
        clear_leftovers(folder)
    existing = run.read_config()
    if existing is None and checkpoint.list_newest_first(run.checkpoints):
        raise UserError(f"{run.path} has checkpoints but no config.yaml; choose another --out")
    if existing is None:
        return
    if config.resume == "never":
        raise UserError(
            f"{run.path} holds a run already; choose another --out or use --resume auto"
        )
    changed = differences(existing, config)
    if changed:
        raise UserError(
            f"{run.path} holds a run of another configuration ({', '.join(changed)}); choose "
            "another --out or the run's own values"
        )


def resume(
    config: TrainConfig,
    run: RunDir,
    tensors: dict[str, dict[str, Tensor]],
    identity: Mapping[str, object],
    environment: dict[str, Any],
) -> Start:
    """Load the checkpoint to start from, if any, into `tensors`, and bring the folder in line.

    Args:
        tensors: all that a checkpoint holds, live, by file and name.
        identity: what alters the weights, also to the configuration: precision, ranks, images.
        environment: the content of environment.json.
    """
    path, source = config.resume, run
    chosen, notes = checkpoint.load_newest(run.checkpoints)
    existing = run.read_config()
    began = path if existing is None else existing.resume
    if path in ("auto", "never"):
        path = began
    if path not in ("auto", "never") and not (chosen and path == began):
        source, chosen, notes = _checkpoint_at(config, run, Path(path))
    if chosen is None:
        _check_space(run, tensors)
        metrics.cut_back(run.metrics, 0)
        _write_config(config, run, environment)
        return Start(notes=tuple(notes))
    for name, here in identity.items():
        there = chosen.meta.get(name)
        fell_back = name == "precision" and there == environment.get("precision_failed", here)
        if there != here and not fell_back:
            word = {"world_size": "ranks"}.get(name, name)
            raise UserError(
                f"{chosen.path} was trained with {word} {there}, this run has {word} {here}; "
                f"give it the same {word}, or choose another --out"
            )
    for file, named in tensors.items():
        checkpoint.restore(named, chosen.tensors.get(file, {}), str(chosen.path))
    if chosen.step < config.steps:
        _check_space(run, tensors)
        if source is not run:  # from here on this folder stands alone
            lines = (json.dumps(record) + "\n" for record in metrics.read(source.metrics))
            write_atomically(run.metrics, "".join(lines))
            # First: a kill between the two begins from the PATH again.
            _write_config(config, run, environment)
            keep = config.logging.keep
            checkpoint.save(run.checkpoints, chosen.step, chosen.tensors, chosen.meta, keep)
        metrics.cut_back(run.metrics, chosen.step)
        _write_config(config, run, environment)
    elif source is not run:
        raise UserError(f"--resume {path}: has {chosen.step} updates already; raise --steps")
    return Start(chosen.step, chosen.path, chosen.meta.get("scaler"), tuple(notes))


def _checkpoint_at(
    config: TrainConfig, run: RunDir, path: Path
) -> tuple[RunDir, Checkpoint | None, list[str]]:
    """Return the checkpoint that `--resume PATH` names: a run's newest, or one of its folders."""
    named = path if os.path.isfile(path / checkpoint.MANIFEST) else None
    source = RunDir(path.parent.parent if named else path)
    existing = source.read_config()
    if existing is None:
        raise UserError(f"--resume {path}: neither a run nor a checkpoint of one")
    changed = differences(existing, config)
    if changed:
        raise UserError(f"--resume {path}: of another configuration ({', '.join(changed)})")
    notes: list[str] = []
    if named:
        try:
            chosen: Checkpoint | None = checkpoint.load(named)
        except checkpoint.Damaged as error:
            raise UserError(f"--resume {path}: damaged ({error})") from None
    else:
        chosen, notes = checkpoint.load_newest(source.checkpoints)
    if chosen is None:
        raise UserError(f"--resume {path}: that run has no checkpoint")
    checkpoints = checkpoint.list_newest_first(run.checkpoints)
    if source.path.resolve() == run.path.resolve():
        source = run
        checkpoints = [p for p in checkpoints if checkpoint.step_of(p) > chosen.step]
    if checkpoints:
        raise UserError(
            f"--resume {path}: {run.path} holds {checkpoints[0].name}; choose another --out, or "
            "--resume auto to go on with what is there"
        )
    return source, chosen, notes


def _write_config(config: TrainConfig, run: RunDir, environment: dict[str, Any]) -> None:
    existing = run.read_config()
    began = config if existing is None else config.with_options(resume=existing.resume)
    write_atomically(run.config, to_yaml(began))
    write_json(run.environment, environment)


def _check_space(run: RunDir, tensors: Tensors) -> None:
    needed = sum(t.nbytes for named in tensors.values() for t in named.values())
    free = shutil.disk_usage(run.path).free
    if free < needed * 1.1:
        raise UserError(
            f"{run.path}: {free / 1e6:,.0f} MB free, one checkpoint takes "
            f"{needed / 1e6:,.0f} MB; free some space or choose another --out"
        )
