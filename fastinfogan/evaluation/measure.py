"""The measurements of a run: codes, information, images, factors; and eval.json."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import data, philox
from ..data import streaming
from ..latents import Angle, Bernoulli, Categorical, LatentSpec
from ..losses import info_loss, information
from ..networks import Discriminator, Generator
from ..runs.folder import Loaded, RunDir, write_json
from . import classifier, clustering, digit_factors, disentanglement, fidelity, pictures
from .disentanglement import FactorGrid

MIN_IMAGES = 2000  # below it a Fréchet distance in 128 dimensions means nothing
GENERATED = 10_000
MAX_REAL = 10_000  # of the test images
RENDERED = 10_000  # from factors, for the disentanglement scores
CHUNK = 500
# Where the classifier gets this share of the test images right, these are digits.
MIN_DIGIT_ACCURACY = 0.9
NOMINAL = (0,)  # a grid's first factor gives the set's labels: classes without an order


def write(run: RunDir, step: int, name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Write eval.json: the result, with the step and the data it is of; draw its table."""
    result = {"step": step, "data": name, **result}
    table = result.pop("contingency")  # long, and easier to look at than to read
    write_json(run.evaluation, result)
    if table is not None:
        pictures.draw_contingency(
            np.array(table["counts"]),
            table["labels"],
            result["matching"],
            result["code_scored"],
            run.samples / "contingency.png",
        )
    return result


def evaluate(
    loaded: Loaded,
    splits: dict[data.Split, data.Images],
    *,
    seed: int = 0,
    grid: FactorGrid | None = None,
) -> dict[str, Any]:
    """Measure networks in eval mode, on their device, on at most 10,000 test images, evenly spaced.

    `grid` gives images of chosen factors; by default it is the image set's own, if it has one.

    Returns a plain dict:
        code_scored, code_accuracy, purity, nmi, ari: how well the classes that Q gives the test
            images match their labels; accuracy under the best one-to-one matching (Hungarian).
            matching: the label of each category under it, null for one that is left over;
            contingency: the counts [labels, categories] behind it. All null without labels or
            without a categorical code.
        obedience: share of generated images that the fixed classifier sees as the label matched to
            their category. factors: rank correlation of each continuous code dim with the slant
            and stroke width of generated images, all else drawn anew: within the categories of
            the scored code (mean over them) and pooled. Both null where the labels are not the
            digits that the classifier knows.
        information: lower bound H(c) − NLL of each code on generated images, in nats, H(c) exact:
            the prior's own; entropy, the H(c) of each.
        frechet: Fréchet distance of generated images from as many test images in the features of
            the fixed classifier, with frechet_floor, that of as many training images. null
            where the classifier does not apply or there are under 2,000 images.
        disentanglement: `disentanglement.all_scores` of what Q reads off images of random factors;
            null without a grid.
        images: the number of images behind each; obedience and factors have information's.
    """
    generator, discriminator, spec = loaded
    device = next(generator.parameters()).device

    test = splits["test"]
    rows = streaming.evenly(len(test), MAX_REAL)
    real = torch.from_numpy(test.images[rows]).to(device)
    labels = None if test.labels is None else test.labels[rows].astype(np.int64)
    coded = score_codes(discriminator, spec, real, generator.image_range, labels)
    fakes = _generate(generator, discriminator, spec, GENERATED, seed)
    looked = _by_classifier(spec, real, labels, fakes, splits["train"], coded, seed)
    grid = test.grid if grid is None else grid
    disentangled = None
    if grid is not None:
        disentangled = _disentanglement(discriminator, spec, generator.image_range, grid, seed)
    n = min(len(real), GENERATED)
    return {
        **coded,
        "obedience": looked["obedience"],
        "factors": looked["factors"],
        "information": fakes.information,
        "entropy": dict(zip(spec.names, spec.entropy(), strict=True)),
        "frechet": looked["frechet"],
        "frechet_floor": looked["frechet_floor"],
        "frechet_features": None if looked["frechet"] is None else "mnist-classifier",
        "disentanglement": disentangled,
        "images": {
            "codes": 0 if coded["code_scored"] is None else len(real),
            "information": GENERATED,
            "frechet": 0 if looked["frechet"] is None else n,
            "frechet_floor": 0 if looked["frechet_floor"] is None else n,
        },
        "labels": test.labels is not None,
    }


