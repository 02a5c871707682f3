"""Batch normalisation whose caller says which statistics it takes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BatchStats = Literal["update", "batch", "running"]
StatsPerPart = (
    BatchStats | tuple[BatchStats, ...]
)  # a tuple: one for each of the batch's equal parts


class BatchNorm(nn.Module):
    """Batch normalisation whose caller says which statistics it takes.

    "update": the batch's own, and the running buffers follow them. "batch": the batch's own, the
    buffers stay. "running": the buffers. By default "update" in train mode, "running" in eval.
    A tuple of these says it for as many equal parts of the batch, each of which is normalised by
    itself.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.momentum, self.eps = momentum, eps

    def forward(self, x: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        if isinstance(stats, tuple):
            parts = x.chunk(len(stats))
            return torch.cat([self(part, s) for part, s in zip(parts, stats, strict=True)])
        stats = stats or ("update" if self.training else "running")
        with_running = stats != "batch"
        return F.batch_norm(
            x,
            self.running_mean if with_running else None,
            self.running_var if with_running else None,
            self.weight,
            self.bias,
            training=stats != "running",
            momentum=self.momentum,
            eps=self.eps,
        )


def follows(stats: StatsPerPart | None, training: bool) -> bool:
    """Return whether running buffers follow a pass with these statistics."""
    stats = stats or ("update" if training else "running")
    return "update" in ((stats,) if isinstance(stats, str) else stats)
