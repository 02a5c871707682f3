"""Caches and module globals in threads and after a fork: docs/notes/threads.md lists them."""

from __future__ import annotations

import dataclasses
import multiprocessing
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from helpers.runs import tensors
from torch import Tensor, nn

import fastinfogan
from fastinfogan import Bernoulli, Categorical, Gaussian, LatentSpec, Uniform, info_loss, moved
from fastinfogan.data import chairs, sprites
from fastinfogan.evaluation.pictures import traversal
from fastinfogan.latents import Angle
from fastinfogan.networks import convolution
from fastinfogan.networks.convolution import Conv, Up
from fastinfogan.networks.drawing import GLOBAL_GENERATOR
from fastinfogan.networks.pairs import pair
from fastinfogan.options import import_path, register
from fastinfogan.terms import Seen, Term
from fastinfogan.terms.user import load_terms, text_of

Backend = Literal["auto", "reference", "triton"]
fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="POSIX")


def in_threads(*works: Callable[[], Any]) -> list[Any]:
    """Return what each of the functions returns in a thread of its own, all at once."""
    results: list[Any] = [None] * len(works)
    failures: list[BaseException] = []

    def run(i: int) -> None:
        try:
            results[i] = works[i]()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=600)
    assert failures == []
    assert not any(thread.is_alive() for thread in threads)
    return results


