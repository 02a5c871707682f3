"""Draws with and without an address, and G's input assembled from targets."""

import math
import operator

import numpy as np
import pytest
import torch
from helpers.strategies import all_specs, modest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fastinfogan.latents import (
    Angle,
    Bernoulli,
    Categorical,
    Gaussian,
    LatentBatch,
    LatentSpec,
    Uniform,
)

PROBS = (0.1, 0.2, 0.65, 0.05)
SPEC = LatentSpec(
    2,
    (
        Categorical(3),
        Categorical(4, probs=PROBS),
        Uniform(-2, 5, dim=2),
        Uniform(-2, 5),
        Gaussian(3, 0.5),
        Bernoulli(0.3),
        Angle(),
    ),
)
# With a fixed seed a statistical test passes always or never; a right sampler falls under this
# once in a thousand tests.
P_VALUE = 1e-3


def same(first: LatentBatch, second: LatentBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class FusedProducts(torch.fx.Interpreter):
    """Runs a graph as a GPU's compiled code does: a sum takes an fp32 product not yet rounded."""

    def run_node(self, n):
        sign = {operator.add: 1, operator.sub: -1}.get(n.target)
        product = n.args[0] if sign else None
        if not isinstance(product, torch.fx.Node) or product.target is not operator.mul:
            return super().run_node(n)
        exact = [self._in_fp64(x) for x in (*product.args, n.args[1])]
        if self.env[product].dtype is not torch.float32:
            return super().run_node(n)
        return (exact[0] * exact[1] + sign * exact[2]).float()

    def _in_fp64(self, x):
        value = self.env[x] if isinstance(x, torch.fx.Node) else torch.tensor(x)
        return value.float().double()


def fuse_products(graph, inputs):
    return FusedProducts(graph, garbage_collect_values=False).run


# Without an address


def test_without_an_address_each_call_gives_new_rows_which_manual_seed_repeats():
    torch.manual_seed(3)
    first, second = SPEC.sample(64), SPEC.sample(64)
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.manual_seed(3)
    assert same(SPEC.sample(64), first)
    assert same(SPEC.sample(64), second)


def test_a_given_generator_draws_and_the_default_one_stays():
    state = torch.get_rng_state()
    first = SPEC.sample(64, generator=torch.Generator().manual_seed(5))
    assert same(SPEC.sample(64, generator=torch.Generator().manual_seed(5)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(SPEC.sample(64, generator=torch.Generator().manual_seed(6)), first)


@pytest.mark.parametrize("address", [{"seed": 0}, {"step": 0}, {"stream": 3}, {"first_row": 0}])
def test_any_part_of_an_address_makes_the_draw_addressed_and_the_rest_zero(address):
    state = torch.get_rng_state()
    expected = SPEC.sample(8, seed=0, step=0, stream=3, first_row=0)
    assert same(SPEC.sample(8, **address), expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_compiler_that_fuses_products_with_sums_draws_the_same_rows():
    spec = LatentSpec(2, (*SPEC.codes, Uniform(-0.1, 0.63), Gaussian(0.3, 0.7)))
    compiled = torch.compile(
        lambda: spec.sample(4096, seed=3, step=5), fullgraph=True, backend=fuse_products
    )
    assert same(compiled(), spec.sample(4096, seed=3, step=5))


def test_a_generator_with_an_address_is_refused():
    with pytest.raises(ValueError, match="generator: expected none with an address"):
        SPEC.sample(2, seed=1, generator=torch.Generator())


@modest
@given(all_specs, st.integers(0, 9))
def test_the_input_belongs_to_the_targets_also_without_an_address(spec, batch):
    drawn = spec.sample(batch)
    shapes = [(batch, n) for n in (spec.input_dim, spec.n_cat, spec.n_cont)]
    assert [t.shape for t in drawn] == shapes
    assert [t.dtype for t in drawn] == [torch.float32, torch.int64, torch.float32]
    noise = drawn.input[:, : spec.noise]
    assert same(spec.assemble(noise, drawn.categorical, drawn.continuous), drawn)


def columns(drawn: LatentBatch) -> dict[str, np.ndarray]:
    classes, values = drawn.categorical.numpy(), drawn.continuous.numpy()
    return {
        "noise": stats.norm.cdf(drawn.input[:, 1].numpy()),
        "three": classes[:, 0],
        "four": classes[:, 1],
        "uniform": stats.uniform(-2, 7).cdf(values[:, 0]),
        "neighbour": stats.uniform(-2, 7).cdf(values[:, 2]),
        "gaussian": stats.norm(3, 0.5).cdf(values[:, 3]),
        "bit": classes[:, 2],
        "angle": stats.uniform(-math.pi, 2 * math.pi).cdf(values[:, 4]),
    }


@pytest.mark.parametrize("address", [{}, {"seed": 8}], ids=["generator", "address"])
def test_every_prior_has_its_distribution(address):
    n = 100_000
    torch.manual_seed(8)
    drawn = columns(SPEC.sample(n, **address))
    probs = {"three": [1 / 3] * 3, "four": PROBS, "bit": [0.7, 0.3]}
    for name, column in drawn.items():
        if name in probs:
            counts = np.bincount(column, minlength=len(probs[name]))
            p_value = stats.chisquare(counts, np.array(probs[name]) * n).pvalue
        else:
            p_value = stats.kstest(column, "uniform").pvalue
        assert p_value > P_VALUE, name
    correlation = np.corrcoef(np.stack(list(drawn.values())).astype(float)) - np.eye(len(drawn))
    assert np.abs(correlation).max() < 5 / math.sqrt(n)


def test_a_class_of_probability_zero_is_never_drawn():
    spec = LatentSpec(0, (Categorical(4, probs=(0, 0.5, 0, 0.5)), Categorical(2, probs=(1, 0))))
    for drawn in (spec.sample(1000), spec.sample(1000, seed=1)):
        assert set(drawn.categorical[:, 0].tolist()) == {1, 3}
        assert set(drawn.categorical[:, 1].tolist()) == {0}


def test_the_kernel_draws_its_seed_from_the_generator():
    pytest.importorskip("triton")
    torch.manual_seed(3)
    first, second = (SPEC.sample(8, backend="triton") for _ in range(2))
    assert not same(first, second)
    torch.manual_seed(3)
    assert same(SPEC.sample(8, backend="triton"), first)
    own = [
        SPEC.sample(8, backend="triton", generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    ]
    assert same(*own)


def test_a_captured_draw_of_the_kernel_needs_an_address(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(ValueError, match="would replay the same rows: pass seed, and step"):
        SPEC.sample(2, backend="triton")


def test_another_backend_is_refused_without_an_address_too():
    with pytest.raises(ValueError, match="got 'cuda'"):
        SPEC.sample(2, backend="cuda")  # type: ignore[arg-type]


def test_the_default_dtype_does_not_matter():
    torch.manual_seed(0)
    expected = SPEC.sample(4)
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        assert same(SPEC.sample(4), expected)
    finally:
        torch.set_default_dtype(torch.float32)


# Assembled by hand

SMALL = LatentSpec(2, (Categorical(3), Bernoulli(), Uniform(), Categorical(2), Bernoulli()))
NOISE = torch.zeros(2, 2)
VALUES = torch.tensor([[0.5], [-0.5]])


def test_targets_of_a_kind_that_the_spec_has_not_may_be_left_out():
    only_classes, only_values = LatentSpec(1, (Categorical(2),)), LatentSpec(1, (Uniform(),))
    batch = only_classes.assemble(torch.zeros(1, 1), torch.tensor([[1]]))
    assert (batch.input.tolist(), batch.continuous.shape) == ([[0, 0, 1]], (1, 0))
    batch = only_values.assemble(torch.zeros(1, 1), continuous=torch.tensor([[0.5]]))
    assert (batch.input.tolist(), batch.categorical.shape) == ([[0, 0.5]], (1, 0))


def test_relaxed_rows_become_the_input_s_columns_and_get_its_gradient():
    rows = torch.rand(2, 3 + 2 + 2, requires_grad=True)  # two Categoricals, then two bits
    batch = SMALL.assemble(NOISE, rows, VALUES)
    expected = torch.cat(
        (NOISE, rows[:, :3], rows[:, 5:6], VALUES, rows[:, 3:5], rows[:, 6:]), dim=1
    )
    assert torch.equal(batch.input, expected)
    assert batch.categorical is rows
    batch.input.sum().backward()
    assert torch.equal(rows.grad, torch.ones_like(rows))  # type: ignore[arg-type]
    classes = torch.tensor([[2, 1, 0, 0], [0, 0, 1, 1]])
    hard = torch.tensor([[0.0, 0, 1, 1, 0, 1, 0], [1, 0, 0, 0, 1, 0, 1]])
    inputs = [SMALL.assemble(NOISE, given, VALUES).input for given in (classes, hard)]
    assert torch.equal(*inputs)


@pytest.mark.parametrize(
    ("noise", "categorical", "continuous", "message"),
    [
        (torch.zeros(2, 3), None, None, r"noise: expected shape \[2, 2\], got \[2, 3\]"),
        (torch.zeros(2), None, None, r"noise: expected shape \[2, 2\], got \[2\]"),
        (NOISE, None, VALUES, r"categorical: expected shape \[2, 4\], got \[2, 0\]"),
        (NOISE, torch.zeros(2, 6), VALUES, r"categorical: expected shape \[2, 7\], got \[2, 6\]"),
        (NOISE, torch.zeros(2, 4).long(), VALUES[:1], r"continuous: expected shape \[2, 1\]"),
        (NOISE, torch.tensor([[3, 0, 0, 0]] * 2), VALUES, r"c1_categorical: .* 0 … 2, got .* 3"),
        (NOISE, torch.tensor([[0, 0, -1, 0]] * 2), VALUES, "c4_categorical: .* 0 … 1, got .* -1"),
        (NOISE, torch.tensor([[0, 2, 0, 0]] * 2), VALUES, "c2_bernoulli: .* 0 … 1, got .* 2"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_with_the_expected_and_actual_shape(
    noise, categorical, continuous, message
):
    with pytest.raises(ValueError, match=message):
        SMALL.assemble(noise, categorical, continuous)


def test_unchecked_a_class_that_does_not_exist_gives_nan_in_its_own_columns():
    classes = torch.tensor([[3, 0, 1, 0], [0, 2, 0, -1]])
    actual = SMALL.assemble(NOISE, classes, VALUES, validate=False).input.isnan()
    first, second = ([i in places for i in range(10)] for places in ((2, 3, 4), (5, 9)))
    assert actual.tolist() == [first, second]


# Read again


def test_a_spec_drawn_by_the_kernel_pickles_without_its_plan():
    pytest.importorskip("triton")
    import pickle

    fresh = LatentSpec(2, (Categorical(3), Angle()))
    before = pickle.dumps(fresh)
    fresh.sample(1, seed=0, backend="triton")
    assert pickle.dumps(fresh) == before
    assert b"kernels" not in before


def test_a_checkpoint_that_holds_a_spec_loads_with_weights_only(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"spec": SPEC, "weights": torch.ones(2)}, path)
    loaded = torch.load(path, weights_only=True)
    assert loaded["spec"] == SPEC
    assert loaded["spec"].codes[1].thresholds() == SPEC.codes[1].thresholds()  # type: ignore[union-attr]
    assert same(loaded["spec"].sample(4, seed=1), SPEC.sample(4, seed=1))
