"""The launcher of the head-loss kernel: its plan, its workspace and its outputs."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
import triton
from torch import Tensor

from . import many_rows
from .head_loss import head_loss_kernel
from .layout import ANGLE, CATEGORICAL, LEARNED_ANGLE, Layout, columns
from .memory import Workspaces, keep, keep_for_good

Adversarial = Literal["nonsaturating", "hinge", "lsgan", "wgan", "relativistic"]
Player = Literal["discriminator", "generator"]
Reduction = Literal["mean", "sum", "none"]

MAX_RUNS = 16  # above it the runs come from a table: unrolled they cost code and compile time
CHUNK = 1024  # columns of a tile; wider codes are looped over
# Elements of a tile, by whether the runs come from a table and by what else is computed with
# the information loss: the most with which no register spills on any target (README's table).
Extra = Literal["", "rows", "logits"]
TILES: dict[tuple[bool, Extra], int] = {
    (False, ""): 512,
    (False, "rows"): 256,
    (False, "logits"): 256,
    (True, ""): 128,
    (True, "rows"): 128,
    (True, "logits"): 64,
}
# the kernel's numbers for the losses of D's logits
LOSSES = {"nonsaturating": 1, "hinge": 2, "wgan": 3, "lsgan": 4, "relativistic": 5}
MAX_PROGRAMS = 1024
# The rows from which on many_rows.py computes what it can. None: it never does; it has not run on
# a GPU yet.
MANY_ROWS: int | None = None
MAX_ROWS = 2**30  # blocks of rows are counted in 32 bits
WARPS = 4
MAX_REGISTERS = 128  # per thread, on NVIDIA's GPUs
INTERPRETED = not isinstance(head_loss_kernel, triton.JITFunction)
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_NARROW = (torch.float32, torch.bfloat16, torch.float16)


class Plan(NamedTuple):
    """The kernel's compile-time constants for a layout."""

    runs: tuple[int, ...]  # flat, head_loss.FIELDS numbers per run
    table: bool  # whether the runs are read from memory
    block_b: int
    cat_padded: int
    cont_padded: int


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


