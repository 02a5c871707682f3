"""Pictures: every tile where it belongs, every column the value it says."""

import numpy as np
import pytest
from helpers.pictures import HEADINGS, SPEC, TITLE, Echo, blues, pixels, tiles
from PIL import Image

from fastinfogan.errors import UserError
from fastinfogan.evaluation import clustering, pictures
from fastinfogan.evaluation.pictures import GAP, draw_contingency
from fastinfogan.evaluation.pictures import MIN_TILE as TILE


def flat(values, size: int = 8) -> np.ndarray:
    """Return an image of one colour for each value."""
    values = np.array(values, np.uint8).reshape(len(values), 1, 1, -1)
    return np.broadcast_to(values, (len(values), size, size, values.shape[-1]))


class TestGrid:
    def test_images_fill_row_by_row_with_white_between(self):
        values = [10, 20, 30, 40, 50, 60]
        picture = pictures.grid(flat(values), columns=3)
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
        picture = pictures.grid(flat([100, 100, 100, 100]), 2, title, headings)
        assert (tiles(picture, 2, 2, top=top) == 100).all()
        assert ((pixels(picture)[:top] < 128).any()) == bool(top)

    def test_a_heading_stands_over_its_column(self):
        picture = pictures.grid(flat([255] * 3), 3, "", ["", "8", ""])
        _, x, _ = np.nonzero(pixels(picture)[:HEADINGS] < 128)
        assert x.min() > GAP + TILE
        assert x.max() < GAP + 2 * (TILE + GAP)
        assert abs((x.min() + x.max()) / 2 - (picture.width / 2)) <= 3

    def test_an_image_is_neither_turned_nor_mirrored(self):
        image = np.zeros((1, 8, 8, 1), np.uint8)
        image[0, 1, 6] = 255  # second row, last but one column
        cut = tiles(pictures.grid(image, 1), 1, 1)[0, 0, ..., 0]
        zoom = TILE // 8
        expected = np.zeros((TILE, TILE), np.uint8)
        expected[zoom : 2 * zoom, 6 * zoom : 7 * zoom] = 255
        assert (cut == expected).all()

    def test_colours_are_kept(self):
        picture = pictures.grid(flat([[255, 0, 0], [1, 2, 3]]), 2)
        cut = tiles(picture, 1, 2)
        assert (cut[0, 0] == [255, 0, 0]).all()
        assert (cut[0, 1] == [1, 2, 3]).all()

    def test_of_two_channels_the_first_is_shown(self):
        assert (tiles(pictures.grid(flat([[9, 200]]), 1), 1, 1) == 9).all()

    @pytest.mark.parametrize(("size", "side"), [(8, 56), (28, 56), (32, 64), (64, 64), (128, 128)])
    def test_small_images_are_enlarged_by_a_whole_factor(self, size, side):
        picture = pictures.grid(flat([7], size), 1)
        assert picture.size == (side + 2 * GAP, side + 2 * GAP)
        assert (tiles(picture, 1, 1, side=side) == 7).all()

    def test_missing_tiles_of_the_last_row_stay_white(self):
        picture = pictures.grid(flat([0, 0, 0, 0]), 3)
        cut = tiles(picture, 2, 3)
        assert (cut[1, 0] == 0).all()
        assert (cut[1, 1:] == 255).all()


def test_stacked_pictures_stand_below_each_other_from_the_left():
    drawn = [Image.new("RGB", size, colour) for size, colour in [((4, 2), "red"), ((2, 3), "blue")]]
    array = pixels(pictures.stack(drawn))
    assert array.shape == (5, 4, 3)
    assert (array[:2] == [255, 0, 0]).all()
    assert (array[2:, :2] == [0, 0, 255]).all()
    assert (array[2:, 2:] == 255).all()


def shades(column: int, code: int, columns: int, blocks: int = 1, rows: int = 3, span=(0.0, 1.0)):
    """Return the grays [blocks, rows, columns] of a traversal that shows one input column."""
    picture = pictures.traversal(
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
            return pixels(pictures.traversal(echo, SPEC, 0, rows=2, seed=seed))  # type: ignore[arg-type]

        assert (noise(1) == noise(1)).all()
        assert (noise(1) != noise(2)).any()

    def test_with_a_matching_the_columns_are_in_the_order_of_the_labels(self):
        matching = [2, None, 7, 0]  # categories 3, 0, 2, then 1 that has none
        for category, column in ((3, 0), (0, 1), (2, 2), (1, 3)):
            echo = Echo(1 + category, 0.0, 1.0)
            picture = pictures.traversal(echo, SPEC, 0, rows=3, matching=matching)  # type: ignore[arg-type]
            cut = tiles(picture, 3, 4, top=TITLE + HEADINGS)
            assert (cut == 255 * np.eye(4, dtype=int)[column].reshape(1, 4, 1, 1, 1)).all()

    def test_the_order_moves_no_noise_between_rows(self):
        echo = Echo(0, -4.0, 4.0)
        plain, ordered = (
            tiles(pictures.traversal(echo, SPEC, 0, rows=3, matching=m), 3, 4, top=34)  # type: ignore[arg-type]
            for m in (None, [2, None, 7, 0])
        )
        assert (plain == ordered).all()


class TestSave:
    def test_the_folder_is_made_and_the_pixels_are_kept(self, tmp_path):
        picture = pictures.grid(flat([10, 20]), 2)
        path = tmp_path / "new" / "grid.png"
        pictures.save(picture, path)
        with Image.open(path) as back:
            assert (np.asarray(back) == pixels(picture)).all()

    def test_a_link_in_its_place_is_replaced_and_not_written_through(self, tmp_path):
        (tmp_path / "others.png").write_text("theirs")
        (tmp_path / "grid.png").symlink_to(tmp_path / "others.png")
        pictures.save(Image.new("RGB", (2, 2)), tmp_path / "grid.png")
        assert (tmp_path / "others.png").read_text() == "theirs"
        assert not (tmp_path / "grid.png").is_symlink()

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(UserError, match=r"cannot write .*file"):
            pictures.save(Image.new("RGB", (2, 2)), tmp_path / "file" / "grid.png")


class TestContingency:
    def test_a_perfect_code_shows_a_diagonal_whatever_its_categories_are_called(self, tmp_path):
        matching = [3, 0, None, 4, 1, 2]
        table = np.zeros((5, 6), np.int64)
        for category, label in enumerate(matching):
            if label is not None:
                table[label, category] = 100
        path = tmp_path / "new" / "contingency.png"
        draw_contingency(table, range(5), matching, "c1_categorical", path)
        y, x = blues(path)
        assert len(y) > 1000
        assert np.corrcoef(y, x)[0, 1] > 0.95

    @pytest.mark.parametrize("shape", [(1, 2), (3, 50), (60, 60)])
    def test_any_table_can_be_drawn(self, tmp_path, shape):
        table = np.random.default_rng(0).integers(0, 999, shape)
        labels = np.arange(shape[0])
        matching = clustering.match_labels(table, labels)
        draw_contingency(table, labels.tolist(), matching, "c1", tmp_path / "x.png")
        with Image.open(tmp_path / "x.png") as picture:
            assert max(picture.size) < 2000
