"""Q's heads become the columns of q, each checked against its code."""

import re

import numpy as np
import pytest
import torch
from helpers.strategies import all_specs, modest
from hypothesis import given
from torch import distributions as dist

from fastinfogan.latents import Angle, Bernoulli, Categorical, Gaussian, LatentSpec, Uniform

SPEC = LatentSpec(
    2,
    (
        Categorical(3, name="digit"),
        Uniform(dim=2, sigma="learned", name="place"),
        Bernoulli(name="bit"),
        Angle(concentration="learned", name="turn"),
    ),
)
WIDTHS = {"digit": 3, "place": 4, "bit": 1, "turn": 2}
B = 5


def heads() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(B, k, generator=generator) for name, k in WIDTHS.items()}


@modest
@given(all_specs)
def test_heads_in_order_or_by_name_and_convolutions_become_q_again(spec):
    q = torch.randn(3, spec.q_dim)
    parts = [q[:, slot.q] for slot in spec.slots]
    by_name = dict(reversed(list(zip(spec.names, parts, strict=True))))
    assert torch.equal(spec.pack(parts), q)
    assert torch.equal(spec.pack(iter(parts)), q)
    assert torch.equal(spec.pack(by_name), q)
    assert torch.equal(spec.pack([part[:, :, None, None] for part in parts]), q)
    assert torch.equal(spec.pack(q), q)
    assert torch.equal(spec.pack(q[:, :, None, None]), q)


def test_a_learned_sigma_s_head_may_be_mean_and_log_variance_or_variance():
    whole = heads()
    mean, log_var = whole["place"].split(2, dim=1)
    pairs: list[object] = [
        (mean, log_var),
        [mean[:, :, None, None], log_var],
        {"mean": mean, "log_var": log_var},
    ]
    for pair in pairs:
        assert torch.equal(spec_pack({**whole, "place": pair}), SPEC.pack(whole))
    by_variance = spec_pack({**whole, "place": {"mean": mean, "var": log_var.exp()}})
    torch.testing.assert_close(by_variance, SPEC.pack(whole))


def spec_pack(given):
    return SPEC.pack(given)


def test_distributions_give_their_parameters():
    whole = heads()
    mean, log_var = whole["place"].split(2, dim=1)
    scale = (0.5 * log_var).exp()
    turn, kappa = torch.atan2(whole["turn"][:, 1], whole["turn"][:, 0]), whole["turn"].norm(dim=1)
    for digit in (dist.Categorical, dist.OneHotCategorical):
        packed = SPEC.pack(
            {
                "digit": digit(logits=whole["digit"]),
                "place": dist.Independent(dist.Normal(mean, scale), 1),
                "bit": dist.Bernoulli(logits=whole["bit"].squeeze(1)),
                "turn": dist.VonMises(turn, kappa),
            }
        )
        expected = {**whole, "digit": whole["digit"].log_softmax(1)}
        torch.testing.assert_close(packed, SPEC.pack(expected))
    one = LatentSpec(0, (Gaussian(sigma="learned"),))
    packed = one.pack([dist.Normal(mean[:, 0], scale[:, 0])])
    torch.testing.assert_close(packed, torch.stack((mean[:, 0], log_var[:, 0]), 1))


def test_a_normal_without_a_batch_dimension_is_refused():
    spec = LatentSpec(0, (Gaussian(dim=2, sigma="learned"),))
    normal = dist.Normal(torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match=r"got \[2\]; the batch dimension is missing"):
        spec.pack([normal])


def test_three_tensors_never_stand_for_two_codes_of_which_one_has_a_learned_sigma():
    logits, mean, log_var = torch.randn(B, 3), torch.randn(B, 2), torch.randn(B, 2)
    one = LatentSpec(0, (Categorical(3), Uniform(dim=2, sigma="learned")))
    two = LatentSpec(0, (Categorical(3), *[Uniform(sigma="learned")] * 2))
    assert one.q_dim == two.q_dim
    with pytest.raises(ValueError, match=r"expected 2, one per code .* got 3; .*\(mean, log_var\)"):
        one.pack([logits, mean, log_var])
    assert torch.equal(one.pack([logits, (mean, log_var)]), torch.cat((logits, mean, log_var), 1))
    columns = [(mean[:, [i]], log_var[:, [i]]) for i in range(2)]
    expected = torch.stack((mean, log_var), 2).flatten(1)
    assert torch.equal(two.pack([logits, *columns]), torch.cat((logits, expected), 1))


