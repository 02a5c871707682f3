"""`plain_loss` under `torch.compile`: one compiled callable a layout.

The batch size is dynamic, so that another one does not recompile. PyTorch refuses a second
derivative of it, and a second backward pass (retain_graph=True).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import FunctionType

import torch
from torch import Tensor

from .latents import LatentSpec
from .reference import plain_loss

COMPILER = "inductor"  # what torch.compile hands the graph to


def compiled_loss(
    q: Tensor,
    spec: LatentSpec,
    categorical: Tensor,
    continuous: Tensor,
    weights: Tensor | None,
    reduction: str,
    sigma: float,
) -> tuple[Tensor, Tensor]:
    """(total, NLL per code), as `plain_loss`. The first call of a layout compiles, for seconds."""
    # Within a compiled caller the definition is a part of its graph. A batch of none or one would
    # be compiled for that size alone.
    if torch.compiler.is_compiling() or q.shape[0] < 2:
        return plain_loss(q, spec, categorical, continuous, weights, reduction, sigma)
    differentiated = torch.is_grad_enabled() and q.requires_grad
    run = _callable(spec, reduction, sigma, weights is None, q.dtype, differentiated)
    return run(q, categorical, continuous, weights)


@lru_cache(maxsize=128)
def _callable(
    spec: LatentSpec, reduction: str, sigma: float, *variant: object
) -> Callable[..., tuple[Tensor, Tensor]]:
    """The compiled loss of a layout; `variant` is what else would make it compile anew."""

    def loss(
        q: Tensor, categorical: Tensor, continuous: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return plain_loss(q, spec, categorical, continuous, weights, reduction, sigma)

    # torch.compile counts recompiles, of which it allows 8, a code object: each has its own
    own = FunctionType(loss.__code__.replace(), globals(), "loss", None, loss.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=True, backend=COMPILER)
