"""Upright copies: what they keep of an image, what is asked of them, their part in a step."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastinfogan import config as config_module
from fastinfogan.config import TrainConfig
from fastinfogan.data import sprites
from fastinfogan.errors import UserError
from fastinfogan.terms.copies import real_terms
from fastinfogan.terms.invariance import SHARPNESS, SPREAD, RealTerms, mutual_information
from fastinfogan.terms.upright import AREA, GROWTH, NUMBERS, SHIFT, TURN, upright
from fastinfogan.terms.warp import Warped
from fastinfogan.training.gradients import Objective, d_grads, shared_grads
from fastinfogan.training.step import Step, build

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = TrainConfig().with_options(
    image_size=8, batch_size=8, noise=5, codes="uniform,cat3,cat4", upright=2.0, warp="shift=0.1"
)
SPEC = CONFIG.spec()
STILL = (0.5, 1.0, 0.5, 1.0, 0.5, 0.5, 0.0)  # not turned, mirrored, moved; softened the least


def drawn(shape: int, scale: int, orientation: int, x: int, y: int) -> Tensor:
    """A sprite [1, 1, 64, 64]."""
    image = sprites.render(np.array([[shape, scale, orientation, x, y]]))
    return torch.from_numpy(image).permute(0, 3, 1, 2).double() / 255


def numbers(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def moments(image: Tensor) -> tuple[float, ...]:
    """Mass in pixels, centre, covariances xx, yy, xy in pixels, of [1, H, W]."""
    (image,) = image
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 - n / 2 for n in image.shape), indexing="ij")
    mass = image.sum()
    cx, cy = (image * x).sum() / mass, (image * y).sum() / mass
    dx, dy = x - cx, y - cy
    second = [float((image * a).sum() / mass) for a in (dx * dx, dy * dy, dx * dy)]
    return float(mass), float(cx), float(cy), *second


@settings(max_examples=30, deadline=None)
@given(
    orientation=st.integers(0, 39),
    scale=st.integers(0, 5),
    x=st.integers(0, 31),
    y=st.integers(0, 31),
)
def test_an_ellipse_of_any_place_size_and_direction_gives_one_copy(orientation, scale, x, y):
    (copy,) = upright(drawn(1, scale, orientation, x, y), numbers(STILL))
    mass, cx, cy, xx, yy, xy = moments(copy)
    assert mass == pytest.approx(AREA * 64**2, rel=0.1)  # softened, then made sharp at the half
    assert abs(cx) < 0.5
    assert abs(cy) < 0.5
    assert xx / yy == pytest.approx((11.25 / 7.2) ** 2, rel=0.25)
    assert abs(xy) < 0.1 * xx


def test_chance_turns_it_half_round_mirrors_moves_and_enlarges_it():
    heart = drawn(2, 5, 3, 10, 20)
    still, round_, mirrored = upright(
        heart.repeat(3, 1, 1, 1), numbers(STILL, (0.5, 0, *STILL[2:]), (*STILL[:3], 0, *STILL[4:]))
    )
    torch.testing.assert_close(round_, still.flip(1, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(mirrored, still.flip(1), atol=1e-5, rtol=0)
    ellipse = drawn(1, 5, 3, 10, 20)
    few = ((0.5, 1, 1, 1, 0.5, 0.5, 0), (0.5, 1, 0.5, 1, 1, 0, 0), (1, *STILL[1:]))
    base, turned, moved, larger = (
        moments(copy) for copy in upright(ellipse.repeat(4, 1, 1, 1), numbers(STILL, *few))
    )
    angle = math.atan2(2 * turned[5], turned[3] - turned[4]) / 2
    assert abs(angle) == pytest.approx(TURN, rel=0.1)
    assert (moved[1] - base[1], moved[2] - base[2]) == pytest.approx(
        (SHIFT * 64, -SHIFT * 64), abs=0.3
    )
    assert larger[0] / base[0] == pytest.approx(math.exp(GROWTH), rel=0.05)


@given(seed=st.integers(0, 2**32), side=st.sampled_from([8, 9, 16]))
def test_any_image_gives_one_in_its_range_and_dtype_an_empty_one_too(seed, side):
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 2, side, side, generator=draw)
    images[0] = 0
    u = torch.rand(3, NUMBERS, generator=draw)
    for dtype in (torch.float32, torch.bfloat16):
        copies = upright(images.to(dtype), u)
        assert copies.dtype == dtype
        assert copies.shape == images.shape
        assert copies.isfinite().all()
        assert copies.min() >= 0
        assert copies.max() <= 1
    assert copies[0].max() == 0


# What is asked of them


def outputs(seed: int = 0) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(3, 12, 5, generator=draw, dtype=torch.float64).unbind()


def test_the_copies_logits_are_standardised_so_their_scale_and_offset_do_not_count():
    terms = RealTerms(categories=slice(1, 4), upright=2.0)
    q, first, second = outputs()
    loss, nats = terms.of_upright(q, first, second)
    shift = torch.tensor([5.0, -3.0, 1.0, 0.0, 2.0])
    other, same = terms.of_upright(q, 1e-3 * first + shift, 1e-3 * second + shift)
    torch.testing.assert_close(other, loss, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(same, nats, rtol=1e-3, atol=1e-3)
    both = torch.cat((first, second))[:, 1:4]
    z = SPREAD * (both - both.mean(0)) / both.std(0, correction=0)
    one, two = z.softmax(1).chunk(2)
    found = mutual_information(one, two)
    told = ((one + two) / 2 * (SHARPNESS * q[:, 1:4]).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, -2 * (found.objective + told))
    torch.testing.assert_close(nats, found.nats)


def test_the_image_is_taught_by_the_copies_and_does_not_teach_them():
    terms = RealTerms(categories=slice(1, 4), upright=1.0)
    q, first, second = (x.requires_grad_() for x in outputs())
    loss, _ = terms.of_upright(q, first, second)
    alone = torch.autograd.grad(loss, first, retain_graph=True)[0]
    moved, _ = terms.of_upright(q + torch.randn_like(q), first, second)
    torch.testing.assert_close(torch.autograd.grad(moved, first)[0], alone)
    of_q = torch.autograd.grad(loss, q)[0]
    assert of_q[:, 1:4].abs().max() > 0
    assert float(of_q[:, [0, 4]].abs().max()) == 0


def test_logits_that_do_not_differ_give_a_finite_gradient():
    terms = RealTerms(categories=slice(0, 3), upright=1.0)
    same = torch.zeros(4, 3, requires_grad=True)
    loss, nats = terms.of_upright(same, same, same)
    assert torch.autograd.grad(loss, same)[0].isfinite().all()
    assert float(nats) == pytest.approx(0.0, abs=1e-6)


# In the step


@pytest.mark.parametrize("mode", ["together", "apart", "shared"])
@pytest.mark.parametrize("follow", [False, True])
def test_it_adds_its_weight_times_its_gradient_to_d_s(mode, follow):
    networks = build(CONFIG, SPEC)
    draw = torch.Generator().manual_seed(1)
    for network in networks:
        network.double()
        for p in network.parameters():
            torch.nn.init.normal_(p, 0.1, 0.1, generator=draw)
    real, warped, *copies = torch.rand(4, 8, 1, 8, 8, generator=draw, dtype=torch.float64).unbind()
    change = torch.rand(8, 6, generator=draw, dtype=torch.float64)
    latents = SPEC.sample(8, seed=0)
    latents = latents._replace(input=latents.input.double(), continuous=latents.continuous.double())
    d_params, g_params = networks.split("openai")
    terms = RealTerms(categories=slice(1, 4), upright=2.0)
    if follow:
        terms = replace(terms, follow=3.0, followers=(0,), changes=(2,))
    goal = Objective(SPEC, torch.zeros(3, dtype=torch.float64), "openai", "auto", terms)

    def found(upright: Tensor | None):
        what = (networks, goal, d_params)
        moved = Warped(warped, change) if follow else None
        if mode == "shared":
            both = shared_grads(*what, g_params, real, latents, warped=moved, upright=upright)
            return both[:2]
        together = mode == "together"
        return d_grads(*what, real, latents, warped=moved, upright=upright, together=together)

    (grads, told), (without, _) = found(torch.cat(copies)), found(None)
    on = [networks.discriminator(x, "batch")[1] for x in (real, *copies)]
    loss, nats = terms.of_upright(on[0], on[1], on[2])
    assert told.real_information.item() == pytest.approx(nats.item())
    wanted = list(networks.discriminator.parameters())
    truth = torch.autograd.grad(loss, wanted, allow_unused=True)
    for got, base, t in zip(grads, without, truth, strict=True):
        extra = torch.zeros_like(base) if t is None else t
        torch.testing.assert_close(got - base, extra, atol=1e-9, rtol=1e-7)


def test_rows_of_copies_depend_on_their_place_in_the_global_batch_alone(cpu_ranks):
    step = Step(CONFIG, SPEC, cpu_ranks("no"))
    real = torch.rand(8, 1, 8, 8)

    def copies(of: Tensor, at: int | Tensor = 3) -> Tensor:
        found = step._copies(at, of, False)[2]
        assert found is not None
        return found

    whole = copies(real)
    assert whole.shape == (16, 1, 8, 8)
    assert not torch.equal(*whole.chunk(2))
    step.ranks.rank = 1
    for at in (3, torch.tensor(3)):
        half = copies(real[4:], at)
        torch.testing.assert_close(half, torch.cat((whole[4:8], whole[12:])))


def test_it_is_asked_of_the_first_categorical_code_and_off_by_default(cpu_ranks):
    assert real_terms(CONFIG, SPEC) == RealTerms(categories=slice(1, 4), upright=2.0)
    step = Step(CONFIG.with_options(upright=0.0), SPEC, cpu_ranks("no"))
    assert step._copies(0, torch.rand(8, 1, 8, 8), False) == (None, None, None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"codes": "uniform"}, "^--upright.weight: needs a categorical code"),
        (
            {"real_info": 1.5},
            "^--upright.weight: .*--invariance.weight, which is 1.5 here; add ",
        ),
        ({"routing": "generator-step"}, "^--upright.weight: Q must learn in D's step"),
        ({"upright": -1.0}, "^--upright.weight: expected a number ≥ 0, got -1"),
    ],
)
def test_what_it_cannot_go_with_is_refused(change, told):
    config_module.check(CONFIG)
    with pytest.raises(UserError, match=told):
        config_module.check(CONFIG.with_options(**change))


def squares_and_bars(draw: np.random.Generator) -> Tensor:
    """Of any place, two sizes and two directions; every other one is a square. [48, 1, 16, 16]."""
    images = torch.zeros(48, 1, 16, 16)
    for i, image in enumerate(images):
        size = int(draw.integers(1, 3))
        tall, wide = (2 * size, 2 * size) if i % 2 else (size, 4 * size)
        if draw.random() < 0.5:
            tall, wide = wide, tall
        top, left = draw.integers(0, 17 - tall), draw.integers(0, 17 - wide)
        image[:, top : top + tall, left : left + wide] = 1
    return images


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["alternating", "shared"])
def test_steps_with_it_sort_by_what_is_no_place_size_or_direction(cpu_ranks, mode):
    sizes = CONFIG.with_options(codes="cat2", image_size=16, batch_size=48)
    config = sizes.with_options(step=mode, lr_d=2e-3, upright=3.0)
    step = Step(config, config.spec(), cpu_ranks("no"))
    draw = np.random.default_rng(0)
    told = [float(step(n, squares_and_bars(draw))[0].real_information) for n in range(100)]
    assert told[0] < 0.2
    assert sum(told[-5:]) / 5 > 0.8 * math.log(2)
    real = torch.cat([squares_and_bars(draw) for _ in range(5)])
    with torch.no_grad():
        found = step.networks.discriminator.eval()(real)[1].argmax(1)
    square = torch.arange(48).repeat(5) % 2
    right = float((found == square).float().mean())
    assert max(right, 1 - right) > 0.8


def test_a_dim_shape_in_colour_gives_the_copy_that_a_bright_gray_one_gives():
    gray = drawn(2, 4, 7, 9, 12)
    (expected,) = upright(gray, numbers(STILL))
    (dim,) = upright(0.3 * gray.repeat(1, 3, 1, 1), numbers(STILL))
    torch.testing.assert_close(dim, expected.expand(3, -1, -1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [8, 16, 64])
def test_blurring_leaves_the_inside_of_an_even_image_as_it_is(side):
    from fastinfogan.terms.upright import BLUR, _blurred

    even = torch.full((2, 1, side, side), 0.5, dtype=torch.float64)
    sigma = torch.tensor(BLUR, dtype=torch.float64) * side
    inside = _blurred(even, sigma)[..., side // 2, side // 2]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.5), atol=1e-3, rtol=0)
