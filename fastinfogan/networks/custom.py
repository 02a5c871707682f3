"""A user's pair of networks, made to fit the training step.

The step asks a pass for its statistics (`stats`): whose running buffers follow it, and which part
of the batch is normalised by itself. Ordinary modules do not know that argument, so they are
wrapped: each part of a batch gets a pass of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..options import call, import_path
from .base import Discriminator, Generator
from .batchnorm import BatchStats, StatsPerPart
from .drawing import GLOBAL_GENERATOR

_PARTS = ("trunk", "logit", "q", "q_parameters")


def user_pair(
    path: str, input_dim: int, q_dim: int, image_size: int, channels: int
) -> tuple[Generator, Discriminator]:
    """Return the pair that the function at `path` makes; see `base.PairFunction`.

    Both are tried on a batch of two. Raises UserError, in one line, for a path that cannot be
    imported, and for networks that lack a part or give another shape.
    """
    sizes = {
        "input_dim": input_dim,
        "q_dim": q_dim,
        "image_size": image_size,
        "channels": channels,
    }
    generator, discriminator = _make(path, sizes)
    _try(path, generator, discriminator, sizes)
    return UserGenerator(generator, path, sizes), UserDiscriminator(discriminator, path, sizes)


def _make(path: str, sizes: dict[str, int]) -> tuple[nn.Module, nn.Module]:
    where = f"--networks {path}"
    function = import_path(path, "--networks")
    if not callable(function):
        raise UserError(f"{where}: expected a function, got {type(function).__name__}")
    networks = call(function, where, **sizes)
    if not isinstance(networks, tuple) or len(networks) != 2:
        raise UserError(
            f"{where}: expected it to return (generator, discriminator), "
            f"got {type(networks).__name__}"
        )
    for name, module in zip(("generator", "discriminator"), networks, strict=True):
        if not isinstance(module, nn.Module):
            raise UserError(
                f"{where}: expected the {name} to be an nn.Module, got {type(module).__name__}"
            )
    for part in _PARTS:
        if not callable(getattr(networks[1], part, None)):
            raise UserError(
                f"{where}: the discriminator lacks `{part}`; it needs trunk(images), "
                "logit(features), q(features) and q_parameters()"
            )
    return networks


def _try(path: str, generator: nn.Module, discriminator: nn.Module, sizes: dict[str, int]) -> None:
    """Pass two rows through both networks, in eval mode, and check every shape."""
    where, side = f"--networks {path}", sizes["image_size"]
    modes = generator.training, discriminator.training
    generator.eval()
    discriminator.eval()

    def shape(part: str, value: Any, expected: list[int]) -> None:
        actual = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if actual != expected:
            raise UserError(f"{where}: expected {part} to give {expected}, got {actual}")

    with torch.no_grad():
        images = call(generator, f"{where}: generator", torch.zeros(2, sizes["input_dim"]))
        shape("the generator", images, [2, sizes["channels"], side, side])
        module: Any = discriminator
        features = call(module.trunk, f"{where}: trunk", images)
        shape("logit", call(module.logit, f"{where}: logit", features), [2])
        shape("q", call(module.q, f"{where}: q", features), [2, sizes["q_dim"]])
    own = {id(p) for p in discriminator.parameters()}
    q_parameters = list(call(module.q_parameters, f"{where}: q_parameters"))
    if not all(isinstance(p, nn.Parameter) and id(p) in own for p in q_parameters):
        raise UserError(f"{where}: expected q_parameters() to give parameters of the discriminator")
    generator.train(modes[0])
    discriminator.train(modes[1])


class _Wrapped:
    """The part that both wrappers share; `module` is the user's own."""

    module: nn.Module
    _path: str
    _sizes: dict[str, int]
    _which: int  # of the pair

    def _keep(self, module: nn.Module, path: str, sizes: dict[str, int]) -> None:
        self.module, self._path, self._sizes = module, path, sizes
        user: Any = module
        methods = [user.forward] if self._which == 0 else [user.trunk, user.q]
        self._takes_stats = all(
            "stats" in inspect.signature(method).parameters for method in methods
        )

    def draw_weights(self, generator: torch.Generator) -> None:
        """Take the weights of a module that is made anew under a seed from `generator`."""
        seed = int(torch.randint(2**62, (), generator=generator))
        with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = _make(self._path, self._sizes)[self._which]
        self.module.load_state_dict(fresh.state_dict())

    def _cast(self, x: Tensor) -> Tensor:
        first = next(self.module.parameters(), None)
        return x if first is None else x.to(first.dtype)

    @contextmanager
    def _mode(self, stats: BatchStats | None) -> Iterator[None]:
        """Set eval mode for "running", train mode for batch statistics; else leave the mode."""
        before = self.module.training
        training = before if stats is None else stats != "running"
        if training == before:
            yield
            return
        self.module.train(training)
        try:
            yield
        finally:
            self.module.train(before)

    def _pass(self, method: Any, x: Tensor, stats: StatsPerPart | None) -> Tensor:
        if self._takes_stats:
            out: Tensor = method(x, stats)
            return out
        if isinstance(stats, tuple):
            parts = x.chunk(len(stats))
            return torch.cat(
                [self._pass(method, part, s) for part, s in zip(parts, stats, strict=True)]
            )
        with self._mode(stats):
            out = method(x)
            return out


class UserGenerator(_Wrapped, Generator):
    """A user's generator."""

    _which = 0

    def __init__(self, module: nn.Module, path: str, sizes: dict[str, int]) -> None:
        super().__init__()
        self._keep(module, path, sizes)
        low, high = getattr(module, "image_range", (0.0, 1.0))
        self.image_range = (float(low), float(high))

    def forward(self, latent: Tensor, stats: BatchStats | None = None) -> Tensor:
        """Return images [B, C, H, W] for latents [B, input_dim]."""
        return self._pass(self.module, self._cast(latent), stats)


class UserDiscriminator(_Wrapped, Discriminator):
    """A user's discriminator with Q."""

    _which = 1

    def __init__(self, module: nn.Module, path: str, sizes: dict[str, int]) -> None:
        super().__init__()
        self._keep(module, path, sizes)

    def trunk(self, images: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        """Return the features that D and Q share."""
        module: Any = self.module
        return self._pass(module.trunk, self._cast(images), stats)

    def logit(self, features: Tensor) -> Tensor:
        """Return D's logits [B]."""
        module: Any = self.module
        out: Tensor = module.logit(features)
        return out

    def q(self, features: Tensor, stats: StatsPerPart | None = None) -> Tensor:
        """Return Q's output [B, q_dim]."""
        module: Any = self.module
        return self._pass(module.q, features, stats)

    def q_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of Q's own layers."""
        module: Any = self.module
        return list(module.q_parameters())
