"""Adam, cast and average in one launch, against the formulas in fp64 and PyTorch's own parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
from fastinfogan_kernels import adam
from fastinfogan_kernels.adam import BLOCK, adam_

from fastinfogan.training.ema import Ema
from fastinfogan.training.player import Flat

if not adam.INTERPRETED:
    pytest.skip("interpreted alone", allow_module_level=True)


class Buffers:
    """All that a move reads and writes, with random moments of earlier updates."""

    def __init__(
        self, size: int, working: torch.dtype | None, averaged: int | None, seed: int = 0
    ) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.value = torch.randn(size, generator=draw)
        self.grad = torch.randn(size, generator=draw)
        self.first = 0.1 * torch.randn(size, generator=draw)
        self.second = 0.1 * torch.rand(size, generator=draw)
        self.count = torch.zeros(())
        self.working = None if working is None else torch.zeros(size, dtype=working)
        self.average = None if averaged is None else torch.randn(averaged, generator=draw)

    def move(self, n: int, rate: float, **more: Any) -> None:
        adam_(
            self.value,
            self.grad,
            self.first,
            self.second,
            self.count,
            torch.tensor(n),
            torch.tensor(rate),
            working=self.working,
            average=self.average,
            **more,
        )


def truth(
    b: Buffers, n: int, rate: float, betas: tuple[float, float], decay: float
) -> dict[str, Tensor]:
    """Return the formulas of the module, in fp64."""
    value, grad, first, second = (x.double() for x in (b.value, b.grad, b.first, b.second))
    first = betas[0] * first + (1 - betas[0]) * grad
    second = betas[1] * second + (1 - betas[1]) * grad**2
    t = n + 1
    moved = second / (1 - betas[1] ** t)
    value = value - rate / (1 - betas[0] ** t) * first / (moved.sqrt() + 1e-8)
    out = {"value": value, "first": first, "second": second}
    if b.average is not None:
        weight = 1 - min(decay, (1 + n) / (10 + n))
        source = value[: len(b.average)]
        out["average"] = b.average.double() + weight * (source - b.average.double())
    return out


@pytest.mark.quick_cases(6)
@pytest.mark.parametrize("working", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 64, BLOCK, BLOCK + 1, 3 * BLOCK - 7])
@pytest.mark.parametrize(("n", "betas"), [(0, (0.5, 0.999)), (7, (0.0, 0.9)), (10**6, (0.9, 0.99))])
def test_a_move_is_that_of_the_formulas_in_fp64(size, working, n, betas):
    averaged = None if size == 64 else max(1, size // 3)
    b = Buffers(size, working, averaged, seed=size)
    expected = truth(b, n, 2e-4, betas, 0.999)
    b.move(n, 2e-4, betas=betas, decay=0.999)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(b, name).double(), value, rtol=2e-6, atol=2e-7)
    assert b.count == n + 1
    if b.working is not None:
        # Triton's interpreter cuts bf16 off where a GPU rounds to nearest.
        unit = 2.0**-7 if working == torch.bfloat16 else 0.0
        torch.testing.assert_close(b.working, b.value.to(b.working.dtype), rtol=unit, atol=0)


def test_ten_moves_are_those_of_pytorch_s_adam_cast_and_average():
    network = torch.nn.Sequential(torch.nn.Linear(30, 50), torch.nn.Linear(50, 7))
    flat = Flat(network.parameters(), torch.bfloat16)
    ema = Ema(network, 0.99)
    b = Buffers(len(flat.value), torch.bfloat16, len(ema.flat.value))
    b.value = flat.value.detach().clone()
    b.first.zero_(), b.second.zero_()
    assert b.average is not None
    b.average.copy_(ema.flat.value.detach())
    optimizer = torch.optim.Adam([flat.value], lr=1e-2, betas=(0.5, 0.999), fused=True)
    draw = torch.Generator().manual_seed(1)
    for n in range(10):
        flat.grad.copy_(torch.randn(len(flat.value), generator=draw))
        b.grad.copy_(flat.grad)
        optimizer.step()
        flat.refresh()
        ema.update(n, flat.value.detach())
        b.move(n, 1e-2, betas=(0.5, 0.999), decay=0.99)
    close: dict[str, Any] = {"rtol": 3e-6, "atol": 1e-7}
    torch.testing.assert_close(b.value, flat.value.detach(), **close)
    torch.testing.assert_close(b.average, ema.flat.value.detach(), **close)
    state = optimizer.state[flat.value]
    torch.testing.assert_close(b.second, state["exp_avg_sq"], **close)
    assert b.count == state["step"]
    torch.testing.assert_close(b.working, flat.working, rtol=0.01, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        ("grad", torch.zeros(9), "grad: expected 64 contiguous numbers, got"),
        ("first", torch.zeros(64, dtype=torch.float64), "first: expected torch.float32, got"),
        ("average", torch.zeros(65), "average: expected 64 contiguous numbers, got"),
        ("count", torch.zeros(2), "count: expected 1 contiguous numbers, got"),
        ("second", torch.zeros(64, 2)[:, 0], "second: expected 64 contiguous numbers, got"),
        ("grad", torch.zeros(64, device="meta"), "grad: expected a tensor on cpu, got meta"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(name, other, message):
    b = Buffers(64, None, None)
    before = b.value.clone()
    setattr(b, name, other)
    with pytest.raises(ValueError, match=message):
        b.move(0, 1e-3, betas=(0.5, 0.9))
    assert b.value.equal(before)


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.5, -0.1)])
def test_betas_outside_their_range_are_refused(betas):
    with pytest.raises(ValueError, match=r"betas: expected two numbers in \[0, 1\)"):
        Buffers(64, None, None).move(0, 1e-3, betas=betas)


def test_no_numbers_need_no_launch():
    Buffers(0, None, None).move(0, 1e-3, betas=(0.5, 0.9))
