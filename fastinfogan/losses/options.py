"""The options of the information loss and of the adversarial losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..errors import UserError
from ..options import Group, option

Adversarial = Literal["nonsaturating", "hinge", "lsgan", "wgan", "relativistic"]
BackendName = Literal["auto", "reference", "compiled", "triton"]
NetworksName = Literal["mnist", "svhn", "faces", "chairs", "dsprites"]
QTrunk = Literal["shared", "own", "fixed"]
Routing = Literal["openai", "head", "generator-step"]


@dataclass(frozen=True)
class InformationOptions(Group):
    """The information loss: its weight λ over the run, the parameters that it updates, and its
    implementation. Example: --info-weight 0.5 --info-start 200 --info-ramp 100
    """

    info_weight: float = option(
        1.0,
        "λ, the weight of the information loss. Each code's own weight multiplies it.",
        at_least=0,
    )
    info_start: int = option(
        0,
        "Updates before λ counts. Until then only real images shape the codes "
        "(--invariance.weight).",
        at_least=0,
    )
    info_ramp: int = option(0, "Updates over which λ then rises to its value.", at_least=0)
    info_from: float = option(
        0.0,
        "Part of λ that counts before --info-start and from which it rises; above 1 it falls.",
        at_least=0,
    )
    routing: Routing = option(
        "openai",
        "Selects which parameters the information loss updates. openai: the trunk and Q in D's "
        "step, G in G's. head: Q's own layers and G, not the trunk. generator-step: G and Q's own "
        "layers, both in G's step.",
    )
    backend: BackendName = option(
        "auto",
        "Computes the information loss. triton (the fused kernel) needs a GPU; reference and "
        "compiled run anywhere. auto: triton on GPUs, else reference.",
    )


def _check_name(option: str, name: str, known: tuple[str, ...], what: str) -> None:
    if name not in known and ":" not in name:
        raise UserError(
            f"--{option}: expected one of {', '.join(known)}, or module.path:function for {what} "
            f"of your own, got {name!r}"
        )


@dataclass(frozen=True)
class AdversarialOptions(Group):
    """The game: its losses and its two networks. Example: --objective wgan --spectral-norm"""

    objective: str = option(
        "nonsaturating",
        "The adversarial losses: nonsaturating (the paper's), hinge, lsgan, wgan (needs "
        "--penalty.r1 or --spectral-norm), relativistic, or module.path:function for losses of "
        "your own.",
    )
    label_smoothing: float = option(
        0.0,
        "Distance of D's target for real images below 1 (Salimans et al. 2016, §3.4); 0: off.",
        at_least=0,
        below=1,
    )
    networks: str = option(
        "mnist",
        "The pair of networks, named by the experiment of its table: mnist, svhn (also for "
        "celeba), faces, chairs, dsprites; or module.path:function for a pair of your own.",
    )
    gan_start: int = option(
        0,
        "Updates before the game begins. Until then no image is generated and G stays as it is: "
        "D's trunk and Q learn from the terms on real images alone (--invariance.weight, "
        "--follow.weight, --instances.weight, --upright.weight, --vat.weight), in updates that "
        "cost a fraction. "
        "--info-start, --vat.start and --decay.start count these updates too.",
        at_least=0,
    )
    spectral_norm: bool = option(
        False,
        "Normalise D's and Q's weights by their largest singular value, in place of BatchNorm "
        "(Miyato et al. 2018). dsprites' networks always do.",
    )
    q_trunk: QTrunk = option(
        "shared",
        "Whose features Q reads. shared: D's, as in the paper. own: those of a trunk of its own, "
        "built as D's, for codes that must not see what D must, such as colours. D then takes "
        "about twice the work. fixed: as own, and the game leaves that trunk as it is at "
        "--gan-start.",
    )

    def check(self, spec: Any) -> None:
        """Raise UserError for values that no run can have."""
        super().check(spec)
        _check_name("networks", self.networks, get_args(NetworksName), "a pair")
        _check_name("objective", self.objective, get_args(Adversarial), "losses")
        if ":" in self.networks and self.spectral_norm:
            raise UserError(
                f"--spectral-norm: a pair of your own ({self.networks}) normalises its own weights"
            )
        if ":" in self.networks and self.q_trunk != "shared":
            raise UserError(
                f"--q-trunk: a pair of your own ({self.networks}) decides what Q reads; leave it "
                "out"
            )
        if self.label_smoothing and self.objective != "nonsaturating":
            raise UserError(
                "--label-smoothing: only --objective nonsaturating has targets to smooth, "
                f"got {self.objective}"
            )
