"""torch.compile for the functions of an update: whole graphs, whose code the next run finds."""

from __future__ import annotations

import os
import tempfile
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
_PLACE = "TORCHINDUCTOR_CACHE_DIR"


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

    Its own is a temporary one, which a restart empties. It is in TORCHINDUCTOR_CACHE_DIR once
    torch's compiler is imported; another place, which the user has named, stays.
    """
    place = Path(os.environ.get(_PLACE, _temporary()))
    if place.parent != _temporary().parent or not place.name.startswith(_temporary().name):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        os.environ[_PLACE] = str(folder)


def _temporary() -> Path:
    """Return what the path of Inductor's own folder begins with; the user's name follows."""
    return Path(tempfile.gettempdir(), "torchinductor_")


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep the compiler from warning users of what they cannot use."""
    with warnings.catch_warnings():
        for words in _NOT_FOR_USERS:
            warnings.filterwarnings("ignore", words)
        yield
