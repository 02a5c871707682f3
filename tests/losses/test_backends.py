"""Every way to compute the information loss, held to its plain definition and to fp64."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.strategies import Problem, modest, problem, specs
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastinfogan.latents import Bernoulli, Categorical, Gaussian, LatentSpec, Uniform
from fastinfogan.losses import compiled, grouped, info_loss
from fastinfogan.losses.reference import Inputs, plain_loss

RUNS = LatentSpec(  # runs longer than one of every kind, of few and of many classes
    noise=0,
    codes=(
        *[Categorical(4, weight=0.5)] * 2,
        *[Categorical(20)] * 3,
        Uniform(dim=2, sigma="learned"),
        Gaussian(dim=2, sigma="learned", weight=3.0),
        *[Bernoulli()] * 2,
        Uniform(),
        Gaussian(2, 3),
        *[Uniform(dim=3)] * 2,
    ),
)
SMALL = LatentSpec(0, (Categorical(3), Uniform(), Gaussian(sigma="learned", weight=3.0)))
TINY = 2.0**-24  # fp16's smallest step
FLOATS = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
weightings = st.sampled_from([None, torch.float32, torch.float64])
REDUCTIONS = st.sampled_from(["mean", "sum", "none"])


def own_weights(spec: LatentSpec, dtype: torch.dtype | None) -> Tensor | None:
    """Return None, or weights other than the codes' own."""
    if dtype is None:
        return None
    return torch.linspace(0.25, 2, len(spec.codes), dtype=dtype)


def extremes(args: Problem, seed: int) -> Problem:
    """Return the problem with some columns of q infinite or beyond the log-variance's clamp."""
    draw = torch.Generator().manual_seed(seed)
    q = args.q.detach().clone()
    values = torch.tensor([-math.inf, math.inf, -1e4, 1e4, -17.0, 17.0, 0.0], dtype=q.dtype)
    chosen = torch.rand(q.shape, generator=draw) < 0.1
    q = torch.where(chosen, values[torch.randint(7, q.shape, generator=draw)], q)
    return args._replace(q=q.requires_grad_())


def value_and_gradient(loss: Callable[..., Any], args: Problem, *rest: Any) -> list[np.ndarray]:
    """Return (total, NLL per code, gradient of the total's sum in q), as fp64."""
    total, per_code = loss(*args, *rest)
    (gradient,) = torch.autograd.grad(total.sum(), args.q)
    assert gradient.dtype == args.q.dtype
    return [x.detach().double().numpy() for x in (total, per_code, gradient)]


def of_inputs(loss: Callable[[Inputs], Any]) -> Callable[..., Any]:
    """Return a loss inside the package as a function of the fields of its one argument."""
    return lambda *args: loss(Inputs(*args))


def assert_as_near_the_truth(actual, plain, truth, dtype):
    """Check that the error against fp64 is the plain definition's in the same dtype or less."""
    ulp = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    for i, (g, p, t) in enumerate(zip(actual, plain, truth, strict=True)):
        finite = np.isfinite(t) & np.isfinite(p)
        assert np.array_equal(g[~finite], p[~finite], equal_nan=True)
        g, p, t = g[finite], p[finite], t[finite]
        if i < 2:  # sums over codes and rows round as their largest term does
            slack = 16 * ulp * (1 + np.abs(p).max(initial=0.0))
        else:  # besides, two numbers about a midpoint of q's dtype round to its two sides
            slack = 16 * ulp * (1 + np.abs(t)) + torch.finfo(dtype).eps * np.abs(t)
            slack = slack + (TINY if dtype == torch.float16 else 0)
        assert (np.abs(g - t) <= np.abs(p - t) + slack).all()


