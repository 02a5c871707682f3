"""Philox4x32-10 against its published vectors and against itself in Python integers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from helpers.strategies import modest, seeds
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fastinfogan import philox
from fastinfogan.latents import Angle, Bernoulli, Categorical, Gaussian, LatentSpec, Uniform

MASK = 2**32 - 1
# With fixed seeds a statistical test passes always or never; a right generator falls under this
# once in a thousand tests, and a wrong one is some hundred orders of magnitude below it.
P_VALUE = 1e-3


def philox_in_integers(counter: list[int], key: list[int]) -> list[int]:
    """Compute figure 2 of Salmon et al. 2011 in exact integers: the oracle."""
    for i in range(10):
        left, right = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        keys = [(key[0] + i * 0x9E3779B9) % 2**32, (key[1] + i * 0xBB67AE85) % 2**32]
        counter = [
            right // 2**32 ^ counter[1] ^ keys[0],
            right % 2**32,
            left // 2**32 ^ counter[3] ^ keys[1],
            left % 2**32,
        ]
    return counter


KNOWN_ANSWERS = {  # Random123's kat_vectors: counter, key, result
    "zeros": ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi": (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
}


@pytest.mark.parametrize("name", KNOWN_ANSWERS)
def test_philox_gives_the_known_answers_of_random123(name):
    counter, key, expected = ([int(w, 16) for w in text.split()] for text in KNOWN_ANSWERS[name])
    assert philox_in_integers(counter, key) == expected
    out = philox.philox4x32(tuple(torch.tensor([w]) for w in counter), (key[0], key[1]))
    assert [int(w) for w in out] == expected


@modest
@given(
    seed=seeds,
    step=st.integers(0, MASK),
    stream=st.integers(0, 3),
    first_row=st.integers(0, MASK - 3),
    per_row=st.integers(1, 11),
)
def test_words_are_philox_at_seed_stream_step_row_and_word(seed, step, stream, first_row, per_row):
    actual = philox.words(3, per_row, seed=seed, step=step, stream=stream, first_row=first_row)
    expected = []
    for row in range(first_row, first_row + 3):
        blocks = (
            philox_in_integers([row, block, step, stream], [seed % 2**32, seed // 2**32])
            for block in range((per_row + 3) // 4)
        )
        expected.append([word for block in blocks for word in block][:per_row])
    assert actual.tolist() == expected
    as_tensor = philox.words(
        3, per_row, seed=seed, step=torch.tensor(step), stream=stream, first_row=first_row
    )
    assert torch.equal(as_tensor, actual)


@pytest.mark.parametrize(("rows", "per_row"), [(0, 5), (3, 0)])
def test_no_rows_or_no_words_give_an_empty_table(rows, per_row):
    assert philox.words(rows, per_row, seed=1).shape == (rows, per_row)


def test_uniform_spans_zero_to_just_under_one_in_exact_steps():
    ends = philox.uniform(torch.tensor([0, 255, 256, MASK]))
    assert ends.dtype == torch.float32
    assert ends.tolist() == [0.0, 0.0, 2.0**-24, 1 - 2.0**-24]


def test_uniform_is_uniform_in_one_and_in_two_dimensions():
    x = philox.uniform(philox.words(250_000, 4, seed=11)).numpy()
    assert stats.kstest(x.ravel(), "uniform").pvalue > P_VALUE
    neighbours = {
        "words": (x[:, 0], x[:, 1]),
        "blocks' ends": (x[:-1, 3], x[1:, 0]),
        "rows": (x[:-1, 0], x[1:, 0]),
        "steps": (x[:, 0], philox.uniform(philox.words(250_000, 1, seed=11, step=1)).numpy()[:, 0]),
        "seeds": (x[:, 0], philox.uniform(philox.words(250_000, 1, seed=12)).numpy()[:, 0]),
    }
    for name, (first, second) in neighbours.items():
        cells = np.histogram2d(first, second, bins=32, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(cells.ravel()).pvalue > P_VALUE, name


def test_normal_is_standard_normal_and_its_pairs_are_independent():
    x = philox.normal(philox.words(200_000, 2, seed=21))
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue > P_VALUE
    first, second = stats.norm.cdf(x.numpy().T)
    cells = np.histogram2d(first, second, bins=16, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(cells.ravel()).pvalue > P_VALUE


def test_normal_is_finite_at_the_ends_of_the_words():
    ends = torch.tensor([[0, 0], [0, MASK], [MASK, 0], [MASK, MASK]])
    x = philox.normal(ends).double()
    # |x|² = −2 log u with u from 2⁻²⁴ to 1; 1e-5 for an angle in fp32
    radius = x.square().sum(1).sqrt()
    expected = torch.tensor([(48 * np.log(2)) ** 0.5] * 2 + [0.0] * 2, dtype=torch.float64)
    torch.testing.assert_close(radius, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_below_is_uniform_over_its_classes(n):
    drawn = philox.below(philox.words(250_000, 4, seed=31 + n), n)
    counts = np.bincount(drawn.flatten().numpy(), minlength=n)
    assert len(counts) == n
    assert stats.chisquare(counts).pvalue > P_VALUE
    assert philox.below(torch.tensor([0, MASK]), n).tolist() == [0, n - 1]


@pytest.mark.parametrize("n", [0, 1, 2, 1000, 60_000])
def test_a_permutation_holds_every_index_once(n):
    order = philox.permutation(n, seed=2**40 + 3, epoch=5)
    assert order.sort().values.tolist() == list(range(n))


def test_a_permutation_repeats_and_changes_with_epoch_and_seed():
    first = philox.permutation(1000, seed=1, epoch=2)
    assert torch.equal(first, philox.permutation(1000, seed=1, epoch=2))
    for seed, epoch in [(1, 3), (2, 2), (1 + 2**32, 2)]:
        other = philox.permutation(1000, seed=seed, epoch=epoch)
        # two independent permutations share one place on average, more than ten once in 10⁸
        assert (first == other).sum() <= 10


def test_all_permutations_are_equally_likely():
    counts: dict[tuple[int, ...], int] = {}
    for epoch in range(2400):
        order = tuple(philox.permutation(4, seed=41, epoch=epoch).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert stats.chisquare(list(counts.values())).pvalue > P_VALUE


def test_signs_are_a_words_bits_and_both_are_as_frequent():
    word = philox.words(3, 2, seed=0)
    signs = philox.signs(word)
    assert signs.shape == (3, 64)
    bits = [[1 - 2 * ((int(w) >> i) & 1) for w in row for i in range(32)] for row in word]
    assert signs.tolist() == bits
    many = philox.signs(philox.words(1000, 25, seed=1))
    assert abs(float(many.mean())) < 4 * many.numel() ** -0.5


# Under torch.compile

EVERY_KIND = (
    Categorical(10),
    Categorical(3, probs=(0.2, 0.3, 0.5)),
    Uniform(dim=2, sigma="learned"),
    Gaussian(3, 0.5, dim=3),
    Bernoulli(0.3),
    Angle(),
)


@pytest.fixture
def dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize("step", [3, torch.tensor(3)], ids=["number", "tensor"])
def test_a_fresh_spec_is_drawn_in_one_graph_whose_philox_is_one_operator(step):
    graphs: list[torch.fx.GraphModule] = []

    def record(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    fresh = LatentSpec(62, EVERY_KIND)
    drawn = torch.compile(
        lambda at: fresh.sample(8, seed=5, step=at), fullgraph=True, backend=record
    )(step)
    assert all(map(torch.equal, drawn, fresh.sample(8, seed=5, step=step)))
    (graph,) = graphs
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert sum("philox4x32" in name for name in called) == 1
    assert not any("xor" in name for name in called)


@pytest.mark.usefixtures("dynamo")
def test_the_operator_s_fake_has_the_shapes_of_the_rounds():
    counter = [torch.arange(n).view(shape) for n, shape in ((6, (6, 1)), (4, (1, 4)))]
    operator = getattr(torch.ops, philox._LIBRARY).philox4x32.default
    torch.library.opcheck(operator, (*counter, counter[0], counter[1], 2**32 - 1, 7))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize("seed", [0, 1, 2**40 + 3, 2**64 - 1])
def test_inductor_gives_the_words_of_eager_for_widths_about_those_of_counters_and_vectors(seed):
    widths = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 68]

    def words(step: int | torch.Tensor) -> list[torch.Tensor]:
        return [philox.words(64, n, seed=seed, step=step, stream=3) for n in widths]

    compiled = torch.compile(words, fullgraph=True)
    for step in (torch.tensor(3), torch.tensor(2**32 - 1), 3):
        for n, actual, expected in zip(widths, compiled(step), words(step), strict=True):
            assert torch.equal(actual, expected), (n, step)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize(
    "codes", [(Categorical(10), Uniform(dim=2, sigma="learned")), EVERY_KIND], ids=["two", "every"]
)
def test_inductor_draws_the_latents_of_eager(codes):
    fresh = LatentSpec(62, codes)
    compiled = torch.compile(lambda at: fresh.sample(64, seed=0, step=at), fullgraph=True)
    for step in (3, torch.tensor(3), torch.tensor(7), 9):
        actual, expected = compiled(step), fresh.sample(64, seed=0, step=step)
        assert torch.equal(actual.categorical, expected.categorical)
        # of a Gaussian code before it is scaled by 0.5 and shifted by 3
        torch.testing.assert_close(actual.continuous, expected.continuous, rtol=2e-6, atol=1e-6)
        torch.testing.assert_close(
            actual.input[:, :62], expected.input[:, :62], rtol=1e-6, atol=1e-7
        )
