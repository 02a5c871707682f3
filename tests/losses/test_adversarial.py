"""The adversarial objectives in the step: their gradients against a textbook's, in fp64."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from helpers.small_pair import (
    MODES,
    SPEC,
    WEIGHTS,
    assert_equal_to_rounding,
    images,
    latent,
    leaves,
    named,
    objective,
    pair,
    textbook_generator,
    textbook_logit,
    textbook_nll,
    textbook_trunk,
)
from torch import Tensor

from fastinfogan.config import Adversarial
from fastinfogan.terms.penalty import GradientPenalty
from fastinfogan.terms.protocol import TermSet
from fastinfogan.training.gradients import d_grads, g_grads, shared_grads

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES: tuple[Adversarial, ...] = get_args(Adversarial)
LAMBDA = torch.tensor(WEIGHTS, dtype=torch.float64)


def textbook_losses(name: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return D's and G's losses of logits, as the papers print them."""
    p, q = real.sigmoid(), fake.sigmoid()
    match name:
        case "nonsaturating":
            return -p.log().mean() - (1 - q).log().mean(), -q.log().mean()
        case "hinge":
            zero = torch.zeros_like(real)
            d = torch.maximum(zero, 1 - real).mean() + torch.maximum(zero, 1 + fake).mean()
            return d, -fake.mean()
        case "lsgan":
            return ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2, ((fake - 1) ** 2).mean() / 2
        case "wgan":
            return fake.mean() - real.mean(), -fake.mean()
        case _:
            return -(real - fake).sigmoid().log().mean(), -(fake - real).sigmoid().log().mean()


def textbook(
    name: str, smoothing: float = 0.0, r1: float = 0.0, r2: float = 0.0
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """Return D's gradients, G's, and both adversarial losses."""
    c, real = latent(), images().requires_grad_()
    p = leaves(pair())
    fake = textbook_generator(p, c.input).detach().requires_grad_()
    features = textbook_trunk(p, fake)
    of_real = textbook_logit(p, textbook_trunk(p, real))
    of_fake = textbook_logit(p, features)
    d_loss, _ = textbook_losses(name, of_real, of_fake)
    if smoothing:
        s = of_real.sigmoid()
        d_loss = d_loss + smoothing * (s.log() - (1 - s).log()).mean()  # −(1−ε) log s − ε log(1−s)
    total = d_loss + textbook_nll(p, features, c) @ LAMBDA
    for gamma, x, logits in ((r1, real, of_real), (r2, fake, of_fake)):
        if gamma:
            (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
            total = total + gamma / 2 * (slope**2).sum() / len(x)
    total.backward()
    of_d = {n: leaf.grad for n, leaf in p.items() if leaf.grad is not None}

    p = leaves(pair())
    features = textbook_trunk(p, textbook_generator(p, c.input))
    of_real = textbook_logit(p, textbook_trunk(p, images())).detach()
    _, g_loss = textbook_losses(name, of_real, textbook_logit(p, features))
    (g_loss + textbook_nll(p, features, c) @ LAMBDA).backward()
    of_g = {n: leaf.grad for n, leaf in p.items() if leaf.grad is not None and n.startswith("g.")}
    return of_d, of_g, d_loss.detach(), g_loss.detach()


def ours(mode: str, **changes) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    networks = pair()
    gammas = {name: changes.pop(name, 0.0) for name in ("r1", "r2")}
    terms = TermSet([GradientPenalty(**gammas)] if any(gammas.values()) else [])
    goal = replace(objective("openai"), **changes)
    d_params, g_params = networks.split("openai")
    if mode == "shared":
        d, d_terms, g, g_terms = shared_grads(
            networks, goal, d_params, g_params, images(), latent(), d_terms=terms
        )
    else:
        d, d_terms = d_grads(networks, goal, d_params, images(), latent(), terms=terms)
        real = images() if goal.adversarial == "relativistic" else None
        g, g_terms = g_grads(networks, goal, g_params, latent(), real=real)
    return named(networks, d_params, d), named(networks, g_params, g), d_terms.loss, g_terms.loss


def compare(mode: str, changes, **requested) -> None:
    expected, actual = textbook(**requested), ours(mode, **changes)
    for grads, truth in zip(actual[:2], expected[:2], strict=True):
        zero = {n for n, t in truth.items() if float(t.abs().max()) < 1e-12}
        assert zero <= {"d.head.bias"}  # of a loss of differences
        for n in zero:
            assert float(grads[n].abs().max()) < 1e-12
        keep = truth.keys() - zero
        assert grads.keys() == truth.keys()
        assert_equal_to_rounding({n: grads[n] for n in keep}, truth)
    for loss, value in zip(actual[2:], expected[2:], strict=True):
        torch.testing.assert_close(loss, value, rtol=1e-11, atol=1e-14)
        assert not loss.requires_grad


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_each_objective_follows_the_textbooks_gradients(mode, name):
    compare(mode, {"adversarial": name}, name=name)


@pytest.mark.parametrize("mode", MODES)
def test_label_smoothing_lowers_ds_target_for_real_images_alone(mode):
    compare(mode, {"smoothing": 0.1}, name="nonsaturating", smoothing=0.1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_r1_and_r2_add_the_textbooks_penalties_to_ds_gradient(mode, name):
    changes = {"adversarial": name, "r1": 3.0, "r2": 5.0}
    compare(mode, changes, name=name, r1=3.0, r2=5.0)


@pytest.mark.parametrize("name", NAMES)
def test_the_codes_nll_does_not_depend_on_the_adversarial_loss(name):
    networks, goal = pair(), objective("openai")
    params = networks.split("openai")[0]
    nll = [
        d_grads(networks, replace(goal, adversarial=a), params, images(), latent())[1].nll
        for a in ("nonsaturating", name)
    ]
    assert nll[0].shape == (len(SPEC.codes),)
    torch.testing.assert_close(*nll, rtol=1e-12, atol=0)


def test_gs_step_leaves_ds_buffers_though_it_sees_real_images():
    networks = pair()
    goal = replace(objective("openai"), adversarial="relativistic")
    before = [b.clone() for b in networks.discriminator.buffers()]
    g_grads(networks, goal, networks.split("openai")[1], latent(), real=images())
    after = networks.discriminator.buffers()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
