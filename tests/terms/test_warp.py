"""Warps: what they do to images, and what they report of it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastinfogan import config as config_module
from fastinfogan.config import TrainConfig
from fastinfogan.errors import UserError
from fastinfogan.evaluation.digit_factors import slant
from fastinfogan.philox import Stream
from fastinfogan.terms.pixels import centre
from fastinfogan.terms.warp import NOD_HEIGHT, NOD_RADIUS, Warp, parse_warp

pytestmark = pytest.mark.usefixtures("one_thread")


def spot(side: int = 9, row: int = 2, column: int = 4) -> Tensor:
    image = torch.zeros(1, 1, side, side)
    image[0, 0, row, column] = 1
    return image


def test_no_warp_leaves_images_as_they_are():
    images = torch.rand(3, 2, 8, 8)
    torch.testing.assert_close(Warp()(images, seed=0, step=0).images, images, atol=1e-6, rtol=1e-5)


def test_a_flip_mirrors_left_and_right():
    images = torch.rand(4, 1, 8, 8)
    flipped = Warp(flip=1.0)(images, seed=3, step=1).images
    torch.testing.assert_close(flipped, images.flip(3), atol=1e-5, rtol=1e-5)
    some = Warp(flip=0.5)(images[:1].expand(400, 1, 8, 8), seed=3, step=1).images
    share = float((some[:, 0] - images[0, 0]).abs().amax((1, 2)).gt(1e-4).float().mean())
    assert 0.4 < share < 0.6


def test_each_warp_reaches_as_far_as_it_says_and_no_further():
    rows, side = 4000, 33
    image = torch.zeros(1, 1, side, side)
    image[0, 0, 6:9, 16] = image[0, 0, 24:27, 16] = 1  # above the middle and below
    y, x = torch.meshgrid(*[torch.arange(side) - 16.0] * 2, indexing="ij")

    def centre(warp: Warp) -> tuple[Tensor, Tensor]:
        """Return the centre of the upper spot."""
        out = warp(image.expand(rows, 1, side, side), seed=0, step=0).images[:, 0, :16]
        mass = out.sum((1, 2))
        return (out * y[:16]).sum((1, 2)) / mass, (out * x[:16]).sum((1, 2)) / mass

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
    row, column = centre(Warp(zoom=0.25))
    assert row.min() == pytest.approx(-9 * 1.25, rel=0.05)
    assert row.max() == pytest.approx(-9 / 1.25, rel=0.05)
    assert column.abs().max() < 0.1


def test_a_row_s_warp_depends_on_its_place_in_the_global_batch_alone():
    images = torch.rand(8, 1, 8, 8)
    warp = TrainConfig().invariance.warp
    whole = warp(images, seed=5, step=7).images
    halves = [warp(images[i : i + 4], seed=5, step=7, first_row=i).images for i in (0, 4)]
    assert torch.equal(torch.cat(halves), whole)
    assert torch.equal(warp(images, seed=5, step=torch.tensor(7)).images, whole)
    assert not torch.equal(warp(images, seed=5, step=8).images, whole)
    assert not torch.equal(warp(images, seed=6, step=7).images, whole)


def stroke(side: int = 28, slant: float = 0.0) -> Tensor:
    """Return a bar three pixels wide, as high as a digit."""
    y, x = torch.meshgrid(*[torch.arange(float(side)) - (side - 1) / 2] * 2, indexing="ij")
    away = (x + slant * y).abs()
    return ((2 - away).clamp(0, 1) * (y.abs() < side / 3))[None, None]


def test_the_reported_change_of_slant_is_the_measured_one():
    for warp in (Warp(shear=0.3), Warp(rotate=15), Warp(rotate=15, shear=0.3)):
        copies = warp(stroke().expand(300, 1, 28, 28), seed=0, step=0)
        measured = torch.from_numpy(slant(copies.images[:, 0].numpy()))
        assert torch.corrcoef(torch.stack((measured, copies.change[:, 0])))[0, 1].abs() > 0.99
        assert copies.change[:, 0].abs().max() <= 1


def test_the_reported_change_of_thickness_is_the_measured_one():
    copies = Warp(thickness=1.0)(stroke().expand(300, 1, 28, 28), seed=0, step=0)
    area = copies.images.sum((1, 2, 3))
    assert torch.corrcoef(torch.stack((area, copies.change[:, 1])))[0, 1] > 0.99
    # 3 pixels by 18: nearly 1 by 16 at the thinnest, 5 by 20 at the widest
    assert area.min() == pytest.approx(1 * 16, abs=2)
    assert area.max() == pytest.approx(5 * 20, abs=2)
    assert copies.change[:, 0].abs().max() == 0


def centres(images: Tensor) -> Tensor:
    """Return (x, y) [N, 2] in parts of the side, from the middle."""
    side = images.shape[-1]
    at = (torch.arange(side) + 0.5) / side - 0.5
    mass = images.sum((1, 2, 3))
    return torch.stack([(images.sum((1, dim)) * at).sum(1) / mass for dim in (2, 3)], 1)


def test_wherever_a_shape_lies_it_turns_and_grows_in_its_place():
    image = torch.zeros(1, 1, 40, 40)
    image[..., 8:13, 26:30] = 1
    warp = Warp(rotate=40, scale=0.2, shear=0.2, zoom=0.3)
    for background in (0.0, -1.0):
        images = image.expand(100, 1, 40, 40) + background
        copies = warp(images, seed=0, step=0, background=background)
        there = centres(copies.images - background)
        torch.testing.assert_close(there, centres(image).expand(100, 2), atol=2e-3, rtol=0)


def test_the_reported_change_of_place_or_size_is_the_measured_one():
    image = torch.zeros(1, 1, 64, 64)
    image[..., 20:32, 30:40] = 1
    copies = Warp(shift=0.1, zoom=0.25, rotate=30)(image.expand(300, 1, 64, 64), seed=0, step=0)
    moved = centres(copies.images) - centres(image)
    torch.testing.assert_close(moved, 0.1 * copies.change[:, 2:4], atol=2e-3, rtol=0)
    grown = copies.images.sum((1, 2, 3)) / image.sum()
    reported = math.log(1.25) * copies.change[:, 4]
    torch.testing.assert_close(grown.log() / 2, reported, atol=0.02, rtol=0)
    assert copies.change.abs().max() <= 1


def test_the_reported_stretch_is_the_measured_one():
    image = torch.zeros(1, 1, 64, 64)
    image[..., 24:40, 20:44] = 1
    for warp in (Warp(scale=0.25), Warp(scale=0.25, zoom=0.3, shift=0.05)):
        copies = warp(image.expand(300, 1, 64, 64), seed=0, step=0)
        bright = copies.images[:, 0]
        wide, high = (bright.sum(dim).amax(1) for dim in (2, 1))
        reported = copies.change[:, 5] * math.log(1.25 / 0.75)
        torch.testing.assert_close((wide / high / 1.5).log(), reported, atol=0.04, rtol=0)
        reported = copies.change[:, 4] * (math.log1p(warp.zoom) - math.log(0.75))
        grown = (bright.sum((1, 2)) / image.sum()).log() / 2
        torch.testing.assert_close(grown, reported, atol=0.02, rtol=0)
        assert copies.change.abs().max() <= 1


def test_a_copys_place_is_independent_of_the_images():
    images = torch.zeros(2, 1, 64, 64)
    images[0, :, 20:32, 10:20] = images[1, :, 34:46, 44:54] = 1
    both = images.repeat_interleave(200, 0)
    copies = Warp(place=0.2, rotate=90, zoom=0.2)(both, seed=0, step=0)
    there = centres(copies.images)
    assert 0.19 < there.abs().max() < 0.201
    for half in there.split(200):
        assert half.mean(0).abs().max() < 0.02
    moved = (there - centres(both)) / 0.2
    torch.testing.assert_close(moved, copies.change[:, 2:4], atol=0.01, rtol=0)


def test_gamma_bends_the_scale_of_brightness_and_leaves_its_ends():
    brightness = torch.linspace(0, 1, 64).view(1, 1, 8, 8).expand(500, 1, 8, 8)
    for background in (0.0, -1.0):
        images = background + (1 - background) * brightness
        copies = Warp(gamma=0.5)(images, seed=0, step=0, background=background).images
        bent = ((copies - background) / (1 - background)).flatten(1)
        torch.testing.assert_close(bent[:, 0], torch.zeros(500), atol=1e-3, rtol=0)
        torch.testing.assert_close(bent[:, -1], torch.ones(500), atol=1e-3, rtol=0)
        powers = bent[:, 20].log() / brightness.flatten(1)[:, 20].log()
        assert powers.min() == pytest.approx(math.exp(-0.5), rel=0.01)
        assert powers.max() == pytest.approx(math.exp(0.5), rel=0.01)
        expected = brightness.flatten(1) ** powers.unsqueeze(1)
        torch.testing.assert_close(bent, expected, atol=1e-3, rtol=0)


def test_a_nod_moves_the_middle_of_a_shape_but_less_where_it_stands_aside():
    """On a bright disc with a dark band, at three places, the band moves with the nod."""
    rows, side = 300, 64
    y, x = torch.meshgrid(*[(2 * torch.arange(side) + 1) / side - 1] * 2, indexing="ij")
    images = []
    for middle in (0.0, 0.2, -0.4):
        disc = ((x - middle).square() + (y + 0.25).square() < 0.25).float()
        images.append(disc * (1 - 0.5 * ((y + 0.25).abs() < 0.1)))
    for aside, factors in ((0.0, (1, 1, 1)), (0.4, (1, 0.75, 0))):
        warp = Warp(nod=0.05, aside=aside)
        for image, middle, factor in zip(images, (0.0, 0.2, -0.4), factors, strict=True):
            batch = image.expand(rows, 1, side, side)
            copies = warp(batch, seed=0, step=0)
            column = copies.images[:, 0, :, int((middle + 1) * side / 2)]
            inside = (y[:, 0] + 0.25).abs() < 0.4
            dark = (1 - column) * inside
            band = (dark * y[:, 0]).sum(1) / dark.sum(1)
            nod = copies.change[:, 8]
            slope = ((band - band.mean()) * nod).mean() / nod.square().mean()
            # Down by 2 · 0.05 halves of the side, less the stretch upwards of 1.25 · 0.05.
            assert slope == pytest.approx((0.1 - 1.25 * 0.05) * factor, abs=0.006)


@pytest.mark.parametrize("white", [0.0, 1.0])
def test_the_requested_share_of_copies_is_erased_below_a_random_height(white):
    rows, side = 1000, 40
    images = 0.2 + 0.6 * torch.rand(1, 1, side, side).expand(rows, 1, side, side)
    copies = Warp(erase_below=0.7, white=white)(images, seed=2, step=5).images
    kept = (copies - images).abs().amax((1, 3)) < 1e-5  # [rows, side]
    height = kept.sum(1)
    for row, copy in zip(height.tolist(), copies, strict=True):
        assert kept[:, :16].all()
        assert (copy[:, row:] - white).abs().lt(1e-6).all()
    cut = height < side
    assert 0.65 < float(cut.float().mean()) < 0.75
    assert set(height[cut].tolist()) == set(range(16, 29))
    # No other change depends on it.
    more = Warp(erase_below=0.7, rotate=20, shift=0.1)(images, seed=2, step=5)
    less = Warp(rotate=20, shift=0.1)(images, seed=2, step=5)
    assert torch.equal(more.images[..., :16, :], less.images[..., :16, :])
    assert torch.equal(more.change, less.change)


@pytest.mark.parametrize("side", [28, 32])
def test_a_stroke_is_a_short_bright_line_on_the_requested_share_of_copies(side):
    rows, dark = 2000, -1.0
    images = torch.full((rows, 3, side, side), dark)
    copies = Warp(stroke=0.3)(images, seed=2, step=5, background=dark).images
    assert torch.equal(copies[:, :1].expand_as(copies), copies)
    assert float(copies.min()) == dark
    assert float(copies.max()) == pytest.approx(1.0)
    bright = (copies[:, 0] - dark) / 2
    area = bright.sum((1, 2)) * (28 / side) ** 2
    drawn = area > 0
    assert 0.26 < float(drawn.float().mean()) < 0.34
    # 2.6 pixels wide at half height, straight for 4 to 8 of them, with round ends
    assert area[drawn].min() > 14
    assert area[drawn].max() < 28
    places = (torch.arange(side) + 0.5) * 28 / side - 14
    for dim in (1, 2):
        middle = (bright.sum(dim) * places).sum(1)[drawn] / bright.sum((1, 2))[drawn]
        assert 7.5 < float(middle.max()) < 8.05
        assert -8.05 < float(middle.min()) < -7.5


def test_a_stroke_changes_no_other_draw_and_no_pixel_elsewhere():
    images = torch.rand(40, 1, 28, 28)
    values = {"rotate": 20.0, "shift": 0.1, "gamma": 0.5}
    without, with_stroke = (
        Warp(**values, **more)(images, seed=1, step=2) for more in ({}, {"stroke": 1.0})
    )
    assert torch.equal(without.change, with_stroke.change)
    assert (with_stroke.images >= without.images).all()
    assert float((with_stroke.images != without.images).float().mean()) < 0.1


def test_the_reported_light_is_the_measured_one():
    for background in (0.0, -1.0):
        images = torch.full((100, 1, 30, 30), background + 0.3 * (1 - background))
        copies = Warp(light=0.5)(images, seed=1, step=0, background=background)
        bright = (copies.images[:, 0] - background) / (1 - background) / 0.3
        edge = 29 / 30  # the middle of the outermost pixel
        for dim, column in ((1, 6), (2, 7)):
            along = bright.mean(dim)
            expected = 1 + 0.5 * edge * copies.change[:, column]
            torch.testing.assert_close(along[:, -1], expected, atol=1e-4, rtol=0)
            assert 0.95 < copies.change[:, column].abs().max() <= 1


def test_light_stays_between_background_and_white():
    copies = Warp(light=1.0)(2 * torch.rand(50, 1, 8, 8) - 1, seed=0, step=0, background=-1.0)
    assert copies.images.min() == -1
    assert copies.images.max() == 1


def test_light_changes_no_other_draw():
    images = torch.rand(40, 1, 28, 28)
    values = {"rotate": 20.0, "shift": 0.1, "thickness": 0.5, "zoom": 0.1, "scale": 0.1}
    without, with_light = (
        Warp(**values, **more)(images, seed=1, step=2) for more in ({}, {"light": 0.3})
    )
    assert torch.equal(without.change[:, :6], with_light.change[:, :6])


def test_the_reported_nod_is_the_measured_one():
    side, rows = 64, torch.arange(64)
    for background in (0.0, -1.0):
        # Dark to row 40: outside of the disc the bright part's height grows and shrinks.
        bright = (rows >= 40).float().view(1, 1, -1, 1).expand(100, 1, side, side)
        copies = Warp(nod=0.2)(
            background + (1 - background) * bright, seed=1, step=0, background=background
        )
        height = ((copies.images - background) / (1 - background))[:, 0, :, 0].sum(1)
        expected = 24 * (0.2 * copies.change[:, 8]).exp()
        torch.testing.assert_close(height, expected, atol=0.1, rtol=0)  # a tenth of a pixel
        assert 0.95 < copies.change[:, 8].abs().max() <= 1
        assert not copies.change[:, 6:8].any()  # no light
    # A slope of brightness tells from which row a pixel came: the disc's middle moves by 0.2.
    slope = (rows.double() / side).view(1, 1, -1, 1).expand(100, 1, side, side)
    copies = Warp(nod=0.2)(slope, seed=1, step=0)
    by = 0.2 * copies.change[:, 8].double()
    row = round((NOD_HEIGHT + 1) / 2 * side - 0.5)
    y = (2 * row + 1) / side - 1
    above = 1 - (1 - y) * (-by).exp()
    came_from = above - 2 * by * (1 - ((above - NOD_HEIGHT) / NOD_RADIUS) ** 2)
    expected = ((came_from + 1) / 2 * side - 0.5) / side
    torch.testing.assert_close(copies.images[:, 0, row, 31], expected, atol=2e-3, rtol=0)


def test_a_shift_to_the_side_moves_nothing_up_or_down():
    images = torch.zeros(50, 1, 40, 40)
    images[:, :, 15:25, 12:20] = 1.0
    warp = Warp(shift_x=0.1)
    copies = warp(images, seed=0, step=0)
    moved = (centre(copies.images) - centre(images)) / 2
    torch.testing.assert_close(moved[:, 0], 0.1 * copies.change[:, 2], atol=2e-3, rtol=0)
    assert moved[:, 1].abs().max() < 1e-5
    assert warp.makes("x")
    assert not warp.makes("y")


def test_images_on_a_white_ground_are_warped_as_their_negatives():
    values = {"rotate": 20.0, "shift": 0.1, "thickness": 0.5, "gamma": 0.5, "light": 0.3}
    images = torch.rand(20, 1, 28, 28)
    for background in (0.0, -1.0):
        white = 1 - images * (1 - background)
        black = background + 1 - white
        copies = Warp(**values, white=1.0)(white, seed=1, step=2, background=background)
        negatives = Warp(**values)(black, seed=1, step=2, background=background)
        torch.testing.assert_close(background + 1 - copies.images, negatives.images)
        assert torch.equal(copies.change, negatives.change)
    ground = torch.ones(8, 1, 8, 8)
    moved = Warp(shift=0.5, white=1.0)(ground, seed=0, step=0, background=-1.0).images
    torch.testing.assert_close(moved, ground)


def test_a_nod_changes_no_other_draw():
    images = torch.rand(40, 1, 28, 28)
    values = {"rotate": 20.0, "shift": 0.1, "thickness": 0.5, "zoom": 0.1, "light": 0.3}
    without, with_nod = (
        Warp(**values, **more)(images, seed=1, step=2) for more in ({}, {"nod": 0.2})
    )
    assert torch.equal(without.change, with_nod.change[:, :8])


@pytest.mark.parametrize("white", [0.0, 1.0])
def test_all_warps_at_once_compile_to_one_graph_with_the_same_result(white):
    """The step's number is a tensor, as in a captured step, so that nothing waits for it."""
    warp = Warp(20, 0.1, 0.2, 0.1, 0.5, 0.5, 0.1, 0.0, 0.3, 0.5, 0.4, 0.2, white=white)
    images, step = torch.rand(6, 1, 16, 16), torch.tensor(3)
    compiled = torch.compile(
        lambda x, n: warp(x, seed=1, step=n), fullgraph=True, backend="aot_eager"
    )
    for actual, expected in zip(
        compiled(images, step), warp(images, seed=1, step=step), strict=True
    ):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_pixels_from_outside_the_image_are_background():
    images = torch.full((16, 1, 8, 8), -1.0)
    out = Warp(rotate=45, shift=0.3)(images, seed=0, step=0, background=-1.0).images
    torch.testing.assert_close(out, images)


