"""The thin layer over Accelerate's process group: who we are, and what the ranks share.

Gradients are averaged by one flat all-reduce per optimizer, in place of DDP's reducer: the same
weights, and a step that stays a plain function.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from .errors import UserError

T = TypeVar("T")
TWO_RANKS = (
    "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 -m fastinfogan.train"
)


class Ranks:
    """This process among its ranks. Single-process runs have one rank and no process group."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.rank: int = accelerator.process_index
        self.world_size: int = accelerator.num_processes
        # Host-side agreements must not touch the device's queue.
        self._host = dist.new_group(backend="gloo") if self.world_size > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this rank prints and writes."""
        return self.rank == 0

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Average the tensors over the ranks, in place, by one all-reduce per dtype."""
        if self.world_size == 1:
            return
        for dtype in dict.fromkeys(t.dtype for t in tensors):  # in the same order everywhere
            group = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.reshape(-1) for t in group])
            dist.all_reduce(flat)
            flat /= self.world_size
            for tensor, mean in zip(group, flat.split([t.numel() for t in group]), strict=True):
                tensor.copy_(mean.view(tensor.shape))

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank rank 0's values, in place."""
        if self.world_size > 1:
            for tensor in tensors:
                contiguous = tensor.contiguous()
                dist.broadcast(contiguous, src=0)
                tensor.copy_(contiguous)

    def minimum(self, values: Tensor) -> Tensor:
        """Elementwise minimum over the ranks."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values, op=dist.ReduceOp.MIN)
        return values

    def most_urgent(self, number: int) -> int:
        """The highest of the ranks' numbers: how ranks agree to stop. Does not touch the device."""
        if self.world_size == 1:
            return number
        flag = torch.tensor(number)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._host)
        return int(flag)

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
        dist.broadcast_object_list(outcome, src=0, group=self._host)
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            raise UserError(outcome[1], said_by_main=True)
        result: T = outcome[0]
        return result

    def close(self) -> None:
        """Leave the process group; torchrun makes one for a single process too."""
        if dist.is_initialized():
            dist.destroy_process_group()


def start(mixed_precision: str, cpu_only: bool) -> Ranks:
    """Join the other ranks. Raises UserError where the launch is not what it seems."""
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if asked == 1 and _launcher_wanted_more():
        raise UserError(
            "the launcher was asked for several processes but started one, as `accelerate launch "
            f"--cpu --num_processes N` does; use `{TWO_RANKS}`"
        )
    accelerator = Accelerator(mixed_precision=mixed_precision, cpu=cpu_only)
    if accelerator.num_processes != asked:
        raise UserError(
            f"launched as {asked} processes, but Accelerate joined {accelerator.num_processes}; "
            f"on a CPU use `{TWO_RANKS}`"
        )
    return Ranks(accelerator)


def is_launched() -> bool:
    """Whether `accelerate launch` or torchrun is our parent."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ


def _launcher_wanted_more() -> bool:
    """Accelerate's launcher names a master address for several processes, even if it starts one."""
    if not is_launched() or "MASTER_ADDR" not in os.environ or "WORLD_SIZE" in os.environ:
        return False
    try:
        return "MASTER_ADDR" not in psutil.Process(os.getppid()).environ()
    except (psutil.Error, OSError):
        return False


class StopSignal:
    """Turns Ctrl-C, SIGTERM, SIGHUP and a launcher's death into a number to look at.

    Made when the process starts, entered for the updates. A second Ctrl-C interrupts at once.
    """

    NUMBERS = tuple(
        getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)
    )

    def __init__(self) -> None:
        self._received = 0
        self._parent = os.getppid() if is_launched() else None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        for number in self.NUMBERS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = self._received or number

    def check(self) -> int:
        """The signal received so far, or 0. A launcher that died counts as SIGTERM."""
        if not self._received and self._parent is not None and os.getppid() != self._parent:
            self._received = signal.SIGTERM
        return int(self._received)
