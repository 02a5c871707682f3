"""The losses on D's heads and their gradients, in one launch.

The information loss of all codes, and where there are logits the adversarial loss too; the README
next to this package has the formulas. A program takes blocks of rows; within a block the runs of
the layout follow one another, and a run's equal codes (heads) lie next to each other in one tile
[rows, heads, width]. Sums over the rows go to the program's own row of `partial`. The program that
ends last adds these rows in a fixed order, so that the result is the same to the last bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

NO_LOSS, SOFTPLUS, HINGE, LINEAR, SQUARE, RELATIVE = (tl.constexpr(i) for i in range(6))
# as in layout.KINDS
CATEGORICAL, BERNOULLI, FIXED, LEARNED, ANGLE, LEARNED_ANGLE = (tl.constexpr(i) for i in range(6))
FIELDS = tl.constexpr(8)  # numbers per run, in RUNS and in the table


@triton.jit
def _softplus(z):
    """Return log(1 + e^z) and its derivative: a few ulp off, for z ≪ 0 as accurate as exp(z)."""
    e = tl.exp(-tl.abs(z))  # in [0, 1]
    # log(1 + e) = 2 artanh(s), s = e/(2 + e) ≤ 1/3: a log of 1 + e would lose a small e
    s = e / (2.0 + e)
    t = s * s
    series = 1.0 / 13 + t * (1.0 / 15)
    series = 1.0 / 11 + t * series
    series = 1.0 / 9 + t * series
    series = 1.0 / 7 + t * series
    series = 1.0 / 5 + t * series
    series = 1.0 / 3 + t * series
    value = tl.where(z > 0, z, 0.0) + 2.0 * s * (1.0 + t * series)
    slope = tl.where(z > 0, 1.0, e) / (1.0 + e)
    return value, slope


@triton.jit
def _cos_sin(x):
    """Return the cosine and the sine of x, with errors of about 1e-7, for |x| up to 1e5."""
    quarters = tl.floor(x * 0.6366197723675814 + 0.5)
    # subtract quarters · π/2 in three parts, each short enough that its product does not round
    r = x - quarters * 1.5703125
    r = r - quarters * 4.837512969970703125e-4
    r = r - quarters * 7.549789948768648e-8
    z = r * r
    sin = -0.000198391779 + z * 2.71714926e-06
    sin = -0.166666666 + z * (0.00833332869 + z * sin)
    sin = r + r * z * sin
    cos = -0.00138865285 + z * 2.43726303e-05
    cos = -0.499999996 + z * (0.0416666132 + z * cos)
    cos = 1.0 + z * cos
    turn = quarters.to(tl.int32) & 3
    swapped = (turn & 1) == 1
    x_part = tl.where(swapped, sin, cos)
    y_part = tl.where(swapped, cos, sin)
    return (
        tl.where((turn == 1) | (turn == 2), -x_part, x_part),
        tl.where(turn >= 2, -y_part, y_part),
    )


@triton.jit
def _log_bessel(square):
    """Return log I₀(κ) and I₁(κ) / (κ I₀(κ)) for κ² = square, with errors of about 3e-7.

    Up to κ = 4, I₀ and I₁/κ are polynomials in κ². Beyond, both times √κ·e^(−κ) are polynomials in
    1/κ. All are fitted at Chebyshev's nodes; nothing overflows.
    """
    near = square < 16.0
    t = tl.where(near, square, 0.0)
    i0 = 4.55636687e-10 + t * 3.02481514e-12
    i0 = 6.78042113e-06 + t * (6.80064122e-08 + t * i0)
    i0 = 0.0156249927 + t * (0.000434032201 + t * i0)
    i0 = 1.0 + t * (0.250000004 + t * i0)
    i1 = 3.27479043e-11 + t * 1.85349365e-13
    i1 = 6.78088539e-07 + t * (5.66285263e-09 + t * i1)
    i1 = 0.00260416614 + t * (5.42537686e-05 + t * i1)
    i1 = 0.5 + t * (0.0625000003 + t * i1)
    kappa = tl.sqrt(tl.where(near, 16.0, square))
    u = 1.0 / kappa
    b0 = 7.19407504 - u * 14.3148819
    b0 = 0.0104874538 + u * (-0.689119617 + u * b0)
    b0 = 0.0274570062 + u * (0.0400267591 + u * b0)
    b0 = 0.398942257 + u * (0.0498775704 + u * b0)
    b1 = -9.02808819 + u * 17.0252947
    b1 = -0.0619687495 + u * (1.06341436 + u * b1)
    b1 = -0.0461737373 + u * (-0.0500989677 + u * b1)
    b1 = 0.398942306 + u * (-0.149613429 + u * b1)
    far = kappa + tl.log(b0) + 0.5 * tl.log(u)
    return tl.where(near, tl.log(i0), far), tl.where(near, i1 / i0, u * b1 / b0)


@triton.jit
def _is_labelled(item, label_rows, label_col, code, MASKED: tl.constexpr):
    """Return which of the items [rows, heads] have a label."""
    if MASKED:
        label = tl.load(label_rows[:, None] + code[None, :] * label_col, mask=item, other=0)
        return item & (label != 0)
    else:
        return item


@triton.jit
def _add(partial, value, mask, first):
    """Add to this program's sums. One thread makes all additions to a place, in order."""
    if first:
        tl.store(partial, value, mask=mask)
    else:
        tl.atomic_add(partial, value, mask=mask, sem="relaxed")


@triton.jit
def _categorical(
    q_rows, q_col, dq_rows, cat_rows, cat_col, label_rows, label_col, weight_ptr, partial,
    scale, live, first, column, width, n, code, target,
    PADDED: tl.constexpr, HEADS: tl.constexpr, ONE_CHUNK: tl.constexpr, GRAD: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Compute a run of categoricals; return the rows' weighted NLL [BLOCK_B]."""
    total = tl.zeros(live.shape, tl.float32)
    k = tl.arange(0, PADDED)[None, None, :]
    for h0 in range(0, n, HEADS):
        h = h0 + tl.arange(0, HEADS)
        exists = h < n
        weight = tl.load(weight_ptr + code + h, mask=exists, other=0.0)
        there = live[:, None] & exists[None, :]
        item = _is_labelled(there, label_rows, label_col, code + h, MASKED)
        c = tl.load(
            cat_rows[:, None] + (target + h)[None, :].to(tl.int64) * cat_col, mask=item, other=0
        ).to(tl.int64)
        start = (column + h * width)[None, :, None]
        # online softmax: the peak so far, Σ e^(x − peak), and the logit of the class
        peak = tl.full(item.shape, float("-inf"), tl.float32)
        mass = tl.zeros(item.shape, tl.float32)
        picked = tl.zeros(item.shape, tl.float32)
        e = tl.zeros((item.shape[0], HEADS, PADDED), tl.float32)
        for k0 in range(0, width, PADDED):
            inside = k0 + k < width
            x = tl.load(
                q_rows[:, None, None] + (start + k0 + k).to(tl.int64) * q_col,
                mask=item[:, :, None] & inside,
                other=0.0,
            ).to(tl.float32)
            picked += tl.sum(tl.where(k0 + k == c[:, :, None], x, 0.0), 2)
            x = tl.where(inside, x, float("-inf"))
            higher = tl.maximum(peak, tl.max(x, 2))
            # all −inf so far: nothing to rescale, and no ∞ − ∞
            peak = tl.where(peak == float("-inf"), higher, peak)
            base = tl.where(higher == float("-inf"), 0.0, higher)
            e = tl.exp(x - base[:, :, None])
            mass = mass * tl.exp(tl.where(peak == higher, 0.0, peak - base)) + tl.sum(e, 2)
            peak = higher
        known = (c >= 0) & (c < width)
        nll = tl.where(known, tl.log(mass) - (picked - peak), float("nan"))
        _add(partial + code + h, tl.sum(tl.where(item, nll, 0.0), 0), exists, first)
        total += tl.sum(tl.where(item, weight[None, :] * nll, 0.0), 1)
        if GRAD:
            base = tl.where(peak == float("-inf"), 0.0, peak)
            factor = (scale * weight)[None, :, None]
            for k0 in range(0, width, PADDED):
                inside = exists[None, :, None] & (k0 + k < width)
                if not ONE_CHUNK:
                    x = tl.load(
                        q_rows[:, None, None] + (start + k0 + k).to(tl.int64) * q_col,
                        mask=item[:, :, None] & inside,
                        other=0.0,
                    ).to(tl.float32)
                    e = tl.exp(x - base[:, :, None])
                g = e / mass[:, :, None] - tl.where(k0 + k == c[:, :, None], 1.0, 0.0)
                g = tl.where(known[:, :, None], factor * g, float("nan"))
                if MASKED:
                    g = tl.where(item[:, :, None], g, 0.0)
                tl.store(
                    dq_rows[:, None, None] + start + k0 + k,
                    g,
                    mask=live[:, None, None] & inside,
                )
    return total


@triton.jit
def _bernoulli(
    q_rows, q_col, dq_rows, cat_rows, cat_col, label_rows, label_col, weight_ptr, partial,
    scale, live, first, column, n, code, target,
    HEADS: tl.constexpr, GRAD: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Compute a run of Bernoullis; return the rows' weighted NLL [BLOCK_B]."""
    total = tl.zeros(live.shape, tl.float32)
    for h0 in range(0, n, HEADS):
        h = h0 + tl.arange(0, HEADS)
        exists = h < n
        weight = tl.load(weight_ptr + code + h, mask=exists, other=0.0)
        there = live[:, None] & exists[None, :]
        item = _is_labelled(there, label_rows, label_col, code + h, MASKED)
        c = tl.load(
            cat_rows[:, None] + (target + h)[None, :].to(tl.int64) * cat_col, mask=item, other=0
        ).to(tl.int64)
        x = tl.load(
            q_rows[:, None] + (column + h)[None, :].to(tl.int64) * q_col, mask=item, other=0.0
        ).to(tl.float32)
        sign = tl.where(c == 1, 1.0, -1.0)
        nll, slope = _softplus(-sign * x)
        known = (c == 0) | (c == 1)
        nll = tl.where(known, nll, float("nan"))
        _add(partial + code + h, tl.sum(tl.where(item, nll, 0.0), 0), exists, first)
        total += tl.sum(tl.where(item, weight[None, :] * nll, 0.0), 1)
        if GRAD:
            g = tl.where(known, -(scale * weight)[None, :] * sign * slope, float("nan"))
            if MASKED:
                g = tl.where(item, g, 0.0)
            tl.store(dq_rows[:, None] + (column + h)[None, :], g, mask=there)
    return total


@triton.jit
def _continuous(
    q_rows, q_col, dq_rows, cont_rows, cont_col, label_rows, label_col, weight_ptr, partial,
    scale, live, first, constant, inverse_sigma, column, width, n, code, target,
    PADDED: tl.constexpr, HEADS: tl.constexpr, LEARNS: tl.constexpr, GRAD: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Compute a run of continuous codes; return the rows' weighted NLL [BLOCK_B]."""
    total = tl.zeros(live.shape, tl.float32)
    k = tl.arange(0, PADDED)[None, None, :]
    for h0 in range(0, n, HEADS):
        h = h0 + tl.arange(0, HEADS)
        exists = h < n
        weight = tl.load(weight_ptr + code + h, mask=exists, other=0.0)
        there = live[:, None] & exists[None, :]
        item = _is_labelled(there, label_rows, label_col, code + h, MASKED)
        factor = (scale * weight)[None, :, None]
        start = column + h * width * (2 if LEARNS else 1)
        start = start[None, :, None]
        nll = tl.zeros(item.shape, tl.float32)
        for k0 in range(0, width, PADDED):
            inside = exists[None, :, None] & (k0 + k < width)
            stored = live[:, None, None] & inside
            mask = stored
            if MASKED:
                mask = stored & item[:, :, None]
            c = tl.load(
                cont_rows[:, None, None]
                + (target + h[None, :, None] * width + k0 + k).to(tl.int64) * cont_col,
                mask=mask,
                other=0.0,
            ).to(tl.float32)
            mean = tl.load(
                q_rows[:, None, None] + (start + k0 + k).to(tl.int64) * q_col, mask=mask, other=0.0
            ).to(tl.float32)
            if LEARNS:
                raw = tl.load(
                    q_rows[:, None, None] + (start + width + k0 + k).to(tl.int64) * q_col,
                    mask=mask,
                    other=0.0,
                ).to(tl.float32)
                s = tl.where(raw > 16.0, 16.0, tl.where(raw < -16.0, -16.0, raw))  # NaN stays
                precision = tl.exp(-s)
                z2 = (c - mean) * (c - mean) * precision
                each = constant + 0.5 * (s + z2)
                if GRAD:
                    g = factor * (mean - c) * precision
                    tl.store(dq_rows[:, None, None] + start + k0 + k, g, mask=stored)
                    kept = (raw >= -16.0) & (raw <= 16.0)
                    if MASKED:
                        kept = kept & item[:, :, None]
                    tl.store(
                        dq_rows[:, None, None] + start + width + k0 + k,
                        tl.where(kept, factor * (0.5 - 0.5 * z2), 0.0),
                        mask=stored,
                    )
            else:
                z = (mean - c) * inverse_sigma
                each = constant + 0.5 * z * z
                if GRAD:
                    tl.store(
                        dq_rows[:, None, None] + start + k0 + k,
                        factor * z * inverse_sigma,
                        mask=stored,
                    )
            nll += tl.sum(tl.where(mask, each, 0.0), 2)
        _add(partial + code + h, tl.sum(nll, 0), exists, first)
        total += tl.sum(weight[None, :] * nll, 1)
    return total


@triton.jit
def _angle(
    q_rows, q_col, dq_rows, cont_rows, cont_col, label_rows, label_col, weight_ptr, partial,
    scale, live, first, column, n, code, target,
    HEADS: tl.constexpr, LEARNS: tl.constexpr, GRAD: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Compute a run of angles; return the rows' weighted NLL [BLOCK_B]."""
    LOG_2PI: tl.constexpr = 1.8378770664093453
    LOG_2PI_I0_OF_1: tl.constexpr = 2.073791424916524
    total = tl.zeros(live.shape, tl.float32)
    for h0 in range(0, n, HEADS):
        h = h0 + tl.arange(0, HEADS)
        exists = h < n
        weight = tl.load(weight_ptr + code + h, mask=exists, other=0.0)
        there = live[:, None] & exists[None, :]
        item = _is_labelled(there, label_rows, label_col, code + h, MASKED)
        angle = tl.load(
            cont_rows[:, None] + (target + h)[None, :].to(tl.int64) * cont_col,
            mask=item,
            other=0.0,
        ).to(tl.float32)
        place = (column + 2 * h)[None, :].to(tl.int64)
        a = tl.load(q_rows[:, None] + place * q_col, mask=item, other=0.0).to(tl.float32)
        b = tl.load(q_rows[:, None] + (place + 1) * q_col, mask=item, other=0.0).to(tl.float32)
        cos, sin = _cos_sin(angle)
        square = a * a + b * b
        along = a * cos + b * sin
        if LEARNS:
            log_i0, ratio = _log_bessel(square)
            nll = LOG_2PI + log_i0 - along
            towards_a = ratio * a - cos
            towards_b = ratio * b - sin
        else:
            inverse = 1.0 / tl.sqrt(tl.where(square > 0.0, square, 1.0))  # NaN becomes 1
            inverse = tl.where(square == square, inverse, square)
            along = along * inverse
            nll = LOG_2PI_I0_OF_1 - along
            towards_a = inverse * (along * inverse * a - cos)
            towards_b = inverse * (along * inverse * b - sin)
        _add(partial + code + h, tl.sum(tl.where(item, nll, 0.0), 0), exists, first)
        total += tl.sum(tl.where(item, weight[None, :] * nll, 0.0), 1)
        if GRAD:
            factor = (scale * weight)[None, :]
            towards_a = factor * towards_a
            towards_b = factor * towards_b
            if MASKED:
                towards_a = tl.where(item, towards_a, 0.0)
                towards_b = tl.where(item, towards_b, 0.0)
            tl.store(dq_rows[:, None] + place, towards_a, mask=there)
            tl.store(dq_rows[:, None] + place + 1, towards_b, mask=there)
    return total


@triton.jit
def _adversarial(x, other, real, LOSS: tl.constexpr, GENERATOR: tl.constexpr):
    """Return each logit's loss and its derivative, with the sign +1 where D should say real.

    `other` is the logit of the row's partner on the other side, for RELATIVE alone, whose loss
    counts once per pair: on a discriminator's real rows, on a generator's only rows.
    """
    sign = tl.where(real, 1.0, 1.0 if GENERATOR else -1.0)
    if LOSS == SOFTPLUS:
        loss, slope = _softplus(-sign * x)
        return loss, -sign * slope
    elif LOSS == HINGE:
        margin = 1.0 - sign * x
        inside = (margin > 0.0) | (margin != margin)
        return tl.where(inside, margin, 0.0), tl.where(inside, -sign, 0.0)
    elif LOSS == SQUARE:
        error = x - tl.where(sign > 0.0, 1.0, 0.0)
        return 0.5 * error * error, error
    elif LOSS == RELATIVE:
        loss, slope = _softplus(sign * (other - x))
        return tl.where(sign > 0.0, loss, 0.0), -sign * slope
    else:  # LINEAR: WGAN, and the generator's side of the hinge
        return -sign * x, -sign


@triton.jit
def _sum_rows(partial_ptr, column, exists, programs, WIDTH: tl.constexpr, BLOCK_P: tl.constexpr):
    """Return the sums over the programs, [columns], added in a fixed order."""
    p = tl.arange(0, BLOCK_P)[:, None]
    acc = tl.zeros((BLOCK_P, column.shape[0]), tl.float32)
    for p0 in range(0, programs, BLOCK_P):
        acc += tl.load(
            partial_ptr + (p0 + p) * WIDTH + column[None, :],
            mask=(p0 + p < programs) & exists[None, :],
            other=0.0,
            cache_modifier=".cg",  # written by other programs, so this one's cache may be stale
        )
    return tl.sum(acc, 0)


@triton.jit(
    do_not_specialize=["n_rows", "n_real", "q_first", "n_runs"],
    # a capture's counter is any element of an array; its alignment must not cost a compilation
    do_not_specialize_on_alignment=["counter_ptr", "table_ptr"],
)
def head_loss_kernel(
    q_ptr,  # [n_rows - q_first, ≥ Q_DIM]: row r of the logits is row r - q_first here
    cat_ptr,  # [n_rows - n_real, n_cat], any integer type
    cont_ptr,  # [n_rows - n_real, n_cont], any floating type
    weight_ptr,  # fp32 [N_CODES]
    logit_ptr,  # [n_rows], where LOSS
    dq_ptr,  # [n_rows - q_first, Q_DIM] contiguous, where GRAD: scale · weight · dNLL/dq, 0 on real
    dlogit_ptr,  # fp32 [n_rows], where LOSS and GRAD
    row_ptr,  # fp32 [n_rows - n_real], where PER_ROW: weighted NLL of each row
    code_ptr,  # fp32 [N_CODES]: code_scale · Σ_rows NLL
    total_ptr,  # fp32 [1], unless PER_ROW: scale · Σ_codes weight · Σ_rows NLL
    adversarial_ptr,  # fp32 [1], where LOSS
    partial_ptr,  # fp32 [programs, N_CODES + 2]: workspace
    counter_ptr,  # int32 [1]: workspace, zero before and after
    table_ptr,  # int32 [n_runs, FIELDS], where TABLE
    label_ptr,  # uint8 [n_rows - n_real, N_CODES], where MASKED: 0 where a label is missing
    other_ptr,  # where LOSS is RELATIVE: D's logits again, or on real images for the generator
    n_rows,
    n_real,  # rows in front that have a logit and no code
    q_first,  # n_real where q has no rows for those, else 0
    q_stride,
    q_col,
    cat_stride,
    cat_col,
    cont_stride,
    cont_col,
    logit_stride,
    label_stride,
    label_col,
    other_stride,
    constant,  # ½ log 2π + log σ of a fixed σ
    inverse_sigma,
    scale,  # of the information loss: 1 / rows for a mean
    code_scale,
    n_runs,
    RUNS: tl.constexpr,  # the layout, flat, FIELDS numbers per run; () where TABLE
    TABLE: tl.constexpr,
    N_CODES: tl.constexpr,
    Q_DIM: tl.constexpr,
    BLOCK_B: tl.constexpr,
    CAT_PADDED: tl.constexpr,  # widths of the table's tiles
    CONT_PADDED: tl.constexpr,
    LOSS: tl.constexpr,
    GENERATOR: tl.constexpr,
    GRAD: tl.constexpr,
    PER_ROW: tl.constexpr,
    MASKED: tl.constexpr,
    ANGLES: tl.constexpr,  # whether there is an angle among the runs
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Compute the losses and gradients that `launch.launch` describes."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    WIDTH: tl.constexpr = N_CODES + 2
    LEARNED_HALF_LOG_2PI: tl.constexpr = 0.9189385332046727
    partial = partial_ptr + program * WIDTH
    for block in range(program, tl.cdiv(n_rows, BLOCK_B), programs):
        first = block == program
        row = block * BLOCK_B + tl.arange(0, BLOCK_B).to(tl.int64)
        live = row < n_rows
        q_row, code_row = row, row
        if LOSS != NO_LOSS:
            live = live & (row >= n_real)
            q_row, code_row = row - q_first, row - n_real
        q_rows = q_ptr + q_row * q_stride
        dq_rows = dq_ptr + q_row * Q_DIM
        cat_rows = cat_ptr + code_row * cat_stride
        cont_rows = cont_ptr + code_row * cont_stride
        label_rows = label_ptr
        if MASKED:
            label_rows = label_ptr + code_row * label_stride
        total = tl.zeros([BLOCK_B], tl.float32)
        if TABLE:
            for r in range(n_runs):
                run = table_ptr + r * FIELDS
                kind, column, width = tl.load(run), tl.load(run + 1), tl.load(run + 2)
                n, code, target = tl.load(run + 3), tl.load(run + 4), tl.load(run + 5)
                if kind == CATEGORICAL:
                    total += _categorical(
                        q_rows, q_col, dq_rows, cat_rows, cat_col, label_rows, label_col,
                        weight_ptr, partial, scale, live, first, column, width, n, code, target,
                        CAT_PADDED, 1, False, GRAD, MASKED,
                    )  # fmt: skip
                elif kind == BERNOULLI:
                    total += _bernoulli(
                        q_rows, q_col, dq_rows, cat_rows, cat_col, label_rows, label_col,
                        weight_ptr, partial, scale, live, first, column, n, code, target,
                        1, GRAD, MASKED,
                    )  # fmt: skip
                elif kind == FIXED:
                    total += _continuous(
                        q_rows, q_col, dq_rows, cont_rows, cont_col, label_rows, label_col,
                        weight_ptr, partial, scale, live, first, constant, inverse_sigma,
                        column, width, n, code, target, CONT_PADDED, 1, False, GRAD, MASKED,
                    )  # fmt: skip
                elif ANGLES:
                    if kind == LEARNED:
                        total += _continuous(
                            q_rows, q_col, dq_rows, cont_rows, cont_col, label_rows, label_col,
                            weight_ptr, partial, scale, live, first, LEARNED_HALF_LOG_2PI,
                            inverse_sigma, column, width, n, code, target,
                            CONT_PADDED, 1, True, GRAD, MASKED,
                        )  # fmt: skip
                    elif kind == ANGLE:
                        total += _angle(
                            q_rows, q_col, dq_rows, cont_rows, cont_col, label_rows, label_col,
                            weight_ptr, partial, scale, live, first, column, n, code, target,
                            1, False, GRAD, MASKED,
                        )  # fmt: skip
                    else:
                        total += _angle(
                            q_rows, q_col, dq_rows, cont_rows, cont_col, label_rows, label_col,
                            weight_ptr, partial, scale, live, first, column, n, code, target,
                            1, True, GRAD, MASKED,
                        )  # fmt: skip
                else:
                    total += _continuous(
                        q_rows, q_col, dq_rows, cont_rows, cont_col, label_rows, label_col,
                        weight_ptr, partial, scale, live, first, LEARNED_HALF_LOG_2PI,
                        inverse_sigma, column, width, n, code, target,
                        CONT_PADDED, 1, True, GRAD, MASKED,
                    )  # fmt: skip
        else:
            for r in tl.static_range(len(RUNS) // FIELDS):
                total += _run(
                    q_rows, q_col, dq_rows, cat_rows, cat_col, cont_rows, cont_col, label_rows,
                    label_col, weight_ptr, partial, scale, live, first, constant, inverse_sigma,
                    RUNS[FIELDS * r], RUNS[FIELDS * r + 1], RUNS[FIELDS * r + 2],
                    RUNS[FIELDS * r + 3], RUNS[FIELDS * r + 4], RUNS[FIELDS * r + 5],
                    RUNS[FIELDS * r + 6], RUNS[FIELDS * r + 7], GRAD, MASKED,
                )  # fmt: skip
        if PER_ROW:
            tl.store(row_ptr + code_row, total, mask=live)
        if LOSS != NO_LOSS:
            exists = row < n_rows
            real = row < n_real
            x = tl.load(logit_ptr + row * logit_stride, mask=exists, other=0.0).to(tl.float32)
            other = x
            if LOSS == RELATIVE:
                partner = row
                if not GENERATOR:  # the pair's other half lies n_real rows further, or before
                    partner = tl.where(real, row + n_real, row - n_real)
                other = tl.load(other_ptr + partner * other_stride, mask=exists, other=0.0)
                other = other.to(tl.float32)
            loss, slope = _adversarial(x, other, real, LOSS, GENERATOR)
            side = tl.arange(0, 2)  # real, fake
            chosen = exists[:, None] & (real[:, None] == (side == 0)[None, :])
            _add(
                partial + N_CODES + side,
                tl.sum(tl.where(chosen, loss[:, None], 0.0), 0),
                side < 2,
                first,
            )
            if GRAD:
                slope /= tl.maximum(tl.where(real, n_real, n_rows - n_real), 1)
                tl.store(dlogit_ptr + row, slope, mask=exists)
                if q_first == 0:  # where q has rows for the real images, their gradient is zero
                    for column in range(0, Q_DIM, 16):
                        columns = column + tl.arange(0, 16)
                        tl.store(
                            dq_rows[:, None] + columns[None, :],
                            tl.zeros((BLOCK_B, 16), tl.float32),
                            mask=real[:, None] & (columns < Q_DIM)[None, :],
                        )
    # A program writes all of its sums before it adds to the counter, so the last program reads
    # complete sums of all others.
    tl.debug_barrier()
    done = tl.atomic_add(counter_ptr, 1, sem="acq_rel")
    if done == programs - 1:
        total = 0.0
        for c0 in range(0, N_CODES, BLOCK_C):
            code = c0 + tl.arange(0, BLOCK_C)
            exists = code < N_CODES
            sums = _sum_rows(partial_ptr, code, exists, programs, WIDTH, BLOCK_P)
            tl.store(code_ptr + code, code_scale * sums, mask=exists)
            weight = tl.load(weight_ptr + code, mask=exists, other=0.0)
            total += tl.sum(weight * sums, 0)
        if not PER_ROW:
            tl.store(total_ptr, scale * total)
        if LOSS != NO_LOSS:
            side = tl.arange(0, 2)
            sums = _sum_rows(partial_ptr, N_CODES + side, side < 2, programs, WIDTH, BLOCK_P)
            count = tl.maximum(tl.where(side == 0, n_real, n_rows - n_real), 1)
            tl.store(adversarial_ptr, tl.sum(sums / count, 0))
        tl.store(counter_ptr, 0)


@triton.jit
def _run(
    q_rows, q_col, dq_rows, cat_rows, cat_col, cont_rows, cont_col, label_rows, label_col,
    weight_ptr, partial, scale, live, first, constant, inverse_sigma,
    KIND: tl.constexpr, COLUMN: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr,
    CODE: tl.constexpr, TARGET: tl.constexpr, PADDED: tl.constexpr, HEADS: tl.constexpr,
    GRAD: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Compute one run whose fields are compile-time constants."""
    if KIND == CATEGORICAL:
        return _categorical(
            q_rows, q_col, dq_rows, cat_rows, cat_col, label_rows, label_col, weight_ptr, partial,
            scale, live, first, COLUMN, WIDTH, N, CODE, TARGET,
            PADDED, HEADS, WIDTH <= PADDED, GRAD, MASKED,
        )  # fmt: skip
    elif KIND == BERNOULLI:
        return _bernoulli(
            q_rows, q_col, dq_rows, cat_rows, cat_col, label_rows, label_col, weight_ptr, partial,
            scale, live, first, COLUMN, N, CODE, TARGET, HEADS, GRAD, MASKED,
        )  # fmt: skip
    elif KIND == FIXED:
        return _continuous(
            q_rows, q_col, dq_rows, cont_rows, cont_col, label_rows, label_col, weight_ptr,
            partial, scale, live, first, constant, inverse_sigma,
            COLUMN, WIDTH, N, CODE, TARGET, PADDED, HEADS, False, GRAD, MASKED,
        )  # fmt: skip
    elif KIND == LEARNED:
        return _continuous(
            q_rows, q_col, dq_rows, cont_rows, cont_col, label_rows, label_col, weight_ptr,
            partial, scale, live, first, 0.9189385332046727, inverse_sigma,
            COLUMN, WIDTH, N, CODE, TARGET, PADDED, HEADS, True, GRAD, MASKED,
        )  # fmt: skip
    else:
        return _angle(
            q_rows, q_col, dq_rows, cont_rows, cont_col, label_rows, label_col, weight_ptr,
            partial, scale, live, first, COLUMN, N, CODE, TARGET,
            HEADS, KIND == LEARNED_ANGLE, GRAD, MASKED,
        )  # fmt: skip
