"""The interface between a training step and the loss terms that are added to a player's loss.

A *recipe* makes the extra images or tensors that a term needs; equal recipes are made once per
update. A *term* turns what the networks give for them into a loss. A new term is one file: a
subclass of `Term` and, where it needs extra images, a recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .. import philox
from ..errors import UserError
from ..latents import LatentBatch
from ..networks.base import Discriminator, Generator
from ..philox import Stream

Side = Literal["discriminator", "generator"]


class Address(NamedTuple):
    """The address of an update's random draws: they depend on nothing else (see `philox`)."""

    seed: int
    step: int | Tensor  # int64 scalar on the device where the update is captured
    first_row: int  # of this rank's rows in the global batch

    def words(self, stream: Stream, real: Tensor, per_row: int) -> Tensor:
        """Return 32-bit words for each row of a batch, int64 [B, per_row], on its device."""
        return philox.words(
            len(real),
            per_row,
            seed=self.seed,
            step=self.step & 0xFFFFFFFF,
            stream=stream,
            first_row=self.first_row,
            device=real.device,
        )


class Extra(NamedTuple):
    """The result of a recipe."""

    images: tuple[Tensor, ...] = ()  # [B, C, H, W] each; they join D's single pass
    tensors: tuple[Tensor, ...] = ()  # anything else that the loss needs


class Recipe(Protocol):
    """A function of a real batch that makes extra images. Hashable, and equal where it makes the
    same: a frozen dataclass is.
    """

    def __call__(self, real: Tensor, at: Address) -> Extra:
        """Return the extra images for real images [B, C, H, W] in the generator's range."""
        ...


class Seen(NamedTuple):
    """The tensors that a term computes its loss from.

    Q's outputs are in fp32 or wider. In the generator's step `real` has not been through D: `q` is
    empty, [0, q_dim]. Before `--gan-start` nothing is generated: `fake`, `latents`, `q_fake` and
    `logits_fake` have no rows.
    """

    generator: Generator
    discriminator: Discriminator
    real: Tensor  # [B, C, H, W] in the dtype that D computes in
    fake: Tensor  # generated images; in the generator's step with their graph
    latents: LatentBatch  # of `fake`
    q: Tensor  # [B, q_dim], Q on the real images
    q_fake: Tensor  # [B, q_dim], Q on `fake`
    logits_fake: Tensor  # [B], D's logits of `fake`
    q_extra: tuple[Tensor, ...] = ()  # [B, q_dim], Q on each of the recipe's images
    tensors: tuple[Tensor, ...] = ()  # the recipe's tensors
    modules: Mapping[str, nn.Module] = {}  # the term's own, in the dtype that is computed in


class Term:
    """A loss that is added to one player's loss.

    `name` is that of the option group, the file and the entry in metrics.jsonl. `player` says whose
    step the term belongs to. A gradient of the generator's terms reaches G's parameters and the
    term's own; one of the discriminator's terms reaches all that D's step trains.
    """

    name: str
    player: Side = "discriminator"
    recipe: Recipe | None = None
    differentiated_twice: ClassVar[bool] = False  # then the update runs eagerly
    fp16: ClassVar[bool] = True  # whether its gradients fit fp16's range
    # Whether D's term needs no generated images: only such terms act before --gan-start.
    real_only: ClassVar[bool] = False

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Networks that the term owns, by the names that checkpoints use. Its player's optimizer
        trains their parameters.
        """
        return {}

    def active(self, step: int) -> bool:
        """Return whether update `step` (from 0) has the term.

        The host asks before each update: the set of active terms decides which graph runs.
        """
        return True

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        """Return (what is added to the player's loss, what is logged), scalars.

        None logs what is added. Must not read a tensor's value on the host.
        """
        raise NotImplementedError


class TermSet:
    """The terms of one player in one update, and the recipes that they need, each once.

    Args:
        terms: in the order in which their losses are added.
        modules: for each of the terms' own networks its copy in the dtype that is computed in.
    """

    def __init__(
        self, terms: Iterable[Term] = (), modules: Mapping[nn.Module, nn.Module] | None = None
    ) -> None:
        self.terms = tuple(terms)
        recipes = [term.recipe for term in self.terms]
        self.recipes = tuple(dict.fromkeys(r for r in recipes if r is not None))
        self._places = [None if r is None else self.recipes.index(r) for r in recipes]
        copies = modules or {}
        self._modules = [
            {name: copies.get(module, module) for name, module in term.modules.items()}
            for term in self.terms
        ]

    def add(
        self,
        total: Tensor,
        seen: Seen,
        extras: Sequence[Extra] = (),
        q_extra: Sequence[Tensor] = (),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add each term's loss to `total`.

        Args:
            total: the player's loss so far, a scalar.
            seen: without what belongs to a recipe.
            extras: the result of each of `recipes`.
            q_extra: Q on all images of `extras`, in order.

        Returns:
            The sum, and the value to log of each term by its name, detached.
        """
        per_recipe, first = [], 0
        for extra in extras:
            last = first + len(extra.images)
            per_recipe.append((tuple(q_extra[first:last]), extra.tensors))
            first = last
        logged = {}
        for term, place, modules in zip(self.terms, self._places, self._modules, strict=True):
            q, tensors = ((), ()) if place is None else per_recipe[place]
            own = seen._replace(q_extra=q, tensors=tensors, modules=modules)
            added, value = term.loss(own)
            total = total + added
            logged[term.name] = (added if value is None else value).detach()
        return total, logged


def check_names(terms: Iterable[Term]) -> None:
    """Raise UserError where two terms have one name: each logs under its own."""
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two loss terms are named {name!r}; give each a name of its own")


def widen(x: Tensor) -> Tensor:
    """Return x in fp32, or in its own dtype where that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
