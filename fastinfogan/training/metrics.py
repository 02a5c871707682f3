"""Metrics: summed on the device, read at the log interval, kept as JSON lines, drawn as curves."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic import (
    NotAFile,
    open_regular,
    open_to_append,
    parse_json,
    write_atomically,
    writing,
)
from ..errors import NonFiniteLoss, UserError
from ..latents import Continuous, LatentSpec
from ..losses import information
from ..parallel import Ranks
from .calibration import CONVENTION, calibrated_information, is_calibrated
from .gradients import DRecord, GRecord

_NEVER = 2**62
MAX_BYTES = 2**32  # of all records, some ten million
MAX_LINE = 2**20  # bytes of a record; a longer line is damage, and read in pieces of this size
BEFORE_GAME = "real images alone"  # of updates before --gan-start


class Metrics:
    """Sums of the values of each update since the last record, all on the device.

    NLL and information are those of G's step, whose latents D's step has not seen where the step
    alternates: so those of different `--step` do not compare.

    terms: the names of the run's loss terms. Each is averaged over the updates that had it.
    gan_start: updates before the game, whose values are 0 in them. They are averaged over the
        updates that had it.
    """

    def __init__(
        self, spec: LatentSpec, ranks: Ranks, terms: Sequence[str] = (), gan_start: int = 0
    ) -> None:
        self.spec, self.ranks, self.terms = spec, ranks, tuple(terms)
        self.gan_start = gan_start
        codes = len(spec.codes)
        self._losses = ["d_loss", "g_loss", *terms, *(f"information of {n}" for n in spec.names)]
        n = 2 + len(self.terms) + codes
        # [the losses, the terms, the codes' NLL, D(x), D(G(z))]
        self.sums = torch.zeros(n + 2, device=ranks.device)
        self.count = torch.zeros((), dtype=torch.int64, device=ranks.device)
        self.term_counts = torch.zeros(len(self.terms), device=ranks.device)
        self._one, self._zero = (torch.full((), x, device=ranks.device) for x in (1.0, 0.0))
        self._first_bad = torch.full((), _NEVER, dtype=torch.int64, device=ranks.device)
        self._bad = torch.zeros(n, dtype=torch.bool, device=ranks.device)

    def add(self, step: int, d: DRecord, g: GRecord) -> None:
        """Count update `step` (from 1). Notes the first one with a non-finite loss."""
        values = d.terms | g.terms
        logged = [values.get(name, self._zero).float() for name in self.terms]
        if logged:
            had = [self._one if name in values else self._zero for name in self.terms]
            self.term_counts += torch.stack(had)
        losses = torch.stack((d.loss, g.loss, *logged))
        self.sums += torch.cat((losses, g.nll, torch.stack((d.real, d.fake))))
        self.count += 1
        bad = ~torch.cat((losses, d.nll + g.nll)).isfinite()
        first = bad.any() & (self._first_bad == _NEVER)
        self._bad |= bad & first
        self._first_bad.masked_fill_(first, step)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps, so that a resumed run writes the same next record."""
        return {
            "metrics.sums": self.sums,
            "metrics.count": self.count,
            "metrics.term_counts": self.term_counts,
        }

    def average(self) -> None:
        """Put the ranks' mean into every rank's sums."""
        self.ranks.average_([self.sums])

    def reset(self) -> None:
        """Start the next interval."""
        self.sums.zero_()
        self.count.zero_()
        self.term_counts.zero_()

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
        """Return the means since the last record, as a plain object. Reads from the device.

        A term has null where no update of the interval had it, and so have the game's values.
        """
        sums = self.sums.clone()
        self.ranks.average_([sums])
        n_terms, names = len(self.terms), self.spec.names
        games = self.count
        if self.gan_start:  # the interval's updates are the last ones
            games = games.clamp(max=max(step - self.gan_start, 0))
        counts = [games.expand(2), self.term_counts, games.expand(len(names) + 2)]
        means = sums / torch.cat([c.to(sums.dtype) for c in counts])
        (d_loss, g_loss), of_terms, nll, (d_real, d_fake) = (
            part.tolist() for part in means.split([2, n_terms, len(names), 2])
        )
        bound = information(means[2 + n_terms : -2], self.spec).tolist()
        if step > self.gan_start:
            calibrated: list[Any] = calibrated_information(nll, self.spec)
        else:
            d_loss = g_loss = d_real = d_fake = None
            nll = bound = calibrated = [None] * len(names)
        had = self.term_counts.tolist()
        logged = zip(self.terms, of_terms, had, strict=True)
        return {
            "step": step,
            "images": images,
            "images_per_second": images_per_second,
            "d_loss": d_loss,
            "g_loss": g_loss,
            "d_real": d_real,
            "d_fake": d_fake,
            **{name: value if count else None for name, value, count in logged},
            "nll": dict(zip(names, nll, strict=True)),
            "information": dict(zip(names, bound, strict=True)),
            "information_calibrated": dict(zip(names, calibrated, strict=True)),
        }


