"""The arguments of the losses: the forms that are accepted, and the messages for all others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..latents import Bernoulli, Categorical, LatentBatch, LatentSpec
from ..latents.heads import Heads
from .reference import Inputs, arithmetic_dtype, n_classes, soft_columns

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

Weights = Tensor | Sequence[float]
SUM_TOLERANCE = 1e-2  # of a soft row's probabilities, which may be bf16's


def is_transformed() -> bool:
    """Return True while a transform of torch.func or forward-mode differentiation is under way."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def mismatch(what: str, expected: object, actual: object, advice: str = "") -> ValueError:
    """Return the error of an argument that does not fit."""
    return ValueError(f"{what}: expected {expected}, got {actual}{advice and '; ' + advice}")


def prepare(
    q: Heads,
    spec: LatentSpec,
    categorical: Tensor | LatentBatch | None,
    continuous: Tensor | None,
    weights: Weights | None,
    reduction: str,
    backend: str,
    sigma: float,
    ignore_index: int | None,
    mask: Tensor | None,
) -> Inputs:
    """Return the arguments of a loss in the form that all backends take.

    Raises ValueError on what does not fit. Messages are made only then: most calls cost
    microseconds. Values are not read, see `check_values`.
    """
    q, categorical, continuous = unpack(q, spec, categorical, continuous)
    n_cat, n_cont, n_codes = spec.n_cat, spec.n_cont, len(spec.codes)
    shape, device = q.shape, q.device
    if len(shape) != 2 or shape[1] != spec.q_dim:
        kinds = [code.kind for code in spec.codes]
        raise mismatch("q", f"shape [B, {spec.q_dim}] for {kinds}", list(shape))
    if q.dtype not in DTYPES:
        raise mismatch("q's dtype", "float32, bfloat16, float16 or float64", q.dtype)
    batch = shape[0]
    if categorical is None:
        categorical = _no_targets("categorical", q, n_cat, torch.int64)
    if continuous is None:
        continuous = _no_targets("continuous", q, n_cont, arithmetic_dtype(q))
    if categorical.shape != (batch, n_cat) or categorical.dtype.is_floating_point:
        categorical = _targets(spec, categorical, batch, ignore_index)
    if continuous.shape != (batch, n_cont):
        if n_cont != 1 or continuous.shape != (batch,):
            expected = f"shape [{batch}, {n_cont}]"
            raise mismatch("continuous", expected, list(continuous.shape))
        continuous = continuous.unsqueeze(1)
    if categorical.device != device:
        raise mismatch("categorical's device", device, categorical.device)
    if continuous.device != device:
        raise mismatch("continuous's device", device, continuous.device)
    dtype = categorical.dtype
    if dtype.is_complex or dtype == torch.bool:
        raise mismatch("categorical's dtype", "an integer dtype", dtype)
    if not continuous.dtype.is_floating_point:
        raise mismatch("continuous's dtype", "a floating dtype", continuous.dtype)
    if weights is not None:
        if not isinstance(weights, Tensor):
            weights = weights_tensor(weights, n_codes, q)
        if weights.shape != (n_codes,):
            raise mismatch("weights", f"shape [{n_codes}]", list(weights.shape))
        if not weights.dtype.is_floating_point:
            raise mismatch("weights' dtype", "a floating dtype", weights.dtype)
        if weights.device != device:
            raise mismatch("weights' device", device, weights.device)
    if reduction not in ("mean", "sum", "none"):
        raise mismatch("reduction", "mean, sum or none", reduction)
    if not 0 < sigma < math.inf:
        raise mismatch("sigma", "a finite number > 0", sigma)
    if backend not in ("auto", "reference", "triton", "compiled"):
        raise mismatch("backend", "auto, reference, triton or compiled", backend)
    labelled = None
    if mask is not None or ignore_index is not None:
        labelled = _label_mask(spec, categorical, continuous, ignore_index, mask, batch)
    return Inputs(q, spec, categorical, continuous, weights, reduction, sigma, labelled)


