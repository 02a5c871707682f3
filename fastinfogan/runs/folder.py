"""A run's folder: its files, its lock, and what can be loaded from it."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from .. import config
from ..atomic import parse_json, read_text, write_atomically, writing
from ..config import TrainConfig
from ..console import say
from ..data.splits import expand_user
from ..errors import UserError
from ..latents import LatentSpec
from ..networks import Discriminator, Generator, pair
from ..options import import_path, register
from . import checkpoint
from .checkpoint import Checkpoint

LOCK_SECONDS = 10.0
# Answers of file systems without locks: some network and FUSE mounts.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class RunDir:
    """The paths of a run's files; ~ and ~user are folders."""

    def __init__(self, path: Path) -> None:
        self.path = path = expand_user(path)
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.evaluation = path / "eval.json"

    def make(self) -> None:
        """Create the folders. Raises UserError where that cannot be done."""
        with writing(self.path):
            for folder in (self.path, self.samples, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)

    def lock(self) -> filelock.BaseFileLock:
        """Take the folder until the lock is released or collected.

        Waits a little: a run that was just interrupted may still be saving, after its launcher is
        gone. Where the file system has no locks, a file that exists while the run does takes their
        place. Raises UserError if another has the folder for longer.
        """
        with writing(self.path):
            try:
                lock = self._acquire(filelock.FileLock(self.path / ".lock", fallback_to_soft=False))
            except (NotImplementedError, OSError) as error:
                if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
                    raise
                lock = self._acquire(filelock.SoftFileLock(self.path / ".in-use"))
        if isinstance(lock, filelock.SoftFileLock):
            say(f"{self.path}: the file system has no locks; {lock.lock_file} stands for one")
        return lock

    def _acquire(self, lock: filelock.BaseFileLock) -> filelock.BaseFileLock:
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except filelock.Timeout:
            is_file = isinstance(lock, filelock.SoftFileLock)
            more = f", or remove {lock.lock_file} if no run is left" if is_file else ""
            raise UserError(
                f"{self.path} is in use by another run; choose another --out{more}"
            ) from None
        return lock

    def read_config(self) -> TrainConfig | None:
        """Return the run's configuration, or None where the folder holds no run."""
        if not os.path.isfile(self.config):  # also False for a name that is too long
            return None
        try:
            text = read_text(self.config, errors="replace")
        except OSError as error:
            raise UserError(f"cannot read {self.config}: {error.strerror or error}") from None
        stored = config.from_yaml(text, self.config)
        try:
            config.check(stored)
        except UserError as error:
            raise UserError(f"{self.config}: {error}") from None
        return stored

    def read_matching(self, step: int) -> tuple[str, list[int | None]]:
        """Return the categorical code that was scored, and the label of each of its categories.

        Raises UserError where no evaluation of update `step` left one.
        """
        try:
            result = parse_json(read_text(self.evaluation))
            of, code, matching = result["step"], result["code_scored"], result["matching"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.path} has no matching of categories with labels yet; "
                f"run `fastinfogan evaluate {self.path}` first"
            ) from None
        if of != step:
            raise UserError(
                f"{self.evaluation} is of update {of}, the newest checkpoint of {step}; "
                f"run `fastinfogan evaluate {self.path}` again"
            )
        if code is None or matching is None:
            raise UserError(
                f"{self.evaluation} matches no categories with labels: it needs a categorical code "
                "and labelled images; run `fastinfogan evaluate` with --data that has labels"
            )
        return code, matching


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object, readable and all at once."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


class Loaded(NamedTuple):
    """A run in memory, its networks in eval mode; as `load` gives them, on the CPU."""

    generator: Generator  # the averaged weights (EMA)
    discriminator: Discriminator
    spec: LatentSpec


def load(run: str | Path, networks: Callable[..., Any] | str | None = None) -> Loaded:
    """Load networks and latent spec: of a run's newest good checkpoint, or saved ones.

    `run` is a run's folder, a folder that `fastinfogan save` wrote, or "hf:USER/NAME[@REVISION]" on
    the Hugging Face hub. `networks` builds the two networks of a saved run whose networks are not
    the package's own; code that a saved run names is never imported. For a run's folder it, or its
    import path, stands in for a recorded path that cannot be imported here.

    Example: `generator, discriminator, spec = fastinfogan.load("runs/mnist")`, then
    `generator(spec.sample(16).input)` gives images [16, C, H, W].

    Raises UserError where there is no run, no readable checkpoint, or no answer from the hub.
    """
    from . import hub

    if hub.is_saved(run):
        function = import_path(networks, "networks") if isinstance(networks, str) else networks
        return hub.load_saved(run, function)
    loaded, _, _ = load_all(Path(run), networks=networks)
    return loaded


def load_all(
    path: Path, *, networks: Callable[..., Any] | str | None = None
) -> tuple[Loaded, TrainConfig, Checkpoint]:
    """Return what `load` returns, with the run's configuration and checkpoint."""
    run = RunDir(path)
    run_config = run.read_config()
    if run_config is None:
        raise UserError(f"{path} holds no run: {run.config} is missing")
    newest, notes = checkpoint.load_newest(run.checkpoints)
    for note in notes:
        say(note, sys.stderr)  # stdout may be a command's JSON
    if newest is None:
        raise UserError(f"{path} has no checkpoint yet; train it first")
    if networks is not None:
        path_of = networks if isinstance(networks, str) else register(networks)
        run_config = run_config.with_options(networks=path_of)
    return networks_of(run_config, newest), run_config, newest


def networks_of(run_config: TrainConfig, saved: Checkpoint) -> Loaded:
    """Return the networks of a checkpoint."""
    spec = run_config.spec()
    sizes = (spec.input_dim, spec.q_dim, run_config.data.image_size, run_config.data.channels)
    options = run_config.adversarial
    name = options.networks
    try:
        generator, discriminator = pair(
            name, *sizes, spectral_norm=options.spectral_norm, q_trunk=options.q_trunk
        )
    except UserError as error:
        raise UserError(
            f"{error}; the run was trained with it: make it importable, or pass "
            "networks=FUNCTION to fastinfogan.load"
        ) from None
    model = saved.tensors["model"]
    for name, module in (("generator_ema", generator), ("discriminator", discriminator)):
        prefix = f"{name}."
        mine = {k.removeprefix(prefix): v for k, v in model.items() if k.startswith(prefix)}
        checkpoint.restore(module.state_dict(), mine, str(saved.path))
        module.eval()
    return Loaded(generator, discriminator, spec)
