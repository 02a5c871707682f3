"""The forms in which the losses take their arguments, and the messages for all others."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers.strategies import problem
from torch import Tensor, distributions, nn

import fastinfogan
from fastinfogan.latents import Angle, Bernoulli, Categorical, Gaussian, LatentSpec, Uniform
from fastinfogan.losses import InfoLoss, head_loss, info_loss, information, pack
from fastinfogan.losses import triton as kernel

MNIST = LatentSpec(62, (Categorical(10, name="digit"), Uniform(name="slant"), Uniform()))
EVERY_KIND = LatentSpec(
    0,
    (
        Categorical(4, name="shape"),
        Gaussian(dim=2, sigma="learned", name="place"),
        Bernoulli(name="filled"),
        Uniform(name="size"),
        Angle(concentration="learned", name="turn"),
    ),
)
BACKENDS = ["reference", "compiled"] + (["triton"] if kernel.available() else [])


def equal(a: Any, b: Any) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)  # fp32: other orders of sums


# Targets


def test_a_batch_takes_the_place_of_both_targets():
    batch = MNIST.sample(8, seed=0)
    q = torch.randn(8, 12)
    expected = info_loss(q, MNIST, batch.categorical, batch.continuous)
    equal(info_loss(q, MNIST, batch), expected)
    equal(InfoLoss(MNIST)(q, batch), expected)
    out = head_loss(torch.randn(11), q, MNIST, batch, player="discriminator")
    equal([out.information, out.per_code], expected)
    with pytest.raises(ValueError, match="continuous: expected nothing after a LatentBatch"):
        info_loss(q, MNIST, batch, batch.continuous)


def test_targets_of_which_the_spec_has_none_may_be_left_out():
    digits = LatentSpec(0, (Categorical(10),))
    slants = LatentSpec(0, (Uniform(), Uniform()))
    q, c = torch.randn(8, 10), torch.arange(8).unsqueeze(1)
    expected = info_loss(q, digits, c, torch.empty(8, 0))
    equal(info_loss(q, digits, c), expected)
    equal(info_loss(q, digits, c, None), expected)
    q, x = torch.randn(8, 2), torch.randn(8, 2)
    equal(
        info_loss(q, slants, None, x), info_loss(q, slants, torch.empty(8, 0, dtype=torch.int64), x)
    )
    equal(info_loss(q, slants, continuous=x), info_loss(q, slants, None, x))
    with pytest.raises(ValueError, match=r"continuous: expected shape \[8, 2\], got None"):
        info_loss(q, slants)


def test_a_single_code_takes_its_targets_as_a_vector():
    q, c = torch.randn(8, 11), torch.arange(8)
    spec = LatentSpec(0, (Categorical(10), Uniform()))
    x = torch.randn(8)
    equal(info_loss(q, spec, c, x), info_loss(q, spec, c.unsqueeze(1), x.unsqueeze(1)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float32])
def test_one_hot_rows_are_the_classes_that_they_stand_for(dtype):
    spec = LatentSpec(0, (Bernoulli(), Categorical(4), Uniform(), Categorical(3)))
    q, _, c, x = problem(spec)
    rows = [nn.functional.one_hot(c[:, 1], 4), nn.functional.one_hot(c[:, 2], 3), c[:, :1]]
    one_hot = torch.cat(rows, 1).to(dtype)  # all Categoricals, then the bits
    ours, expected = info_loss(q, spec, one_hot, x), info_loss(q, spec, c, x)
    equal(ours, expected)
    equal(torch.autograd.grad(ours.total, q), torch.autograd.grad(expected.total, q))


def test_an_integer_row_that_is_no_one_hot_row_is_no_class():
    spec = LatentSpec(0, (Categorical(3),))
    rows = torch.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 0]])
    with pytest.raises(ValueError, match="expected classes 0 … 2, got values from 1 to 3"):
        info_loss(torch.zeros(3, 3), spec, rows)
    out = info_loss(torch.zeros(3, 3), spec, rows, reduction="none", validate=False)
    assert out.total.isnan().tolist() == [False, True, True]


@pytest.mark.parametrize("backend", BACKENDS)
def test_soft_targets_are_a_cross_entropy_with_gradients_of_their_own(backend):
    spec = LatentSpec(0, (Categorical(4), Bernoulli(), Uniform()))
    q = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    p = torch.rand(8, 4, dtype=torch.float64).softmax(1)
    soft = torch.cat((p, torch.rand(8, 1, dtype=torch.float64)), 1).requires_grad_()
    x = torch.randn(8, 1)
    out = info_loss(q, spec, soft, x, backend=backend)
    cross = nn.functional.cross_entropy(q[:, :4], soft[:, :4])
    bits = nn.functional.binary_cross_entropy_with_logits(q[:, 4:5], soft[:, 4:])
    rest = info_loss(q, spec, soft.detach(), x).per_code[2]
    torch.testing.assert_close(out.total.detach(), (cross + bits + rest).detach())
    actual = torch.autograd.grad(out.total, (q, soft))
    expected = torch.autograd.grad(cross + bits, (q, soft))
    torch.testing.assert_close(actual[0][:, :5], expected[0][:, :5])
    torch.testing.assert_close(actual[1], expected[1])


def test_a_class_without_probability_costs_nothing_however_unlikely_q_has_it():
    spec = LatentSpec(0, (Categorical(2), Bernoulli()))
    q = torch.tensor([[-math.inf, 0.0, math.inf]], requires_grad=True)
    out = info_loss(q, spec, torch.tensor([[0.0, 1.0, 1.0]]))
    assert out.total.item() == 0
    (gradient,) = torch.autograd.grad(out.total, q)
    assert gradient.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.5, 0.6], r"probabilities that sum to 1 in each row, got a sum of 1.1"),
        ([1.5, -0.5], "probabilities from 0 to 1, got values from -0.5 to 1.5"),
        ([math.nan, 1.0], "probabilities from 0 to 1, got values from nan"),
    ],
)
def test_soft_rows_are_checked(row, message):
    spec = LatentSpec(0, (Categorical(2, name="side"),))
    with pytest.raises(ValueError, match=r"categorical\[:, 0:2\] of side: expected " + message):
        info_loss(torch.zeros(1, 2), spec, torch.tensor([row]))


# Heads


def heads() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    widths = {"shape": 4, "place": 4, "filled": 1, "size": 1, "turn": 2}
    return {name: torch.randn(8, k, generator=draw) for name, k in widths.items()}


def test_heads_may_be_a_list_a_generator_a_dict_by_name_or_feature_maps():
    batch = EVERY_KIND.sample(8, seed=0)
    expected = info_loss(torch.cat(list(heads().values()), 1), EVERY_KIND, batch)
    by_name = dict(reversed(heads().items()))
    maps = [head[:, :, None, None] for head in heads().values()]
    for q in (
        list(heads().values()),
        (head for head in heads().values()),
        by_name,
        maps,
        torch.cat(maps, 1),
    ):
        equal(info_loss(q, EVERY_KIND, batch), expected)
    equal(InfoLoss(EVERY_KIND)(by_name, batch), expected)
    out = head_loss(torch.randn(8), by_name, EVERY_KIND, batch, player="generator")
    equal([out.information, out.per_code], expected)


def test_a_mean_and_its_variance_are_a_head():
    batch = EVERY_KIND.sample(8, seed=0)
    expected = info_loss(heads(), EVERY_KIND, batch)
    mean, log_var = heads()["place"].split(2, 1)
    for place in (
        (mean, log_var),
        {"mean": mean, "log_var": log_var},
        {"mean": mean, "var": log_var.exp()},
        {"mean": mean[:, :, None, None], "var": log_var.exp()},
    ):
        out = info_loss({**heads(), "place": place}, EVERY_KIND, batch)
        torch.testing.assert_close(out.per_code, expected.per_code)


def test_distributions_are_heads_and_keep_their_gradients():
    batch = EVERY_KIND.sample(8, seed=0)
    q = {name: head.requires_grad_() for name, head in heads().items()}
    mean, log_var = q["place"].split(2, 1)
    normal = distributions.Normal(mean, (0.5 * log_var).exp())
    angle = torch.atan2(q["turn"][:, 1], q["turn"][:, 0])
    of: dict[str, Any] = {
        "shape": distributions.Categorical(logits=q["shape"]),
        "place": distributions.Independent(normal, 1),
        "filled": distributions.Bernoulli(logits=q["filled"]),
        "size": q["size"],
        "turn": distributions.VonMises(angle, q["turn"].norm(dim=1)),
    }
    out, expected = (info_loss(x, EVERY_KIND, batch) for x in (of, q))
    torch.testing.assert_close(out.per_code, expected.per_code)
    grads = [torch.autograd.grad(x.total, [*q.values()]) for x in (out, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    of["shape"] = distributions.OneHotCategorical(logits=q["shape"])
    torch.testing.assert_close(info_loss(of, EVERY_KIND, batch).total, out.total)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": torch.zeros(8, 5)}, r"head 'shape': expected shape \[B, 4\], got \[8, 5\]"),
        ({"shape": torch.zeros(4)}, r"head 'shape': .* got \[4\]; the batch dimension is missing"),
        (
            {"size": torch.zeros(7, 1)},
            "head 'size': expected 8 rows on cpu, as head 'shape' has, got 7",
        ),
        ({"size": 3}, r"head 'size': expected a tensor of shape \[B, 1\], got int"),
        (
            {"other": torch.zeros(8, 1)},
            r"the keys shape, place, .*got one with unknown other",
        ),
        (
            {"size": (torch.zeros(8, 1),) * 2},
            "head 'size' of a Uniform: expected one tensor, got tuple",
        ),
        ({"place": {"mu": torch.zeros(8, 2)}}, "head 'place': expected the keys \"mean\" and"),
        (
            {"place": (torch.zeros(8, 3), torch.zeros(8, 2))},
            r"mean of head 'place': expected shape \[B, 2\], got \[8, 3\]",
        ),
        (
            {"size": distributions.Normal(torch.zeros(8), 1.0)},
            "head 'size': this code has sigma=.*got a Normal .*pass the distribution's loc",
        ),
        (
            {"shape": distributions.Normal(torch.zeros(8), 1.0)},
            r"head 'shape' of a Categorical: .*torch.distributions object .*got Normal",
        ),
    ],
)
def test_a_head_that_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        info_loss({**heads(), **changes}, EVERY_KIND, EVERY_KIND.sample(8))


def test_too_few_heads_and_no_heads_at_all_are_named():
    batch = EVERY_KIND.sample(8)
    with pytest.raises(ValueError, match=r"heads: expected 5, one per code \(shape, .*\), got 1"):
        info_loss([torch.zeros(8, 12)], EVERY_KIND, batch)
    with pytest.raises(
        ValueError, match=r"heads: expected a list of heads in the order shape, .*got int"
    ):
        info_loss(3, EVERY_KIND, batch)  # type: ignore[arg-type]


# The table of errors that users met: each is accepted, or says what to do


def mnist(batch: int = 8) -> dict[str, Any]:
    drawn = MNIST.sample(batch, seed=0)
    return {
        "q": torch.randn(batch, 12, generator=torch.Generator().manual_seed(0)),
        "spec": MNIST,
        "categorical": drawn.categorical,
        "continuous": drawn.continuous,
    }


def accepted() -> dict[str, dict[str, Any]]:
    """Return changes of the call that give the loss of the plain call."""
    args = mnist()
    one_hot = nn.functional.one_hot(args["categorical"][:, 0], 10)
    parts = args["q"].split((10, 1, 1), 1)
    return {
        "one-hot target": {"categorical": one_hot},
        "one-hot target, float": {"categorical": one_hot.float()},
        "class vector": {"categorical": args["categorical"][:, 0]},
        "weights as numbers": {"weights": [1.0, 1, 1]},
        "weights as numpy": {"weights": np.ones(3)},
        "a batch": {"categorical": MNIST.sample(8, seed=0), "continuous": None},
        "heads [B, k, 1, 1]": {"q": [x[:, :, None, None] for x in parts]},
        "packed dict": {"q": pack(dict(zip("abc", parts, strict=True)))},
        "packed generator": {"q": pack(x for x in parts)},
    }


@pytest.mark.parametrize("name", accepted())
def test_common_ways_to_call_the_loss_are_accepted(name):
    equal(info_loss(**{**mnist(), **accepted()[name]}), info_loss(**mnist()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"categorical": np.zeros((8, 1), np.int64)},
            r"categorical: expected a tensor or a LatentBatch, got ndarray; use torch.from_numpy",
        ),
        (
            {"continuous": np.zeros((8, 2))},
            "continuous: expected a tensor, got ndarray; use torch.from_numpy",
        ),
        ({"categorical": [[1]] * 8}, "categorical: .*got list; use torch.as_tensor"),
        ({"weights": 0.5}, r"weights: expected 3 numbers .*got 0.5; .*weights=\[0.5\] \* 3"),
        ({"weights": [1.0, 0.1]}, "weights: expected 3 numbers, one per code, got 2"),
        ({"weights": ["a"] * 3}, "weights: expected 3 numbers, got"),
        ({"continuous": None}, r"continuous: expected shape \[8, 2\], got None; only a spec"),
        (
            {"q": [torch.zeros(10), torch.zeros(1), torch.zeros(1)]},
            r"head 'digit': expected shape \[B, 10\], got \[10\]; the batch dimension is missing",
        ),
        (
            {"categorical": torch.zeros(8, 5).long()},
            r"categorical: expected shape \[8, 1\], got \[8, 5\]; .*one-hot or soft rows \[8, 10\]",
        ),
    ],
)
def test_a_refused_argument_says_what_to_do(changes, message):
    with pytest.raises(ValueError, match=message):
        info_loss(**{**mnist(), **changes})


def test_squeezed_heads_miss_their_batch_dimension():
    with pytest.raises(ValueError, match=r"heads\[0\]: .*got \[10\]; the batch dimension is miss"):
        pack([torch.zeros(10), torch.zeros(1)])


def test_logits_may_be_a_vector_or_one_column():
    logits, arguments = torch.randn(8), mnist()
    vector, column = (
        head_loss(x, **arguments, player="generator") for x in (logits, logits.unsqueeze(1))
    )
    equal(vector, column)
    with pytest.raises(ValueError, match=r"expected \[8\] or \[8, 1\], got \[8, 2\]"):
        head_loss(torch.zeros(8, 2), **arguments, player="generator")


def test_a_relativistic_discriminator_needs_as_many_real_rows_as_generated_ones():
    for rows in (15, 17):
        with pytest.raises(ValueError, match=f"expected 8, got {rows - 8}"):
            head_loss(
                torch.zeros(rows), **mnist(), player="discriminator", adversarial="relativistic"
            )


def test_a_relativistic_discriminator_has_its_real_logits_in_front_and_takes_no_others():
    arguments: dict[str, Any] = {**mnist(), "player": "discriminator"}
    with pytest.raises(ValueError, match="None for a discriminator, whose logits hold them"):
        head_loss(torch.zeros(16), **arguments, adversarial="relativistic", real=torch.zeros(8))


def test_an_unknown_player_and_missing_real_logits_are_refused():
    player: Any = "critic"
    with pytest.raises(ValueError, match="expected discriminator or generator, got critic"):
        head_loss(torch.zeros(8), **mnist(), player=player)
    with pytest.raises(ValueError, match="expected D's logits on real images, got None"):
        head_loss(torch.zeros(8), **mnist(), player="generator", adversarial="relativistic")


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_a_relativistic_generator_is_compared_row_by_row_with_real_logits(shape):
    logits, real = torch.randn(8), torch.randn(shape)
    out = head_loss(logits, **mnist(), player="generator", adversarial="relativistic", real=real)
    expected = nn.functional.softplus(real.reshape(8) - logits).mean()
    torch.testing.assert_close(out.adversarial, expected)
    with pytest.raises(ValueError, match=r"real: expected \[8\] or \[8, 1\], got \[9\]"):
        head_loss(
            logits, **mnist(), player="generator", adversarial="relativistic", real=torch.zeros(9)
        )


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_a_sigma_that_is_no_positive_number_is_refused_for_few_codes_too(sigma):
    with pytest.raises(ValueError, match=r"sigma: expected .* > 0, got"):
        info_loss(**mnist(), sigma=sigma)


def test_the_result_is_no_tensor_and_names_its_total():
    out = info_loss(**mnist())
    loss = torch.ones((), requires_grad=True)
    with pytest.raises(AttributeError, match=r"no 'backward': the loss is its \.total"):
        out.backward()
    for wrong in (
        lambda: loss + out,  # type: ignore[operator]
        lambda: out + loss,  # type: ignore[operator]
        lambda: 3 * out,
        lambda: out * 3,
        lambda: loss * out,
        lambda: out - loss,  # type: ignore[operator]
        lambda: sum([out, out]),
    ):
        with pytest.raises(TypeError, match=r"the loss is its \.total"):
            wrong()
    heads_out = head_loss(torch.zeros(8), **mnist(), player="generator")
    with pytest.raises(
        AttributeError, match=r"no 'backward': the losses are its \.information and"
    ):
        heads_out.backward()
    with pytest.raises(TypeError, match=r"its \.information and \.adversarial"):
        3 * heads_out
    total, per_code = out  # it unpacks
    assert total is out.total
    assert per_code is out.per_code
    assert (len(out), len(heads_out)) == (2, 3)


def test_numpy_and_tensor_weights_per_code_keep_their_gradients():
    weight = torch.tensor(0.5, requires_grad=True)
    weights: Any = [weight, 1.0, torch.tensor([2.0])]
    out = info_loss(**mnist(), weights=weights)
    (actual,) = torch.autograd.grad(out.total, weight)
    torch.testing.assert_close(actual, out.per_code[0])


# The module, and results by name


def test_results_have_the_codes_names():
    out = info_loss(**mnist())
    by_name = out.by_name(MNIST)
    assert list(by_name) == ["digit", "slant", "c3_uniform"]
    assert torch.equal(torch.stack(list(by_name.values())), out.per_code)
    assert head_loss(torch.zeros(8), **mnist(), player="generator").by_name(MNIST).keys() == (
        by_name.keys()
    )
    with pytest.raises(ValueError, match="spec: expected a spec of 3 codes, got 5"):
        out.by_name(EVERY_KIND)


def test_a_parameter_as_weights_is_trained_and_other_weights_are_a_buffer():
    weights = nn.Parameter(torch.tensor([1.0, 0.5, 0.25]))
    loss = InfoLoss(MNIST, weights=weights)
    assert list(loss.parameters()) == [weights]
    q, _, *targets = mnist().values()
    out = loss(q, *targets)
    out.total.backward()
    assert weights.grad is not None
    torch.testing.assert_close(weights.grad, out.per_code)
    fixed = InfoLoss(MNIST, weights=[1.0, 0.5, 0.25])
    assert not list(fixed.parameters())
    assert fixed.double().get_buffer("weights").dtype == torch.float64
    with pytest.raises(ValueError, match="weights: expected 3 numbers, one per code, got 1"):
        InfoLoss(MNIST, weights=[1.0])


def test_the_module_shows_its_codes_and_options():
    text = repr(InfoLoss(MNIST, weights=[1, 2, 3], reduction="sum", ignore_index=-1))
    for part in ("digit: Categorical(n=10", "c3_uniform", "'sum'", "ignore_index=-1", "a buffer"):
        assert part in text


def test_the_package_lists_its_public_names():
    assert set(fastinfogan.__all__) <= set(dir(fastinfogan))
    assert dir(fastinfogan.losses) == sorted(fastinfogan.losses.__all__)
    assert fastinfogan.LatentBatch is not None
    assert fastinfogan.parse_codes("cat3")[0] == Categorical(3)


# Information of other priors


def test_information_knows_a_prior_that_is_not_uniform():
    probs = (0.91, *[0.01] * 9)
    spec = LatentSpec(0, (Categorical(10, probs=probs),))
    q = torch.tensor(probs).log().expand(5000, 10)  # ignores the image
    batch = spec.sample(5000, seed=0)
    bound = information(info_loss(q, spec, batch).per_code, spec)
    assert abs(bound.item()) < 0.03  # of a mean over 5,000 draws, σ of log q is .75


@pytest.mark.parametrize(
    "entropy",
    [
        [1.0, math.log(2), math.log(2)],
        {"digit": 1.0},
        torch.tensor([1.0, math.log(2), math.log(2)]),
    ],
)
def test_information_takes_the_entropy_of_a_prior_learned_elsewhere(entropy):
    nll = torch.tensor([0.25, 0.5, 0.5])
    expected = torch.tensor([0.75, math.log(2) - 0.5, math.log(2) - 0.5])
    torch.testing.assert_close(information(nll, MNIST, entropy=entropy), expected)


def test_information_refuses_entropies_of_other_codes():
    with pytest.raises(ValueError, match=r"entropy: expected shape \[3\], got \[2\]"):
        information(torch.zeros(3), MNIST, entropy=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"entropy: expected names of codes \(digit, .*got digits"):
        information(torch.zeros(3), MNIST, entropy={"digits": 1.0})
