"""The drop-in losses against other codebases' formulas, written here from them, and constants."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributions

from fastinfogan.compat import (
    MutualInformationPenalty,
    info_gan_loss,
    mean_weights,
    mse_constant,
    mse_weight,
    nll_constant,
)
from fastinfogan.latents import Categorical, Gaussian, LatentSpec, Uniform
from fastinfogan.losses import info_loss


def random(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def penalty_of_torchgan(c_dis: Tensor, c_cont: Tensor, dis: Any, cont: Any) -> Tensor:
    """Return torchgan's two numbers, with their gradients left in."""
    return torch.stack([-dis.log_prob(c_dis).mean(), -cont.log_prob(c_cont).mean()])


def test_torchgan_s_published_constants_come_out():
    dis = distributions.Categorical(logits=torch.tensor([[0.5, 0.5], [0.75, 0.25]]))
    mean = torch.tensor([[1.3, 4.6, 7.1], [0.2, 11.4, 1.0]])
    std = torch.tensor([[1.0, 0.5, 3.1], [0.2, 3.5, 4.9]])
    c_dis = torch.tensor([[0, 1], [1, 0]])
    c_cont = torch.tensor([[1.4, 4.0, 5.0], [-1.0, 7.0, 2.0]])
    given = c_dis, c_cont, dis, distributions.Normal(mean, std)
    none = MutualInformationPenalty(reduction="none")(*given)
    assert none.tolist() == pytest.approx([0.7086121, 4.491654], rel=2e-6)
    assert MutualInformationPenalty()(*given).item() == pytest.approx(2.600133, rel=2e-6)
    assert MutualInformationPenalty(reduction="sum")(*given).item() == pytest.approx(
        2 * 2.600133, rel=2e-6
    )
    assert MutualInformationPenalty(lambd=0.1)(*given).item() == pytest.approx(0.2600133, rel=2e-6)


@pytest.mark.parametrize("one_hot", [True, False])
@pytest.mark.parametrize("independent", [True, False])
def test_the_penalty_is_torchgan_s_formula_and_has_its_gradient(one_hot, independent):
    logits, mean = random(8, 10).requires_grad_(), random(8, 3).requires_grad_()
    log_std = random(8, 3, seed=1).requires_grad_()
    classes, values = torch.arange(8), random(8, 3, seed=2)
    dis: Any = distributions.Categorical(logits=logits)
    if one_hot:
        dis = distributions.OneHotCategorical(logits=logits)
        classes = F.one_hot(classes, 10)
    cont: Any = distributions.Normal(mean, log_std.exp())
    if independent:
        cont = distributions.Independent(cont, 1)
    given = classes, values, dis, cont
    ours = MutualInformationPenalty(reduction="none")(*given)
    theirs = penalty_of_torchgan(*given)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    expected = logits, mean, log_std  # dis and cont hold a graph that both share
    grads = [torch.autograd.grad(x.sum(), expected, retain_graph=True) for x in (ours, theirs)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_tf_gan_s_published_constant_comes_out():
    dis = distributions.Categorical(logits=torch.tensor([[1.0, 2.0]]))
    given = (
        torch.tensor([1]),
        torch.tensor([[2.0]]),
        dis,
        distributions.Normal(torch.zeros(1, 1), 1),
    )
    assert MutualInformationPenalty()(*given).item() == pytest.approx(1.61610, abs=1e-5)


def test_the_penalty_refuses_other_distributions_and_reductions():
    normal = distributions.Normal(torch.zeros(2, 1), 1.0)
    c = torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"dist_dis: expected a Categorical or .*got Normal"):
        MutualInformationPenalty()(c, c, normal, normal)
    with pytest.raises(ValueError, match="reduction: expected mean, sum or none, got max"):
        MutualInformationPenalty(reduction="max")  # type: ignore[arg-type]


def studio_gan(logits: Tensor, classes: Tensor, mean: Tensor, var: Tensor, x: Tensor) -> Tensor:
    """Return StudioGAN's discrete loss and `normal_nll_loss`, with its two epsilons."""
    n = logits.shape[1] // classes.shape[1]
    discrete = [F.cross_entropy(logits[:, n * i : n * (i + 1)], c) for i, c in enumerate(classes.T)]
    log_likelihood = -0.5 * (2 * math.pi * var + 1e-6).log() - (x - mean) ** 2 / (2 * var + 1e-6)
    return torch.stack(discrete).sum() - log_likelihood.sum(1).mean()


def test_info_gan_loss_is_studio_gan_s_formula_and_has_its_gradient():
    logits, mean = random(8, 20).requires_grad_(), random(8, 3).requires_grad_()
    var = random(8, 3, seed=1).exp().requires_grad_()
    classes, x = torch.randint(5, (8, 4)), random(8, 3, seed=2)
    ours = info_gan_loss(logits, classes, mean, var, x)
    theirs = studio_gan(logits, classes, mean, var, x)
    # its epsilons: 1e-6 of a variance over 0.05
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    grads = [torch.autograd.grad(loss, (logits, mean, var)) for loss in (ours, theirs)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    discrete = info_gan_loss(logits, classes, categorical_weight=0.5)
    continuous = info_gan_loss(d_mean=mean, d_var=var, continuous=x, continuous_weight=3.0)
    torch.testing.assert_close(2 * discrete + continuous / 3, ours)
    one = info_gan_loss(logits[:, :5], classes[:, 0])
    torch.testing.assert_close(one, F.cross_entropy(logits[:, :5], classes[:, 0]))


def test_info_gan_loss_refuses_half_of_a_kind():
    with pytest.raises(ValueError, match="categorical: expected the classes of d_categorical"):
        info_gan_loss(torch.zeros(8, 10))
    with pytest.raises(ValueError, match=r"d_categorical: expected \[B, 3 · n\], got \[8, 10\]"):
        info_gan_loss(torch.zeros(8, 10), torch.zeros(8, 3).long())
    with pytest.raises(ValueError, match="d_categorical and d_mean: expected at least one"):
        info_gan_loss()


@pytest.mark.parametrize("dim", [1, 3])
def test_a_mse_of_weight_lambda_is_a_code_of_weight_2_lambda_over_d(dim):
    weight = 0.3
    code = Uniform(dim=dim, weight=mse_weight(weight, dim))
    q, x = random(8, dim).requires_grad_(), random(8, dim, seed=1)
    ours = info_loss(q, LatentSpec(0, (code,)), continuous=x).total
    theirs = weight * F.mse_loss(q, x)
    torch.testing.assert_close(ours - mse_constant(weight), theirs)
    grads = [torch.autograd.grad(loss, q)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_mean_weights_average_over_codes_and_dims():
    spec = LatentSpec(0, (Categorical(4), Gaussian(dim=3), Uniform(dim=2, sigma="learned")))
    batch, q = spec.sample(8, seed=0), random(8, spec.q_dim)
    out = info_loss(q, spec, batch, weights=mean_weights(spec))
    per_dim = out.per_code / torch.tensor([1, 3, 2])
    torch.testing.assert_close(out.total, per_dim.mean())


def test_the_constant_of_an_nll_without_it():
    spec = LatentSpec(0, (Gaussian(dim=3),))
    q, x = random(8, 3), random(8, 3, seed=1)
    bare = 0.5 * (q - x).square().sum(1).mean()
    torch.testing.assert_close(info_loss(q, spec, continuous=x).total, bare + nll_constant(3))
