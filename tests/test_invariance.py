"""The information on real images: its value, its gradient, its warps, its part in a step."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score
from torch import Tensor

from fastinfogan import config as config_module
from fastinfogan.config import TrainConfig
from fastinfogan.errors import UserError
from fastinfogan.gradients import d_grads, shared_grads
from fastinfogan.invariance import Warp, mutual_information, parse_warp
from fastinfogan.philox import Stream
from fastinfogan.schedule import LEAST_RATE, Schedule
from fastinfogan.step import Objective, Step, build, first_categorical

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = TrainConfig(
    image_size=8,
    batch_size=8,
    noise=5,
    codes="uniform,cat3,cat4",
    real_info=2.0,
)
SPEC = CONFIG.spec()


def predictions(k: int, rows: int, seed: int, dtype=torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(rows, k, generator=draw, dtype=dtype)).softmax(1)


@given(k=st.integers(2, 12), rows=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_sure_predictions_give_the_mutual_information_of_their_classes(k, rows, seed):
    draw = torch.Generator().manual_seed(seed)
    first = torch.randint(k, (rows,), generator=draw)
    # Both ways round, so that the joint table is symmetric as it is.
    a, b = torch.cat((first, first.roll(1))), torch.cat((first.roll(1), first))
    one_hot = torch.eye(k, dtype=torch.float64)
    found = mutual_information(one_hot[a], one_hot[b], balance=1.0)
    truth = mutual_info_score(a.numpy(), b.numpy())
    assert float(found.nats) == pytest.approx(truth, abs=1e-5)
    assert float(found.objective) == pytest.approx(truth, abs=1e-5)


def test_the_most_there_is_is_log_k_and_independent_predictions_give_nothing():
    one_hot = torch.eye(10, dtype=torch.float64).repeat(7, 1)
    assert float(mutual_information(one_hot, one_hot).nats) == pytest.approx(math.log(10), abs=1e-5)
    even = torch.full((70, 10), 0.1, dtype=torch.float64)
    assert float(mutual_information(even, one_hot).nats) == pytest.approx(0.0, abs=1e-9)


def test_which_copy_is_the_warped_one_makes_no_difference():
    a, b = predictions(5, 30, 0), predictions(5, 30, 1)
    assert mutual_information(a, b) == mutual_information(b, a)


def test_balance_weighs_the_entropy_of_the_categories():
    a, b = predictions(5, 30, 0), predictions(5, 30, 1)
    joint = (a.T @ b + b.T @ a) / 60
    entropy = -(joint.sum(0) * joint.sum(0).log()).sum()
    of_one, of_three = (mutual_information(a, b, balance=w) for w in (1.0, 3.0))
    assert of_one.nats == of_three.nats == of_one.objective
    assert float(of_three.objective - of_one.objective) == pytest.approx(4 * float(entropy))


def test_its_gradient_is_right_and_finite_where_a_category_is_never_used():
    a, b = predictions(4, 6, 0).requires_grad_(), predictions(4, 6, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mutual_information(a, b).objective, (a, b))
    logits = torch.tensor([[0.0, 0.0, -1e4]] * 5, requires_grad=True)
    found = mutual_information(logits.softmax(1), logits.softmax(1)).objective
    assert torch.autograd.grad(found, logits)[0].isfinite().all()


# Warps


def spot(side: int = 9, row: int = 2, column: int = 4) -> Tensor:
    image = torch.zeros(1, 1, side, side)
    image[0, 0, row, column] = 1
    return image


def test_no_warp_leaves_images_as_they_are():
    images = torch.rand(3, 2, 8, 8)
    torch.testing.assert_close(Warp()(images, seed=0, step=0), images, atol=1e-6, rtol=1e-5)


def test_a_flip_mirrors_left_and_right():
    images = torch.rand(4, 1, 8, 8)
    flipped = Warp(flip=1.0)(images, seed=3, step=1)
    torch.testing.assert_close(flipped, images.flip(3), atol=1e-5, rtol=1e-5)
    some = Warp(flip=0.5)(images[:1].expand(400, 1, 8, 8), seed=3, step=1)
    share = float((some[:, 0] - images[0, 0]).abs().amax((1, 2)).gt(1e-4).float().mean())
    assert 0.4 < share < 0.6


def test_each_warp_reaches_as_far_as_it_says_and_no_further():
    rows, side = 4000, 33
    image = torch.zeros(1, 1, side, side)
    image[0, 0, 6:9, 16] = 1  # above the middle
    y, x = torch.meshgrid(*[torch.arange(side) - 16.0] * 2, indexing="ij")

    def centre(warp: Warp) -> tuple[Tensor, Tensor]:
        out = warp(image.expand(rows, 1, side, side), seed=0, step=0)[:, 0]
        mass = out.sum((1, 2))
        return (out * y).sum((1, 2)) / mass, (out * x).sum((1, 2)) / mass

    row, column = centre(Warp(shift=0.1))
    assert column.abs().max() == pytest.approx(0.1 * side, rel=0.05)
    row, column = centre(Warp(rotate=20))
    angle = torch.rad2deg(torch.atan2(column.abs(), -row))
    assert angle.max() == pytest.approx(20, rel=0.05)
    row, column = centre(Warp(shear=0.3))
    assert column.abs().max() == pytest.approx(0.3 * 9, rel=0.07)
    assert row.sub(-9).abs().max() < 0.3
    row, _ = centre(Warp(scale=0.2))
    assert row.min() == pytest.approx(-9 / 0.8, rel=0.05)
    assert row.max() == pytest.approx(-9 / 1.2, rel=0.05)


def test_a_row_s_warp_depends_on_its_place_in_the_global_batch_alone():
    images = torch.rand(8, 1, 8, 8)
    warp = parse_warp(CONFIG.warp)
    whole = warp(images, seed=5, step=7)
    halves = [warp(images[i : i + 4], seed=5, step=7, first_row=i) for i in (0, 4)]
    assert torch.equal(torch.cat(halves), whole)
    assert torch.equal(warp(images, seed=5, step=torch.tensor(7)), whole)
    assert not torch.equal(warp(images, seed=5, step=8), whole)
    assert not torch.equal(warp(images, seed=6, step=7), whole)


def test_what_comes_in_from_outside_is_the_background():
    images = torch.full((16, 1, 8, 8), -1.0)
    out = Warp(rotate=45, shift=0.3)(images, seed=0, step=0, background=-1.0)
    torch.testing.assert_close(out, images)


def test_no_other_draw_shares_the_warps_random_numbers():
    assert len(set(Stream)) == len(Stream.__members__) == len({int(s) for s in Stream})


@given(
    rotate=st.floats(0, 180),
    scale=st.floats(0, 0.9),
    shear=st.floats(0, 2),
    shift=st.floats(0, 1),
    flip=st.floats(0, 1),
)
def test_a_warp_reads_back_what_its_text_says(rotate, scale, shear, shift, flip):
    warp = Warp(rotate, scale, shear, shift, flip)
    text = f"rotate={rotate!r}, scale={scale!r},shear={shear!r},shift={shift!r},flip={flip!r}"
    assert parse_warp(text) == warp


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("twist=3", "twist"),
        ("rotate", "rotate: expected a number"),
        ("rotate=x", "got 'x'"),
        ("rotate=nan", "expected 0 to 180"),
        ("scale=1", "expected 0 to 1"),
        ("flip=1.5", "expected 0 to 1"),
        ("shift=-.1", "expected 0 to 1"),
        ("rotate=1,rotate=2", "once"),
    ],
)
def test_a_bad_warp_is_told_in_one_line(text, told):
    with pytest.raises(UserError, match=r"^--warp: ") as caught:
        config_module.check(replace(CONFIG, warp=text))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_it_is_refused_without_a_category_or_where_q_would_not_learn_it():
    with pytest.raises(UserError, match="categorical"):
        config_module.check(replace(CONFIG, codes="uniform"))
    with pytest.raises(UserError, match="routing"):
        config_module.check(replace(CONFIG, routing="generator-step"))


# In the step


def of_step(real_weight: float, mode: str, columns: slice | None):
    networks = build(CONFIG, SPEC)
    for network in networks:
        network.double()
        draw = torch.Generator().manual_seed(1)
        for p in network.parameters():
            torch.nn.init.normal_(p, 0.1, 0.1, generator=draw)
    goal = Objective(
        SPEC, torch.zeros(3, dtype=torch.float64), "openai", "auto", real_weight, columns
    )
    d_params, g_params = networks.split("openai")
    draw = torch.Generator().manual_seed(2)
    real, warped = torch.rand(2, 8, 1, 8, 8, generator=draw, dtype=torch.float64).unbind()
    latents = SPEC.sample(8, seed=0)
    latents = latents._replace(input=latents.input.double(), continuous=latents.continuous.double())
    if mode == "shared":
        grads, terms, *_ = shared_grads(
            networks, goal, d_params, g_params, real, latents, warped=warped
        )
    else:
        grads, terms = d_grads(
            networks, goal, d_params, real, latents, warped=warped, together=mode == "together"
        )
    return networks.discriminator, (real, warped), grads, terms


@pytest.mark.parametrize("mode", ["together", "apart", "shared"])
def test_it_adds_its_weight_times_its_gradient_to_d_s(mode):
    columns = first_categorical(SPEC)
    assert columns == slice(1, 4)
    discriminator, (real, warped), grads, terms = of_step(2.0, mode, columns)
    _, _, without, _ = of_step(0.0, mode, columns)
    qs = [discriminator(x, "batch")[1][:, 1:4] for x in (real, warped)]
    found = mutual_information(*((10 * q).softmax(1) for q in qs))
    assert float(terms.real_information) == pytest.approx(found.nats.item())
    truth = torch.autograd.grad(
        -2 * found.objective, list(discriminator.parameters()), allow_unused=True
    )
    expected = [0 if t is None else t for t in truth]
    # split() puts Q's parameters last, as the discriminator does
    for got, base, extra in zip(grads, without, expected, strict=True):
        torch.testing.assert_close(got - base, torch.zeros_like(base) + extra, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("mode", ["alternating", "shared"])
def test_a_step_with_it_raises_the_information_on_real_images(cpu_ranks, mode):
    config = replace(CONFIG, step=mode, lr_d=3e-3)
    step = Step(config, SPEC, cpu_ranks("no"))
    real = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    told = [float(step(n, real)[0].real_information) for n in range(40)]
    assert sum(told[-5:]) / 5 > sum(told[:5]) / 5 + 0.3


def test_without_it_no_image_is_warped(cpu_ranks, monkeypatch):
    monkeypatch.setattr(Warp, "__call__", lambda *_, **__: pytest.fail("an image was warped"))
    step = Step(replace(CONFIG, real_info=0.0), SPEC, cpu_ranks("no"))
    assert float(step(0, torch.rand(8, 1, 8, 8))[0].real_information) == 0


# What changes over a run


def test_lambda_rises_from_nothing_to_its_value_in_a_line():
    config = replace(CONFIG, info_weight=2.0, info_start=10, info_ramp=4, codes="cat3,uniform*0.5")
    schedule = Schedule(config, config.spec(), torch.device("cpu"))
    weights = schedule.weights
    told = []
    for step in (0, 9, 10, 11, 13, 14, 500):
        schedule.set(step)
        told.append(weights.tolist())
        schedule.set(torch.tensor(step))
        assert weights.tolist() == told[-1]
    assert told == [[0, 0], [0, 0], [0.5, 0.25], [1, 0.5], [2, 1], [2, 1], [2, 1]]


def test_learning_rates_fall_in_a_line_and_stay_at_a_hundredth():
    config = replace(CONFIG, decay_start=100, decay_steps=50)
    schedule = Schedule(config, SPEC, torch.device("cpu"))
    p = torch.nn.Parameter(torch.zeros(1))
    for lr in (0.5, torch.tensor(0.5)):
        adam = torch.optim.Adam([p], lr=lr, capturable=False, foreach=False)
        for step, part in ((0, 1), (100, 1), (125, 0.5), (150, LEAST_RATE), (9999, LEAST_RATE)):
            for n in (step, torch.tensor(step)) if isinstance(lr, Tensor) else (step,):
                schedule.set_rate(adam, n)
                assert float(adam.param_groups[0]["lr"]) == pytest.approx(0.5 * part)


def test_a_step_trains_at_the_schedule_s_rates_and_weights(cpu_ranks):
    config = replace(CONFIG, info_start=1, decay_start=1, decay_steps=2, real_info=0.0)
    step = Step(config, SPEC, cpu_ranks("no"))
    rates, weights = [], []
    for n in range(4):
        step(n, torch.rand(8, 1, 8, 8))
        rates.append(step.g_optimizer.param_groups[0]["lr"] / config.lr_g)
        weights.append(float(step.objective.weights[0]))
    assert rates == pytest.approx([1, 1, 0.5, 0.01])
    assert weights == [0, 1, 1, 1]
