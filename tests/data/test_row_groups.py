"""Sets of a hub that are read while training, by row groups: order, splits, bounds, resumption."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.loopback_hub import loopback_hub
from helpers.sets import noise
from PIL import Image

from fastinfogan import data
from fastinfogan.data import row_groups, sampler
from fastinfogan.data.census import take_census
from fastinfogan.data.reading import Reading
from fastinfogan.data.sampler import WindowOrder
from fastinfogan.data.streaming import Streamed, checksum
from fastinfogan.errors import UserError

CPU = torch.device("cpu")
GROUP = 8  # rows of a group in the files here


@pytest.fixture(scope="module")
def hf() -> Any:
    return pytest.importorskip("datasets")


def write(hf: Any, path: Path, n: int, *, first: int = 0, group: int = GROUP) -> Path:
    """Return a Parquet file of n images of noise, of classes i % 3; `first` tells files apart."""
    features = {"image": hf.Image(), "label": hf.ClassLabel(names=["a", "b", "c"])}
    features["tilt"] = hf.Value("float32")
    values = {
        "image": [Image.fromarray(image) for image in noise(n, seed=first)],
        "label": [i % 3 for i in range(n)],
        "tilt": [first + i for i in range(n)],
    }
    table = hf.Dataset.from_dict(values, features=hf.Features(features))
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(str(path), batch_size=group)
    return path


@pytest.fixture
def read(hf: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that opens files by row groups as it would a set of the hub."""

    def opened(files: dict[str, list[Path]], **options: Any) -> dict[data.Split, data.Images]:
        class Info:
            features = None

        class Builder:
            info = Info()

        urls = {split: [f"file://{path}" for path in paths] for split, paths in files.items()}
        monkeypatch.setattr(row_groups, "parquet_files", lambda *_: urls)
        monkeypatch.setattr(row_groups, "_builder", lambda *_: Builder())
        reading = Reading(8, 3, "always", **options)
        return row_groups.read_row_groups("some/set", "", reading, "--data hf:some/set")

    return opened


def small_windows(monkeypatch: pytest.MonkeyPatch, groups: int) -> None:
    """Make windows of so many groups."""
    monkeypatch.setattr(sampler, "MIN_GROUPS", groups)
    monkeypatch.setattr(sampler, "WINDOW_BYTES", 0)


SIZES = np.array([8, 8, 5, 8, 1, 8, 8, 3, 8, 8, 8, 2], np.int64)


@pytest.mark.parametrize("groups", [1, 3, 5, 100])
def test_an_epoch_shows_every_image_once_less_the_last_incomplete_batch(
    monkeypatch: pytest.MonkeyPatch, groups: int
) -> None:
    small_windows(monkeypatch, groups)
    order = WindowOrder(SIZES, SIZES, batch_size=7, seed=1)
    for epoch in (0, 1):
        steps = range(epoch * order.per_epoch, (epoch + 1) * order.per_epoch)
        rows = torch.cat([order.indices(step) for step in steps])
        assert len(rows) == len(SIZES.repeat(SIZES)) // 7 * 7
        assert len(set(rows.tolist())) == len(rows)


def test_the_rows_of_a_batch_depend_on_seed_and_step_alone_and_ranks_share_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_windows(monkeypatch, 3)

    def indices(step: int, seed: int = 1, **ranks: int) -> list[int]:
        size = 12 // ranks.get("world_size", 1)
        fresh = WindowOrder(SIZES, SIZES, batch_size=size, seed=seed, **ranks)
        return fresh.indices(step).tolist()

    running = WindowOrder(SIZES, SIZES, batch_size=12, seed=1)
    for step in (*range(15), 3):
        alone = indices(step)
        assert running.indices(step).tolist() == alone
        assert indices(step, rank=0, world_size=2) + indices(step, rank=1, world_size=2) == alone
    assert indices(0) != indices(0, seed=2)
    assert indices(0) != indices(running.per_epoch)


@pytest.mark.parametrize("groups", [1, 3])
def test_the_groups_of_a_batch_are_among_those_held_and_these_are_of_two_windows(
    monkeypatch: pytest.MonkeyPatch, groups: int
) -> None:
    small_windows(monkeypatch, groups)
    order = WindowOrder(SIZES, SIZES, batch_size=6, seed=1)
    stops = SIZES.cumsum()
    for step in range(3 * order.per_epoch):
        needed = set(np.searchsorted(stops, order.indices(step).numpy(), side="right").tolist())
        held = order.ahead(step).tolist()
        assert needed <= set(held)
        assert len(held) <= max(2 * groups, len(needed))


