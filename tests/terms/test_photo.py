"""Photographs' copies: what each does to surroundings and tones, and how far."""

import dataclasses

import pytest
import torch
from torch import Tensor

from fastinfogan.terms import Address
from fastinfogan.terms.photo import PhotoOptions
from fastinfogan.terms.warp import Warp, WarpedCopies

pytestmark = pytest.mark.usefixtures("one_thread")

AT = Address(seed=1, step=2, first_row=0)
ALL = PhotoOptions(surround=0.5, invert=0.5, contrast=0.4, brightness=0.25, tint=0.1)
RANGES = pytest.mark.parametrize("background", [0.0, -1.0])


def photographs(rows: int = 60, side: int = 32, background: float = 0.0) -> Tensor:
    draw = torch.Generator().manual_seed(4)
    smooth = torch.rand(rows, 3, 5, 5, generator=draw) * 0.5 + 0.25
    images = torch.nn.functional.interpolate(smooth, size=side, mode="bilinear")
    return background + (1 - background) * images


def test_none_is_on_by_default():
    assert not PhotoOptions().active
    names = [field.name for field in dataclasses.fields(PhotoOptions)]
    assert names == ["surround", "invert", "contrast", "brightness", "tint"]
    assert all(PhotoOptions(**{name: 0.1}).active for name in names)


@RANGES
def test_a_copy_s_surroundings_are_the_other_images_of_the_batch(background):
    images = photographs(background=background)
    copies = PhotoOptions(surround=1.0).change(images, images, AT, background)
    middle, corner = (..., slice(14, 18), slice(14, 18)), (..., slice(0, 2), slice(0, 2))
    torch.testing.assert_close(copies[middle], images[middle], atol=0.02, rtol=0)
    torch.testing.assert_close(copies[corner], images.roll(1, 0)[corner], atol=0.02, rtol=0)
    many = images.repeat(10, 1, 1, 1)
    some = PhotoOptions(surround=0.4).change(many, many, AT, background)
    same = (some - many).abs().amax((1, 2, 3)) < 1e-5
    assert 0.55 < same.float().mean() < 0.65


def test_the_kept_box_has_the_sizes_that_the_module_names():
    white = torch.ones(2000, 1, 64, 64)
    white[::2] = 0  # the others of white images are black
    kept = PhotoOptions(surround=1.0).change(white, white, AT, 0.0)[1::2, 0]
    for line, half in ((kept[:, 32], 0.55), (kept[:, :, 32], 0.75)):  # middle row and column
        extent = line.sum(1) / 64
        assert extent.min() == pytest.approx(half - 0.12, abs=0.03)
        assert extent.max() == pytest.approx(half + 0.12, abs=0.03)


@RANGES
def test_tones_change_as_far_as_they_say_and_no_further(background):
    whole = 1 - background
    images = photographs(1000, 8, background)

    def parts(photo: PhotoOptions) -> tuple[Tensor, Tensor]:
        """Return each channel's mean [B, 3] in 0 … 1, and the slope against the image's."""
        copies = photo.change(images, images, AT, background)
        copies, originals = ((x - background) / whole for x in (copies, images))
        dev, of = (x - x.mean((2, 3), keepdim=True) for x in (copies, originals))
        return copies.mean((2, 3)), (dev * of).sum((1, 2, 3)) / of.square().sum((1, 2, 3))

    before = (images - background).mean((2, 3)) / whole
    mean, slope = parts(PhotoOptions(invert=0.3))
    torch.testing.assert_close(slope.abs(), torch.ones(1000), atol=1e-3, rtol=0)
    assert 0.25 < (slope < 0).float().mean() < 0.35
    negative = torch.where(slope.unsqueeze(1) < 0, 1 - before, before)
    torch.testing.assert_close(mean, negative, atol=1e-3, rtol=0)
    mean, slope = parts(PhotoOptions(contrast=0.2))
    assert slope.min() == pytest.approx(0.8, abs=0.01)
    assert slope.max() == pytest.approx(1.2, abs=0.01)
    torch.testing.assert_close(mean.mean(1), before.mean(1), atol=1e-3, rtol=0)
    mean, slope = parts(PhotoOptions(brightness=0.1))
    assert mean.mean(1).min() == pytest.approx(0.4, abs=0.01)
    assert mean.mean(1).max() == pytest.approx(0.6, abs=0.01)
    mean, slope = parts(PhotoOptions(tint=0.1))
    moved = mean - before
    assert moved.abs().amax(0).tolist() == pytest.approx([0.1] * 3, abs=0.01)
    assert torch.corrcoef(moved.T).fill_diagonal_(0).abs().max() < 0.2


@RANGES
@pytest.mark.parametrize("channels", [1, 3])
def test_copies_stay_in_the_range_whatever_is_changed(background, channels):
    images = background + (1 - background) * torch.rand(40, channels, 8, 8)
    most = PhotoOptions(surround=1.0, invert=0.5, contrast=1.0, brightness=0.5, tint=1.0)
    copies = most.change(images, images, AT, background)
    assert copies.min() >= background
    assert copies.max() <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_copies_have_the_images_dtype(dtype):
    images = photographs(4).to(dtype)
    assert ALL.change(images, images, AT, 0.0).dtype == dtype


def test_tones_are_rows_of_the_global_batch_s():
    images = photographs(24)
    tones = PhotoOptions(invert=0.5, contrast=0.4, brightness=0.25, tint=0.1)
    recipe = WarpedCopies(Warp(rotate=10), 0.0, tones)
    whole = recipe(images, AT).images[0]
    for rank, part in enumerate(images.chunk(3)):
        own = recipe(part, AT._replace(first_row=8 * rank)).images[0]
        torch.testing.assert_close(own, whole[8 * rank : 8 * rank + 8], rtol=0, atol=1e-6)


def test_warps_without_them_are_as_they_were():
    images = photographs(8)
    warp = Warp(rotate=20, shift=0.1)
    (copies,) = WarpedCopies(warp, 0.0)(images, AT).images
    assert torch.equal(copies, warp(images, **AT._asdict()).images)


def test_all_changes_at_once_compile_to_one_graph_with_the_same_result():
    """The step's number is a tensor, as in a captured step, so that nothing waits for it."""
    images, step = photographs(6), torch.tensor(3)
    recipe = WarpedCopies(Warp(rotate=10, scale=0.1), 0.0, ALL)

    def copies(x: Tensor, n: Tensor) -> Tensor:
        return recipe(x, AT._replace(step=n)).images[0]

    compiled = torch.compile(copies, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images, step), copies(images, step), atol=1e-4, rtol=1e-4)
