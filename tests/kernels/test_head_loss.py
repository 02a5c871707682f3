"""The kernel, interpreted on the CPU, against the reference in fp64.

The rule for values and gradients: the kernel's error is no larger than that of the plain PyTorch
definition on the same narrow q, plus a constant. The constant is a few roundings in fp32 of the
numbers involved, and for a bf16 or fp16 gradient one rounding in its dtype.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from helpers.strategies import Problem, modest, problem, seeds, specs
from hypothesis import given, settings
from hypothesis import strategies as st

from fastinfogan.latents import Bernoulli, Categorical, Gaussian, LatentSpec, Uniform
from fastinfogan.losses import adversarial_losses
from fastinfogan.losses.reference import Inputs, plain_loss, plain_nll
from fastinfogan.losses.triton import layout_of, own_weights

launch = pytest.importorskip("fastinfogan_kernels.launch", reason="triton is not installed")
memory = pytest.importorskip("fastinfogan_kernels.memory")

NARROW = (torch.float32, torch.bfloat16, torch.float16)
ULP = torch.finfo(torch.float32).eps
ROUNDINGS = 16  # of fp32, that the kernel may have more than the definition
MIXED = (
    Categorical(4, weight=0.5),
    Gaussian(1, 2, dim=2, sigma="learned", weight=2.0),
    Bernoulli(0.3, weight=3.0),
    Uniform(-1, 1, dim=2),
    Categorical(3),
    Uniform(0, 4, sigma="learned", weight=0.25),
    Gaussian(),
)
ALL_KINDS = LatentSpec(0, MIXED)
MANY_RUNS = LatentSpec(0, MIXED * 3)  # by table
BUILDERS = {"runs": ALL_KINDS, "table": MANY_RUNS}


def run(args: Problem, **kwargs):
    """Return one launch on the problem, with the spec's own weights unless others are given."""
    q, spec, categorical, continuous = args
    weights = kwargs.pop("weights", None)
    weights = own_weights(spec, q) if weights is None else weights
    call = launch.Call(q.detach(), layout_of(spec), categorical, continuous, weights, **kwargs)
    return launch.launch(call)


def plain(args: Problem, dtype: torch.dtype, sigma: float = 1.0):
    """Return NLL [n_codes, B] and the gradient of its weighted sum by q, both in fp64."""
    q = args.q.detach().to(dtype).requires_grad_()
    inputs = Inputs(q, *args[1:], reduction="sum", sigma=sigma)
    nll = plain_nll(inputs)
    total, _ = plain_loss(inputs)
    (gradient,) = torch.autograd.grad(total, q)
    return nll.detach().double(), gradient.double()


def assert_held(args: Problem, sigma: float = 1.0) -> None:
    """Check the rule at the head of this file."""
    dtype, spec = args.q.dtype, args.spec
    truth, true_gradient = plain(args, torch.float64, sigma)
    eager, eager_gradient = plain(args, dtype, sigma)
    options = {"sigma": sigma, "code_sums": True}
    rows = run(args, reduction="none", **options)
    sums = run(args, reduction="sum", **options)
    weights = torch.tensor([code.weight for code in spec.codes]).double()
    dims = torch.tensor([code.q_dim for code in spec.codes]).double().sqrt()

    # what one rounding is of: the loss, or the logits that it is a difference of
    largest = torch.stack(
        [args.q[:, slot.q].detach().double().abs().amax(1) for slot in spec.slots]
    )
    slack = ROUNDINGS * ULP * dims[:, None] * (1 + truth.abs() + largest)
    eager_error = (eager - truth).abs()
    bound = (eager_error + slack).sum(1)
    assert (sums.per_code - truth.sum(1)).abs().le(bound).all()
    assert abs(sums.total.item() - (weights @ truth).sum().item()) <= weights @ bound * 1.01
    assert (rows.total - weights @ truth).abs().le(weights @ (eager_error + slack)).all()
    assert torch.equal(rows.per_code, sums.per_code) or torch.allclose(
        rows.per_code,
        sums.per_code,
        rtol=1e-5,  # other blocks, so another order of the sum
    )

    each = weights.repeat_interleave(torch.tensor([code.q_dim for code in spec.codes]))
    sizes = each + true_gradient.abs() + each * largest_of_columns(args, largest)
    slack = ROUNDINGS * ULP * sizes
    slack += torch.finfo(dtype).eps * true_gradient.abs() * (dtype == torch.bfloat16)
    for out in (rows, sums):
        assert out.dq.dtype == (torch.float32 if dtype == torch.float16 else dtype)
        error = (out.dq.double() - true_gradient).abs()
        assert error.le((eager_gradient - true_gradient).abs() + slack).all()


