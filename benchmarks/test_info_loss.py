"""The information loss against the loop over heads that GAN code usually has.

    pytest --benchmark-only

Timed is the loss and its gradient in q, fp32, of one batch at the codes of the paper's experiments
and some more. The ways:

    eager loop       F.cross_entropy per categorical head, F.gaussian_nll_loss per continuous one
    sync-free loop   the same with a Gaussian NLL that reads nothing back (PyTorch's own does)
    exp loop         the same with the NLL of σ = sqrt(exp(s)), as many InfoGANs write it out
    log_prob loop    the same with log_prob of torch.distributions
    CE + MSE         F.cross_entropy and ½·d·F.mse_loss on slices of q; codes with fixed σ only
    CE + MSE, heads  the same on heads that are tensors of their own: no slice is differentiated
    reference        info_loss(backend="reference")
    reference, heads the same on heads that are tensors of their own
    compiled         info_loss(backend="compiled")
    triton           info_loss(backend="triton"), on a GPU; never interpreted

All ways of a case are timed in turns (`turns.py`); what pytest-benchmark shows as a round is the
mean of a block of calls, replayed to it. On the CPU all is on one thread: two would
wait for each other at these sizes. On a GPU a block's time is that of the host and ends when the
device is done; the launch floor is a kernel on one number, timed alike, and the bandwidth is
against a copy measured here. `gpu_report.py` has the kernel's own times.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from speed_table import TIMINGS, Timing, speed_ups
from torch import Tensor
from turns import CLOCK, GPU, in_turns

from fastinfogan.latents import Categorical, Gaussian, LatentBatch, LatentSpec, Uniform
from fastinfogan.losses import Backend, info_loss

pytest_plugins = ["speed_table"]

SPECS = {
    "mnist: Cat10 + 2 U": LatentSpec(62, (Categorical(10), Uniform(), Uniform())),
    "svhn: 4 Cat10 + 4 U": LatentSpec(124, (*[Categorical(10)] * 4, *[Uniform()] * 4)),
    "celeba: 10 Cat10": LatentSpec(128, (Categorical(10),) * 10),
    "small: Cat10 + 1 U": LatentSpec(62, (Categorical(10), Uniform())),
    "faces: 5 U": LatentSpec(128, (Uniform(),) * 5),
    "chairs: 3 Cat20 + 1 U": LatentSpec(128, (*[Categorical(20)] * 3, Uniform())),
    "10 Cat20": LatentSpec(0, (Categorical(20),) * 10),
    "learned σ: Cat10 + 2 U + N(dim 2)": LatentSpec(
        62,
        (
            Categorical(10),
            *[Uniform(sigma="learned")] * 2,
            Gaussian(dim=2, sigma="learned"),
        ),
    ),
}


class Case(NamedTuple):
    """A spec at a batch size."""

    spec: str
    batch: int

    def __str__(self) -> str:
        return f"{self.spec}, B = {self.batch}, {'GPU' if GPU else '1 thread'}"


CASES = [Case(spec, 128) for spec in SPECS]
CASES += [Case("small: Cat10 + 1 U", 64), Case("mnist: Cat10 + 2 U", 64)]
CASES += [Case("svhn: 4 Cat10 + 4 U", 4096), Case("10 Cat20", 4096)]
CASES += [Case("mnist: Cat10 + 2 U", 65536)]

timed = partial(  # of a case; a block so long against the clock's and the first call's share
    in_turns, least=0.002, seconds=8.0, rounds=(10, 100)
)

Way = Callable[[Tensor, LatentSpec, LatentBatch], Tensor]
Call = Callable[[], tuple[Tensor, list[Tensor | None]]]


def loop(gaussian: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Way:
    """Return the sum of the heads' mean losses, by a Gaussian NLL of (mean, c, log σ²)."""

    def total(q: Tensor, spec: LatentSpec, batch: LatentBatch) -> Tensor:
        total = q.new_zeros(())
        for code, columns, target in spec.slots:
            x = q[:, columns]
            if isinstance(code, Categorical):
                total = total + F.cross_entropy(x, batch.categorical[:, target.start])
            elif isinstance(code, Uniform | Gaussian):
                mean = x[:, : code.dim]
                learned = code.sigma == "learned"
                log_variance = x[:, code.dim :] if learned else torch.zeros_like(mean)
                c = batch.continuous[:, target]
                total = total + code.dim * gaussian(mean, c, log_variance)
        return total

    return total


def torch_gaussian(mean: Tensor, c: Tensor, log_variance: Tensor) -> Tensor:
    return F.gaussian_nll_loss(mean, c, log_variance.exp(), full=True, eps=1e-12)


def free_gaussian(mean: Tensor, c: Tensor, log_variance: Tensor) -> Tensor:
    squares = (c - mean).square() * (-log_variance).exp()
    return 0.5 * (math.log(2 * math.pi) + log_variance + squares).mean()


def exp_gaussian(mean: Tensor, c: Tensor, log_variance: Tensor) -> Tensor:
    std = log_variance.exp().sqrt()
    return (0.5 * math.log(2 * math.pi) + std.log() + 0.5 * ((c - mean) / std).square()).mean()


def log_prob_gaussian(mean: Tensor, c: Tensor, log_variance: Tensor) -> Tensor:
    scale = (0.5 * log_variance).exp()
    return -torch.distributions.Normal(mean, scale, validate_args=False).log_prob(c).mean()


