"""Timing for the GPU report: graph replays on cold inputs, eager wall time, launches, memory.

Nothing here knows what it times. In a dry run every function does its work once on the CPU and
gives no number.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], Any]

BUFFERS = 32  # calls in a captured graph, each on inputs and outputs of its own
ROUNDS = 30  # over all ways that are compared: the n of each median
SPIN_CYCLES = 4_000_000  # some 2 ms, in which the host queues a graph of thousands of kernels


class Timing(NamedTuple):
    """Median and range over n rounds, in the unit that its place names; all None where dry."""

    median: float | None
    low: float | None
    high: float | None
    n: int | None

    def rate(self, amount: float) -> Timing:
        """Return `amount` over the time: its median, lowest and highest."""
        if self.median is None or self.low is None or self.high is None:
            return self
        return Timing(amount / self.median, amount / self.high, amount / self.low, self.n)


NOTHING = Timing(None, None, None, None)


@dataclass
class Machine:
    """The device, or in a dry run the CPU in its place."""

    dry: bool
    device: torch.device = field(init=False)
    l2_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.device = torch.device("cpu") if self.dry else torch.device("cuda", 0)
        if self.dry:
            self.l2_bytes = 1024
        else:
            known = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0)
            self.l2_bytes = known or 64 * 2**20
        self._cold = torch.zeros(3 * self.l2_bytes // 4, device=self.device)

    def wait(self) -> None:
        """Wait until the device has done all its work."""
        if not self.dry:
            torch.cuda.synchronize()

    def evict(self) -> None:
        """Fill L2 with other clean lines: read three times its size."""
        self._cold.sum()

    def free_bytes(self) -> int:
        """Return unused memory of the device; none to speak of in a dry run."""
        return 0 if self.dry else torch.cuda.mem_get_info()[0]

    def timing(self, samples: Sequence[float]) -> Timing:
        """Turn times into a result; this happens nowhere else."""
        if self.dry or not samples:
            return NOTHING
        return Timing(statistics.median(samples), min(samples), max(samples), len(samples))


class Budget:
    """Seconds since the start, and what was left out because they ran short."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.skipped: list[str] = []
        self._start = time.monotonic()

    def spent(self) -> float:
        """Return seconds since the start."""
        return time.monotonic() - self._start

    def allows(self, what: str, share: float = 1.0) -> bool:
        """Return True while less than `share` of the time is spent; else note `what` as skipped."""
        if self.spent() < share * self.seconds:
            return True
        self.skipped.append(what)
        print(f"skipped for time: {what}", flush=True)
        return False


def capture(machine: Machine, calls: Sequence[Call]) -> Call:
    """Return one CUDA graph of all calls in turn. Each result stays alive in its own memory.

    In a dry run, a loop over the calls.
    """
    if machine.dry:
        return lambda: [call() for call in calls]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles, allocates workspaces, primes autograd
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [call() for call in calls]

    def replay() -> Any:
        graph.replay()
        return results

    return replay


class PlainGraphs:
    """A stand-in for CUDA's graphs in a dry run: it does the work again."""

    def warm_up(self, work: Call) -> None:
        """Do it."""
        work()

    def capture(self, work: Callable[[], Tensor]) -> tuple[Call, Tensor]:
        """Return (the function that does it again, the tensor that gets its result)."""
        result = work()
        return lambda: result.copy_(work()), result


def replay_times(
    machine: Machine, graphs: Mapping[str, Call], calls: int, rounds: int = ROUNDS
) -> dict[str, Timing]:
    """Return device microseconds of one call in graphs of `calls` calls, interleaved by rounds.

    Before each replay three times the size of L2 is read, so every call of the graph finds its
    own inputs cold, as if it rotated over buffers of that size. The device is then kept busy
    while the host queues the replay, so that the host's share is in no number.
    """
    if machine.dry:
        for graph in graphs.values():
            machine.evict()
            graph()
        return dict.fromkeys(graphs, NOTHING)
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {k: [] for k in graphs}
    cycles = dict.fromkeys(graphs, SPIN_CYCLES)
    for i in range(-1, rounds):
        for name, graph in graphs.items():
            for _ in range(6):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                machine.evict()
                torch.cuda._sleep(cycles[name])
                start.record()
                graph()
                end.record()
                if not start.query():  # the device was still spinning when all was queued
                    break
                cycles[name] *= 2
            else:
                raise RuntimeError(f"{name}: queueing a replay took the host over 60 ms")
            if i >= 0:
                events[name].append((start, end))
        machine.wait()
    return {
        name: machine.timing([start.elapsed_time(end) * 1e3 / calls for start, end in pairs])
        for name, pairs in events.items()
    }