def largest_of_columns(args: Problem, largest: torch.Tensor) -> torch.Tensor:
    """Return [B, q_dim]: an exponential's relative error is its argument's absolute one."""
    counts = torch.tensor([code.q_dim for code in args.spec.codes])
    return largest.repeat_interleave(counts, 0).T * args.q.detach().double().abs().gt(1)


# Values and gradients


@settings(modest, max_examples=20)
@given(
    specs,
    st.sampled_from([0, 1, 2, 77, 129]),
    seeds,
    st.sampled_from(NARROW),
    st.sampled_from([1.0, 0.3, 2.5]),
)
def test_the_kernel_is_no_further_from_the_truth_than_the_definition(
    spec, batch, seed, dtype, sigma
):
    assert_held(problem(spec, batch, dtype=dtype, seed=seed), sigma)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("batch", "k"),
    [
        *itertools.product([0, 1, 2, 77, 129], [2, 3, 10, 20]),
        *itertools.product([0, 1, 2], [257, 5000]),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((129, 257), (77, 5000))),
    ],
)
def test_the_kernel_agrees_for_every_width_of_a_categorical(batch, k):
    spec = LatentSpec(0, (Categorical(k), Categorical(k, weight=0.5), Uniform()))
    dtype = NARROW[(batch + k) % 3]
    assert_held(problem(spec, batch, dtype=dtype, seed=k))


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("batch", [1, 20])
def test_the_kernel_agrees_for_unrolled_runs_and_for_the_table_of_many_runs(name, dtype, batch):
    spec = BUILDERS[name]
    assert launch.make_plan(layout_of(spec)).table == (name == "table")
    assert_held(problem(spec, batch, dtype=dtype, seed=5))


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    "spec",
    [
        LatentSpec(0, (Categorical(65_536),)),
        LatentSpec(0, (Categorical(10),) * 1024),
        pytest.param(LatentSpec(0, (Uniform(), Categorical(2)) * 128), marks=pytest.mark.slow),
        LatentSpec(0, (Uniform(dim=3000), Gaussian(dim=2500, sigma="learned"))),
        LatentSpec(0, (Bernoulli(),) * 100),
    ],
    ids=["65,536 categories", "1,024 heads", "256 alternating heads", "wide", "100 bits"],
)
def test_the_kernel_agrees_at_the_ends_of_the_range(spec):
    assert_held(problem(spec, 2, dtype=torch.float32, seed=2))


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("name", "batch", "programs"), [("runs", 77, 1), ("runs", 129, 3), ("table", 20, 2)]
)
def test_a_program_with_several_blocks_of_rows_adds_them_up(monkeypatch, name, batch, programs):
    monkeypatch.setattr(launch, "MAX_PROGRAMS", programs)
    assert launch.make_plan(layout_of(BUILDERS[name])).block_b * programs < batch
    assert_held(problem(BUILDERS[name], batch, dtype=torch.float32, seed=3))


def test_the_same_call_twice_is_the_same_to_the_last_bit():
    args = problem(ALL_KINDS, 129, dtype=torch.bfloat16)
    for a, b in zip(run(args)[:3], run(args)[:3], strict=True):
        assert torch.equal(a, b)


def test_no_launch_is_needed_for_an_empty_batch():
    out = run(problem(ALL_KINDS, 0, dtype=torch.float32))
    assert out.total.item() == 0
    assert out.per_code.tolist() == [0] * 7
    assert out.dq.shape == (0, ALL_KINDS.q_dim)


