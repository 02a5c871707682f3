"""The sprites: what they look like, where they are, and which row is which."""

from __future__ import annotations

import hashlib
import pickle
import time
import tracemalloc

import numpy as np
import psutil
import pytest
import torch
from helpers.strategies import modest
from hypothesis import given
from hypothesis import strategies as st

from fastinfogan import data
from fastinfogan.data import sprites
from fastinfogan.data import streaming as stream
from fastinfogan.data.sprites import SIZES, Grid, Sprites, render

CPU = torch.device("cpu")
N = 737_280
GRID = Grid(Sprites(), SIZES)
SQUARE, ELLIPSE, HEART = range(3)


def sprite(*factors: int) -> np.ndarray:
    """Return one image [64, 64]."""
    return render(np.array([factors]))[0, :, :, 0]


def all_masks() -> np.ndarray:
    """Return every sprite in the middle of its image, [3, 6, 40, 64, 64]."""
    place = np.stack([*np.indices(SIZES[:3]).reshape(3, -1), np.full(720, 16), np.full(720, 16)])
    return render(place.T).reshape(*SIZES[:3], 64, 64)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return intersection over union."""
    return float((a & b).sum() / (a | b).sum())


# The picture


def test_images_are_black_and_white() -> None:
    assert np.unique(all_masks()).tolist() == [0, 255]
    assert all_masks().dtype == np.uint8


def test_the_masks_are_the_same_on_every_machine() -> None:
    digest = hashlib.sha256(sprites._masks().tobytes()).hexdigest()
    assert digest == "b0ffc8e01c9089f6089870c5aeb6ab6a4de9416db94334b1c6ec12b290062acc"


def test_a_sprite_covers_the_area_of_its_outline() -> None:
    areas = (all_masks() > 0).sum(axis=(-1, -2)).mean(axis=-1)  # over the orientations
    scales = np.linspace(0.5, 1, 6)
    # a pixel's centre in or out: over 40 orientations within 1 % of the area
    np.testing.assert_allclose(areas[SQUARE], 18.0**2 * scales**2, rtol=0.01)
    np.testing.assert_allclose(areas[ELLIPSE], np.pi * 11.25 * 7.2 * scales**2, rtol=0.01)
    np.testing.assert_allclose(areas[HEART], areas[HEART, -1] * scales**2, rtol=0.01)


def test_the_upright_heart_is_mirrored_and_its_tip_points_down() -> None:
    heart = sprite(HEART, 5, 0, 16, 16) > 0
    widths = heart.sum(axis=1)[heart.any(axis=1)]
    assert widths[-1] <= 3  # the tip
    assert widths[0] >= 5  # the lobes
    assert abs(np.argwhere(heart)[:, 1].mean() - (32 + sprites._CENTRE[0])) < 0.3


def test_orientations_turn_counter_clockwise_and_end_where_they_began() -> None:
    upright, quarter = (sprite(HEART, 5, turn, 16, 16)[16:49, 16:49] > 0 for turn in (0, 10))
    # 10 of 39 steps are 92°
    assert overlap(np.rot90(upright), quarter) > 0.85
    assert overlap(np.rot90(upright, -1), quarter) < 0.8
    masks = all_masks()
    assert (masks[:, :, 0] == masks[:, :, 39]).all()
    assert len(np.unique(masks[:, :, :39].reshape(-1, 64 * 64), axis=0)) == 3 * 6 * 39


@given(shape=st.integers(0, 2), scale=st.integers(0, 5), turn=st.integers(0, 39))
@modest
def test_a_position_is_a_pixel_and_no_sprite_is_cut_off(shape: int, scale: int, turn: int) -> None:
    corner = sprite(shape, scale, turn, 0, 0)
    for x, y in ((31, 0), (0, 31), (31, 31), (7, 20)):
        moved = sprite(shape, scale, turn, x, y)
        assert (moved == np.roll(corner, (y, x), axis=(0, 1))).all()
        assert not moved[:y].any()  # nothing came around the edge
        assert not moved[:, :x].any()


# The grid


@given(rows=st.lists(st.integers(0, N - 1), max_size=20))
@modest
def test_rows_and_factors_are_each_others_inverse(rows: list[int]) -> None:
    there = np.array(rows, np.int64)
    factors = GRID.factors(there)
    assert factors.dtype == np.int64
    assert factors.shape == (len(rows), 5)
    assert GRID.rows(factors).tolist() == rows
    assert (GRID.images(factors) == Sprites().read(there)).all()
    assert (render(factors) == Sprites().read(there)).all()


@pytest.mark.parametrize(
    ("row", "factors"),
    [  # the original's bases: 245760, 40960, 1024, 32, 1
        (0, [0, 0, 0, 0, 0]),
        (1, [0, 0, 0, 0, 1]),
        (32, [0, 0, 0, 1, 0]),
        (1024, [0, 0, 1, 0, 0]),
        (40960, [0, 1, 0, 0, 0]),
        (245760, [1, 0, 0, 0, 0]),
        (N - 1, [2, 5, 39, 31, 31]),
    ],
)
def test_rows_come_in_the_originals_order(row: int, factors: list[int]) -> None:
    assert GRID.factors(np.array([row])).tolist() == [factors]


@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("outside", ["below", "above"])
def test_a_class_outside_its_factors_is_refused(column: int, outside: str) -> None:
    factors = np.zeros((3, 5), np.int64)
    factors[1, column] = -1 if outside == "below" else SIZES[column]
    with pytest.raises(ValueError, match="must lie in"):
        render(factors)
    with pytest.raises(ValueError, match="must lie in"):
        GRID.rows(factors)


@pytest.mark.parametrize("factors", [np.zeros((3, 6), int), np.zeros(5, int), np.zeros((3, 5))])
def test_invalid_factors_are_refused(factors: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"integers \[B, 5\]"):
        render(factors)


@pytest.mark.parametrize("row", [-1, N])
def test_a_row_outside_the_grid_is_refused(row: int) -> None:
    with pytest.raises(ValueError, match="737279"):
        GRID.factors(np.array([0, row]))


# As an image set


def load() -> dict[data.Split, data.Images]:
    return data.load("dsprites-like", image_size=64, channels=1)


def test_both_splits_are_the_whole_grid_labelled_by_shape() -> None:
    for split in load().values():
        assert split.images.shape == (N, 64, 64, 1)
        assert isinstance(split.images, stream.Streamed)
        assert split.labels is not None
        assert np.bincount(split.labels).tolist() == [N // 3] * 3
        assert split.grid is not None
        rows = stream.evenly(N, 50)
        assert (split.images[rows] == split.grid.images(split.grid.factors(rows))).all()
        assert (split.grid.factors(rows)[:, 0] == split.labels[rows]).all()


def test_batches_are_drawn_in_this_process_by_the_order_of_any_set() -> None:
    images = load()["train"].images
    batches = data.batches(images, CPU, batch_size=16, seed=3, rank=1, world_size=2)
    order = data.Order(N, batch_size=16, seed=3, rank=1, world_size=2)
    steps = (0, 1, 2, 900, 30_000)
    drawn = [batches(step).numpy() for step in steps]
    workers = psutil.Process().children()
    batches.close()  # before anything can fail: a worker would keep the tests from ending
    assert not workers
    for step, batch in zip(steps, drawn, strict=True):
        assert (batch == images[order.indices(step).numpy()]).all()


def test_memory_stays_flat_whatever_is_read() -> None:
    sprites._masks.cache_clear()
    tracemalloc.start()
    try:
        images = load()["train"].images
        for start in range(0, N, 4000):
            images[np.arange(start, min(start + 100, N))]
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 3e6  # 0.8 MB of masks, 0.7 MB of labels
    assert most < 25e6  # while the masks are made


def test_128_images_take_well_under_5_ms() -> None:
    rows = np.random.default_rng(0).integers(0, N, (30, 128))
    source, took = Sprites(), []
    for batch in rows:
        start = time.perf_counter()
        source.read(batch)
        took.append(time.perf_counter() - start)
    assert np.median(took) < 2e-3


def test_the_source_pickles_without_its_images() -> None:
    images = load()["train"].images
    assert len(pickle.dumps(images)) < 1000
    assert (pickle.loads(pickle.dumps(images))[:3] == images[:3]).all()
