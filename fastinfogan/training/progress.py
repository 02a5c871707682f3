"""Progress of a training on the terminal."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from ..config import TrainConfig
from ..console import is_terminal, say
from ..latents import LatentSpec
from ..parallel import Ranks
from .calibration import CONVENTION, is_calibrated


class Progress:
    """Rank 0's progress: a bar on a terminal, a line per log interval elsewhere."""

    def __init__(self, config: TrainConfig, spec: LatentSpec, ranks: Ranks, start: int) -> None:
        self._names = spec.names
        calibrated = any(map(is_calibrated, spec.codes))
        self._unit = f"nats ({CONVENTION})" if calibrated else "nats"
        self._lines = ranks.is_main and not is_terminal(sys.stderr)
        self._bar = tqdm(
            total=config.steps,
            initial=start,
            disable=not ranks.is_main or self._lines,
            unit="update",
            dynamic_ncols=True,
            bar_format="{n_fmt}/{total_fmt}|{bar}| {elapsed}<{remaining}{postfix}",
        )
        self._steps = config.steps
        self._batch = config.batch_size * ranks.world_size

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self) -> None:
        """One more update."""
        self._bar.update()

    def show(self, record: dict[str, Any]) -> None:
        """Show images/s, time left and the information of each code, in nats.

        That of a continuous code is the bound at the best fixed σ.
        """
        rate = record["images_per_second"]
        information = record["information_calibrated"]
        bounds = " ".join(f"{n} {information[n]:.2f}" for n in self._names)
        if "code_accuracy" in record:
            watched = f"{record['code_accuracy']:.1%} sorted (labels not used in training)"
            bounds = f"{bounds}, {watched}"
        speed = "" if rate is None else f"{rate:,.0f} images/s, "
        self._bar.set_postfix_str(f"{speed}{self._unit}: {bounds}")
        if self._lines:
            left = ""
            if rate:
                minutes, seconds = divmod(
                    int((self._steps - record["step"]) * self._batch / rate), 60
                )
                left = f"{minutes}:{seconds:02d} left, "
            say(f"{record['step']}/{self._steps} {speed}{left}{self._unit}: {bounds}", sys.stderr)

    def close(self) -> None:
        """End the bar's line."""
        self._bar.close()
