"""The drawn chairs: what they look like, which image is which, and what is known of each."""

import pickle
import tracemalloc

import numpy as np
import pytest
from helpers.strategies import modest
from hypothesis import given
from hypothesis import strategies as st

from fastinfogan import data
from fastinfogan.data import chairs
from fastinfogan.data.chairs import AZIMUTHS, CHAIRS, VIEWS, Chairs, draw, shape

ANY_CHAIR = st.integers(0, CHAIRS - 1)
ANY_VIEW = st.integers(0, VIEWS - 1)


@pytest.fixture(scope="module")
def splits():
    return data.load("chairs-like", image_size=64, channels=1, stream="always")


def ink(image: np.ndarray) -> np.ndarray:
    """Columns in which there is something."""
    return np.flatnonzero((image < 255).any(0))


class TestPictures:
    @modest
    @given(ANY_CHAIR, ANY_VIEW)
    def test_a_chair_stands_free_on_white(self, chair, view):
        image = draw(chair, view)
        assert (image.shape, image.dtype) == ((64, 64), np.uint8)
        assert (image[[0, -1]] == 255).all()
        assert (image[:, [0, -1]] == 255).all()
        assert 0.03 < (image < 255).mean() < 0.6
        assert len(np.unique(image)) > 4  # shaded

    @modest
    @given(st.sampled_from([c for c in range(400) if chairs.LEGS[shape(c).legs] == "straight"]))
    def test_from_the_front_a_chair_covers_its_width_and_that_of_its_arms(self, chair):
        s = shape(chair)
        columns = ink(draw(chair, 0))
        arms = {"none": 0.0, "open": 0.1, "solid": 0.16}[chairs.ARMS[s.arms]]
        assert len(columns) == pytest.approx(42 * (s.width + arms), abs=2.5)
        assert abs((columns[0] + columns[-1]) / 2 - 31.5) < 1

    def test_every_chair_fits_from_every_third_side(self):
        for chair in range(0, CHAIRS, 40):
            for view in range(0, VIEWS, 3):
                image = draw(chair, view)
                assert (image[[0, -1]] == 255).all()
                assert (image[:, [0, -1]] == 255).all()

    def test_the_back_is_in_front_of_the_seat_when_it_is_seen_from_behind(self):
        """A solid back hides nothing of the seat from the front, and most of it from behind."""
        solid, none = chairs.BACKS.index("solid"), chairs.ARMS.index("none")
        plain = []
        for chair in range(200):
            s = shape(chair)
            high = s.back_height > 0.45 and s.depth < 0.45
            if s.back == solid and s.arms == none and not s.round_seat and high:
                plain.append(chair)
        assert len(plain) > 2
        for chair in plain:
            s = shape(chair)
            top = 255 * s.cushion * (0.36 + 0.64 * 0.84)  # about the seat's upper side
            seen = [(abs(draw(chair, view).astype(float) - top) < 12).sum() for view in (0, 15)]
            assert seen[0] > 2 * seen[1]

    def test_a_turn_is_31_steps_and_no_two_views_are_alike(self):
        images = np.stack([draw(1, view) for view in range(VIEWS)]).reshape(VIEWS, -1)
        assert len(np.unique(images, axis=0)) == VIEWS
        steps = abs(np.diff(images[:AZIMUTHS].astype(int), axis=0, append=images[:1])).sum(1)
        half = abs(images[0].astype(int) - images[15]).sum()
        assert steps.max() < 1.6 * half  # and from the last to the first as from any to the next

    def test_azimuth_k_of_a_mirrored_chair_is_the_mirrored_image_of_azimuth_minus_k(self):
        """Chairs are alike on both sides, but for their light."""
        for chair in (1, 3, 10):
            there, back = (draw(chair, view) < 250 for view in (4, AZIMUTHS - 4))
            assert (there != back[:, ::-1]).mean() < 0.02


class TestSource:
    def test_all_views_of_every_tenth_chair_are_held_out(self, splits):
        assert splits["train"].images.shape == (1254 * 62, 64, 64, 1)
        assert splits["test"].images.shape == (139 * 62, 64, 64, 1)
        rows = np.array([0, 61, 62, 9 * 62 + 5])
        train = splits["train"].images[rows][..., 0]
        for image, (chair, view) in zip(train, ((0, 0), (0, 61), (1, 0), (10, 5)), strict=True):
            np.testing.assert_array_equal(image, draw(chair, view))
        np.testing.assert_array_equal(splits["test"].images[rows[2:3]][0, :, :, 0], draw(19, 0))

    def test_factors_are_the_view_and_the_shape(self, splits):
        test = splits["test"]
        assert test.factor_names[:3] == ("azimuth:360", "elevation", "width")
        assert test.factors.shape == (len(test), len(test.factor_names))
        known = dict(zip(test.factor_names, test.factors[62 + 33].tolist(), strict=True))
        s = shape(19)
        assert known["azimuth:360"] == pytest.approx(2 * 360 / 31)
        assert known["elevation"] == 30
        for name in test.factor_names[2:]:
            assert known[name] == pytest.approx(getattr(s, name))
        assert {*test.factors[:, 0]} == {np.float32(k * 360 / 31) for k in range(31)}
        assert all(len(np.unique(column)) > 1 for column in test.factors.T)

    def test_every_kind_of_back_legs_and_arms_is_common(self):
        shapes = [shape(chair) for chair in range(CHAIRS)]
        for name, kinds in (("back", chairs.BACKS), ("legs", chairs.LEGS), ("arms", chairs.ARMS)):
            counts = np.bincount([getattr(s, name) for s in shapes], minlength=len(kinds))
            assert len(counts) == len(kinds)
            assert counts.min() > 0.08 * CHAIRS

    def test_kept_images_are_the_drawn_ones_and_are_drawn_once(self, monkeypatch):
        rows = np.array([7, 3, 7, 100])
        kept, flat = (Chairs(np.arange(3), keep=keep) for keep in (True, False))
        expected = flat.read(rows)
        np.testing.assert_array_equal(kept.read(rows), expected)
        monkeypatch.setattr(chairs, "draw", None)
        np.testing.assert_array_equal(kept.read(rows), expected)
        with pytest.raises(TypeError):
            kept.read(np.array([8]))

    def test_a_copy_for_a_worker_draws_for_itself(self):
        source = Chairs(np.arange(1300), keep=True)
        packed = pickle.dumps(source)
        assert len(packed) < 30_000
        rows = np.array([2, 70_000])
        np.testing.assert_array_equal(pickle.loads(packed).read(rows), source.read(rows))

    def test_streamed_memory_does_not_grow_with_the_images_read(self, splits):
        images = splits["train"].images
        rng = np.random.default_rng(0)
        images[rng.integers(500, size=500)]  # the shapes that are drawn below
        tracemalloc.start()
        try:
            for _ in range(8):
                images[rng.integers(500, size=64)]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8e6
