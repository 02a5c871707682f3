"""Image sources: what each reads, how it fails, and which images an update sees."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.strategies import modest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from fastinfogan import data
from fastinfogan.errors import UserError

ASSETS = Path(data.__file__).parent.parent / "assets" / "mnist"


def load(spec, split="train", *, size=4, channels=1):
    return data.load(str(spec), image_size=size, channels=channels)[split]


def refused(spec, split="train", *, size=4, channels=1) -> str:
    """Return the one line with which `load` refuses."""
    with pytest.raises(UserError) as caught:
        load(spec, split, size=size, channels=channels)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def numbered(n: int, size: int = 4, channels: int = 0) -> np.ndarray:
    """Return n images of which number i is filled with i."""
    shape = (n, size, size) + ((channels,) if channels else ())
    return np.broadcast_to(np.arange(n, dtype=np.uint8).reshape(n, *(1,) * (len(shape) - 1)), shape)


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + np.ascontiguousarray(array, dtype=np.uint8).tobytes()


def write_idx(path: Path, array: np.ndarray) -> Path:
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_idx_folder(folder: Path, suffix: str = "", t10k: bool = True, labels: bool = True):
    """Write 30 training and 5 test images, number i labelled i % 7."""
    folder.mkdir(exist_ok=True)
    for prefix, n in (("train", 30), ("t10k", 5))[: 1 + t10k]:
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", numbered(n))
        if labels:
            write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(n) % 7)
    return folder


def compressible_noise() -> np.ndarray:
    """Return 30 images of four values: deflate then has Huffman tables that damage can hit."""
    return np.random.default_rng(0).integers(0, 4, (30, 4, 4), dtype=np.uint8)


def numbers(images: data.Images) -> list[int]:
    """Return the numbers of these images among those of `numbered`."""
    read = images.images[:]
    first = read[:, 0, 0, 0]
    assert (read == first[:, None, None, None]).all()
    return first.tolist()


def write_picture(path: Path, colour, size=(8, 8), mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


TENTHS = [i for i in range(30) if i % 10 == 9]
REST = [i for i in range(30) if i % 10 != 9]


class TestEmbeddedMnist:
    @pytest.mark.parametrize(
        ("name", "md5"),
        [
            ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
            ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
            ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
        ],
    )
    def test_its_files_are_the_official_ones(self, name, md5):
        content = (ASSETS / name).read_bytes()
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == md5

    @pytest.mark.parametrize(
        ("split", "per_class", "first_labels", "mean"),
        [
            (
                "train",
                [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
                [5, 0, 4, 1, 9, 2, 1, 3, 1, 4],
                0.1307,
            ),
            (
                "test",
                [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
                [7, 2, 1, 0, 4, 1, 4, 9, 5, 9],
                0.1325,
            ),
        ],
    )
    def test_it_holds_the_published_digits(self, split, per_class, first_labels, mean):
        read = load("mnist", split, size=28)
        assert read.images.shape == (sum(per_class), 28, 28, 1)
        assert read.images.dtype == np.uint8
        assert np.bincount(read.labels).tolist() == per_class
        assert read.labels[:10].tolist() == first_labels
        # the mean that everybody normalises MNIST by, to its four published digits
        assert round(read.images.mean() / 255, 4) == mean

    def test_its_images_are_writable_as_torch_wants_them(self):
        assert load("mnist", "test", size=28).images.flags.writeable


class TestIdx:
    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_a_folder_gives_both_splits_with_labels(self, tmp_path, suffix):
        folder = write_idx_folder(tmp_path, suffix)
        train, test = load(f"idx:{folder}"), load(f"idx:{folder}", "test")
        assert numbers(train) == list(range(30))
        assert train.labels.tolist() == [i % 7 for i in range(30)]
        assert numbers(test) == list(range(5))
        assert test.labels.tolist() == list(range(5))
        assert train.images.shape == (30, 4, 4, 1)

    def test_without_t10k_files_every_tenth_image_is_held_out(self, tmp_path):
        folder = write_idx_folder(tmp_path, t10k=False)
        train, test = load(f"idx:{folder}"), load(f"idx:{folder}", "test")
        assert numbers(train) == REST
        assert numbers(test) == TENTHS
        assert train.labels.tolist() == [i % 7 for i in REST]
        assert test.labels.tolist() == [i % 7 for i in TENTHS]

    def test_a_folder_without_labels_gives_none(self, tmp_path):
        folder = write_idx_folder(tmp_path, labels=False)
        assert load(f"idx:{folder}").labels is None
        assert load(f"idx:{folder}", "test").labels is None

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_a_single_file_takes_the_labels_next_to_it(self, tmp_path, suffix):
        path = write_idx(tmp_path / f"my-images-idx3-ubyte{suffix}", numbered(30))
        write_idx(tmp_path / f"my-labels-idx1-ubyte{suffix}", np.arange(30) % 7)
        train, test = load(f"idx:{path}"), load(f"idx:{path}", "test")
        assert (numbers(train), numbers(test)) == (REST, TENTHS)
        assert test.labels.tolist() == [i % 7 for i in TENTHS]

    @pytest.mark.parametrize("name", ["my-images-idx3-ubyte", "anything.idx", "anything.idx.gz"])
    def test_a_single_file_needs_no_labels(self, tmp_path, name):
        path = write_idx(tmp_path / name, numbered(30))
        read = load(f"idx:{path}")
        assert numbers(read) == REST
        assert read.labels is None

    def test_a_rank_4_file_holds_colour_images(self, tmp_path):
        path = write_idx(tmp_path / "colour.idx", numbered(20, channels=3))
        assert load(f"idx:{path}", channels=3).images.shape == (18, 4, 4, 3)

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"\0\0\x08", id="shorter than its magic"),
            pytest.param(b"P5 4 4 255\n" + bytes(16), id="another format"),
            pytest.param(b"\0\0\x0d\x03" + bytes(12), id="floats"),
            pytest.param(b"\1\0\x08\x03" + bytes(12), id="wrong magic"),
            pytest.param(b"\0\0\x08\x03" + bytes(5), id="torn header"),
            pytest.param(idx_bytes(numbered(30))[:-1], id="one byte short"),
            pytest.param(idx_bytes(numbered(30)) + b"\0", id="one byte long"),
            pytest.param(b"\0\0\x08\x03" + b"\xff" * 12, id="absurd sizes"),
            pytest.param(idx_bytes(np.arange(30)), id="labels"),
        ],
    )
    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_a_file_that_is_not_whole_or_not_images_is_named_in_one_line(
        self, tmp_path, content, suffix
    ):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(gzip.compress(content) if suffix else content)
        assert str(path) in refused(f"idx:{path}")

    def test_a_gz_suffix_on_a_plain_file_is_refused(self, tmp_path):
        path = tmp_path / "x.gz"
        path.write_bytes(idx_bytes(numbered(30)))
        assert str(path) in refused(f"idx:{path}")

    @given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
    @example(at=10, flip=6)  # the first deflate block's type
    @modest
    def test_no_damage_to_a_gz_file_goes_unnoticed_or_unexplained(self, tmp_path_factory, at, flip):
        noise = compressible_noise()
        content = bytearray(gzip.compress(idx_bytes(noise), mtime=0))
        content[at % len(content)] ^= flip
        path = tmp_path_factory.mktemp("idx") / "x.gz"
        for damaged in (content, content[: at % len(content)]):
            path.write_bytes(damaged)
            try:
                read = load(f"idx:{path}")
            except UserError as error:
                assert str(path) in str(error)  # noqa: PT017
            else:  # what does not matter to gzip, such as its time stamp
                assert (read.images[..., 0] == np.delete(noise, [9, 19, 29], axis=0)).all()

    def test_labels_of_another_length_are_refused(self, tmp_path):
        folder = write_idx_folder(tmp_path)
        write_idx(folder / "train-labels-idx1-ubyte", np.arange(29))
        assert "labels must be 30 integers" in refused(f"idx:{folder}")

    def test_a_folder_without_idx_files_says_which_name_is_missing(self, tmp_path):
        message = refused(f"idx:{tmp_path}")
        assert str(tmp_path) in message
        assert "train-images-idx3-ubyte" in message

    def test_a_missing_path_is_named(self, tmp_path):
        assert f"{tmp_path / 'nowhere'}" in refused(f"idx:{tmp_path / 'nowhere'}")


class TestNpz:
    @pytest.mark.parametrize(("channels", "given"), [(1, 0), (1, 1), (3, 3)])
    def test_images_with_and_without_a_channel_axis(self, tmp_path, channels, given):
        path = tmp_path / "x.npz"
        np.savez(path, images=numbered(30, channels=given))
        train, test = (load(f"npz:{path}", s, channels=channels) for s in ("train", "test"))
        assert (numbers(train), numbers(test)) == (REST, TENTHS)
        assert train.images.shape == (27, 4, 4, channels)
        assert train.labels is None

    @pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
    def test_labels_follow_their_images(self, tmp_path, dtype):
        path = tmp_path / "x.npz"
        np.savez_compressed(path, images=numbered(30), labels=(np.arange(30) % 7).astype(dtype))
        test = load(f"npz:{path}", "test")
        assert test.labels.tolist() == [i % 7 for i in TENTHS]
        assert test.labels.dtype == np.int64

    @pytest.mark.parametrize(
        ("arrays", "reason"),
        [
            ({"pictures": numbered(30)}, '"images"'),
            ({"images": numbered(30).astype(np.float32)}, "uint8, got float32"),
            ({"images": numbered(30).reshape(30, 16)}, r"[30, 16]"),
            ({"images": numbered(30)[None, None]}, r"[1, 1, 30, 4, 4]"),
            ({"images": numbered(30), "labels": np.arange(29)}, "labels must be 30 integers"),
            ({"images": numbered(30), "labels": np.arange(30.0)}, "float64"),
            ({"images": numbered(30), "labels": np.zeros((30, 1), int)}, "[30, 1]"),
            ({"images": np.array([{"a": 1}] * 30, dtype=object)}, "not a readable .npz"),
            (
                {"images": numbered(30), "labels": np.array([None] * 30, dtype=object)},
                "not a readable .npz",
            ),
            ({"images": numbered(0)}, "no images"),
        ],
    )
    def test_arrays_that_do_not_fit_are_refused_with_the_reason(self, tmp_path, arrays, reason):
        path = tmp_path / "x.npz"
        np.savez(path, **arrays)
        message = refused(f"npz:{path}")
        assert reason in message
        assert str(path) in message

    def test_a_pickle_is_never_loaded(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return (pytest.fail, ("a pickle was executed",))

        path = tmp_path / "x.npz"
        np.savez(path, images=np.array([Trap()] * 30, dtype=object))
        refused(f"npz:{path}")

    @pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + bytes(40)])
    def test_a_file_that_is_not_an_npz_is_refused(self, tmp_path, content):
        path = tmp_path / "x.npz"
        path.write_bytes(content)
        assert str(path) in refused(f"npz:{path}")

    def test_a_bare_npy_is_refused(self, tmp_path):
        path = tmp_path / "x.npy"
        np.save(path, numbered(30))
        assert str(path) in refused(f"npz:{path}")

    def test_a_missing_file_is_named(self, tmp_path):
        assert str(tmp_path / "x.npz") in refused(f"npz:{tmp_path / 'x.npz'}")

    @given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
    @modest
    def test_no_damage_goes_unnoticed_or_unexplained(self, tmp_path_factory, at, flip):
        noise = compressible_noise()
        path = tmp_path_factory.mktemp("npz") / "x.npz"
        np.savez_compressed(path, images=noise)
        content = bytearray(path.read_bytes())
        content[at % len(content)] ^= flip
        for damaged in (content, content[: at % len(content)]):
            path.write_bytes(damaged)
            try:
                read = load(f"npz:{path}")
            except UserError as error:
                assert str(path) in str(error)  # noqa: PT017
            else:
                assert (read.images[..., 0] == np.delete(noise, [9, 19, 29], axis=0)).all()


class TestFolder:
    def test_class_folders_are_the_labels_in_the_order_of_their_names(self, tmp_path):
        for i in range(10):
            write_picture(tmp_path / "cat" / "deep" / f"{i}.png", (i, i, i))
            write_picture(tmp_path / "ant" / f"{i}.png", (100 + i,) * 3)
        train, test = (load(f"folder:{tmp_path}", s) for s in ("train", "test"))
        assert numbers(train) == [100 + i for i in range(9)] + list(range(9))
        assert train.labels.tolist() == [0] * 9 + [1] * 9
        assert numbers(test) == [109, 9]
        assert test.labels.tolist() == [0, 1]

    @pytest.mark.parametrize("nested", [False, True])
    def test_images_outside_class_folders_mean_no_labels(self, tmp_path, nested):
        for i in range(10):
            write_picture(tmp_path / f"{i}.png", (i, i, i))
        if nested:
            write_picture(tmp_path / "ant" / "x.png", (50, 50, 50))
        assert load(f"folder:{tmp_path}").labels is None

    def test_the_central_square_is_taken_and_scaled(self, tmp_path):
        # 8 wide bands: black, a white square, black, across and down
        wide, tall = np.zeros((8, 24), np.uint8), np.zeros((24, 8), np.uint8)
        wide[:, 8:16] = tall[8:16] = 255
        for i in range(5):
            Image.fromarray(wide).save(tmp_path / f"wide{i}.png")
            Image.fromarray(tall).save(tmp_path / f"tall{i}.png")
        read = load(f"folder:{tmp_path}", size=8)
        assert read.images.shape == (9, 8, 8, 1)
        assert (read.images == 255).all()

    @pytest.mark.parametrize("size", [4, 8, 12])
    def test_images_of_mixed_sizes_get_the_requested_size(self, tmp_path, size):
        for i, shape in enumerate([(3, 3), (8, 8), (40, 20), (20, 41)] * 3):
            write_picture(tmp_path / f"{i:02}.png", (i, i, i), shape)
        read = load(f"folder:{tmp_path}", size=size)
        assert read.images.shape == (11, size, size, 1)
        assert numbers(read) == [i for i in range(12) if i != 9]

    @pytest.mark.parametrize(
        ("mode", "colour", "rgb", "gray"),
        [
            ("RGB", (200, 100, 50), [200, 100, 50], 124),  # ITU-R 601: .299, .587, .114
            ("L", 77, [77, 77, 77], 77),
            ("RGBA", (200, 100, 50, 255), [200, 100, 50], 124),
        ],
    )
    def test_colour_and_gray_follow_the_requested_channels(self, tmp_path, mode, colour, rgb, gray):
        for i in range(10):
            write_picture(tmp_path / f"{i}.png", colour, mode=mode)
        colours = load(f"folder:{tmp_path}", channels=3).images
        assert (colours == rgb).all()
        assert (load(f"folder:{tmp_path}", channels=1).images == gray).all()

    def test_sixteen_bit_gray_keeps_its_brightness(self, tmp_path):
        for i in range(10):
            Image.fromarray(np.full((8, 8), 100 * 257, np.uint16)).save(tmp_path / f"{i}.png")
        assert (load(f"folder:{tmp_path}").images == 100).all()

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's own words on a torn TIFF
    @pytest.mark.parametrize("keep", [0, 20, 60, 300])
    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".webp", ".tif"])
    def test_a_broken_image_is_named(self, tmp_path, keep, suffix):
        write_picture(tmp_path / "0.png", (0, 0, 0))
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        broken = tmp_path / f"5{suffix}"
        Image.fromarray(noise).save(broken)
        assert broken.stat().st_size > 900
        broken.write_bytes(broken.read_bytes()[:keep])
        assert str(broken) in refused(f"folder:{tmp_path}")

    def test_other_files_are_passed_over(self, tmp_path):
        for i in range(10):
            write_picture(tmp_path / f"{i}.PNG", (i, i, i))
        (tmp_path / "notes.txt").write_text("not an image")
        assert len(load(f"folder:{tmp_path}")) == 9

    def test_a_folder_without_images_says_what_counts_as_one(self, tmp_path):
        (tmp_path / "notes.txt").write_text("not an image")
        message = refused(f"folder:{tmp_path}")
        assert str(tmp_path) in message
        assert ".png" in message

    def test_a_missing_folder_is_named(self, tmp_path):
        assert str(tmp_path / "x") in refused(f"folder:{tmp_path / 'x'}")

    def test_two_channels_are_refused(self, tmp_path):
        write_picture(tmp_path / "0.png", (0, 0, 0))
        assert "--channels" in refused(f"folder:{tmp_path}", channels=2)

    def test_too_few_images_for_a_test_split_are_refused_for_that_split(self, tmp_path):
        for i in range(9):
            write_picture(tmp_path / f"{i}.png", (i, i, i))
        assert "no images in the test split" in refused(f"folder:{tmp_path}")


@pytest.mark.parametrize("spec", ["", "cifar", "npz:", "folder:", "idx:", "zip:x", "MNIST"])
def test_an_unknown_spec_is_answered_with_the_known_ones(spec):
    message = refused(spec)
    assert all(known in message for known in ("mnist", "idx:PATH", "npz:PATH", "folder:PATH"))


def test_another_size_is_answered_with_the_option_to_pass(tmp_path):
    np.savez(tmp_path / "x.npz", images=numbered(30, size=12))
    message = refused(f"npz:{tmp_path / 'x.npz'}", size=28)
    assert "12x12" in message
    assert "--image-size 12" in message


def test_images_that_are_not_square_are_answered_with_folder(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((30, 4, 8), np.uint8))
    message = refused(f"npz:{tmp_path / 'x.npz'}")
    assert "4x8" in message
    assert "folder:" in message


@pytest.mark.parametrize(("there", "requested"), [(3, 1), (1, 3)])
def test_other_channels_are_answered_with_the_option_to_pass(tmp_path, there, requested):
    np.savez(tmp_path / "x.npz", images=numbered(30, channels=there))
    message = refused(f"npz:{tmp_path / 'x.npz'}", channels=requested)
    assert f"--channels {there}" in message


class TestRange:
    every_value = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)

    @pytest.mark.parametrize("image_range", [(0.0, 1.0), (-1.0, 1.0)])
    def test_all_256_values_come_back_exactly(self, image_range):
        scaled = data.to_range(self.every_value, image_range)
        assert scaled.dtype == torch.float32
        assert torch.equal(data.from_range(scaled, image_range), self.every_value)

    @pytest.mark.parametrize("image_range", [(0.0, 1.0), (-1.0, 1.0)])
    def test_black_and_white_are_the_ends_of_the_range(self, image_range):
        low, high = image_range
        scaled = data.to_range(self.every_value, image_range).flatten().double()
        straight = torch.linspace(low, high, 256, dtype=torch.float64)
        # two fp32 roundings of values up to 1
        torch.testing.assert_close(scaled, straight, rtol=0, atol=2 * 2.0**-23)
        assert scaled[0] == low
        assert scaled[-1] == high

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_values_outside_the_range_are_clamped(self, dtype):
        outside = torch.tensor([-0.5, -1e-3, 1.001, 7.0], dtype=dtype).reshape(1, 1, 2, 2)
        back = data.from_range(outside, (0.0, 1.0))
        assert back.flatten().tolist() == [0, 0, 255, 255]

    @pytest.mark.parametrize("channels", [1, 3])
    def test_pixels_keep_their_place_and_the_layout_is_channels_last(self, channels):
        images = torch.arange(2 * 4 * 4 * channels, dtype=torch.uint8).reshape(2, 4, 4, channels)
        scaled = data.to_range(images, (0.0, 255.0))
        assert scaled.shape == (2, channels, 4, 4)
        assert scaled.is_contiguous(memory_format=torch.channels_last)
        assert all(scaled[1, c, 2, 3] == images[1, 2, 3, c] for c in range(channels))
        assert torch.equal(data.from_range(scaled, (0.0, 255.0)), images)

    def test_the_input_stays_as_it_was(self):
        images = self.every_value.clone()
        data.to_range(images, (-1.0, 1.0)).zero_()
        assert torch.equal(images, self.every_value)


class TestBatchSampler:
    @staticmethod
    def sampler(n, batch, *, seed=0, rank=0, world=1):
        images = torch.arange(n).reshape(n, 1, 1, 1)
        return data.BatchSampler(images, batch_size=batch, seed=seed, rank=rank, world_size=world)

    @given(
        batch=st.integers(1, 6),
        world=st.integers(1, 4),
        spare=st.integers(0, 40),
        seed=st.integers(0, 2**63 - 1),
    )
    @example(batch=3, world=2, spare=0, seed=0)  # exactly one global batch
    @modest
    def test_ranks_share_the_batches_that_one_rank_draws(self, batch, world, spare, seed):
        n = batch * world + spare
        alone = self.sampler(n, batch * world, seed=seed)
        ranks = [self.sampler(n, batch, seed=seed, rank=r, world=world) for r in range(world)]
        steps = range(2 * (n // (batch * world)) + 1)
        for step in steps:
            together = torch.cat([rank.indices(step) for rank in ranks])
            assert torch.equal(together, alone.indices(step))
            assert together.dtype == torch.int64

    @given(batch=st.integers(1, 8), n=st.integers(8, 60), seed=st.integers(0, 2**63 - 1))
    @modest
    def test_an_epoch_shows_no_image_twice_and_leaves_out_less_than_a_batch(self, batch, n, seed):
        sampler = self.sampler(n, batch, seed=seed)
        per_epoch = n // batch
        for epoch in range(2):
            steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
            seen = torch.cat([sampler.indices(step) for step in steps]).tolist()
            assert len(set(seen)) == len(seen) == n - n % batch
            assert set(seen) <= set(range(n))

    def test_the_same_seed_step_and_rank_draw_the_same_batch_in_any_order(self):
        first, second = (self.sampler(50, 4, seed=3, rank=1, world=2) for _ in range(2))
        forwards = [first.indices(step).tolist() for step in range(20)]
        backwards = [second.indices(step).tolist() for step in reversed(range(20))]
        assert forwards == backwards[::-1]

    def test_epochs_and_seeds_have_orders_of_their_own(self):
        one = self.sampler(64, 64, seed=0)
        orders = {tuple(one.indices(epoch).tolist()) for epoch in range(5)}
        orders |= {tuple(self.sampler(64, 64, seed=s).indices(0).tolist()) for s in range(1, 5)}
        assert len(orders) == 9

    def test_the_batch_is_the_images_at_its_indices(self):
        images = torch.randint(0, 256, (20, 4, 4, 3), dtype=torch.uint8)
        sampler = data.BatchSampler(images, batch_size=5, seed=1)
        for step in range(6):
            assert torch.equal(sampler(step), images[sampler.indices(step)])
            assert sampler(step).dtype == torch.uint8

    def test_drawing_a_batch_reads_nothing_on_the_host(self, no_host_read):
        sampler = self.sampler(20, 5)
        with no_host_read():
            for step in range(6):
                sampler(step)

    @pytest.mark.parametrize(("n", "batch", "world"), [(7, 8, 1), (15, 8, 2), (0, 2, 1)])
    def test_fewer_images_than_one_global_batch_are_refused(self, n, batch, world):
        with pytest.raises(UserError, match=f"{n} training images.*{batch * world}.*--batch-size"):
            self.sampler(n, batch, world=world)