@modest
@given(
    specs | st.just(RUNS),
    st.integers(1, 40),
    st.integers(0, 2**32),
    FLOATS,
    REDUCTIONS,
    weightings,
    st.sampled_from([1.0, 0.3]),
    st.booleans(),
)
def test_the_grouped_loss_is_as_near_fp64_as_the_plain_one(
    spec, batch, seed, dtype, reduction, weighting, sigma, far
):
    args = problem(spec, batch, seed=seed, dtype=dtype)
    if far:
        args = extremes(args, seed)
    rest = own_weights(spec, weighting), reduction, sigma
    assert grouped.applies(Inputs(*args, *rest))
    wide = args._replace(q=args.q.detach().double().requires_grad_())
    assert_as_near_the_truth(
        value_and_gradient(of_inputs(grouped.grouped_loss), args, *rest),
        value_and_gradient(of_inputs(plain_loss), args, *rest),
        value_and_gradient(of_inputs(plain_loss), wide, *rest),
        dtype,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_65536_is_summed_as_exactly_as_the_plain_way_does(dtype):
    args = problem(SMALL, 65536, dtype=dtype)
    wide = args._replace(q=args.q.detach().double().requires_grad_())
    rest = None, "mean", 1.0
    assert_as_near_the_truth(
        value_and_gradient(of_inputs(grouped.grouped_loss), args, *rest),
        value_and_gradient(of_inputs(plain_loss), args, *rest),
        value_and_gradient(of_inputs(plain_loss), wide, *rest),
        dtype,
    )


def test_the_grouped_gradient_can_be_differentiated_again():
    args = problem(RUNS)
    # a gradient penalty, as in a training loop: its own gradient is that of the plain loss
    penalties = []
    for loss in (grouped.grouped_loss, plain_loss):
        total = loss(Inputs(*args))[0]
        (gradient,) = torch.autograd.grad(total, args.q, create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().sum(), args.q)[0])
    torch.testing.assert_close(*penalties)


def test_one_forward_serves_two_backwards_and_any_upstream_gradient():
    args = problem(RUNS)
    total = info_loss(*args).total
    (once,) = torch.autograd.grad(total, args.q, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * total, args.q)
    assert torch.equal(3 * once, thrice) or torch.allclose(3 * once, thrice, rtol=1e-15)
    rows = info_loss(*args, reduction="none").total
    upstream = torch.linspace(-1, 1, 8, dtype=torch.float64)
    (actual,) = torch.autograd.grad(rows, args.q, upstream)
    plain = plain_loss(Inputs(*args, reduction="none"))[0]
    torch.testing.assert_close(actual, torch.autograd.grad(plain, args.q, upstream)[0])
    # a stride-0 gradient, of a sum, and a total that nothing uses
    (actual,) = torch.autograd.grad(info_loss(*args, reduction="none").total.sum(), args.q)
    torch.testing.assert_close(actual, 8 * once)
    out = info_loss(*args)
    unused = torch.autograd.grad(args.q.sum() + 0 * out.per_code.sum(), args.q)[0]
    assert torch.equal(unused, torch.ones_like(unused))


