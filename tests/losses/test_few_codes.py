"""The shortest way: which calls take it, and that no one sees a difference."""

from __future__ import annotations

import pytest
import torch

from fastinfogan.latents import Categorical, Gaussian, LatentSpec, Uniform
from fastinfogan.losses import functional, info_loss
from fastinfogan.losses.few_codes import few_codes_loss
from fastinfogan.losses.reference import Inputs, plain_loss

B = 17
SPECS = {
    "category": LatentSpec(3, (Categorical(10, name="digit"),)),
    "value": LatentSpec(3, (Gaussian(dim=3, weight=0.7),)),
    "both": LatentSpec(3, (Categorical(10, weight=2.0), Uniform(dim=2, weight=0.1))),
    "two categories": LatentSpec(3, (Categorical(4), Categorical(200, weight=0.0))),
}
MANY = LatentSpec(3, (Categorical(4), Uniform(), Categorical(5), Gaussian(dim=2)))


def problem(spec, dtype=torch.float32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    q = torch.randn(B, spec.q_dim, generator=draw, dtype=torch.float64)
    batch = spec.sample(B, seed=seed)
    return q.to(dtype).requires_grad_(), batch._replace(continuous=batch.continuous.to(dtype))


def heads_of(q, spec):
    return [q.detach()[:, slot.q].clone().requires_grad_() for slot in spec.slots]


@pytest.mark.parametrize("sigma", [1.0, 0.3])
@pytest.mark.parametrize("name", SPECS)
def test_loss_gradient_and_second_derivative_are_the_definition_s_in_fp64(name, sigma):
    spec = SPECS[name]
    q, batch = problem(spec, torch.float64)
    short = few_codes_loss(q, spec, batch, None, sigma)
    assert short is not None
    total, per_code = short
    inputs = Inputs(q, spec, batch.categorical, batch.continuous, sigma=sigma)
    expected, expected_per_code = plain_loss(inputs)
    torch.testing.assert_close((total, per_code), (expected, expected_per_code))
    assert not per_code.requires_grad
    first, second = (torch.autograd.grad(x, q, create_graph=True)[0] for x in (total, expected))
    torch.testing.assert_close(first, second)
    again, truth = (torch.autograd.grad(g.square().sum(), q)[0] for g in (first, second))
    torch.testing.assert_close(again, truth)


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("spec", [*SPECS.values(), MANY])
def test_heads_that_are_tensors_of_their_own_are_not_joined(spec, as_dict, monkeypatch):
    q, batch = problem(spec)
    heads = heads_of(q, spec)
    expected = info_loss(q, spec, batch)
    (truth,) = torch.autograd.grad(expected.total, q)
    monkeypatch.setattr(functional, "prepare", None)  # the general way cannot be taken
    out = info_loss(dict(zip(spec.names, heads, strict=True)) if as_dict else heads, spec, batch)
    torch.testing.assert_close(tuple(out), tuple(expected))
    torch.testing.assert_close(torch.cat(torch.autograd.grad(out.total, heads), 1), truth)


@pytest.mark.parametrize("stray", [-1, -100, 10, 2**62, -(2**63)])
def test_a_class_that_does_not_exist_is_refused_by_its_code_s_name(stray):
    spec = SPECS["category"]
    q, batch = problem(spec)
    batch.categorical[3, 0] = stray
    with pytest.raises(ValueError, match="digit: expected classes 0 … 9"):
        info_loss(q, spec, batch)
    assert info_loss(q, spec, batch, validate=False).total.isnan()


def test_a_hook_runs_once_and_no_gradient_is_made_without_one():
    spec = SPECS["both"]
    q, batch = problem(spec)
    (truth,) = torch.autograd.grad(info_loss(q, spec, batch).total, q)
    calls = []

    def tenfold(gradient):
        calls.append(1)
        return 10 * gradient

    q.register_hook(tenfold)
    (actual,) = torch.autograd.grad(info_loss(q, spec, batch).total, q, create_graph=True)
    assert len(calls) == 1
    torch.testing.assert_close(actual, 10 * truth)
    with torch.no_grad():
        assert not info_loss(q, spec, batch).total.requires_grad


@pytest.mark.parametrize(
    "changed",
    [
        {"weights": [1.0, 1.0]},
        {"reduction": "sum"},
        {"ignore_index": -1},
        {"mask": torch.ones(B, dtype=torch.bool)},
        {"sigma": 2},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_special_arguments_take_the_general_way(changed, monkeypatch):
    spec = SPECS["both"]
    q, batch = problem(spec)
    monkeypatch.setattr(functional, "few_codes_loss", lambda *_: pytest.fail("taken"))
    if "sigma" in changed:
        monkeypatch.undo()
        assert few_codes_loss(q, spec, batch, None, changed["sigma"]) is None
    assert info_loss(q, spec, batch, **changed).total.isfinite().all()


def test_other_dtypes_shapes_and_tensors_that_want_gradients_are_not_taken():
    spec = SPECS["both"]
    q, (_, c, v) = problem(spec)
    for q_, c_, v_ in (
        (q.bfloat16(), c, v),
        (q[:, :-1], c, v),
        (q, c.int(), v),
        (q, c[:, 0], v),
        (q, c, v.double()),
        (q, c, v.clone().requires_grad_()),
        (q, c, None),
        (q[:0], c[:0], v[:0]),
        ([q[:, :10], q[:, 10:].double()], c, v),
        ([q[:, :10]], c, v),
        ([q], c, v),
        ({"digit": q[:, :10], "other": q[:, 10:]}, c, v),
    ):
        assert few_codes_loss(q_, spec, c_, v_, 1.0) is None


def test_targets_of_codes_that_the_spec_has_not_are_refused():
    spec = SPECS["category"]
    q, batch = problem(spec)
    with pytest.raises(ValueError, match="continuous: expected shape"):
        info_loss(q, spec, batch.categorical, torch.randn(B, 2))