def test_gradients_reach_the_heads():
    whole = {name: head.requires_grad_() for name, head in heads().items()}
    SPEC.pack(whole).sum().backward()
    assert all(h.grad is not None and (h.grad == 1).all() for h in whole.values())


def test_pack_traces_into_one_graph():
    fresh = LatentSpec(1, (Categorical(4), Uniform(dim=2, sigma="learned")))
    a, b, c = torch.randn(2, 4), torch.randn(2, 2), torch.randn(2, 2)
    compiled = torch.compile(lambda: fresh.pack([a, (b, c)]), backend="eager", fullgraph=True)
    assert torch.equal(compiled(), torch.cat((a, b, c), 1))


Z = torch.zeros
REFUSED = {
    "heads: expected 4, one per code (digit, place, bit, turn), got 1": [Z(B, 3)],
    "heads: expected a list of heads in the order digit": 3,
    "with the keys digit, place, bit, turn, got one without bit and with unknown bits": {
        **{name: Z(B, k) for name, k in WIDTHS.items() if name != "bit"},
        "bits": Z(B, 1),
    },
    "head 'digit': expected shape [B, 3], got [5, 4]": {"digit": Z(B, 4)},
    "head 'digit': expected shape [B, 3], got [5, 3, 2, 1]": {"digit": Z(B, 3, 2, 1)},
    "head 'digit': expected shape [B, 3], got [3]; the batch dimension is missing": {"digit": Z(3)},
    "head 'bit': expected shape [B, 1], got [5]; the column is missing": {"bit": Z(B)},
    "head 'bit': expected shape [B, 1], got [1]; the batch dimension is missing": {"bit": Z(1)},
    "head 'digit': expected a tensor of shape [B, 3], got ndarray: use torch.from_numpy": {
        "digit": np.zeros((B, 3))
    },
    "head 'digit': expected a tensor of shape [B, 3], got NoneType": {"digit": None},
    "head 'bit': expected 5 rows on cpu, as head 'digit' has, got 4 on cpu": {"bit": Z(4, 1)},
    "head 'place': expected 5 rows on cpu, as head 'digit' has, got 4 on cpu": {
        "place": (Z(B, 2), Z(4, 2))
    },
    "head 'turn': expected 5 rows on cpu, as head 'digit' has, got 5 on meta": {
        "turn": Z(B, 2, device="meta")
    },
    "mean of head 'place': expected shape [B, 2], got [5, 1]": {"place": (Z(B, 1), Z(B, 2))},
    "log-variance of head 'place': expected shape [B, 2]": {"place": (Z(B, 2), Z(B, 1))},
    "head 'place' of a Uniform: expected a tensor or a pair (mean, log_var), got tuple of 3": {
        "place": (Z(B, 2), Z(B, 2), Z(B, 2))
    },
    'head \'place\': expected the keys "mean" and "log_var" (or "var"), got mu, var': {
        "place": {"mu": Z(B, 2), "var": Z(B, 2)}
    },
    "head 'digit' of a Categorical: expected one tensor, got tuple of 2": {
        "digit": (Z(B, 3), Z(B, 3))
    },
    "head 'digit' of a Categorical: expected a tensor of shape [B, 3] or the": {
        "digit": dist.Normal(Z(B, 3), 1)
    },
    "head 'place' of a Uniform: expected a tensor of shape [B, 4] or the": {
        "place": dist.Laplace(Z(B, 2), 1)
    },
    "q: expected shape [B, 10], got [5, 9]": Z(B, 9),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_head_that_does_not_fit_is_refused_by_its_code_s_name(message):
    given = REFUSED[message]
    if isinstance(given, dict) and "bits" not in given:
        given = {**{name: Z(B, k) for name, k in WIDTHS.items()}, **given}
    with pytest.raises(ValueError, match=re.escape(message)):
        SPEC.pack(given)  # type: ignore[arg-type]


def test_a_normal_with_a_scale_is_refused_where_sigma_is_fixed():
    spec = LatentSpec(0, (Gaussian(name="slant"),))
    with pytest.raises(ValueError, match=r"head 'slant': .*sigma=\"fixed\".*loc"):
        spec.pack([dist.Normal(Z(B, 1), 1)])
