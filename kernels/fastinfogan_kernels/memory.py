"""Memory that launches keep on a device: workspaces, and tables that are written once.

This memory must lie outside of every pool. A CUDA graph's capture, Inductor's graph trees and
`torch.cuda.use_mem_pool` route the allocations of the thread that they run in to their own
pools, and take back the memory of these. So a separate thread allocates kept memory, on the
device's default stream.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from threading import Thread, local
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def capturing(device: torch.device) -> bool:
    """Return whether a CUDA graph is being captured on the device's current stream."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def keep(device: torch.device, make: Callable[[], T]) -> T:
    """Return `make()`, outside of any pool; later work on the current stream sees it.

    Raises ValueError in a capture, which cannot wait for the copy.
    """
    if device.type != "cuda":
        return make()
    if capturing(device):
        raise ValueError(
            "the first call for a layout on a device copies its layout and weights there, which a "
            "CUDA graph cannot capture: make one such call before the capture"
        )
    made: list[T] = []
    failed: list[BaseException] = []
    done = torch.cuda.Event()

    def run() -> None:
        try:
            default = torch.cuda.default_stream(device)
            with torch.cuda.device(device), torch.cuda.stream(default):
                made.append(make())
                done.record(default)
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    torch.cuda.current_stream(device).wait_event(done)
    return made[0]


def keep_for_good(function: Callable[..., T]) -> Callable[..., T]:
    """Return `function` with its results kept, so that a captured graph may hold their address.

    Two threads that make the first call at once get one result. `functools.cache` would give each
    its own, and keep only the later one.
    """
    results: dict[tuple[Hashable, ...], T] = {}

    @wraps(function)
    def call(*args: Hashable) -> T:
        result = results.get(args)
        return results.setdefault(args, function(*args)) if result is None else result

    return call


class Workspaces:
    """Partial sums and a counter at zero for each (device, stream), on a CPU for each thread.

    Launches on one stream, or interpreted in one thread, follow one another, so they may share. The
    streams on which a captured launch replays are not known: it gets partials from the graph's own
    memory, and a counter that no other launch gets. A thread's workspace is freed when it ends.
    """

    COUNTERS = 4096  # captured launches per device; after those, each replay writes its zero itself

    def __init__(self) -> None:
        self._of_thread = local()  # on a CPU
        self._by_stream: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._counters: dict[int, list[Tensor]] = {}  # for captures, by device
        self._all: list[Tensor] = []  # graphs, and streams behind the host, hold their addresses

    def get(self, device: torch.device, size: int) -> tuple[Tensor, Tensor]:
        """Return (partials [≥ size] fp32, counter [1] int32) for a launch on the current stream."""
        workspace: tuple[Tensor, Tensor] | None
        if device.type != "cuda":
            workspace = getattr(self._of_thread, "workspace", None)
            if workspace is None or workspace[0].numel() < size:
                workspace = self._of_thread.workspace = self._new(device, size)
            return workspace
        if capturing(device):
            return self._of_capture(device, size)
        key = (device.index, torch.cuda.current_stream(device).cuda_stream)
        workspace = self._by_stream.get(key)
        if workspace is None or workspace[0].numel() < size:
            workspace = self._by_stream[key] = keep(device, lambda: self._make(device, size))
        return workspace

    @staticmethod
    def _new(device: torch.device, size: int) -> tuple[Tensor, Tensor]:
        partial = torch.empty(size, dtype=torch.float32, device=device)
        return partial, torch.zeros(1, dtype=torch.int32, device=device)

    def _make(self, device: torch.device, size: int) -> tuple[Tensor, Tensor]:
        if device.index not in self._counters:
            zeros = torch.zeros(self.COUNTERS, dtype=torch.int32, device=device)
            self._all.append(zeros)
            self._counters[device.index] = list(zeros.split(1))
        workspace = self._new(device, size)
        self._all += workspace
        return workspace

    def _of_capture(self, device: torch.device, size: int) -> tuple[Tensor, Tensor]:
        try:
            counter = self._counters[device.index].pop()
        except (KeyError, IndexError):  # none made before the capture, or none left
            counter = torch.zeros(1, dtype=torch.int32, device=device)
        return torch.empty(size, dtype=torch.float32, device=device), counter