def in_fork(work: Callable[[], object]) -> int | None:
    """Return the exit code of a forked process that does `work`; None if it hangs."""

    def run() -> None:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            raise SystemExit(1) from None

    process = multiprocessing.get_context("fork").Process(target=run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: other threads may run
        process.start()
    process.join(timeout=300)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode


MANY = LatentSpec(
    noise=3,
    codes=(Categorical(4), Bernoulli(), Uniform(-1, 1), Gaussian(2, sigma="learned"), Angle()),
)
FEW = LatentSpec(noise=2, codes=(Categorical(3), Uniform(-1, 1)))


def results(*backends: Backend) -> list[Tensor]:
    """Return numbers of all that keeps buffers or caches between calls, by these backends."""
    out: list[Tensor] = []
    for spec in (FEW, MANY):
        for backend in backends:
            batch = spec.sample(6, seed=3, step=1, backend=backend)
            out.append(batch.input)
            q = torch.linspace(-1, 1, 6 * spec.q_dim).view(6, -1).requires_grad_()
            total = info_loss(q, spec, batch, backend=backend).total
            out += [total.detach(), *torch.autograd.grad(total, q)]
    draw = torch.Generator().manual_seed(0)
    layers: tuple[nn.Module, ...] = (Conv(3, 5), Up(3, 5))
    for layer in layers:
        for p in layer.parameters():
            nn.init.normal_(p, generator=draw)
        layer.bfloat16()
        for side in (8, 4, 8):
            x = torch.randn(4, 3, side, side, generator=draw).bfloat16().requires_grad_()
            y = layer(x)
            inputs = [x, *layer.parameters()]
            out += [y.detach(), *torch.autograd.grad(y.float().square().sum(), inputs)]
    rows = np.array([[0, 1, 2, 3, 4], [2, 5, 39, 31, 0]])
    out += [torch.from_numpy(sprites.render(rows)), torch.tensor(chairs.draw(7, 11))]
    return out


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_each_thread_has_buffers_of_its_own_for_the_patches_of_a_convolution():
    """Two threads between their copies: the first one's patches stay what they are."""
    barrier = threading.Barrier(2, timeout=60)

    def patches_of(value: float) -> bool:
        x = torch.full((2, 3, 8, 8), value)
        barrier.wait()
        mine = convolution.patches(x)
        before = mine.clone()
        barrier.wait()  # the other thread has written its own
        return torch.equal(mine, before) and float(mine.max()) == value

    assert in_threads(lambda: patches_of(1.0), lambda: patches_of(2.0)) == [True, True]


@fork
def test_a_process_that_is_forked_after_buffers_and_caches_were_used_gives_the_same(one_thread):
    backends: tuple[Backend, ...] = ("auto", "reference", "triton")
    before = results(*backends)

    def work() -> None:
        assert same(results(*backends), before)

    assert in_fork(work) == 0
    assert in_threads(lambda: in_fork(work)) == [0]  # a fork off another thread
    assert same(results(*backends), before)


def test_threads_at_once_give_the_same_as_one_after_the_other(one_thread):
    # not by Triton's interpreter, which keeps a launch's place in the grid for the whole process
    def work() -> list[Tensor]:
        torch.set_num_threads(1)
        return [tensor for _ in range(3) for tensor in results("auto", "reference")]

    before = work()
    for output in in_threads(work, work):
        assert same(output, before)


@fork
def test_a_process_that_is_forked_while_networks_are_drawn_can_draw_its_own():
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with GLOBAL_GENERATOR:
            taken.set()
            done.wait(timeout=90)

    def work() -> None:
        with GLOBAL_GENERATOR:
            pass

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(timeout=30)
    try:
        assert in_fork(work) == 0
    finally:
        done.set()
        thread.join()


class Drawing:
    """A maker of networks, which counts the threads that do so at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def __enter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self.now -= 1


drawing = Drawing()


def make_pair(*, input_dim: int, q_dim: int, image_size: int, channels: int) -> Any:
    shape = (channels, image_size, image_size)
    pixels = channels * image_size**2
    with drawing:
        generator = nn.Sequential(nn.Linear(input_dim, pixels), nn.Unflatten(1, shape))
        return generator, Head(pixels, q_dim)


class Head(nn.Module):
    def __init__(self, pixels: int, q_dim: int) -> None:
        super().__init__()
        self.d, self.own = nn.Linear(pixels, 1), nn.Linear(pixels, q_dim)

    def trunk(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def logit(self, features: Tensor) -> Tensor:
        return self.d(features)[:, 0]

    def q(self, features: Tensor) -> Tensor:
        return self.own(features)

    def q_parameters(self) -> list[nn.Parameter]:
        return list(self.own.parameters())


def test_networks_are_made_in_one_thread_at_a_time():
    """They draw from torch's global generator, which a run seeds for a user's networks."""
    path = register(make_pair)

    def work() -> None:
        generator: Any = pair(path, 4, 3, 8, 1)[0]
        generator.draw_weights(torch.Generator().manual_seed(0))

    in_threads(work, work, lambda: pair(path, 4, 3, 8, 1))
    assert drawing.most == 1


def test_two_threads_with_functions_of_one_name_each_get_their_own():
    both = threading.Barrier(2, timeout=30)

    def maker(number: int) -> Callable[[], int]:
        def make() -> int:
            return number

        return make

    def work(number: int) -> Any:
        path = register(maker(number))
        both.wait()
        return import_path(path, "--networks")()

    assert in_threads(lambda: work(1), lambda: work(2)) == [1, 2]
    # another thread gets the latest
    path = register(maker(3))
    assert in_threads(lambda: import_path(path, "--networks")()) == [3]


@dataclasses.dataclass
class Bright(Term):
    name = "bright"
    weight: float = 1.0

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError


def test_two_threads_with_terms_of_one_text_each_get_their_own():
    both = threading.Barrier(2, timeout=30)

    def work() -> bool:
        term = Bright()
        text = text_of(term)
        both.wait()
        return load_terms([text])[0] is term

    assert in_threads(work, work) == [True, True]


def test_two_old_import_paths_at_once_leave_each_module_its_own_spec():
    finder = moved.Moved()
    names = ("fastinfogan.capture", "fastinfogan.ema")
    specs = [finder.find_spec(name, None) for name in names]
    with pytest.warns(DeprecationWarning, match="has moved"):
        modules = [finder.create_module(spec) for spec in specs if spec is not None]
    for module, spec in zip(modules, specs, strict=True):
        module.__spec__ = spec  # as the import does between the two calls
        finder.exec_module(module)
    assert [m.__spec__.name for m in modules if m.__spec__] == [moved.MOVED[n] for n in names]


def test_two_threads_draw_the_pictures_of_one_run_as_one_thread_does(small_run, one_thread):
    """As a web server does."""
    generator, _, spec = fastinfogan.load(small_run)

    def draw(seed: int) -> list[Any]:
        torch.set_num_threads(1)
        with torch.no_grad():
            images = generator(spec.sample(4, seed=seed).input)
        return [images, *(traversal(generator, spec, i, rows=2, seed=seed) for i in range(2))]

    def equal(one: list[Any], other: list[Any]) -> bool:
        return torch.equal(one[0], other[0]) and one[1:] == other[1:]

    seeds = list(range(6))
    alone = [draw(seed) for seed in seeds]
    for together in in_threads(lambda: [draw(s) for s in seeds], lambda: [draw(s) for s in seeds]):
        assert all(map(equal, alone, together))


@pytest.fixture
def _without_pictures(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("fastinfogan.runs.loop.Training._draw", lambda *_: None)
    monkeypatch.setattr("fastinfogan.runs.loop.Training._evaluate", lambda *_: None)


@pytest.mark.slow
@pytest.mark.usefixtures("_without_pictures")
def test_a_streamed_fit_in_another_thread_gives_the_weights_of_one_in_the_main_thread(
    tmp_path: Path,
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    np.save(tmp_path / "images.npy", images)

    def fit(name: str) -> None:
        options: dict[str, Any] = {"codes": "cat2,uniform", "noise": 3, "batch_size": 8}
        options |= {"stream": "always", "steps": 4, "image_size": 8}
        data = f"npy:{tmp_path / 'images.npy'}"
        fastinfogan.fit("mnist-paper", out=tmp_path / name, data=data, **options)

    fit("main")
    in_threads(lambda: fit("thread"))
    one, other = tensors(tmp_path / "main", 4), tensors(tmp_path / "thread", 4)
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []
