"""All latents of a batch in one launch: G's input and both target tensors.

Every number is a function of its address, (seed, step, stream, row, word): Philox4x32-10 with
counter (row, word // 4, step, stream), each mod 2³², and key (seed mod 2³², seed // 2³²); lane
word % 4 is the word. So the rows do not depend on how many ranks draw them. Let w, w' be words:

    categorical   ⌊w·n / 2³²⌋: multiply-high, no division, biased by less than n/2³²
    weighted      the class k with thresholds[k] ≤ w < thresholds[k + 1], in integers
    bernoulli     w < threshold, in integers
    uniform       u·scale + shift, u = ⌊w/2⁸⌋·2⁻²⁴
    angle         θ as a uniform; G's input has cos θ and sin θ
    gaussian      x·scale + shift, x and its neighbour from one pair of words by Box–Muller:
                  √(−2 log(u + 2⁻²⁴))·cos(2πu'), then the same with sin

The layout is a table on the device, so one compiled kernel serves every layout and none is compiled
in the middle of a run. A second kernel adds weighted categoricals and angles, so that they cost
nothing in the first. All floats come from IEEE +, −, ×, √ without fused products:
the same bits on every device, and interpreted. Log, cos and sin are polynomials for that reason,
and because the GPU's fast ones are less accurate than the rows have to be. Over all 2²⁴ values of
u the relative error of the radius is at most 9.9e-8, and that of the cosine and sine of fp32(2πu)
at most 1.31e-7, so a standard normal is within 2.9e-7 of Box–Muller.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .memory import keep, keep_for_good

_CATEGORICAL, _BERNOULLI, _UNIFORM, _GAUSSIAN, _WEIGHTED, _ANGLE = range(6)
_KINDS = {
    "categorical": _CATEGORICAL,
    "bernoulli": _BERNOULLI,
    "uniform": _UNIFORM,
    "gaussian": _GAUSSIAN,
    "weighted": _WEIGHTED,
    "angle": _ANGLE,
}
CATEGORICAL = tl.constexpr(_CATEGORICAL)
BERNOULLI = tl.constexpr(_BERNOULLI)
UNIFORM = tl.constexpr(_UNIFORM)
WEIGHTED = tl.constexpr(_WEIGHTED)
ANGLE = tl.constexpr(_ANGLE)
_DISCRETE = (_CATEGORICAL, _BERNOULLI, _WEIGHTED)

# A program's tile of G's input. Small: a batch of the paper's size must still fill some SMs.
_ROWS, _COLUMNS = 16, 64
_FIELDS = 10  # of `Piece`, in a row of the table
FIELDS = tl.constexpr(_FIELDS)
# The launcher's options, and the ahead-of-time compiler's. No fused products: see above.
OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": False}


class Piece(NamedTuple):
    """Up to `_COLUMNS` neighbouring columns of G's input, part of a run of equal codes.

    Column j of the run belongs to its code j // width.
    """

    kind: int
    start: int  # j of the first column
    stop: int  # j after the last
    width: int  # columns of a code: classes, dims of a Gaussian, 2 of an angle, else 1
    words: int  # words of a code: a Gaussian's dims made even, else 1
    word: int  # the run's first word
    column: int  # the run's first column in G's input
    target: int  # the run's first column in its target tensor; -1: noise, which has none
    # a Bernoulli's threshold; all thresholds of a weighted categorical; unused by a plain one
    scale: int | float | tuple[int, ...]
    shift: float


class Plan(NamedTuple):
    """All that is drawn for a row, and the widths of the three outputs. Hashable."""

    pieces: tuple[Piece, ...]
    input_dim: int
    n_cat: int
    n_cont: int

    @property
    def extended(self) -> bool:
        """Weighted categoricals or angles among the codes: the second of the two kernels."""
        return any(piece.kind in (_WEIGHTED, _ANGLE) for piece in self.pieces)


class Latents(NamedTuple):
    """The three outputs, the fields of `fastinfogan.latents.LatentBatch`."""

    input: Tensor  # float32 [B, input_dim]
    categorical: Tensor  # int64 [B, n_cat]
    continuous: Tensor  # float32 [B, n_cont]


def make_plan(
    noise: int, codes: Iterable[tuple[str, int, int | float | tuple[int, ...], float]]
) -> Plan:
    """Return the plan of `noise` standard normals, then the codes in their order.

    Args:
        noise: columns, ≥ 0.
        codes: (kind, width, scale, shift) each: ("categorical", n, 0, 0);
            ("bernoulli", 1, threshold, 0) with an integer threshold in [0, 2³²], the bit being
            word < threshold; ("uniform", dims, high − low, low); ("gaussian", dims, std, mean);
            ("weighted", n, thresholds, 0) with n + 1 integers that do not fall, from 0 to 2³²;
            ("angle", 1, 2π, −π), each rounded so that θ stays in [−π, π).

    Raises ValueError for another kind, a width below 1, other thresholds, no code, or 2³¹
    columns or words and more.
    """
    # (kind, width, scale, shift, count of codes, word, column, target) of equal neighbours
    runs: list[tuple[int, int, int | float | tuple[int, ...], float, int, int, int, int]] = []
    word = column = cat = cont = 0
    if noise:
        runs.append((_GAUSSIAN, noise, 1.0, 0.0, 1, 0, 0, -1))
        word, column = _words(_GAUSSIAN, noise), noise
    for name, width, scale, shift in codes:
        if name not in _KINDS or width < 1 or (name in ("bernoulli", "angle") and width != 1):
            raise ValueError(
                f"expected one of {sorted(_KINDS)} and a width ≥ 1 (bernoulli and angle: 1), "
                f"got {name!r}, {width!r}"
            )
        if name == "weighted" and not _are_thresholds(scale, width):
            raise ValueError(
                f"weighted: expected {width + 1} thresholds that do not fall, from 0 to 2³², "
                f"got {scale!r}"
            )
        kind = _KINDS[name]
        # a Uniform's dims are drawn like so many codes of one dim
        count, width = (width, 1) if kind == _UNIFORM else (1, width)
        discrete, targets = kind in _DISCRETE, width if kind == _GAUSSIAN else 1
        width = 2 if kind == _ANGLE else width
        target = cat if discrete else cont
        if runs and runs[-1][:4] == (kind, width, scale, shift) and runs[-1][-1] >= 0:
            *same, before, first_word, first_column, first_target = runs.pop()
            run = (*same, before + count, first_word, first_column, first_target)
        else:
            run = (kind, width, scale, shift, count, word, column, target)
        runs.append(run)  # type: ignore[arg-type]
        word += count * _words(kind, width)
        column += count * width
        cat += discrete
        cont += 0 if discrete else count * targets
    if not cat + cont:
        raise ValueError("a plan needs at least one code, got none")
    if max(column, word) >= 2**31:
        raise ValueError(f"a row can have fewer than 2³¹ columns and words, got {column}, {word}")
    pieces = tuple(
        Piece(
            kind,
            start,
            min(start + _COLUMNS, count * width),
            width,
            _words(kind, width),
            first_word,
            first_column,
            target,
            scale,
            shift,
        )
        for kind, width, scale, shift, count, first_word, first_column, target in runs
        for start in range(0, count * width, _COLUMNS)
    )
    return Plan(pieces, column, cat, cont)


def _are_thresholds(scale: object, width: int) -> bool:
    return (
        isinstance(scale, tuple)
        and len(scale) == width + 1
        and (scale[0], scale[-1]) == (0, 2**32)
        and all(a <= b for a, b in pairwise(scale))
    )


def _words(kind: int, width: int) -> int:
    return width + width % 2 if kind == _GAUSSIAN else 1


@keep_for_good  # a captured graph holds its address
def _table(plan: Plan, device: torch.device) -> Tensor:
    """Return the plan as int64 [rows, _FIELDS] on the device.

    A row per piece, its floats as the bits of an fp32; then the thresholds, to which the scale of
    a weighted piece is their place in the table.
    """
    rows = [[*piece[:8], 0, 0] for piece in plan.pieces]
    places: dict[tuple[int, ...], int] = {}
    thresholds: list[int] = []
    for row, piece in zip(rows, plan.pieces, strict=True):
        if isinstance(piece.scale, tuple):
            if piece.scale not in places:
                places[piece.scale] = len(rows) * _FIELDS + len(thresholds)
                thresholds += piece.scale
            row[8] = places[piece.scale]
        elif piece.kind == _BERNOULLI:
            assert isinstance(piece.scale, int)
            row[8] = piece.scale
        else:
            floats = torch.tensor([piece.scale, piece.shift], dtype=torch.float64)
            row[8:] = floats.to(torch.float32).view(torch.int32).tolist()
    thresholds += [0] * (-len(thresholds) % _FIELDS)
    flat = [field for row in rows for field in row] + thresholds
    table = torch.tensor(flat, dtype=torch.int64).view(-1, _FIELDS)
    return keep(device, lambda: table.to(device))


@triton.jit
def _word(seed, row, word, step, stream):
    """Return the word at each (row, word), uint32 of the shape of `word`."""
    # tl.philox takes its shape from the counter's first part
    row, block = tl.broadcast(row, (word // 4).to(tl.uint32))
    a, b, c, d = tl.philox(seed, row, block, step, stream)
    lane = word % 4
    return tl.where(lane < 2, tl.where(lane == 0, a, b), tl.where(lane == 2, c, d))


@triton.jit
def _radius(word):
    """Return √(−2 log u), u = (⌊word/2⁸⌋ + 1)·2⁻²⁴ in (0, 1]. Relative error ≤ 9.9e-8."""
    bits = ((word >> 8) + 1).to(tl.float32).to(tl.int32, bitcast=True)
    mantissa = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    upper = mantissa > 1.4142135
    exponent = ((bits >> 23) - 127 - 24 + upper.to(tl.int32)).to(tl.float32)
    # log u = exponent·log 2 + log(1 + x), √½ − 1 ≤ x ≤ √2 − 1: near u = 1 nothing cancels
    x = tl.where(upper, mantissa * 0.5, mantissa) - 1.0
    # (log(1 + x) − x + x²/2)/x³, minimax: 7.5e-10 of log(1 + x)
    p = 0.06746640801429749 * x - 0.11675652116537094
    p = p * x + 0.11888162046670914
    p = p * x - 0.1240558922290802
    p = p * x + 0.14219552278518677
    p = p * x - 0.1666799634695053
    p = p * x + 0.2000211924314499
    p = p * x - 0.25000008940696716
    p = p * x + 0.3333331346511841
    square = x * x
    # log 2 as 355/512, whose product with an exponent is exact, and the rest
    small = p * (x * square) - 0.00021219444 * exponent - 0.5 * square
    return tl.sqrt_rn((x + small + 0.693359375 * exponent) * -2.0)


@triton.jit
def _cosine(word, sine):
    """Return cos (sin where `sine` is 1) of fp32(2πu), u = ⌊word/2⁸⌋·2⁻²⁴. Error ≤ 1.31e-7."""
    turn = (word >> 8).to(tl.int32)
    # The reference rounds the angle to fp32, which moves it by up to 4e-7. That is more than the
    # rows may differ by, so the rounding is part of the definition.
    angle = (turn.to(tl.float32) * 5.9604644775390625e-08) * 6.2831854820251465
    return _cosine_of(angle, (turn + 0x200000) >> 22, sine)


@triton.jit
def _cosine_of(angle, quarter, sine):
    """Return cos (sin where `sine` is 1) of an angle near quarter·π/2."""
    # subtract quarter·π/2 in three parts; the products of the first two are exact
    k = quarter.to(tl.float32)
    x = ((angle - k * 1.57080078125) - k * -4.454454938240815e-06) - k * -1.6513992864147786e-13
    square = x * x
    # minimax over |x| ≤ π/4: 3.8e-9 and 1.2e-10 relative
    s = -0.00019515282474458218 * square + 0.00833216030150652
    s = s * square - 0.16666655242443085
    s = x + (x * square) * s
    c = 2.44331567955669e-05 * square - 0.0013887316454201937
    c = c * square + 0.04166664555668831
    c = (1.0 - 0.5 * square) + (square * square) * c
    # sin(a) is cos(a − π/2); cos runs through c, −s, −c, s
    quarter = (quarter + 3 * sine) & 3
    value = tl.where((quarter & 1) == 0, c, s)
    return tl.where((quarter == 1) | (quarter == 2), -value, value)


@triton.jit(
    do_not_specialize=[
        "seed_low",
        "seed_high",
        "step",
        "stream",
        "first_row",
        "batch",
        "pieces",
        "input_stride",
        "categorical_stride",
        "continuous_stride",
    ],
    do_not_specialize_on_alignment=["input", "categorical", "continuous", "table", "step"],
)
def sample_kernel(
    input,  # float32 [batch, input_dim]
    categorical,  # int64 [batch, n_cat]
    continuous,  # float32 [batch, n_cont]
    table,  # int64 [pieces, FIELDS], then thresholds
    step,  # int32, or an int64 pointer
    seed_low,  # int32, as all that is not a pointer, of 32-bit patterns
    seed_high,
    stream,
    first_row,
    batch,
    pieces,
    input_stride,
    categorical_stride,
    continuous_stride,
    STEP_ON_DEVICE: tl.constexpr,
    EXTENDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write a piece, `ROWS` rows by `COLUMNS` columns of G's input, and its targets."""
    program = tl.program_id(0)
    record = table + (program % pieces) * FIELDS
    kind = tl.load(record)
    start = tl.load(record + 1).to(tl.int32)
    stop = tl.load(record + 2).to(tl.int32)
    width = tl.load(record + 3).to(tl.int32)
    words = tl.load(record + 4).to(tl.int32)
    first_word = tl.load(record + 5).to(tl.int32)
    column = tl.load(record + 6)
    target = tl.load(record + 7)
    scale_bits = tl.load(record + 8)
    shift_bits = tl.load(record + 9)

    row = (program // pieces).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    j = start + tl.arange(0, COLUMNS)[None, :]
    inside = (row < batch) & (j < stop)
    code = j // width
    k = j - code * width

    if STEP_ON_DEVICE:
        step = tl.load(step)
    step = (step.to(tl.int64) & 0xFFFFFFFF).to(tl.uint32)
    stream = stream.to(tl.uint32)
    seed = (seed_high.to(tl.int64) << 32) | (seed_low.to(tl.int64) & 0xFFFFFFFF)
    # in 64 bits, then cut: the row's place wraps at 2³² as the reference's does
    place = ((row + first_row) & 0xFFFFFFFF).to(tl.uint32)
    into = input + row * input_stride + column + j

    is_extended = False
    if EXTENDED:
        is_extended = (kind == WEIGHTED) | (kind == ANGLE)
        if kind == WEIGHTED:
            # A column compares with its own class's two thresholds: one column is hot, and
            # writes its class.
            whole = _word(seed, place, first_word + code, step, stream).to(tl.int64)
            thresholds = table + scale_bits + k
            low = tl.load(thresholds, mask=j < stop, other=0)
            high = tl.load(thresholds + 1, mask=j < stop, other=0)
            hot = (low <= whole) & (whole < high)
            tl.store(into, hot.to(tl.float32), mask=inside)
            to_class = categorical + row * categorical_stride + target + code
            tl.store(to_class, k.to(tl.int64), mask=inside & hot)
        if kind == ANGLE:
            word = _word(seed, place, first_word + code, step, stream)
            scale = scale_bits.to(tl.int32).to(tl.float32, bitcast=True)
            shift = shift_bits.to(tl.int32).to(tl.float32, bitcast=True)
            turn = (word >> 8).to(tl.int32)
            theta = (turn.to(tl.float32) * 5.9604644775390625e-08) * scale + shift
            value = _cosine_of(theta, ((turn + 0x200000) >> 22) - 2, k)
            tl.store(into, value, mask=inside)
            to_angle = continuous + row * continuous_stride + target + code
            tl.store(to_angle, theta, mask=inside & (k == 0))

    if is_extended:
        pass
    elif (kind == CATEGORICAL) | (kind == BERNOULLI):
        whole = _word(seed, place, first_word + code, step, stream).to(tl.int64)
        is_bit = kind == BERNOULLI
        # n < 2³¹: the product stays in 63 bits; the threshold may be 2³² itself
        choice = tl.where(is_bit, (whole < scale_bits).to(tl.int64), (whole * width) >> 32)
        tl.store(into, (choice == tl.where(is_bit, 1, k)).to(tl.float32), mask=inside)
        to_class = categorical + row * categorical_stride + target + code
        tl.store(to_class, choice, mask=inside & (k == 0))
    else:
        if kind == UNIFORM:
            word = _word(seed, place, first_word + code, step, stream)
            value = (word >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2⁻²⁴
        else:
            odd = k & 1
            pair = first_word + code * words + k - odd
            radius = _radius(_word(seed, place, pair, step, stream))
            value = radius * _cosine(_word(seed, place, pair + 1, step, stream), odd)
        scale = scale_bits.to(tl.int32).to(tl.float32, bitcast=True)
        shift = shift_bits.to(tl.int32).to(tl.float32, bitcast=True)
        value = value * scale + shift
        tl.store(into, value, mask=inside)
        if target >= 0:  # noise has none
            to_value = continuous + row * continuous_stride + target + j
            tl.store(to_value, value, mask=inside)


INTERPRETED = not isinstance(sample_kernel, triton.JITFunction)


def compile_cases() -> dict[str, dict[str, Any]]:
    """Return the cases to compile ahead of time, as the launcher compiles them: {name: case}.

    A case holds `fn`, `signature` and `constexprs` for `triton.compiler.ASTSource` and `options`
    for `triton.compile`. There are four in all, whatever the spec.
    """
    outputs = {"input": "*fp32", "categorical": "*i64", "continuous": "*fp32", "table": "*i64"}
    cases = {}
    steps = {"step a number": False, "step on the device": True}
    kinds = {"": False, ", priors and angles": True}
    for step, kind in product(steps, kinds):
        on_device = steps[step]
        constexprs = {
            "STEP_ON_DEVICE": on_device,
            "EXTENDED": kinds[kind],
            "ROWS": _ROWS,
            "COLUMNS": _COLUMNS,
        }
        signature = dict.fromkeys(sample_kernel.arg_names, "i32")
        signature.update(outputs, step="*i64" if on_device else "i32")
        signature.update(dict.fromkeys(constexprs, "constexpr"))
        cases[step + kind] = {
            "fn": sample_kernel,
            "signature": signature,
            "constexprs": constexprs,
            "options": dict(OPTIONS),
        }
    return cases


def sample_latents(
    plan: Plan,
    batch: int,
    *,
    device: torch.device | str | None = None,
    seed: int = 0,
    step: int | Tensor = 0,
    stream: int = 0,
    first_row: int = 0,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Latents:
    """Draw rows first_row … first_row + batch − 1 of (seed, step, stream), in one launch.

    Allocates the outputs alone and reads nothing back, so it can be captured in a CUDA graph
    once this plan has been drawn on this device (the first draw copies the plan there).

    Args:
        plan: what to draw, from `make_plan`.
        batch: rows, 0 … 2³¹ − 1.
        device: of the outputs, a CUDA or ROCm one; a CPU's where the kernel is interpreted.
        seed, step, stream, first_row: the draw's address, each taken mod 2³², except the
            seed, which is taken mod 2⁶⁴. step may be an int64 tensor of one element on the device.
        out: tensors to write into, of the shapes and dtypes of `Latents`; columns contiguous,
            rows at any stride. By default new ones.

    Returns:
        Latents(input [batch, input_dim], categorical [batch, n_cat], continuous [batch, n_cont]).

    Raises ValueError for any other argument.
    """
    if not 0 <= batch < 2**31:
        raise ValueError(f"batch must be 0 … 2³¹ − 1, got {batch}")
    if out is None:
        out = (
            torch.empty(batch, plan.input_dim, device=device, dtype=torch.float32),
            torch.empty(batch, plan.n_cat, device=device, dtype=torch.int64),
            torch.empty(batch, plan.n_cont, device=device, dtype=torch.float32),
        )
    latents = Latents(*out)
    _check_outputs(plan, batch, latents)
    where = latents.input.device
    if where.type != "cuda" and not (where.type == "cpu" and INTERPRETED):
        raise ValueError(
            f"the Triton kernel runs on CUDA and ROCm devices, got {str(where)!r}; "
            "it takes CPU tensors where TRITON_INTERPRET=1 is set before its first use"
        )
    if isinstance(step, Tensor) and (
        step.dtype != torch.int64 or step.numel() != 1 or step.device != where
    ):
        raise ValueError(
            f"step must be a number or one int64 on {where}, got {step.dtype} "
            f"{list(step.shape)} on {step.device}"
        )
    if batch:
        with torch.cuda.device_of(latents.input):
            _launch(plan, _table(plan, where), latents, seed, step, stream, first_row)
    return latents


def _check_outputs(plan: Plan, batch: int, out: Latents) -> None:
    widths = (plan.input_dim, plan.n_cat, plan.n_cont)
    for name, tensor, width in zip(Latents._fields, out, widths, strict=True):
        dtype = torch.int64 if name == "categorical" else torch.float32
        if tensor.dtype != dtype or tensor.shape != (batch, width):
            raise ValueError(
                f"{name} must be {dtype} [{batch}, {width}], "
                f"got {tensor.dtype} {list(tensor.shape)}"
            )
        if width > 1 and tensor.stride(1) != 1:
            raise ValueError(f"{name} must have contiguous columns, got stride {tensor.stride(1)}")
        if tensor.device != out.input.device:
            raise ValueError(f"{name} must be on {out.input.device}, got {tensor.device}")


def _launch(
    plan: Plan,
    table: Tensor,
    out: Latents,
    seed: int,
    step: int | Tensor,
    stream: int,
    first_row: int,
) -> None:
    pieces, batch = len(plan.pieces), len(out.input)
    on_device = isinstance(step, Tensor)
    sample_kernel[(math.ceil(batch / _ROWS) * pieces,)](
        *out,
        table,
        step if isinstance(step, Tensor) else _int32(step),
        _int32(seed),
        _int32(seed >> 32),
        _int32(stream),
        _int32(first_row),
        batch,
        pieces,
        *(tensor.stride(0) for tensor in out),
        STEP_ON_DEVICE=on_device,
        EXTENDED=plan.extended,
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
        **OPTIONS,
    )


def _int32(number: int) -> int:
    """Return the low 32 bits, as a signed number: one type for Triton, whatever the number."""
    return (number + 2**31) % 2**32 - 2**31
