"""A function captured once in a CUDA graph and replayed.

Replaying costs the host one call, whatever the number of kernels. In exchange every tensor that
the function touches must keep its address, inputs are copied into buffers of the graph, and its
results lie in memory of the graph's own pool that the next replay writes anew: they are copied out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

Function = Callable[..., Tensor]
WARM_UPS = 3
TOLERANCE = 0.05  # of a tensor's largest value: that of atomics' order in low precision, no more


class Graphs(Protocol):
    """The part of CUDA that is needed, so that a test can stand in for it."""

    def warm_up(self, work: Callable[[], object]) -> None:
        """Run `work` aside from the current stream."""

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """(what replays `work`, the tensor that it writes its result to)."""


class CudaGraphs:
    """CUDA's own."""

    def warm_up(self, work: Callable[[], object]) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            work()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # Other threads (a data loader's) may go on calling CUDA.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = work()
        return graph.replay, result


class CaptureFailed(Exception):
    """Why a function is not replayed; its state is as it was."""


@contextmanager
def restored(state: Sequence[Tensor]) -> Iterator[None]:
    """Whatever is done to the state within, afterwards it is what it was, at the same addresses."""
    saved = [t.detach().clone() for t in state]
    try:
        yield
    finally:
        with torch.no_grad():
            for t, s in zip(state, saved, strict=True):
                t.copy_(s)


class Captured:
    """`function` of tensors, replayed.

    Args:
        function: changes nothing but `state`, in place, and gives one tensor.
        state: all that it changes.
        inputs: an example of its arguments.

    Raises CaptureFailed where it cannot be captured or where a replay, tried on the present state,
    does not do what the function does. The state is then, as ever, what it was before.
    """

    def __init__(
        self,
        function: Function,
        state: Sequence[Tensor],
        inputs: Sequence[Tensor],
        graphs: Graphs | None = None,
    ) -> None:
        graphs = graphs or CudaGraphs()
        self._inputs = [t.clone() for t in inputs]

        def work() -> Tensor:
            return function(*self._inputs)

        def warm_up() -> None:
            for _ in range(WARM_UPS):
                work()

        try:
            with restored(state):
                graphs.warm_up(warm_up)
            with restored(state):
                self._replay, self._result = graphs.capture(work)
        except Exception as error:  # CUDA, NCCL, a library: whatever it is, eager still runs
            raise CaptureFailed(str(error).partition("\n")[0] or type(error).__name__) from error
        self._compare(work, state)

    def _compare(self, work: Callable[[], Tensor], state: Sequence[Tensor]) -> None:
        with restored(state):
            result = work().clone()
            expected = [t.detach().clone() for t in state]
        with restored(state):
            self._replay()
            apart = [_distance(a, b) for a, b in zip(state, expected, strict=True)]
            apart.append(_distance(self._result, result))
            worst = float(torch.stack(apart).max())
        if not worst <= TOLERANCE:
            raise CaptureFailed(
                f"a replay differs from the update it was captured from by {worst:.1g}"
            )

    def __call__(self, *inputs: Tensor | int) -> Tensor:
        """Replay on these inputs. The result is the caller's."""
        for buffer, value in zip(self._inputs, inputs, strict=True):
            if isinstance(value, Tensor):
                buffer.copy_(value)
            else:
                buffer.fill_(value)
        self._replay()
        return self._result.clone()


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Largest difference over the largest value; NaN where only one has a NaN."""
    a, b = a.detach().double(), b.detach().double()
    apart = torch.where(a.isnan() & b.isnan(), 0.0, (a - b).abs())
    return apart.max() / b.abs().max().clamp(min=1e-30) if a.numel() else apart.sum()