def test_a_photograph_is_warped_about_its_middle_with_its_mirror_image_outside():
    even = torch.full((16, 1, 8, 8), 0.5)
    warp = Warp(rotate=45, shift=0.3)
    torch.testing.assert_close(warp(even, seed=0, step=0, photographs=True).images, even)
    side = 41
    image = torch.zeros(100, 1, side, side)
    image[..., 18:23, 18:23] = image[..., 30:35, 18:23] = 1  # in the middle, and far from it
    turned = Warp(rotate=20)(image, seed=0, step=0, photographs=True).images[:, 0, 17:24, 17:24]
    middle = turned.sum((1, 2)) / 25
    torch.testing.assert_close(middle, torch.ones(100), atol=0.05, rtol=0)


def test_no_other_draw_shares_the_warps_random_numbers():
    assert len(set(Stream)) == len(Stream.__members__) == len({int(s) for s in Stream})


@given(
    rotate=st.floats(0, 180),
    scale=st.floats(0, 0.9),
    shear=st.floats(0, 2),
    shift=st.floats(0, 1),
    flip=st.floats(0, 1),
    thickness=st.floats(0, 1),
    zoom=st.floats(0, 1),
    place=st.floats(0, 1),
    shift_x=st.floats(0, 1),
    gamma=st.floats(0, 3),
    stroke=st.floats(0, 1),
    light=st.floats(0, 1),
    nod=st.floats(0, 1),
    white=st.sampled_from([0.0, 1.0]),
)
def test_a_warp_reads_back_what_its_text_says(**values):
    shifts = [name for name in ("shift", "shift_x", "place") if values[name]]
    values |= dict.fromkeys(shifts[1:], 0.0)
    text = ", ".join(f"{name}={value!r}" for name, value in values.items())
    assert parse_warp(text) == Warp(**values)


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("twist=3", "twist"),
        ("rotate", "rotate: expected a number"),
        ("rotate=x", "got 'x'"),
        ("rotate=nan", "expected 0 to 180"),
        ("scale=1", "expected 0 to 1"),
        ("flip=1.5", "expected 0 to 1"),
        ("shift=-.1", "expected 0 to 1"),
        ("light=1.2", "expected 0 to 1"),
        ("nod=-1", "expected 0 to 1"),
        ("white=.5", "white: expected 0 or 1, got 0.5"),
        ("rotate=1,rotate=2", "once"),
        ("shift=.1,place=.1", "shift and place: expected one of them, got both"),
        ("aside=.4", "aside: there is no nod to take from"),
        ("shift=.1,shift_x=.1", "got both"),
    ],
)
def test_a_bad_warp_is_refused_in_one_line(text, reported):
    with pytest.raises(UserError, match=r"^--invariance.warp: ") as caught:
        config_module.check(TrainConfig().with_options(real_info=1.0, warp=text))
    assert reported in str(caught.value)
    assert "\n" not in str(caught.value)
