"""The memory that launches keep on a device, with the CPU in the place of CUDA."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")
from fastinfogan_kernels import memory

CUDA = torch.device("cuda", 0)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a device whose tensors lie on the CPU; `capturing` and `stream` are its state."""
    state = SimpleNamespace(capturing=False, stream=1)
    for name in ("zeros", "empty"):
        real = getattr(torch, name)
        monkeypatch.setattr(
            torch, name, lambda *a, real=real, device=None, **kwargs: real(*a, **kwargs)
        )
    monkeypatch.setattr(memory, "keep", lambda device, make: make())
    monkeypatch.setattr(memory, "capturing", lambda device: state.capturing)
    stream = lambda device: SimpleNamespace(cuda_stream=state.stream)  # noqa: E731
    monkeypatch.setattr(torch.cuda, "current_stream", stream)
    return state


def address(workspace: tuple[torch.Tensor, torch.Tensor]) -> tuple[int, int]:
    partial, counter = workspace
    return partial.data_ptr(), counter.data_ptr()


def test_a_stream_has_one_workspace_and_another_stream_another(cuda: SimpleNamespace) -> None:
    workspaces = memory.Workspaces()
    first = workspaces.get(CUDA, 100)
    assert address(workspaces.get(CUDA, 60)) == address(first)
    cuda.stream = 2
    other = workspaces.get(CUDA, 100)
    assert not set(address(other)) & set(address(first))
    cuda.stream = 1
    assert address(workspaces.get(CUDA, 100)) == address(first)


def test_a_workspace_grows_and_the_old_one_stays_for_launches_under_way(
    cuda: SimpleNamespace,
) -> None:
    workspaces = memory.Workspaces()
    small = workspaces.get(CUDA, 10)
    large = workspaces.get(CUDA, 1000)
    assert large[0].numel() >= 1000
    assert large[1].item() == 0
    pointers = {t.data_ptr() for t in workspaces._all}
    assert {*address(small), *address(large)} <= pointers


def test_every_captured_launch_has_a_counter_of_its_own_that_stays_at_its_address(
    cuda: SimpleNamespace,
) -> None:
    workspaces = memory.Workspaces()
    eager = workspaces.get(CUDA, 10)
    cuda.capturing = True
    n = memory.Workspaces.COUNTERS
    given = [workspaces.get(CUDA, 10)[1].data_ptr() for _ in range(n)]  # as a graph holds them
    assert len({*given, eager[1].data_ptr()}) == n + 1
    (pool,) = (t for t in workspaces._all if t.numel() == n)
    assert set(given) == set(range(pool.data_ptr(), pool.data_ptr() + 4 * n, 4))
    # beyond those, one that the graph itself sets to zero
    assert workspaces.get(CUDA, 10)[1].item() == 0


def test_a_capture_before_any_other_call_has_a_counter_too(cuda: SimpleNamespace) -> None:
    cuda.capturing = True
    partial, counter = memory.Workspaces().get(CUDA, 10)
    assert partial.numel() == 10
    assert counter.item() == 0


def test_a_copy_to_the_device_within_a_capture_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "capturing", lambda device: True)
    with pytest.raises(ValueError, match="make one such call before the capture"):
        memory.keep(CUDA, lambda: torch.zeros(1))


def test_kept_memory_is_made_in_a_thread_whose_error_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Null:
        def __init__(self, *args: object) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *args: object) -> None: ...
        def record(self, stream: object) -> None: ...
        def wait_event(self, event: object) -> None: ...

    import threading

    for name in ("Event", "default_stream", "device", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Null)
    monkeypatch.setattr(memory, "capturing", lambda device: False)
    here = threading.get_ident()
    assert memory.keep(CUDA, threading.get_ident) != here
    with pytest.raises(ZeroDivisionError):
        memory.keep(CUDA, lambda: 1 // 0)


def test_the_caller_s_stream_waits_for_what_another_stream_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the caller's kernels could read a layout before its copy to the device is done."""
    calls: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_event(self, event: Event) -> None:
            calls.append(f"{self.name} waits for {event.after}")

    class Event:
        after = "nothing"

        def record(self, stream: Stream) -> None:
            self.after = stream.name
            calls.append(f"recorded on {stream.name}")

    def make() -> str:
        calls.append("made")
        return "layout"

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: Stream("default"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("current"))
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(memory, "capturing", lambda device: False)
    assert memory.keep(CUDA, make) == "layout"
    assert calls == ["made", "recorded on default", "current waits for default"]


def test_threads_that_interpret_kernels_share_no_workspace():
    """Two trainings in one process would count each other's programs."""
    workspaces, cpu = memory.Workspaces(), torch.device("cpu")
    own = workspaces.get(cpu, 8)
    others: list[tuple[torch.Tensor, torch.Tensor]] = []
    thread = threading.Thread(target=lambda: others.append(workspaces.get(cpu, 8)))
    thread.start()
    thread.join()
    assert own[0].data_ptr() != others[0][0].data_ptr()
    assert own[1].data_ptr() != others[0][1].data_ptr()
    assert workspaces.get(cpu, 8)[1] is own[1]


def test_the_workspace_of_a_thread_is_freed_with_the_thread():
    workspaces, cpu = memory.Workspaces(), torch.device("cpu")
    kept: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        for size in (8, 16):  # a workspace that grows leaves none behind either
            kept.extend(weakref.ref(t) for t in workspaces.get(cpu, size))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [reference() for reference in kept] == [None] * 4


def at_once(work: Callable[[], object]) -> list[object]:
    """Return what `work` returns in two threads."""
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(work())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return results


def test_two_first_calls_at_once_get_the_one_result_that_is_kept_for_good():
    """A graph may hold the address of either."""
    both = threading.Barrier(2, timeout=30)

    @memory.keep_for_good
    def make(size: int) -> torch.Tensor:
        both.wait()
        return torch.zeros(size)

    first, second = at_once(lambda: make(3))
    assert first is second is make(3)


def test_two_first_losses_at_once_read_the_weights_that_are_kept_for_good(monkeypatch):
    from fastinfogan import Categorical, LatentSpec
    from fastinfogan.losses import triton as adapter

    both = threading.Barrier(2, timeout=30)

    def wait(device: torch.device, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        both.wait()
        return make()

    monkeypatch.setattr(memory, "keep", wait)
    spec, q = LatentSpec(noise=1, codes=(Categorical(3, weight=0.37),)), torch.zeros(1, 3)
    first, second = at_once(lambda: adapter.own_weights(spec, q))
    assert first is second is adapter.own_weights(spec, q)
