"""The information loss of many rows in one launch: each run goes over all rows by itself.

`head_loss.py` computes all runs of a block of rows before the next block, and every block ends in
sums across threads. So an H200 moves the bytes of 65,536 rows of MNIST's codes at 16 % of a copy's
speed. Here a run has a tile of its own, with more rows, and adds up in registers; a program's sums
cross threads once per run. Rows lie next to each other, which the compiler knows, so it reads two
numbers at once. The last program adds up the others' sums, hundreds at a time.

It takes contiguous tensors of at most `MAX_RUNS` runs, none of them an angle or wider than a
tile, with all labels, and gives no loss per row (`make_plan`). It has not run on a GPU, so nothing
calls it unless `launch.MANY_ROWS` is set.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import triton
import triton.language as tl

from .head_loss import BERNOULLI, CATEGORICAL, FIELDS, LEARNED, _softplus, _sum_rows
from .layout import ANGLE, Layout, columns

TILE = 1024  # numbers of a tile: eight per thread
MAX_RUNS = 8  # with more of them ptxas spills
MAX_REGISTERS = 72  # per thread, on NVIDIA's GPUs: seven programs in an SM
HEADS = 32  # of a tile, at most: one warp writes all of a program's sums
LEARNED_HALF_LOG_2PI = tl.constexpr(0.9189385332046727)


class Plan(NamedTuple):
    """The kernel's compile-time constants for a layout."""

    runs: tuple[
        int, ...
    ]  # flat, FIELDS numbers per run: with rows in the place of the padded width
    rows: int  # of the smallest tile


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


