"""Progress of a training on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from ..config import TrainConfig
from ..console import is_terminal, say
from ..latents import LatentSpec
from ..parallel import Ranks
from .calibration import CONVENTION, is_calibrated
from .metrics import BEFORE_GAME

_COUNT = "{n_fmt}/{total_fmt}|{bar}| {elapsed}"


def shorten(name: str, index: int) -> str:
    """Return the place, c1 for index 0, of a code whose name is the default (c1_categorical)."""
    place = f"c{index + 1}"
    return place if name.startswith(f"{place}_") else name


class Progress:
    """Rank 0's progress: a bar on a terminal, a line per log interval elsewhere."""

    def __init__(
        self,
        config: TrainConfig,
        spec: LatentSpec,
        ranks: Ranks,
        start: int,
        terms: Sequence[str] = (),
    ) -> None:
        # The information loss does not bind a code of weight 0.
        self._codes = [(n, i) for i, n in enumerate(spec.names) if spec.codes[i].weight]
        self._terms = terms
        self._gan_start = config.adversarial.gan_start
        calibrated = any(map(is_calibrated, spec.codes))
        self._unit = f"nats ({CONVENTION})" if calibrated else "nats"
        self._lines = ranks.is_main and not is_terminal(sys.stderr)
        self._bar = tqdm(
            total=config.steps,
            initial=start,
            disable=not ranks.is_main or self._lines,
            unit="update",
            dynamic_ncols=True,
            bar_format=self._format(start),
        )
        self._steps = config.steps
        self._batch = config.batch_size * ranks.world_size

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _format(self, done: int) -> str:
        """Return the bar's format. The updates before the game do not tell what is left."""
        remaining = "" if done < self._gan_start else "<{remaining}"
        return f"{_COUNT}{remaining}{{postfix}}"

    def advance(self) -> None:
        """Count an update."""
        self._bar.update()

    def _values(self, record: dict[str, Any], *, short: bool = False) -> str:
        """Return the information of each code, in nats; before the game the terms' values.

        That of a continuous code is the bound at the best fixed σ.

        Args:
            short: name codes without names of their own by their places (c1), and leave out σ's
                convention, so that the line of three codes fits on a terminal of 80 columns.
        """
        if record["d_loss"] is None:
            had = {name: record[name] for name in self._terms if record.get(name) is not None}
            text = " ".join(f"{name} {value:.2f}" for name, value in had.items())
            text = f"{BEFORE_GAME} to update {self._gan_start}: {text}"
        else:
            information = record["information_calibrated"]
            labels = [shorten(n, i) if short else n for n, i in self._codes]
            values = [f"{information[name]:.2f}" for name, _ in self._codes]
            text = " ".join(map(" ".join, zip(labels, values, strict=True)))
            text = f"{'nats' if short else self._unit}: {text}"
        if "code_accuracy" in record:
            watched = f"{record['code_accuracy']:.1%} sorted (labels not used in training)"
            text = f"{text}, {watched}"
        return text

    def show(self, record: dict[str, Any]) -> None:
        """Show images/s, time left and what the codes have learnt."""
        rate, values = record["images_per_second"], self._values(record)
        speed = "" if rate is None else f"{rate:,.0f} images/s, "
        self._bar.bar_format = self._format(record["step"])
        self._bar.set_postfix_str(f"{speed}{self._values(record, short=True)}")
        if self._lines:
            remaining = ""
            if rate and record["step"] >= self._gan_start and record["d_loss"] is not None:
                minutes, seconds = divmod(
                    int((self._steps - record["step"]) * self._batch / rate), 60
                )
                remaining = f"{minutes}:{seconds:02d} left, "
            say(f"{record['step']}/{self._steps} {speed}{remaining}{values}", sys.stderr)

    def close(self) -> None:
        """End the bar's line."""
        self._bar.close()
