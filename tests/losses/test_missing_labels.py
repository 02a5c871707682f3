"""Missing labels, by mask and by ignore_index: factor 0, means over the labelled, never a NaN."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from helpers.strategies import Problem, modest, problem, specs
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastinfogan.latents import Angle, Bernoulli, Categorical, Gaussian, LatentSpec, Uniform
from fastinfogan.losses import InfoLoss, head_loss, info_loss
from fastinfogan.losses import triton as kernel

pytestmark = pytest.mark.usefixtures("compiled_as_graphs")

CODES = (
    Categorical(4, weight=0.5, name="shape"),
    Gaussian(dim=2, sigma="learned", weight=2.0, name="place"),
    Bernoulli(name="filled"),
    Angle(name="turn"),
    Uniform(dim=2, name="size"),
    Angle(concentration="learned", name="tilt"),
    Categorical(20, name="texture"),
)
SPEC = LatentSpec(0, CODES)
BY_TABLE = LatentSpec(0, tuple(replace(code, name=None) for code in CODES * 3))  # of the kernel
EAGER = ["reference", "triton"] if kernel.available() else ["reference"]
COMPILED = pytest.param("compiled", marks=pytest.mark.slow)  # a second or more each


def row_by_row(args: Problem, labelled: Tensor, reduction: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return (total, per_code, gradient) by the definition in fp64, code by code, labelled rows.

    Nothing of a missing label is looked at.
    """
    exact = args.q.detach().double().requires_grad_()
    rows = torch.zeros(args.q.shape[0], dtype=torch.float64)
    per_code, totals = [], []
    for i, (code, columns, target) in enumerate(args.spec.slots):
        kept = labelled[:, i]
        n = int(kept.sum())
        if not n:
            per_code.append(torch.zeros((), dtype=torch.float64))
            continue
        discrete = isinstance(code, Categorical | Bernoulli)
        out = info_loss(
            exact[kept][:, columns],
            LatentSpec(0, (code,)),
            args.categorical[kept][:, target] if discrete else None,
            None if discrete else args.continuous[kept][:, target],
            reduction="none",
            validate=False,
        )
        rows = rows.index_put((kept.nonzero()[:, 0],), out.total, accumulate=True)
        totals.append(out.total.sum() / (n if reduction == "mean" else 1))
        per_code.append(out.per_code[0])
    total = rows if reduction == "none" else sum(totals, torch.zeros((), dtype=torch.float64))
    gradient = torch.zeros_like(exact)
    if totals:
        (gradient,) = torch.autograd.grad(total.sum(), exact)
    return total.detach(), torch.stack(per_code), gradient


def spoiled(args: Problem, labelled: Tensor) -> Problem:
    """Return the problem with NaN and classes that do not exist where a label is missing."""
    categorical, continuous = args.categorical.clone(), args.continuous.clone()
    q = args.q.detach().clone()
    for i, (code, columns, target) in enumerate(args.spec.slots):
        missing = ~labelled[:, i]
        q[missing, columns] = math.inf
        if isinstance(code, Categorical | Bernoulli):
            categorical[missing, target] = -7
        else:
            continuous[missing, target] = math.nan
    return args._replace(q=q.requires_grad_(), categorical=categorical, continuous=continuous)


def assert_close(actual, expected, dtype, q):
    eps = 1e-12 if dtype == torch.float64 else 3e-6
    for a, b in zip(actual[:2], expected[:2], strict=True):
        torch.testing.assert_close(a.double(), b, rtol=eps, atol=10 * eps)
    (gradient,) = torch.autograd.grad(actual[0].sum(), q)
    eps = max(eps, 2 * torch.finfo(dtype).eps)
    torch.testing.assert_close(gradient.double(), expected[2], rtol=eps, atol=eps)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the interpreter's numpy
@pytest.mark.parametrize("backend", [*EAGER, COMPILED])
@pytest.mark.parametrize(("reduction", "seed"), [("mean", 0), ("sum", 1), ("none", 2)])
def test_a_missing_label_has_factor_0_and_means_are_over_the_labelled(backend, reduction, seed):
    dtype = torch.float32 if backend == "triton" else torch.float64
    draw = torch.Generator().manual_seed(seed)
    labelled = torch.rand(9, len(CODES), generator=draw) < 0.6
    labelled[:, 2] = False  # a code without a label
    args = spoiled(problem(SPEC, 9, dtype=dtype, seed=seed), labelled)
    out = info_loss(*args, reduction=reduction, backend=backend, mask=labelled)
    assert_close(out, row_by_row(args, labelled, reduction), dtype, args.q)
    assert out.per_code[2].item() == 0


