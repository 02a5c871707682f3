"""Metrics: summed on the device, read at the log interval, kept as JSON lines, drawn as curves."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic import write_atomically, writing
from ..errors import NonFiniteLoss
from ..latents import LatentSpec
from ..losses import information
from ..parallel import Ranks
from .step import DTerms, GTerms

_NEVER = 2**62


class Metrics:
    """Sums of the terms of each update since the last record, all on the device.

    NLL and information are those of G's step, whose latents D's step has not seen where the step
    alternates: so those of different `--step` do not compare.
    """

    def __init__(self, spec: LatentSpec, ranks: Ranks) -> None:
        self.spec, self.ranks = spec, ranks
        codes = len(spec.codes)
        self._losses = [
            *("d_loss", "g_loss", "information on real images"),
            *("gradient penalty", "contrastive term"),
            *(f"information of {n}" for n in spec.names),
        ]
        self.sums = torch.zeros(7 + codes, device=ranks.device)
        self.count = torch.zeros((), dtype=torch.int64, device=ranks.device)
        self._first_bad = torch.full((), _NEVER, dtype=torch.int64, device=ranks.device)
        self._bad = torch.zeros(5 + codes, dtype=torch.bool, device=ranks.device)

    def add(self, step: int, d: DTerms, g: GTerms) -> None:
        """Count update `step` (from 1). Notes the first one with a non-finite loss."""
        losses = (d.loss, g.loss, d.real_information, d.penalty, g.contrastive)
        scalars = torch.stack((*losses, d.real, d.fake))
        self.sums += torch.cat((scalars, g.nll))
        self.count += 1
        bad = ~torch.cat((scalars[:5], d.nll + g.nll)).isfinite()
        first = bad.any() & (self._first_bad == _NEVER)
        self._bad |= bad & first
        self._first_bad.masked_fill_(first, step)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, so that a resumed run writes the same next record."""
        return {"metrics.sums": self.sums, "metrics.count": self.count}

    def average(self) -> None:
        """Put the ranks' mean into every rank's sums."""
        self.ranks.average_([self.sums])

    def reset(self) -> None:
        """Start the next interval."""
        self.sums.zero_()
        self.count.zero_()

    def check_finite(self) -> None:
        """Raise NonFiniteLoss, naming the step and what it hit. Reads from the device."""
        first = self.ranks.minimum(self._first_bad)
        if int(first) == _NEVER:
            return
        # Only the ranks where it came first say what it was.
        mine = self._bad & (self._first_bad == first)
        good = self.ranks.minimum((~mine).to(torch.int64)).tolist()
        names = [name for name, fine in zip(self._losses, good, strict=True) if not fine]
        raise NonFiniteLoss(f"non-finite {', '.join(names)} in update {int(first)}")

    def record(self, step: int, images: int, images_per_second: float | None) -> dict[str, Any]:
        """The means since the last record, as a plain object. Reads from the device."""
        sums = self.sums.clone()
        self.ranks.average_([sums])
        means = sums / self.count
        d_loss, g_loss, real_information, penalty, contrastive, d_real, d_fake = means[:7].tolist()
        names = self.spec.names
        nll = dict(zip(names, means[7:].tolist(), strict=True))
        bound = dict(zip(names, information(means[7:], self.spec).tolist(), strict=True))
        return {
            "step": step,
            "images": images,
            "images_per_second": images_per_second,
            "d_loss": d_loss,
            "g_loss": g_loss,
            "d_real": d_real,
            "d_fake": d_fake,
            "real_information": real_information,
            "penalty": penalty,
            "contrastive": contrastive,
            "nll": nll,
            "information": bound,
        }


class Stopwatch:
    """Time of the updates alone: paused while the run samples, saves or starts."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._elapsed, self._images = 0.0, 0
        self._since: float | None = None

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def start(self) -> None:
        """Go on."""
        if self._since is None:
            self._since = self._now()

    def pause(self) -> None:
        """Stop counting until `start`."""
        if self._since is not None:
            self._elapsed += self._now() - self._since
            self._since = None

    def count(self, images: int) -> None:
        """Images of an update, if its time is being taken."""
        if self._since is not None:
            self._images += images

    def rate(self) -> float | None:
        """Images a second since the last call, or None when nothing was timed."""
        running = self._since is not None
        self.pause()
        rate = self._images / self._elapsed if self._images and self._elapsed > 0 else None
        self._elapsed, self._images = 0.0, 0
        if running:
            self.start()
        return rate


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line."""
    with writing(path), path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All records; a torn last line, as a killed run leaves it, is skipped."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def cut_back(path: Path, step: int) -> None:
    """Drop what came after `step`, and the partial record of an earlier last step."""
    if path.exists():
        kept = [r for r in read(path) if r["step"] <= step and not r.get("partial")]
        write_atomically(path, "".join(json.dumps(r) + "\n" for r in kept))


def draw_curves(records: list[dict[str, Any]], spec: LatentSpec, path: Path) -> None:
    """Losses and information over time, as a PNG."""
    from matplotlib.figure import Figure  # the object interface: no display, no global state

    steps = [r["step"] for r in records]
    figure = Figure(figsize=(11, 4), layout="constrained")
    losses, bound = figure.subplots(1, 2)
    marker = "." if len(steps) < 3 else ""  # a line of one point is invisible
    for name, label in (("d_loss", "discriminator"), ("g_loss", "generator")):
        losses.plot(steps, [r[name] for r in records], marker=marker, label=label)
    losses.set(xlabel="update", ylabel="adversarial loss, nats", title="Losses")
    for i, (name, entropy) in enumerate(zip(spec.names, spec.entropy(), strict=True)):
        values = [r["information"][name] for r in records]
        line = bound.plot(steps, values, marker=marker, label=name)[0]
        text = "H(c), the most there is" if i == 0 else None
        bound.axhline(entropy, ls=":", lw=1, color=line.get_color(), label=text)
    bound.set(xlabel="update", ylabel="lower bound, nats", title="Information of each code")
    for axes in (losses, bound):
        axes.grid(alpha=0.3)
        if steps:
            axes.legend(fontsize="small")
    with writing(path):
        figure.savefig(path, dpi=100)
