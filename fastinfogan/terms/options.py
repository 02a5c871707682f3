"""The options of the terms that extend InfoGAN's losses."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import ClassVar

from ..errors import UserError
from ..latents import Categorical, LatentSpec, Real
from ..options import Group, option
from .warp import CHANGES, Warp, parse_changes, parse_warp

# Help for Warp's fields on the command line.
WARP_HELP = {
    "rotate": "Rotation, up to so many degrees either way, at most 180.",
    "scale": "Scale of each axis by itself, from 1 - scale to 1 + scale; under 1.",
    "shear": "Shear, up to this value either way, at most 2.",
    "shift": "Shift, up to this part of the side either way.",
    "flip": "Probability of mirroring left and right.",
    "thickness": "Widening or thinning of bright strokes, in pixels on each side, at most 1.",
    "zoom": "Scale of both axes alike, from 1/(1 + zoom) to 1 + zoom.",
    "place": "Instead of shift: distance from the image's middle, in parts of the side.",
    "gamma": "Brightness, to a power between exp(-gamma) and exp(gamma), at most 3.",
    "stroke": "Probability that a short bright line is drawn on the image.",
}


def warp_text(warp: Warp) -> str:
    """Return the text from which `parse_warp` makes this warp."""
    return ",".join(f"{name}={value:g}" for name, value in asdict(warp).items() if value)


def _needs_categories(group: Group, spec: LatentSpec) -> None:
    if not any(isinstance(code, Categorical) for code in spec.codes):
        raise UserError(
            f"--{group.prefix}.weight: needs a categorical code, got {', '.join(spec.names)}"
        )


@dataclass(frozen=True)
class InvarianceOptions(Group):
    """Categories that stay the same as real images are warped (Ji et al. 2019, Hu et al. 2017);
    an extension of InfoGAN. Example: --invariance.weight 3 --warp "rotate=20,scale=0.15", which
    sets the whole warp (what it does not name is 0), or --invariance.warp.rotate 20, which sets
    one of its values.
    """

    prefix: ClassVar[str] = "invariance"
    weight: float = option(
        0.0,
        "Weight of the mutual information between the categories (of the first categorical code) "
        "of a real image and of a warped one; 0: off.",
        at_least=0,
        alias="real-info",
    )
    warp: Warp = option(
        Warp(rotate=20, scale=0.15, shear=0.3, shift=0.06, thickness=0.7),
        "The warps of this term and of following (--follow.weight).",
        alias="warp",
        parse=parse_warp,
    )

    def check(self, spec: LatentSpec) -> None:
        """Raise UserError for values that no run with this spec can have."""
        super().check(spec)
        for name, value in asdict(self.warp).items():
            if not math.isfinite(value):
                raise UserError(
                    f"--{self.prefix}.warp.{name}: expected a finite number, got {value}"
                )
        try:
            parse_warp(",".join(f"{name}={value!r}" for name, value in asdict(self.warp).items()))
        except ValueError as error:
            raise UserError(f"--{self.prefix}.warp: {error}") from None
        if self.weight:
            _needs_categories(self, spec)


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
        "slant, width (of strokes), x, y, size and stretch (width over height). The warp must make "
        "them.",
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
class VatOptions(Group):
    """Categories that withstand the small change of a real image that alters them most (virtual
    adversarial training: Hu et al. 2017, Miyato et al. 2018); an extension of InfoGAN that takes
    two more passes of D. Example: --vat.weight 3 --vat.start 700 --vat.stop 1000
    """

    prefix: ClassVar[str] = "vat"
    weight: float = option(0.0, "Weight of the term; 0: off.", at_least=0, alias="vat")
    start: int = option(
        0,
        "First update, counted from 0, that has the term. Too early it keeps categories together "
        "that the warps would separate.",
        at_least=0,
        alias="vat-start",
    )
    stop: int = option(
        0, "First update that has it no more; 0: it stays.", at_least=0, alias="vat-stop"
    )
    radius: float = option(
        1.5,
        "Euclidean length of the change, over all of an image's values.",
        above=0,
        alias="vat-radius",
    )

    def check(self, spec: LatentSpec) -> None:
        """Raise UserError for values that no run with this spec can have."""
        super().check(spec)
        if self.weight:
            _needs_categories(self, spec)
        if 0 < self.stop <= self.start:
            raise UserError(
                f"--{self.prefix}.stop: expected 0 or more than --{self.prefix}.start "
                f"{self.start}, got {self.stop}"
            )


@dataclass(frozen=True)
class UprightOptions(Group):
    """Categories of a shape that do not depend on its place, size and direction; in place of
    --invariance.weight, for images of one bright shape on a dark ground; an extension of InfoGAN.
    Example: --upright.weight 2
    """

    prefix: ClassVar[str] = "upright"
    weight: float = option(
        0.0,
        "Weight of the mutual information between the categories of two upright images made from "
        "a real one (moved, scaled and turned until centre, area and direction are those of all "
        "others), which must be the real image's too; 0: off.",
        at_least=0,
        alias="upright",
    )

    def check(self, spec: LatentSpec) -> None:
        """Raise UserError for values that no run with this spec can have."""
        super().check(spec)
        if self.weight:
            _needs_categories(self, spec)


@dataclass(frozen=True)
class ContrastiveOptions(Group):
    """InfoGAN-CR's term (Lin et al. 2020): a network of its own names the factor of the code that
    two generated images share, and G helps it. Example: --contrastive.weight 2
    """

    prefix: ClassVar[str] = "contrastive"
    weight: float = option(0.0, "Weight of the term; 0: off.", at_least=0, alias="contrastive")
    start: int = option(0, "Updates before the term counts.", at_least=0, alias="contrastive-start")

    def check(self, spec: LatentSpec) -> None:
        """Raise UserError for values that no run with this spec can have."""
        super().check(spec)
        if self.weight and spec.n_cat + spec.n_cont < 2:
            raise UserError(
                f"--{self.prefix}.weight: needs two factors or more, got {', '.join(spec.names)}"
            )


@dataclass(frozen=True)
class BalanceOptions(Group):
    """Weights of the codes that are scaled until the codes' gradients are of equal size. Example:
    --balance.decay 0.99
    """

    prefix: ClassVar[str] = "balance"
    decay: float = option(
        0.0,
        "Decay of the running averages of the gradients' sizes; 0: off.",
        at_least=0,
        below=1,
        alias="balance-codes",
    )


@dataclass(frozen=True)
class PenaltyOptions(Group):
    """Penalties on D's gradient (Mescheder et al. 2018). Example: --penalty.r1 10"""

    prefix: ClassVar[str] = "penalty"
    r1: float = option(
        0.0,
        "γ: γ/2 times D's squared gradient at real images is added to D's loss in every update; "
        "0: off.",
        at_least=0,
        alias="r1",
    )
    r2: float = option(0.0, "γ of the same at generated images; 0: off.", at_least=0, alias="r2")
