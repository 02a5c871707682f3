"""What a run has learned, in numbers: `fastinfogan evaluate RUN`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from . import classifier, data, philox, stream
from .cli import run_command
from .errors import UserError
from .latents import Categorical, LatentSpec
from .losses import info_loss, information
from .networks import MnistDiscriminator, MnistGenerator
from .run import Loaded, RunDir, load_all, write_json

LEAST_IMAGES = 2000  # below it a Fréchet distance in 128 dimensions means nothing
GENERATED = 10_000
MOST_REAL = 10_000  # of the test images
CHUNK = 500


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a run on its test images; prints one JSON object and writes RUN/eval.json."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    data: str | None = None
    """Another image set than the run's own."""
    seed: int = 0
    """Fixes the generated images."""


def evaluate_run(config: EvaluateConfig) -> dict[str, Any]:
    """The command, less its printing: evaluate the newest checkpoint and write eval.json."""
    if config.seed < 0:
        raise UserError(f"--seed: expected at least 0, got {config.seed}")
    loaded, run_config, found = load_all(config.run)
    name = run_config.data if config.data is None else data.absolute(config.data)
    size = {"image_size": run_config.image_size, "channels": run_config.channels}
    reading: stream.Mode = "always" if data.can_stream(name) else "never"  # not all is looked at
    splits = data.load(name, **size, stream=reading, advise=False)
    return write(RunDir(config.run), found.step, name, evaluate(loaded, splits, seed=config.seed))


