"""The latent spec: its values, its layout, its draws and its traversals."""

import copy
import dataclasses
import json
import math
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from helpers.strategies import all_specs, modest, seeds
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fastinfogan.latents import (
    Angle,
    Bernoulli,
    Categorical,
    Code,
    Continuous,
    Gaussian,
    LatentBatch,
    LatentSpec,
    Uniform,
    parse_codes,
)
from fastinfogan.philox import Stream

MNIST = LatentSpec(noise=62, codes=(Categorical(10), Uniform(-1, 1), Uniform(-1, 1)))
MIXED = LatentSpec(
    noise=3,
    codes=(
        Uniform(-2, 5, dim=2),
        Categorical(10),
        Gaussian(3, 0.5, dim=3, sigma="learned"),
        Bernoulli(0.3),
        Categorical(3),
    ),
)
# With a fixed seed a statistical test passes always or never; a right sampler falls under this
# once in a thousand tests.
P_VALUE = 1e-3


def same(first: LatentBatch, second: LatentBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Specs as values


def test_the_paper_s_mnist_spec_has_74_inputs_and_12_outputs():
    assert (MNIST.input_dim, MNIST.q_dim, MNIST.n_cat, MNIST.n_cont) == (74, 12, 1, 2)


@modest
@given(all_specs)
def test_a_spec_comes_back_equal_from_its_dict_and_from_json(spec):
    for data in (spec.to_dict(), json.loads(json.dumps(spec.to_dict()))):
        back = LatentSpec.from_dict(data)
        assert back == spec
        assert hash(back) == hash(spec)


def test_specs_are_equal_by_value_and_differ_in_any_field():
    assert LatentSpec(1, (Uniform(-1, 1),)) == LatentSpec(1, (Uniform(-1.0, 1.0),))
    variants = {
        LatentSpec(noise, codes)
        for noise in (0, 1)
        for codes in (
            (Uniform(),),
            (Uniform(low=0),),
            (Uniform(high=2),),
            (Uniform(dim=2),),
            (Uniform(sigma="learned"),),
            (Uniform(weight=0.5),),
            (Gaussian(-1, 1),),
            (Categorical(2),),
            (Bernoulli(),),
            (Uniform(), Bernoulli()),
            (Bernoulli(), Uniform()),
            (Categorical(2, probs=(0.5, 0.5)),),
            (Categorical(2, probs=(0.4, 0.6)),),
            (Uniform(name="slant"),),
            (Angle(),),
            (Angle(concentration="learned"),),
        )
    }
    assert len(variants) == 32


def test_codes_have_their_own_names_or_else_their_place_and_kind():
    spec = LatentSpec(0, (Categorical(10, name="digit"), Uniform(), Angle(name="turn_2"), Angle()))
    assert spec.names == ("digit", "c2_uniform", "turn_2", "c4_angle")


@pytest.mark.parametrize(
    ("names", "first"), [(("a", None, "a"), "'a' for codes[0]"), ((None, "c1_uniform"), "'c1_uni")]
)
def test_two_codes_of_one_name_are_refused(names, first):
    with pytest.raises(ValueError, match=f"must be unique, got {re.escape(first)}"):
        LatentSpec(0, tuple(Uniform(name=name) for name in names))


@pytest.mark.parametrize("number", [np.int64, np.uint8, torch.tensor])
def test_numpy_and_tensor_integers_become_python_s(number):
    made: Any = LatentSpec(number(3), (Categorical(number(4)), Uniform(dim=number(2))))
    assert made == LatentSpec(3, (Categorical(4), Uniform(dim=2)))
    assert {type(made.noise), type(made.codes[0].n), type(made.codes[1].dim)} == {int}


@pytest.mark.parametrize("number", [np.float32, np.float64, np.array, torch.tensor])
def test_numpy_and_tensor_numbers_become_python_s(number):
    codes: list[Code] = [
        Categorical(2, weight=number(0.5), probs=number([0.25, 0.75])),
        Bernoulli(number(0.25)),
        Uniform(number(-0.5), number(0.5)),
        Gaussian(number(0.5), number(0.25)),
    ]
    plain: list[Code] = [
        Categorical(2, weight=0.5, probs=(0.25, 0.75)),
        Bernoulli(0.25),
        Uniform(-0.5, 0.5),
        Gaussian(0.5, 0.25),
    ]
    assert codes == plain
    assert [json.dumps(LatentSpec(0, (c,)).to_dict()) for c in codes] == [
        json.dumps(LatentSpec(0, (c,)).to_dict()) for c in plain
    ]


def test_a_list_of_codes_becomes_a_tuple():
    codes = [Categorical(3), Angle()]
    assert LatentSpec(0, codes) == LatentSpec(0, tuple(codes))  # type: ignore[arg-type]
    assert isinstance(hash(LatentSpec(0, codes)), int)  # type: ignore[arg-type]


def test_a_dict_from_before_names_and_priors_is_read_and_written_as_it_was():
    data = {
        "noise": 62,
        "codes": [
            {"kind": "categorical", "n": 10, "weight": 1.0},
            {"kind": "bernoulli", "p": 0.5, "weight": 1.0},
            {"kind": "uniform", "low": -1, "high": 1, "dim": 1, "sigma": "fixed", "weight": 0.1},
        ],
    }
    assert LatentSpec.from_dict(data).to_dict() == data


@modest
@given(all_specs)
def test_a_spec_is_the_same_after_pickling_and_copying(spec):
    spec.sample(2, seed=0)
    for back in (pickle.loads(pickle.dumps(spec)), copy.deepcopy(spec)):
        assert (back, back.slots, back.names, back.q_dim) == (
            spec,
            spec.slots,
            spec.names,
            spec.q_dim,
        )


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Categorical, (10, 0.1)),
        (Bernoulli, (0.5, 2)),
        (Uniform, (-1, 1, 2)),
        (Gaussian, (0, 1, 2)),
        (Angle, ("learned",)),
    ],
)
def test_options_of_codes_are_keywords(kind, arguments):
    with pytest.raises(TypeError, match="positional argument"):
        kind(*arguments)


