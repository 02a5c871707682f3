"""The embedded faces: what they are, and which are held out."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastinfogan import data
from fastinfogan.data import faces
from fastinfogan.errors import UserError

FOLDER = Path(faces.__file__).parent.parent / "assets" / "faces-3d"
DEGREES = {"azimuth": 60, "elevation": 25, "light_azimuth": 75}


@pytest.fixture(scope="module")
def splits():
    return data.load("faces-3d", image_size=32, channels=1)


def test_every_tenth_of_9184_faces_is_held_out_with_its_factors(splits):
    assert splits["train"].images.shape == (8266, 32, 32, 1)
    assert splits["test"].images.shape == (918, 32, 32, 1)
    sheet = np.asarray(Image.open(FOLDER / "faces.png"))
    factors = np.load(FOLDER / "factors.npy")
    for split, row, of_whole in (
        ("train", 0, 0),
        ("train", 9, 10),
        ("test", 0, 9),
        ("test", 8, 89),
    ):
        top, left = (32 * n for n in divmod(of_whole, 82))
        image = splits[split].images[row, :, :, 0]
        np.testing.assert_array_equal(image, sheet[top : top + 32, left : left + 32])
        np.testing.assert_array_equal(splits[split].factors[row], factors[of_whole])


def test_factors_have_names_and_lie_in_the_ranges_that_the_notice_states(splits):
    for split in splits.values():
        assert split.factor_names == ("azimuth", "elevation", "light_azimuth", "light_elevation")
        assert split.factors.dtype == np.float32
        columns = dict(zip(split.factor_names, split.factors.T, strict=True))
        for name, most in DEGREES.items():
            assert 0.98 * most < abs(columns[name]).max() <= most
        assert -15 <= columns["light_elevation"].min() < columns["light_elevation"].max() <= 50


def test_factors_belong_to_their_images(splits):
    """Light from one side brightens that side of the picture."""
    images, factors = splits["train"].images[..., 0].astype(float), splits["train"].factors
    middle = images[:, 8:20, 8:24]
    left, right = middle[:, :, :8].mean((1, 2)), middle[:, :, 8:].mean((1, 2))
    assert abs(np.corrcoef(left - right, factors[:, 2])[0, 1]) > 0.7


def test_the_notice_names_licence_and_files():
    notice = (FOLDER / "NOTICE.md").read_text()
    assert "Copyright (c) 2020 USC Institute for Creative Technologies" in notice
    sums = dict(re.findall(r"([0-9a-f]{64})  (\S+)", notice)[::-1])
    assert {name: hashed for hashed, name in sums.items()} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in FOLDER.iterdir()
        if path.name != "NOTICE.md"
    }


def test_a_damaged_installation_is_reported_in_one_line(monkeypatch, tmp_path):
    (tmp_path / "faces.png").write_bytes(b"no picture")
    monkeypatch.setattr(faces, "_FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"cannot be read .*; install fastinfogan again$"):
        data.load("faces-3d", image_size=32, channels=1)
