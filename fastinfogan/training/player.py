"""One side of the game: its parameters in one buffer, their optimizer and their average.

One buffer: one all-reduce, one Adam, one cast, one average, whatever the number of layers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..networks.batchnorm import BatchNorm
from ..parallel import Pending, Ranks

BATCH_NORMS = (BatchNorm, nn.modules.batchnorm._BatchNorm)  # computed with in fp32
ALIGN = 64  # elements: a parameter begins on a cache line in every dtype
Network = TypeVar("Network", bound=nn.Module)


class Flat:
    """Parameters laid one after another, padded with zeros that stay zeros.

    Args:
        params: of one dtype, which become views of the buffer.
        dtype: what is computed in. Where it is another, `working` holds a copy of the buffer in it.
    """

    def __init__(self, params: Iterable[nn.Parameter], dtype: torch.dtype | None = None) -> None:
        self.params = list(params)
        self._starts, size = [], 0
        for p in self.params:
            self._starts.append(size)
            size += -(-p.numel() // ALIGN) * ALIGN
        first = self.params[0]
        self.value = nn.Parameter(torch.zeros(size, dtype=first.dtype, device=first.device))
        with torch.no_grad():
            for p, view in zip(self.params, self.views(self.value.data), strict=True):
                view.copy_(p)
                p.data = view
        self.working: Tensor | None = None
        if dtype not in (None, first.dtype):
            self.working = self.value.detach().to(dtype)

    @cached_property
    def grad(self) -> Tensor:
        """The gradients, in the buffer's dtype and layout; an optimizer finds them."""
        self.value.grad = torch.zeros_like(self.value.data)
        return self.value.grad

    @cached_property
    def _gradients(self) -> list[Tensor]:
        return self.views(self.grad)

    def views(self, buffer: Tensor) -> list[Tensor]:
        """Return each parameter's view of a buffer of this layout, in its memory format."""
        return [
            buffer.as_strided(p.shape, p.stride(), start)
            for p, start in zip(self.params, self._starts, strict=True)
        ]

    @torch.no_grad()
    def collect(self, grads: Sequence[Tensor]) -> None:
        """Write gradients of any dtype and memory format into `grad`."""
        torch._foreach_copy_(self._gradients, list(grads))

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the working copy up to date."""
        if self.working is not None:
            self.working.copy_(self.value)


class Player:
    """The parameters that one player's step trains, and everything that moves them.

    Args:
        name: "d" or "g", as checkpoints name its moments.
        params: fp32 parameters, which become views of one buffer.
        dtype: the dtype that is computed in.
        lr: the full learning rate.
        betas: Adam's.
        ranks: average the gradients.
        reduce_dtype: what they are sent in, if not as they are.
        one_launch: move by the kernel of `fastinfogan_kernels.adam`, which also casts the working
            copy and moves the average. It skips no update, as fp16's loss scale would ask.
        average: a buffer that follows the first parameters, moved by the kernel alone.
        decay: that average's, as `Ema`'s.
    """

    def __init__(
        self,
        name: str,
        params: Iterable[nn.Parameter],
        dtype: torch.dtype,
        lr: float,
        betas: tuple[float, float],
        ranks: Ranks,
        reduce_dtype: torch.dtype | None = None,
        *,
        one_launch: bool = False,
        average: Tensor | None = None,
        decay: float = 0.0,
    ) -> None:
        self.name, self.lr, self._ranks, self._reduce_dtype = name, lr, ranks, reduce_dtype
        self.flat = Flat(params, dtype)
        self.optimizer = fused_adam(self.flat, lr, betas)
        self._one_launch, self._average, self._decay = one_launch, average, decay
        if one_launch:  # the kernel reads the rate on the device
            rate = torch.tensor(lr, device=self.flat.value.device)
            self.optimizer.param_groups[0]["lr"] = rate

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        scaler: torch.amp.GradScaler | None = self._ranks.accelerator.scaler
        return scaler

    def set_rate(self, rate: float | Tensor | None) -> None:
        """Set the learning rate of this update; None leaves it."""
        if rate is None:
            return
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # on GPUs, where a graph reads it
                group["lr"].fill_(rate) if isinstance(rate, float) else group["lr"].copy_(rate)
            else:
                group["lr"] = rate

    def start_average(self, grads: Sequence[Tensor]) -> Pending:
        """Take up this rank's gradients and start averaging them over the ranks."""
        grad = self.flat.grad
        self.flat.collect(grads)
        if self._reduce_dtype is None:
            return self._ranks.start_average(grad)
        sent = grad.to(self._reduce_dtype)
        average = self._ranks.start_average(sent)

        def finish() -> None:
            average.wait()
            grad.copy_(sent)

        return Pending(finish)

    def move(self) -> None:
        """Apply the averaged gradients, and bring the working copies up to date."""
        if self._one_launch:
            self._move_at_once()
            return
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._scaler.step(self.optimizer)
        self.flat.refresh()

    def _move_at_once(self) -> None:
        """Move parameters, moments, working copy and average in one launch of the kernel."""
        from fastinfogan_kernels.adam import adam_

        (group,) = self.optimizer.param_groups
        state = self.optimizer.state[self.flat.value]
        adam_(
            self.flat.value.detach(),
            self.flat.grad,
            state["exp_avg"],
            state["exp_avg_sq"],
            state["step"],
            state["step"].long(),  # so moves by either way go on from the other's
            group["lr"],
            betas=group["betas"],
            epsilon=group["eps"],
            working=self.flat.working,
            average=self._average,
            decay=self._decay,
        )

    @torch.no_grad()
    def restart(self) -> None:
        """Set Adam's moments and count to 0, as they are before the first update."""
        torch._foreach_zero_(list(self.optimizer.state[self.flat.value].values()))

    @torch.no_grad()
    def forget(self, param: Tensor, rows: slice) -> None:
        """Give rows of a parameter, which were written anew, moments as if they had learned before.

        The first moment is 0, the second the mean of the parameter's other rows. Both at 0 would
        move the rows by far more than the rate, as Adam has counted its updates.
        """
        (place,) = (i for i, own in enumerate(self.flat.params) if own is param)
        state = self.optimizer.state[self.flat.value]
        first, second = (self.flat.views(state[key])[place] for key in ("exp_avg", "exp_avg_sq"))
        others = torch.ones(len(param), dtype=torch.bool, device=param.device)
        others[rows] = False
        first[rows] = 0
        second[rows] = second[others].mean()

    def state(self) -> list[Tensor]:
        """Return all that an update of this player changes, live: parameters and moments."""
        tensors = [self.flat.value, *self.optimizer.state[self.flat.value].values()]
        return tensors if self.flat.working is None else [*tensors, self.flat.working]

    def tensors(self) -> dict[str, Tensor]:
        """Return Adam's moments and count, live, by the names that checkpoints use."""
        state = self.optimizer.state[self.flat.value]
        out = {f"adam_{self.name}.step": state["step"]}
        for key in ("exp_avg", "exp_avg_sq"):
            for i, view in enumerate(self.flat.views(state[key])):
                out[f"adam_{self.name}.{i:02d}.{key}"] = view
        return out


