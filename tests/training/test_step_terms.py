"""Updates with loss terms, balanced codes and other adversarial objectives."""

import math
from typing import Any, get_args

import pytest
import torch
from helpers.small_pair import CONFIG, SPEC, Work, batch, differing, everything

from fastinfogan.config import Adversarial
from fastinfogan.terms.contrastive import n_factors
from fastinfogan.terms.penalty import gradient_penalty
from fastinfogan.training.step import Step

pytestmark = pytest.mark.usefixtures("one_thread")

MODES = ("alternating", "shared")
OPTIONS: tuple[dict[str, Any], ...] = (
    *({"objective": name} for name in get_args(Adversarial)),
    {"label_smoothing": 0.1},
    {"r1": 10.0},
    {"r2": 10.0},
    {"contrastive": 1.0},
    {"balance_codes": 0.9},
)
TOGETHER: dict[str, Any] = {
    "objective": "relativistic",
    "r1": 1.0,
    "r2": 1.0,
    "contrastive": 1.0,
    "balance_codes": 0.9,
}


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_updates_in_bf16_stay_finite_and_differ_by_the_option(cpu_ranks, mode, option):
    ranks = cpu_ranks("bf16")
    plain = Step(CONFIG.with_options(step=mode), SPEC, ranks)
    other = Step(CONFIG.with_options(step=mode, **option), SPEC, ranks)
    for n in range(3):
        plain(n, batch(n)), other(n, batch(n))
    assert all(t.isfinite().all() for t in other._state())
    weights = [
        torch.equal(a.value, b.value)
        for a, b in zip((plain.d.flat, plain.ema.flat), (other.d.flat, other.ema.flat), strict=True)
    ]
    assert any(weights) == (option == {"objective": "nonsaturating"})


@pytest.mark.parametrize("mode", MODES)
def test_each_term_logs_its_value_under_its_own_name(cpu_ranks, mode):
    step = Step(CONFIG.with_options(step=mode, r1=3.0, contrastive=2.0), SPEC, cpu_ranks("no"))
    penalty = 1.5 * gradient_penalty(step.working.discriminator, batch(0)).detach()
    d, g = step(0, batch(0))
    assert (d.terms.keys(), g.terms.keys()) == ({"penalty"}, {"contrastive"})
    torch.testing.assert_close(d.terms["penalty"], penalty)
    assert 0 < float(g.terms["contrastive"]) < 2 * math.log(n_factors(SPEC))
    d, g = Step(CONFIG.with_options(step=mode), SPEC, cpu_ranks("no"))(0, batch(0))
    assert d.terms == g.terms == {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize(
    "options", [TOGETHER, {"label_smoothing": 0.1}, {"objective": "wgan"}], ids=str
)
def test_nothing_is_read_back_to_the_host(cpu_ranks, no_host_read, mode, precision, options):
    step = Step(CONFIG.with_options(step=mode, **options), SPEC, cpu_ranks(precision))
    step(0, batch(0))
    with no_host_read():
        step(1, batch(1))


@pytest.mark.parametrize("mode", MODES)
def test_with_all_of_them_an_update_is_the_same_after_all_was_written_into_another(cpu_ranks, mode):
    config, ranks = CONFIG.with_options(step=mode, **TOGETHER), cpu_ranks("bf16")
    first, second = (Step(config.with_options(seed=s), SPEC, ranks) for s in (0, 1))
    first(0, batch(0)), second(0, batch(1))
    for name, module in second.modules().items():
        module.load_state_dict(first.modules()[name].state_dict())
    for name, tensor in second.optimizer_tensors().items():
        tensor.copy_(first.optimizer_tensors()[name])
    second.refresh()
    second.config = first.config  # the seed, for the latents
    first(1, batch(2)), second(1, batch(2))
    assert not differing(everything(first), everything(second))


@pytest.mark.parametrize("mode", MODES)
def test_the_updates_number_may_be_a_tensor(cpu_ranks, mode):
    config = CONFIG.with_options(step=mode, contrastive=1.0, balance_codes=0.9)
    one, other = (Step(config, SPEC, cpu_ranks("bf16")) for _ in range(2))
    for n in range(3):
        one(n, batch(n)), other._update(torch.tensor(n), batch(n), other.active(n))
    assert all(torch.equal(a, b) for a, b in zip(one._state(), other._state(), strict=True))


def test_off_they_cost_nothing(cpu_ranks):
    """The convolutions, and their gradients, are as many as D's and G's own."""
    step = Step(CONFIG, SPEC, cpu_ranks("bf16"))
    with Work() as work:
        step(0, batch(0))
    assert work.convolutions == 4 + 5
    assert step.terms == ()
    assert step.balance is None
