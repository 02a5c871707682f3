"""What changes over a run: λ rises at its start, the learning rates fall towards its end.

All is a function of the update's number, in absolute updates: a resumed or a longer run goes on as
it would have. Given a number on the device nothing is read back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import TrainConfig
from ..latents import LatentSpec

LEAST_RATE = 0.01  # of a learning rate, from the end of its decay on


class Schedule:
    """The weights of the codes and of the contrastive term, kept up to date, the learning rates,
    and which updates have adversarial copies."""

    def __init__(self, config: TrainConfig, spec: LatentSpec, device: torch.device) -> None:
        self.config = config
        self._full = torch.tensor(
            [config.information.info_weight * code.weight for code in spec.codes],
            device=device,
            dtype=torch.float32,
        )
        self.weights = self._full.clone()  # [n_codes]: λ times each code's own weight
        self.contrastive = torch.zeros((), device=device)  # 1 from contrastive_start on

    def set(self, step: int | Tensor, factors: Tensor | None = None) -> None:
        """The weights of update `step` (from 0): info_from of them before info_start, all of them
        info_ramp later.

        factors: what multiplies them beside, [n_codes], where the codes are balanced.
        """
        full = self._full if factors is None else self._full * factors
        if self.config.information.info_start or self.config.information.info_ramp:
            part = (step + 1 - self.config.information.info_start) / max(
                self.config.information.info_ramp, 1
            )
            first = self.config.information.info_from
            part = first + (1 - first) * _between(part, 0.0, 1.0)
            torch.mul(full, part, out=self.weights)
        elif factors is not None:
            self.weights.copy_(full)
        if self.config.contrastive.weight:
            on = step >= self.config.contrastive.start
            self.contrastive.copy_(on) if isinstance(on, Tensor) else self.contrastive.fill_(on)

    def vat_at(self, step: int) -> bool:
        """Whether update `step` has adversarial copies; known to the host, as it is other work."""
        begun = self.config.vat.weight > 0 and step >= self.config.vat.start
        return begun and (not self.config.vat.stop or step < self.config.vat.stop)

    @property
    def vat_kinds(self) -> tuple[bool, ...]:
        """What `vat_at` says in one update or another."""
        always = self.vat_at(0) and not self.config.vat.stop
        return (True,) if always else (False, True) if self.config.vat.weight else (False,)

    def set_rate(self, optimizer: torch.optim.Optimizer, full: float, step: int | Tensor) -> None:
        """The learning rate of update `step`: a line from `full` to `LEAST_RATE` of it."""
        if not self.config.optimiser.decay.steps:
            return
        part = 1 - (step - self.config.optimiser.decay.start) / self.config.optimiser.decay.steps
        rate = full * _between(part, LEAST_RATE, 1.0)
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # on GPUs, where a graph reads it
                group["lr"].fill_(rate) if isinstance(rate, float) else group["lr"].copy_(rate)
            else:
                group["lr"] = rate


def _between(value: float | Tensor, low: float, high: float) -> float | Tensor:
    if isinstance(value, Tensor):
        return value.clamp(low, high)
    return min(max(value, low), high)
