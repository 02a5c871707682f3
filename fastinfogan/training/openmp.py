"""OpenMP's settings of a training process; they hold if made before torch is imported.

Threads that wait for each other spin on their cores. Where another process wants a core, a spinning
thread keeps the one that it waits for from running: with one busy process on two cores, throughput
fell to a third. GNU OpenMP spins a hundred thousand to billions of times by default; after a
thousand it sleeps, which costs some 3 % on an idle machine (docs/notes/growth.md).
"""

from __future__ import annotations

import os

SPINS = "1000"
SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_SPINCOUNT")


def spin_briefly() -> None:
    """Let OpenMP's threads sleep after a short wait, unless the user has said otherwise."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def settings() -> dict[str, str]:
    """Return the OpenMP settings in the environment, by name."""
    return {name: os.environ[name] for name in SETTINGS if name in os.environ}
