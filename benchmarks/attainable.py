"""The attainable rate of a step: its products by themselves, and their share of the device's peak.

The attainable rate is that of the step's own convolutions and matrix products, each at its shape,
dtype and layout, run back to back on the same machine. Utilisation is the model's FLOP, which do
not depend on how they are computed, over those of one large product in the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastinfogan.config import TrainConfig
from fastinfogan.networks import mnist_pair

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.convolution.default,
    aten.convolution_backward.default,
}


class _Record(TorchDispatchMode):
    """A record of every product with arguments of its own, in the layout of the call."""

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
    """Return a tensor of the same dtype, shape and strides, of random numbers."""
    if not isinstance(argument, Tensor):
        return argument
    out = torch.empty_strided(
        argument.shape, argument.stride(), dtype=argument.dtype, device=argument.device
    )
    return out.normal_(std=0.1)


def _flop(func: Any, args: tuple[Any, ...]) -> int:
    """Return the multiplications and additions of a product."""
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
    """Return (the products that one call of `function` makes, to be run again; their FLOP)."""
    record = _Record()
    with record:
        function()
    calls = record.calls

    def replay() -> None:
        with torch.no_grad():
            for func, args, kwargs in calls:
                func(*args, **kwargs)

    return replay, sum(_flop(func, args) for func, args, _ in calls)


def _forward(network: nn.Module, names: tuple[str, ...], side: int) -> list[int]:
    """Return the FLOP of these layers per image, forward; `side` is that of the first input."""
    out = []
    for name in names:
        layer = getattr(network, name)
        if isinstance(layer, nn.Conv2d):
            side //= 2
            out.append(2 * layer.weight.numel() * side**2)
        elif isinstance(layer, nn.ConvTranspose2d):
            out.append(2 * layer.weight.numel() * side**2)
            side *= 2
        else:
            out.append(2 * layer.weight.numel())
    return out


def model_flop(config: TrainConfig) -> int:
    """Return the multiplications and additions that an update's products need per image of a batch.

    As few as the mode allows: no gradient of a weight that does not move, or of an input that
    nothing before it needs. Whoever computes more does not use the device better.
    """
    spec = config.spec()
    generator, discriminator = mnist_pair(
        spec.input_dim, spec.q_dim, config.data.image_size, config.data.channels
    )
    g = _forward(generator, ("fc1", "fc2", "up3", "up4"), config.data.image_size // 4)
    d = _forward(discriminator, ("conv1", "conv2", "fc3", "head"), config.data.image_size)
    q = _forward(discriminator, ("q_fc1", "q_fc2"), 1)
    g_all, d_all, q_all = sum(g), sum(d), sum(q)
    of_d_weights = 2 * d_all - d[0]  # D's backward pass; images need no gradient
    of_g_weights = 2 * g_all - g[0]  # G's; latents need none
    real = d_all + q_all + of_d_weights  # Q for its statistics alone
    fake = q_all + of_d_weights
    if config.information.routing != "generator-step":
        fake += 2 * q_all - (q[0] if config.information.routing == "head" else 0)
    through = q_all + d_all + q_all + of_g_weights  # G's step: Q, then gradients down to G
    if config.information.routing == "generator-step":
        through += q_all
    # Passes of G, and of D over its images.
    of_g = 2 if config.execution.step == "alternating" else 1
    of_d = 1 if config.execution.step == "shared" else 2
    return real + fake + through + of_g * g_all + of_d * d_all


def large_product(
    device: torch.device, dtype: torch.dtype, side: int = 2048
) -> tuple[Callable[[], Tensor], int]:
    """Return (a product of two square matrices, its FLOP), whose rate shows the device's peak."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), 2 * side**3
