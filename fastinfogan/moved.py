"""Import paths of version 0.1 that have moved: they work for one release, with a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    f"fastinfogan.{old}": f"fastinfogan.{new}"
    for old, new in {
        "adversarial": "losses.adversarial",
        "capture": "training.capture",
        "checkpoint": "runs.checkpoint",
        "classifier": "evaluation.classifier",
        "codes": "latents.codes",
        "compiled": "losses.compiled",
        "contrastive": "terms.contrastive",
        "disentanglement": "evaluation.disentanglement",
        "dsprites": "data.dsprites",
        "ema": "training.ema",
        "factors": "evaluation.digit_factors",
        "files": "data.formats",
        "flat": "training.player",
        "gradients": "training.gradients",
        "grouped": "losses.grouped",
        "hub": "data.hub",
        "invariance": "terms.invariance",
        "kernel": "losses.triton",
        "layers": "networks.convolution",
        "metrics": "training.metrics",
        "named": "data.known",
        "networks_base": "networks.base",
        "networks_mnist": "networks.mnist",
        "networks_tables": "networks.tables",
        "policy": "training.policy",
        "progress": "training.progress",
        "reference": "losses.reference",
        "regularisers": "terms.penalty",
        "run": "runs.folder",
        "schedule": "training.schedule",
        "scores": "evaluation.clustering",
        "sources": "data.splits",
        "spectral": "networks.spectral",
        "sprites": "data.sprites",
        "step": "training.step",
        "stream": "data.streaming",
        "upright": "terms.upright",
        "warp": "terms.warp",
    }.items()
}

# The kernels' package warns by itself: it works without this one.
KERNELS_MOVED = {"fastinfogan_kernels.info_loss": "fastinfogan_kernels.head_loss"}


class Moved(MetaPathFinder, Loader):
    """An importer that hands out the module at the new path under its old name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for an import path that has moved, None for every other."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module at its new path, with a DeprecationWarning."""
        new = MOVED[spec.name]
        warnings.warn(
            f"{spec.name} has moved to {new}; the old path goes in the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        module = import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module has run under its new name, whose spec it keeps."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Make the old paths importable. Costs nothing until one is imported."""
    if not any(isinstance(finder, Moved) for finder in sys.meta_path):
        sys.meta_path.append(Moved())