def test_rows_are_mixed_within_windows_and_windows_hold_at_most_their_bytes() -> None:
    sizes = np.full(64, 100, np.int64)
    order = WindowOrder(sizes, np.full(64, sampler.WINDOW_BYTES // 8), batch_size=10, seed=0)
    assert [len(window.groups) for window in order.windows(0)] == [8] * 8
    large = WindowOrder(sizes, np.full(64, sampler.WINDOW_BYTES), batch_size=10, seed=0)
    assert [len(window.groups) for window in large.windows(0)] == [sampler.MIN_GROUPS] * 16
    rows = order.indices(3).numpy()
    assert len(set((rows // 100).tolist())) > 2  # of several groups
    assert set((rows // 100).tolist()) <= set(order.windows(0)[0].groups.tolist())


@pytest.fixture
def many(hf: Any, tmp_path: Path) -> dict[str, list[Path]]:
    """Return two files of 12 row groups in all."""
    return {"train": [write(hf, tmp_path / f"{i}.parquet", 48, first=48 * i) for i in range(2)]}


def test_whole_row_groups_are_held_out_with_their_labels_and_factors(read: Any, many: Any) -> None:
    splits = read(many, factors="tilt")
    train, test = splits.values()
    everything = np.concatenate([noise(48), noise(48, seed=48)])
    held = np.arange(72, 80)  # the tenth row group
    assert (test.images[:] == everything[held]).all()
    assert (train.images[:] == np.delete(everything, held, 0)).all()
    assert test.labels is not None
    assert test.labels.tolist() == [i % 3 for i in range(24, 32)]
    assert test.label_names == ("a", "b", "c")
    assert train.labels is None  # those of what is not fetched
    assert test.factors is not None
    assert test.factors[:, 0].tolist() == held.tolist()
    assert "12 row groups of 2 Parquet files" not in train.notes[0]
    assert "11 row groups of 2 Parquet files" in train.notes[0]


def test_of_few_row_groups_every_tenth_row_is_held_out(read: Any, hf: Any, tmp_path: Path) -> None:
    path = write(hf, tmp_path / "0.parquet", 45, group=7)
    train, test = read({"train": [path]}).values()
    held = [9, 19, 29, 39]
    assert (test.images[:] == noise(45)[held]).all()
    assert (train.images[:] == np.delete(noise(45), held, 0)).all()
    assert test.labels is not None
    assert test.labels.tolist() == [i % 3 for i in held]


def test_a_split_of_tests_gives_the_test_images(read: Any, hf: Any, tmp_path: Path) -> None:
    files = {
        "test": [write(hf, tmp_path / "test.parquet", 20, first=5)],
        "train": [write(hf, tmp_path / "train.parquet", 40)],
    }
    train, test = read(files).values()
    assert (train.images[:] == noise(40)).all()
    assert (test.images[:] == noise(20, seed=5)).all()


def test_batches_are_those_of_the_order_whatever_process_reads_them(
    read: Any, many: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_windows(monkeypatch, 2)
    images = read(many)["train"].images
    assert isinstance(images, Streamed)
    whole = torch.from_numpy(images[:])
    source = images.source
    assert isinstance(source, row_groups.RowGroups)
    order = WindowOrder(source.group_sizes, source.group_bytes, batch_size=6, seed=3)
    batches = data.batches(images, CPU, batch_size=6, seed=3)
    for step in (*range(20), 2, 33):
        assert torch.equal(batches(step), whole[order.indices(step)])
    batches.close()


def test_no_more_than_two_windows_are_held_while_training(
    read: Any, many: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_windows(monkeypatch, 2)
    images = read(many)["train"].images
    source = images.source
    order = WindowOrder(source.group_sizes, source.group_bytes, batch_size=6, seed=3)
    for step in range(30):
        source.fetch_ahead(order.ahead(step))
        images[order.indices(step).numpy()]
        assert len(source._held) <= 4
    assert not images[np.zeros(0, np.int64)].size


def test_each_row_group_is_fetched_once_per_epoch(
    read: Any, many: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_windows(monkeypatch, 2)
    images = read(many)["train"].images
    source = images.source
    fetched: list[int] = [*source._held]  # by the look at some images
    fetch = source._fetch

    def counted(group: int) -> Any:
        fetched.append(group)
        return fetch(group)

    monkeypatch.setattr(source, "_fetch", counted)
    order = WindowOrder(source.group_sizes, source.group_bytes, batch_size=8, seed=3)
    for step in range(order.per_epoch):
        source.fetch_ahead(order.ahead(step))
        images[order.indices(step).numpy()]
    assert set(fetched) == set(range(len(source.groups)))
    assert len(fetched) <= len(source.groups) + 2  # and the next epoch's first window


def test_a_sample_of_the_set_lies_in_few_row_groups(
    read: Any, many: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_groups, "SPREAD_GROUPS", 3)
    source = read(many)["train"].images.source
    for most, groups in ((5, 3), (24, 3), (30, 6), (1000, 11)):
        rows = source.spread(most)
        assert len(set(rows.tolist())) == len(rows) == min(most, 88)
        assert len(set((rows // GROUP).tolist())) == groups


def test_the_checksum_reads_no_images_and_differs_between_files_and_splits(
    read: Any, many: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = read(many).values()
    again, half = read(many)["train"], read({"train": many["train"][:1]})["train"]
    monkeypatch.setattr(row_groups.RowGroups, "content", None)
    first = checksum(train.images)
    assert "88 images in row groups" in first
    assert checksum(again.images) == first
    assert checksum(test.images) != first
    assert checksum(half.images) != first


def test_all_images_are_counted_and_a_damaged_one_is_named(
    read: Any, hf: Any, tmp_path: Path
) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    cells: list[Any] = [{"bytes": b"torn", "path": None}, None, {"bytes": None, "path": "x.png"}]
    good = write(hf, tmp_path / "good.parquet", 30)
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, cell)}), tmp_path / "torn.parquet")
    splits = read({"train": [good, tmp_path / "torn.parquet"], "test": [good]})
    census = take_census(splits)
    assert census.images == 60
    damaged = "\n".join(census.damaged)
    assert "torn.parquet, row group 0, row 0: of none of the known formats" in damaged
    assert "row 1: it is null" in damaged
    assert "row 2: a path without its bytes" in damaged
    with pytest.raises(UserError, match=r"torn\.parquet, row group 0, row 0"):
        splits["train"].images[np.array([30])]


@pytest.mark.parametrize(("option", "value"), [("skip_bad", 2), ("frames", "all")])
def test_options_that_read_all_images_first_are_refused(
    read: Any, many: Any, option: str, value: Any
) -> None:
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')}.* would read all images"):
        read(many, **{option: value})


def test_without_room_on_the_disk_auto_reads_from_the_hub(
    hf: Any, many: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Builder:
        cache_dir = str(tmp_path / "cached")

    urls = {"train": [f"file://{path}" for path in many["train"]]}
    nbytes = sum(path.stat().st_size for path in many["train"])
    monkeypatch.setattr(row_groups, "parquet_files", lambda *_: urls)
    monkeypatch.setattr(row_groups, "_builder", lambda *_: Builder())
    monkeypatch.setattr(hf.config, "HF_HUB_OFFLINE", False)

    class Usage:
        free = 2 * nbytes

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage())
    assert not row_groups.is_remote("some/set", "", "auto")
    assert row_groups.is_remote("some/set", "", "always")
    assert not row_groups.is_remote("some/set", "", "never")
    Usage.free -= 1
    assert row_groups.is_remote("some/set", "", "auto")
    assert data.settle("hf:some/set", "auto") == "always"
    assert data.settle("hf:some/set", "never") == "never"
    assert data.settle("npy:some/set", "auto") == "auto"
    (tmp_path / "cached").mkdir()  # it is there already
    assert not row_groups.is_remote("some/set", "", "auto")


SCRIPT = """
import sys
from fastinfogan import evaluate, train
commands = {"train": train.main, "evaluate": evaluate.main}
for line in sys.argv[1:]:
    name, *arguments = line.split()
    print("exit", commands[name](arguments), flush=True)
"""
OPTIONS = (
    "train mnist-paper --stream always --image-size 8 --channels 3 --batch-size 8 --threads 1 "
    "--codes cat3,uniform --noise 4 --sample-every 0"
)


def run(endpoint: str, folder: Path, *commands: str) -> tuple[list[str], str]:
    """Return exit codes and output of commands in one process, whose hub is the stand-in."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *commands],
        cwd=folder,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert "Traceback" not in done.stderr
    codes = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("exit ")]
    return codes, done.stdout + done.stderr


@pytest.mark.slow
def test_a_set_of_the_hub_trains_resumes_bit_for_bit_and_never_lies_on_the_disk(
    hf: Any, tmp_path: Path
) -> None:
    train = f"{OPTIONS} --data hf:someone/noise"
    with loopback_hub() as (endpoint, hub):
        paths = [write(hf, tmp_path / f"set/{i}.parquet", 64, first=64 * i) for i in range(2)]
        hub.repositories["someone/noise"] = {
            f"data/train-{i:05}-of-00002.parquet": path.read_bytes() for i, path in enumerate(paths)
        }
        codes, text = run(
            endpoint,
            tmp_path,
            f"{train} --out whole --steps 6",
            f"{train} --out halves --steps 3",
            f"{train} --out halves --steps 6",
            "evaluate whole",
            f"{OPTIONS} --data hf:someone/else --out other",
        )
        assert codes == ["0", "0", "0", "0", "2"], text
        assert "read from the hub while training: 15 row groups" in text
        assert "--data hf:someone/else: cannot be loaded" in text
        assert hub.ranges
        assert not [name for name in hub.whole if name.endswith(".parquet")]
        hub.repositories["someone/noise"].popitem()
        codes, text = run(endpoint, tmp_path, f"{train} --out whole --steps 8")
        assert codes == ["2"]
        assert "images in row groups)" in text
    weights = "checkpoints/step-00000006/model.safetensors"
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert (whole / weights).read_bytes() == (halves / weights).read_bytes()
    assert (whole / "samples/real.png").is_file()
    results = [json.loads((run / "eval.json").read_text()) for run in (whole, halves)]
    assert results[0]["code_accuracy"] == results[1]["code_accuracy"] is not None
    assert results[0]["images"]["codes"] == 8
    assert not [*(tmp_path / "hf").rglob("*.arrow"), *(tmp_path / "hf").rglob("*.parquet")]
    codes, text = run(endpoint, tmp_path, f"{train} --out gone --steps 2")
    assert codes == ["2"]
    assert "--data hf:someone/noise: cannot be loaded" in text
