"""The losses against closed forms, other libraries' formulas and published constants."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.strategies import modest, problem, specs
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from fastinfogan.latents import Bernoulli, Categorical, Gaussian, LatentSpec, Uniform
from fastinfogan.losses import InfoLoss, Reduction, adversarial_losses, info_loss, information, pack

MNIST = LatentSpec(noise=62, codes=(Categorical(10), Uniform(-1, 1), Uniform(-1, 1)))
ALL_KINDS = LatentSpec(
    noise=0,
    codes=(
        Categorical(4, weight=0.5),
        Gaussian(1, 2, dim=2, sigma="learned", weight=2.0),
        Bernoulli(0.3, weight=3.0),
        Uniform(-1, 1, dim=2),
        Categorical(3),
        Uniform(0, 4, sigma="learned", weight=0.25),
        Gaussian(),
    ),
)
TINY = 2.0**-24  # the smallest fp16 number: a gradient below it may be lost


def assert_equal_in_fp64(actual, expected):
    """Compare in fp64, up to some thousand roundings."""
    actual, expected = (
        x.detach() if isinstance(x, torch.Tensor) else x for x in (actual, expected)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def none(batch: int) -> torch.Tensor:
    """Return the continuous targets of a spec that has none."""
    return torch.empty(batch, 0)


def no_class(batch: int) -> torch.Tensor:
    """Return the categorical targets of a spec that has none."""
    return torch.empty(batch, 0, dtype=torch.long)


def truth(q, spec, categorical, continuous, sigma=1.0):
    """Return NLL [n_codes, B] and its gradient by q [B, q_dim], in fp64 by numpy and scipy."""
    q = q.detach().double().numpy()
    classes, values = iter(categorical.numpy().T), iter(continuous.double().numpy().T)
    nll, gradient, start = [], np.zeros_like(q), 0
    for code in spec.codes:
        if isinstance(code, Categorical):
            columns = slice(start, start := start + code.n)
            c, x = next(classes), q[:, columns]
            picked = np.take_along_axis(x, c[:, None], 1)[:, 0]
            nll.append(special.logsumexp(x, axis=1) - picked)
            gradient[:, columns] = special.softmax(x, axis=1) - np.eye(code.n)[c]
        elif isinstance(code, Bernoulli):
            columns = slice(start, start := start + 1)
            c, x = next(classes), q[:, start - 1]
            nll.append(-np.where(c == 1, special.log_expit(x), special.log_expit(-x)))
            gradient[:, start - 1] = special.expit(x) - c
        else:
            columns = slice(start, start := start + code.dim)
            c, mean = np.stack([next(values) for _ in range(code.dim)], 1), q[:, columns]
            std = np.full_like(mean, sigma)
            if code.sigma == "learned":
                columns = slice(start, start := start + code.dim)
                raw = q[:, columns]
                std = np.exp(0.5 * np.clip(raw, -16, 16))
                inside = np.abs(raw) <= 16
                gradient[:, columns] = 0.5 * (1 - ((c - mean) / std) ** 2) * inside
                columns = slice(columns.start - code.dim, columns.start)
            nll.append(-stats.norm(mean, std).logpdf(c).sum(1))
            gradient[:, columns] = (mean - c) / std**2
    assert start == q.shape[1]
    return np.stack(nll), gradient


def column_weights(spec, weights):
    """Return the weight of each column of q."""
    return np.repeat(weights, [code.q_dim for code in spec.codes])


# Values


@modest
@given(specs, st.integers(1, 9), st.integers(0, 2**32), st.sampled_from([1.0, 0.3, 2.5]))
def test_loss_and_gradient_are_their_closed_forms_in_fp64(spec, batch, seed, sigma):
    args = problem(spec, batch, seed=seed)
    out = info_loss(*args, sigma=sigma)
    (actual,) = torch.autograd.grad(out.total, args.q)
    nll, gradient = truth(*args, sigma)
    weights = np.array([code.weight for code in spec.codes])
    assert_equal_in_fp64(out.per_code, nll.mean(1))
    assert_equal_in_fp64(out.total, weights @ nll.mean(1))
    expected = gradient * column_weights(spec, weights) / batch
    assert_equal_in_fp64(actual, expected)


@modest
@given(
    specs,
    st.integers(1, 40),
    st.integers(0, 2**32),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_narrow_q_costs_no_more_than_fp32_rounding_and_its_gradient_keeps_its_dtype(
    spec, batch, seed, dtype
):
    args = problem(spec, batch, seed=seed, dtype=dtype)
    out = info_loss(*args)
    (actual,) = torch.autograd.grad(out.total, args.q)
    assert out.total.dtype == out.per_code.dtype == torch.float32
    assert actual.dtype == dtype
    nll, gradient = truth(*args)
    weights = np.array([code.weight for code in spec.codes])

    # fp32 arithmetic on the rounded q: some ten operations per term, each half an ulp, relative to
    # the largest of the intermediates, which 1 + |q|max + |nll| bounds.
    ulp = torch.finfo(torch.float32).eps
    size = 1 + args.q.abs().max().item() + np.abs(nll).mean(1)
    dims = np.array([code.dim for code in spec.codes])
    bound = 16 * ulp * dims * size
    assert (np.abs(out.per_code.numpy() - nll.mean(1)) <= bound).all()
    assert abs(out.total.item() - weights @ nll.mean(1)) <= 2 * (weights @ bound)

    # the gradient besides is rounded once to q's dtype, absolutely where it is subnormal there
    expected = gradient * column_weights(spec, weights) / batch
    scale = column_weights(spec, weights) / batch * (1 + np.abs(gradient))
    bound = torch.finfo(dtype).eps / 2 * np.abs(expected) + 16 * ulp * scale
    if dtype == torch.float16:
        bound = bound + TINY / 2
    assert (np.abs(actual.double().numpy() - expected) <= bound).all()


def test_gradients_pass_gradcheck_and_gradgradcheck_for_all_kinds():
    args = problem(ALL_KINDS, 3)
    weights = torch.rand(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for reduction in ("mean", "none"):

        def total(q, reduction=reduction):
            return info_loss(q, *args[1:], weights=weights, reduction=reduction, sigma=0.7).total

        assert torch.autograd.gradcheck(total, args.q)
        assert torch.autograd.gradgradcheck(total, args.q)


# Against PyTorch's own losses: fp64, the same formula, so 1e-12


def test_a_categorical_s_nll_is_cross_entropy():
    args = problem(LatentSpec(0, (Categorical(10),)), 50)
    expected = F.cross_entropy(args.q, args.categorical[:, 0])
    assert_equal_in_fp64(info_loss(*args).total, expected)


def test_a_bernoulli_s_nll_is_binary_cross_entropy_with_logits():
    # spread past 20, where F.softplus turns linear, an error of 2e-9
    args = problem(LatentSpec(0, (Bernoulli(),)), 500, spread=15.0)
    expected = F.binary_cross_entropy_with_logits(args.q, args.categorical.double())
    assert_equal_in_fp64(info_loss(*args).total, expected)


@pytest.mark.parametrize("code", [Uniform(-1, 1, dim=3), Gaussian(2, 3, dim=3)])
@pytest.mark.parametrize("sigma", [1.0, 0.4])
def test_a_fixed_sigma_gives_mse_up_to_scale_and_constant(code, sigma):
    args = problem(LatentSpec(0, (code,)), 50)
    mse = F.mse_loss(args.q, args.continuous.double())
    constant = math.log(2 * math.pi) / 2 + math.log(sigma)
    expected = 3 * (constant + mse / (2 * sigma**2))  # Σ over dims where F takes the mean
    assert_equal_in_fp64(info_loss(*args, sigma=sigma).total, expected)


@pytest.mark.parametrize("kind", [Uniform, Gaussian])
def test_a_learned_sigma_gives_gaussian_nll_loss(kind):
    args = problem(LatentSpec(0, (kind(dim=3, sigma="learned"),)), 50)
    mean, log_variance = args.q.split(3, dim=1)
    expected = 3 * F.gaussian_nll_loss(
        mean, args.continuous.double(), log_variance.exp(), full=True, eps=1e-12
    )
    assert_equal_in_fp64(info_loss(*args).total, expected)


# Against the published code bases, written here from their formulas


def test_openai_s_formulas_are_the_limit_of_their_epsilon():
    spec = LatentSpec(
        0, (Categorical(10), Bernoulli(), Uniform(sigma="learned"), Gaussian(), Categorical(3))
    )
    args = problem(spec, 64)
    q, c, x = args.q.detach(), args.categorical, args.continuous.double()

    def per_code(epsilon: float) -> torch.Tensor:
        def categorical(logits, classes):
            p = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
            return -(F.one_hot(classes, logits.shape[1]) * torch.log(p + epsilon)).sum(1)

        def gaussian(value, mean, std):
            z = (value - mean) / (std + epsilon)
            return 0.5 * math.log(2 * math.pi) + torch.log(std + epsilon) + 0.5 * z**2

        p, bit = 1 / (1 + torch.exp(-q[:, 10])), c[:, 1]
        nll = [
            categorical(q[:, :10], c[:, 0]),
            -(bit * torch.log(p + epsilon) + (1 - bit) * torch.log(1 - p + epsilon)),
            gaussian(x[:, 0], q[:, 11], torch.sqrt(torch.exp(q[:, 12]))),
            gaussian(x[:, 1], q[:, 13], torch.ones(64, dtype=torch.float64)),
            categorical(q[:, 14:], c[:, 2]),
        ]
        return torch.stack(nll).mean(1)

    ours = info_loss(*args).per_code
    assert_equal_in_fp64(ours, per_code(0.0))
    # at openai's ε = 1e-8 the two differ, by ε over the smallest p here, which is over 1e-5
    assert not torch.equal(ours, per_code(1e-8))
    torch.testing.assert_close(ours, per_code(1e-8), rtol=0, atol=1e-3)


def test_tf_gan_s_published_test_value_comes_out():
    # losses_impl_test: logits [1, 2] with class 1, N(0, 1) at 2; it averages over the heads
    spec = LatentSpec(0, (Categorical(2, weight=0.5), Gaussian(weight=0.5)))
    q, c, x = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1]]), torch.tensor([[2.0]])
    # published to five places
    assert info_loss(q, spec, c, x).total.item() == pytest.approx(1.61610, abs=1e-5)


def test_tf_gan_s_mnist_loss_is_half_the_cross_entropy_and_a_quarter_of_the_dims_nll():
    args = problem(MNIST, 32)
    weights = torch.tensor([0.5, 0.25, 0.25])
    per_head = [
        F.cross_entropy(args.q[:, :10], args.categorical[:, 0]),
        -torch.distributions.Normal(args.q[:, 10:], 1.0).log_prob(args.continuous.double()).mean(),
    ]
    ours = info_loss(*args, weights=weights).total
    assert_equal_in_fp64(ours, torch.stack(per_head).mean())


def test_torchgan_s_published_test_values_come_out():
    # test_losses.py's numbers. Its two classes per row are scored under both rows of logits, so
    # they are two codes here; it averages over classes, over dims, then over the two heads.
    mean = torch.tensor([[1.3, 4.6, 7.1], [0.2, 11.4, 1.0]])
    std = torch.tensor([[1.0, 0.5, 3.1], [0.2, 3.5, 4.9]])
    logits = torch.tensor([[0.5, 0.5, 0.75, 0.25]]).repeat(2, 1)
    spec = LatentSpec(0, (Categorical(2), Categorical(2), Uniform(dim=3, sigma="learned")))
    out = info_loss(
        pack([logits, mean, 2 * std.log()]),
        spec,
        torch.tensor([[0, 1], [1, 0]]),
        torch.tensor([[1.4, 4.0, 5.0], [-1.0, 7.0, 2.0]]),
        weights=torch.tensor([1 / 4, 1 / 4, 1 / 6]),
    )
    discrete, continuous = out.per_code[:2].mean().item(), out.per_code[2].item() / 3
    # published to seven digits, computed there and here in fp32
    assert (discrete, continuous) == pytest.approx((0.7086121, 4.491654), abs=5e-6)
    assert out.total.item() == pytest.approx(2.600133, abs=5e-6)


# Information


def test_information_is_the_prior_s_entropy_less_the_nll():
    nll = torch.linspace(0.1, 2, 7)
    expected = [
        math.log(4),
        2 * stats.norm(1, 2).entropy(),
        stats.bernoulli(0.3).entropy(),
        2 * math.log(2),
        math.log(3),
        math.log(4),
        stats.norm().entropy(),
    ]
    bound = information(nll, ALL_KINDS)
    torch.testing.assert_close(bound, torch.tensor(expected).float() - nll)  # fp32 of nll
    openai = information(nll, ALL_KINDS, convention="openai")
    for i, (low, high, dim) in {3: (-1, 1, 2), 5: (0, 4, 1)}.items():
        # E[−log N(c; 0, 1)] over the uniform prior, by quadrature
        expected[i] = dim * stats.uniform(low, high - low).expect(lambda c: -stats.norm.logpdf(c))
    torch.testing.assert_close(openai, torch.tensor(expected).float() - nll)


def test_at_perfect_reconstruction_openai_s_bound_is_a_sixth_and_the_exact_one_negative():
    batch = MNIST.sample(16, seed=0)
    logits = 100 * F.one_hot(batch.categorical[:, 0], 10).float()
    q = pack([logits, batch.continuous]).double()
    nll = info_loss(q, MNIST, batch.categorical, batch.continuous).per_code
    expected = [math.log(10), 1 / 6, 1 / 6]
    assert information(nll, MNIST, "openai").tolist() == pytest.approx(expected, abs=1e-12)
    exact = math.log(2) - math.log(2 * math.pi) / 2
    assert exact == pytest.approx(-0.226, abs=5e-4)
    expected = [math.log(10), exact, exact]
    assert information(nll, MNIST).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_fitted_sigma_lifts_the_bound_to_log_2_less_half_log_2_pi_e_mse():
    spec = LatentSpec(0, (Uniform(-1, 1, sigma="learned"),))
    c = spec.sample(1000, seed=0).continuous
    mean = c.double() + 0.1 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    mse = F.mse_loss(mean, c.double())
    q = pack([mean, mse.log().expand(1000, 1)])
    bound = information(info_loss(q, spec, no_class(1000), c).per_code, spec)
    expected = math.log(2) - 0.5 * math.log(2 * math.pi * math.e * mse.item())
    assert bound.item() == pytest.approx(expected, abs=1e-12)


# Reductions and weights


@modest
@given(specs, st.integers(1, 9), st.data())
def test_reductions_are_rows_their_sum_and_their_mean(spec, batch, data):
    args = problem(spec, batch)
    numbers = st.floats(0, 8, width=32)
    weights = data.draw(st.lists(numbers, min_size=len(spec.codes), max_size=len(spec.codes)))
    reductions: tuple[Reduction, ...] = ("none", "sum", "mean")
    outs = {r: info_loss(*args, weights=torch.tensor(weights), reduction=r) for r in reductions}
    nll, _ = truth(*args)
    rows = torch.from_numpy(np.array(weights) @ nll)
    assert_equal_in_fp64(outs["none"].total, rows)
    assert_equal_in_fp64(outs["sum"].total, rows.sum())
    assert_equal_in_fp64(outs["mean"].total, rows.mean())
    for out in outs.values():
        assert_equal_in_fp64(out.per_code, nll.mean(1))
        assert not out.per_code.requires_grad


def test_a_zero_weight_silences_its_code_alone():
    args = problem(ALL_KINDS)
    weights = torch.tensor([1.0, 1, 1, 0, 1, 1, 1])
    out = info_loss(*args, weights=weights)
    (gradient,) = torch.autograd.grad(out.total, args.q)
    # columns: 4 logits, 2 + 2, 1, then the two means of the silent code
    assert (gradient[:, 9:11] == 0).all()
    assert (gradient[:, [*range(9), *range(11, 17)]] != 0).all()
    assert_equal_in_fp64(out.total, out.per_code @ weights.double())
    assert out.per_code[3] > 0


def test_a_batch_of_none_gives_zero_and_a_zero_gradient():
    args = problem(ALL_KINDS, 0, dtype=torch.bfloat16)
    shapes: dict[Reduction, tuple[int, ...]] = {"mean": (), "sum": (), "none": (0,)}
    for reduction, shape in shapes.items():
        out = info_loss(*args, reduction=reduction)
        assert out.total.shape == shape
        assert out.total.sum().item() == 0
        assert out.per_code.tolist() == [0] * 7
        (gradient,) = torch.autograd.grad(out.total.sum(), args.q)
        assert gradient.shape == (0, ALL_KINDS.q_dim)
        assert gradient.dtype == torch.bfloat16


# Memory, dtypes, autocast, the module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_any_row_stride_and_offset_give_the_same_and_q_is_never_written(dtype):
    args = problem(ALL_KINDS, 5, dtype=dtype)
    expected = info_loss(*args)
    (expected_gradient,) = torch.autograd.grad(expected.total, args.q)
    buffer = torch.full((5, ALL_KINDS.q_dim + 7), 3.0, dtype=dtype)
    view = buffer[:, 3 : 3 + ALL_KINDS.q_dim]
    view.copy_(args.q.detach())
    kept = buffer.clone()
    view.requires_grad_()
    out = info_loss(view, *args[1:])
    (gradient,) = torch.autograd.grad(out.total, view)
    assert torch.equal(out.total, expected.total)
    assert torch.equal(out.per_code, expected.per_code)
    assert torch.equal(gradient, expected_gradient)
    assert torch.equal(buffer, kept)

    # one row seen by all of the batch, at row stride 0
    row = args.q[:1].detach().expand(5, -1)
    assert torch.equal(
        info_loss(row, *args[1:]).per_code, info_loss(row.contiguous(), *args[1:]).per_code
    )


@pytest.mark.parametrize(
    "dtype",
    [
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    ],
)
@pytest.mark.parametrize("validate", [None, True, False])
def test_targets_of_every_integer_dtype_give_the_same(dtype, validate):
    q, spec, categorical, continuous = problem(ALL_KINDS)
    out = info_loss(q, spec, categorical.to(dtype), continuous, validate=validate)
    assert torch.equal(out.total, info_loss(q, spec, categorical, continuous).total)


@pytest.mark.parametrize("q_dtype", [torch.float32, torch.bfloat16])
def test_autocast_leaves_the_fp32_arithmetic_alone(q_dtype):
    args = problem(ALL_KINDS, dtype=q_dtype)
    expected = info_loss(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = info_loss(*args)
    assert torch.equal(out.total, expected.total)
    assert torch.equal(out.per_code, expected.per_code)
    gradients = [torch.autograd.grad(o.total, args.q)[0] for o in (out, expected)]
    assert torch.equal(*gradients)


def test_the_module_equals_the_function_and_its_weights_move_with_it():
    q, spec, categorical, continuous = problem(ALL_KINDS)
    weights = torch.arange(7.0)
    options: dict[str, Any] = {
        "weights": weights,
        "reduction": "sum",
        "backend": "reference",
        "sigma": 0.5,
        "validate": False,
    }
    for kwargs in ({}, options):
        out = InfoLoss(spec, **kwargs)(q, categorical, continuous)
        expected = info_loss(q, spec, categorical, continuous, **kwargs)
        assert torch.equal(out.total, expected.total)
        assert torch.equal(out.per_code, expected.per_code)
    module = InfoLoss(spec, weights=weights).to(torch.float64)
    assert torch.equal(module.get_buffer("weights"), weights.double())
    assert module.to("meta").get_buffer("weights").device.type == "meta"
    assert not list(module.parameters())


# Extremes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "logits", [[1e4, -1e4], [-1e4, 1e4], [-200, -200], [-math.inf, 0], [0, -math.inf]], ids=str
)
@pytest.mark.parametrize("c", [0, 1])
def test_extreme_logits_have_their_exact_loss_and_gradient(dtype, logits, c):
    # next to ordinary and far rows: a maximum over the whole batch would spoil one of them
    q = torch.tensor([logits, [0, 1], [200, 199]], dtype=dtype)
    x, classes = q.double().numpy(), np.array([c, 0, 1])
    q.requires_grad_()
    spec, target = LatentSpec(0, (Categorical(2),)), torch.from_numpy(classes).unsqueeze(1)
    out = info_loss(q, spec, target, none(3), reduction="none").total
    expected = np.logaddexp(x[:, 0], x[:, 1]) - x[np.arange(3), classes]
    np.testing.assert_allclose(out.detach(), expected, rtol=1e-6)  # fp32
    (gradient,) = torch.autograd.grad(out.sum(), q)
    expected = special.expit(x - x[:, ::-1]) - np.eye(2)[classes]
    # rounded once to q's dtype, after fp32
    tolerance = torch.finfo(dtype).eps
    np.testing.assert_allclose(gradient.double(), expected, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("x", [1e4, -1e4, -200.0, math.inf, -math.inf])
def test_an_extreme_bernoulli_logit_has_its_exact_loss_and_gradient(x):
    spec = LatentSpec(0, (Bernoulli(),))
    q = torch.full((2, 1), x, requires_grad=True)
    out = info_loss(q, spec, torch.tensor([[0], [1]]), none(2), reduction="none").total
    assert out.tolist() == [max(x, 0), max(-x, 0)]
    (gradient,) = torch.autograd.grad(out.sum(), q)
    assert gradient.flatten().tolist() == ([1, 0] if x > 0 else [0, -1])


@pytest.mark.parametrize("kind", [Uniform, Gaussian])
@pytest.mark.parametrize("raw", [16.5, 1e4, math.inf, -16.5, -1e4, -math.inf])
def test_a_log_variance_beyond_16_is_clamped_with_zero_gradient(kind, raw):
    spec = LatentSpec(0, (kind(sigma="learned"),))
    q = torch.tensor([[0.25, raw]], dtype=torch.float64, requires_grad=True)
    out = info_loss(q, spec, no_class(1), torch.tensor([[0.5]]))
    (gradient,) = torch.autograd.grad(out.total, q)
    limit = math.copysign(16, raw)
    std = math.exp(limit / 2)
    expected = -stats.norm(0.25, std).logpdf(0.5)
    assert out.total.item() == pytest.approx(expected, rel=1e-12)
    assert gradient[0, 0].item() == pytest.approx(-0.25 / std**2, rel=1e-12)
    assert gradient[0, 1].item() == 0


@pytest.mark.parametrize("raw", [15.5, -15.5])
def test_a_log_variance_within_16_keeps_its_gradient(raw):
    spec = LatentSpec(0, (Gaussian(sigma="learned"),))
    q = torch.tensor([[0.25, raw]], dtype=torch.float64, requires_grad=True)
    out = info_loss(q, spec, no_class(1), torch.tensor([[0.5]]))
    (gradient,) = torch.autograd.grad(out.total, q)
    expected = 0.5 * (1 - 0.25**2 * math.exp(-raw))
    assert gradient[0, 1].item() == pytest.approx(expected, rel=1e-12)


# Targets out of range

# of ALL_KINDS: column of `categorical`, a class that does not exist, the code's columns of q
STRAYS = [
    (0, 4, range(0, 4)),
    (0, -1, range(0, 4)),
    (1, 2, range(8, 9)),
    (1, -1, range(8, 9)),
    (2, 3, range(11, 14)),
    (2, 2**40, range(11, 14)),
]


@pytest.mark.parametrize(("column", "value", "columns"), STRAYS)
@pytest.mark.parametrize("validate", [None, True])
def test_a_class_out_of_range_is_refused_by_the_check(column, value, columns, validate):
    args = problem(ALL_KINDS)
    args.categorical[3, column] = value
    name = ("c1_categorical", "c3_bernoulli", "c5_categorical")[column]
    n = (4, 2, 3)[column]
    message = rf"categorical\[:, {column}\] of {name}: expected classes 0 … {n - 1}, got.*{value}"
    with pytest.raises(ValueError, match=message):
        info_loss(*args, validate=validate)


@pytest.mark.parametrize(("column", "value", "columns"), STRAYS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_unchecked_a_class_out_of_range_gives_nan_in_the_loss_and_in_its_row_s_gradient(
    column, value, columns, reduction
):
    args = problem(ALL_KINDS)
    args.categorical[3, column] = value
    out = info_loss(*args, reduction=reduction, validate=False)
    nan_rows = torch.isnan(out.total).tolist()
    assert nan_rows == ([i == 3 for i in range(8)] if reduction == "none" else True)
    assert torch.isnan(out.per_code).tolist() == [i == (0, 2, 4)[column] for i in range(7)]
    (gradient,) = torch.autograd.grad(out.total.sum(), args.q)
    bad = torch.zeros_like(gradient, dtype=torch.bool)
    bad[3, list(columns)] = True
    assert torch.equal(torch.isnan(gradient), bad)


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec": {"noise": 0}}, "spec: expected a LatentSpec, got dict"),
        ({"q": torch.zeros(8, 16)}, r"q: expected shape \[B, 17\].*got \[8, 16\]"),
        ({"q": torch.zeros(17)}, r"q: expected shape \[B, 17\].*got \[17\]"),
        ({"q": torch.zeros(8, 17).long()}, "q's dtype: expected float32.*got torch.int64"),
        ({"q": torch.zeros(8, 17, dtype=torch.cfloat)}, "q's dtype.*got torch.complex64"),
        ({"q": torch.zeros(7, 17)}, r"categorical: expected shape \[7, 3\], got \[8, 3\]"),
        ({"categorical": torch.zeros(8, 2).long()}, r"categorical: .*\[8, 3\], got \[8, 2\]"),
        ({"categorical": torch.zeros(24).long()}, r"categorical: .*\[8, 3\], got \[24\]"),
        ({"categorical": torch.zeros(8, 3)}, "an integer dtype, got torch.float32"),
        ({"categorical": torch.zeros(8, 3).bool()}, "an integer dtype, got torch.bool"),
        (
            {"categorical": torch.zeros(8, 3, dtype=torch.long, device="meta")},
            "categorical's device: expected cpu, got meta",
        ),
        ({"continuous": torch.zeros(8, 5)}, r"continuous: .*\[8, 6\], got \[8, 5\]"),
        ({"continuous": torch.zeros(7, 6)}, r"continuous: .*\[8, 6\], got \[7, 6\]"),
        ({"continuous": torch.zeros(8, 6).long()}, "a floating dtype, got torch.int64"),
        (
            {"continuous": torch.zeros(8, 6, device="meta")},
            "continuous's device: expected cpu, got meta",
        ),
        ({"weights": torch.ones(6)}, r"weights: expected shape \[7\], got \[6\]"),
        ({"weights": torch.ones(1, 7)}, r"weights: expected shape \[7\], got \[1, 7\]"),
        ({"weights": torch.ones(7).long()}, "weights' dtype.*floating dtype, got torch.int64"),
        ({"weights": torch.ones(7, device="meta")}, "weights' device: expected cpu, got meta"),
        ({"reduction": "max"}, "reduction: expected mean, sum or none, got max"),
        ({"backend": "cuda"}, "backend: expected .*got cuda"),
        ({"sigma": 0.0}, "sigma: expected a finite number > 0, got 0.0"),
        ({"sigma": -1.0}, "sigma.*got -1.0"),
        ({"sigma": math.nan}, "sigma.*got nan"),
        ({"sigma": math.inf}, "sigma.*got inf"),
    ],
)
def test_info_loss_refuses_what_does_not_fit_and_says_what_would(changes, message):
    with pytest.raises(ValueError, match=message):
        info_loss(**{**problem(ALL_KINDS)._asdict(), **changes})


def test_information_refuses_another_length_or_convention():
    with pytest.raises(ValueError, match=r"per_code: expected shape \[3\], got \[2\]"):
        information(torch.zeros(2), MNIST)
    with pytest.raises(ValueError, match="convention: expected exact or openai, got bits"):
        information(torch.zeros(3), MNIST, convention="bits")  # type: ignore[arg-type]


def test_pack_joins_heads_in_order_and_passes_their_gradients():
    heads = [torch.randn(4, k, requires_grad=True) for k in (10, 1, 1)]
    q = pack(heads)
    assert torch.equal(q[:, :10], heads[0])
    assert torch.equal(q[:, 10:], torch.cat(heads[1:], 1))
    (q * torch.arange(12)).sum().backward()
    assert heads[1].grad is not None
    assert heads[1].grad.tolist() == [[10.0]] * 4


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([], "heads: expected at least one tensor, got none"),
        (
            [torch.zeros(4, 2), torch.zeros(3, 2)],
            r"heads\[1\]: expected shape \[4, k\], got \[3, 2\]",
        ),
        ([torch.zeros(4, 2), torch.zeros(4)], r"heads\[1\]: expected shape \[4, k\], got \[4\]"),
        (
            [torch.zeros(4)],
            r"heads\[0\]: expected shape \[B, k\], got \[4\]; the batch dim.* missing",
        ),
        ([torch.tensor(1.0)], r"heads\[0\]: expected shape \[B, k\], got \[\]"),
        (
            [torch.zeros(4, 2), torch.zeros(4, 1, device="meta")],
            r"heads\[1\]'s device: expected cpu, got meta",
        ),
    ],
)
def test_pack_refuses_heads_that_do_not_join(heads, message):
    with pytest.raises(ValueError, match=message):
        pack(heads)


# Adversarial losses


sigmoid, log_sigmoid = special.expit, special.log_expit


# value and gradients, in fp64 by numpy: D's by its logits on real and on fake, G's on fake
ADVERSARIAL = {
    "nonsaturating": (
        lambda r, f: -log_sigmoid(r).mean() - log_sigmoid(-f).mean(),
        lambda r, f: (sigmoid(r) - 1, sigmoid(f)),
        lambda r, f: -log_sigmoid(f).mean(),
        lambda r, f: sigmoid(f) - 1,
    ),
    "hinge": (
        lambda r, f: np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean(),
        lambda r, f: (-1.0 * (r < 1), 1.0 * (f > -1)),
        lambda r, f: -f.mean(),
        lambda r, f: -np.ones_like(f),
    ),
    "lsgan": (
        lambda r, f: 0.5 * ((r - 1) ** 2).mean() + 0.5 * (f**2).mean(),
        lambda r, f: (r - 1, f),
        lambda r, f: 0.5 * ((f - 1) ** 2).mean(),
        lambda r, f: f - 1,
    ),
    "wgan": (
        lambda r, f: f.mean() - r.mean(),
        lambda r, f: (-np.ones_like(r), np.ones_like(f)),
        lambda r, f: -f.mean(),
        lambda r, f: -np.ones_like(f),
    ),
    "relativistic": (
        lambda r, f: -log_sigmoid(r - f).mean(),
        lambda r, f: (sigmoid(r - f) - 1, 1 - sigmoid(r - f)),
        lambda r, f: -log_sigmoid(f - r).mean(),
        lambda r, f: sigmoid(f - r) - 1,
    ),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("shape", [(40,), (40, 1)])
def test_adversarial_losses_and_their_gradients_are_the_published_formulas(name, shape):
    generator = torch.Generator().manual_seed(3)
    real, fake = (  # spread past 20, where F.softplus turns linear
        (10 * torch.randn(shape, dtype=torch.float64, generator=generator)).requires_grad_()
        for _ in range(2)
    )
    r, f = real.detach().numpy(), fake.detach().numpy()
    d_loss, g_loss = adversarial_losses(name)
    d_value, d_gradient, g_value, g_gradient = ADVERSARIAL[name]

    loss = d_loss(real, fake)
    assert_equal_in_fp64(loss, d_value(r, f))
    for actual, expected in zip(
        torch.autograd.grad(loss, (real, fake)), d_gradient(r, f), strict=True
    ):
        assert_equal_in_fp64(actual, expected / 40)

    loss = g_loss(fake, real)
    assert_equal_in_fp64(loss, g_value(r, f))
    (actual,) = torch.autograd.grad(loss, fake)
    assert_equal_in_fp64(actual, g_gradient(r, f) / 40)


@pytest.mark.parametrize(
    ("name", "d_expected", "g_expected"),
    [
        ("nonsaturating", 3.1251488, 0.9509911),
        ("lsgan", 19.76125, 7.3425007),
        ("wgan", -2.625, -2.1),
    ],
)
def test_adversarial_losses_give_torchgan_s_published_test_values(name, d_expected, g_expected):
    real, fake = torch.tensor([1.3, 2.9, 8.4, 6.3]), torch.tensor([4.8, 1.2, -3.5, 5.9])
    d_loss, g_loss = adversarial_losses(name)
    # published to seven digits in fp32
    assert d_loss(real, fake).item() == pytest.approx(d_expected, rel=1e-6)
    assert g_loss(fake).item() == pytest.approx(g_expected, rel=1e-6)


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("sign", [1, -1])
def test_large_logits_do_not_overflow_in_any_dtype(name, dtype, sign):
    real = torch.full((4,), sign * 1e4, dtype=dtype, requires_grad=True)  # its square is past fp16
    fake = torch.full((4,), -sign * 1e4, dtype=dtype, requires_grad=True)
    size = float(abs(real[0].item()))  # bf16 rounds 1e4
    d_loss, g_loss = adversarial_losses(name)
    # the limits of the formulas, where −log σ(x) is −x or 0
    wrong, right = (0, 1) if sign == 1 else (1, 0)  # is D wrong, is G
    d_expected, g_expected = {
        "nonsaturating": (2 * size * wrong, size * right),
        "hinge": (2 * (1 + size) * wrong, sign * size),
        "lsgan": (0.5 * ((sign * size - 1) ** 2 + size**2), 0.5 * (-sign * size - 1) ** 2),
        "wgan": (-2 * sign * size, sign * size),
        "relativistic": (2 * size * wrong, 2 * size * right),
    }[name]
    d, g = d_loss(real, fake), g_loss(fake, real)
    assert d.dtype == g.dtype == torch.float32
    assert (d.item(), g.item()) == pytest.approx((d_expected, g_expected), rel=1e-6)  # fp32
    for gradient in (*torch.autograd.grad(d, (real, fake)), *torch.autograd.grad(g, fake)):
        assert torch.isfinite(gradient).all()


def test_the_relativistic_generator_needs_real_logits_and_the_others_do_not():
    _, g_loss = adversarial_losses("relativistic")
    with pytest.raises(ValueError, match="expected D's logits on real images, got None"):
        g_loss(torch.zeros(3))
    for name in set(ADVERSARIAL) - {"relativistic"}:
        _, g_loss = adversarial_losses(name)
        assert torch.equal(g_loss(torch.ones(3)), g_loss(torch.ones(3), torch.zeros(3)))


def test_an_unknown_adversarial_loss_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"hinge.*nonsaturating.*got 'minimax'"):
        adversarial_losses("minimax")
