"""Training from Python: what the command `train` does, in the caller's process."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

from ..config import TrainConfig, spellings_of
from ..data.memory import NAME, from_memory
from ..errors import UserError
from ..options import nearest, register
from ..presets import PRESETS
from ..runs.folder import Loaded, load
from ..runs.loop import STOPPED, Callback, Splits, run
from ..terms import Term
from ..terms.user import text_of
from .hooks import HOOKS


def fit(
    preset: str,
    *,
    data: Any = None,
    networks: str | Callable[..., Any] | None = None,
    terms: Sequence[Term | str] = (),
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Loaded:
    """Train or resume a run, and return its networks as `load` does.

    For example:

        generator, discriminator, spec = fastinfogan.fit("mnist", steps=200, out="runs/first")

    Pictures, metrics, checkpoints and the evaluation go to the run's folder (`out`, by default
    runs/PRESET). Running again resumes, and refuses other options and other images.

    Args:
        preset: an experiment's name; its values are the defaults.
        data: the spec of an image set, as for `--data`; a uint8 array or tensor [N, H, W] or
            [N, H, W, C]; or a dataset whose items are uint8 images or pairs (image, label). Of
            images in memory every tenth is held out, and their size sets `image_size` and
            `channels`.
        networks: one of the package's pairs by name, a function (`networks.base.PairFunction`), or
            its import path. A function that is not at the top level of a module can be found
            again by this process alone.
        terms: loss terms, or their import paths with arguments, as for `--term`. Objects are
            recorded by their class and, for a dataclass, by the numbers and texts in its fields.
        callbacks: called as callback(step, record) at each log interval with the record of
            metrics.jsonl; one that returns True stops the run after saving.
        **options: the command's options by their Python names, such as `lr_d=1e-3`, `vat=3.0`.

    The preset's own values that these options, data or networks rule out are changed, as the
    command does, and a line says which.

    The number of CPU threads is the caller's, unless `threads` is given, which sets it for the
    whole process. Signal handlers are installed in the main thread alone: there Ctrl-C saves and
    raises KeyboardInterrupt.

    Raises:
        UserError: wrong options, data or networks.
        NonFiniteLoss: a loss became NaN or infinite.
    """
    if preset not in PRESETS:
        raise UserError(
            f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}"
            f"{nearest(str(preset), PRESETS)}"
        )
    if not (networks is None or isinstance(networks, str) or callable(networks)):
        raise UserError(f"networks: expected a name, a function or its path, got {networks!r}")
    for name, values in (("terms", terms), ("callbacks", callbacks)):
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise UserError(f"{name}: expected a list, got {values!r}")
    for callback in callbacks:
        if not callable(callback):
            raise UserError(f"callbacks: expected functions, got {callback!r}")
    config = PRESETS[preset]
    splits: Splits | None = None
    if isinstance(data, str):
        options["data"] = data
    elif data is not None:
        splits = from_memory(data)
        config = _of_size(config, splits)
    if networks is not None:
        options["networks"] = networks if isinstance(networks, str) else register(networks)
    if terms:
        options["term"] = tuple(text_of(term) for term in terms)
    config, names = config.with_options(**options), spellings_of(options)
    if splits is not None:
        _check_size(config, splits)
    code = run(
        config, HOOKS, splits=splits, callbacks=callbacks, in_callers_process=True, given=names
    )
    received = code - 128 if code else 0
    if received == signal.SIGINT:
        raise KeyboardInterrupt
    if received and received != STOPPED:
        signal.raise_signal(received)
    return load(config.run_dir)


def _of_size(config: TrainConfig, splits: Splits) -> TrainConfig:
    """Return the configuration for images in memory."""
    _, height, _, channels = splits["train"].images.shape
    return config.with_options(data=NAME, image_size=height, channels=channels)


def _check_size(config: TrainConfig, splits: Splits) -> None:
    _, height, width, channels = splits["train"].images.shape
    size = config.data
    if (height, width, channels) != (size.image_size, size.image_size, size.channels):
        raise UserError(
            f"data: images are {height}x{width} with {channels} channels, expected "
            f"{size.image_size}x{size.image_size} with {size.channels}"
        )