def test_a_spec_and_its_codes_are_frozen():
    for thing, field in ((MNIST, "noise"), (MNIST.codes[0], "n")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, field, 3)


@modest
@given(all_specs)
def test_slots_cover_q_and_the_targets_exactly_and_in_order(spec):
    assert [slot.code for slot in spec.slots] == list(spec.codes)
    places = [place for slot in spec.slots for place in range(spec.q_dim)[slot.q]]
    assert places == list(range(spec.q_dim))
    for kinds, width in (
        ((Categorical, Bernoulli), spec.n_cat),
        (Continuous, spec.n_cont),
    ):
        targets = [slot.target for slot in spec.slots if isinstance(slot.code, kinds)]
        assert [i for target in targets for i in range(target.start, target.stop)] == [
            *range(width)
        ]


@modest
@given(all_specs)
def test_widths_follow_from_the_kinds(spec):
    def q_width(code):
        if isinstance(code, Angle):
            return 2
        if isinstance(code, Uniform | Gaussian):
            return 2 * code.dim if code.sigma == "learned" else code.dim
        return code.n if isinstance(code, Categorical) else 1

    assert [slot.q.stop - slot.q.start for slot in spec.slots] == [q_width(c) for c in spec.codes]
    assert len(set(spec.names)) == len(spec.codes)


def test_entropy_is_the_prior_s_closed_form():
    spec = LatentSpec(
        0,
        (
            Categorical(10),
            Bernoulli(0.3),
            Uniform(-1, 1),
            Uniform(2, 7.5, dim=3),
            Gaussian(),
            Gaussian(5, 0.25, dim=2, sigma="learned"),
            Categorical(4, probs=(0.1, 0.2, 0.7, 0)),
            Angle(concentration="learned"),
        ),
    )
    expected = [
        stats.randint(0, 10).entropy(),
        stats.bernoulli(0.3).entropy(),
        math.log(2),
        3 * stats.uniform(2, 5.5).entropy(),
        stats.norm().entropy(),
        2 * stats.norm(5, 0.25).entropy(),
        stats.entropy([0.1, 0.2, 0.7]),
        math.log(2 * math.pi),
    ]
    # both sides are fp64: a few roundings
    assert spec.entropy() == pytest.approx(expected, rel=1e-13)


# Draws


