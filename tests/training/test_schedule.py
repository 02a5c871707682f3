"""Schedules over a run: λ, the adversarial copies' weight, the learning rates."""

import pytest
import torch
from torch import Tensor

from fastinfogan.config import TrainConfig
from fastinfogan.training.schedule import MIN_RATE, Schedule
from fastinfogan.training.step import Active, Step

CONFIG = TrainConfig().with_options(
    image_size=8,
    batch_size=8,
    noise=2,
    codes="uniform,cat3,bernoulli",
    precision="fp32",
)
SPEC = CONFIG.spec()


def test_lambda_rises_from_nothing_to_its_value_in_a_line():
    config = CONFIG.with_options(
        info_weight=2.0, info_start=10, info_ramp=4, codes="cat3,uniform*0.5"
    )
    schedule = Schedule(config, config.spec(), torch.device("cpu"))
    weights = schedule.weights
    reported = []
    for step in (0, 9, 10, 11, 13, 14, 500):
        schedule.set(step)
        reported.append(weights.tolist())
        schedule.set(torch.tensor(step))
        assert weights.tolist() == reported[-1]
    assert reported == [[0, 0], [0, 0], [0.5, 0.25], [1, 0.5], [2, 1], [2, 1], [2, 1]]


@pytest.mark.parametrize(("first", "parts"), [(0.25, (0.25, 0.25, 0.625, 1)), (3, (3, 3, 2, 1))])
def test_lambda_may_begin_at_a_part_or_a_multiple_of_its_value(first, parts):
    config = CONFIG.with_options(info_start=10, info_ramp=2, info_from=first, codes="cat3*2")
    schedule = Schedule(config, config.spec(), torch.device("cpu"))
    for step, part in zip((0, 9, 10, 11), parts, strict=True):
        for n in (step, torch.tensor(step)):
            schedule.set(n)
            assert schedule.weights.tolist() == [2 * part]


def test_learning_rates_fall_in_a_line_and_stay_at_a_hundredth():
    config = CONFIG.with_options(decay_start=100, decay_steps=50)
    schedule = Schedule(config, SPEC, torch.device("cpu"))
    for step, part in ((0, 1), (100, 1), (125, 0.5), (150, MIN_RATE), (9999, MIN_RATE)):
        for n in (step, torch.tensor(step)):
            rate = schedule.rate(0.5, n)
            assert rate is not None
            assert float(rate) == pytest.approx(0.5 * part)
    assert Schedule(CONFIG, SPEC, torch.device("cpu")).rate(0.5, 7) is None


def test_a_player_sets_a_rate_that_is_a_number_or_a_tensor(cpu_ranks):
    step = Step(CONFIG, SPEC, cpu_ranks("no"))
    adam = step.d.optimizer
    for held in (0.5, torch.tensor(0.5)):  # on GPUs a tensor, which a graph reads
        adam.param_groups[0]["lr"] = held
        for rate in (0.25, torch.tensor(0.125)) if isinstance(held, Tensor) else (0.25,):
            step.d.set_rate(rate)
            assert float(adam.param_groups[0]["lr"]) == float(rate)
            assert isinstance(adam.param_groups[0]["lr"], Tensor) == isinstance(held, Tensor)
        step.d.set_rate(None)
        assert float(adam.param_groups[0]["lr"]) == float(rate)


def test_a_step_trains_at_the_schedule_s_rates_and_weights(cpu_ranks):
    config = CONFIG.with_options(info_start=1, decay_start=1, decay_steps=2, real_info=0.0)
    step = Step(config, SPEC, cpu_ranks("no"))
    rates, weights = [], []
    for n in range(4):
        step(n, torch.rand(8, 1, 8, 8))
        rates.append(step.g.optimizer.param_groups[0]["lr"] / config.optimiser.lr_g)
        weights.append(float(step.objective.weights[0]))
    assert rates == pytest.approx([1, 1, 0.5, 0.01])
    assert weights == [0, 1, 1, 1]


def test_the_sets_of_active_terms_are_those_of_the_run(cpu_ranks):
    config = CONFIG.with_options(steps=6, vat=2.0, vat_start=3, vat_stop=5)
    step = Step(config, SPEC, cpu_ranks("no"))
    updates = (0, 2, 3, 4, 5, 900)
    has = [step.active(n).terms == ("vat",) for n in updates]
    assert has == [False, False, True, True, False, False]
    assert step._active_sets() == {Active(()): 0, Active(("vat",)): 3}
    assert Step(config.with_options(steps=3), SPEC, cpu_ranks("no"))._active_sets() == {
        Active(()): 0
    }
