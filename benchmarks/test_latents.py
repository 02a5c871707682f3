"""Latents of a batch against the calls that GAN code usually has for them.

    pytest --benchmark-only benchmarks/test_latents.py

The ways:

    randn + randint + one_hot   plain PyTorch: noise, classes, their one-hot rows, uniform values
    sample                      `spec.sample(B)`, from torch's generator
    sample, addressed           `spec.sample(B, seed=…, step=…)`: a function of the address, by
                                Philox; on a GPU one Triton launch

All ways of a case are timed in turns, as in test_info_loss.py; on the CPU on one thread.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from speed_table import TIMINGS, Timing
from torch import Tensor
from turns import CLOCK, GPU, in_turns

from fastinfogan.latents import Categorical, LatentSpec, Uniform

pytest_plugins = ["speed_table"]

SPECS = {
    "small: Cat10 + 1 U": LatentSpec(62, (Categorical(10), Uniform())),
    "mnist: Cat10 + 2 U": LatentSpec(62, (Categorical(10), Uniform(), Uniform())),
    "svhn: 4 Cat10 + 4 U": LatentSpec(124, (*[Categorical(10)] * 4, *[Uniform()] * 4)),
}
BATCH = 128
DEVICE = "cuda" if GPU else "cpu"
Draw = Callable[[LatentSpec], tuple[Tensor, Tensor, Tensor]]


def plain(spec: LatentSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Draw G's input and both targets as a script would."""
    parts, classes = [torch.randn(BATCH, spec.noise, device=DEVICE)], []
    for code in spec.codes:
        if isinstance(code, Categorical):
            drawn = torch.randint(code.n, (BATCH,), device=DEVICE)
            classes.append(drawn)
            parts.append(F.one_hot(drawn, code.n).float())
    values = torch.rand(BATCH, spec.n_cont, device=DEVICE) * 2 - 1
    return torch.cat((*parts, values), 1), torch.stack(classes, 1), values


_steps = itertools.count()
WAYS: dict[str, Draw] = {
    "randn + randint + one_hot": plain,
    "sample": lambda spec: spec.sample(BATCH, device=DEVICE),
    "sample, addressed": lambda spec: spec.sample(BATCH, device=DEVICE, seed=0, step=next(_steps)),
}


@cache
def measure(name: str) -> dict[str, list[float]]:
    """Time every way, in seconds per call. Ways of other shapes fail."""
    spec = SPECS[name]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = [x.shape for x in plain(spec)]
        for way in WAYS.values():
            assert [x.shape for x in way(spec)] == expected
        calls = {name: partial(way, spec) for name, way in WAYS.items()}
        return in_turns(calls, least=0.002, seconds=8.0, rounds=(10, 100))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.filterwarnings("default")  # what a compiler says of a device is no failure
@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SPECS)
def test_latents_of_a_batch(benchmark: BenchmarkFixture, name: str, way: str) -> None:
    times = measure(name)
    median = statistics.median(times[way])
    benchmark.group = f"latents, {name}, B = {BATCH}"
    ratio = statistics.median(times["randn + randint + one_hot"]) / median
    benchmark.extra_info.update(n=len(times[way]), **{"× plain PyTorch": round(ratio, 2)})
    benchmark.pedantic(CLOCK.play(times[way]), rounds=len(times[way]))
    TIMINGS.append(Timing(benchmark.group, way, median, min(times[way]), len(times[way]), {}))