@modest
@given(all_specs, st.integers(0, 9), seeds)
def test_the_input_is_noise_then_one_hots_bits_and_values_that_match_the_targets(spec, batch, seed):
    drawn = spec.sample(batch, seed=seed)
    assert (drawn.input.dtype, drawn.categorical.dtype, drawn.continuous.dtype) == (
        torch.float32,
        torch.int64,
        torch.float32,
    )
    assert drawn.input.shape == (batch, spec.input_dim)
    assert drawn.categorical.shape == (batch, spec.n_cat)
    assert drawn.continuous.shape == (batch, spec.n_cont)
    categorical, continuous = iter(drawn.categorical.numpy().T), iter(drawn.continuous.numpy().T)
    columns = [drawn.input.numpy()[:, : spec.noise]]
    for code in spec.codes:
        match code:
            case Categorical(n=n):
                columns.append(np.eye(n)[next(categorical)])
            case Bernoulli():
                bit = next(categorical)
                assert set(bit) <= {0, 1}
                columns.append(bit[:, None])
            case Uniform(low=low, high=high, dim=dim):
                values = [next(continuous) for _ in range(dim)]
                assert all(((low <= v) & (v <= np.float32(high))).all() for v in values)
                columns += [v[:, None] for v in values]
            case Gaussian(dim=dim):
                columns += [next(continuous)[:, None] for _ in range(dim)]
            case Angle():
                theta = torch.from_numpy(next(continuous))
                assert ((theta.double() >= -math.pi) & (theta.double() < math.pi)).all()
                columns += [theta.cos()[:, None].numpy(), theta.sin()[:, None].numpy()]
    np.testing.assert_array_equal(drawn.input.numpy(), np.concatenate(columns, axis=1))


@modest
@given(all_specs, st.integers(0, 12), st.data())
def test_the_slices_of_all_ranks_make_the_whole(spec, batch, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, batch), max_size=3)))
    where = {"seed": 2**35 + 1, "step": 9, "stream": Stream.G_LATENTS}
    whole = spec.sample(batch, **where)
    slices = [
        spec.sample(end - start, first_row=start, **where)
        for start, end in zip([0, *cuts], [*cuts, batch], strict=True)
    ]
    joined = LatentBatch(*(torch.cat(parts) for parts in zip(*slices, strict=True)))
    assert same(whole, joined)


@modest
@given(all_specs, seeds, st.integers(0, 2**31))
def test_a_draw_is_repeatable_and_takes_its_step_as_a_number_or_a_tensor(spec, seed, step):
    drawn = spec.sample(5, seed=seed, step=step)
    torch.manual_seed(1)  # the global generator plays no part
    assert same(drawn, spec.sample(5, seed=seed, step=step))
    assert same(drawn, spec.sample(5, seed=seed, step=torch.tensor(step)))


@pytest.mark.parametrize(
    "other", [{"seed": 2}, {"seed": 1 + 2**32}, {"step": 1}, {"stream": Stream.D_LATENTS}]
)
def test_another_seed_step_or_stream_gives_other_rows(other):
    drawn = MIXED.sample(64, seed=1)
    changed = MIXED.sample(64, **{"seed": 1, **other})
    noise, other_noise = drawn.input[:, :3], changed.input[:, :3]
    # continuous numbers of 24 bits hardly meet; 64 classes of ten would all meet once in 10⁶⁴
    assert (noise == other_noise).float().mean() < 0.01
    assert (drawn.continuous == changed.continuous).float().mean() < 0.01
    assert not torch.equal(drawn.categorical[:, 0], changed.categorical[:, 0])


def test_every_prior_has_its_distribution():
    drawn = MIXED.sample(100_000, seed=5)
    ten, bit, three = drawn.categorical.numpy().T
    for classes, n in ((ten, 10), (three, 3)):
        assert stats.chisquare(np.bincount(classes, minlength=n)).pvalue > P_VALUE
    assert stats.binomtest(int(bit.sum()), len(bit), 0.3).pvalue > P_VALUE
    priors = [stats.uniform(-2, 7)] * 2 + [stats.norm(3, 0.5)] * 3
    for values, prior in zip(drawn.continuous.numpy().T, priors, strict=True):
        assert stats.kstest(values, prior.cdf).pvalue > P_VALUE
    for values in drawn.input.numpy()[:, :3].T:
        assert stats.kstest(values, "norm").pvalue > P_VALUE