class Stopwatch:
    """Time of the updates alone: paused while the run samples, saves, starts or restarts codes."""

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
        """Count the images of an update, if its time is being taken."""
        if self._since is not None:
            self._images += images

    def rate(self) -> float | None:
        """Return images per second since the last call, or None when nothing was timed."""
        running = self._since is not None
        self.pause()
        rate = self._images / self._elapsed if self._images and self._elapsed > 0 else None
        self._elapsed, self._images = 0.0, 0
        if running:
            self.start()
        return rate


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line."""
    with writing(path), open_to_append(path) as file:
        file.write(json.dumps(record).encode() + b"\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Return all records; skip a torn last line, as a killed run leaves it, and other damage."""
    records = []
    try:
        with open_regular(path, MAX_BYTES) as file:
            while line := file.readline(MAX_LINE):
                try:
                    record = parse_json(line)
                except ValueError:
                    continue
                if isinstance(record, dict) and isinstance(record.get("step"), int):
                    records.append(record)
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError | NotAFile):
            return []
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    return records


def cut_back(path: Path, step: int) -> None:
    """Drop what came after `step`, and the partial record of an earlier last step."""
    if os.path.lexists(path):  # a link is replaced, not followed
        records = [r for r in read(path) if r["step"] <= step and not r.get("partial")]
        write_atomically(path, "".join(json.dumps(r) + "\n" for r in records))


def draw_curves(
    records: list[dict[str, Any]], spec: LatentSpec, path: Path, gan_start: int = 0
) -> None:
    """Draw losses and information over time, as a PNG.

    gan_start: updates before the game, which are shaded.
    """
    from matplotlib.figure import Figure  # the object interface: no display, no global state

    steps = [r["step"] for r in records]
    figure = Figure(figsize=(11, 4), layout="constrained")
    losses, bound = figure.subplots(1, 2)
    marker = "." if len(steps) < 3 else ""  # a line of one point is invisible
    for name, label in (("d_loss", "discriminator"), ("g_loss", "generator")):
        losses.plot(steps, [_number(r, name) for r in records], marker=marker, label=label)
    losses.set(xlabel="update", ylabel="adversarial loss, nats", title="Losses")
    text: str | None = "H(c), the maximum of a discrete code"
    for name, code in zip(spec.names, spec.codes, strict=True):
        # Records of version 0.1 have the plain bound alone.
        kinds = ["information" + "_calibrated" * ("information_calibrated" in r) for r in records]
        values = [_number(r, kind, name) for r, kind in zip(records, kinds, strict=True)]
        line = bound.plot(steps, values, marker=marker, label=name)[0]
        if not isinstance(code, Continuous):
            bound.axhline(code.entropy(), ls=":", lw=1, color=line.get_color(), label=text)
            text = None
    title = "Information of each code"
    if any(map(is_calibrated, spec.codes)):
        title += f" (continuous: at the {CONVENTION})"
    bound.set(xlabel="update", ylabel="lower bound, nats", title=title)
    for axes, place in ((losses, "upper right"), (bound, "lower right")):
        axes.grid(alpha=0.3)
        if gan_start and steps:
            axes.axvspan(0, min(gan_start, steps[-1]), alpha=0.15, color="gray", label=BEFORE_GAME)
        if steps:  # in a fixed place: matplotlib warns where the search for a free one takes long
            axes.legend(fontsize="small", loc=place)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=100)
    write_atomically(path, picture.getvalue())


def _number(record: Any, *names: str) -> float:
    """Return a number of a record; NaN where a damaged file does not have it."""
    for name in names:
        record = record.get(name) if isinstance(record, dict) else None
    return record if isinstance(record, int | float) else math.nan
