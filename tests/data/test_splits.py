"""Sets that have a name: where they are looked for, what is read of them, how it fails."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.sets import assert_names, labels_of, load, noise, own_folders, pixels, refused
from helpers.strategies import modest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from fastinfogan import data
from fastinfogan.data import dsprites
from fastinfogan.data import splits as sources
from fastinfogan.data import streaming as stream
from fastinfogan.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_folders(tmp_path, monkeypatch)


# What is nowhere


@pytest.mark.parametrize(
    ("spec", "file", "where"),
    [
        ("fashion-mnist", "train-images-idx3-ubyte", "zalandoresearch"),
        ("emnist-letters", "emnist-letters-train-images-idx3-ubyte", "https://www.nist.gov"),
        ("svhn", "train_32x32.mat", "http://ufldl.stanford.edu/housenumbers"),
        ("celeba", "img_align_celeba", "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"),
        ("dsprites", dsprites.ARCHIVE, "https://github.com/google-deepmind/dsprites-dataset"),
    ],
)
def test_a_missing_set_says_where_it_was_sought_where_to_get_it_and_where_to_put_it(
    cache: Path, spec: str, file: str, where: str
) -> None:
    message = refused(spec)
    for part in (spec, file, where, f"data/{spec}", f" {spec},", f"into {cache / spec}"):
        assert part in message


def test_a_missing_dsprites_offers_dsprites_like() -> None:
    assert "dsprites-like" in refused("dsprites")


def test_the_cache_is_the_home_folders_where_none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert sources.cache() == Path("/home/someone/.cache/fastinfogan")


@pytest.mark.parametrize("spec", ["svhn", "fashion-mnist", "emnist-letters", "mnist"])
def test_sets_that_are_read_whole_cannot_be_streamed(spec: str) -> None:
    assert f"can be streamed, not {spec}" in refused(spec, mode="always")


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    message = refused("cifar10")
    for spec in ("svhn", "celeba", "dsprites", "dsprites-like", "hf:ID[:CONFIG]", "npy:PATH"):
        assert spec in message


def test_decoding_that_takes_a_while_shows_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_celeba(Path("celeba"), 25)
    monkeypatch.setattr(sources, "READ_AT_ONCE", 4)
    load("celeba")
    assert not capsys.readouterr().err  # it took no while
    monkeypatch.setattr(sources, "QUIET_SECONDS", 0)
    load("celeba")
    shown = capsys.readouterr().err
    assert "decoding" in shown
    assert "23/23" in shown
    monkeypatch.setenv("LOCAL_RANK", "1")  # one rank shows it for all
    load("celeba")
    assert not capsys.readouterr().err


# idx, and torchvision's folders for it


def write_idx(folder: Path, first: int, t10k: bool = True) -> None:
    """Write ten training images, filled with `first` and on, and five test images of 100 and on."""
    folder.mkdir(parents=True)
    for prefix, n, start in (("train", 10, first), ("t10k", 5, 100))[: 1 + t10k]:
        values = np.arange(start, start + n, dtype=np.uint8)
        images = np.repeat(values, 16).tobytes()
        header = struct.pack(">4B3I", 0, 0, 8, 3, n, 4, 4)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images)
        labels = struct.pack(">4BI", 0, 0, 8, 1, n) + values.tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)


@pytest.mark.parametrize(
    "place",
    ["data/fashion-mnist", "data/FashionMNIST/raw", "fashion-mnist", "FashionMNIST/raw", "debian"],
)
def test_fashion_mnist_is_found_in_its_own_torchvisions_and_debians_folders(
    tmp_path: Path, place: str
) -> None:
    write_idx(tmp_path / place if place == "debian" else Path(place), 0)
    train, test = load("fashion-mnist", 4, 1).values()
    assert labels_of(train) == list(range(10))
    assert labels_of(test) == [100, 101, 102, 103, 104]


def test_a_local_folder_goes_before_the_cache(cache: Path) -> None:
    write_idx(cache / "fashion-mnist", 50)
    assert labels_of(load("fashion-mnist", 4, 1)["train"])[0] == 50
    write_idx(Path("data/fashion-mnist"), 0)
    assert labels_of(load("fashion-mnist", 4, 1)["train"])[0] == 0


def write_emnist(folder: Path, labels: Sequence[int] = (1, 2, 26), test: bool = True) -> None:
    """Write EMNIST's letters as published: on their side. Row r, column c of image n is 4r + c + n.

    Next to them lies another set of EMNIST's, as in its archive.
    """
    folder.mkdir(parents=True)
    upright = np.arange(16, dtype=np.uint8).reshape(4, 4)
    for name in ("letters", "digits"):
        for part in ("train", "test")[: 1 + test]:
            images = np.stack([upright.T + n for n in range(len(labels))])
            stem = folder / f"emnist-{name}-{part}"
            header = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
            Path(f"{stem}-images-idx3-ubyte.gz").write_bytes(
                gzip.compress(header + images.tobytes())
            )
            header = struct.pack(">4BI", 0, 0, 8, 1, len(labels))
            Path(f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + bytes(labels)))


@pytest.mark.parametrize("place", ["data/emnist-letters", "data/EMNIST/raw", "emnist", "cache"])
def test_emnists_letters_are_found_among_its_other_sets_upright_and_counted_from_0(
    cache: Path, place: str
) -> None:
    write_emnist(cache / "emnist-letters" if place == "cache" else Path(place))
    train, test = load("emnist-letters", 4, 1).values()
    for part in (train, test):
        assert labels_of(part) == [0, 1, 25]
        assert "".join(part.label_names[i] for i in labels_of(part)) == "abz"
        assert pixels(part)[1, ..., 0].tolist() == (np.arange(16).reshape(4, 4) + 1).tolist()


def test_emnists_letters_without_test_files_hold_out_every_tenth() -> None:
    write_emnist(Path("data/emnist"), labels=range(1, 21), test=False)
    train, test = load("emnist-letters", 4, 1).values()
    assert (len(train), len(test)) == (18, 2)


@pytest.mark.parametrize("labels", [(0, 1), (1, 27)])
def test_files_whose_labels_are_not_emnists_letters_are_refused(labels: tuple[int, int]) -> None:
    write_emnist(Path("data/emnist-letters"), labels)
    assert f"must be 1 … 26, got {labels[0]} … {labels[1]}" in refused("emnist-letters", 4, 1)


@pytest.mark.parametrize(
    ("there", "given"), [("root", "root"), ("root/raw", "root"), ("root/MNIST/raw", "root")]
)
def test_idx_takes_torchvisions_root_and_the_folder_of_one_of_its_sets(
    there: str, given: str
) -> None:
    write_idx(Path(there), 0)
    train, test = load(f"idx:{given}", 4, 1).values()
    assert (len(train), labels_of(test)[0]) == (10, 100)


# SVHN


def write_svhn(folder: Path, name: str, n: int, *, compress: bool = False, **changed: Any) -> Path:
    """Write Matlab's [H, W, 3, N] and [N, 1], digits 1 to 10."""
    folder.mkdir(parents=True, exist_ok=True)
    images = noise(n, 32).transpose(1, 2, 3, 0)
    digits = (np.arange(n) % 10 + 1).astype(np.uint8)[:, None]
    arrays = {k: v for k, v in {"X": images, "y": digits, **changed}.items() if v is not None}
    savemat(folder / name, arrays, do_compression=compress)
    return folder / name


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("place", ["data/svhn", "svhn", "data", "SVHN", "cache"])
def test_svhns_images_are_upright_and_its_tens_are_noughts(
    cache: Path, place: str, compress: bool
) -> None:
    folder = cache / "svhn" if place == "cache" else Path(place)
    write_svhn(folder, "train_32x32.mat", 25, compress=compress)
    write_svhn(folder, "test_32x32.mat", 12, compress=compress)
    train, test = load("svhn", 32).values()
    assert (pixels(train) == noise(25, 32)).all()
    assert (pixels(test) == noise(12, 32)).all()
    assert labels_of(test) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert pixels(train).flags.c_contiguous


