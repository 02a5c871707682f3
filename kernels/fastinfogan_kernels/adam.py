"""One player's move in one launch: Adam, the working copy and the moving average.

PyTorch's fused Adam reads and writes the parameters and moments once; the cast to bf16 reads the
parameters again, and the average twice more. Here each number is read once and written once.

For update n (from 0), with t = n + 1:

    m ← β₁·m + (1 − β₁)·g,    v ← β₂·v + (1 − β₂)·g²
    θ ← θ − lr / (1 − β₁ᵗ) · m / (√(v / (1 − β₂ᵗ)) + ε)
    θ̄ ← θ̄ + w·(θ − θ̄),       w = max(1 − decay, 9 / (n + 10))

Kingma and Ba, arXiv 1412.6980, algorithm 1. The bias corrections are computed in fp64, since
1 − β₂ᵗ cancels for small t.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 512  # numbers per program: four per thread, 16 bytes of fp32
OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def adam_kernel(
    value_ptr,
    grad_ptr,
    first_ptr,  # m
    second_ptr,  # v
    count_ptr,  # Adam's count of updates, fp32; written, not read
    number_ptr,  # n, int64
    rate_ptr,  # lr, fp32
    working_ptr,  # the copy of θ, of its dtype; value_ptr where there is none
    average_ptr,  # θ̄; value_ptr where there is none
    size,
    averaged,  # numbers that have an average, in front
    beta1,
    beta2,
    log_beta1,
    log_beta2,
    epsilon,
    least,  # 1 − decay
    HAS_WORKING: tl.constexpr,
    HAS_AVERAGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Move BLOCK numbers; the first program writes the count."""
    program = tl.program_id(0)
    at = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    number = tl.load(number_ptr)
    t = (number + 1).to(tl.float64)
    correction1 = (1.0 - tl.exp(t * log_beta1)).to(tl.float32)
    correction2 = (1.0 - tl.exp(t * log_beta2)).to(tl.float32)
    rate = tl.load(rate_ptr) / correction1

    value = tl.load(value_ptr + at, inside, 0.0)
    grad = tl.load(grad_ptr + at, inside, 0.0)
    first = tl.load(first_ptr + at, inside, 0.0)
    second = tl.load(second_ptr + at, inside, 0.0)
    first += (1.0 - beta1) * (grad - first)
    second = beta2 * second + (1.0 - beta2) * grad * grad
    value -= rate * first / (tl.sqrt(second / correction2) + epsilon)
    tl.store(value_ptr + at, value, inside)
    tl.store(first_ptr + at, first, inside)
    tl.store(second_ptr + at, second, inside)
    if HAS_WORKING:
        tl.store(working_ptr + at, value.to(working_ptr.dtype.element_ty), inside)
    if HAS_AVERAGE:
        here = at < averaged
        average = tl.load(average_ptr + at, here, 0.0)
        weight = tl.maximum(9.0 / (number + 10).to(tl.float32), least)
        # as torch.lerp, from the nearer end: a weight of 1 gives the value itself
        moved = value - average
        near = tl.where(weight < 0.5, average + weight * moved, value - (1.0 - weight) * moved)
        tl.store(average_ptr + at, near, here)
    if program == 0:
        tl.store(count_ptr, (number + 1).to(tl.float32))


INTERPRETED = not isinstance(adam_kernel, triton.JITFunction)


def adam_(
    value: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    count: Tensor,
    number: Tensor,
    rate: Tensor,
    *,
    betas: tuple[float, float],
    epsilon: float = 1e-8,
    working: Tensor | None = None,
    average: Tensor | None = None,
    decay: float = 0.0,
) -> None:
    """Take update `number` of Adam on one buffer, in place, in one launch. Read nothing back.

    Args:
        value, grad, first, second: parameters, gradient and the two moments, fp32, contiguous, of
            one size.
        count: fp32 scalar; becomes `number` + 1, as an optimizer's state has it.
        number: int64 scalar on the device, n ≥ 0.
        rate: fp32 scalar on the device, the learning rate.
        betas: decay rates of the moments, in [0, 1).
        epsilon: added to the denominator.
        working: bf16, fp16 or fp32, of the same size; becomes the new parameters, cast.
        average: fp32, follows the first numbers of `value` with weight max(1 − decay, 9/(n + 10)).

    Raises:
        ValueError: a tensor that does not fit, or a CPU tensor that is not interpreted.
    """
    scalars = {"count": count, "number": number, "rate": rate}
    buffers = {"value": value, "grad": grad, "first": first, "second": second}
    if working is not None:
        buffers["working"] = working
    if average is not None:
        buffers["average"] = average
    for name, tensor in (buffers | scalars).items():
        dtype = torch.int64 if name == "number" else torch.float32
        if tensor.device != value.device:
            raise ValueError(f"{name}: expected a tensor on {value.device}, got {tensor.device}")
        if tensor.dtype != dtype and name != "working":
            raise ValueError(f"{name}: expected {dtype}, got {tensor.dtype}")
        size = 1 if name in scalars else value.numel()
        fits = tensor.numel() <= size if name == "average" else tensor.numel() == size
        if not fits or not tensor.is_contiguous():
            raise ValueError(
                f"{name}: expected {size} contiguous numbers, got {list(tensor.shape)}"
            )
    if value.device.type == "cpu" and not INTERPRETED:
        raise ValueError("value: a CPU tensor needs TRITON_INTERPRET=1 before triton is imported")
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas: expected two numbers in [0, 1), got {betas}")
    if not value.numel():
        return
    adam_kernel[(triton.cdiv(value.numel(), BLOCK),)](
        value,
        grad,
        first,
        second,
        count,
        number,
        rate,
        value if working is None else working,
        value if average is None else average,
        value.numel(),
        0 if average is None else average.numel(),
        *betas,
        # for β = 0: a number so low that βᵗ is 0
        *(math.log(beta) if beta else -1e4 for beta in betas),
        epsilon,
        1.0 - decay,
        HAS_WORKING=working is not None,
        HAS_AVERAGE=average is not None,
        BLOCK=BLOCK,
        **OPTIONS,
    )
