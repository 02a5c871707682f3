"""The thin layer over Accelerate's process group: who we are, and what the ranks share.

Gradients are averaged by one flat all-reduce per optimizer, in place of DDP's reducer: the same
weights, and a step that stays a plain function.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import psutil
import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import is_initialized
from torch import Tensor

from .device import LAUNCHED, launched_number
from .errors import LostRank, UserError
from .training.launcher import refuse_what_would_be_ignored

T = TypeVar("T")
# A rank that hangs without closing its connections is given up after these. On the host, ranks
# wait for rank 0's evaluation; on the device, only for each other's updates.
DEVICE_TIMEOUT = timedelta(minutes=10)
HOST_TIMEOUT = timedelta(minutes=30)
# Joining the other ranks may hang for good: gloo sometimes waits without a limit for a connection
# that failed. Longer than the limits that torch keeps.
JOIN_TIMEOUT = timedelta(minutes=11)
PATIENCE = 10  # seconds that a signal gives a rank for images that all ranks wait for
TWO_RANKS = (
    "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 -m fastinfogan.train"
)


class Pending:
    """An average under way."""

    def __init__(self, finish: Callable[[], None] | None = None) -> None:
        self._finish = finish

    def wait(self) -> None:
        """Finish the average: what this stream does next sees it. A second call does nothing.

        On a GPU this orders streams and leaves the host alone; on a CPU it blocks. Raises LostRank.
        """
        finish, self._finish = self._finish, None
        if finish is not None:
            finish()


class Alone(NamedTuple):
    """The one rank of a run that shares its process, in place of Accelerate's process-wide state.

    Attributes are Accelerate's: see `start_alone`.
    """

    device: torch.device
    mixed_precision: str
    scaler: torch.amp.GradScaler | None
    process_index: int = 0
    num_processes: int = 1


class Ranks:
    """This process among its ranks. Single-process runs have one rank and no process group.

    Every method that talks to other ranks raises LostRank where one of them is gone.
    """

    def __init__(self, accelerator: Accelerator | Alone) -> None:
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.rank: int = accelerator.process_index
        self.world_size: int = accelerator.num_processes
        self._lost = False
        self._host: dist.ProcessGroup | None = None
        if self.world_size > 1:
            # Host-side agreements must not touch the device's queue.
            with self._together():
                self._host = dist.new_group(backend="gloo", timeout=HOST_TIMEOUT)

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            with _losing_ranks():
                yield
        except LostRank:
            self._lost = True
            raise

    @property
    def is_main(self) -> bool:
        """Return True on the rank that prints and writes."""
        return self.rank == 0

    def start_average(self, flat: Tensor) -> Pending:
        """Start averaging a contiguous tensor over the ranks, in place, by one all-reduce.

        Until `wait`, nothing may read or write `flat`; all else goes on next to the all-reduce. D's
        average is started before G's latents are drawn and G's images made. These do not read what
        D's update writes (D's parameters, moments and gradients). Nor does D's update read what
        they write (G's activations and running buffers). So the weights are those of the update
        done in order. D's pass over those images reads D's parameters: `wait` and D's Adam come
        before it.
        (Compiled, G's images are in one graph with D's pass over them: only latents are early.)

        With NCCL this can be captured in a CUDA graph, if `wait` is captured with it.
        """
        if self.world_size == 1:
            return Pending()
        # gloo is not everywhere able to average
        native = dist.get_backend() == "nccl"
        with self._together():
            work = dist.all_reduce(
                flat, op=dist.ReduceOp.AVG if native else dist.ReduceOp.SUM, async_op=True
            )

        def finish() -> None:
            with self._together():
                work.wait()
            if not native:
                flat.div_(self.world_size)

        return Pending(finish)

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Average the tensors over the ranks, in place, by one all-reduce per dtype."""
        if self.world_size == 1:
            return
        for dtype in dict.fromkeys(t.dtype for t in tensors):  # in the same order everywhere
            group = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.reshape(-1) for t in group])
            self.start_average(flat).wait()
            for tensor, mean in zip(group, flat.split([t.numel() for t in group]), strict=True):
                tensor.copy_(mean.view(tensor.shape))

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank rank 0's values, in place."""
        if self.world_size > 1:
            for tensor in tensors:
                contiguous = tensor.contiguous()
                with self._together():
                    dist.broadcast(contiguous, src=0)
                tensor.copy_(contiguous)

    def minimum(self, values: Tensor) -> Tensor:
        """Return the elementwise minimum over the ranks."""
        if self.world_size > 1:
            values = values.clone()
            with self._together():
                dist.all_reduce(values, op=dist.ReduceOp.MIN)
        return values

    def most_urgent(self, number: int) -> int:
        """Return the highest of the ranks' numbers, without the device: ranks agree to stop."""
        if self.world_size == 1:
            return number
        flag = torch.tensor(number)
        with self._together():
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._host)
        return int(flag)

    def first_failure(self, failure: str) -> str:
        """Return to all ranks the message of the lowest rank that failed; "" if none did."""
        return next(filter(None, self._gather(failure)), "")

    def agree(self, facts: Mapping[str, object]) -> None:
        """Raise UserError on every rank where one's facts are not rank 0's. Rank 0 prints it."""
        first, *others = self._gather(dict(facts))
        for rank, theirs in enumerate(others, start=1):
            for name, value in theirs.items():
                if value != first.get(name):
                    raise UserError(
                        f"rank {rank} has {name} {value}, rank 0 has {name} {first.get(name)}; "
                        "start every rank with the same",
                        said_by_main=not self.is_main,
                    )

    def on_all(self, work: Callable[[], T]) -> T:
        """Do `work` on every rank; if it fails on any, fail on all. The lowest of them prints."""
        result: T
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:
            failure = error
        messages = self._gather(None if failure is None else str(failure))
        failed = [rank for rank, message in enumerate(messages) if message is not None]
        if not failed:
            return result
        if failure is not None and self.rank == failed[0]:
            raise failure
        raise UserError(messages[failed[0]], said_by_main=True)

    def _gather(self, mine: Any) -> list[Any]:
        """Return every rank's object, by rank."""
        if self.world_size == 1:
            return [mine]
        everyone: list[Any] = [None] * self.world_size
        with self._together():
            dist.all_gather_object(everyone, mine, group=self._host)
        return everyone

    def on_main(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0 and give its result to every rank; if it fails, fail on all."""
        if self.world_size == 1:
            return work()
        outcome: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_main:
            try:
                outcome[0] = work()
            except Exception as error:
                failure, outcome[1] = error, str(error)
        with self._together():
            dist.broadcast_object_list(outcome, src=0, group=self._host)
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            raise UserError(outcome[1], said_by_main=True)
        result: T = outcome[0]
        return result

    def close(self) -> None:
        """Leave the process group; torchrun makes one for a single process too."""
        if not dist.is_initialized():
            return
        if self._lost and dist.group.WORLD is not None:
            dist.group.WORLD.abort()  # else NCCL waits for a collective that cannot end
        dist.destroy_process_group()


@contextmanager
def _losing_ranks() -> Iterator[None]:
    """Turn what a collective raises when another rank is gone into LostRank."""
    try:
        yield
    except RuntimeError as error:
        words = str(error)
        # gloo's transport raises plain RuntimeErrors; a failed `enforce` is a bug here
        transport = "/gloo/" in words and "enforce fail" not in words
        if not isinstance(error, dist.DistError) and not transport:
            raise
        reason = words.partition("] ")[2] if transport else words
        reason = reason.partition(". ")[0].splitlines()[0]
        raise LostRank(f"lost another rank ({reason})") from None


@contextmanager
def _joining() -> Iterator[None]:
    """End the process, with a line and exit code 1, where the other ranks are not reached in time.

    No exception can end a call that hangs.
    """

    def give_up() -> None:
        minutes = JOIN_TIMEOUT.total_seconds() / 60
        line = (
            f"error: the other ranks were not reached within {minutes:.3g} minutes; check that all "
            "were started and that their ports are open between the machines, and run again\n"
        )
        os.write(2, line.encode())
        os._exit(1)

    timer = threading.Timer(JOIN_TIMEOUT.total_seconds(), give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def start(mixed_precision: str, cpu_only: bool) -> Ranks:
    """Join the other ranks. Raises UserError where the launch is not what it seems."""
    refuse_what_would_be_ignored()
    requested = launched_number("WORLD_SIZE")
    if requested == 1 and _launcher_wanted_more():
        raise UserError(
            "the launcher was to start several processes but started one, as `accelerate launch "
            f"--cpu --num_processes N` does; use `{TWO_RANKS}`"
        )
    limit = InitProcessGroupKwargs(timeout=DEVICE_TIMEOUT)
    with nullcontext() if requested == 1 else _joining():
        try:
            with _losing_ranks():
                accelerator = Accelerator(
                    mixed_precision=mixed_precision, cpu=cpu_only, kwargs_handlers=[limit]
                )
        except ValueError as error:  # a variable of the environment that cannot be read
            raise UserError(
                f"Accelerate cannot start: {error}; check the launcher's settings"
            ) from None
        if accelerator.num_processes != requested:
            raise UserError(
                f"launched as {requested} processes, but Accelerate joined "
                f"{accelerator.num_processes}; on a CPU use `{TWO_RANKS}`"
            )
        return Ranks(accelerator)


def is_alone() -> bool:
    """Return True if no launcher has asked for several ranks."""
    return launched_number("WORLD_SIZE") == 1 and not dist.is_initialized()


def is_started() -> bool:
    """Return True if Accelerate has a state in this process, from an earlier training."""
    return is_initialized()


def start_alone(mixed_precision: str, cpu_only: bool) -> Ranks:
    """Return the rank of a run that leaves the process as it is.

    Accelerate keeps one state per process, whose precision cannot change; two such runs, one after
    the other or in two threads, may differ in it. Raises UserError as `start` does for settings of
    the launcher that would be ignored.
    """
    refuse_what_would_be_ignored()
    device = torch.device("cpu") if cpu_only else torch.device("cuda", torch.cuda.current_device())
    scaler = torch.amp.GradScaler(device.type) if mixed_precision == "fp16" else None
    return Ranks(Alone(device, mixed_precision, scaler))


def is_launched() -> bool:
    """Return True if `accelerate launch` or torchrun is the parent process."""
    return not LAUNCHED.isdisjoint(os.environ)


def _launcher_wanted_more() -> bool:
    """Return True if the launcher named a master address, as for several processes."""
    if not is_launched() or "MASTER_ADDR" not in os.environ or "WORLD_SIZE" in os.environ:
        return False
    try:
        return "MASTER_ADDR" not in psutil.Process(os.getppid()).environ()
    except (psutil.Error, OSError):
        return False


class StopSignal:
    """A number to look at for Ctrl-C, SIGTERM, SIGHUP and a launcher's death.

    Made when the process starts, entered for the updates. A second Ctrl-C interrupts at once.
    """

    NUMBERS = tuple(
        getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)
    )

    def __init__(self) -> None:
        self._received = 0
        self._seen = 0.0  # time at which a waiting rank noticed
        self._parent = os.getppid() if is_launched() else None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is not threading.main_thread():
            return self  # signals are the main thread's
        for number in self.NUMBERS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = self._received or number

    def is_overdue(self) -> bool:
        """Return True from `PATIENCE` seconds after this method first sees a signal."""
        if not self.check():
            return False
        self._seen = self._seen or time.monotonic()
        return time.monotonic() - self._seen >= PATIENCE

    def check(self) -> int:
        """Return the signal received so far, or 0. A launcher that died counts as SIGTERM."""
        if not self._received and self._parent is not None and os.getppid() != self._parent:
            self._received = signal.SIGTERM
        return int(self._received)