def test_noise_and_codes_are_uncorrelated():
    drawn = MIXED.sample(100_000, seed=6)
    columns = [drawn.input[:, :3], drawn.categorical.float(), drawn.continuous]
    correlation = torch.corrcoef(torch.cat(columns, 1).double().T)
    off_diagonal = correlation - torch.eye(len(correlation), dtype=torch.float64)
    # five standard errors of a correlation between independent columns
    assert off_diagonal.abs().max() < 5 / math.sqrt(100_000)


@pytest.mark.parametrize("batch", [-1, 2.0, True, None])
def test_a_bad_batch_size_is_named(batch):
    with pytest.raises(ValueError, match=f"batch.*≥ 0, got {batch!r}"):
        MNIST.sample(batch)


# Traversals


@modest
@given(all_specs, st.integers(1, 4), seeds, st.data())
def test_a_traversal_changes_the_one_code_along_a_row_and_nothing_else(spec, rows, seed, data):
    index = data.draw(st.integers(0, len(spec.codes) - 1))
    code = spec.codes[index]
    continuous = isinstance(code, Continuous)
    dim = data.draw(st.integers(0, code.dim - 1)) if continuous else 0
    steps = 3 if continuous else 2
    grid = spec.traverse(index, steps, rows, dim=dim, seed=seed)
    assert grid.input.shape == (rows * steps, spec.input_dim)
    assert same(grid, spec.traverse(index, steps, rows, dim=dim, seed=seed))

    # the targets belong to the input
    noise = grid.input[:, : spec.noise]
    assert same(grid, spec.assemble(noise, grid.categorical, grid.continuous))

    noise, categorical, values = (t.unflatten(0, (rows, steps)).clone() for t in (noise, *grid[1:]))
    column = spec.slots[index].target.start + dim
    varied = (values if continuous else categorical)[:, :, column]
    assert all(len(set(row)) == steps for row in varied.tolist())
    assert torch.equal(varied, varied[:1].expand(rows, steps))
    varied.zero_()
    for t in (noise, categorical, values):
        assert torch.equal(t, t[:, :1].expand(t.shape))


def test_column_k_of_a_categorical_s_traversal_is_class_k():
    grid = MIXED.traverse(code=1, rows=4)
    assert grid.categorical[:, 0].tolist() == [*range(10)] * 4
    assert torch.equal(grid.input[:, 5:15], torch.eye(10).repeat(4, 1))
    assert MIXED.traverse(code=1, steps=3, rows=1).categorical[:, 0].tolist() == [0, 1, 2]
    assert MIXED.traverse(code=3, rows=2).categorical[:, 1].tolist() == [0, 1] * 2


def test_rows_of_a_traversal_have_noise_of_their_own_and_cycle_the_other_classes():
    grid = MNIST.traverse(code=1, rows=12)
    first_of_row = grid.input[::10]
    assert len(set(first_of_row[:, 0].tolist())) == 12
    assert grid.categorical[::10, 0].tolist() == [*range(10), 0, 1]


@pytest.mark.parametrize(
    ("code", "low", "high"),
    [
        (Uniform(-1, 1), -2, 2),
        (Uniform(2, 4, dim=2), 1, 5),
        (Gaussian(), -2, 2),
        (Gaussian(3, 0.5, dim=3), 2, 4),
    ],
)
def test_a_continuous_traversal_spans_twice_the_prior_s_scale(code, low, high):
    spec = LatentSpec(2, (Categorical(3), code))
    for dim in range(code.dim):
        grid = spec.traverse(1, steps=5, rows=2, dim=dim)
        expected = torch.linspace(low, high, 5).repeat(2)
        # the ends in fp64, the steps between them in fp32: a rounding or two
        torch.testing.assert_close(grid.continuous[:, dim], expected, atol=1e-6, rtol=0)
        assert torch.equal(grid.input[:, 2 + 3 + dim], grid.continuous[:, dim])
    assert len(spec.traverse(1, rows=1).input) == 10