def unpack(
    q: Heads,
    spec: LatentSpec,
    categorical: Tensor | LatentBatch | None,
    continuous: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return (q as one tensor, categorical, continuous) of heads and of a LatentBatch."""
    if not isinstance(spec, LatentSpec):
        raise mismatch("spec", "a LatentSpec", type(spec).__name__)
    if not isinstance(q, Tensor):
        q = spec.pack(q)
    elif q.ndim == 4 and q.shape[2:] == (1, 1):
        q = q.flatten(1)
    if isinstance(categorical, LatentBatch):
        if continuous is not None:
            raise mismatch("continuous", "nothing after a LatentBatch", _describe(continuous))
        _, categorical, continuous = categorical
    for name, value in (("categorical", categorical), ("continuous", continuous)):
        if value is not None and not isinstance(value, Tensor):
            raise _not_a_tensor(name, value)
    return q, categorical, continuous


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return type(value).__name__


def _not_a_tensor(name: str, value: object) -> ValueError:
    kind = type(value).__name__
    how = "torch.from_numpy(…)" if kind == "ndarray" else "torch.as_tensor(…)"
    expected = "a tensor or a LatentBatch" if name == "categorical" else "a tensor"
    return mismatch(name, expected, kind, f"use {how}")


def _no_targets(name: str, q: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    if columns:
        expected = f"shape [{q.shape[0]}, {columns}]"
        raise mismatch(name, expected, None, "only a spec without such codes may leave it out")
    return q.new_empty((q.shape[0], 0), dtype=dtype)


def _targets(spec: LatentSpec, targets: Tensor, batch: int, ignore_index: int | None) -> Tensor:
    """Return discrete targets as integers [B, n_cat] or soft rows, given in another form."""
    dtype = targets.dtype
    if spec.n_cat == 1 and targets.shape == (batch,) and not dtype.is_floating_point:
        return targets.unsqueeze(1)
    columns = soft_columns(spec)
    width = max(c.stop for c in columns)
    if width and targets.shape == (batch, width) and not dtype.is_complex:
        return (
            targets if dtype.is_floating_point else _classes(spec, targets, columns, ignore_index)
        )
    if targets.shape == (batch, spec.n_cat):
        raise mismatch("categorical's dtype", "an integer dtype", dtype)
    expected = f"shape [{batch}, {spec.n_cat}]"
    advice = f"classes are [{batch}, {spec.n_cat}], one-hot or soft rows [{batch}, {width}]"
    raise mismatch("categorical", expected, list(targets.shape), advice if width else "")


def _classes(
    spec: LatentSpec, rows: Tensor, columns: list[slice], ignore_index: int | None
) -> Tensor:
    """Return the classes of one-hot rows of integers; of a row that is none, one out of range."""
    classes = []
    for code, at in zip(spec.codes, columns, strict=True):
        if isinstance(code, Categorical):
            row = rows[:, at].long()
            valid = (row.sum(1) == 1) & (row.amin(1) == 0) & (row.amax(1) == 1)
            stray = code.n + (code.n == ignore_index)
            classes.append(torch.where(valid, row.argmax(1), stray))
        elif isinstance(code, Bernoulli):
            classes.append(rows[:, at.start].long())
    return torch.stack(classes, 1)


def weights_tensor(weights: Any, n_codes: int, q: Tensor | None = None) -> Tensor:
    """Return a sequence of numbers as a tensor [n_codes], in q's arithmetic and on its device."""
    try:
        values = list(weights)
    except TypeError:
        raise mismatch(
            "weights",
            f"{n_codes} numbers or a tensor [{n_codes}]",
            repr(weights),
            f"one λ for all codes is weights=[{weights!r}] * {n_codes}, or {weights!r} * out.total",
        ) from None
    if len(values) != n_codes:
        raise mismatch("weights", f"{n_codes} numbers, one per code", len(values))
    dtype, device = (torch.float32, None) if q is None else (arithmetic_dtype(q), q.device)
    if any(isinstance(w, Tensor) for w in values):  # which may want gradients
        values = [torch.as_tensor(w, dtype=dtype, device=device).reshape(()) for w in values]
        return torch.stack(values)
    try:
        return torch.tensor([float(w) for w in values], dtype=dtype, device=device)
    except (TypeError, ValueError):
        raise mismatch("weights", f"{n_codes} numbers", values) from None


def _label_mask(
    spec: LatentSpec,
    categorical: Tensor,
    continuous: Tensor,
    ignore_index: int | None,
    mask: Tensor | None,
    batch: int,
) -> Tensor:
    """Return which codes of which rows have a label, bool [B, n_codes]."""
    n_codes = len(spec.codes)
    labelled = None
    if mask is not None:
        if not isinstance(mask, Tensor):
            raise _not_a_tensor("mask", mask)
        if mask.shape not in ((batch,), (batch, n_codes)):
            raise mismatch("mask", f"shape [{batch}] or [{batch}, {n_codes}]", list(mask.shape))
        if mask.dtype != torch.bool:
            raise mismatch("mask's dtype", "torch.bool", mask.dtype, "use mask.bool()")
        if mask.device != categorical.device:
            raise mismatch("mask's device", categorical.device, mask.device)
        labelled = mask if mask.ndim == 2 else mask.unsqueeze(1).expand(batch, n_codes)
    if ignore_index is None:
        assert labelled is not None
        return labelled
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise mismatch("ignore_index", "an integer", repr(ignore_index))
    soft = soft_columns(spec) if categorical.dtype.is_floating_point else None
    known = []
    for i, (code, _, target) in enumerate(spec.slots):
        if not isinstance(code, Categorical | Bernoulli):
            known.append(~continuous[:, target].isnan().any(1))
        elif soft is not None:
            known.append(~categorical[:, soft[i]].isnan().any(1))
        else:  # int64: in uint8 -1 would equal 255
            known.append(categorical[:, target.start].long() != ignore_index)
    present = torch.stack(known, 1)
    return present if labelled is None else present & labelled


def check_values(inputs: Inputs) -> None:
    """Raise ValueError on a class that does not exist. Reads values back to the host."""
    spec, categorical, labelled = inputs.spec, inputs.categorical, inputs.labelled
    if categorical.shape[0] == 0 or spec.n_cat == 0:
        return
    if categorical.dtype.is_floating_point:
        _check_soft(inputs)
        return
    classes = categorical.long()  # unsigned dtypes have no amin
    if labelled is not None:
        discrete = [isinstance(code, Categorical | Bernoulli) for code in spec.codes]
        of_discrete = labelled[:, torch.tensor(discrete, device=labelled.device)]
        classes = torch.where(of_discrete, classes, 0)
    lowest, highest = classes.amin(0).tolist(), classes.amax(0).tolist()
    for name, (code, _, target) in zip(spec.names, spec.slots, strict=True):
        if isinstance(code, Categorical | Bernoulli):
            n, column = n_classes(code), target.start
            if lowest[column] < 0 or highest[column] >= n:
                raise mismatch(
                    f"categorical[:, {column}] of {name}",
                    f"classes 0 … {n - 1}",
                    f"values from {lowest[column]} to {highest[column]}",
                )


def _check_soft(inputs: Inputs) -> None:
    rows = inputs.categorical.detach().double()
    for i, (code, at) in enumerate(zip(inputs.spec.codes, soft_columns(inputs.spec), strict=True)):
        p = rows[:, at]
        if inputs.labelled is not None:
            p = p[inputs.labelled[:, i]]
        if p.numel() == 0:
            continue
        where = f"categorical[:, {at.start}:{at.stop}] of {inputs.spec.names[i]}"
        low, high = p.amin().item(), p.amax().item()
        if not (low >= -SUM_TOLERANCE and high <= 1 + SUM_TOLERANCE):
            raise mismatch(where, "probabilities from 0 to 1", f"values from {low:g} to {high:g}")
        if isinstance(code, Categorical):
            error, row = (p.sum(1) - 1).abs().max(0)
            if error.item() > SUM_TOLERANCE:
                total = f"a sum of {p[row].sum().item():g}"
                raise mismatch(where, "probabilities that sum to 1 in each row", total)
