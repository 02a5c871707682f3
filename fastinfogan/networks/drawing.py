"""A lock on torch's global generator, which all threads of a process share.

Modules draw from it when they are made. Where a thread seeds it to make one, another thread must
not draw from it or set its state.
"""

from __future__ import annotations

import os
import threading


class _Lock:
    """A lock that its owner may take again, and that is free in a forked process.

    A fork copies a lock as it is, without the thread that would release it.
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


GLOBAL_GENERATOR = _Lock()
