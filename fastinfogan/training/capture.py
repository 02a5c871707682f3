"""A function of tensors captured once in a CUDA graph and replayed.

Replaying costs the host one call, whatever the number of kernels. In exchange every tensor that
the function touches must keep its address, and inputs are copied into buffers of the graph. Results
lie in memory of the graph's own pool, which the next replay writes anew, so they are copied out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

WARM_UPS = 3
TOLERANCE = 0.1  # of what an update changes: signs that rounding turns, no more


class Graphs(Protocol):
    """The part of CUDA that is needed, so that a test can stand in for it."""

    def warm_up(self, work: Callable[[], object]) -> None:
        """Run `work` aside from the current stream."""

    def capture(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Return (what replays `work`, the tensor that it writes its result to)."""


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
    """The reason why a function is not replayed; its state is as it was."""


@contextmanager
def restore(state: Sequence[Tensor]) -> Iterator[None]:
    """Restore the state at the end of the block, in the same memory."""
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
        function: changes nothing but `state`, in place, and returns tensors in any nesting of
            tuples, named tuples and dicts (a pytree); a replay returns them in fp32.
        state: all that it changes.
        inputs: an example of its arguments.
        agree: given what went wrong, "" for nothing, returns it or what went wrong elsewhere:
            ranks that average within the function must all replay it or none.

    Raises CaptureFailed where it cannot be captured or where a replay, tried on the present state,
    does not do what the function does. The state is then, as ever, what it was before.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        state: Sequence[Tensor],
        inputs: Sequence[Tensor],
        graphs: Graphs | None = None,
        agree: Callable[[str], str] = str,
    ) -> None:
        graphs = graphs or CudaGraphs()
        failure = ""
        self._tree: TreeSpec
        self._shapes: list[torch.Size]
        self._inputs = [t.clone() for t in inputs]

        def work() -> Tensor:
            """Return the leaves in one vector, which a replay copies out by one launch."""
            leaves, self._tree = tree_flatten(function(*self._inputs))
            self._shapes = [leaf.shape for leaf in leaves]
            return torch.cat([leaf.float().reshape(-1) for leaf in leaves])

        def warm_up() -> None:
            for _ in range(WARM_UPS):
                work()

        try:
            with restore(state):
                graphs.warm_up(warm_up)
            with restore(state):
                self._replay, self._result = graphs.capture(work)
        except Exception as error:  # CUDA, NCCL, a library: whatever it is, eager still runs
            failure = str(error).partition("\n")[0] or type(error).__name__
        if failure := agree(failure):
            raise CaptureFailed(failure)
        worst = self._compare(work, state)
        if not worst <= TOLERANCE:
            failure = f"a replay differs from the update it was captured from by {worst:.1g} of it"
        if failure := agree(failure):
            raise CaptureFailed(failure)

    def _compare(self, work: Callable[[], Tensor], state: Sequence[Tensor]) -> float:
        before = [t.detach().clone() for t in state]
        with restore(state):
            result = work().clone()
            expected = [t.detach().clone() for t in state]
        with restore(state):
            self._replay()
            apart = [_distance(*three) for three in zip(state, expected, before, strict=True)]
            apart.append(_distance(self._result, result, torch.zeros_like(result)))
            return float(torch.stack(apart).max())

    def __call__(self, *inputs: Tensor | int) -> Any:
        """Replay on these inputs. The tensors of the result are the caller's."""
        for buffer, value in zip(self._inputs, inputs, strict=True):
            if isinstance(value, Tensor):
                buffer.copy_(value)
            else:
                buffer.fill_(value)
        self._replay()
        parts = self._result.clone().split([shape.numel() for shape in self._shapes])
        leaves = [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        return tree_unflatten(leaves, self._tree)


def _distance(a: Tensor, expected: Tensor, before: Tensor) -> Tensor:
    """Return the sum of differences over that of changes; NaN where only one has a NaN.

    Not entry by entry: Adam's first step is ± the rate, whatever the gradient's size.
    """
    a, expected, before = (t.detach().double() for t in (a, expected, before))
    off = torch.where(a.isnan() & expected.isnan(), 0.0, (a - expected).abs()).sum()
    return torch.where(off == 0, off, off / (expected - before).abs().nansum())