def test_the_counter_is_zero_again_after_a_launch():
    run(problem(ALL_KINDS, 129, dtype=torch.float32))
    _, counter = launch._workspaces._of_thread.workspace
    assert counter.item() == 0


def test_a_mean_divides_the_total_with_its_gradient_and_the_codes():
    args = problem(ALL_KINDS, 16, dtype=torch.float32)
    one, other = run(args, reduction="sum", code_sums=True), run(args)
    assert torch.equal(other.total, one.total / 16)
    assert torch.equal(other.dq, one.dq / 16)
    assert torch.equal(other.per_code, one.per_code / 16)


# Where the tensors lie


def as_columns(x):
    """Return the same values with the rows side by side in memory."""
    return x.t().contiguous().t()


def as_every_third(x):
    out = x.new_zeros(x.shape[0] * 3, x.shape[1] + 5)
    out[::3, 2 : 2 + x.shape[1]] = x
    return out[::3, 2 : 2 + x.shape[1]]


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("moved", [as_columns, as_every_third])
def test_any_strides_and_offsets_give_the_same(name, moved):
    args = problem(BUILDERS[name], 9, dtype=torch.float32)
    expected = run(args)
    q, spec, categorical, continuous = args
    for a, b in zip(
        run(Problem(moved(q.detach()), spec, moved(categorical), moved(continuous)))[:3],
        expected[:3],
        strict=True,
    ):
        assert torch.equal(a, b)


def test_a_row_repeated_by_a_stride_of_zero_is_read_as_often():
    args = problem(ALL_KINDS, 1, dtype=torch.float32)
    q, spec, categorical, continuous = args
    spread = Problem(
        q.detach().expand(9, -1), spec, categorical.expand(9, -1), continuous.expand(9, -1)
    )
    assert torch.equal(run(spread, reduction="sum").dq, run(args).dq.expand(9, -1))


INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_classes_of_any_integer_dtype_give_the_same(dtype):
    args = problem(ALL_KINDS, 20, dtype=torch.float32)
    other = args._replace(categorical=args.categorical.to(dtype))
    assert torch.equal(run(other).dq, run(args).dq)
    assert torch.equal(run(other).per_code, run(args).per_code)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_values_of_any_floating_dtype_are_taken(dtype):
    args = problem(ALL_KINDS, 20, dtype=torch.float32)
    rounded = args._replace(continuous=args.continuous.to(dtype).float())
    assert torch.equal(run(args._replace(continuous=args.continuous.to(dtype))).dq, run(rounded).dq)


