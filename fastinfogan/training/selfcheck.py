"""A check of this machine's arithmetic, before the first update.

Each linear layer, convolution and BatchNorm of a run computes one batch, at the run's own shapes
and in its precision, forward and backward, and is compared with the same layer in fp32. Wrong
numbers of a library or a processor are far off: oneDNN's bf16 convolutions returned uninitialised
memory for some shapes, values up to 1e37.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from ..networks.convolution import only_grads_of
from ..networks.drawing import GLOBAL_GENERATOR
from ..philox import Stream
from ..terms.protocol import Address
from .capture import restore
from .player import BATCH_NORMS
from .step import Step

# Of a tensor's largest value in fp32. Rounding to bf16 costs a product 2^-9 of it, and the sums of
# a gradient not much more; a part that was never written is off by about 1.
BOUND = 0.1
_LAYERS = (nn.Linear, _ConvNd, *BATCH_NORMS)


def check_layers(step: Step) -> str:
    """Return the first layer whose numbers are wrong, in words, or "".

    One batch passes through both networks, with the extra images of all terms. It leaves no trace:
    weights stay as they are, buffers and torch's generators are put back.
    """
    if step.policy.dtype == torch.float32:
        return ""
    config, device = step.config, step.ranks.device
    draw = torch.Generator(device).manual_seed(0)
    side, channels = config.data.image_size, config.data.channels
    real = torch.rand(config.batch_size, side, side, channels, generator=draw, device=device)
    low, high = step.networks.generator.image_range
    real = (low + (high - low) * real).permute(0, 3, 1, 2)
    failures: list[str] = []
    buffers = [b for module in step.modules().values() for b in module.buffers()]
    watched = _compare_layers(step.working_modules(), draw, failures)
    with (
        GLOBAL_GENERATOR,
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        restore(buffers),
        watched,
    ):
        at = Address(config.seed, 0, step.ranks.rank * len(real))
        latents = step.latents(at, Stream.D_LATENTS, len(real))
        work = step.eager_work([term.name for term in step.terms])
        d_extras, g_extras = work.extras(real, at)
        if step.gan_start:  # D's batches have one kind of images less
            start = step.eager_work(step.active(0).terms)
            start.real_grads(real, start.extras(real, at)[0])
        if config.execution.step == "shared":
            work.shared_grads(real, latents, d_extras, g_extras)
        else:
            work.d_grads(real, latents, d_extras)
            work.g_grads(latents, g_extras, None, real)
    return failures[0] if failures else ""


@contextmanager
def _compare_layers(
    modules: dict[str, nn.Module], draw: torch.Generator, failures: list[str]
) -> Iterator[None]:
    """Compare every layer, once per shape of its input, as it is passed."""
    checked: set[tuple[str, torch.Size]] = set()
    handles: list[RemovableHandle] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            x, *more = args
            key = (name, x.shape)
            if x.dtype == torch.float32 or key in checked:  # fp32: the comparison itself
                return
            checked.add(key)
            for what, error in _errors(layer, x, more, draw).items():
                if not error <= BOUND:  # NaN is none
                    failures.append(
                        f"{name} gives {what} in {str(x.dtype).removeprefix('torch.')} that is "
                        f"off by {error:.2g} of its largest value, expected at most {BOUND:g}"
                    )

        return hook

    try:
        for prefix, module in modules.items():
            for name, layer in module.named_modules(prefix=prefix):
                if isinstance(layer, _LAYERS):
                    handles.append(layer.register_forward_hook(watch(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _errors(
    layer: nn.Module, x: Tensor, more: Sequence[Any], draw: torch.Generator
) -> dict[str, float]:
    """Return the largest error of a layer's output and gradients, in parts of the largest value."""
    dy: Tensor | None = None
    results = []
    for dtype in (x.dtype, torch.float32):
        own = {
            name: p.detach().to(torch.promote_types(p.dtype, dtype)).requires_grad_()
            for name, p in layer.named_parameters()
        }
        buffers = {name: b.clone() for name, b in layer.named_buffers()}
        leaf = x.detach().to(dtype).requires_grad_()
        with torch.enable_grad(), only_grads_of("all"):
            y = functional_call(layer, {**own, **buffers}, (leaf, *more))
            if dy is None:
                dy = torch.randn(y.shape, generator=draw, device=y.device).to(y.dtype)
            grads = torch.autograd.grad(y, (leaf, *own.values()), dy.to(y.dtype))
        y = y.detach()
        names = ("an output", "an input gradient", *(f"a gradient of {name}" for name in own))
        results.append(dict(zip(names, (y, *grads), strict=True)))
    actual, expected = results
    return {name: _error(actual[name], expected[name]) for name in actual}


def _error(actual: Tensor, expected: Tensor) -> float:
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((actual.float() - expected).abs().max() / scale)
