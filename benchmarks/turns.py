"""Timing in turns, and a clock which reports it to pytest-benchmark.

A ratio of speeds holds only within one state of the machine. So all calls of a case are timed in
turns, block by block, the first changing from round to round.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping

import torch

GPU = torch.cuda.is_available()


def block(call: Callable[[], object], calls: int) -> float:
    """Return seconds per call over a block of calls; on a GPU until it is done."""
    if GPU:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    if GPU:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    *,
    least: float,
    seconds: float,
    rounds: tuple[int, int],
    warm_up: int = 3,
) -> dict[str, list[float]]:
    """Return seconds per call, in each round.

    Args:
        calls: of any names.
        least: seconds that a block takes at least.
        seconds: after which no round begins, within `rounds` (at least, at most).
        warm_up: calls before all else; as many are timed, twice, to choose a block's size.
    """
    sizes = {}
    for name, call in calls.items():
        block(call, warm_up)  # compiles, allocates
        each = min(block(call, warm_up) for _ in range(2))
        sizes[name] = max(1, math.ceil(least / each))
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        start, i = time.perf_counter(), 0
        while i < rounds[0] or (i < rounds[1] and time.perf_counter() - start < seconds):
            first = i % len(names)
            for name in names[first:] + names[:first]:
                times[name].append(block(calls[name], sizes[name]))
            i += 1
    finally:
        gc.enable()
    return times


class Replay:
    """A clock that goes on by the next of the times given, when played."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def play(self, times: list[float]) -> Callable[[], None]:
        remaining = iter(times)

        def step() -> None:
            self.now += next(remaining)

        return step


CLOCK = Replay()