def cross_entropy_and_mse(heads: Sequence[Tensor], spec: LatentSpec, batch: LatentBatch) -> Tensor:
    """Return the loss of codes with fixed σ but for its constant."""
    terms = []
    for head, (code, _, target) in zip(heads, spec.slots, strict=True):
        if isinstance(code, Categorical):
            terms.append(F.cross_entropy(head, batch.categorical[:, target.start]))
        else:
            terms.append(0.5 * code.dim * F.mse_loss(head, batch.continuous[:, target]))
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def on_slices(q: Tensor, spec: LatentSpec, batch: LatentBatch) -> Tensor:
    return cross_entropy_and_mse([q[:, slot.q] for slot in spec.slots], spec, batch)


def ours(backend: Backend) -> Way:
    def total(q: Tensor, spec: LatentSpec, batch: LatentBatch) -> Tensor:
        return info_loss(q, spec, batch.categorical, batch.continuous, backend=backend).total

    return total


WAYS: dict[str, Way] = {
    "eager loop": loop(torch_gaussian),
    "sync-free loop": loop(free_gaussian),
    "exp loop": loop(exp_gaussian),
    "log_prob loop": loop(log_prob_gaussian),
    "CE + MSE": on_slices,
    "CE + MSE, heads": on_slices,  # see `call_of`
    "reference": ours("reference"),
    "reference, heads": ours("reference"),  # see `call_of`
    "compiled": ours("compiled"),
}
if GPU and os.environ.get("TRITON_INTERPRET", "0") == "0":
    WAYS["triton"] = ours("triton")


def has_way(spec: LatentSpec, way: str) -> bool:
    """Return whether a way can compute the loss of these codes."""
    fixed = all(getattr(code, "sigma", "fixed") == "fixed" for code in spec.codes)
    return fixed or not way.startswith("CE + MSE")


def call_of(way: str, q: Tensor, spec: LatentSpec, batch: LatentBatch) -> Call:
    """Return one forward and backward pass, which gives the total and the gradient's parts."""
    leaves = [q]
    if way.endswith(", heads"):
        leaves = [q.detach()[:, slot.q].clone().requires_grad_() for slot in spec.slots]

    def call() -> tuple[Tensor, list[Tensor | None]]:
        for leaf in leaves:
            leaf.grad = None
        if way == "CE + MSE, heads":
            total = cross_entropy_and_mse(leaves, spec, batch)
        elif way.endswith(", heads"):
            total = info_loss(leaves, spec, batch, backend="reference").total
        else:
            total = WAYS[way](q, spec, batch)
        total.backward()
        return total.detach(), [leaf.grad for leaf in leaves]

    return call


@cache
def measure(case: Case) -> dict[str, list[float]]:
    """Time forward and backward, in seconds per call, by way. Ways that disagree fail."""
    spec = SPECS[case.spec]
    device = torch.device("cuda" if GPU else "cpu")
    batch = spec.sample(case.batch, seed=1, device=device)
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(case.batch, spec.q_dim, generator=draw).to(device).requires_grad_()

    calls = {way: call_of(way, q, spec, batch) for way in WAYS if has_way(spec, way)}
    # which a mean squared error leaves out
    dims = sum(code.dim for code in spec.codes if code.kind in ("uniform", "gaussian"))
    constant = 0.5 * math.log(2 * math.pi) * dims

    def result(way: str) -> tuple[Tensor, Tensor]:
        total, parts = calls[way]()
        gradient = torch.cat([part for part in parts if part is not None], 1)
        return total + (constant if way.startswith("CE + MSE") else 0), gradient

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = result("eager loop")
        for way in calls:
            torch.testing.assert_close(result(way), expected, rtol=1e-4, atol=1e-7)
        return timed(calls)
    finally:
        torch.set_num_threads(threads)


@cache
def device_limits() -> tuple[float, float]:
    """Return (bytes per second of a large copy, seconds of a kernel on one number)."""
    source = torch.empty(2**26, device="cuda")
    target, one = torch.empty_like(source), torch.zeros(1, device="cuda")
    times = timed({"copy": lambda: target.copy_(source), "one": one.neg_})
    copied = 2 * source.numel() * source.element_size()
    return copied / statistics.median(times["copy"]), statistics.median(times["one"])


def on_the_gpu(case: Case, median: float) -> dict[str, float]:
    """Return the least bytes (q and targets read, dq written) and the share of them reached."""
    spec = SPECS[case.spec]
    moved = case.batch * (2 * 4 * spec.q_dim + 8 * spec.n_cat + 4 * spec.n_cont)
    bandwidth, floor = device_limits()
    return {
        "bytes": moved,
        "bandwidth_percent": round(100 * moved / median / bandwidth, 2),
        "launch_floor_us": round(floor * 1e6, 2),
    }


@pytest.mark.filterwarnings("default")  # what a compiler says of a device is no failure
@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize(
    ("case", "way"),
    [
        pytest.param(case, way, id=f"{case}: {way}")
        for case in CASES
        for way in WAYS
        if has_way(SPECS[case.spec], way)
    ],
)
def test_forward_and_backward(benchmark: BenchmarkFixture, case: Case, way: str) -> None:
    times = measure(case)
    median = statistics.median(times[way])
    benchmark.group = str(case)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    limits = on_the_gpu(case, median) if GPU else {}
    benchmark.extra_info.update(
        threads=1,
        n=len(times[way]),
        **{f"speed-up over {over}": round(x, 2) for over, x in speed_ups(median, medians).items()},
        **limits,
    )
    benchmark.pedantic(CLOCK.play(times[way]), rounds=len(times[way]))
    TIMINGS.append(Timing(str(case), way, median, min(times[way]), len(times[way]), limits))