def test_without_its_test_file_every_tenth_of_svhns_images_is_held_out() -> None:
    write_svhn(Path("svhn"), "train_32x32.mat", 30)
    train, test = load("svhn", 32).values()
    assert (pixels(test) == noise(30, 32)[9::10]).all()
    assert (len(train), labels_of(test)) == (27, [0, 0, 0])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"X": None}, "with X and y"),
        ({"y": None}, "with X and y"),
        ({"X": noise(20, 32)}, "[20, 32, 32, 3]"),
        ({"X": noise(20, 32).transpose(1, 2, 3, 0) / 255}, "float64"),
        ({"y": np.ones((19, 1))}, "[19, 1]"),
        ({"y": np.zeros((20, 1))}, "1 … 10"),
    ],
)
def test_a_mat_file_that_is_not_svhns_is_refused_by_name(
    changed: dict[str, Any], reason: str
) -> None:
    path = write_svhn(Path("svhn"), "train_32x32.mat", 20, **changed)
    message = refused("svhn", 32)
    assert reason in message
    assert str(path) in message


@given(cut=st.integers(0, 2000), flip=st.integers(0, 255))
@settings(modest, max_examples=10)  # each is two processes that import scipy
def test_a_damaged_mat_file_is_refused_by_name_or_read(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("svhn"))
        path = write_svhn(Path("svhn"), "train_32x32.mat", 10, compress=True)
        content = bytearray(path.read_bytes())
        content[cut] ^= flip
        for damaged in (content, content[:cut]):
            path.write_bytes(damaged)
            try:
                load("svhn", 32)
            except UserError as error:
                assert_names(error, str(path))