def fused_adam(flat: Flat, lr: float, betas: tuple[float, float]) -> torch.optim.Adam:
    """Return Adam on a flat parameter; its state exists from the start, to be saved."""
    value = flat.value
    optimizer = torch.optim.Adam(
        [value],
        lr=torch.tensor(lr, device=value.device) if value.device.type == "cuda" else lr,
        betas=betas,
        fused=True,
        capturable=value.device.type == "cuda",
    )
    optimizer.state[value] = {
        "step": torch.zeros((), dtype=torch.float32, device=value.device),
        "exp_avg": torch.zeros_like(value.data),
        "exp_avg_sq": torch.zeros_like(value.data),
    }
    return optimizer


def working_copies(flats: Sequence[Flat]) -> dict[nn.Parameter, nn.Parameter]:
    """Return for each parameter the one that is computed with: a view of `working`, or itself."""
    out = {}
    for flat in flats:
        views = flat.params if flat.working is None else flat.views(flat.working)
        for p, view in zip(flat.params, views, strict=True):
            out[p] = view if isinstance(view, nn.Parameter) else nn.Parameter(view)
    return out


def working_network(network: Network, copies: Mapping[nn.Parameter, nn.Parameter]) -> Network:
    """Return the same network on the working copies of its weights. BatchNorm's are shared."""
    twin = copy.deepcopy(network)
    for (name, module), other in zip(network.named_modules(), twin.modules(), strict=True):
        for key, p in module.named_parameters(name, recurse=False):
            key = key.rpartition(".")[2]
            setattr(other, key, p if isinstance(module, BATCH_NORMS) else copies[p])
        for key, buffer in module.named_buffers(recurse=False):
            setattr(other, key, buffer)
    return twin