@pytest.mark.quick_cases(1)
@pytest.mark.skipif("triton" not in EAGER, reason="triton is not installed")
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_kernel_s_table_of_runs_knows_missing_labels(dtype):
    draw = torch.Generator().manual_seed(0)
    labelled = torch.rand(20, len(BY_TABLE.codes), generator=draw) < 0.6
    args = spoiled(problem(BY_TABLE, 20, dtype=dtype), labelled)
    out = info_loss(*args, backend="triton", mask=labelled)
    assert_close(out, row_by_row(args, labelled, "mean"), dtype, args.q)


@modest
@given(specs, st.integers(1, 12), st.integers(0, 2**32), st.sampled_from(["mean", "sum", "none"]))
def test_reference_and_grouped_agree_for_every_spec(spec, batch, seed, reduction):
    draw = torch.Generator().manual_seed(seed)
    labelled = torch.rand(batch, len(spec.codes), generator=draw) < 0.5
    args = spoiled(problem(spec, batch, seed=seed), labelled)
    out = info_loss(*args, reduction=reduction, mask=labelled)
    assert_close(out, row_by_row(args, labelled, reduction), torch.float64, args.q)
    if "triton" in EAGER:
        narrow = args._replace(q=args.q.detach().float().requires_grad_())
        ours = info_loss(*narrow, reduction=reduction, mask=labelled, backend="triton")
        torch.testing.assert_close(ours.total.double(), out.total, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", [*EAGER, COMPILED])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8], ids=str)
def test_ignore_index_and_nan_are_missing_labels(backend, dtype):
    args = problem(SPEC, 9, dtype=torch.float32)
    labelled = torch.rand(9, len(CODES), generator=torch.Generator().manual_seed(3)) < 0.6
    expected = info_loss(*args, mask=labelled, backend=backend)
    categorical, continuous = args.categorical.clone(), args.continuous.clone()
    ignored = 255 if dtype == torch.uint8 else -100
    for i, (code, _, target) in enumerate(SPEC.slots):
        missing = ~labelled[:, i]
        if isinstance(code, Categorical | Bernoulli):
            categorical[missing, target] = ignored
        else:  # one dim is enough
            continuous[missing, target.stop - 1] = math.nan
    args = args._replace(categorical=categorical.to(dtype), continuous=continuous)
    out = info_loss(*args, ignore_index=ignored, backend=backend)
    torch.testing.assert_close(out.total, expected.total)
    torch.testing.assert_close(out.per_code, expected.per_code)
    module = InfoLoss(SPEC, backend=backend, ignore_index=ignored)
    assert torch.equal(module(*args[::2], args.continuous).total, out.total)
    half = torch.arange(9) < 5  # both at once
    both = info_loss(*args, ignore_index=ignored, mask=half, backend=backend)
    expected = info_loss(*args, mask=labelled & half[:, None], backend=backend)
    torch.testing.assert_close(both.total, expected.total)


def test_minus_1_is_no_class_of_an_unsigned_dtype():
    spec = LatentSpec(0, (Categorical(256),))
    q = torch.randn(3, 256)
    classes = torch.tensor([[255], [0], [1]], dtype=torch.uint8)
    expected = info_loss(q, spec, classes)
    assert torch.equal(info_loss(q, spec, classes, ignore_index=-1).total, expected.total)


@pytest.mark.parametrize("backend", EAGER)
def test_without_ignore_index_nan_stays_nan(backend):
    args = problem(SPEC, 9, dtype=torch.float32)
    args.continuous[4, 0] = math.nan
    out = info_loss(*args, backend=backend)
    assert out.total.isnan()
    assert out.per_code.isnan().tolist() == [i == 1 for i in range(len(CODES))]
    args.categorical[2, 0] = -1
    with pytest.raises(ValueError, match="of shape: expected classes 0 … 3, got values from -1"):
        info_loss(*args, backend=backend)
    with pytest.raises(ValueError, match="of shape: expected classes 0 … 3, got values from -1"):
        info_loss(*args, backend=backend, ignore_index=-100)  # another class is still a mistake


@pytest.mark.parametrize("backend", EAGER)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_batch_without_a_label_gives_0(backend, reduction):
    args = problem(SPEC, 4, dtype=torch.float32)
    mask = torch.zeros(4, dtype=torch.bool)
    out = info_loss(*args, mask=mask, reduction=reduction, backend=backend)
    assert not out.total.any()
    assert not out.per_code.any()
    (gradient,) = torch.autograd.grad(out.total.sum(), args.q)
    assert not gradient.any()


@pytest.mark.parametrize("backend", [*EAGER, COMPILED])
def test_a_mask_of_ones_changes_nothing(backend):
    args = problem(SPEC, 9, dtype=torch.float32)
    mask = torch.ones(9, dtype=torch.bool)
    ours, plain = info_loss(*args, mask=mask, backend=backend), info_loss(*args, backend=backend)
    torch.testing.assert_close(ours.total, plain.total)
    torch.testing.assert_close(ours.per_code, plain.per_code)
    gradients = [torch.autograd.grad(out.total, args.q)[0] for out in (ours, plain)]
    torch.testing.assert_close(*gradients)


def test_missing_labels_have_second_derivatives_and_gradients_of_weights():
    args = problem(SPEC, 4)
    labelled = torch.rand(4, len(CODES), generator=torch.Generator().manual_seed(1)) < 0.6
    args = args._replace(q=0.5 * args.q.detach())
    weights = torch.rand(len(CODES), dtype=torch.float64).requires_grad_()

    def total(q: Tensor, weights: Tensor) -> Tensor:
        return info_loss(q, *args[1:], weights=weights, mask=labelled).total

    inputs = args.q.requires_grad_(), weights
    assert torch.autograd.gradcheck(total, inputs)
    assert torch.autograd.gradgradcheck(total, inputs)
    assert torch.autograd.gradgradcheck(
        lambda q: info_loss(q, *args[1:], mask=labelled).total, args.q
    )


def test_a_soft_row_of_nan_is_missing_where_a_class_may_be_ignored():
    spec = LatentSpec(0, (Categorical(3), Bernoulli()))
    soft = torch.tensor([[0.2, 0.3, 0.5, 1.0], [math.nan, 0.0, 0.0, 0.5], [1.0, 0, 0, math.nan]])
    q = torch.randn(3, 4, requires_grad=True)
    out = info_loss(q, spec, soft, ignore_index=-1, reduction="none")
    assert not out.total.isnan().any()
    rows = info_loss(q[:1], spec, soft[:1], reduction="none")
    torch.testing.assert_close(out.total[0], rows.total[0])
    (gradient,) = torch.autograd.grad(out.total.sum(), q)
    assert (gradient == 0).tolist() == [[False] * 4, [True] * 3 + [False], [False] * 3 + [True]]


@pytest.mark.parametrize(
    ("backend", "player"), [*itertools.product(EAGER, ["discriminator", "generator"])]
)
def test_head_loss_masks_the_codes_and_not_the_logits(backend, player):
    args = problem(SPEC, 9, dtype=torch.float32)
    mask = torch.arange(9) % 2 == 0
    logits = torch.randn(9 + 4 * (player == "discriminator"))
    options = {"player": player, "backend": backend}
    out = head_loss(logits, *args, **options, mask=mask)
    plain = head_loss(logits, *args, **options)
    expected = info_loss(*args, mask=mask, backend=backend)
    torch.testing.assert_close(out.information, expected.total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.adversarial, plain.adversarial)
    classes = args.categorical.clone()
    classes[~mask] = -1
    given = args.q, SPEC, classes, args.continuous
    other = head_loss(logits, *given, **options, ignore_index=-1)
    assert torch.isfinite(other.information)


@pytest.mark.quick_cases(1)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compilers' own
@pytest.mark.parametrize("backend", [*EAGER, "compiled"])
def test_a_masked_loss_is_traced_into_a_compiled_function(backend):
    def loss(q: Tensor, categorical: Tensor, continuous: Tensor, mask: Tensor) -> Tensor:
        given = q, SPEC, categorical, continuous
        return info_loss(*given, mask=mask, ignore_index=-1, backend=backend).total

    q, _, categorical, continuous = problem(SPEC, 9, dtype=torch.float32)
    categorical[1, 0] = -1
    given = q, categorical, continuous, torch.arange(9) % 2 == 0
    whole = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(*given), loss(*given))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mask": torch.ones(8)},
            r"mask's dtype: expected torch.bool, got torch.float32; use mask",
        ),
        ({"mask": torch.ones(7).bool()}, r"mask: expected shape \[8\] or \[8, 7\], got \[7\]"),
        ({"mask": torch.ones(8, 3).bool()}, r"mask: .*got \[8, 3\]"),
        ({"mask": [True] * 8}, "mask: expected a tensor, got list; use torch.as_tensor"),
        ({"mask": torch.ones(8, device="meta").bool()}, "mask's device: expected cpu, got meta"),
        ({"ignore_index": 0.5}, "ignore_index: expected an integer, got 0.5"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        info_loss(*problem(SPEC), **options)