# CelebA


def write_celeba(root: Path, n: int = 20, folder: str = "img_align_celeba") -> list[str]:
    """Write pictures of 17x21, number i filled with 10·i; return their names."""
    (root / folder).mkdir(parents=True)
    names = [f"{i + 1:06}.jpg" for i in range(n)]
    for i, name in enumerate(names):
        Image.new("RGB", (17, 21), (10 * i,) * 3).save(root / folder / name, quality=100)
    return names


def numbers(split: data.Images) -> list[int]:
    """Return the numbers of these pictures among those of `write_celeba`."""
    return [round(float(image.mean()) / 10) for image in split.images[:]]


@pytest.mark.parametrize("mode", ["never", "always"])
@pytest.mark.parametrize("kind", ["txt", "csv"])
@pytest.mark.parametrize("place", ["data/celeba", "celeba", "cache"])
def test_celebas_partition_separates_training_from_test_images(
    cache: Path, place: str, kind: str, mode: stream.Mode
) -> None:
    root = cache / "celeba" if place == "cache" else Path(place)
    names = write_celeba(root)
    parts = [0] * 12 + [1] * 5 + [2] * 3
    lines = [
        f"{name}{' ' if kind == 'txt' else ','}{part}"
        for name, part in zip(names, parts, strict=True)
    ]
    header = ["image_id,partition"] if kind == "csv" else []
    (root / f"list_eval_partition.{kind}").write_text("\n".join(header + lines) + "\n")
    (root / "identity_CelebA.txt").write_text("000001.jpg 7\n")  # passed over
    train, test = load("celeba", mode=mode).values()
    assert numbers(train) == list(range(12))
    assert numbers(test) == [17, 18, 19]
    assert train.images.shape == (12, 8, 8, 3)
    assert isinstance(train.images, stream.Streamed) is (mode == "always")
    assert train.labels is None
    assert test.labels is None


@pytest.mark.parametrize("folder", ["img_align_celeba", "img_align_celeba/img_align_celeba"])
def test_without_a_partition_every_tenth_of_celebas_images_is_held_out(folder: str) -> None:
    write_celeba(Path("celeba"), folder=folder)
    train, test = load("celeba").values()
    assert numbers(test) == [9, 19]
    assert numbers(train) == [i for i in range(20) if i % 10 != 9]