@lru_cache(maxsize=256)
def make_plan(layout: Layout) -> Plan | None:
    """Choose a tile for each run; return None for a layout that the kernel does not take."""
    flat: list[int] = []
    least = TILE
    for run in layout.runs:
        padded = _power_of_two(run.width)
        if run.kind >= ANGLE or columns(run.kind, padded) > TILE:
            return None
        # the number of heads that leaves the fewest lanes of a tile empty, and the most of these
        fit = [n for n in (1, 2, 4, 8, 16, HEADS) if n * columns(run.kind, padded) <= TILE]
        heads = -min((-(-run.n // n) * n, -n) for n in fit)[1]
        rows = max(1, TILE // (heads * columns(run.kind, padded)))
        least = min(least, rows)
        flat += [*run, rows, heads]
    return Plan(tuple(flat), least) if len(layout.runs) <= MAX_RUNS else None


@triton.jit
def _categorical(
    q, dq, c, item, factor, k, WIDTH: tl.constexpr, GRAD: tl.constexpr
):  # fmt: skip
    """Return the NLL [rows, heads] of classes c; write the gradient."""
    mask = item[:, :, None] & (k < WIDTH)
    x = tl.load(q + k, mask=mask, other=0.0).to(tl.float32)
    picked = tl.sum(tl.where(k == c[:, :, None], x, 0.0), 2)
    x = tl.where(k < WIDTH, x, float("-inf"))
    peak = tl.max(x, 2)
    base = tl.where(peak == float("-inf"), 0.0, peak)  # no ∞ − ∞
    e = tl.exp(x - base[:, :, None])
    mass = tl.sum(e, 2)
    known = (c >= 0) & (c < WIDTH)
    if GRAD:
        g = e / mass[:, :, None] - tl.where(k == c[:, :, None], 1.0, 0.0)
        g = tl.where(known[:, :, None], factor[None, :, None] * g, float("nan"))
        tl.store(dq + k, g, mask=mask)
    return tl.where(known, tl.log(mass) - (picked - peak), float("nan"))


@triton.jit
def _bernoulli(q, dq, c, item, factor, GRAD: tl.constexpr):
    """Return the NLL [rows, heads] of bits c; write the gradient."""
    x = tl.load(q, mask=item, other=0.0).to(tl.float32)
    sign = tl.where(c == 1, 1.0, -1.0)
    nll, slope = _softplus(-sign * x)
    known = (c == 0) | (c == 1)
    if GRAD:
        g = tl.where(known, -factor[None, :] * sign * slope, float("nan"))
        tl.store(dq, g, mask=item)
    return tl.where(known, nll, float("nan"))


@triton.jit
def _continuous(
    q, dq, target, item, factor, constant, inverse_sigma, k,
    WIDTH: tl.constexpr, LEARNS: tl.constexpr, GRAD: tl.constexpr,
):  # fmt: skip
    """Return the NLL [rows, heads] of targets, summed over their dims; write the gradient."""
    mask = item[:, :, None] & (k < WIDTH)
    factor = factor[None, :, None]
    c = tl.load(target + k, mask=mask, other=0.0).to(tl.float32)
    mean = tl.load(q + k, mask=mask, other=0.0).to(tl.float32)
    if LEARNS:
        raw = tl.load(q + WIDTH + k, mask=mask, other=0.0).to(tl.float32)
        s = tl.where(raw > 16.0, 16.0, tl.where(raw < -16.0, -16.0, raw))  # NaN stays
        precision = tl.exp(-s)
        z2 = (c - mean) * (c - mean) * precision
        each = LEARNED_HALF_LOG_2PI + 0.5 * (s + z2)
        if GRAD:
            tl.store(dq + k, factor * (mean - c) * precision, mask=mask)
            kept = (raw >= -16.0) & (raw <= 16.0)
            slope = tl.where(kept, factor * (0.5 - 0.5 * z2), 0.0)
            tl.store(dq + WIDTH + k, slope, mask=mask)
    else:
        z = (mean - c) * inverse_sigma
        each = constant + 0.5 * z * z
        if GRAD:
            tl.store(dq + k, factor * z * inverse_sigma, mask=mask)
    return tl.sum(tl.where(mask, each, 0.0), 2)


@triton.jit
def _run(
    q_ptr, cat_ptr, cont_ptr, weight_ptr, dq_ptr, partial, n_rows, constant, inverse_sigma, scale,
    KIND: tl.constexpr, COLUMN: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr,
    CODE: tl.constexpr, TARGET: tl.constexpr, ROWS: tl.constexpr, HEADS: tl.constexpr,
    PADDED: tl.constexpr, Q_DIM: tl.constexpr, N_CAT: tl.constexpr, N_CONT: tl.constexpr,
    GRAD: tl.constexpr,
):  # fmt: skip
    """Write this program's sums of a run, over its share of all rows."""
    program = tl.program_id(0)
    k = tl.arange(0, PADDED)[None, None, :]
    for h0 in range(0, N, HEADS):
        h = h0 + tl.arange(0, HEADS)
        exists = h < N
        factor = scale * tl.load(weight_ptr + CODE + h, mask=exists, other=0.0)
        sums = tl.zeros((ROWS, HEADS), tl.float32)
        column = COLUMN + h * (2 * WIDTH if KIND == LEARNED else WIDTH)
        for block in range(program, tl.cdiv(n_rows, ROWS), tl.num_programs(0)):
            row = block * ROWS + tl.arange(0, ROWS).to(tl.int64)
            item = (row < n_rows)[:, None] & exists[None, :]
            place = row[:, None] * Q_DIM + column[None, :]
            if KIND <= BERNOULLI:  # CATEGORICAL or BERNOULLI
                c = tl.load(cat_ptr + row[:, None] * N_CAT + (TARGET + h)[None, :], item, other=0)
                c = c.to(tl.int64)
                if KIND == CATEGORICAL:
                    place = place[:, :, None]
                    nll = _categorical(
                        q_ptr + place, dq_ptr + place, c, item, factor, k, WIDTH, GRAD
                    )
                else:
                    nll = _bernoulli(q_ptr + place, dq_ptr + place, c, item, factor, GRAD)
            else:
                place = place[:, :, None]
                target = row[:, None] * N_CONT + (TARGET + h * WIDTH)[None, :]
                nll = _continuous(
                    q_ptr + place, dq_ptr + place, cont_ptr + target[:, :, None], item, factor,
                    constant, inverse_sigma, k, WIDTH, KIND == LEARNED, GRAD,
                )  # fmt: skip
            sums += tl.where(item, nll, 0.0)
        tl.store(partial + CODE + h, tl.sum(sums, 0), mask=exists)


@triton.jit(do_not_specialize=["n_rows"], do_not_specialize_on_alignment=["counter_ptr"])
def many_rows_kernel(
    q_ptr,  # [n_rows, Q_DIM]
    cat_ptr,  # [n_rows, N_CAT], any integer type
    cont_ptr,  # [n_rows, N_CONT], any floating type
    weight_ptr,  # fp32 [N_CODES]
    dq_ptr,  # [n_rows, Q_DIM], where GRAD: scale · weight · dNLL/dq
    code_ptr,  # fp32 [N_CODES]: code_scale · Σ_rows NLL
    total_ptr,  # fp32 [1]: scale · Σ_codes weight · Σ_rows NLL
    partial_ptr,  # fp32 [programs, N_CODES]: workspace
    counter_ptr,  # int32 [1]: workspace, zero before and after
    n_rows,
    constant,  # ½ log 2π + log σ of a fixed σ
    inverse_sigma,
    scale,  # of the loss: 1 / rows for a mean
    code_scale,
    RUNS: tl.constexpr,  # the layout, flat, FIELDS numbers per run
    PADDED: tl.constexpr,  # each run's width, the next power of two
    N_CODES: tl.constexpr,
    Q_DIM: tl.constexpr,
    N_CAT: tl.constexpr,
    N_CONT: tl.constexpr,
    GRAD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Compute the information loss and its gradient, as `launch.launch` describes them."""
    partial = partial_ptr + tl.program_id(0) * N_CODES
    for r in tl.static_range(len(PADDED)):
        _run(
            q_ptr, cat_ptr, cont_ptr, weight_ptr, dq_ptr, partial, n_rows, constant, inverse_sigma,
            scale, RUNS[FIELDS * r], RUNS[FIELDS * r + 1], RUNS[FIELDS * r + 2],
            RUNS[FIELDS * r + 3], RUNS[FIELDS * r + 4], RUNS[FIELDS * r + 5],
            RUNS[FIELDS * r + 6], RUNS[FIELDS * r + 7], PADDED[r], Q_DIM, N_CAT, N_CONT, GRAD,
        )  # fmt: skip
    # As in head_loss.py: the last program reads complete sums of all others.
    tl.debug_barrier()
    programs = tl.num_programs(0)
    if tl.atomic_add(counter_ptr, 1, sem="acq_rel") == programs - 1:
        total = 0.0
        for c0 in range(0, N_CODES, BLOCK_C):
            code = c0 + tl.arange(0, BLOCK_C)
            exists = code < N_CODES
            sums = _sum_rows(partial_ptr, code, exists, programs, N_CODES, BLOCK_P)
            tl.store(code_ptr + code, code_scale * sums, mask=exists)
            weight = tl.load(weight_ptr + code, mask=exists, other=0.0)
            total += tl.sum(weight * sums, 0)
        tl.store(total_ptr, scale * total)
        tl.store(counter_ptr, 0)


@lru_cache(maxsize=256)
def constants(plan: Plan, layout: Layout, grad: bool) -> dict[str, Any]:
    """Return the kernel's constexpr arguments."""
    block_c = min(_power_of_two(layout.n_codes), 16)
    return {
        "RUNS": plan.runs,
        "PADDED": tuple(_power_of_two(run.width) for run in layout.runs),
        "N_CODES": layout.n_codes,
        "Q_DIM": layout.q_dim,
        "N_CAT": layout.n_cat,
        "N_CONT": layout.n_cont,
        "GRAD": grad,
        "BLOCK_P": TILE // block_c,
        "BLOCK_C": block_c,
    }