def test_a_traversal_of_an_angle_goes_once_around_the_circle():
    spec = LatentSpec(1, (Angle(), Categorical(3)))
    for steps in (8, 10):
        grid = spec.traverse(0, steps=steps, rows=2)
        turns = (grid.continuous[:steps, 0].double() + math.pi) / (2 * math.pi)
        expected = torch.arange(steps, dtype=torch.float64) / steps
        torch.testing.assert_close(turns, expected, atol=1e-6, rtol=0)
        radius = grid.input[:, 1:3].square().sum(1)
        torch.testing.assert_close(radius, torch.ones(2 * steps), atol=1e-6, rtol=0)


def test_a_code_may_be_traversed_by_its_name():
    spec = LatentSpec(1, (Categorical(3, name="digit"), Uniform()))
    assert same(spec.traverse("digit"), spec.traverse(0))
    assert same(spec.traverse("c2_uniform"), spec.traverse(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"code": 5}, "code must be 0 … 4 or .*, got 5"),
        ({"code": -1}, "code must be 0 … 4 or .*, got -1"),
        ({"code": "c1"}, "code must be 0 … 4 or one of c1_uniform, .*, got 'c1'"),
        ({"code": 0, "rows": 0}, "rows must be ≥ 1, got 0"),
        ({"code": 0, "steps": 0}, "steps must be ≥ 1, got 0"),
        ({"code": 0, "dim": 2}, "dim must be 0 … 1, got 2"),
        ({"code": 0, "dim": -1}, "dim must be 0 … 1, got -1"),
        ({"code": 0, "dim": 0.5}, "dim must be 0 … 1, got 0.5"),
        ({"code": 1, "steps": 11}, "10 values.*1 … 10, got 11"),
        ({"code": 3, "steps": 3}, "2 values.*1 … 2, got 3"),
        ({"code": 1, "dim": 1}, "one dim, got dim=1"),
    ],
)
def test_a_bad_traversal_is_refused_with_what_was_expected_and_what_came(arguments, message):
    with pytest.raises(ValueError, match=message):
        MIXED.traverse(**arguments)


# Construction and parsing

NAN = float("nan")
BAD_CODES = {
    "n ≥ 2.*n=1": lambda: Categorical(1),
    "n ≥ 2.*n=2.5": lambda: Categorical(2.5),  # type: ignore[arg-type]
    "n ≥ 2.*n=True": lambda: Categorical(True),
    "weight must be.*≥ 0, got -1": lambda: Categorical(3, weight=-1),
    "weight must be.*≥ 0, got nan": lambda: Uniform(weight=NAN),
    "weight must be.*≥ 0, got '1'": lambda: Gaussian(weight="1"),  # type: ignore[arg-type]
    "weight must be.*≥ 0, got inf": lambda: Bernoulli(weight=math.inf),
    "0 < p < 1, got p=0": lambda: Bernoulli(0),
    "0 < p < 1, got p=1": lambda: Bernoulli(1),
    "0 < p < 1, got p=nan": lambda: Bernoulli(NAN),
    "low < high, got low=1, high=1": lambda: Uniform(1, 1),
    "low < high, got low=2, high=1": lambda: Uniform(2, 1),
    "low < high, got low=0, high=inf": lambda: Uniform(0, math.inf),
    "std > 0, got mean=0, std=0": lambda: Gaussian(0, 0),
    "std > 0, got mean=0, std=-1": lambda: Gaussian(0, -1),
    "std > 0, got mean=nan, std=1": lambda: Gaussian(NAN, 1),
    "dim ≥ 1, got dim=0": lambda: Uniform(dim=0),
    "dim ≥ 1, got dim=1.0": lambda: Gaussian(dim=1.0),  # type: ignore[arg-type]
    '"fixed" or "learned", got \'free\'': lambda: Uniform(sigma="free"),  # type: ignore[arg-type]
    '"fixed" or "learned", got 0.5; the number .* info_loss\\(..., sigma=0.5': lambda: Uniform(
        sigma=0.5,  # type: ignore[arg-type]
    ),
    "2 probabilities that sum to 1, got \\(0.5, 0.6": lambda: Categorical(2, probs=(0.5, 0.6)),
    "2 probabilities that sum to 1, got \\(1.5, -0.5": lambda: Categorical(2, probs=(1.5, -0.5)),
    "2 probabilities that sum to 1, got \\(0.5,\\)": lambda: Categorical(2, probs=(0.5,)),
    "2 probabilities that sum to 1, got 0.5": lambda: Categorical(2, probs=0.5),  # type: ignore[arg-type]
    "2 probabilities that sum to 1, got \\(nan": lambda: Categorical(2, probs=(NAN, 1)),
    "letters, digits and underscores, got 'a b'": lambda: Angle(name="a b"),
    "letters, digits and underscores, got ''": lambda: Uniform(name=""),
    "letters, digits and underscores, got 'é'": lambda: Uniform(name="é"),
    "letters, digits and underscores, got 3": lambda: Uniform(name=3),  # type: ignore[arg-type]
    "concentration must be .* got 2": lambda: Angle(concentration=2),  # type: ignore[arg-type]
    "noise must be ≥ 0, got -1": lambda: LatentSpec(-1, (Categorical(2),)),
    "noise must be ≥ 0, got 1.5": lambda: LatentSpec(1.5, (Categorical(2),)),  # type: ignore[arg-type]
    "at least one code, got none": lambda: LatentSpec(1, ()),
    r"codes\[0\] must be .* or Angle, got 'cat10'; use codes=parse_codes": lambda: LatentSpec(
        1,
        ("cat10",),  # type: ignore[arg-type]
    ),
    "codes must be.*got Categorical": lambda: LatentSpec(
        1,
        Categorical(3),  # type: ignore[arg-type]
    ),
}


