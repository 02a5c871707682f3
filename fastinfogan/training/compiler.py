"""torch.compile for the functions of an update: whole graphs, whose code the next run finds."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch._dynamo

from ..data.splits import cache
from ..errors import UserError

COMPILER = "inductor"  # of torch.compile; tests take one that only traces
# Inductor's warnings, of which no user can make use.
_NOT_FOR_USERS = (r"TensorFloat32 tensor cores", r"\s*Online softmax is disabled")


def compile_whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, which calls `autograd.grad`, as one graph without a break."""
    config = torch._dynamo.config
    if not hasattr(config, "trace_autograd_ops"):
        raise UserError("--compile on: this torch cannot trace autograd.grad; use --compile off")
    config.trace_autograd_ops = True
    _keep_code(cache() / "compiled")
    return torch.compile(function, fullgraph=True, dynamic=False, backend=COMPILER)


def _keep_code(folder: Path) -> None:
    """Let Inductor keep its code in a folder, from which later runs take it.

    Its own is a temporary one, which a restart empties. TORCHINDUCTOR_CACHE_DIR, where it is set
    (by the user, or by Inductor at its first use), stays as it is.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep the compiler from warning users of what they cannot use."""
    with warnings.catch_warnings():
        for words in _NOT_FOR_USERS:
            warnings.filterwarnings("ignore", words)
        yield
