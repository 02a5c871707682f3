"""The batches of a streamed set, read ahead by worker processes."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..errors import UserError
from .streaming import Grouped, Rows, Source, Streamed, grouped_source

PREFETCH = 4  # batches that each worker keeps ready
MAX_WORKERS = 8
LOOK_EVERY = 1  # seconds of waiting for a batch between two looks for a signal
Batch = Tensor | NDArray[np.uint8] | UserError


class Interrupted(Exception):
    """A signal to stop came while a batch was waited for."""


class _Batches(Dataset[Tensor]):
    """Whole batches, for workers to read."""

    def __init__(self, images: Streamed) -> None:
        self.images = images

    def __getitems__(self, requested: tuple[Rows, Rows | None]) -> Batch:
        rows, ahead = requested
        source = grouped_source(self.images)
        if source is not None and ahead is not None:
            source.fetch_ahead(ahead)
        try:
            images = self.images[rows]
        except UserError as error:  # raised here, it would come out with the worker's traceback
            return error
        batch = torch.from_numpy(images)
        if get_worker_info() is None:
            return batch
        # Shared here, where a failure can be caught: in the queue's own thread it would lose the
        # batch, and the trainer would wait for it for ever. /dev/shm of a container may be small;
        # an array goes through the pipe instead.
        try:
            return batch.share_memory_()
        except RuntimeError:
            return images


class _Rows:
    """The rows of batch `first`, first + 1, …, without end, and the groups to fetch then."""

    def __init__(
        self, indices: Callable[[int], Tensor], ahead: Callable[[int], Rows | None] | None
    ) -> None:
        self.indices, self.ahead, self.first = indices, ahead, 0

    def __iter__(self) -> Iterator[tuple[Rows, Rows | None]]:
        for step in itertools.count(self.first):
            ahead = None if self.ahead is None else self.ahead(step)
            yield self.indices(step).numpy(), ahead


class Stream:
    """The batches of a streamed set: workers read ahead, the next batch is waited for.

    `indices` gives an update's rows (a CPU tensor); `ahead`, of a grouped source, the groups to
    hold from then on. Calls for update after update read ahead; any other update starts anew from
    there.
    """

    def __init__(
        self,
        images: Streamed,
        indices: Callable[[int], Tensor],
        device: torch.device,
        workers: int | None = None,
        ahead: Callable[[int], Rows | None] | None = None,
    ) -> None:
        self.device = device
        self.interrupted: Callable[[], object] = bool  # asked while a batch is waited for: false
        self._images, self._rows = images, _Rows(indices, ahead)
        self._workers = _workers(images.source, device) if workers is None else workers
        self._loader: DataLoader[Tensor] | None = None
        self._batches: Iterator[Batch] | None = None
        self._next = 0

    def __call__(self, step: int) -> Tensor:
        """Return the images of update `step` (from 0) on the device, uint8 [batch_size, H, W, C].

        Raises UserError, in one line, where they cannot be read; Interrupted where `interrupted`
        becomes true while they are waited for.
        """
        try:
            if self._batches is None or step != self._next:
                self._start(step)
            batch = self._wait()
        except (RuntimeError, OSError, EOFError) as error:  # a worker that was killed
            self._kill()
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"the process that reads the images ended ({reason})") from None
        if isinstance(batch, UserError):
            self.close()
            raise UserError(str(batch))
        self._next = step + 1
        if not isinstance(batch, Tensor):
            batch = torch.from_numpy(batch)
        return batch.to(self.device, non_blocking=True)

    def _wait(self) -> Batch:
        """Wait for the next batch. A signal to stop ends the waiting."""
        assert self._batches is not None
        while True:
            try:
                return next(self._batches)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):
                    raise
            if self.interrupted():
                self._kill()
                raise Interrupted

    def _kill(self) -> None:
        """End workers that may be stuck, which asking would wait for."""
        for worker in getattr(self._batches, "_workers", ()):
            worker.kill()
            worker.join()
        self.close()

    def _start(self, step: int) -> None:
        if self._loader is None:
            self._loader = self._new_loader()
        self._rows.first = step
        # torch's handler of SIGCHLD would raise wherever this process happens to be. Without it a
        # worker that has died is found when its batch is waited for, within five seconds.
        handler = signal.getsignal(signal.SIGCHLD)
        try:
            self._batches = iter(self._loader)
        except OSError:  # no space for semaphores, or no process left: the trainer reads itself
            self._workers = 0
            self._loader = self._new_loader()
            self._batches = iter(self._loader)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)

    def _new_loader(self) -> DataLoader[Tensor]:
        return DataLoader(
            _Batches(self._images),
            batch_sampler=self._rows,  # type: ignore[arg-type]
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            num_workers=self._workers,
            prefetch_factor=PREFETCH if self._workers else None,
            persistent_workers=self._workers > 0,
            timeout=LOOK_EVERY if self._workers else 0,
            worker_init_fn=_ignore_signals,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # so that the global one is not drawn from
        )

    def close(self) -> None:
        """End the workers. A later call would start them again."""
        self._batches = self._loader = None


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _ignore_signals(worker: int) -> None:
    """Ignore signals to the process group: the trainer saves before it ends its workers.

    Workers end with the trainer, however it ends: DataLoader's own look for it every 5 s.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _workers(source: Source, device: torch.device) -> int:
    """Return the number of workers: 0 where there is no disk to wait for, as each costs 400 MB.

    One, where reading is copying, or where training itself takes the cores: on a CPU a batch is
    decoded in a fraction of an update. On a GPU decoding gets this rank's cores, up to eight. Of a
    grouped source one: each worker would fetch all of it.
    """
    if not source.on_disk:
        return 0
    if not source.slow or device.type == "cpu" or isinstance(source, Grouped):
        return 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    import joblib  # not in every GPU environment, and a resident run needs none

    return max(1, min(MAX_WORKERS, joblib.cpu_count() // ranks))
