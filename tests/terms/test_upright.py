"""Upright copies: what they keep of an image, what is asked of them, their part in a step."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers.terms import MODES, assert_adds, random_images
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastinfogan import config as config_module
from fastinfogan.config import TrainConfig
from fastinfogan.data import sprites
from fastinfogan.errors import UserError
from fastinfogan.terms.follow import Follow
from fastinfogan.terms.invariance import SHARPNESS, mutual_information
from fastinfogan.terms.protocol import Address, Extra, Seen
from fastinfogan.terms.upright import (
    AREA,
    GROWTH,
    LOGIT_STD,
    NUMBERS,
    SHIFT,
    TURN,
    Upright,
    UprightCopies,
    upright,
)
from fastinfogan.terms.warp import Warp, WarpedCopies
from fastinfogan.training.step import Step, build_terms

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = TrainConfig().with_options(
    image_size=8, batch_size=8, noise=5, codes="uniform,cat3,cat4", upright=2.0, warp="shift=0.1"
)
SPEC = CONFIG.spec()
COPIES = UprightCopies(0.0)
STILL = (0.5, 1.0, 0.5, 1.0, 0.5, 0.5, 0.0)  # not turned, mirrored, moved; softened the least


def drawn(shape: int, scale: int, orientation: int, x: int, y: int) -> Tensor:
    """Return a sprite [1, 1, 64, 64]."""
    image = sprites.render(np.array([[shape, scale, orientation, x, y]]))
    return torch.from_numpy(image).permute(0, 3, 1, 2).double() / 255


def numbers(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def moments(image: Tensor) -> tuple[float, ...]:
    """Return mass in pixels, centre, covariances xx, yy, xy in pixels, of [1, H, W]."""
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


def loss_of(term: Upright, q: Tensor, *copies: Tensor) -> tuple[Tensor, Tensor]:
    """Return the term's loss and its nats, of Q's outputs alone."""
    none: Any = None
    seen = Seen(none, none, q, q, none, q, q, q, copies)
    loss, nats = term.loss(seen)
    assert nats is not None
    return loss, nats


def outputs(seed: int = 0) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(3, 12, 5, generator=draw, dtype=torch.float64).unbind()


def test_the_copies_logits_are_standardised_so_their_scale_and_offset_do_not_count():
    term = Upright(2.0, slice(1, 4), COPIES)
    q, first, second = outputs()
    loss, nats = loss_of(term, q, first, second)
    shift = torch.tensor([5.0, -3.0, 1.0, 0.0, 2.0])
    other, same = loss_of(term, q, 1e-3 * first + shift, 1e-3 * second + shift)
    torch.testing.assert_close(other, loss, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(same, nats, rtol=1e-3, atol=1e-3)
    both = torch.cat((first, second))[:, 1:4]
    z = LOGIT_STD * (both - both.mean(0)) / both.std(0, correction=0)
    one, two = z.softmax(1).chunk(2)
    result = mutual_information(one, two)
    reported = ((one + two) / 2 * (SHARPNESS * q[:, 1:4]).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, -2 * (result.objective + reported))
    torch.testing.assert_close(nats, result.nats)


def test_the_image_is_taught_by_the_copies_and_does_not_teach_them():
    term = Upright(1.0, slice(1, 4), COPIES)
    q, first, second = (x.requires_grad_() for x in outputs())
    loss, _ = loss_of(term, q, first, second)
    alone = torch.autograd.grad(loss, first, retain_graph=True)[0]
    moved, _ = loss_of(term, q + torch.randn_like(q), first, second)
    torch.testing.assert_close(torch.autograd.grad(moved, first)[0], alone)
    of_q = torch.autograd.grad(loss, q)[0]
    assert of_q[:, 1:4].abs().max() > 0
    assert float(of_q[:, [0, 4]].abs().max()) == 0


def test_logits_that_do_not_differ_give_a_finite_gradient():
    term = Upright(1.0, slice(0, 3), COPIES)
    same = torch.zeros(4, 3, requires_grad=True)
    loss, nats = loss_of(term, same, same, same)
    assert torch.autograd.grad(loss, same)[0].isfinite().all()
    assert float(nats.detach()) == pytest.approx(0.0, abs=1e-6)


# In the step


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("follow", [False, True])
def test_upright_adds_its_weight_times_its_gradient_to_ds(mode, follow):
    real, warped, *copies = random_images(4)
    change = torch.rand(8, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    term = Upright(2.0, slice(1, 4), COPIES)
    others = [Follow(3.0, (0,), (2,), WarpedCopies(Warp(), 0.0))] if follow else []
    extras = [Extra((warped,), (change,))] if follow else []
    values = []

    def loss(discriminator) -> Tensor:
        q, *of_copies = (discriminator(x, "batch")[1] for x in (real, *copies))
        total, nats = loss_of(term, q, *of_copies)
        values.append(nats.item())
        return total

    extras = [*extras, Extra(tuple(copies))]
    record = assert_adds(mode, real, [*others, term], extras, loss, without=others)
    assert record.terms["upright"].item() == pytest.approx(values[0])


def test_rows_of_copies_depend_on_their_place_in_the_global_batch_alone():
    real = torch.rand(8, 1, 8, 8)

    def copies(images: Tensor, first: int, step: int | Tensor = 3) -> tuple[Tensor, ...]:
        return COPIES(images, Address(0, step, first)).images

    whole = copies(real, 0)
    assert [x.shape for x in whole] == [(8, 1, 8, 8)] * 2
    assert not torch.equal(*whole)
    for step in (3, torch.tensor(3)):
        half = copies(real[4:], 4, step)
        for ours, both in zip(half, whole, strict=True):
            torch.testing.assert_close(ours, both[4:])


def test_the_first_categorical_code_has_it_and_it_is_off_by_default():
    (term,) = build_terms(CONFIG, SPEC, -1.0)
    assert term == Upright(2.0, slice(1, 4), UprightCopies(-1.0))
    assert build_terms(CONFIG.with_options(upright=0.0), SPEC, 0.0) == ()


@pytest.mark.parametrize(
    ("change", "reported"),
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
def test_options_that_contradict_upright_are_refused(change, reported):
    config_module.check(CONFIG)
    with pytest.raises(UserError, match=reported):
        config_module.check(CONFIG.with_options(**change))


def squares_and_bars(draw: np.random.Generator) -> Tensor:
    """Return bars in any place, two sizes, two directions; every other is a square."""
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
    nats = [float(step(n, squares_and_bars(draw)).d.terms["upright"]) for n in range(100)]
    assert nats[0] < 0.2
    assert sum(nats[-5:]) / 5 > 0.8 * math.log(2)
    real = torch.cat([squares_and_bars(draw) for _ in range(5)])
    with torch.no_grad():
        result = step.networks.discriminator.eval()(real)[1].argmax(1)
    square = torch.arange(48).repeat(5) % 2
    right = float((result == square).float().mean())
    assert max(right, 1 - right) > 0.8


def test_a_dim_shape_in_colour_gives_the_copy_that_a_bright_gray_one_gives():
    gray = drawn(2, 4, 7, 9, 12)
    (expected,) = upright(gray, numbers(STILL))
    (dim,) = upright(0.3 * gray.repeat(1, 3, 1, 1), numbers(STILL))
    torch.testing.assert_close(dim, expected.expand(3, -1, -1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [8, 16, 64])
def test_blurring_leaves_the_inside_of_an_even_image_as_it_is(side):
    from fastinfogan.terms.upright import BLUR, _blur

    even = torch.full((2, 1, side, side), 0.5, dtype=torch.float64)
    sigma = torch.tensor(BLUR, dtype=torch.float64) * side
    inside = _blur(even, sigma)[..., side // 2, side // 2]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.5), atol=1e-3, rtol=0)