@lru_cache(maxsize=256)
def make_plan(layout: Layout, extra: Extra = "") -> Plan:
    """Choose the tiles of a launch that also computes `extra`; equal heads share a tile."""
    table = len(layout.runs) > MAX_RUNS
    flat: list[int] = []
    widest, padded_of = 1, {True: 1, False: 1}
    for run in layout.runs:
        padded = min(_power_of_two(run.width), CHUNK)
        heads = 1 if table else max(1, min(_power_of_two(run.n), 32, 256 // padded))
        widest = max(widest, heads * columns(run.kind, padded))
        categorical = run.kind == CATEGORICAL
        padded_of[categorical] = max(padded_of[categorical], padded)
        flat += [*run, padded, heads]
    tile = TILES[table, extra]
    block_b = max(1, min(tile // 16, tile // widest))
    return Plan(tuple(flat), table, block_b, padded_of[True], padded_of[False])


def _extra(logits: bool, per_row: bool) -> Extra:
    return "logits" if logits else "rows" if per_row else ""


@lru_cache(maxsize=256)
def constants(
    layout: Layout,
    adversarial: Adversarial | None = None,
    player: Player = "discriminator",
    grad: bool = True,
    per_row: bool = False,
    masked: bool = False,
) -> dict[str, object]:
    """Return the kernel's constexpr arguments, which with the dtypes decide the compilation."""
    plan = make_plan(layout, _extra(adversarial is not None, per_row))
    loss = 0 if adversarial is None else LOSSES[adversarial]
    if adversarial == "hinge" and player == "generator":
        loss = LOSSES["wgan"]
    angles = {ANGLE, LEARNED_ANGLE} & {run.kind for run in layout.runs}
    return {
        "RUNS": () if plan.table else plan.runs,
        "TABLE": plan.table,
        "N_CODES": layout.n_codes,
        "Q_DIM": layout.q_dim,
        "BLOCK_B": plan.block_b,
        "CAT_PADDED": plan.cat_padded,
        "CONT_PADDED": plan.cont_padded,
        "LOSS": loss,
        "GENERATOR": bool(loss) and player == "generator",
        "GRAD": grad,
        "PER_ROW": per_row,
        "MASKED": masked,
        "ANGLES": bool(angles),
        "BLOCK_P": 32,
        "BLOCK_C": min(_power_of_two(layout.n_codes), 16),
    }


@lru_cache(maxsize=256)
def _options(hip: bool, many: many_rows.Plan | None, *args: Any) -> dict[str, object]:
    """Return `constants` of the same arguments, and the compiler's own options."""
    chosen = constants(*args) if many is None else many_rows.constants(many, *args)
    # fused products are nearer the truth; said here, as Triton's default becomes False with 3.10
    options = {**chosen, "num_warps": WARPS, "enable_fp_fusion": True}
    if not hip:  # without a limit ptxas spills some bytes to fit one more program into an SM
        options["maxnreg"] = MAX_REGISTERS if many is None else many_rows.MAX_REGISTERS
    return options


_workspaces = Workspaces()


@keep_for_good  # a captured graph holds its address
def _table(layout: Layout, device: torch.device) -> Tensor:
    """Return the runs in the device's memory, written once per (layout, device)."""
    runs = make_plan(layout).runs
    return keep(device, lambda: torch.tensor(runs, dtype=torch.int32, device=device))


class Call(NamedTuple):
    """The arguments of one launch.

    A generator has no real rows (R = 0).
    """

    q: Tensor  # [B, q_dim], or [R + B, q_dim] with R real rows in front, whose gradient is then 0;
    # fp32, bf16 or fp16, any strides; never written
    layout: Layout
    categorical: Tensor  # [B, n_cat], an integer dtype
    continuous: Tensor  # [B, n_cont], a floating dtype
    weights: Tensor  # [n_codes], read on the device
    logits: Tensor | None = None  # [R + B]: D's on R real rows and on the B generated ones
    sigma: float = 1.0  # of the continuous codes whose σ is fixed
    reduction: Reduction = "mean"  # of `total` over the batch; "none" gives [B]
    adversarial: Adversarial = "nonsaturating"  # the loss of the logits, if given
    player: Player = "discriminator"  # the side whose loss it is
    grad: bool = True  # compute the gradients too
    code_sums: bool = False  # `per_code` is a sum over the batch, not a mean
    labelled: Tensor | None = None  # bool [B, n_codes]; False: factor 0, not in the means
    real: Tensor | None = None  # [B]: D's logits on real images, for a relativistic generator


class Losses(NamedTuple):
    """The results of one launch."""

    total: Tensor  # fp32, scalar or [B]: Σ_codes weight · NLL
    per_code: Tensor  # fp32 [n_codes]: the unweighted NLL in nats
    dq: Tensor | None  # gradient of `total` by q, in q's dtype (fp32 for fp16)
    adversarial: Tensor | None  # fp32 scalar: the mean over each side, summed
    dlogits: Tensor | None  # fp32 [n_rows], gradient of `adversarial`


def launch(call: Call) -> Losses:
    """Compute losses and gradients in one launch; read nothing back and never wait.

    Raises ValueError for a tensor that does not fit the layout or that the kernel does not take.
    """
    q, layout, categorical, continuous, weights, logits = call[:6]
    if q.device.type == "cuda" and q.device.index != torch.cuda.current_device():
        with torch.cuda.device(q.device):  # sets the stream, the capture and the launch
            return launch(call)
    batch = categorical.shape[0]
    n_real = 0 if logits is None else logits.shape[0] - batch
    _check(call, n_real)
    weights = weights.to(torch.float32).contiguous()
    n_rows = n_real + batch
    q_first = n_real if q.shape[0] == batch else 0
    device = q.device
    empty = torch.empty
    per_row = call.reduction == "none"
    dq = dlogits = value = None
    if call.grad:
        dtype = torch.float32 if q.dtype == torch.float16 else q.dtype
        dq = empty(q.shape, dtype=dtype, device=device)
    if logits is not None:
        value = empty((), dtype=torch.float32, device=device)
        if call.grad:
            dlogits = empty(n_rows, dtype=torch.float32, device=device)
    total = empty(batch if per_row else (), dtype=torch.float32, device=device)
    per_code = empty(layout.n_codes, dtype=torch.float32, device=device)
    if n_rows == 0:
        total.zero_(), per_code.zero_()
        if value is not None:
            value.zero_()
        return Losses(total, per_code, dq, value, dlogits)
    mean = 1.0 / max(batch, 1)
    scale = mean if call.reduction == "mean" else 1.0
    code_scale = 1.0 if call.code_sums else mean
    labels = n_labelled = None
    if call.labelled is not None:
        labels = call.labelled.view(torch.uint8)
        scale, code_scale = 1.0, 1.0
        n_labelled = call.labelled.sum(0).clamp_(min=1)
        if call.reduction == "mean":
            weights = weights / n_labelled
    many = _plan_of_many(call)
    if many is not None:
        programs = min(-(-n_rows // many.rows), MAX_PROGRAMS)
        many_rows.many_rows_kernel[(programs,)](
            q,
            categorical,
            continuous,
            weights,
            q if dq is None else dq,
            per_code,
            total,
            *_workspaces.get(device, programs * layout.n_codes),
            n_rows,
            HALF_LOG_2PI + math.log(call.sigma),
            1.0 / call.sigma,
            scale,
            code_scale,
            **_options(torch.version.hip is not None, many, layout, call.grad),
        )
        return Losses(total, per_code, dq, None, None)
    other = logits if call.player == "discriminator" else call.real
    if call.adversarial != "relativistic":
        other = None
    plan = make_plan(layout, _extra(logits is not None, per_row))
    programs = min(-(-n_rows // plan.block_b), MAX_PROGRAMS)
    partial, counter = _workspaces.get(device, programs * (layout.n_codes + 2))
    arguments = (
        q,
        categorical,
        continuous,
        weights,
        q if logits is None else logits,
        q if dq is None else dq,
        q if dlogits is None else dlogits,
        total,
        per_code,
        total,
        total if value is None else value,
        partial,
        counter,
        _table(layout, device) if plan.table else counter,
        q if labels is None else labels,
        q if other is None else other,
        n_rows,
        n_real,
        q_first,
        *q.stride(),
        *categorical.stride(),
        *continuous.stride(),
        1 if logits is None else logits.stride(0),
        *((1, 1) if labels is None else labels.stride()),
        1 if other is None else other.stride(0),
        HALF_LOG_2PI + math.log(call.sigma),
        1.0 / call.sigma,
        scale,
        code_scale,
        len(layout.runs),
    )
    kind = None if logits is None else call.adversarial
    options = _options(
        torch.version.hip is not None,
        None,
        layout,
        kind,
        call.player,
        call.grad,
        per_row,
        labels is not None,
    )
    head_loss_kernel[(programs,)](*arguments, **options)
    if n_labelled is not None and not call.code_sums:
        per_code.div_(n_labelled)
    return Losses(total, per_code, dq, value, dlogits)


def _plan_of_many(call: Call) -> many_rows.Plan | None:
    """Return how many_rows.py computes the call; None where it does not."""
    inputs = (call.q, call.categorical, call.continuous)
    if (
        MANY_ROWS is None
        or call.q.shape[0] < MANY_ROWS
        or call.logits is not None
        or call.labelled is not None
        or call.reduction == "none"
        or not all(tensor.is_contiguous() for tensor in inputs)
    ):
        return None
    return many_rows.make_plan(call.layout)


def _check(call: Call, n_real: int) -> None:
    """Raise ValueError for tensors with which the kernel would read or write out of bounds."""
    q, layout, categorical, continuous, weights, logits = call[:6]
    batch = categorical.shape[0]
    rows = {batch, batch + n_real}
    if q.ndim != 2 or q.shape[0] not in rows or q.shape[1] != layout.q_dim:
        raise ValueError(
            f"q: expected shape [{batch}{f' or {batch + n_real}' if n_real else ''}, "
            f"{layout.q_dim}], got {list(q.shape)}"
        )
    if batch + n_real > MAX_ROWS:
        raise ValueError(f"expected at most {MAX_ROWS} rows, got {batch + n_real}")
    if q.dtype not in _NARROW:
        raise ValueError(f"q's dtype: the kernel takes float32, bfloat16, float16, got {q.dtype}")
    for name, tensor, shape in (
        ("categorical", categorical, (batch, layout.n_cat)),
        ("continuous", continuous, (batch, layout.n_cont)),
        ("weights", weights, (layout.n_codes,)),
    ):
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {list(shape)}, got {list(tensor.shape)}")
        if tensor.device != q.device:
            raise ValueError(f"{name}'s device: expected {q.device}, got {tensor.device}")
    labelled, real = call.labelled, call.real
    if labelled is not None and (
        labelled.shape != (batch, layout.n_codes)
        or labelled.dtype != torch.bool
        or labelled.device != q.device
    ):
        raise ValueError(
            f"labelled: expected a bool tensor [{batch}, {layout.n_codes}] on {q.device}, got "
            f"{list(labelled.shape)}, {labelled.dtype} on {labelled.device}"
        )
    if logits is not None and call.adversarial == "relativistic":
        paired = n_real == batch if call.player == "discriminator" else real is not None
        if not paired:
            raise ValueError(
                f"a relativistic loss needs {batch} real rows in front of a discriminator's logits "
                f"(got {n_real}), and `real` for a generator"
            )
        if real is not None and (
            real.shape != (batch,) or real.device != q.device or real.dtype not in _NARROW
        ):
            raise ValueError(
                f"real: expected [{batch}] in float32, bfloat16 or float16 on {q.device}, got "
                f"{list(real.shape)}, {real.dtype} on {real.device}"
            )
    if categorical.is_floating_point() or not continuous.is_floating_point():
        raise ValueError(
            "expected categorical of an integer and continuous of a floating dtype, got "
            f"{categorical.dtype} and {continuous.dtype}"
        )
    if logits is not None and (
        logits.ndim != 1
        or n_real < 0
        or (call.player == "generator" and n_real > 0)
        or logits.device != q.device
        or logits.dtype not in _NARROW
    ):
        raise ValueError(
            f"logits: expected a vector of {batch} generated rows"
            + (", real rows before them," if call.player == "discriminator" else "")
            + f" in float32, bfloat16 or float16 on {q.device}, got {list(logits.shape)}, "
            f"{logits.dtype} on {logits.device}"
        )
    if q.device.type != "cuda" and not INTERPRETED:
        raise ValueError(
            f"the kernel runs on CUDA and ROCm tensors, and on CPU tensors where "
            f"TRITON_INTERPRET=1 was set before it was imported; got {q.device.type}"
        )
