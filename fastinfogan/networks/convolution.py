"""The 4×4 convolutions of the networks.

In bf16 on a CPU the convolutions compute some of their gradients by other products than PyTorch's
(oneDNN's) own, which are slow there. These are the gradient of the weights, from patches as one
product, and all gradients with few channels on the side of the image. In a graph that is compiled
for a GPU, a convolution with few channels is a product of patches, which the compiler lays out and
folds within its own kernels. For it cuDNN turned whole maps to another layout and back on NVIDIA's
GPUs (docs/notes/performance.md; AMD's have not been measured). Results are the same to rounding.
All other passes (on a CPU another dtype or a graph that is being compiled, a gradient to be
differentiated again) are PyTorch's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_NARROW = 4  # channels for which a convolution's width is no width
FOLDING = ("cuda",)  # devices for which a compiled convolution with few channels is a product
CHUNK = 128  # images whose patches are laid out at a time: more would not stay in the cache


def lrelu(x: Tensor) -> Tensor:
    """Apply leaky ReLU with the paper's slope in place."""
    return F.leaky_relu(x, 0.1, inplace=True)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a 4×4 convolution of stride 2 and padding 1 with a weight [outputs, inputs, 4, 4]."""
    if _is_unsafe(x, x.shape[3]):
        return _in_fp32(convolve, x, weight, bias)
    if x.shape[2] % 2 == x.shape[3] % 2 == 0:
        if _by_products(x):
            return _Conv.apply(x, weight, bias)
        if _folds(x, weight.shape[1]):
            return _of_patches(x, weight, bias)
    return F.conv2d(x, weight, bias, stride=2, padding=1)


class Conv(nn.Conv2d):
    """4×4 convolution of stride 2 and padding 1: it halves the side."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H/2, W/2]."""
        return convolve(x, self.weight, self.bias)


class Same(nn.Conv2d):
    """4×4 convolution of stride 1 that keeps the side.

    Padding is 1 before and 2 behind, as TensorFlow's SAME. A transposed convolution of stride 1 is
    such a convolution too, with its weight turned round, so a generator's "upconv" without a
    stride is this.
    """

    PADDING = (1, 2, 1, 2)

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H, W]."""
        return super().forward(F.pad(x, self.PADDING))


class Up(nn.ConvTranspose2d):
    """4×4 transposed convolution of stride 2 and padding 1: it doubles the side."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1, bias=bias)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, 2H, 2W]."""
        if _is_unsafe(x, 2 * x.shape[3]):  # its input gradient is a convolution of the output
            return _in_fp32(_conv_transpose, x, self.weight, self.bias)
        if _by_products(x):
            return _Up.apply(x, self.weight, self.bias)
        if _folds(x, self.weight.shape[1]):
            return _to_patches(x, self.weight, self.bias)
        return super().forward(x, output_size)


def _is_unsafe(x: Tensor, width: int) -> bool:
    """Return whether a stride-2 convolution of images this wide may return uninitialised memory.

    oneDNN 3.12 does so in bf16 for images two pixels wide on Intel CPUs with AMX: 286 of 10,368
    shapes tried, all of that width, with outputs up to 1e37.
    """
    return width == 2 and x.device.type == "cpu" and x.dtype == torch.bfloat16


