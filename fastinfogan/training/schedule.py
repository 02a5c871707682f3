"""Values that change over a run: λ rises at its start, the learning rates fall towards its end.

All is a function of the update's number, in absolute updates: a resumed or a longer run goes on as
it would have. Given a number on the device nothing is read back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import TrainConfig
from ..latents import LatentSpec

MIN_RATE = 0.01  # of a learning rate, from the end of its decay on


class Schedule:
    """The weights of the codes, kept up to date, and the learning rates."""

    def __init__(self, config: TrainConfig, spec: LatentSpec, device: torch.device) -> None:
        self._information, self._decay = config.information, config.optimiser.decay
        self._optimiser, self._gan_start = config.optimiser, config.adversarial.gan_start
        self._full = torch.tensor(
            [config.information.info_weight * code.weight for code in spec.codes],
            device=device,
            dtype=torch.float32,
        )
        self.weights = self._full.clone()  # [n_codes]: λ times each code's own weight

    def set(self, step: int | Tensor, factors: Tensor | None = None) -> None:
        """Set the weights of update `step` (from 0): info_from of them before info_start, all of
        them info_ramp later.

        factors: multiply the weights, [n_codes], where the codes are balanced.
        """
        full = self._full if factors is None else self._full * factors
        if self._information.info_start or self._information.info_ramp:
            part = (step + 1 - self._information.info_start) / max(self._information.info_ramp, 1)
            first = self._information.info_from
            part = first + (1 - first) * _between(part, 0.0, 1.0)
            torch.mul(full, part, out=self.weights)
        elif factors is not None:
            self.weights.copy_(full)

    def rate(self, full: float, step: int | Tensor) -> float | Tensor | None:
        """Return the learning rate of update `step`, on a line from `full` to `MIN_RATE` of it.

        None where the rates never change.
        """
        if not self._decay.steps:
            return full if self._optimiser.lr_start else None
        part = 1 - (step - self._decay.start) / self._decay.steps
        return full * _between(part, MIN_RATE, 1.0)

    def start_rate(self, step: int | Tensor) -> float | Tensor | None:
        """Return D's learning rate of update `step` before the game; None where it is as later."""
        full, first = self._optimiser.lr_start, self._optimiser.lr_start_decay
        if not full:
            return None
        if not first:
            return full
        part = 1 - (step - first) / (self._gan_start - first)
        return full * _between(part, MIN_RATE, 1.0)


def _between(value: float | Tensor, low: float, high: float) -> float | Tensor:
    if isinstance(value, Tensor):
        return value.clamp(low, high)
    return min(max(value, low), high)
