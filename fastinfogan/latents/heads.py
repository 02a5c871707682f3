"""Q's heads, one per code, joined into Q's output: checks each head against its code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch import distributions as dist

from .codes import Angle, Bernoulli, Categorical, Code, Real

if TYPE_CHECKING:
    from .spec import LatentSpec

Head = Tensor | Sequence[Tensor] | Mapping[str, Tensor] | dist.Distribution
Heads = Tensor | Iterable[Head] | Mapping[str, Head]


def pack(spec: LatentSpec, heads: Heads) -> Tensor:
    """See `LatentSpec.pack`."""
    if isinstance(heads, Tensor):
        return _flat("q", heads, spec.q_dim)
    ordered = _by_name(spec, heads) if isinstance(heads, Mapping) else _in_order(spec, heads)
    columns: list[Tensor] = []
    for name, code, head in zip(spec.names, spec.codes, ordered, strict=True):
        for column in _columns(f"head {name!r}", code, head):
            columns.append(column)
            first = columns[0]
            if column.shape[0] != first.shape[0] or column.device != first.device:
                raise ValueError(
                    f"head {name!r}: expected {first.shape[0]} rows on {first.device}, as head "
                    f"{spec.names[0]!r} has, got {column.shape[0]} on {column.device}"
                )
    return torch.cat(columns, 1)


def _by_name(spec: LatentSpec, heads: Mapping[Any, Any]) -> list[Any]:
    missing = [name for name in spec.names if name not in heads]
    unknown = [str(name) for name in heads if name not in spec.names]
    if missing or unknown:
        problems = [f"without {', '.join(missing)}"] if missing else []
        problems += [f"with unknown {', '.join(unknown)}"] if unknown else []
        raise ValueError(
            f"heads: expected a dict with the keys {', '.join(spec.names)}, got one "
            f"{' and '.join(problems)}"
        )
    return [heads[name] for name in spec.names]


def _in_order(spec: LatentSpec, heads: Iterable[Any]) -> list[Any]:
    try:
        ordered = list(heads)
    except TypeError:
        raise ValueError(
            f"heads: expected a list of heads in the order {', '.join(spec.names)}, or a dict of "
            f"heads by these names, got {type(heads).__name__}"
        ) from None
    if len(ordered) != len(spec.codes):
        learned = any(isinstance(code, Real) and code.sigma == "learned" for code in spec.codes)
        advice = (
            "; pass the mean and the log-variance of a learned σ as a pair (mean, log_var), or as "
            "one tensor [B, 2·dim]"
        )
        raise ValueError(
            f"heads: expected {len(spec.codes)}, one per code ({', '.join(spec.names)}), "
            f"got {len(ordered)}{advice if learned and len(ordered) > len(spec.codes) else ''}"
        )
    return ordered


def _columns(what: str, code: Code, head: Any) -> list[Tensor]:
    """Return the head as blocks of q's columns."""
    if isinstance(head, Tensor):
        return [_flat(what, head, code.q_dim)]
    if isinstance(head, dist.Distribution):
        return _of_distribution(what, code, head)
    learned = isinstance(code, Real) and code.sigma == "learned"
    if isinstance(head, Mapping) and learned:
        if set(head) not in ({"mean", "log_var"}, {"mean", "var"}):
            raise ValueError(
                f'{what}: expected the keys "mean" and "log_var" (or "var"), '
                f"got {', '.join(map(str, head))}"
            )
        log_variance = head["log_var"] if "log_var" in head else head["var"].log()
        head = head["mean"], log_variance
    if isinstance(head, tuple | list):
        if not (learned and len(head) == 2):
            expected = "a tensor or a pair (mean, log_var)" if learned else "one tensor"
            raise ValueError(
                f"{what} of a {type(code).__name__}: expected {expected}, "
                f"got {type(head).__name__} of {len(head)}"
            )
        mean, log_variance = head
        return [
            _flat(f"mean of {what}", mean, code.dim),
            _flat(f"log-variance of {what}", log_variance, code.dim),
        ]
    return [_flat(what, head, code.q_dim)]


def _of_distribution(what: str, code: Code, head: dist.Distribution) -> list[Tensor]:
    while isinstance(head, dist.Independent):
        head = head.base_dist
    match code, head:
        case (Categorical(), dist.Categorical() | dist.OneHotCategorical()) | (
            Bernoulli(),
            dist.Bernoulli(),
        ):
            logits: Tensor = head.logits  # type: ignore[attr-defined]
            if isinstance(code, Bernoulli) and logits.ndim == 1:
                logits = logits.unsqueeze(1)
            return [_flat(what, logits, code.q_dim)]
        case Real(sigma="learned"), dist.Normal():
            mean, log_variance = head.loc, 2 * head.scale.log()
            if code.dim == 1 and mean.ndim == 1:
                mean, log_variance = mean.unsqueeze(1), log_variance.unsqueeze(1)
            return [_flat(what, mean, code.dim), _flat(what, log_variance, code.dim)]
        case Real(), dist.Normal():
            raise ValueError(
                f'{what}: this code has sigma="fixed", got a Normal with a scale of its own; '
                'declare the code with sigma="learned", or pass the distribution\'s loc'
            )
        case Angle(concentration="learned"), dist.VonMises():
            mean, kappa = head.loc, head.concentration
            if mean.ndim == 1:
                mean, kappa = mean.unsqueeze(1), kappa.unsqueeze(1)
            mean, kappa = _flat(what, mean, 1), _flat(what, kappa, 1)
            return [kappa * mean.cos(), kappa * mean.sin()]
    raise ValueError(
        f"{what} of a {type(code).__name__}: expected a tensor of shape [B, {code.q_dim}] or the "
        f"torch.distributions object of such a code, got {type(head).__name__}"
    )


def _flat(what: str, head: Any, width: int) -> Tensor:
    """Return the head as [B, width]; a convolution's [B, width, 1, 1] is flattened."""
    if not isinstance(head, Tensor):
        kind = type(head).__name__
        advice = ": use torch.from_numpy(...)" if kind == "ndarray" else ""
        raise ValueError(f"{what}: expected a tensor of shape [B, {width}], got {kind}{advice}")
    shape = head.shape
    if len(shape) == 2 and shape[1] == width:
        return head
    if len(shape) > 2 and shape[1] == width and all(size == 1 for size in shape[2:]):
        return head.flatten(1)
    advice = ""
    if len(shape) == 1:
        advice = "; the batch dimension is missing: head.unsqueeze(0)"
        if width == 1 and shape[0] != 1:
            advice = "; the column is missing: head.unsqueeze(1)"
    raise ValueError(f"{what}: expected shape [B, {width}], got {list(shape)}{advice}")
