"""Feature extractors for the quality of images: a fixed random network, or a file of the user's.

Features of a random network need no download and no choice of training data, and rank generators
much as those of a trained one do away from photographs (Naeem et al. 2020, arXiv 2002.09797).
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import data, philox
from ..atomic import open_regular
from ..errors import UserError

CHUNK = 250  # images at once
_WIDTHS = (32, 64, 128, 256)
_SIDE = 4  # of the grid that the last layer is averaged to
_FEATURES = 64
_MAX_SIZE = 64  # larger images are averaged down to it
_SCALE = 10.0  # so that a Fréchet distance of two real sets is about 1


class RandomConv(nn.Module):
    """Four random 3×3 convolutions with ReLU, averaged to 4×4, projected to 64 features.

    The weights are uniform, a function of their place (Philox), and each filter's mean is taken
    out, so that the mean brightness does not drown the rest. They are made by integer and exactly
    rounded arithmetic, so they have the same bits on every machine; the features agree to the
    rounding of fp32 convolutions. Gray images are repeated to three channels.
    """

    name = "random-conv-v1"

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = 3 if channels == 1 else channels
        for i, (before, after) in enumerate(pairwise((self.channels, *_WIDTHS))):
            weight = _filters(after, before * 9, layer=i) * math.sqrt(2)
            self.register_buffer(f"conv{i}", weight.float().view(after, before, 3, 3))
        inputs = _WIDTHS[-1] * _SIDE**2
        projection = _filters(_FEATURES, inputs, layer=len(_WIDTHS)) * _SCALE
        self.register_buffer("projection", projection.float())

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, 64] of images [B, C, H, W] in [0, 1]."""
        x = 2 * images - 1
        if x.shape[1] == 1:
            x = x.expand(-1, self.channels, -1, -1)
        if x.shape[2] > _MAX_SIZE:
            x = F.adaptive_avg_pool2d(x, _MAX_SIZE)
        for i in range(len(_WIDTHS)):
            weight = self.get_buffer(f"conv{i}")
            x = F.relu(F.conv2d(x, weight, stride=1 if i == 0 else 2, padding=1))
        return F.adaptive_avg_pool2d(x, _SIDE).flatten(1) @ self.get_buffer("projection").T


def _filters(rows: int, inputs: int, *, layer: int) -> Tensor:
    """Return uniform weights fp64 [rows, inputs] of mean 0 per row and variance 1 / inputs."""
    uniform = philox.uniform(philox.words(rows, inputs, seed=0, step=layer)).double()
    # Multiples of 2⁻²⁴, so that fp64 sums them without rounding, in any order.
    centred = uniform - uniform.sum(1, keepdim=True) / inputs
    return centred * math.sqrt(12 / inputs)


class Extractor(NamedTuple):
    """A function of images [B, C, H, W] in [0, 1] to features [B, F], and its name."""

    name: str
    compute: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> NDArray[np.float64]:
        """Return features [N, F] of uint8 images [N, H, W, C]."""
        parts = [self._features(data.to_range(part, (0.0, 1.0))) for part in images.split(CHUNK)]
        return torch.cat(parts).double().cpu().numpy()

    def _features(self, images: Tensor) -> Tensor:
        return self.compute(images)


class FileExtractor(Extractor):
    """An extractor read from a file, whose mistakes are the user's to hear of."""

    def _features(self, images: Tensor) -> Tensor:
        expected = (
            f"--features {self.name}: expected a module that maps float32 images "
            f"{list(images.shape)} in [0, 1] to features [{len(images)}, F]"
        )
        try:
            features = self.compute(images)
        except Exception as error:
            # The last line of a TorchScript error is the message; what is above is its stack.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise UserError(f"{expected}; it raised: {reason}") from None
        if not isinstance(features, Tensor) or not features.is_floating_point():
            raise UserError(f"{expected}, got {type(features).__name__}")
        if features.ndim < 2 or len(features) != len(images):
            raise UserError(f"{expected}, got {list(features.shape)}")
        if not bool(features.isfinite().all()):
            raise UserError(f"{expected}; some are not finite")
        return features.flatten(1)


def random_features(channels: int, device: torch.device) -> Extractor:
    """Return the fixed random network for images of that many channels."""
    return Extractor(RandomConv.name, RandomConv(channels).to(device).eval())


def load_features(path: Path, device: torch.device) -> Extractor:
    """Return the extractor in a file of `torch.jit.save`, or (.pt2) of `torch.export.save`.

    The module gets float32 images [B, C, H, W] in [0, 1], B up to 250, and returns [B, F]. Its
    name is the file's, with the start of its SHA-256. Raises UserError where it does not load.
    """
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    except OSError as error:
        raise UserError(f"--features: cannot read {path}: {error.strerror or error}") from None
    module: Callable[[Tensor], Tensor]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated; its files are still about
            if path.suffix == ".pt2":
                module = torch.export.load(path).module()
            else:
                module = torch.jit.load(str(path), map_location=device).eval()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--features {path}: expected a TorchScript file or a .pt2 of torch.export: {reason}"
        ) from None
    return FileExtractor(f"{path.name} (sha256 {digest})", module)