def _in_fp32(
    function: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Compute `function` in fp32, gradients included, and round its result to x's dtype."""
    y = function(x.float(), weight.float(), None if bias is None else bias.float())
    return y.to(x.dtype)


def _conv_transpose(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv_transpose2d(x, weight, bias, stride=2, padding=1)


def _by_products(x: Tensor) -> bool:
    return (
        x.device.type == "cpu" and x.dtype == torch.bfloat16 and not torch.compiler.is_compiling()
    )


def _folds(x: Tensor, channels: int) -> bool:
    return torch.compiler.is_compiling() and x.device.type in FOLDING and channels <= MAX_NARROW


def _of_patches(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `convolve` as one product of patches [B, H/2, W/2, 16·inputs]."""
    h, w = x.shape[2] // 2, x.shape[3] // 2
    rows = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    squares = rows.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3)
    # A patch is 2×2 such squares [2, 2, inputs]: four parts, which a compiler lays side by side.
    halves = [
        torch.stack([squares[:, a : a + h, b : b + w] for b in (0, 1)], 4) for a in (0, 1)
    ]  # [B, h, w, 2, 2, 2, inputs], of row, square, column
    seen = torch.stack(halves, 3).flatten(3)
    y = F.linear(seen, weight.permute(0, 2, 3, 1).flatten(1), bias)
    return y.permute(0, 3, 1, 2)


def _to_patches(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the transposed convolution: a product gives patches, which are added up."""
    few = weight.shape[1]
    rows = x.permute(0, 2, 3, 1)
    parts = rows @ weight.permute(0, 2, 3, 1).flatten(1)  # [B, H, W, 16·few]
    y = _met(_met(parts.unflatten(3, (4, 4, few)), 1), 2)
    y = y if bias is None else y + bias
    return y.permute(0, 3, 1, 2)


def _met(parts: Tensor, dim: int) -> Tensor:
    """Return the doubled dimension `dim`, of which dimension 3 has the four taps.

    y[2i] = tap1[i] + tap3[i - 1], y[2i + 1] = tap2[i] + tap0[i + 1].
    """
    first, second, third, fourth = parts.unbind(3)
    n = parts.shape[dim]
    none = torch.zeros_like(first.narrow(dim, 0, 1))
    even = second + torch.cat((none, fourth.narrow(dim, 0, n - 1)), dim)
    odd = third + torch.cat((first.narrow(dim, 1, n - 1), none), dim)
    return torch.stack((even, odd), dim + 1).flatten(dim, dim + 1)


Grads = Literal["all", "inputs", "weights"]
_grads: ContextVar[Grads] = ContextVar("_grads", default="all")


@contextmanager
def only_grads_of(kind: Grads) -> Iterator[None]:
    """Limit what a backward pass in this block computes.

    "inputs": gradients of what lies before the layers, not of their weights. "weights": gradients
    of these, not of a leaf (images) that they are applied to. PyTorch's own functions see that from
    what `autograd.grad` is given; a function written in Python does not.
    """
    if torch.compiler.is_compiling():  # then no layer has a backward pass of its own
        yield
        return
    token = _grads.set(kind)
    try:
        yield
    finally:
        _grads.reset(token)


def _needed_gradients(ctx: Any, x: Tensor) -> list[bool]:
    """Return which gradients to compute: of x, weight, bias."""
    kind = _grads.get()
    of_x, of_w, of_bias = ctx.needs_input_grad
    own = kind != "inputs"
    return [of_x and not (kind == "weights" and x.is_leaf), of_w and own, of_bias and own]


def _backward(
    dy: Tensor, x: Tensor, w: Tensor, mask: list[bool], transposed: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    bias = [w.shape[1 if transposed else 0]]
    return torch.ops.aten.convolution_backward(
        dy, x, w, bias, [2, 2], [1, 1], [1, 1], transposed, [0, 0], 1, mask
    )


def patches(x: Tensor) -> Tensor:
    """Return the pixels that each output of a 4×4 convolution reads, [B·H/2·W/2, 16·C].

    Columns count row, column, channel, as a weight's memory does in channels_last. The result lies
    in a buffer that the next call for this shape writes anew.
    """
    b, c, h, w = x.shape
    padded, out = _kept.buffers(x.shape, x.dtype)
    padded[:, 1:-1, 1:-1].copy_(x.permute(0, 2, 3, 1))
    rows, image = (w + 2) * c, (h + 2) * (w + 2) * c
    windows = padded.as_strided((b, h // 2, w // 2, 4, 4 * c), (image, 2 * rows, 2 * c, rows, 1))
    return out.copy_(windows).view(-1, 16 * c)


class _Kept(threading.local):
    """This thread's buffers: two trainings in one process must not write each other's."""

    def __init__(self) -> None:
        self.buffers = lru_cache(maxsize=8)(_new_buffers)


def _new_buffers(shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return a padded image whose border stays zero, and its patches."""
    b, c, h, w = shape
    padded = torch.zeros(b, h + 2, w + 2, c, dtype=dtype)
    return padded, torch.empty(b, h // 2, w // 2, 4, 4 * c, dtype=dtype)


_kept = _Kept()  # fresh memory costs more than both copies


def _rows(x: Tensor) -> Tensor:
    """Map [B, C, H, W] to [B·H·W, C], without a copy in channels_last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _weight_gradient(small: Tensor, large: Tensor) -> Tensor:
    """Return the gradient [C_small, C_large, 4, 4] of a weight between maps of side s and 2s."""
    parts = [
        (patches(b).t() @ _rows(a)).float()  # [16·C_large, C_small]
        for a, b in zip(small.split(CHUNK), large.split(CHUNK), strict=True)
    ]
    total = sum(parts[1:], start=parts[0])
    return total.view(4, 4, large.shape[1], small.shape[1]).permute(3, 2, 0, 1).to(small.dtype)


def _own_gradients(
    mask: list[bool], dy: Tensor, *, small: Tensor, large: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    dw = _weight_gradient(small, large) if mask[1] else None
    return dw, _rows(dy).sum(0) if mask[2] else None


# Rows 2i and 2i + 1 of a doubled image see rows i-1 … i+1 of x by these rows of the weight.
_ROWS = ((3, 1, None), (None, 2, 0))
_TAPS = torch.tensor(
    [
        [[[16 if p is None or q is None else 4 * p + q for q in b] for p in a] for b in _ROWS]
        for a in _ROWS
    ]
)  # [row, column, k, l] to the place in a weight's 4×4, or to the zero behind them


def _spread(x: Tensor, w: Tensor) -> Tensor:
    """Compute the transposed convolution of x [B, C, H, W] with w [C, few, 4, 4] as a 3×3 one.

    What a pixel of the doubled image sees repeats every second row and column: four maps of x's
    own side, of whose 3×3 weights 2×2 are not 0.
    """
    taps = F.pad(w.flatten(2), (0, 1))[:, :, _TAPS]  # [C, few, 2, 2, 3, 3]
    kernel = taps.permute(1, 2, 3, 0, 4, 5).flatten(0, 2)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    return F.pixel_shuffle(F.conv2d(x, kernel, padding=1), 2)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        return F.conv2d(x, w, bias, stride=2, padding=1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        mask = _needed_gradients(ctx, x)
        if torch.is_grad_enabled():
            return _backward(dy, x, w, mask, transposed=False)
        if x.shape[1] <= MAX_NARROW:
            dx = _spread(dy, w) if mask[0] else None
            own = [False, *mask[1:]]
            return dx, *(_backward(dy, x, w, own, False)[1:] if any(own) else (None, None))
        dx = _backward(dy, x, w, [True, False, False], False)[0] if mask[0] else None
        return dx, *_own_gradients(mask, dy, small=dy, large=x)


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        if w.shape[1] <= MAX_NARROW:
            y = _spread(x, w)
            return y if bias is None else y + bias.view(-1, 1, 1)
        return F.conv_transpose2d(x, w, bias, stride=2, padding=1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        mask = _needed_gradients(ctx, x)
        if torch.is_grad_enabled() or w.shape[1] <= MAX_NARROW:
            return _backward(dy, x, w, mask, transposed=True)
        dx = _backward(dy, x, w, [True, False, False], True)[0] if mask[0] else None
        return dx, *_own_gradients(mask, dy, small=x, large=dy)