def test_celebas_square_is_the_central_one() -> None:
    folder = Path("celeba/img_align_celeba")
    folder.mkdir(parents=True)
    picture = np.zeros((218, 178, 3), np.uint8)
    picture[20:198] = 255  # the central 178 rows
    for i in range(10):
        Image.fromarray(picture).save(folder / f"{i}.png")
    read = pixels(load("celeba", 32)["train"])
    assert (read[:, 3:-3] > 250).all()
    assert (read > 220).all()  # the outermost rows are scaled with what lies beyond them


def test_celebas_missing_images_are_counted_and_named() -> None:
    names = write_celeba(Path("celeba"))
    lines = "\n".join(f"{name} 0" for name in names)
    Path("celeba/list_eval_partition.txt").write_text(lines)
    for name in names[3:5]:
        Path("celeba/img_align_celeba", name).unlink()
    message = refused("celeba")
    assert "2 of the 20 images" in message
    assert "000004.jpg" in message


@pytest.mark.parametrize("line", ["000001.jpg", "000001.jpg 3", "000001.jpg 0 1", "\x00"])
def test_an_invalid_partition_is_refused_with_the_line(line: str) -> None:
    names = write_celeba(Path("celeba"))
    Path("celeba/list_eval_partition.txt").write_text(f"{names[0]} 0\n{line}\n")
    assert "list_eval_partition.txt: line 2: expected" in refused("celeba")


def test_celebas_folder_without_images_is_refused() -> None:
    Path("celeba/img_align_celeba").mkdir(parents=True)
    assert "unpack img_align_celeba.zip" in refused("celeba")


def test_a_partition_without_test_images_is_refused_for_that_split() -> None:
    names = write_celeba(Path("celeba"))
    Path("celeba/list_eval_partition.txt").write_text("\n".join(f"{name} 0" for name in names))
    assert "no images in the test split" in refused("celeba")


def test_a_spec_means_the_same_from_another_folder() -> None:
    here = Path.cwd()
    Path("saved").mkdir()
    assert data.absolute("hf:saved") == f"hf:{here / 'saved'}"
    assert data.absolute("hf:saved:plain") == f"hf:{here / 'saved'}:plain"
    for spec in ("hf:ylecun/mnist", "hf:ufldl-stanford/svhn:cropped_digits", "svhn", "dsprites"):
        assert data.absolute(spec) == spec
    assert data.absolute("npz:x.npz") == f"npz:{here / 'x.npz'}"


@pytest.mark.parametrize("kind", ["folder", "npz", "npy", "idx", "tar", "parquet", "hf"])
def test_the_home_of_an_unknown_user_is_refused_in_one_line(kind: str) -> None:
    with pytest.raises(UserError, match="~nosuchuser/x: no user of that name"):
        data.absolute(f"{kind}:~nosuchuser/x")
    assert "no user of that name" in refused(f"{kind}:~nosuchuser/x")


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert sources.cache().name == "fastinfogan"


# Stand-ins


def test_a_missing_set_is_replaced_by_the_second_name_and_one_line_reports_it() -> None:
    for name, other in (("svhn", "street-digits-like"), ("dsprites", "dsprites-like")):
        spec, line = data.choose(f"{name}|{other}")
        assert spec == data.absolute(f"{name}|{other}") == other
        assert line.startswith(f"{name} is missing here: {other} stands in for it (")
        assert f"--data {name}" in line
        assert "\n" not in line


def test_a_present_set_is_not_replaced() -> None:
    write_svhn(Path("svhn"), "train_32x32.mat", 10)
    assert data.choose("svhn|street-digits-like") == ("svhn", "")


@pytest.mark.parametrize("spec", ["svhn", "dsprites"])
def test_a_set_named_alone_is_never_replaced(spec: str) -> None:
    assert data.choose(spec) == (spec, "")
    assert spec in refused(spec)


@pytest.mark.parametrize("spec", ["svhn|mnist", "mnist|street-digits-like", "svhn|", "|dsprites"])
def test_only_what_is_drawn_stands_in_and_only_for_what_may_be_missing(spec: str) -> None:
    with pytest.raises(UserError, match="expected one of svhn, dsprites, "):
        data.choose(spec)


def test_a_bar_in_a_path_is_part_of_it() -> None:
    assert data.choose("npz:a|b.npz") == ("npz:a|b.npz", "")
