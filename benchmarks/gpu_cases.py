"""Cases of the GPU report: latent layouts, and the ways to compute the information loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from fastinfogan_kernels import launch
from torch import Tensor

from fastinfogan.latents import Angle, Bernoulli, Categorical, Gaussian, LatentSpec, Uniform
from fastinfogan.losses import info_loss

PAPER = {  # arXiv 1606.03657, appendix C
    "mnist": LatentSpec(62, (Categorical(10), Uniform(), Uniform())),
    "svhn": LatentSpec(124, (*[Categorical(10)] * 4, *[Uniform()] * 4)),
    "celeba": LatentSpec(128, (Categorical(10),) * 10),
    "faces": LatentSpec(128, (Uniform(),) * 5),
    "chairs": LatentSpec(128, (*[Categorical(20)] * 3, Uniform())),
}
_MIX = (
    Categorical(4, weight=0.5),
    Gaussian(dim=2, sigma="learned", weight=2.0),
    Bernoulli(0.3, weight=3.0),
    Uniform(dim=3),
    Uniform(sigma="learned", weight=0.25),
    Bernoulli(),
)
HARD = {
    "learned σ and Bernoulli": LatentSpec(3, _MIX),
    "1000 and 1500 classes": LatentSpec(0, (Categorical(1000), Categorical(1500))),
    "18 runs, by table": LatentSpec(0, _MIX * 3),
    "64 equal heads": LatentSpec(0, (Categorical(16),) * 64),
}


class Targets(NamedTuple):
    """The targets of Q."""

    categorical: Tensor
    continuous: Tensor


# for the sampler alone
PRIORS = LatentSpec(
    62,
    (
        Categorical(10, probs=[i / 45 for i in range(10)]),
        Angle(),
        Uniform(),
        Bernoulli(0.3),
        Angle(concentration="learned"),
    ),
)


def draw(
    spec: LatentSpec, batch: int, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Targets]:
    """Return q [B, q_dim], which requires a gradient, and targets."""
    latents = spec.sample(batch, device=device, seed=seed, step=1, backend="reference")
    generator = torch.Generator(device).manual_seed(seed)
    q = 2 * torch.randn(batch, spec.q_dim, generator=generator, device=device)
    return q.to(dtype).requires_grad_(), Targets(latents.categorical, latents.continuous)


def own_weights(spec: LatentSpec, device: torch.device) -> Tensor:
    """Return the codes' weights, fp32 [n_codes]."""
    return torch.tensor([code.weight for code in spec.codes], device=device)


def _nll(code: object, x: Tensor, targets: Targets, place: slice, sync: bool) -> Tensor:
    """Return the mean NLL of one head, in nats, as GAN code writes it."""
    if isinstance(code, Categorical):
        return F.cross_entropy(x, targets.categorical[:, place.start])
    if isinstance(code, Bernoulli):
        return F.binary_cross_entropy_with_logits(x, targets.categorical[:, place].to(x.dtype))
    assert isinstance(code, Uniform | Gaussian)
    c = targets.continuous[:, place].to(x.dtype)
    mean, log_variance = x, None
    if code.sigma == "learned":
        mean, log_variance = x[:, : code.dim], x[:, code.dim :].clamp(-16, 16)
    if sync:  # it asks the device whether a variance is negative
        variance = torch.ones_like(mean) if log_variance is None else log_variance.exp()
        return code.dim * F.gaussian_nll_loss(mean, c, variance, full=True, eps=1e-12)
    if log_variance is None:
        return 0.5 * (math.log(2 * math.pi) + (c - mean).square()).sum(1).mean()
    z2 = (c - mean).square() * (-log_variance).exp()
    return 0.5 * (math.log(2 * math.pi) + log_variance + z2).sum(1).mean()


def heads(q: Tensor, spec: LatentSpec, targets: Targets, sync: bool = False) -> list[Tensor]:
    """Return each code's mean NLL by a loop over heads, in fp32; in fp64 for an fp64 q."""
    wide = q if q.dtype == torch.float64 else q.float()
    return [
        _nll(code, wide[:, columns], targets, place, sync) for code, columns, place in spec.slots
    ]


Way = Callable[[Tensor, LatentSpec, Targets, Tensor], Tensor]


def _loop(sync: bool) -> Way:
    def loss(q: Tensor, spec: LatentSpec, targets: Targets, weights: Tensor) -> Tensor:
        terms = heads(q, spec, targets, sync)
        total = spec.codes[0].weight * terms[0]
        for code, term in zip(spec.codes[1:], terms[1:], strict=True):
            total = total + code.weight * term
        return total

    return loss


def _backend(name: str) -> Way:
    def loss(q: Tensor, spec: LatentSpec, targets: Targets, weights: Tensor) -> Tensor:
        out = info_loss(q, spec, *targets, weights, backend=name, validate=False)  # type: ignore[arg-type]
        return out.total

    return loss


def _many_rows(q: Tensor, spec: LatentSpec, targets: Targets, weights: Tensor) -> Tensor:
    """Compute by the kernel of many rows, which is off by default."""
    with mock.patch.object(launch, "MANY_ROWS", 0):
        return _backend("triton")(q, spec, targets, weights)


WAYS: dict[str, Way] = {
    "eager loop": _loop(sync=True),  # F.cross_entropy and F.gaussian_nll_loss per head
    "eager, no sync": _loop(sync=False),
    "reference": _backend("reference"),
    "compiled": _backend("compiled"),
    "triton": _backend("triton"),
    "many rows": _many_rows,
}


def forward_backward(
    way: Way, q: Tensor, spec: LatentSpec, targets: Targets, weights: Tensor, one: Tensor
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a call that gives (total, gradient by q). The total receives the gradient `one`."""

    def call() -> tuple[Tensor, Tensor]:
        total = way(q, spec, targets, weights)
        return total, torch.autograd.grad(total, q, one)[0]

    return call


def least_bytes(spec: LatentSpec, batch: int, dtype: torch.dtype) -> int:
    """Return the bytes that any way must move: q and the targets in, the gradient out."""
    return batch * (2 * spec.q_dim * dtype.itemsize + 8 * spec.n_cat + 4 * spec.n_cont)


class Case(NamedTuple):
    """One line of the kernel section."""

    layout: str
    batch: int
    dtype: torch.dtype

    @property
    def title(self) -> str:
        return f"{self.layout}, B = {self.batch}, {str(self.dtype).removeprefix('torch.')}"


def timed_cases(dry: bool) -> Sequence[Case]:
    """Return the cases to time, the most telling first, since the time may run out."""
    if dry:
        return (Case("mnist", 4, torch.float32), Case("mnist", 4, torch.bfloat16))
    wide, narrow = torch.float32, torch.bfloat16
    return (
        Case("mnist", 128, wide),
        Case("celeba", 128, wide),
        Case("mnist", 65536, wide),
        Case("celeba", 65536, wide),
        Case("svhn", 128, wide),
        Case("faces", 128, wide),
        Case("chairs", 128, wide),
        Case("mnist", 4096, wide),
        Case("celeba", 4096, wide),
        Case("mnist", 128, narrow),
        Case("celeba", 65536, narrow),
    )
