"""InfoGAN training that is fast, right and practical.

Public names load on first use, so that `import fastinfogan.losses` brings torch alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .moved import install as _install_moved_paths

__version__ = "0.1.0"
_install_moved_paths()

if TYPE_CHECKING:
    from .evaluation.fitting import fit
    from .latents import (
        Angle,
        Bernoulli,
        Categorical,
        Gaussian,
        LatentBatch,
        LatentSpec,
        Uniform,
        parse_codes,
    )
    from .losses import InfoLoss, adversarial_losses, head_loss, info_loss, information, pack
    from .runs.folder import load

__all__ = [
    "Angle",
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "InfoLoss",
    "LatentBatch",
    "LatentSpec",
    "Uniform",
    "adversarial_losses",
    "fit",
    "head_loss",
    "info_loss",
    "information",
    "load",
    "pack",
    "parse_codes",
]

_LATENTS = (
    "Angle",
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "LatentBatch",
    "LatentSpec",
    "Uniform",
    "parse_codes",
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    places = {"load": "runs.folder", "fit": "evaluation.fitting"}
    module = "latents" if name in _LATENTS else places.get(name, "losses")
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        from .requirements import advice, missing

        names = missing()
        if not names:
            raise
        raise ImportError(f"fastinfogan.{name}: {advice(names)}") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
