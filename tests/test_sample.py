"""Pictures: every tile where it belongs, every column the value it says."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastinfogan import sample
from fastinfogan.errors import UserError
from fastinfogan.latents import Bernoulli, Categorical, LatentSpec, Uniform
from fastinfogan.runs import folder as run

GAP, TILE = sample._GAP, sample._TILE
TITLE, HEADINGS = 18, 16  # pixels above the tiles


def pixels(picture: Image.Image) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture)


def tiles(picture: Image.Image, rows: int, columns: int, *, side: int = TILE, top: int = 0):
    """The picture cut into [rows, columns, side, side, 3]."""
    array = pixels(picture)
    return np.stack(
        [
            np.stack(
                [
                    array[y : y + side, x : x + side]
                    for x in range(GAP, GAP + columns * (side + GAP), side + GAP)
                ]
            )
            for y in range(top, top + rows * (side + GAP), side + GAP)
        ]
    )


def flat(values, size: int = 8) -> np.ndarray:
    """An image of one colour for each value."""
    values = np.array(values, np.uint8).reshape(len(values), 1, 1, -1)
    return np.broadcast_to(values, (len(values), size, size, values.shape[-1]))


class TestGrid:
    def test_images_fill_row_by_row_with_white_between(self):
        values = [10, 20, 30, 40, 50, 60]
        picture = sample.grid(flat(values), columns=3)
        assert picture.size == (GAP + 3 * (TILE + GAP), GAP + 2 * (TILE + GAP))
        cut = tiles(picture, 2, 3)
        expected = np.array(values).reshape(2, 3, 1, 1, 1)
        assert (cut == expected).all()
        dark = (pixels(picture) < 255).all(-1).sum()
        assert dark == 6 * TILE * TILE

    @pytest.mark.parametrize(
        ("title", "headings", "top"),
        [("", None, 0), ("c1", None, TITLE), ("", ["a", "b"], HEADINGS), ("c1", ["a", "b"], 34)],
    )
    def test_text_stands_above_the_tiles_and_never_on_them(self, title, headings, top):
        picture = sample.grid(flat([100, 100, 100, 100]), 2, title, headings)
        assert (tiles(picture, 2, 2, top=top) == 100).all()
        assert ((pixels(picture)[:top] < 128).any()) == bool(top)

    def test_a_heading_stands_over_its_column(self):
        picture = sample.grid(flat([255] * 3), 3, "", ["", "8", ""])
        _, x, _ = np.nonzero(pixels(picture)[:HEADINGS] < 128)
        assert x.min() > GAP + TILE
        assert x.max() < GAP + 2 * (TILE + GAP)
        assert abs((x.min() + x.max()) / 2 - (picture.width / 2)) <= 3

    def test_an_image_is_neither_turned_nor_mirrored(self):
        image = np.zeros((1, 8, 8, 1), np.uint8)
        image[0, 1, 6] = 255  # second row, last but one column
        cut = tiles(sample.grid(image, 1), 1, 1)[0, 0, ..., 0]
        zoom = TILE // 8
        expected = np.zeros((TILE, TILE), np.uint8)
        expected[zoom : 2 * zoom, 6 * zoom : 7 * zoom] = 255
        assert (cut == expected).all()

    def test_colours_are_kept(self):
        picture = sample.grid(flat([[255, 0, 0], [1, 2, 3]]), 2)
        cut = tiles(picture, 1, 2)
        assert (cut[0, 0] == [255, 0, 0]).all()
        assert (cut[0, 1] == [1, 2, 3]).all()

    def test_of_two_channels_the_first_is_shown(self):
        assert (tiles(sample.grid(flat([[9, 200]]), 1), 1, 1) == 9).all()

    @pytest.mark.parametrize(("size", "side"), [(8, 56), (28, 56), (32, 64), (64, 64), (128, 128)])
    def test_small_images_are_enlarged_by_a_whole_factor(self, size, side):
        picture = sample.grid(flat([7], size), 1)
        assert picture.size == (side + 2 * GAP, side + 2 * GAP)
        assert (tiles(picture, 1, 1, side=side) == 7).all()

    def test_what_is_missing_from_the_last_row_stays_white(self):
        picture = sample.grid(flat([0, 0, 0, 0]), 3)
        cut = tiles(picture, 2, 3)
        assert (cut[1, 0] == 0).all()
        assert (cut[1, 1:] == 255).all()


def test_stacked_pictures_stand_below_each_other_from_the_left():
    pictures = [
        Image.new("RGB", size, colour) for size, colour in [((4, 2), "red"), ((2, 3), "blue")]
    ]
    array = pixels(sample.stack(pictures))
    assert array.shape == (5, 4, 3)
    assert (array[:2] == [255, 0, 0]).all()
    assert (array[2:, :2] == [0, 0, 255]).all()
    assert (array[2:, 2:] == 255).all()


class Echo(nn.Module):
    """A generator whose whole image is one column of its input, from (low, high)."""

    image_range = (0.0, 1.0)

    def __init__(self, column: int, low: float, high: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.column, self.low, self.high = column, low, high

    def forward(self, latent, stats=None):
        assert stats == "running"  # an image must not depend on those beside it
        gray = (latent[:, self.column] - self.low) / (self.high - self.low)
        return gray.view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


#                          input's columns:  0 noise, 1-4 cat, 5 bernoulli, 6-7 uniform
SPEC = LatentSpec(noise=1, codes=(Categorical(4), Bernoulli(), Uniform(-1, 1, dim=2)))


def shades(column: int, code: int, columns: int, blocks: int = 1, rows: int = 3, span=(0.0, 1.0)):
    """The grays [blocks, rows, columns] of a traversal of `code` that shows one input column."""
    picture = sample.traversal(
        Echo(column, *span),  # type: ignore[arg-type]
        SPEC,
        code,
        rows=rows,
    )
    height = TITLE + HEADINGS + GAP + rows * (TILE + GAP)
    assert picture.size == (GAP + columns * (TILE + GAP), blocks * height)
    out = []
    for block in range(blocks):
        cut = tiles(picture, rows, columns, top=block * height + TITLE + HEADINGS)
        assert (cut == cut[:, :, :1, :1, :1]).all()
        out.append(cut[:, :, 0, 0, 0])
    return np.stack(out)


class TestTraversal:
    @pytest.mark.parametrize("category", range(4))
    def test_a_categorical_code_has_one_column_per_category(self, category):
        seen = shades(1 + category, code=0, columns=4)
        assert (seen == 255 * np.eye(4)[category]).all()

    def test_a_bernoulli_code_has_the_columns_0_and_1(self):
        assert (shades(5, code=1, columns=2) == [0, 255]).all()

    @pytest.mark.parametrize("dim", [0, 1])
    def test_a_dim_of_a_continuous_code_goes_from_minus_2_to_2_in_a_block_of_its_own(self, dim):
        seen = shades(6 + dim, code=2, columns=10, blocks=2, span=(-2.0, 2.0))
        assert (seen[dim] == np.round(np.linspace(0, 255, 10))).all()
        other = seen[1 - dim]  # stays what it was along each row
        assert (other == other[:, :1]).all()
        assert len(np.unique(other[:, 0])) == 3

    @pytest.mark.parametrize(("code", "columns", "blocks"), [(0, 4, 1), (1, 2, 1), (2, 10, 2)])
    def test_a_row_shares_its_noise_and_rows_differ(self, code, columns, blocks):
        seen = shades(0, code, columns, blocks, span=(-4.0, 4.0))
        assert (seen == seen[:, :, :1]).all()
        assert len(np.unique(seen[0, :, 0])) == 3

    def test_the_seed_decides_the_noise(self):
        def noise(seed):
            echo = Echo(0, -4.0, 4.0)
            return pixels(sample.traversal(echo, SPEC, 0, rows=2, seed=seed))  # type: ignore[arg-type]

        assert (noise(1) == noise(1)).all()
        assert (noise(1) != noise(2)).any()

    def test_with_a_matching_the_columns_are_in_the_order_of_the_labels(self):
        matching = [2, None, 7, 0]  # categories 3, 0, 2, then 1 that has none
        for category, column in ((3, 0), (0, 1), (2, 2), (1, 3)):
            echo = Echo(1 + category, 0.0, 1.0)
            picture = sample.traversal(echo, SPEC, 0, rows=3, matching=matching)  # type: ignore[arg-type]
            cut = tiles(picture, 3, 4, top=TITLE + HEADINGS)
            assert (cut == 255 * np.eye(4, dtype=int)[column].reshape(1, 4, 1, 1, 1)).all()

    def test_the_order_moves_no_noise_between_rows(self):
        echo = Echo(0, -4.0, 4.0)
        plain, ordered = (
            tiles(sample.traversal(echo, SPEC, 0, rows=3, matching=m), 3, 4, top=34)  # type: ignore[arg-type]
            for m in (None, [2, None, 7, 0])
        )
        assert (plain == ordered).all()


class TestOrdered:
    """`--ordered`, on a run folder that holds an evaluation and no more."""

    @pytest.fixture
    def made(self, tmp_path, monkeypatch):
        """A maker of such a folder."""
        echo = Echo(1, 0.0, 1.0)  # white where the category is 0
        newest = SimpleNamespace(step=7)
        monkeypatch.setattr(run, "load_all", lambda path: ((echo, None, SPEC), None, newest))

        def make(text: str | None) -> Path:
            if text is not None:
                (tmp_path / "eval.json").write_text(text)
            return tmp_path

        return make

    @staticmethod
    def evaluation(code: str = "c1_categorical", matching=(2, 3, 1, 0), step: int = 7) -> str:
        return json.dumps({"step": step, "code_scored": code, "matching": list(matching)})

    @pytest.mark.parametrize("traverse", [None, "c1", "0"])
    def test_it_shows_the_scored_code_alone_in_the_order_of_its_labels(self, made, traverse):
        folder = made(self.evaluation())
        out = folder / "x.png"
        sample.sample(sample.SampleConfig(folder, out, traverse, ordered=True, rows=2))
        with Image.open(out) as picture:
            cut = tiles(picture, 2, 4, top=TITLE + HEADINGS)
        assert (cut.max((0, 2, 3, 4)) == [0, 0, 255, 0]).all()  # category 0 is label 2

    @pytest.mark.parametrize(
        ("text", "traverse", "reason"),
        [
            (None, None, "run `fastinfogan evaluate"),
            ("{", None, "run `fastinfogan evaluate"),
            ("[]", None, "run `fastinfogan evaluate"),
            ('{"code_scored": "c1_categorical"}', None, "run `fastinfogan evaluate"),
            ('{"step": 7, "code_scored": null, "matching": null}', None, "labelled images"),
            (evaluation(step=5), None, "is of update 5, the newest checkpoint of 7; run"),
            (evaluation(), "c3", "labels are matched to c1_categorical"),
            (evaluation(), "c9", "no such code"),
            (evaluation("c7_categorical"), None, "no code of this run"),
            (evaluation("c2_bernoulli"), None, "no code of this run"),
            (evaluation(matching=(1, 0)), None, "2 labels"),
        ],
    )
    def test_without_a_matching_for_it_one_line_says_what_to_do(
        self, made, capsys, text, traverse, reason
    ):
        folder = made(text)
        args = [str(folder), "--ordered", "--out", str(folder / "x.png")]
        if traverse is not None:
            args += ["--traverse", traverse]
        assert sample.main(args) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert reason in said
        assert not (folder / "x.png").exists()


class TestFindCode:
    @pytest.mark.parametrize(
        ("text", "index"),
        [
            ("0", 0),
            ("2", 2),
            ("c1", 0),
            ("c3", 2),
            ("c1_categorical", 0),
            ("c2_bernoulli", 1),
            ("c3_uniform", 2),
        ],
    )
    def test_an_index_or_a_name_finds_its_code(self, text, index):
        assert sample.find_code(SPEC, text) == index

    def test_a_name_of_the_code_s_own_comes_before_an_index(self):
        named = LatentSpec(0, (Uniform(name="slant_x"), Uniform(name="0"), Uniform(name="c1")))
        assert [sample.find_code(named, text) for text in ("slant_x", "0", "c1", "2", "c3")] == [
            *(0, 1, 2),
            *(2, 2),
        ]
        with pytest.raises(UserError, match="slant_x"):
            sample.find_code(named, "slant")

    def test_ten_codes_are_told_apart_from_the_first(self):
        many = LatentSpec(noise=0, codes=(Uniform(),) * 12)
        assert sample.find_code(many, "c1") == 0
        assert sample.find_code(many, "c10") == 9
        assert sample.find_code(many, "11") == 11

    @pytest.mark.parametrize("text", ["3", "-1", "c0", "c4", "", "uniform", "1.0", "c1_uniform"])
    def test_anything_else_is_answered_with_the_codes_there_are(self, text):
        with pytest.raises(UserError) as caught:
            sample.find_code(SPEC, text)
        message = str(caught.value)
        assert "\n" not in message
        assert all(name in message for name in SPEC.names)


class TestSave:
    def test_the_folder_is_made_and_the_pixels_are_kept(self, tmp_path):
        picture = sample.grid(flat([10, 20]), 2)
        path = tmp_path / "new" / "grid.png"
        sample.save(picture, path)
        with Image.open(path) as back:
            assert (np.asarray(back) == pixels(picture)).all()

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(UserError, match=r"cannot write .*file"):
            sample.save(Image.new("RGB", (2, 2)), tmp_path / "file" / "grid.png")
