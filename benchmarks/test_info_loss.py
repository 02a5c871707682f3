"""The information loss against the loop over heads that GAN code usually has.

Run with `pytest --benchmark-only`. Both sides do forward and backward on the same tensors, on as
many threads as torch takes by default. The eager loop is `F.cross_entropy` a categorical head and
`F.gaussian_nll_loss` a continuous one; the table's ratio within a group is the speed-up.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from fastinfogan.latents import Categorical, LatentBatch, LatentSpec, Uniform
from fastinfogan.losses import info_loss

CASES = {
    "mnist: Cat10 + 2 U": LatentSpec(62, (Categorical(10), Uniform(), Uniform())),
    "svhn: 4 Cat10 + 4 U": LatentSpec(124, (*[Categorical(10)] * 4, *[Uniform()] * 4)),
    "celeba: 10 Cat10": LatentSpec(128, (Categorical(10),) * 10),
}
BATCH = 128


def eager_loop(q: Tensor, spec: LatentSpec, batch: LatentBatch) -> Tensor:
    total = q.new_zeros(())
    for code, columns, target in spec.slots:
        x = q[:, columns]
        if isinstance(code, Categorical):
            total = total + F.cross_entropy(x, batch.categorical[:, target.start])
        else:
            c = batch.continuous[:, target]
            total = total + F.gaussian_nll_loss(x, c, torch.ones_like(x), full=True, eps=1e-12)
    return total


def reference(q: Tensor, spec: LatentSpec, batch: LatentBatch) -> Tensor:
    return info_loss(q, spec, batch.categorical, batch.continuous, validate=False).total


WAYS = {"eager loop": eager_loop, "reference": reference}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_information_loss_forward_and_backward(
    benchmark: BenchmarkFixture, case: str, way: str
) -> None:
    spec = CASES[case]
    batch = spec.sample(BATCH, seed=1)
    q = torch.randn(BATCH, spec.q_dim, generator=torch.Generator().manual_seed(0))
    q.requires_grad_()
    benchmark.group = f"{case}, B = {BATCH}"
    benchmark.extra_info["threads"] = torch.get_num_threads()

    def forward_and_backward() -> Tensor:
        q.grad = None
        total = WAYS[way](q, spec, batch)
        total.backward()
        return total

    total = benchmark(forward_and_backward)
    assert math.isclose(total.item(), reference(q, spec, batch).item(), rel_tol=1e-5)
