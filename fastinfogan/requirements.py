"""The packages of the trainer, an extra that the losses and the latents do without."""

from __future__ import annotations

import importlib.util
import sys

from .console import prepare, say

# The extra "train" of pyproject.toml: distribution -> the module that it brings.
TRAIN = {
    "accelerate": "accelerate",
    "einops": "einops",
    "filelock": "filelock",
    "joblib": "joblib",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pillow": "PIL",
    "psutil": "psutil",
    "PyYAML": "yaml",
    "safetensors": "safetensors",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
    "tqdm": "tqdm",
    "tyro": "tyro",
}


def missing() -> list[str]:
    """Return the trainer's distributions that are not installed. Imports none of them."""
    return [name for name, module in TRAIN.items() if importlib.util.find_spec(module) is None]


def advice(names: list[str]) -> str:
    """Return one line that says which packages are missing, and the command that installs them."""
    return f"not installed: {', '.join(names)}; run pip install 'fastinfogan[train]'"


def require_trainer() -> None:
    """End a command with exit code 2 and one line on stderr where a package is missing."""
    prepare()
    names = missing()
    if names:
        say(f"error: {advice(names)}", sys.stderr)
        raise SystemExit(2)
