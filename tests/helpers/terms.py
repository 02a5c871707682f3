"""A small problem in fp64 for loss terms: networks, images, and gradients with and without them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastinfogan.config import TrainConfig
from fastinfogan.losses.options import QTrunk
from fastinfogan.terms.protocol import Extra, Term, TermSet
from fastinfogan.training.gradients import (
    DRecord,
    Gradients,
    Networks,
    Objective,
    d_grads,
    shared_grads,
)
from fastinfogan.training.step import build

CONFIG = TrainConfig().with_options(image_size=8, batch_size=8, noise=5, codes="uniform,cat3,cat4")
SPEC = CONFIG.spec()
MODES = ("alternating", "shared")


def fp64_networks(q_trunk: QTrunk = "shared") -> Networks:
    networks = build(CONFIG.with_options(q_trunk=q_trunk), SPEC)
    draw = torch.Generator().manual_seed(1)
    for network in networks:
        network.double()
        for p in network.parameters():
            torch.nn.init.normal_(p, 0.1, 0.1, generator=draw)
    return networks


def random_images(n: int, seed: int = 2) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, 8, 1, 8, 8, generator=draw, dtype=torch.float64).unbind()


def d_gradients(
    mode: str,
    real: Tensor,
    terms: Sequence[Term] = (),
    extras: Sequence[Extra] = (),
    q_trunk: QTrunk = "shared",
) -> tuple[Networks, Gradients, DRecord]:
    """Return gradients of D's loss with these terms, in all of D's parameters; λ is 0."""
    networks = fp64_networks(q_trunk)
    goal = Objective(SPEC, torch.zeros(3, dtype=torch.float64), "openai")
    d_params, g_params = networks.split("openai")
    latents = SPEC.sample(8, seed=0)
    latents = latents._replace(input=latents.input.double(), continuous=latents.continuous.double())
    if mode == "shared":
        grads, record, *_ = shared_grads(
            *(networks, goal, d_params, g_params, real, latents),
            d_terms=TermSet(terms),
            d_extras=extras,
        )
    else:
        grads, record = d_grads(
            networks, goal, d_params, real, latents, terms=TermSet(terms), extras=extras
        )
    return networks, grads, record


def assert_adds(
    mode: str,
    real: Tensor,
    terms: Sequence[Term],
    extras: Sequence[Extra],
    loss,
    without: Sequence[Term] = (),
) -> DRecord:
    """Check that the terms add the gradients of loss(discriminator) to D's gradients."""
    networks, grads, record = d_gradients(mode, real, terms, extras)
    _, base, _ = d_gradients(mode, real, without, extras if without else ())
    discriminator = networks.discriminator
    buffers = {k: v.clone() for k, v in discriminator.named_buffers()}
    # split() puts Q's parameters last, as the discriminator does
    expected = list(discriminator.parameters())
    truth = torch.autograd.grad(loss(discriminator), expected, allow_unused=True)
    assert all(torch.equal(buffers[k], v) for k, v in discriminator.named_buffers())
    for actual, plain, t in zip(grads, base, truth, strict=True):
        extra = torch.zeros_like(plain) if t is None else t
        torch.testing.assert_close(actual - plain, extra, atol=1e-9, rtol=1e-7)
    return record
