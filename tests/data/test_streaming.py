"""Streaming: the batches of a resident run, whatever the size of the set."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.runs import COMMON, assert_same_run, launch
from helpers.strategies import modest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from fastinfogan import data, philox, train
from fastinfogan.config import TrainConfig
from fastinfogan.data import arrays
from fastinfogan.data import streaming as stream
from fastinfogan.data import workers as reading
from fastinfogan.errors import UserError
from fastinfogan.evaluation import measure
from fastinfogan.networks import mnist_pair
from fastinfogan.runs.folder import Loaded

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let each run in this process start as a process would, with a short evaluation."""
    monkeypatch.setattr(measure, "GENERATED", 500)
    threads = torch.get_num_threads()
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)
    torch.set_num_threads(threads)


def noise(n: int, size: int = 8, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def npy(path: Path, n: int = 120) -> Path:
    np.save(path, noise(n)[..., 0])
    np.save(path.with_suffix(".labels.npy"), np.arange(n) % 3)
    return path


def folder(path: Path, n: int = 120) -> Path:
    for i, pixels in enumerate(noise(n)[..., 0]):
        place = path / f"class{i % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i:04}.png")
    return path


def sparse(path: Path, n: int, size: int = 28) -> Path:
    """Return n black images that take no space on the disk."""
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, size, size)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + n * size * size)
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the same images as a file and as a folder, by kind."""
    root = tmp_path_factory.mktemp("sets")
    return {"npy": f"npy:{npy(root / 'x.npy')}", "folder": f"folder:{folder(root / 'x')}"}


def load(spec: str, mode: stream.Mode, size: int = 8) -> dict[data.Split, data.Images]:
    return data.load(spec, image_size=size, channels=1, stream=mode)


def run(spec: str, out: Path, *more: str) -> int:
    AcceleratorState._reset_state(True)
    return train.main(["--data", spec, "--out", str(out), *COMMON, *more])


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if "images/s" not in line]
    assert len(lines) == 1, lines
    return lines[0]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


# The promise


@pytest.mark.parametrize("kind", ["npy", pytest.param("folder", marks=pytest.mark.slow)])
def test_a_streamed_run_is_a_resident_run_bit_for_bit_and_resumes_as_one(
    sets: dict[str, str], tmp_path: Path, kind: str
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(sets[kind], whole, "--steps", "12", "--stream", "never") == 0
    assert run(sets[kind], parts, "--steps", "5", "--stream", "always") == 0
    assert run(sets[kind], parts, "--steps", "7", "--stream", "never") == 0  # resident between
    assert run(sets[kind], parts, "--steps", "12", "--stream", "always") == 0
    assert_same_run(whole, parts, 12)
    assert (whole / "eval.json").read_text() == (parts / "eval.json").read_text()
    assert (whole / "samples" / "real.png").read_bytes() == (
        parts / "samples" / "real.png"
    ).read_bytes()
    assert not psutil.Process().children()


@pytest.mark.parametrize("kind", ["npy", "folder"])
def test_both_splits_are_the_same_streamed_and_resident(sets: dict[str, str], kind: str) -> None:
    streamed, resident = load(sets[kind], "always"), load(sets[kind], "never")
    for split, there in resident.items():
        here = streamed[split]
        assert isinstance(here.images, stream.Streamed)
        assert isinstance(there.images, np.ndarray)
        assert here.images.shape == there.images.shape
        assert here.images.nbytes == there.images.nbytes
        assert (here.images[:] == there.images).all()
        assert (here.images[3:9:2] == there.images[3:9:2]).all()
        assert stream.checksum(here.images) == stream.checksum(there.images)
    assert streamed["test"].labels is not None
    assert resident["test"].labels is not None
    assert streamed["test"].labels.tolist() == resident["test"].labels.tolist()
    if kind == "npy":
        assert (resident["test"].images[:] == noise(120)[9::10]).all()
        assert (resident["train"].images[:] == np.delete(noise(120), np.s_[9::10], 0)).all()
        assert resident["test"].labels.tolist() == [i % 3 for i in range(9, 120, 10)]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("rank", [0, 1])
def test_batches_come_in_the_resident_order_from_any_step_on(
    sets: dict[str, str], workers: int, rank: int
) -> None:
    streamed, resident = (load(sets["npy"], mode)["train"] for mode in ("always", "never"))
    order: dict[str, Any] = {"batch_size": 8, "seed": 3, "rank": rank, "world_size": 2}
    there = data.batches(resident.images, CPU, **order)
    rows = data.Order(len(streamed), **order)
    assert isinstance(streamed.images, stream.Streamed)
    here = reading.Stream(streamed.images, rows.indices, CPU, workers)
    for step in (*range(15), 40, 41, 2, 3):
        assert torch.equal(here(step), there(step))
    here.close()
    assert not psutil.Process().children()


def test_a_batch_is_the_trainers_to_write(sets: dict[str, str]) -> None:
    images = load(sets["npy"], "always")["train"].images
    batches = data.batches(images, CPU, batch_size=4, seed=0)
    batches(0).zero_()
    assert not torch.equal(batches(1), torch.zeros(4, 8, 8, 1))
    batches.close()


def test_reading_ahead_leaves_torchs_generator_alone(sets: dict[str, str]) -> None:
    before = torch.get_rng_state()
    batches = data.batches(load(sets["npy"], "always")["train"].images, CPU, batch_size=4, seed=0)
    batches(0)
    batches.close()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["npy", "folder"])
def test_a_source_pickles_without_its_images(sets: dict[str, str], kind: str) -> None:
    images = load(sets[kind], "always")["train"].images
    pickled = pickle.dumps(images)  # as a worker gets it where processes are not forked
    assert len(pickled) < 5000
    assert (pickle.loads(pickled)[:5] == images[:5]).all()


# The order of large sets


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**32 - 1))
@example(n=1, seed=0, epoch=0)
@example(n=2, seed=0, epoch=0)
@example(n=49, seed=0, epoch=0)  # a square: nothing to walk past
@example(n=50, seed=0, epoch=0)
@modest
def test_the_order_of_large_sets_holds_every_index_once(n: int, seed: int, epoch: int) -> None:
    order = philox.encipher(torch.arange(n), n, seed=seed, epoch=epoch)
    assert order.sort().values.tolist() == list(range(n))


def test_the_order_of_large_sets_is_the_same_in_parts_and_looks_random() -> None:
    n = philox.MAX_SORTED + 12345
    whole = philox.permute(0, n, n, seed=7, epoch=2)
    assert whole.sort().values.equal(torch.arange(n))
    part = philox.permute(1000, 1500, n, seed=7, epoch=2)
    assert part.equal(whole[1000:1500])
    x = whole.double() / n
    y = torch.arange(n).double() / n
    next_to = torch.corrcoef(torch.stack((x[:-1], x[1:])))[0, 1]
    with_place = torch.corrcoef(torch.stack((x, y)))[0, 1]
    # the standard error of a correlation is n^-½ = 0.00097; five of them
    assert abs(next_to) < 0.005
    assert abs(with_place) < 0.005
    # in 64 × 64 equal cells χ² has 4095 degrees of freedom, standard deviation 90.5
    cells = np.histogram2d(x.numpy(), y.numpy(), bins=64)[0]
    expected = n / 64**2
    assert abs(((cells - expected) ** 2 / expected).sum() - 4095) < 5 * 90.5


def test_epochs_and_seeds_of_large_sets_have_orders_of_their_own() -> None:
    n = 10**9
    orders = {
        tuple(philox.permute(0, 50, n, seed=seed, epoch=epoch).tolist())
        for seed, epoch in [(0, 0), (0, 1), (0, 2), (1, 0), (2**32, 0), (2**62, 0)]
    }
    assert len(orders) == 6


@pytest.mark.parametrize("world", [1, 3])
def test_an_epoch_of_a_large_set_is_whole_and_its_ranks_share_it(
    monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    monkeypatch.setattr(philox, "MAX_SORTED", 10)
    monkeypatch.setattr("fastinfogan.data.sampler.ORDERED_AT_ONCE", 20)
    ranks = [
        data.Order(100, batch_size=6, seed=1, rank=rank, world_size=world) for rank in range(world)
    ]
    assert all(len(rank._part) <= 20 for rank in ranks)
    per_epoch = 100 // (6 * world)
    seen = torch.cat([rank.indices(step) for step in range(per_epoch) for rank in ranks])
    assert len(set(seen.tolist())) == len(seen) == per_epoch * 6 * world
    assert seen.equal(philox.permute(0, len(seen), 100, seed=1, epoch=0))


# Splits, what is streamed, and the checksum


@given(n=st.integers(0, 500))
@modest
def test_every_tenth_image_is_held_out_by_arithmetic(n: int) -> None:
    train, test = (stream.split_rows(n, held_out) for held_out in (False, True))
    assert test.tolist() == [i for i in range(n) if i % 10 == 9]
    assert train.tolist() == [i for i in range(n) if i % 10 != 9]
    assert (len(train), len(test)) == (stream.split_size(n, False), stream.split_size(n, True))


@given(n=st.integers(0, 10**6), most=st.integers(1, 2000))
@modest
def test_evenly_spaced_rows_are_distinct_and_reach_over_the_whole(n: int, most: int) -> None:
    rows = stream.evenly(n, most)
    assert len(rows) == min(n, most)
    if n:
        assert rows[0] == 0
        assert rows[-1] >= n - n / len(rows) - 1
        gaps = np.diff(rows)
        assert not len(gaps) or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


@pytest.mark.parametrize(
    ("nbytes", "available", "ranks", "streamed"),
    [
        (4 * 2**30, 2**40, 1, False),
        (4 * 2**30 + 1, 2**40, 1, True),
        (2**28, 2**30, 1, False),
        (2**28 + 1, 2**30, 1, True),
        (2**27 + 1, 2**30, 2, True),
    ],
)
def test_auto_streams_beyond_4_gib_or_a_quarter_of_the_available_memory(
    monkeypatch: pytest.MonkeyPatch, nbytes: int, available: int, ranks: int, streamed: bool
) -> None:
    memory = SimpleNamespace(available=available)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert stream.should_stream("auto", nbytes) is streamed
    assert stream.should_stream("always", 1)
    assert not stream.should_stream("never", 2**60)


def test_a_set_that_cannot_be_streamed_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"npy:PATH and folder:PATH can be streamed, not mnist"):
        load("mnist", "always", 28)


def test_a_large_sets_checksum_is_of_a_sample_and_the_same_streamed_and_resident(
    sets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = load(sets["npy"], "never")["train"].images[:]
    whole = stream.checksum(images)
    monkeypatch.setattr(stream, "MAX_HASHED", images.nbytes - 1)
    monkeypatch.setattr(stream, "SAMPLE", 10)
    sample = stream.checksum(images)
    assert sample == stream.checksum(load(sets["npy"], "always")["train"].images)
    assert sample.endswith("(10 of 108 images)")
    assert whole.endswith("(108 images)")
    for row, noticed in ((0, True), (1, False)):
        changed = images.copy()
        changed[row] ^= 1
        assert (stream.checksum(changed) != sample) is noticed
    assert stream.checksum(images[:-1]) != sample
    assert stream.checksum(images.reshape(108, 4, 16, 1)) != sample


# A set of any size


def test_a_20_gb_file_costs_what_is_read_of_it(tmp_path: Path) -> None:
    n = 25_500_000
    path = sparse(tmp_path / "x.npy", n)
    sparse_labels = tmp_path / "x.labels.npy"
    with sparse_labels.open("wb") as file:
        header = {"descr": "<i8", "fortran_order": False, "shape": (n,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 8 * n)

    def anonymous() -> int:
        return psutil.Process().memory_info().rss - psutil.Process().memory_info().shared

    before, start = anonymous(), time.perf_counter()
    splits = load(f"npy:{path}", "auto", 28)  # streamed: there is less memory, or 4 GiB is less
    images = splits["train"].images
    assert isinstance(images, stream.Streamed)
    assert images.shape == (22_950_000, 28, 28, 1)
    assert stream.checksum(images).endswith("(1024 of 22950000 images)")
    batches = data.batches(images, CPU, batch_size=128, seed=0)
    assert not batches(0).any()
    batches.close()
    assert len(splits["test"].images[stream.evenly(len(splits["test"]), 100)]) == 100
    assert time.perf_counter() - start < 10
    assert anonymous() - before < 2**26


def test_evaluation_reads_a_bounded_number_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "MAX_REAL", 7)
    monkeypatch.setattr(measure, "GENERATED", 20)
    monkeypatch.setattr(measure, "MIN_IMAGES", 5)
    monkeypatch.setattr(philox, "MAX_SORTED", 10)
    np.save(tmp_path / "x.npy", noise(200, 28)[..., 0])
    np.save(tmp_path / "x.labels.npy", np.arange(200) // 10)
    spec = TrainConfig().spec()
    generator, discriminator = (m.eval() for m in mnist_pair(spec.input_dim, spec.q_dim, 28, 1))
    splits = load(f"npy:{tmp_path / 'x.npy'}", "always", 28)
    read: list[int] = []
    real_read = arrays.NpyFile.read

    def counting(self: arrays.NpyFile, rows: np.ndarray) -> np.ndarray:
        read.extend(rows.tolist())
        return real_read(self, rows)

    monkeypatch.setattr(arrays.NpyFile, "read", counting)
    result = measure.evaluate(Loaded(generator, discriminator, spec), splits)  # type: ignore[arg-type]
    counts = {"codes": 7, "information": 20, "frechet": 7, "frechet_floor": 7, "precision": 0}
    assert counts.items() <= result["images"].items()
    assert read[:7] == [row * 10 + 9 for row in (0, 2, 5, 8, 11, 14, 17)]
    assert len(read) == len(set(read)) == 14


# What is refused


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (noise(30).astype(np.float32), "uint8, got float32"),
        (noise(30).reshape(30, 64), "[30, 64]"),
        (noise(30)[None], "[1, 30, 8, 8, 1]"),
        (np.asfortranarray(noise(30)), "Fortran"),
        (np.array([{}], dtype=object), "Python objects"),
        (noise(30, channels=3), "--channels 3"),
        (noise(30, size=12), "--image-size 12"),
        (noise(5), "no images in the test split"),
        (noise(0), ""),
    ],
)
@pytest.mark.parametrize("mode", ["always", "never"])
def test_an_npy_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: Path, array: np.ndarray, reason: str, mode: stream.Mode
) -> None:
    path = saved(tmp_path / "x.npy", array)
    with pytest.raises(UserError) as caught:
        load(f"npy:{path}", mode)
    message = str(caught.value)
    assert reason in message
    assert str(path) in message
    assert "\n" not in message


@given(cut=st.integers(0, 30 * 64 + 127), longer=st.booleans())
@modest
def test_a_torn_or_lengthened_npy_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, cut: int, longer: bool
) -> None:
    path = saved(tmp_path_factory.mktemp("npy") / "x.npy", noise(30))
    os.truncate(path, path.stat().st_size + 1 + cut if longer else cut)
    with pytest.raises(UserError) as caught:
        load(f"npy:{path}", "always")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no numpy", b"\x80\x04K\x01."])
def test_a_file_that_is_not_an_npy_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npy: not a readable"):
        load(f"npy:{path}", "auto")
    with pytest.raises(UserError, match="no such file"):
        load(f"npy:{tmp_path / 'y.npy'}", "auto")
    with pytest.raises(UserError, match="no such file"):
        load(f"npy:{tmp_path}", "auto")


@pytest.mark.parametrize("labels", [np.arange(29), np.arange(30.0), np.zeros((30, 1), int)])
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    saved(tmp_path / "x.labels.npy", labels)
    path = saved(tmp_path / "x.npy", noise(30))
    with pytest.raises(UserError, match=r"x\.labels\.npy: labels must be 30 integers"):
        load(f"npy:{path}", "always")


# What goes wrong on the way


@pytest.mark.slow
def test_a_damaged_image_ends_the_run_in_one_line_with_what_was_learned_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # so large a set that neither its checksum nor the picture of real images shows the image
    pictures = folder(tmp_path / "pictures", 240)
    monkeypatch.setattr(stream, "MAX_HASHED", 1)
    monkeypatch.setattr(stream, "SAMPLE", 1)
    rows = data.Order(216, batch_size=16, seed=0).indices(3).numpy()  # of the fourth update
    late = stream.in_whole(rows[rows > 110], held_out=False)
    damaged = sorted(pictures.rglob("*.png"))[int(late[0])]
    good = damaged.read_bytes()
    damaged.write_bytes(good[:40])
    more = ("--steps", "6", "--stream", "always")
    assert run(f"folder:{pictures}", tmp_path / "run", *more) == 2
    line = last_line(capsys)
    assert str(damaged) in line
    assert line.endswith("saved after update 3")
    assert run(f"folder:{pictures}", tmp_path / "run", *more) == 2  # nothing new to save
    assert "saved" not in last_line(capsys)
    damaged.write_bytes(good)
    assert run(f"folder:{pictures}", tmp_path / "run", *more) == 0
    assert run(f"folder:{pictures}", tmp_path / "whole", *more) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "run", 6)
    assert not psutil.Process().children()


def test_a_worker_that_is_killed_ends_the_run_in_one_line(sets: dict[str, str]) -> None:
    batches = data.batches(load(sets["npy"], "always")["train"].images, CPU, batch_size=4, seed=0)
    batches(0)
    for child in psutil.Process().children():
        child.kill()

    def go_on() -> None:  # what was read ahead still comes
        for step in range(1, 20):
            batches(step)

    with pytest.raises(UserError, match="the process that reads the images ended") as caught:
        go_on()
    assert "\n" not in str(caught.value)
    assert not alive(psutil.Process().children())


def started(sets: dict[str, str], out: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Return a long streamed run in a session of its own, in its updates, and its workers."""
    options = ("--steps", "100000", "--log-every", "5", "--stream", "always")
    process = launch(
        *("-m", "fastinfogan.train", "--data", sets["npy"], "--out", str(out), *COMMON, *options),
        new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, psutil.Process(process.pid).children()


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, id="ctrl-c"),
        pytest.param(signal.SIGTERM, id="sigterm", marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_all_processes_saves_and_no_worker_says_a_word(
    sets: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    process, workers = started(sets, tmp_path)
    assert workers
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "saved after update" in out
    assert all("images/s" in line for line in err.splitlines()), err
    assert not alive(workers)


@pytest.mark.slow
def test_workers_end_with_a_trainer_that_was_killed(sets: dict[str, str], tmp_path: Path) -> None:
    process, workers = started(sets, tmp_path)
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(workers, timeout=15)[1]


class Stuck:
    """A source on a disk that does not answer."""

    shape = (40, 8, 8, 1)
    slow = True
    on_disk = True

    def scatter(self) -> None:
        pass

    def read(self, rows: np.ndarray) -> np.ndarray:
        time.sleep(1000)
        raise AssertionError


def test_a_worker_hands_over_an_error_of_its_source() -> None:
    """Raised in the worker, it would come out with the worker's traceback."""
    error = UserError("0.png: damaged")

    class Failing(Stuck):
        def read(self, rows: np.ndarray) -> np.ndarray:
            raise error

    batches = reading._Batches(stream.Streamed(Failing(), None))
    assert batches.__getitems__((np.arange(2), None)) is error


def test_a_signal_is_obeyed_while_a_batch_is_waited_for() -> None:
    rows = data.Order(40, batch_size=4, seed=0)
    batches = reading.Stream(stream.Streamed(Stuck(), None), rows.indices, CPU, 1)
    batches.interrupted = lambda: True
    with pytest.raises(reading.Interrupted):
        batches(0)
    assert not alive(psutil.Process().children())


def test_batches_come_where_there_is_no_shared_memory(
    sets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed, resident = (load(sets["npy"], mode)["train"] for mode in ("always", "never"))

    def full(self: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # in the workers, which are forked
    here = data.batches(streamed.images, CPU, batch_size=8, seed=3)
    there = data.batches(resident.images, CPU, batch_size=8, seed=3)
    for step in range(6):
        assert torch.equal(here(step), there(step))
    here.close()


def test_without_room_for_workers_the_trainer_reads_itself(
    sets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DataLoader.__iter__

    def starting(self: Any) -> Any:
        if self.num_workers:
            raise OSError(28, "No space left on device")
        return real(self)

    monkeypatch.setattr(DataLoader, "__iter__", starting)
    streamed = load(sets["npy"], "always")["train"]
    batches = data.batches(streamed.images, CPU, batch_size=8, seed=3)
    assert batches(0).shape == (8, 8, 8, 1)
    assert not psutil.Process().children()
    batches.close()


def test_a_run_that_waits_for_images_saves_and_ends_at_a_signal(
    sets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    real = reading.Stream.__call__

    def call(self: reading.Stream, step: int) -> torch.Tensor:
        if step < 3:
            return real(self, step)
        os.kill(os.getpid(), signal.SIGTERM)  # which comes while the fourth batch is waited for
        assert self.interrupted()
        raise reading.Interrupted

    monkeypatch.setattr(reading.Stream, "__call__", call)
    more = ("--steps", "6", "--stream", "always")
    assert run(sets["npy"], tmp_path / "parts", *more) == 128 + signal.SIGTERM
    assert "SIGTERM: saved after update 3" in capsys.readouterr().out
    monkeypatch.setattr(reading.Stream, "__call__", real)
    assert run(sets["npy"], tmp_path / "parts", *more) == 0
    assert run(sets["npy"], tmp_path / "whole", *more) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 6)