@pytest.mark.parametrize("message", BAD_CODES)
def test_a_bad_argument_is_refused_with_what_was_expected_and_what_came(message):
    with pytest.raises(ValueError, match=message):
        BAD_CODES[message]()


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        None,
        {"noise": 1},
        {"noise": 1, "codes": 3},
        {"noise": 1, "codes": [{"n": 3}]},
        {"noise": 1, "codes": [{"kind": "poisson"}]},
        {"noise": 1, "codes": [{"kind": "categorical", "n": 3, "p": 0.5}]},
        {"noise": 1, "codes": [{"kind": "categorical", "n": 1}]},
        {"noise": 1, "codes": []},
    ],
)
def test_a_dict_that_is_no_spec_is_refused(data):
    with pytest.raises(ValueError, match=r"[sS]pec|n ≥ 2"):
        LatentSpec.from_dict(data)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("cat10,uniform,uniform", (Categorical(10), Uniform(), Uniform())),
        (" cat3 , bernoulli ", (Categorical(3), Bernoulli())),
        ("uniform2:learned", (Uniform(dim=2, sigma="learned"),)),
        ("gaussian3*0.1", (Gaussian(dim=3, weight=0.1),)),
        (
            "gaussian:learned*2,cat20*0.5",
            (Gaussian(sigma="learned", weight=2), Categorical(20, weight=0.5)),
        ),
        ("bernoulli*0", (Bernoulli(weight=0),)),
        ("digit=cat10, slant = uniform", (Categorical(10, name="digit"), Uniform(name="slant"))),
        (
            "angle,turn=angle:learned*2",
            (Angle(), Angle(concentration="learned", weight=2, name="turn")),
        ),
    ],
)
def test_codes_are_read_from_a_short_text(text, codes):
    assert parse_codes(text) == codes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cat10,",
        "cat",
        "cat10:learned",
        "10cat",
        "bernoulli2",
        "bernoulli:learned",
        "uniform:free",
        "uniform-1",
        "uniform:",
        "normal",
        "Cat10",
        "cat10*",
        "cat10*x",
        "cat10*1*2",
        "angle2",
        "angle:free",
        "digit=",
        "a=b=cat10",
    ],
)
def test_a_text_that_is_no_code_is_refused_with_the_grammar(text):
    with pytest.raises(ValueError, match="is not a code; a code is catN"):
        parse_codes(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat1", "n=1"),
        ("uniform0", "dim=0"),
        ("cat10*-1", "got -1"),
        ("cat10*nan", "got nan"),
        ("=cat10", "got ''"),
        ("a-b=cat10", "got 'a-b'"),
    ],
)
def test_a_code_with_an_impossible_number_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_codes(text)
