"""The composed street digits: a function of the row, with the label of the middle digit."""

import numpy as np
import pytest
import torch

from fastinfogan import data
from fastinfogan.data import street
from fastinfogan.data.street import StreetDigits


@pytest.fixture(scope="module")
def splits():
    return data.load("street-digits-like", image_size=32, channels=3, stream="always")


@pytest.fixture(scope="module")
def mnist():
    return data.load("mnist", image_size=28, channels=1)


def test_each_mnist_image_is_the_middle_digit_once_with_its_label(splits, mnist):
    for split, n in (("train", 60_000), ("test", 10_000)):
        assert splits[split].images.shape == (n, 32, 32, 3)
    np.testing.assert_array_equal(splits["test"].labels, mnist["test"].labels)


def test_an_image_is_a_function_of_its_row_however_it_is_read(splits):
    images = splits["train"].images
    rows = np.random.default_rng(0).permutation(700)
    whole = images[rows]
    for size in (1, 7, 128):
        for start in range(0, 130, size):
            part = slice(start, start + size)
            np.testing.assert_array_equal(images[rows[part]], whole[part])
    assert images[:0].shape == (0, 32, 32, 3)


def test_train_and_test_differ_in_more_than_their_digits(splits, mnist):
    """The same digits with the other split's numbers make other pictures."""
    digits = mnist["train"].images[:20]
    one, other = (StreetDigits(digits, split).read(np.arange(20)) for split in ("train", "test"))
    differing = abs(one.astype(int) - other).mean((1, 2, 3))
    assert differing.min() > 10


def test_pictures_vary_in_colour_light_and_contrast(splits):
    images = splits["train"].images[:2000].astype(float)
    means = images.mean((1, 2))
    assert means.mean(1).std() > 30  # bright and dark
    assert (means.max(1) - means.min(1)).mean() > 15  # coloured
    assert images.std((1, 2)).mean(1).min() > 8  # none is empty
    corners = images[:, :6, :6].mean((1, 2, 3)), images[:, -6:, -6:].mean((1, 2, 3))
    assert abs(corners[0] - corners[1]).mean() > 15  # unevenly lit


def test_ink_is_where_the_digit_is(splits, mnist):
    """Pictures correlate with the digit in their middle, whatever its colour."""
    n = 1000
    gray = splits["train"].images[:n].astype(float).mean(3)[:, 2:-2, 2:-2].reshape(n, -1)
    digits = mnist["train"].images[:n].astype(float).reshape(n, -1)

    def standard(x: np.ndarray) -> np.ndarray:
        x = x - x.mean(1, keepdims=True)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    gray, digits = standard(gray), standard(digits)
    own, others = abs((gray * digits).sum(1)), abs((gray * digits[::-1]).sum(1))
    assert own.mean() > others.mean() + 0.2


def test_random_numbers_suffice_for_all_that_is_drawn():
    """And few are left over: four take ten rounds."""
    draws = street._Draws(torch.arange(2), 0)
    street._picture(torch.zeros(3, 2, 28, 28), draws)
    assert street._DRAWS - 8 <= draws._next <= street._DRAWS