def poisoned(x: torch.Tensor, poison: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (a view equal to x, the larger buffer around it, full of poison)."""
    flat = torch.full((x.numel() + 256,), poison, dtype=x.dtype)
    view = flat[128 : 128 + x.numel()].view(x.shape)
    view.copy_(x)
    return view, flat


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("n_real", [None, 0, 5])
@pytest.mark.parametrize(
    ("per_row", "dtype"), [(False, torch.float32), (True, torch.bfloat16), (False, torch.float16)]
)
def test_nothing_outside_the_tensors_is_read_or_written_and_all_outputs_are(
    monkeypatch, name, n_real, per_row, dtype
):
    spec, batch = BUILDERS[name], 11
    args = problem(spec, batch, dtype=dtype, seed=8)
    options: dict = {"reduction": "none" if per_row else "mean"}
    q = args.q.detach()
    if n_real is not None:
        options["logits"] = torch.randn(batch + n_real)
        q = torch.cat((torch.randn(n_real, spec.q_dim, dtype=dtype), q))
    weights = own_weights(spec, q)
    expected = run(args._replace(q=q), **options)

    # inputs lie in NaN (classes: out of any range), outputs and workspace too
    buffers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def empty(shape, **kwargs):
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        view, flat = poisoned(torch.full(shape, math.nan, **kwargs), math.nan)
        buffers.append((view, flat))
        return view

    monkeypatch.setattr(launch.torch, "empty", empty)
    monkeypatch.setattr(launch, "_workspaces", memory.Workspaces())
    inputs = [poisoned(x, math.nan) for x in (q, args.continuous, weights)]
    inputs.append(poisoned(args.categorical, 10**6))
    if n_real is not None:
        inputs.append(poisoned(options["logits"], math.nan))
        options["logits"] = inputs[-1][0]
    before = [flat.clone() for _, flat in inputs]
    (q, _), (continuous, _), (weights, _), (categorical, _) = inputs[:4]
    out = run(Problem(q, spec, categorical, continuous), weights=weights, **options)
    monkeypatch.undo()

    for actual, right in zip(out, expected, strict=True):
        assert (actual is None) == (right is None)
        if actual is not None:
            assert torch.equal(actual, right)
            assert not actual.isnan().any()
    for (_, flat), old in zip(inputs, before, strict=True):
        assert torch.equal(flat.nan_to_num(), old.nan_to_num())
    assert len(buffers) == 4 + 2 * (n_real is not None)  # outputs and the partial sums
    for view, flat in buffers:
        assert flat[:128].isnan().all()
        assert flat[128 + view.numel() :].isnan().all()


# Extremes


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the interpreter's numpy
@pytest.mark.parametrize(
    ("k", "dtype"), [*itertools.product([3], NARROW), (1500, torch.float32)], ids=str
)
@pytest.mark.parametrize(
    "logits",
    [
        [1e4, -1e4, 0.0],
        [-200.0, -200.0, -200.0],
        [-math.inf, 0.0, 1.0],
        [0.0, -math.inf, -math.inf],
        [-math.inf, -math.inf, -math.inf],
        [math.inf, 0.0, 0.0],
        [math.nan, 0.0, 0.0],
    ],
    ids=str,
)
@pytest.mark.parametrize("c", [0, 1])
def test_extreme_logits_next_to_ordinary_rows_agree_with_the_definition(dtype, k, logits, c):
    # wide: the extreme is in the first chunk, the rest of it and the second follow its last value
    row = torch.tensor(logits + [logits[-1]] * (k - 3))
    q = torch.stack((row, torch.zeros(k), torch.linspace(199, 200, k))).to(dtype)
    spec = LatentSpec(0, (Categorical(k),))
    args = Problem(q, spec, torch.tensor([[c], [0], [1]]), torch.empty(3, 0))
    out = run(args, reduction="none")
    truth, gradient = plain(args, torch.float64)
    torch.testing.assert_close(out.total, truth[0].float(), equal_nan=True, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        out.dq.double(), gradient, equal_nan=True, rtol=torch.finfo(dtype).eps, atol=1e-6
    )


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_a_first_chunk_of_minus_infinity_does_not_spoil_the_ones_after():
    q = torch.full((1, 3000), -math.inf)
    q[0, 2000:2002] = torch.tensor([1.0, 2.0])
    args = Problem(q, LatentSpec(0, (Categorical(3000),)), torch.tensor([[2001]]), q[:, :0])
    out = run(args)
    assert out.total.item() == pytest.approx(math.log1p(math.exp(-1)), rel=1e-6)
    assert out.dq[0, 2000].item() == pytest.approx(1 / (1 + math.e), rel=1e-6)
    assert not out.dq.isnan().any()


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("x", [1e4, -1e4, 30.0, -30.0, math.inf, -math.inf, math.nan, 0.0])
def test_an_extreme_bernoulli_keeps_its_relative_precision(x):
    spec = LatentSpec(0, (Bernoulli(),))
    args = Problem(torch.full((2, 1), x), spec, torch.tensor([[0], [1]]), torch.empty(2, 0))
    out = run(args, reduction="none")
    truth, gradient = plain(args, torch.float64)
    torch.testing.assert_close(out.total.double(), truth[0], equal_nan=True, rtol=1e-6, atol=0)
    torch.testing.assert_close(out.dq.double(), gradient, equal_nan=True, rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("raw", [16.0, 16.5, 1e4, math.inf, -16.0, -16.5, -math.inf, math.nan])
def test_a_log_variance_is_clamped_as_the_definition_clamps_it(raw):
    spec = LatentSpec(0, (Uniform(sigma="learned"),))
    args = Problem(
        torch.tensor([[0.25, raw]]), spec, torch.empty(1, 0).long(), torch.tensor([[0.5]])
    )
    out = run(args)
    truth, gradient = plain(args, torch.float64)
    torch.testing.assert_close(out.total.double(), truth.sum(), equal_nan=True, rtol=1e-6, atol=0)
    torch.testing.assert_close(out.dq.double(), gradient, equal_nan=True, rtol=1e-6, atol=0)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize(
    ("column", "value", "code"),
    [(0, 4, 0), (0, -1, 0), (1, 2, 2), (1, -1, 2), (2, 3, 4), (2, 2**40, 4), (2, 1024, 4)],
)
def test_a_class_that_does_not_exist_gives_nan_in_its_code_and_its_row(name, column, value, code):
    spec = BUILDERS[name]
    args = problem(spec, 9, dtype=torch.float32)
    args.categorical[3, column] = value
    out = run(args, reduction="none")
    assert out.total.isnan().tolist() == [i == 3 for i in range(9)]
    assert out.per_code.isnan().tolist() == [i == code for i in range(len(spec.codes))]
    bad = torch.zeros(9, spec.q_dim, dtype=torch.bool)
    bad[3, spec.slots[code].q] = True
    assert torch.equal(out.dq.isnan(), bad)
    assert run(args).total.isnan()


def test_a_class_beyond_a_wide_code_is_nan_too():
    spec = LatentSpec(0, (Categorical(1500),))
    args = problem(spec, 2, dtype=torch.float32)
    args.categorical[1, 0] = 1800  # within the padding of the second chunk
    out = run(args, reduction="none")
    assert out.total.isnan().tolist() == [False, True]
    assert out.dq[1].isnan().all()
    assert not out.dq[0].isnan().any()


# The loss of the logits


OBJECTIVES = ["nonsaturating", "hinge", "lsgan", "wgan", "relativistic"]


def adversarial_truth(logits, n_real, adversarial, player, real=None):
    """Return value and gradient of the loss, fp64, by the plain losses."""
    x = logits.detach().double().requires_grad_()
    d_loss, g_loss = adversarial_losses(adversarial)
    real = None if real is None else real.double()
    value = g_loss(x, real) if player == "generator" else d_loss(x[:n_real], x[n_real:])
    return value.detach(), torch.autograd.grad(value, x)[0]


@pytest.mark.quick_cases(4)
@pytest.mark.parametrize(
    ("name", "dtype"), [*zip(["runs"] * 3, NARROW, strict=True), ("table", NARROW[0])]
)
@pytest.mark.parametrize(
    ("adversarial", "n_real"),
    [
        *itertools.product(["nonsaturating", "hinge"], [0, 1, 14]),
        *itertools.product(["lsgan", "wgan"], [0, 14]),
        ("relativistic", 0),
        ("relativistic", 9),
    ],
)
@pytest.mark.parametrize("wide", [True, False], ids=["q of all rows", "q of generated rows"])
def test_the_logits_loss_joins_without_changing_the_information_loss(
    name, dtype, adversarial, n_real, wide
):
    spec, batch = BUILDERS[name], 9
    args = problem(spec, batch, dtype=dtype, seed=4)
    player = "discriminator" if n_real else "generator"
    generator = torch.Generator().manual_seed(n_real)
    logits = 5 * torch.randn(n_real + batch, generator=generator)
    logits = as_every_third(logits[:, None])[:, 0].to(dtype)
    q = args.q.detach()
    if wide:  # no code on real rows: whatever stands there is not looked at
        q = torch.cat((torch.full((n_real, spec.q_dim), math.nan, dtype=dtype), q))
    options = {"logits": logits, "adversarial": adversarial, "player": player}
    if adversarial == "relativistic" and not n_real:
        real = as_every_third(3 * torch.randn(batch, 1, generator=generator))
        options["real"] = real[:, 0].to(dtype)
    out = run(args._replace(q=q), **options)

    value, gradient = adversarial_truth(logits, n_real, adversarial, player, options.get("real"))
    assert out.adversarial.item() == pytest.approx(value.item(), rel=1e-6, abs=1e-6)
    assert out.dlogits.dtype == torch.float32
    torch.testing.assert_close(out.dlogits.double(), gradient, rtol=1e-6, atol=1e-8)

    alone = run(args)
    torch.testing.assert_close(out.total, alone.total, rtol=1e-5, atol=0)  # another order
    torch.testing.assert_close(out.per_code, alone.per_code, rtol=1e-5, atol=0)
    assert torch.equal(out.dq[q.shape[0] - batch :], alone.dq)
    if wide:
        assert not out.dq[:n_real].any()


@pytest.mark.parametrize("adversarial", OBJECTIVES)
@pytest.mark.parametrize("x", [1e4, -1e4, 40.0, -40.0, 1.0, -1.0, 0.0])
@pytest.mark.parametrize("n_real", [0, 2])
def test_extreme_logits_have_their_exact_loss_and_gradient(adversarial, x, n_real):
    args = problem(ALL_KINDS, 2, dtype=torch.float32)
    logits = torch.full((2 + n_real,), x)
    player = "discriminator" if n_real else "generator"
    real = None
    if adversarial == "relativistic" and not n_real:
        real = -logits
    elif adversarial == "relativistic":
        logits = torch.cat((-logits[:2], logits[2:]))
    options = {"logits": logits, "adversarial": adversarial, "player": player, "real": real}
    out = run(args, **options)
    value, gradient = adversarial_truth(logits, n_real, adversarial, player, real)
    assert out.adversarial.item() == pytest.approx(value.item(), rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(out.dlogits, gradient, rtol=1e-6)


def test_real_rows_alone_have_their_loss():
    args = problem(ALL_KINDS, 0, dtype=torch.float32)
    logits = torch.tensor([0.5, -2.0])
    out = run(args, logits=logits)
    assert out.adversarial.item() == pytest.approx(
        torch.nn.functional.softplus(-logits).mean().item(), rel=1e-6
    )
    assert out.total.item() == 0
    assert out.per_code.tolist() == [0] * 7


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(8, 16)}, r"q: expected shape \[8, 17\], got \[8, 16\]"),
        ({"q": torch.zeros(9, 17)}, r"q: expected shape \[8, 17\], got \[9, 17\]"),
        ({"q": torch.zeros(8, 17).double()}, "q's dtype: .* got torch.float64"),
        ({"categorical": torch.zeros(8, 2).long()}, r"categorical: expected shape \[8, 3\]"),
        ({"categorical": torch.zeros(8, 3)}, "of an integer .* got torch.float32"),
        ({"continuous": torch.zeros(7, 6)}, r"continuous: expected shape \[8, 6\], got \[7, 6\]"),
        ({"continuous": torch.zeros(8, 6).int()}, "a floating dtype, got .*torch.int32"),
        ({"weights": torch.ones(6)}, r"weights: expected shape \[7\], got \[6\]"),
        ({"weights": torch.ones(7, device="meta")}, "weights's device: expected cpu, got meta"),
        ({"logits": torch.zeros(7)}, r"logits: expected .* 8 generated rows.* got \[7\]"),
        ({"logits": torch.zeros(8, 1)}, r"logits: .* got \[8, 1\]"),
        ({"logits": torch.zeros(9), "player": "generator"}, r"logits: .* got \[9\]"),
        ({"logits": torch.zeros(8).double()}, "logits: .*torch.float64"),
        (
            {"logits": torch.zeros(12), "adversarial": "relativistic"},
            r"a relativistic loss needs 8 real rows in front .* \(got 4\)",
        ),
        (
            {"logits": torch.zeros(8), "player": "generator", "adversarial": "relativistic"},
            "and `real` for a generator",
        ),
        ({"labelled": torch.ones(8, 7)}, r"labelled: expected a bool tensor \[8, 7\] on cpu"),
    ],
)
def test_the_launcher_refuses_what_would_be_read_or_written_elsewhere(changes, message):
    q, spec, categorical, continuous = problem(ALL_KINDS, dtype=torch.float32)
    arguments = {
        "q": q.detach(),
        "layout": layout_of(spec),
        "categorical": categorical,
        "continuous": continuous,
        "weights": torch.ones(7),
    }
    with pytest.raises(ValueError, match=message):
        launch.launch(launch.Call(**{**arguments, **changes}))
