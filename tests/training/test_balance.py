"""Codes balanced by the norms of their gradients."""

import pytest
import torch
import torch.nn.functional as F
from helpers.small_pair import CONFIG, SPEC

from fastinfogan.latents import LatentSpec, parse_codes
from fastinfogan.training.balance import MAX_FACTOR, Balance
from fastinfogan.training.schedule import Schedule

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_codes_pull_is_the_norm_of_its_gradient_at_qs_output():
    spec = LatentSpec(2, parse_codes("cat3,uniform2"))
    c = spec.sample(16, seed=0)
    q = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    balance = Balance(spec, 0.75)
    assert balance.factors().tolist() == [1, 1]
    balance.follow(q, c)
    of_class = (q[:, :3].softmax(1) - F.one_hot(c.categorical[:, 0], 3)) / 16
    of_value = (q[:, 3:] - c.continuous) / 16  # σ is 1
    pulls = torch.stack((of_class.norm(), of_value.norm()))
    torch.testing.assert_close(balance.pulls, 0.25 * pulls)
    torch.testing.assert_close(balance.factors(), pulls.mean() / pulls)
    torch.testing.assert_close(balance.factors() * pulls, pulls.mean().expand(2))


def test_no_code_gains_or_loses_more_than_the_most_there_is():
    balance = Balance(SPEC, 0.9)
    balance.pulls.copy_(torch.tensor([0.0, 1e-6, 1.0, 1e6]))
    assert balance.factors().tolist() == pytest.approx(
        [MAX_FACTOR, MAX_FACTOR, MAX_FACTOR, 1 / MAX_FACTOR * 2.5]
    )


@pytest.mark.parametrize("ramp", [0, 4])
def test_balancing_multiplies_the_weights_of_the_schedule_afresh_each_update(ramp):
    config = CONFIG.with_options(info_ramp=ramp)
    schedule = Schedule(config, SPEC, torch.device("cpu"))
    factors = torch.tensor([1.0, 2.0, 4.0, 0.5])
    for step in (0, 1, 9):
        schedule.set(step, factors)
        part = min((step + 1) / ramp, 1) if ramp else 1
        assert schedule.weights.tolist() == [0.5 * part, 4 * part, 6 * part, 0.5 * part]
