"""The composed street digits: a function of the row, with the label of the middle digit."""

import numpy as np
import pytest
import torch
from helpers.pictures import block_means

from fastinfogan import data
from fastinfogan.data import street
from fastinfogan.data.street import StreetDigits

# The means of 4×4 blocks of 24 images of three channels, as hexadecimal numbers.
BLOCKS = """
    6e878c84969e8591aabfceb96c7e89484356808ea09daba16a7d81798d9163696bbaccaf687a7f5a586a9aa9a3c6d5b2
    4b5c4f546456586a5d5e71624c5c4f748785768c8780958e5654497b8b8a879c9a8397928a33248d3d2c874b3a906f63
    8aaa7f7fa67a92d99e86c48687a48e769789a4d7b78fbda1769e9380a08a86b49d7ea49585b1928cbc9397dda895ca99
    66688a4c486b453a55593c4d4344615245793834484f4060514a6a38303c323a4e35344e4f479f3c4f9b33467d3a3c69
    512326482935402332473032501e2b52516348485c3d2c35644f58543c4a5567736414426b2437665a61712c56612749
    415155433c2c394b29263c21356747555f4a50584a474e443b4f3f5f7260454f505f6a6946485248504658615d324a44
    ad7d6bb1868ebca0a09f9a83c4a99eccbab3c29da19a977cb18582b48a96cfc3b895987da37874b19093af8d90909677
    465d2b3e314d3d2d4d2c283e55902c5a6a677476855a67695fa0299596a97172885850665ca0274d69514e445956365f
    80869170787d5a5a635c5d66b3bdc5abb0b35a5d654a4b58999cad8d909866656a727175817e906a727b474a4c464754
    642f4f5f3b4f623e4a672b44632843672c4069514b5f2b46675a54665954644f4e592a41532940522d42522240562c40
    beffff87c7d36c9faf6e95a4d5f8fa8fa2b46e748b686f7cc5e5e280939a606476606775a8c1cb73848d5d63705a656f
    7f8fa1959eccb598ddc0beee78889a8495b8a4a2c9a7b9cf777fad7796c48fa1d5aab2dc7d82a59c97b3c5b3dcd2c4fa
    392f4e453e543e36543e243643315c4d4864584b6d45174d4f3c5b4e46665e567d542f6c7c6183847ba67379a9716496
    0c5e18176e251b6e280e601a3b6d523265491f482c1a462d386e543e72573f735617492e0b491906410f074111043f11
    9b71d1976bc78e63bf7c59aa5e6490585b85585887464968565f80575e8a4d53774247615f66995e649a5359854e5582
    dabfd7cdddd4c4e1d8d4e4cddbbfd4a8b9ae9ea6a7c4d5bdddafd7b4c5c3aab8b3d3e8dad1acd4b7c9cfb4bbc0b9c0c4
    a1f9ed7bb9ab76979c56807cb1c7dc748393575768465a5da9bbd37589985b6b74466860c9ccc97476756e7e72516a53
    6444704535673d224d3c114c2c22533530504d334c3f154a3a1a6a4b38687356734a2a615122784a216c602f6842245e
    92a4b19195a59286a87391cd8caaaa6e6d88866e927d8dca9197aa76688d6d6c806796c69392b77e71928c939f6a9dcc
    f2a0e5f797eef888effb87f3c4a7b1ccabb5b490a3d1adbbbf9faad2b5b7aa8b97a1808fc5abb1c3aaacbfa6a6b09c9c
    fd948dd292aebe968ac1947ef1a1a4b48896976b79c3968bce99d4b07b9a956a80c18ca2ca91ccb479a1b7879cb98aba
    2030161e26241d3130152e1b193b393847653b3a60444a5d0e4e42375765303f564251631e472e0b534129466028414c
    c379de98acb990aec29e9fc1e79df3b5bfd7a7bbc69f9db9f9c5fcb4cfebb6d5f8afa2c8fdc9ffc9fcffc0f4ffc8ecff
    e0d0d4e9cacaf4badaff84f7b79ca3e5bbaeaa839fff80db8070717b7279463f63ce65916656485f5c4958623d674b45
"""


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


def test_pictures_are_those_of_earlier_versions(splits):
    """Results on a set can be compared only while its images stay the same."""
    images = splits["train"].images[np.arange(24) * 2500]
    expected = np.frombuffer(bytes.fromhex(BLOCKS), np.uint8).astype(int).reshape(24, 4, 4, 3)
    # another processor may round otherwise
    np.testing.assert_allclose(block_means(images), expected, rtol=0, atol=1)


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
