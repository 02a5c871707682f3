"""What the convolutions and matrix products of a function take by themselves, back to back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.convolution.default,
    aten.convolution_backward.default,
}


class _Record(TorchDispatchMode):
    """Keeps every product with arguments of its own, in the layout that it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in PRODUCTS:
            self.calls.append((func, tuple(_like(a) for a in args), kwargs or {}))
        return func(*args, **(kwargs or {}))


def _like(argument: Any) -> Any:
    """A tensor of the same dtype, shape and strides, of random numbers."""
    if not isinstance(argument, Tensor):
        return argument
    out = torch.empty_strided(
        argument.shape, argument.stride(), dtype=argument.dtype, device=argument.device
    )
    return out.normal_(std=0.1)


def _flop(func: Any, args: tuple[Any, ...]) -> int:
    """Multiplications and additions of a product."""
    if func is aten.mm.default:
        a, b = args
        return 2 * a.shape[0] * a.shape[1] * b.shape[1]
    if func is aten.bmm.default:
        a, b = args
        return 2 * a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2]
    if func is aten.addmm.default:
        return 2 * args[1].shape[0] * args[1].shape[1] * args[2].shape[1]
    if func is aten.convolution.default:
        x, w, transposed = args[0], args[1], args[6]
        taps = w[0, 0].numel() * w.shape[0] * w.shape[1]
        if transposed:
            return 2 * taps * x.shape[0] * x[0, 0].numel()
        height = (x.shape[2] + 2 * args[4][0] - w.shape[2]) // args[3][0] + 1
        width = (x.shape[3] + 2 * args[4][1] - w.shape[3]) // args[3][1] + 1
        return 2 * taps * x.shape[0] * height * width
    dy, x, w, transposed, mask = args[0], args[1], args[2], args[7], args[10]
    places = x if transposed else dy
    taps = w[0, 0].numel() * w.shape[0] * w.shape[1]
    return 2 * taps * places.shape[0] * places[0, 0].numel() * (mask[0] + mask[1])


def products_of(function: Callable[[], object]) -> tuple[Callable[[], None], int]:
    """(the products that one call of `function` makes, to be run again; their FLOP)."""
    record = _Record()
    with record:
        function()
    calls = record.calls

    def replay() -> None:
        with torch.no_grad():
            for func, args, kwargs in calls:
                func(*args, **kwargs)

    return replay, sum(_flop(func, args) for func, args, _ in calls)