def wall_times(
    machine: Machine,
    ways: Mapping[str, Sequence[Call]],
    batch: int = 2 * BUFFERS,
    rounds: int = ROUNDS,
) -> dict[str, Timing]:
    """Return host and device microseconds of one eager call: batches of calls, then one wait.

    `ways` gives each way's calls, over which a batch goes round and round. Interleaved.
    """
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(-1, 0 if machine.dry else rounds):
        for name, calls in ways.items():
            machine.wait()
            start = time.perf_counter()
            for k in range(1 if machine.dry else batch):
                calls[k % len(calls)]()
            machine.wait()
            if i >= 0:
                samples[name].append((time.perf_counter() - start) / batch * 1e6)
    return {name: machine.timing(values) for name, values in samples.items()}


def sync_reason(machine: Machine, call: Call) -> str | None:
    """Return why a call cannot be captured: the operation that waits for the device, or None."""
    machine.wait()
    if machine.dry:
        call()
        return None
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return f"waits for the device: {str(error).splitlines()[0]}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


def count_launches(machine: Machine, call: Call) -> dict[str, int] | None:
    """Count what a warm call puts on the device (kernels, copies, fills), and the host's calls.

    A graph's kernels are the device's, launched by one call. None if nothing is seen.

    To be asked after all that is timed: the profiler may go on costing time once it was used.
    """
    call()
    machine.wait()
    activities = [ProfilerActivity.CPU]
    if not machine.dry:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        call()
        machine.wait()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        # by category: annotations are on the device's track too, and are no launches
        events = json.loads(path.read_text())["traceEvents"]
    kinds = [event.get("cat") for event in events]
    counts = {
        name: kinds.count(kind)
        for name, kind in (("kernels", "kernel"), ("copies", "gpu_memcpy"), ("fills", "gpu_memset"))
    }
    if machine.dry or not any(counts.values()):
        return None
    counts["host"] = sum(
        event.get("cat") in ("cuda_runtime", "cuda_driver")
        and any(what in event.get("name", "") for what in ("Launch", "Memcpy", "Memset"))
        for event in events
    )
    return counts


def allocated_bytes(machine: Machine) -> int:
    """Return the bytes that tensors hold on the device."""
    return 0 if machine.dry else torch.cuda.memory_allocated()


def peak_bytes(machine: Machine, call: Call, base: int | None = None) -> int | None:
    """Return the peak of allocated bytes in a call, beyond `base` (None: the level before it)."""
    if machine.dry:
        call()
        return None
    machine.wait()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if base is None else base
    result = call()
    machine.wait()
    del result
    return torch.cuda.max_memory_allocated() - before


def copy_bandwidth(machine: Machine) -> Timing:
    """Return the bytes per nanosecond (GB/s) that a copy within the device's memory moves."""
    size = 4096 if machine.dry else max(2**30, 10 * machine.l2_bytes)
    source = torch.zeros(size, dtype=torch.uint8, device=machine.device)
    target = torch.empty_like(source)
    graph = capture(machine, [lambda: target.copy_(source)])
    # bytes a microsecond are MB/s
    return replay_times(machine, {"copy": graph}, calls=1)["copy"].rate(2 * size / 1e3)


@triton.jit
def empty_kernel(pointer):
    """Do nothing: the time is that of any launch in a graph."""
    pass


def launch_floor(machine: Machine) -> Timing:
    """Return microseconds of one empty kernel among others in a replayed graph."""
    unused = torch.zeros(1, device=machine.device)
    graph = capture(machine, [lambda: empty_kernel[(1,)](unused)] * BUFFERS)
    return replay_times(machine, {"empty": graph}, BUFFERS)["empty"]
