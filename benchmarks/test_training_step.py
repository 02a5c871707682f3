"""The training step against the textbook loop, and against what its products alone would take.

    pytest --benchmark-only benchmarks/test_training_step.py

Timed is an update on MNIST at the paper's batch of 128, with the reading of its images and the
adding up of its metrics. The ways:

    textbook                 `textbook.py`: fp32, eager
    alternating, reused,     the step in its modes, eager, in the precision that `train` takes
    shared
    … compiled               through torch.compile; on a CPU Inductor takes a minute before
                             (-k "not compiled" leaves it out)
    … compiled and captured  replayed as a CUDA graph, on an NVIDIA GPU

All run in one process on the threads that `train` takes, in turns (`turns.py`). The same turns time
what they are compared with (`attainable.py`): each mode's products, back to back (on a GPU in one
graph), and a product of 2048³ in the step's precision. A round of pytest-benchmark is the mean of a
block of updates, replayed to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from statistics import median
from typing import NamedTuple, get_args

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from attainable import large_product, model_flop, products_of
from pytest_benchmark.fixture import BenchmarkFixture
from speed_table import STEPS, StepTiming
from textbook import Textbook
from turns import CLOCK, GPU, in_turns

from fastinfogan import data, device, parallel
from fastinfogan.config import StepMode, TrainConfig
from fastinfogan.presets import PRESETS
from fastinfogan.training.metrics import Metrics
from fastinfogan.training.policy import DTYPES, Policy
from fastinfogan.training.step import Step

pytest_plugins = ["speed_table"]

BATCH = 128
TEXTBOOK = "textbook"


class Way(NamedTuple):
    """A way to run the step."""

    mode: StepMode
    compile: bool = False
    capture: bool = False


WAYS: dict[str, Way] = {
    "alternating": Way("alternating"),
    "alternating compiled": Way("alternating", compile=True),
    "reused": Way("reused"),
    "shared": Way("shared"),
}
if GPU:
    WAYS |= {f"{mode} compiled": Way(mode, compile=True) for mode in ("reused", "shared")}
if GPU and torch.version.hip is None:
    WAYS |= {
        f"{mode} compiled and captured": Way(mode, compile=True, capture=True)
        for mode in get_args(StepMode)
    }


class Updates:
    """Each call is the next update, as in `train`."""

    def __init__(self, config: TrainConfig, way: Way, ranks: parallel.Ranks, images: data.Images):
        dtype = DTYPES[ranks.accelerator.mixed_precision]
        policy = Policy(dtype, compile=way.compile, capture=way.capture)
        self.step = Step(config, config.spec(), ranks, policy)
        self.metrics = Metrics(config.spec(), ranks)
        self.batches = data.batches(images.images, ranks.device, batch_size=BATCH, seed=config.seed)
        self.count = itertools.count()
        problems = self.step.prepare(self.real(0))
        assert not problems, problems

    def real(self, n: int) -> torch.Tensor:
        """Return the images of update `n`."""
        return data.to_range(self.batches(n), self.step.networks.generator.image_range)

    def __call__(self) -> None:
        n = next(self.count)
        self.metrics.add(n + 1, *self.step(n, self.real(n)))


def products(updates: Updates) -> Callable[[], object]:
    """Return the step's products alone; on a GPU replayed, so that no host time is in them."""
    real = updates.real(0)
    replay, _ = products_of(lambda: updates.step(0, real))
    if not GPU:
        return replay
    from gpu_timing import Machine, capture

    return capture(Machine(dry=False), [replay])


class Measured(NamedTuple):
    """Seconds a call by name, and what belongs to them."""

    seconds: dict[str, list[float]]
    flop: dict[str, int]  # of a mode, an image
    peak: float  # FLOP/s
    case: str


@cache
def measure(requested: tuple[str, ...]) -> Measured:
    """Time these ways."""
    threads = torch.get_num_threads()
    torch.set_num_threads(device.cpu_threads())
    precision, _ = device.choose_precision("auto", device.use_cpu())
    ranks = parallel.start(device.accelerate_name(precision), device.use_cpu())
    images = data.load("mnist", image_size=28, channels=1)["train"]
    assert isinstance(images.images, np.ndarray)
    peak, peak_flop = large_product(ranks.device, DTYPES[device.accelerate_name(precision)])
    calls: dict[str, Callable[[], object]] = {"peak": peak}
    flop: dict[str, int] = {}
    try:
        for mode in get_args(StepMode):
            names = [name for name in requested if name in WAYS and WAYS[name].mode == mode]
            if not names and not (mode == "alternating" and TEXTBOOK in requested):
                continue
            config = PRESETS["mnist-paper"].with_options(step=mode, batch_size=BATCH)
            flop[mode] = model_flop(config)
            eager = Updates(config, Way(mode), ranks, images)
            calls[f"{mode} products"] = products(eager)
            for name in names:
                way = WAYS[name]
                plain = not (way.compile or way.capture)
                calls[name] = eager if plain else Updates(config, way, ranks, images)
        if TEXTBOOK in requested:
            calls[TEXTBOOK] = Textbook(images.images[..., 0], BATCH, device=ranks.device.type)
        # a block lasts longer than a moment in which the machine does something else
        least = 0.05 if GPU else 0.25
        seconds = in_turns(calls, least=least, seconds=40, rounds=(12, 30), warm_up=2)
    finally:
        case = f"MNIST, B = {BATCH}, {precision}, {torch.get_num_threads()} threads"
        torch.set_num_threads(threads)
        AcceleratorState._reset_state(reset_partial_state=True)
    peak_rate = peak_flop / median(seconds["peak"])
    case += f"; a product of 2048³: {peak_rate / 1e9:,.0f} GFLOP/s"
    return Measured(seconds, flop, peak_rate, case)


@pytest.mark.filterwarnings("default")  # what a compiler says of a device is no failure
@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("way", [TEXTBOOK, *WAYS])
def test_update(benchmark: BenchmarkFixture, request: pytest.FixtureRequest, way: str) -> None:
    selected = [
        item.callspec.params["way"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_update
    ]
    seconds, flop, peak, case = measure(tuple(selected))
    mode = WAYS[way].mode if way in WAYS else "alternating"
    timing = StepTiming(
        case,
        way,
        BATCH,
        seconds[way],
        textbook=median(seconds[TEXTBOOK]) if TEXTBOOK in seconds else None,
        products=median(seconds[f"{mode} products"]),
        flop=flop[mode],
        peak=peak,
    )
    benchmark.group = case
    benchmark.extra_info.update(timing.figures())
    benchmark.pedantic(CLOCK.play(seconds[way]), rounds=len(seconds[way]))
    STEPS.append(timing)
