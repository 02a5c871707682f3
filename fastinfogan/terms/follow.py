"""Continuous codes that follow what a warp does to a real image.

An extension of InfoGAN. One code moves with a warp's slant, another with its stroke width. Then G,
whose images Q must read, gives the codes that meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import UserError
from ..latents import LatentSpec, Real
from ..options import Group, option
from .protocol import Seen, Term
from .warp import CHANGES, WarpedCopies, parse_changes

REACH = 0.75  # by which the largest warp moves a code that follows it; a uniform code spans ±1


@dataclass(frozen=True)
class FollowOptions(Group):
    """Continuous codes that move as real images are warped; an extension of InfoGAN. Example:
    --follow.weight 3 --follow.changes slant,width
    """

    prefix: ClassVar[str] = "follow"
    weight: float = option(
        0.0,
        "Weight of following: each of the first continuous codes moves with one of the changes "
        "that --follow.changes lists; 0: off.",
        at_least=0,
        alias="follow",
    )
    changes: str = option(
        "slant,width",
        "The changes that the codes follow, in the order of the codes, as far as these go: of "
        "slant, width (of strokes), x, y, size, stretch (width over height), light_x and light_y "
        "(light from the right or the bottom), nod. The warp must make them.",
        alias="followed",
    )

    def check(self, spec: LatentSpec) -> None:
        """Raise UserError for values that no run with this spec can have."""
        super().check(spec)
        try:
            changes = parse_changes(self.changes)
        except ValueError as error:
            raise UserError(f"--{self.prefix}.changes: {error}") from None
        if self.weight and not changes:
            raise UserError(
                f"--{self.prefix}.changes: expected one or more of {', '.join(CHANGES)}, got none"
            )
        if self.weight and not self.dims(spec):
            raise UserError(
                f"--{self.prefix}.weight: needs a uniform or gaussian code, "
                f"got {', '.join(spec.names)}"
            )

    @staticmethod
    def dims(spec: LatentSpec) -> int:
        """Return the number of code dims that can follow a change."""
        return sum(code.dim for code in spec.codes if isinstance(code, Real))


@dataclass(frozen=True)
class Follow(Term):
    """Squared error of each code's movement against `REACH` times the warp's change.

    Logs the sum of the mean squared errors.
    """

    weight: float
    columns: tuple[int, ...]  # of Q's output, the means of continuous codes
    changes: tuple[int, ...]  # the column of `Warped.change` that each follows
    recipe: WarpedCopies
    name = "follow"
    real_only: ClassVar[bool] = True

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor | None]:
        """Return weight · Σ over the codes of E[(Δ mean − REACH · change)²], and that sum."""
        q, copy, change = seen.q, seen.q_extra[0], seen.tensors[0]
        error = q.new_zeros(())
        # Columns one by one: a list as an index becomes a new tensor that is copied to the device.
        for column, which in zip(self.columns, self.changes, strict=True):
            moved = copy[:, column] - q[:, column]
            miss = moved - REACH * change[:, which].to(q.dtype)
            error = error + miss.square().mean()
        return self.weight * error, error


def followers(spec: LatentSpec, names: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (columns of Q's output, columns of `Warped.change`) of the codes that follow.

    The first dimensions of the continuous codes follow the changes `names` in order, as far as
    both go.
    """
    means: list[int] = []
    for code, slot in zip(spec.codes, spec.slots, strict=True):
        if isinstance(code, Real):
            means += range(slot.q.start, slot.q.start + code.dim)
    changes = tuple(CHANGES.index(name) for name in names[: len(means)])
    return tuple(means[: len(changes)]), changes
