"""dSprites' archive: what is read of it, how its factors are reached, how it fails."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.sets import assert_names, labels_of, load, own_folders, refused
from helpers.strategies import modest
from hypothesis import example, given
from hypothesis import strategies as st

from fastinfogan import data
from fastinfogan.data import dsprites
from fastinfogan.data import streaming as stream
from fastinfogan.data.sprites import FACTORS
from fastinfogan.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_folders(tmp_path, monkeypatch)


SMALL = (3, 2, 4, 2, 2)


def write_dsprites(
    folder: Path, *, compressed: bool = True, sizes: tuple[int, ...] = SMALL, **changed: Any
) -> Path:
    """Return an archive of a small grid; image i's pixels are the bits of i."""
    folder.mkdir(parents=True, exist_ok=True)
    n = int(np.prod(sizes))
    bits = (np.arange(n)[:, None] >> np.arange(16)) & 1
    arrays: dict[str, Any] = {
        "metadata": np.array({"title": "a pickle, as the original has one"}, dtype=object),
        "imgs": np.tile(bits, 4).reshape(n, 8, 8).astype(np.uint8),
        "latents_classes": np.stack([np.zeros(n, int), *np.unravel_index(np.arange(n), sizes)], 1),
        **changed,
    }
    path = folder / dsprites.ARCHIVE
    save = np.savez_compressed if compressed else np.savez
    save(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def row_numbers(images: np.ndarray) -> list[int]:
    """Return the numbers of these images among those of `write_dsprites`."""
    assert set(np.unique(images)) <= {0, 255}
    return list((images.reshape(len(images), -1)[:, :16] // 255) @ (1 << np.arange(16)))


@pytest.mark.parametrize("mode", ["never", "always"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("place", ["data/dsprites", "data", "dsprites-dataset", "cache"])
def test_dsprites_is_whole_in_both_splits_and_labelled_by_shape(
    cache: Path, place: str, compressed: bool, mode: stream.Mode
) -> None:
    folder = cache / "dsprites" if place == "cache" else Path(place)
    write_dsprites(folder, compressed=compressed)
    for split in load("dsprites", 8, 1, mode).values():
        assert split.images.shape == (96, 8, 8, 1)
        assert isinstance(split.images, stream.Streamed) is (mode == "always")
        assert row_numbers(split.images[:]) == list(range(96))
        assert labels_of(split) == [0] * 32 + [1] * 32 + [2] * 32


def test_dsprites_factors_lead_to_their_images_and_back() -> None:
    write_dsprites(Path("dsprites"))
    grid = load("dsprites", 8, 1)["test"].grid
    assert grid is not None
    assert (grid.sizes, grid.names) == (SMALL, FACTORS)
    factors = np.array([[2, 1, 3, 0, 1], [0, 0, 1, 1, 0]])
    rows = [2 * 32 + 16 + 3 * 4 + 1, 4 + 2]
    assert grid.rows(factors).tolist() == rows
    assert grid.factors(np.array(rows)).tolist() == factors.tolist()
    assert row_numbers(grid.images(factors)) == rows


def test_a_compressed_archive_is_decoded_once_and_a_stored_one_never(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dsprites(Path("dsprites"), compressed=False)
    load("dsprites", 8, 1, "always")
    assert not cache.exists()
    write_dsprites(Path("dsprites"))
    for times in (1, 0, 0):
        load("dsprites", 8, 1, "always")
        assert capsys.readouterr().err.count("decoding") == times
    (decoded,) = cache.glob("*.npy")
    assert row_numbers(np.load(decoded) * 255) == list(range(96))
    decoded.write_bytes(decoded.read_bytes()[:-1])  # a torn one does not count
    load("dsprites", 8, 1, "always")
    assert capsys.readouterr().err.count("decoding") == 1
    assert not list(cache.glob("*.partial"))


def test_dsprites_batches_are_the_same_streamed_and_resident() -> None:
    write_dsprites(Path("dsprites"))
    here, there = (
        data.batches(
            load("dsprites", 8, 1, mode)["train"].images,
            torch.device("cpu"),
            batch_size=8,
            seed=1,
        )
        for mode in ("always", "never")
    )
    for step in range(15):
        assert torch.equal(here(step), there(step))
    here.close()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"imgs": None}, "imgs and latents_classes"),
        ({"latents_classes": None}, "imgs and latents_classes"),
        ({"imgs": np.zeros((95, 8, 8), np.uint8)}, "95 images, but classes of 96"),
        ({"imgs": np.zeros((96, 8, 8))}, "float64"),
        ({"imgs": np.zeros((96, 64), np.uint8)}, "[96, 64]"),
        ({"latents_classes": np.zeros((96, 5), int)}, "[N, 6]"),
        ({"latents_classes": np.zeros((96, 6))}, "float64"),
        ({"latents_classes": np.zeros((0, 6), int)}, "no images"),
        ({"latents_classes": np.zeros((96, 6), int)}, "every combination"),
        ({"latents_classes": np.array([{}])}, "not a readable dSprites archive"),
        ({"sizes": (3, 2, 4, 2, 2), "imgs": np.zeros((96, 4, 4), np.uint8)}, "--image-size 4"),
    ],
)
def test_an_archive_that_is_not_dsprites_is_refused_by_the_reason(
    changed: dict[str, Any], reason: str
) -> None:
    write_dsprites(Path("dsprites"), **changed)
    assert reason in refused("dsprites", 8, 1)


def test_rows_in_another_order_are_refused() -> None:
    order = np.random.default_rng(0).permutation(96)
    classes = np.stack([np.zeros(96, int), *np.unravel_index(order, SMALL)], 1)
    write_dsprites(Path("dsprites"), latents_classes=classes)
    assert "in order" in refused("dsprites", 8, 1)


@given(at=st.integers(0, 5000), flip=st.integers(1, 255))
@example(at=414, flip=1)  # in an array's header: numpy's parser raises what it likes
@modest
def test_damage_to_an_archive_is_refused_by_name_or_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, at: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("dsprites")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder))
        path = write_dsprites(Path("dsprites"))
        content = bytearray(path.read_bytes())
        content[at % len(content)] ^= flip
        for damaged in (content, content[: at % len(content)]):
            path.write_bytes(damaged)
            try:
                read = load("dsprites", 8, 1)["train"]
            except UserError as error:
                assert_names(error, dsprites.ARCHIVE)
            else:
                assert row_numbers(read.images[:]) == list(range(96))


def test_a_disk_too_full_to_decode_is_reported_before_decoding(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dsprites(Path("dsprites"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    message = refused("dsprites", 8, 1)
    assert "XDG_CACHE_HOME" in message
    assert str(cache) in message


def test_a_cache_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    write_dsprites(Path("dsprites"))
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert "XDG_CACHE_HOME" in refused("dsprites", 8, 1)
