"""Experiment trackers: metrics and pictures of a run to TensorBoard, W&B, trackio and MLflow.

Accelerate's tracker classes talk to each of them. A tracker that fails while a run trains is
switched off with one line; it never ends the run.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..atomic import parse_json, read_text, write_atomically
from ..errors import UserError

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")
STATE = "tracking.json"  # in the run's folder: what a resumed run needs to continue its curves


def parse_trackers(text: str) -> tuple[str, ...]:
    """Return the trackers of a comma-separated list. Raises UserError for an unknown or missing
    one.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--track: expected some of {', '.join(TRACKERS)}, got {name!r}")
        if find_spec(name) is None:
            raise UserError(
                f"--track {name}: the package {name} is not installed; "
                f"run: pip install 'fastinfogan[{name}]'"
            )
    return names


def flatten(record: dict[str, Any]) -> dict[str, float]:
    """Return a record of metrics.jsonl as scalars: nested names joined by "/", no None, no step."""
    scalars: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            scalars |= {f"{key}/{name}": number for name, number in flatten(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "step":
            scalars[key] = value
    return scalars


def _flat_options(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options by dotted name, without those that are None."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, dict):
            flat |= _flat_options(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat


class Tracking:
    """A run's open trackers.

    Args:
        names: of `TRACKERS`.
        folder: the run's folder. TensorBoard's files lie in its folder "tensorboard".
        project: the project in W&B and trackio, the experiment in MLflow.
        config: the run's options by name.
        start: updates done so far. A resumed run goes on with the same curves; TensorBoard drops
            what was written after this update.
        warn: called with one line where a tracker is switched off.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        *,
        project: str = "fastinfogan",
        config: dict[str, Any] | None = None,
        start: int = 0,
        warn: Callable[[str], None] = print,
    ) -> None:
        self._folder, self._project, self._start, self._warn = folder, project, start, warn
        self._config = _flat_options(config or {})
        self._state = self._read_state()
        self._trackers: dict[str, Any] = {}
        for name in names:
            self._guard(name, lambda name=name: self._open(name))  # type: ignore[misc]

    @property
    def names(self) -> list[str]:
        """The trackers that work."""
        return list(self._trackers)

    def log(self, record: dict[str, Any]) -> None:
        """Send a record of metrics.jsonl."""
        scalars = flatten(record)
        for name in self.names:
            tracker = self._trackers[name]
            self._guard(name, lambda t=tracker: t.log(scalars, step=record["step"]))  # type: ignore[misc]

    def log_pictures(self, step: int, pictures: dict[str, Image.Image]) -> None:
        """Send pictures, by name, of update `step`."""
        for name in self.names:
            for title, picture in pictures.items():
                self._guard(
                    name,
                    lambda n=name, t=title, p=picture: self._log_picture(n, step, t, p),  # type: ignore[misc]
                )

    def close(self) -> None:
        """Flush and close the trackers."""
        for name in self.names:
            tracker = self._trackers[name]
            self._guard(name, lambda t=tracker: t.finish())  # type: ignore[misc]
        self._trackers = {}

    def _guard(self, name: str, work: Callable[[], None]) -> None:
        """Do the work; where it fails, switch the tracker off with one line."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the trackers' own deprecations
                work()
        except Exception as error:  # whatever a tracker or its server raises
            self._trackers.pop(name, None)
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            self._warn(f"--track {name}: switched off after an error: {reason}")

    def _open(self, name: str) -> None:
        from accelerate import tracking

        run = self._folder.resolve().name
        tracker: Any
        if name == "tensorboard":
            purge = {"purge_step": self._start + 1} if self._start else {}
            tracker = tracking.TensorBoardTracker("tensorboard", self._folder, **purge)
        elif name == "wandb":
            options = {"name": run, "dir": str(self._folder), "resume": "allow"}
            tracker = tracking.WandBTracker(self._project, **options, **self._recall("wandb"))
        elif name == "trackio":
            options = {"name": run, "resume": "allow"}
            tracker = tracking.TrackioTracker(self._project, config=self._config, **options)
        else:
            known = self._recall("mlflow")
            named = {} if known else {"run_name": run}
            tracker = tracking.MLflowTracker(self._project, run_id=known.get("id"), **named)
        if hasattr(tracker, "start"):
            tracker.start()
        if name == "tensorboard" and not self._start:
            text = "".join(f"    {key}: {value}\n" for key, value in self._config.items())
            tracker.log({"config": text}, step=0)
        elif name == "wandb":
            tracker.store_init_configuration(self._config)
            self._remember("wandb", tracker.tracker.id)
        elif name == "mlflow":
            if not self._recall("mlflow"):  # parameters of a run cannot be written twice
                tracker.store_init_configuration(self._config)
            self._remember("mlflow", tracker.tracker.info.run_id)
        self._trackers[name] = tracker

    def _log_picture(self, name: str, step: int, title: str, picture: Image.Image) -> None:
        tracker = self._trackers.get(name)
        if tracker is None:
            return
        if name == "tensorboard":
            pixels = np.asarray(picture.convert("RGB"))[None]
            tracker.log_images({title: pixels}, step=step, dataformats="NHWC")
        elif name == "wandb":
            tracker.log_images({title: [picture]}, step=step)
        elif name == "trackio":
            import trackio

            tracker.log({title: trackio.Image(picture)}, step=step)
        else:
            import mlflow

            mlflow.log_image(picture, key=title.replace("/", "_"), step=step)

    def _read_state(self) -> dict[str, str]:
        try:
            state = parse_json(read_text(self._folder / STATE))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _recall(self, name: str) -> dict[str, str]:
        return {"id": self._state[name]} if name in self._state else {}

    def _remember(self, name: str, run_id: str) -> None:
        if self._state.get(name) != run_id:
            self._state[name] = run_id
            write_atomically(self._folder / STATE, json.dumps(self._state, indent=2) + "\n")
