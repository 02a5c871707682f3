"""Gradient penalties: their value and their second derivatives."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.small_pair import CONFIG, SPEC, batch, differing, images, pair
from torch import Tensor

from fastinfogan.config import NetworksName
from fastinfogan.networks.convolution import only_grads_of
from fastinfogan.terms.penalty import gradient_penalty
from fastinfogan.training.step import Step, build

pytestmark = pytest.mark.usefixtures("one_thread")


def in_d(penalty: Tensor, parameters) -> tuple[Tensor, ...]:
    with only_grads_of("weights"):
        return torch.autograd.grad(penalty, parameters, materialize_grads=True)


def test_the_penalty_is_the_mean_of_the_squared_slopes():
    """One pixel up and down: central differences, whose error in fp64 is near 1e-10."""
    discriminator, x, h = pair().discriminator, images(), 1e-5

    def total(x: Tensor) -> Tensor:
        return discriminator.logit(discriminator.trunk(x, "batch")).sum()

    steps = torch.eye(x[0].numel(), dtype=x.dtype).view(-1, *x[0].shape) * h
    squares = torch.zeros((), dtype=x.dtype)
    for i in range(2):  # of eight images
        for one in steps:
            up, down = x.clone(), x.clone()
            up[i] += one
            down[i] -= one
            squares += ((total(up) - total(down)).detach() / (2 * h)).square()
    leaf = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(total(leaf), leaf)
    torch.testing.assert_close(slopes[:2].square().sum(), squares, rtol=1e-6, atol=0)
    expected = slopes.square().sum() / len(x)
    torch.testing.assert_close(gradient_penalty(discriminator, x).detach(), expected)


@pytest.mark.parametrize(
    "networks", ["mnist", "dsprites", pytest.param("chairs", marks=pytest.mark.slow)]
)
def test_the_penaltys_gradient_is_that_of_finite_differences(networks: NetworksName):
    """The double backward reaches every one of D's parameters."""
    config = CONFIG.with_options(networks=networks, image_size=32)
    discriminator = build(config, SPEC).discriminator.double()
    draw = torch.Generator().manual_seed(0)
    for name, p in discriminator.named_parameters():
        mean = 1.0 if "bn" in name and name.endswith("weight") else 0.0
        torch.nn.init.normal_(p, mean, 0.05, generator=draw)
    x = torch.rand(6, 1, 32, 32, generator=draw, dtype=torch.float64)
    q = {id(p) for p in discriminator.q_parameters()}
    named = [(n, p) for n, p in discriminator.named_parameters() if id(p) not in q]
    grads = in_d(gradient_penalty(discriminator, x), [p for _, p in named])
    moving = 0
    for (name, p), g in zip(named, grads, strict=True):
        # Short, as the slopes jump where a leaky ReLU changes sides; half along the gradient, to
        # stand out of rounding.
        way = F.normalize(torch.randn(p.shape, generator=draw, dtype=p.dtype).flatten(), dim=0)
        way = (way + F.normalize(g.flatten(), dim=0)).view_as(p) * 1e-8
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(way, alpha=sign)
            values.append(gradient_penalty(discriminator, x).detach())
            with torch.no_grad():
                p.sub_(way, alpha=sign)
        expected = float(values[0] - values[1]) / 2e-8
        actual = float((g * way).sum()) / 1e-8
        noise = 1e-6 * float(values[0])
        assert actual == pytest.approx(expected, rel=1e-3, abs=noise), name
        moving += abs(actual) > 10 * noise
    assert moving >= sum(name.endswith("weight") for name, _ in named)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_penaltys_gradient_in_low_precision_is_near_the_fp64_one(cpu_ranks, precision):
    """In bf16 through the convolutions' own functions, which hand over to PyTorch's here."""
    step = Step(CONFIG, SPEC, cpu_ranks("bf16" if precision == torch.bfloat16 else "no"))
    masters = copy.deepcopy(step.networks.discriminator).double()
    x = batch(0)
    names = [n for n, _ in masters.named_parameters() if not n.startswith("q_")]
    truth = in_d(gradient_penalty(masters, x.double()), [masters.get_parameter(n) for n in names])
    low = step.working.discriminator
    actual = in_d(gradient_penalty(low, x.to(precision)), [low.get_parameter(n) for n in names])
    # as for D's own gradients in test_step: what is zero or misses a part errs by about 1
    tolerance = 0.4 if precision == torch.bfloat16 else 1e-3
    for name, g, t in zip(names, actual, truth, strict=True):
        if name.endswith("weight"):
            assert t.norm() > 0, name
            assert (g - t).norm() < tolerance * t.norm(), name


def test_the_penalty_moves_no_buffer():
    discriminator = pair().discriminator
    before = {n: b.clone() for n, b in discriminator.named_buffers()}
    gradient_penalty(discriminator, images())
    assert not differing(before, dict(discriminator.named_buffers()))