def _by_classifier(
    spec: LatentSpec,
    real: Tensor,
    labels: NDArray[np.int64] | None,
    fakes: _Generated,
    train: data.Images,
    coded: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """What needs the fixed classifier: frechet, frechet_floor, obedience, factors."""
    out: dict[str, Any] = dict.fromkeys(("frechet", "frechet_floor", "obedience", "factors"))
    n = min(len(real), GENERATED)
    if not classifier.applies_to(real.shape[1], real.shape[3]) or n < MIN_IMAGES:
        return out
    network = classifier.load().to(real.device)
    features, classes = _look(network, real)
    fake_features, fake_classes = _look(network, fakes.images)
    out["frechet"] = fidelity.frechet_distance(fake_features[:n], features[:n])
    if len(train) >= n:
        chosen = philox.permuted(0, n, len(train), seed=seed, epoch=0).numpy()
        others, _ = _look(network, torch.from_numpy(train.images[chosen]).to(real.device))
        out["frechet_floor"] = fidelity.frechet_distance(others, features[:n])
    if labels is None or (classes == labels).mean() < MIN_DIGIT_ACCURACY:
        return out
    categories = None
    if coded["code_scored"] is not None:
        slot = spec.slots[spec.names.index(coded["code_scored"])]
        categories = fakes.categorical[:, slot.target.start]
        out["obedience"] = clustering.obeyed(categories, fake_classes, coded["matching"])
    gray = fakes.images[..., 0].cpu().numpy()
    out["factors"] = digit_factors.followed(spec, gray, fakes.continuous, categories)
    return out


def scored_code(spec: LatentSpec, classes: int) -> int | None:
    """The categorical code to score: the first of those nearest in size to the labels' classes."""
    sizes = [(i, code.n) for i, code in enumerate(spec.codes) if isinstance(code, Categorical)]
    return min(sizes, key=lambda size: (abs(size[1] - classes), size[0]))[0] if sizes else None


@torch.no_grad()
def score_codes(
    discriminator: Discriminator,
    spec: LatentSpec,
    images: Tensor,
    image_range: tuple[float, float],
    labels: NDArray[np.int64] | None,
) -> dict[str, Any]:
    """How well the classes that Q gives images [N, H, W, C] match their labels: see `evaluate`."""
    chosen = None if labels is None else scored_code(spec, len(np.unique(labels)))
    if labels is None or chosen is None:
        nothing = ("code_scored", "code_accuracy", "purity", "nmi", "ari")
        return dict.fromkeys((*nothing, "matching", "contingency"))
    columns = spec.slots[chosen].q
    guesses = torch.cat(
        [
            discriminator(data.to_range(part, image_range))[1][:, columns].argmax(1)
            for part in images.split(CHUNK)
        ]
    )
    codes = guesses.cpu().numpy()
    counts, names = clustering.contingency(codes, labels, columns.stop - columns.start)
    return {
        "code_scored": spec.names[chosen],
        **clustering.match(codes, labels),
        "matching": clustering.match_labels(counts, names),
        "contingency": {"labels": names.tolist(), "counts": counts.tolist()},
    }


class _Generated(NamedTuple):
    """Images as a viewer gets them, uint8 [n, H, W, C], their codes, and what Q reads off them."""

    images: Tensor
    categorical: NDArray[np.int64]
    continuous: NDArray[np.float64]
    information: dict[str, float]


@torch.no_grad()
def _generate(
    generator: Generator,
    discriminator: Discriminator,
    spec: LatentSpec,
    n: int,
    seed: int,
) -> _Generated:
    device = next(generator.parameters()).device
    images, categorical, continuous = [], [], []
    nll = torch.zeros(len(spec.codes), dtype=torch.float64, device=device)
    for first in range(0, n, CHUNK):
        rows = min(CHUNK, n - first)
        batch = spec.sample(rows, seed=seed, first_row=first, device=device)
        drawn = generator(batch.input)
        _, q = discriminator(drawn)
        nll += info_loss(q, spec, batch.categorical, batch.continuous).per_code.double() * rows
        images.append(data.from_range(drawn, generator.image_range))
        categorical.append(batch.categorical)
        continuous.append(batch.continuous)
    bound = information(nll / n, spec)
    return _Generated(
        torch.cat(images),
        torch.cat(categorical).cpu().numpy(),
        torch.cat(continuous).double().cpu().numpy(),
        dict(zip(spec.names, bound.tolist(), strict=True)),
    )


@torch.no_grad()
def _look(
    network: classifier.Classifier, images: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The classifier's features [N, 128] and classes [N] of images [N, H, W, C]."""
    features = torch.cat(
        [network.features(data.to_range(part, (0.0, 1.0))) for part in images.split(CHUNK)]
    )
    return features.double().cpu().numpy(), network.out(features).argmax(1).cpu().numpy()


@torch.no_grad()
def _disentanglement(
    discriminator: Discriminator,
    spec: LatentSpec,
    image_range: tuple[float, float],
    grid: FactorGrid,
    seed: int,
) -> dict[str, float]:
    device = next(discriminator.parameters()).device
    rows = disentanglement.sample_factors(grid.sizes, RENDERED, seed=seed)
    codes = []
    for first in range(0, RENDERED, CHUNK):
        images = torch.from_numpy(grid.images(rows[first : first + CHUNK])).to(device)
        codes.append(read_codes(discriminator(data.to_range(images, image_range))[1], spec))
    found = disentanglement.all_scores(
        torch.cat(codes).double().cpu().numpy(),
        rows,
        nominal=NOMINAL,
        classes=_classes(spec),
        seed=seed,
    )
    return {**found, "images": RENDERED}


def _classes(spec: LatentSpec) -> list[int]:
    """The columns of `read_codes` that are a category's number."""
    found, column = [], 0
    for code in spec.codes:
        if isinstance(code, Categorical):
            found.append(column)
        column += 1 if isinstance(code, Categorical) else code.dim
    return found


def read_codes(q: Tensor, spec: LatentSpec) -> Tensor:
    """Return the codes that Q's output [B, q_dim] gives, one column per dim of each code.

    The means of a continuous code, the mean direction of an angle in radians, the probability of
    a Bernoulli's 1, the most probable class of a categorical.
    """
    parts = []
    for code, columns, _ in spec.slots:
        part = q[:, columns].float()
        if isinstance(code, Categorical):
            parts.append(part.argmax(1, keepdim=True).float())
        elif isinstance(code, Bernoulli):
            parts.append(part.sigmoid())
        elif isinstance(code, Angle):
            parts.append(torch.atan2(part[:, 1:], part[:, :1]))
        else:
            parts.append(part[:, : code.dim])
    return torch.cat(parts, 1)


def summary(result: dict[str, Any]) -> list[str]:
    """Three lines that a newcomer understands; a fourth where the images are MNIST's digits."""
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
    if result["obedience"] is not None:
        lines.append(
            f"digits:      {result['obedience']:.1%} of generated images show the digit of their "
            "category" + _strongest(result["factors"])
        )
    return lines


def _strongest(followed: dict[str, dict[str, dict[str, float | None]]]) -> str:
    """The code dim that goes best with each factor, in words."""
    words = []
    for factor, codes in followed.items():
        found = [(abs(rho), rho, dim) for dim, c in codes.items() if (rho := c["within"])]
        if found:
            _, rho, dim = max(found)
            words.append(f"{factor.replace('_', ' ')} goes with {dim}, ρ = {rho:+.2f}")
    return "".join(f"; {w}" for w in words)