def test_the_grouped_loss_is_few_operations():
    """The number of operations is that of the runs, for 8 heads and for 80."""

    class Count(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.n += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for n in (4, 40):
        args = problem(LatentSpec(0, (*[Categorical(10)] * n, *[Uniform()] * n)))
        info_loss(*args)  # what is kept of a layout is made once
        with Count() as count:
            info_loss(*args).total.backward()
        counts.append(count.n)
    assert counts[0] == counts[1] <= 40


# What the grouped loss leaves to the plain one


def test_weights_and_continuous_targets_keep_their_gradients():
    args = problem(SMALL, 2)
    weights = torch.linspace(0.25, 2, len(SMALL.codes), dtype=torch.float64).requires_grad_()
    continuous = args.continuous.double().requires_grad_()

    def total(q, weights, continuous):
        return info_loss(q, SMALL, args.categorical, continuous, weights=weights).total

    inputs = args.q, weights, continuous
    assert torch.autograd.gradcheck(total, inputs)
    assert torch.autograd.gradgradcheck(total, inputs)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # jvp's own
def test_function_transforms_see_through_the_loss():
    args = problem(RUNS)

    def total(q: Tensor) -> Tensor:
        return info_loss(q, *args[1:], validate=False).total

    (expected,) = torch.autograd.grad(total(args.q), args.q)
    q = args.q.detach()
    torch.testing.assert_close(torch.func.grad(total)(q), expected)
    direction = torch.ones_like(q)
    derivative = torch.func.jvp(total, (q,), (direction,))[1]
    torch.testing.assert_close(derivative, expected.sum())

    def of_a_row(q: Tensor, categorical: Tensor, continuous: Tensor) -> Tensor:
        row = q.unsqueeze(0), RUNS, categorical.unsqueeze(0), continuous.unsqueeze(0)
        return info_loss(*row, validate=False).total

    rows = torch.func.vmap(torch.func.grad(of_a_row))(q, args.categorical, args.continuous)
    torch.testing.assert_close(rows / 8, expected)


def test_targets_drawn_in_inference_mode_serve_a_training_step():
    args = problem(RUNS)
    expected = torch.autograd.grad(info_loss(*args).total, args.q)[0]
    with torch.inference_mode():
        _, categorical, continuous = RUNS.sample(8, seed=0)
        info_loss(args.q, RUNS, categorical, continuous)
    actual = torch.autograd.grad(info_loss(args.q, RUNS, categorical, continuous).total, args.q)[0]
    torch.testing.assert_close(actual, expected)


def test_a_layout_first_used_in_inference_mode_serves_a_training_step():
    spec = LatentSpec(0, (Categorical(7, weight=0.125), Gaussian(sigma="learned", weight=3.0)))
    args = problem(spec)
    with torch.inference_mode():
        info_loss(*args)
    (actual,) = torch.autograd.grad(info_loss(*args).total, args.q)
    (expected,) = torch.autograd.grad(plain_loss(Inputs(*args))[0], args.q)
    torch.testing.assert_close(actual, expected)


def test_fake_and_meta_tensors_pass_and_leave_nothing_behind():
    spec = LatentSpec(0, (Categorical(5, weight=0.5), Uniform(sigma="learned")))
    args = problem(spec)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        q, categorical, continuous = (
            mode.from_tensor(t) for t in (args.q, args.categorical, args.continuous)
        )
        out = info_loss(q, spec, categorical, continuous, validate=False)
        (gradient,) = torch.autograd.grad(out.total, q)
        assert gradient.shape == args.q.shape
    meta, *targets = (t.detach().to("meta") for t in (args.q, args.categorical, args.continuous))
    meta.requires_grad_()
    out = info_loss(meta, spec, targets[0], targets[1])
    out.total.backward()
    assert meta.grad is not None
    assert out.per_code.shape == (2,)
    (actual,) = torch.autograd.grad(info_loss(*args).total, args.q)
    (expected,) = torch.autograd.grad(plain_loss(Inputs(*args))[0], args.q)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("validate", [None, False])
def test_nothing_is_read_back_to_the_host(validate, no_host_read):
    args = problem(RUNS)
    with no_host_read():
        info_loss(*args, weights=torch.ones(len(RUNS.codes)), validate=validate).total.backward()


# The compiled backend


@pytest.fixture
def quickly_compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run torch.compile up to code generation: Dynamo, AOTAutograd, then PyTorch's operations."""
    monkeypatch.setattr(compiled, "COMPILER", "aot_eager")
    compiled._callable.cache_clear()
    counters.clear()
    yield
    compiled._callable.cache_clear()


@pytest.mark.quick_cases(1)
@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize(
    ("dtype", "reduction"), [(torch.float64, "mean"), (torch.bfloat16, "none")]
)
def test_the_compiled_loss_is_as_near_fp64_as_the_plain_one(dtype, reduction):
    args = extremes(problem(SMALL, 8, dtype=dtype), 1)
    wide = args._replace(q=args.q.detach().double().requires_grad_())
    for weights in (None, own_weights(SMALL, torch.float32)):
        rest = weights, reduction, 0.3
        loss = partial(info_loss, sigma=0.3, backend="compiled")
        assert_as_near_the_truth(
            value_and_gradient(loss, args, *rest[:2]),
            value_and_gradient(of_inputs(plain_loss), args, *rest),
            value_and_gradient(of_inputs(plain_loss), wide, *rest),
            dtype,
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # Inductor's own
def test_compiled_to_machine_code_it_is_as_near_fp64_and_another_batch_does_not_recompile():
    counters.clear()
    rest = None, "mean", 1.0
    for batch in (8, 5, 300, 1, 0):
        args = problem(SMALL, batch, dtype=torch.float32)
        wide = args._replace(q=args.q.detach().double().requires_grad_())
        assert_as_near_the_truth(
            value_and_gradient(partial(info_loss, backend="compiled"), args, *rest[:2]),
            value_and_gradient(of_inputs(plain_loss), args, *rest),
            value_and_gradient(of_inputs(plain_loss), wide, *rest),
            torch.float32,
        )
        out = info_loss(*args, backend="compiled")
        assert not out.per_code.requires_grad
        (once,) = torch.autograd.grad(out.total, args.q, retain_graph=True)
        (thrice,) = torch.autograd.grad(3 * out.total, args.q)
        torch.testing.assert_close(3 * once, thrice)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.slow
def test_each_layout_compiles_once_however_many_there_are():
    # more than torch.compile's recompile_limit, 8
    layouts = [LatentSpec(0, (Uniform(dim=n),)) for n in range(1, 11)]
    for _ in range(2):
        for spec in layouts:
            args = problem(spec)
            info_loss(args.q.detach(), *args[1:], backend="compiled")
    assert counters["stats"]["unique_graphs"] == len(layouts)


@pytest.mark.usefixtures("quickly_compiled")
def test_the_compiled_loss_checks_classes_on_the_cpu_and_unchecked_gives_nan():
    args = problem(SMALL)
    args.categorical[3, 0] = 3
    with pytest.raises(ValueError, match=r"categorical\[:, 0\] of c1_categorical.*got.*3"):
        info_loss(*args, backend="compiled")
    out = info_loss(*args, backend="compiled", validate=False)
    assert out.total.isnan()
    (gradient,) = torch.autograd.grad(out.total, args.q)
    assert gradient.isnan().sum() == gradient[3, :3].isnan().sum() == 3


@pytest.mark.usefixtures("quickly_compiled")
def test_the_compiled_loss_has_the_plain_one_s_second_derivative():
    args = problem(SMALL)
    penalties = []
    for backend in ("compiled", "reference"):
        total = info_loss(*args, backend=backend).total
        (gradient,) = torch.autograd.grad(total, args.q, create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().sum(), args.q)[0])
    torch.testing.assert_close(*penalties)


@pytest.mark.usefixtures("quickly_compiled")
def test_the_compiled_loss_leaves_gradients_of_weights_and_targets_to_the_plain_one():
    args = problem(SMALL)
    weights = torch.ones(len(SMALL.codes), dtype=torch.float64, requires_grad=True)
    out = info_loss(*args, weights=weights, backend="compiled")
    (actual,) = torch.autograd.grad(out.total, weights)
    torch.testing.assert_close(actual, out.per_code)


@pytest.mark.parametrize(("backend", "autocast"), [("auto", True), ("compiled", False)])
@pytest.mark.slow
def test_within_a_compiled_function_the_loss_is_a_part_of_its_graph(backend, autocast):

    def step(q: Tensor, spec: LatentSpec, categorical: Tensor, continuous: Tensor) -> Tensor:
        return info_loss(2 * q, spec, categorical, continuous, backend=backend).total

    torch._dynamo.reset()
    counters.clear()
    whole = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    fresh = LatentSpec(0, SMALL.codes)  # met by the compiler before anything else
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        for batch in (8, 5):
            args = problem(SMALL, batch, dtype=torch.float32)
            given = args.q, fresh, args.categorical, args.continuous
            (actual,) = torch.autograd.grad(whole(*given), args.q)
            (expected,) = torch.autograd.grad(plain_loss(Inputs(2 * args.q, *args[1:]))[0], args.q)
            torch.testing.assert_close(actual, expected)
    assert counters["stats"]["unique_graphs"] == 1
