"""The kernel of many rows, interpreted, under the rule of test_head_loss.py."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from helpers.strategies import Problem, modest, problem, seeds, specs
from hypothesis import given, settings
from hypothesis import strategies as st

from fastinfogan.latents import Angle, Bernoulli, Categorical, Gaussian, LatentSpec, Uniform

launch = pytest.importorskip("fastinfogan_kernels.launch", reason="triton is not installed")
many_rows = pytest.importorskip("fastinfogan_kernels.many_rows")
memory = pytest.importorskip("fastinfogan_kernels.memory")
from test_head_loss import (  # noqa: E402
    ALL_KINDS,
    NARROW,
    as_columns,
    as_every_third,
    assert_held,
    poisoned,
    run,
)

from fastinfogan.losses.triton import layout_of, own_weights  # noqa: E402

LEARNED = (Gaussian(dim=2, sigma="learned"),) * 3
SPECS = {
    "learned": LatentSpec(0, (Bernoulli(),) * 5 + LEARNED),
    "mnist": LatentSpec(0, (Categorical(10), Uniform(dim=2))),
    "celeba": LatentSpec(0, (Categorical(10),) * 10),
    "faces": LatentSpec(0, (Uniform(),) * 5),
}


class Counted:
    """The kernel, and how often it was launched."""

    def __init__(self) -> None:
        self.kernel, self.launches = many_rows.many_rows_kernel, 0

    def __getitem__(self, grid):
        self.launches += 1
        return self.kernel[grid]


@pytest.fixture
def counted(monkeypatch) -> Counted:
    """Let it compute what it can, however few the rows."""
    kernel = Counted()
    monkeypatch.setattr(launch, "MANY_ROWS", 0)
    monkeypatch.setattr(many_rows, "many_rows_kernel", kernel)
    return kernel


def test_the_kernel_is_off_by_default(monkeypatch):
    kernel = Counted()
    monkeypatch.setattr(many_rows, "many_rows_kernel", kernel)
    assert launch.MANY_ROWS is None
    run(problem(SPECS["mnist"], 77, dtype=torch.float32))
    assert kernel.launches == 0


@settings(modest, max_examples=12)
@given(specs, st.sampled_from([1, 2, 77, 129, 1500]), seeds, st.sampled_from(NARROW))
def test_the_kernel_is_no_further_from_the_truth_than_the_definition(spec, batch, seed, dtype):
    with mock.patch.object(launch, "MANY_ROWS", 1):
        assert_held(problem(spec, batch, dtype=dtype, seed=seed))


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("mnist", 3),
        ("mnist", 300),
        ("celeba", 3),
        ("celeba", 150),
        ("faces", 2100),
        ("learned", 300),
    ],
)
def test_the_papers_codes_agree_in_one_tile_and_in_programs_of_several(
    counted, monkeypatch, name, batch
):
    monkeypatch.setattr(launch, "MAX_PROGRAMS", 2)
    dtype = NARROW[len(name) % 3]
    assert_held(problem(SPECS[name], batch, dtype=dtype, seed=batch), sigma=0.5)
    assert counted.launches == 1  # of the two calls, as that of single rows is not for it


@pytest.mark.parametrize("k", [2, 3, 64, 1000, 1024])
def test_a_categorical_of_any_width_up_to_a_tile_agrees(counted, k):
    spec = LatentSpec(0, (Categorical(k), Categorical(k, weight=0.5), Uniform(dim=k)))
    assert_held(problem(spec, 9, dtype=torch.float32, seed=k))
    assert counted.launches == 1


def test_the_same_call_twice_is_the_same_to_the_last_bit_and_leaves_the_counter_at_zero(counted):
    args = problem(ALL_KINDS, 1500, dtype=torch.bfloat16)
    for a, b in zip(run(args)[:3], run(args)[:3], strict=True):
        assert torch.equal(a, b)
    _, counter = launch._workspaces._of_thread.workspace
    assert counter.item() == 0
    assert counted.launches == 2


def test_a_mean_divides_the_total_with_its_gradient_and_the_codes(counted):
    args = problem(ALL_KINDS, 16, dtype=torch.float32)
    one, other = run(args, reduction="sum", code_sums=True), run(args)
    assert torch.equal(other.total, one.total / 16)
    assert torch.equal(other.dq, one.dq / 16)
    assert torch.equal(other.per_code, one.per_code / 16)


def test_without_a_gradient_the_losses_are_the_same(counted):
    args = problem(ALL_KINDS, 77, dtype=torch.float32)
    one, other = run(args), run(args, grad=False)
    assert other.dq is None
    assert torch.equal(one.total, other.total)
    assert torch.equal(one.per_code, other.per_code)
    assert counted.launches == 2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint32], ids=str)
def test_classes_of_any_integer_dtype_and_values_of_any_floating_one_are_taken(counted, dtype):
    args = problem(ALL_KINDS, 20, dtype=torch.float32)
    other = args._replace(
        categorical=args.categorical.to(dtype), continuous=args.continuous.double()
    )
    assert torch.equal(run(other).dq, run(args).dq)
    assert counted.launches == 2


EXTREMES = (1e4, -1e4, math.inf, -math.inf, math.nan, 16.5, -16.5, 0.0)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # the interpreter's numpy
def test_extreme_numbers_and_impossible_classes_give_what_the_other_kernel_gives(counted):
    args = problem(ALL_KINDS, 4 * len(EXTREMES), dtype=torch.float32)
    q = args.q.detach().clone()
    for i, x in enumerate(EXTREMES):  # alone in each column, in turn, and in whole rows
        for n in range(3):
            q[3 * i + n, n::3] = x
        q[3 * len(EXTREMES) + i] = x
    args.categorical[5] = 10**6
    args.categorical[6] = -1
    args = args._replace(q=q)
    ours = run(args)
    launch.MANY_ROWS = None  # the fixture puts it back
    theirs = run(args)
    assert counted.launches == 1
    torch.testing.assert_close(ours.dq, theirs.dq, equal_nan=True, rtol=1e-5, atol=1e-7)
    # code by code, of a single row: sums over all rows are NaN for either kernel
    for row in range(len(q)):
        here = slice(row, row + 1)
        one = Problem(q[here], args.spec, args.categorical[here], args.continuous[here])
        launch.MANY_ROWS = 0
        ours = run(one)
        launch.MANY_ROWS = None
        torch.testing.assert_close(
            ours.per_code, run(one).per_code, equal_nan=True, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_nothing_outside_the_tensors_is_read_or_written_and_all_outputs_are(
    counted, monkeypatch, dtype
):
    args = problem(ALL_KINDS, 11, dtype=dtype, seed=8)
    weights = own_weights(args.spec, args.q)
    expected = run(args)
    buffers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def empty(shape, **kwargs):
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        view, flat = poisoned(torch.full(shape, math.nan, **kwargs), math.nan)
        buffers.append((view, flat))
        return view

    with monkeypatch.context() as patch:
        patch.setattr(launch.torch, "empty", empty)
        patch.setattr(launch, "_workspaces", memory.Workspaces())
        inputs = [poisoned(x, math.nan) for x in (args.q.detach(), args.continuous, weights)]
        inputs.append(poisoned(args.categorical, 10**6))
        before = [flat.clone() for _, flat in inputs]
        (q, _), (continuous, _), (weights, _), (categorical, _) = inputs
        out = run(Problem(q, args.spec, categorical, continuous), weights=weights)
    for actual, right in zip(out[:3], expected[:3], strict=True):
        assert torch.equal(actual, right)
        assert not actual.isnan().any()
    for (_, flat), old in zip(inputs, before, strict=True):
        assert torch.equal(flat.nan_to_num(), old.nan_to_num())
    assert len(buffers) == 4  # outputs and the partial sums
    for view, flat in buffers:
        assert flat[:128].isnan().all()
        assert flat[128 + view.numel() :].isnan().all()
    assert counted.launches == 2


def test_nothing_is_read_back_to_the_host_and_only_outputs_are_made(monkeypatch, no_host_read):
    class Stub:
        def __getitem__(self, grid):
            return lambda *args, **options: None

    monkeypatch.setattr(launch, "MANY_ROWS", 0)
    monkeypatch.setattr(many_rows, "many_rows_kernel", Stub())
    args = problem(SPECS["mnist"], 77, dtype=torch.float32)
    run(args)  # the workspace
    made: list[object] = []
    empty = torch.empty
    weights = own_weights(args.spec, args.q)

    def recorded(shape, **more):
        made.append(shape)
        return empty(shape, **more)

    with monkeypatch.context() as patch, no_host_read():
        patch.setattr(launch.torch, "empty", recorded)
        run(args, weights=weights)
    assert made == [args.q.shape, (), 2]  # dq, the total, the codes


def labelled(args: Problem) -> dict:
    return {"labelled": torch.ones(9, len(args.spec.codes), dtype=torch.bool)}


@pytest.mark.parametrize(
    ("spec", "moved", "options"),
    [
        (ALL_KINDS, as_columns, lambda _: {}),
        (ALL_KINDS, as_every_third, lambda _: {}),
        (ALL_KINDS, torch.Tensor.clone, lambda _: {"reduction": "none"}),
        (ALL_KINDS, torch.Tensor.clone, lambda _: {"logits": torch.randn(9)}),
        (ALL_KINDS, torch.Tensor.clone, labelled),
        (LatentSpec(0, (Angle(),)), torch.Tensor.clone, lambda _: {}),
        (LatentSpec(0, (Categorical(1025),)), torch.Tensor.clone, lambda _: {}),
        (LatentSpec(0, (Gaussian(dim=600, sigma="learned"),)), torch.Tensor.clone, lambda _: {}),
        (
            LatentSpec(0, (*(Uniform(), Bernoulli()) * 4, Uniform())),
            torch.Tensor.clone,
            lambda _: {},
        ),
    ],
    ids=[
        "columns",
        "strides",
        "rows' losses",
        "logits",
        "missing labels",
        "an angle",
        "1,025 classes",
        "600 means and variances",
        "nine runs",
    ],
)
def test_calls_that_the_kernel_does_not_take_go_to_the_other(counted, spec, moved, options):
    args = problem(spec, 9, dtype=torch.float32)
    args = args._replace(q=moved(args.q.detach()))
    out = run(args, **options(args))
    assert counted.launches == 0
    assert out.per_code.isfinite().all()


def test_the_option_is_the_least_number_of_rows(counted, monkeypatch):
    monkeypatch.setattr(launch, "MANY_ROWS", 9)
    for batch, launches in ((8, 0), (9, 1)):
        run(problem(SPECS["mnist"], batch, dtype=torch.float32))
        assert counted.launches == launches


def test_a_tile_leaves_few_lanes_empty_and_one_warp_can_write_its_sums():
    for spec in SPECS.values():
        layout = layout_of(spec)
        plan = many_rows.make_plan(layout)
        for run_, (rows, heads) in zip(
            layout.runs, zip(plan.runs[6::8], plan.runs[7::8], strict=True), strict=True
        ):
            assert heads <= 32
            assert -(-run_.n // heads) * heads == run_.n
            assert rows >= plan.rows >= 1