def write(run: RunDir, step: int, name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Write eval.json: the result, with the step and the data it is of."""
    result = {"step": step, "data": name, **result}
    write_json(run.evaluation, result)
    return result


def evaluate(
    loaded: Loaded, splits: dict[data.Split, data.Images], *, seed: int = 0
) -> dict[str, Any]:
    """Measure networks in eval mode, on their device, on at most 10,000 test images, evenly spaced.

    Returns a plain dict:
        code_scored, code_accuracy, purity, nmi, ari: how well the classes that Q gives the test
            images match their labels; accuracy under the best one-to-one matching (Hungarian).
            null without labels or without a categorical code.
        information: lower bound H(c) − NLL of each code on generated images, in nats; entropy, the
            H(c) of each.
        frechet: Fréchet distance of generated images from as many test images in the features of
            the fixed classifier, with frechet_floor, that of as many training images. null
            where the classifier does not apply or there are under 2,000 images.
        images: the number of images behind each.
    """
    generator, discriminator, spec = loaded
    device = next(generator.parameters()).device

    train, test = splits["train"], splits["test"]
    rows = stream.evenly(len(test), MOST_REAL)
    real = torch.from_numpy(test.images[rows]).to(device)
    labels = None if test.labels is None else test.labels[rows].astype(np.int64)
    matching = score_codes(discriminator, spec, real, generator.image_range, labels)
    fakes, bound = _generate(generator, discriminator, spec, GENERATED, seed)
    frechet, floor = None, None
    n = min(len(real), GENERATED)
    if classifier.applies_to(test.images.shape[1], test.images.shape[3]) and n >= LEAST_IMAGES:
        network = classifier.load().to(device)
        test_features = _features(network, real[:n])
        frechet = frechet_distance(_features(network, fakes[:n]), test_features)
        if len(train) >= n:
            chosen = philox.permuted(0, n, len(train), seed=seed, epoch=0).numpy()
            others = torch.from_numpy(train.images[chosen]).to(device)
            floor = frechet_distance(_features(network, others), test_features)
    return {
        **matching,
        "information": bound,
        "entropy": dict(zip(spec.names, spec.entropy(), strict=True)),
        "frechet": frechet,
        "frechet_floor": floor,
        "frechet_features": None if frechet is None else "mnist-classifier",
        "images": {
            "codes": 0 if matching["code_scored"] is None else len(real),
            "information": GENERATED,
            "frechet": 0 if frechet is None else n,
            "frechet_floor": 0 if floor is None else n,
        },
        "labels": test.labels is not None,
    }


def scored_code(spec: LatentSpec, classes: int) -> int | None:
    """The categorical code to score: the first of those nearest in size to the labels' classes."""
    sizes = [(i, code.n) for i, code in enumerate(spec.codes) if isinstance(code, Categorical)]
    return min(sizes, key=lambda size: (abs(size[1] - classes), size[0]))[0] if sizes else None


def match(codes: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Agreement of codes [N] with labels [N]; neither needs to start at 0 or be of one size."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(labels, codes)
    rows, columns = linear_sum_assignment(-table)
    return {
        "code_accuracy": float(table[rows, columns].sum() / table.sum()),
        "purity": float(table.max(axis=0).sum() / table.sum()),
        "nmi": float(normalized_mutual_info_score(labels, codes)),
        "ari": float(adjusted_rand_score(labels, codes)),
    }


@torch.no_grad()
def score_codes(
    discriminator: MnistDiscriminator,
    spec: LatentSpec,
    images: Tensor,
    image_range: tuple[float, float],
    labels: NDArray[np.int64] | None,
) -> dict[str, Any]:
    """How well the classes that Q gives images [N, H, W, C] match their labels: see `evaluate`."""
    chosen = None if labels is None else scored_code(spec, len(np.unique(labels)))
    if labels is None or chosen is None:
        nothing = ("code_scored", "code_accuracy", "purity", "nmi", "ari")
        return dict.fromkeys(nothing)
    columns = spec.slots[chosen].q
    guesses = torch.cat(
        [
            discriminator(data.to_range(part, image_range))[1][:, columns].argmax(1)
            for part in images.split(CHUNK)
        ]
    )
    return {"code_scored": spec.names[chosen], **match(guesses.cpu().numpy(), labels)}


@torch.no_grad()
def _generate(
    generator: MnistGenerator,
    discriminator: MnistDiscriminator,
    spec: LatentSpec,
    n: int,
    seed: int,
) -> tuple[Tensor, dict[str, float]]:
    """Images as a viewer gets them, uint8 [n, H, W, C], and the information of each code."""
    device = next(generator.parameters()).device
    parts, nll = [], torch.zeros(len(spec.codes), dtype=torch.float64, device=device)
    for first in range(0, n, CHUNK):
        rows = min(CHUNK, n - first)
        batch = spec.sample(rows, seed=seed, first_row=first, device=device)
        images = generator(batch.input)
        _, q = discriminator(images)
        nll += info_loss(q, spec, batch.categorical, batch.continuous).per_code.double() * rows
        parts.append(data.from_range(images, generator.image_range))
    bound = information(nll / n, spec)
    return torch.cat(parts), dict(zip(spec.names, bound.tolist(), strict=True))


@torch.no_grad()
def _features(network: classifier.Classifier, images: Tensor) -> NDArray[np.float64]:
    def parts() -> Iterator[Tensor]:
        for part in images.split(CHUNK):
            yield network.features(data.to_range(part, (0.0, 1.0)))

    return torch.cat(list(parts())).double().cpu().numpy()


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Fréchet distance of the Gaussians fitted to features [N, F] and [M, F].

    |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½), Heusel et al. 2017, eq. 6. The root's trace is the
    sum of the roots of the eigenvalues of Σ₁Σ₂, which are real and not negative.
    """
    from scipy.linalg import eigvals

    difference = a.mean(0) - b.mean(0)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.clip(eigvals(first @ second).real, 0, None))
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * roots.sum())


def summary(result: dict[str, Any]) -> list[str]:
    """Three lines that a newcomer understands."""
    accuracy, n = result["code_accuracy"], result["images"]["codes"]
    lines = []
    if accuracy is None:
        missing = "categorical code to compare" if result["labels"] else "labels to compare with"
        lines.append(f"codes:       no {missing}")
    else:
        lines.append(
            f"codes:       {result['code_scored']} sorts {accuracy:.1%} of {n:,} test images by "
            "their class; no label was seen in training"
        )
    bound, entropy = result["information"], result["entropy"]
    of = ", ".join(f"{name} {bound[name]:.2f} of {entropy[name]:.2f}" for name in bound)
    lines.append(f"information: at least {of} nats can be read off a generated image")
    if any(nats < 0 for name, nats in bound.items() if name.endswith("uniform")):
        lines[-1] += " (where σ is fixed at 1, U(-1, 1) shows -0.23 at best)"
    if result["frechet"] is None:
        lines.append("images:      no Fréchet distance (needs 28x28 gray images, 2,000 or more)")
    else:
        floor = result["frechet_floor"]
        beside = "" if floor is None else f"; real against real is {floor:.1f}"
        lines.append(
            f"images:      Fréchet distance to real ones {result['frechet']:.1f}{beside} (lower is "
            "better)"
        )
    return lines


def main(args: list[str] | None = None) -> int:
    """`python -m fastinfogan.evaluate`."""
    return run_command(
        lambda config: print(json.dumps(evaluate_run(config), indent=2)),
        EvaluateConfig,
        "fastinfogan evaluate",
        args,
    )


if __name__ == "__main__":
    raise SystemExit(main())
