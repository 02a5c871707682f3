"""The measurements of a run: codes, information, images, factors; and eval.json."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import data, philox
from ..data import streaming
from ..errors import UserError
from ..latents import Angle, Bernoulli, Categorical, Continuous, LatentSpec
from ..losses import info_loss, information
from ..networks import Discriminator, Generator
from ..runs.folder import Loaded, RunDir, write_json
from ..training.calibration import TEMPERATURE, convention
from . import (
    classifier,
    clustering,
    digit_factors,
    disentanglement,
    fidelity,
    known_factors,
    pictures,
)
from .bound import bound_codes
from .disentanglement import FactorGrid
from .features import Extractor, random_features
from .information import held_out_information

MIN_IMAGES = 2000  # below it a Fréchet distance in 128 dimensions means nothing
MIN_RANDOM = 500  # likewise, in the 64 dimensions of the random features
MIN_NEIGHBOURS = 100  # for precision, recall, density and coverage
GENERATED = 10_000
WATCHED = 2_000  # test images at a log interval
MAX_REAL = 10_000  # of the test images
RENDERED = 10_000  # from factors, for the disentanglement scores
CHUNK = 500
# Where the classifier gets this share of the test images right, these are digits.
MIN_DIGIT_ACCURACY = 0.9
DIGIT_FACTORS = ("slant", "stroke_width")
SCORES = ("frechet", "precision", "recall", "density", "coverage")
QUALITY = (*SCORES, *(f"{name}_floor" for name in SCORES))
NOMINAL = (0,)  # a grid's first factor gives the set's labels: classes without an order


def as_written(step: int, name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Return what eval.json holds: the result, with the step and the data it is of."""
    rest = {k: v for k, v in result.items() if k != "contingency"}  # long; a picture shows it
    return {"step": step, "data": name, **rest}


def write(run: RunDir, written: dict[str, Any], table: dict[str, Any] | None) -> None:
    """Write eval.json as `as_written` gives it, and draw the contingency table, if there is one.

    Raises UserError where the folder cannot be written.
    """
    write_json(run.evaluation, written)
    if table is not None:
        pictures.draw_contingency(
            np.array(table["counts"]),
            table["labels"],
            written["matching"],
            written["code_scored"],
            run.samples / "contingency.png",
        )


def evaluate(
    loaded: Loaded,
    splits: dict[data.Split, data.Images],
    *,
    seed: int = 0,
    grid: FactorGrid | None = None,
    extractor: Extractor | None = None,
) -> dict[str, Any]:
    """Measure networks in eval mode, on their device, on at most 10,000 test images, evenly spaced.

    `grid` gives images of chosen factors; by default it is the image set's own, if it has one.
    `extractor` gives the features for the quality of images; by default a fixed network's.

    Returns a plain dict; null where a measure does not apply:
        code_scored, code_accuracy, purity, nmi, ari: agreement of the classes that Q gives the
            test images with their labels; accuracy under the best one-to-one matching (Hungarian).
            matching: the label of each category under it, null for one that is left over;
            contingency: the counts [labels, categories] behind it. All null without labels or
            without a categorical code.
        obedience: share of generated images that the fixed classifier sees as the label matched to
            their category. null where the labels are not the digits that the classifier knows.
        factors: for each known factor its best code and |correlation|, and details: of real test
            images `known_factors.compare`, and of generated digits, whose slant and stroke width
            can be measured, `digit_factors.factor_correlations`. rotation_fit: R of the
            least-squares fit of a circular factor's (cos, sin) by all codes, on held-out images.
            Of codes, here and for disentanglement, those of weight 0 do not count: `bound_codes`.
        information: lower bound H(c) − NLL of each code on generated images, in nats, H(c) exact:
            the prior's own; entropy, the H(c) of each. information_calibrated: the same at the
            best fixed σ per dim (an angle: κ; a discrete code: temperature of Q's logits), fitted
            on half of the generated images and evaluated on the other; equal to information for a
            learned σ. information_convention says which.
        frechet: Fréchet distance of generated images from as many test images, in the features
            that frechet_features names: the fixed classifier's for 28×28 gray images, else those
            of `features.RandomConv`. It takes 2,000 images for the one, 500 for the other.
        precision, recall, density, coverage: `fidelity.neighbour_scores` in the features that
            neighbour_features names, from 100 images on.
        frechet_floor, precision_floor, …: the same of training images in place of generated ones.
        disentanglement: `disentanglement.all_scores` of what Q reads off images of random factors
            of the grid, else off the test images: `known_factors.scores`.
        images: the number of images behind each; obedience has information's.
    """
    generator, discriminator, spec = loaded
    device = next(generator.parameters()).device

    train, test = splits["train"], splits["test"]
    rows = streaming.evenly(len(test), MAX_REAL)
    real = torch.from_numpy(test.images[rows]).to(device)
    labels = None if test.labels is None else test.labels[rows].astype(np.int64)
    q = read_q(discriminator, real, generator.image_range)
    coded = score_codes(q, spec, labels)
    fakes = _generate(generator, discriminator, spec, GENERATED, seed)
    n = min(len(real), GENERATED)
    others = None
    if len(train) >= n:
        chosen = philox.permute(0, n, len(train), seed=seed, epoch=0).numpy()
        if streaming.grouped_source(train.images) is not None:
            chosen = streaming.spread(train.images, n)
        others = torch.from_numpy(train.images[chosen]).to(device)
    images = (real[:n], fakes.images[:n], others)
    digits = None
    if classifier.applies_to(real.shape[1], real.shape[3]):
        digits = _by_classifier(spec, real, labels, fakes, others, coded)
    quality = _quality(*images, extractor)
    if extractor is None and digits is not None:
        quality |= digits.frechet
    grid = test.grid if grid is None else grid
    known = _by_factors(q, spec, test, rows, seed)
    if grid is not None:
        known = _by_grid(discriminator, spec, generator.image_range, grid, seed)
    factors = known.factors | (digits.factors if digits else {})
    return {
        **coded,
        "obedience": digits.obedience if digits else None,
        "factors": factors or None,
        "rotation_fit": known_factors.rotation_fit(known.factors),
        "information": fakes.information,
        "information_calibrated": held_out_information(
            spec, fakes.q, fakes.means, fakes.categorical, fakes.continuous, fakes.information
        ),
        "information_convention": dict(zip(spec.names, map(convention, spec.codes), strict=True)),
        "entropy": dict(zip(spec.names, spec.entropy(), strict=True)),
        **quality,
        "disentanglement": known.scores,
        "images": {
            "codes": 0 if coded["code_scored"] is None else len(real),
            "information": GENERATED,
            "factors": known.images,
            **{name: 0 if quality[name] is None else n for name in QUALITY},
        },
        "labels": test.labels is not None,
    }


def _quality(
    real: Tensor, fake: Tensor, others: Tensor | None, extractor: Extractor | None
) -> dict[str, Any]:
    """Return the Fréchet distance and the neighbour scores of images [N, H, W, C], with floors."""
    quality: dict[str, Any] = dict.fromkeys((*QUALITY, "frechet_features", "neighbour_features"))
    n = len(real)
    if n < MIN_NEIGHBOURS:
        return quality
    extractor = extractor or random_features(real.shape[3], real.device)
    features = extractor(real)
    for images, suffix in ((fake, ""), (others, "_floor")):
        if images is None:
            continue
        compared = extractor(images)
        nearest = fidelity.neighbour_scores(features, compared)
        quality |= {f"{name}{suffix}": value for name, value in nearest._asdict().items()}
        if n >= MIN_RANDOM:
            quality[f"frechet{suffix}"] = fidelity.frechet_distance(compared, features)
    quality["neighbour_features"] = extractor.name
    if n >= MIN_RANDOM:
        quality["frechet_features"] = extractor.name
    return quality


class _Digits(NamedTuple):
    """The measures that need the fixed classifier."""

    frechet: dict[str, Any]
    obedience: float | None = None
    factors: dict[str, dict[str, Any]] = {}  # noqa: RUF012 (read only)


def _by_classifier(
    spec: LatentSpec,
    real: Tensor,
    labels: NDArray[np.int64] | None,
    fakes: _Generated,
    others: Tensor | None,
    coded: dict[str, Any],
) -> _Digits:
    """Return the measures that need the fixed classifier, of 28×28 gray images."""
    frechet: dict[str, Any] = dict.fromkeys(("frechet", "frechet_floor", "frechet_features"))
    n = min(len(real), GENERATED)
    if n < MIN_IMAGES:
        return _Digits(frechet)
    network = classifier.load().to(real.device)
    features, classes = _classify(network, real)
    fake_features, fake_classes = _classify(network, fakes.images)
    frechet["frechet"] = fidelity.frechet_distance(fake_features[:n], features[:n])
    frechet["frechet_features"] = "mnist-classifier"
    if others is not None:
        other_features, _ = _classify(network, others)
        frechet["frechet_floor"] = fidelity.frechet_distance(other_features, features[:n])
    if labels is None or (classes == labels).mean() < MIN_DIGIT_ACCURACY:
        return _Digits(frechet)
    categories = obedience = None
    if coded["code_scored"] is not None:
        slot = spec.slots[spec.names.index(coded["code_scored"])]
        categories = fakes.categorical[:, slot.target.start]
        obedience = clustering.obedience(categories, fake_classes, coded["matching"])
    gray = fakes.images[..., 0].cpu().numpy()
    followed = digit_factors.factor_correlations(spec, gray, fakes.continuous, categories)
    return _Digits(frechet, obedience, followed)


class _Known(NamedTuple):
    """Codes against the known factors of images."""

    factors: dict[str, dict[str, Any]]
    scores: dict[str, float] | None
    images: int


def _by_factors(
    q: Tensor, spec: LatentSpec, test: data.Images, rows: NDArray[np.int64], seed: int
) -> _Known:
    """Compare the codes that Q reads off the test images with their factors, if these are known."""
    if test.factors is None:
        return _Known({}, None, 0)
    dims = known_factors.code_dims(spec, read_codes(q, spec).cpu().numpy())
    factors = known_factors.parse_factors(test.factors[rows], test.factor_names)
    compared = known_factors.compare(dims, factors)
    return _Known(compared, known_factors.scores(dims, factors, seed=seed), len(rows))


def scored_code(spec: LatentSpec, classes: int) -> int | None:
    """Return the categorical code to score: the first of those nearest in size to the labels.

    It is one of `bound_codes`, if any of these is categorical.
    """
    sizes = [(i, code.n) for i, code in enumerate(spec.codes) if isinstance(code, Categorical)]
    sizes = [size for size in sizes if size[0] in bound_codes(spec)] or sizes
    return min(sizes, key=lambda size: (abs(size[1] - classes), size[0]))[0] if sizes else None


@torch.no_grad()
def read_q(
    discriminator: Discriminator, images: Tensor, image_range: tuple[float, float]
) -> Tensor:
    """Return Q's output [N, q_dim] on uint8 images [N, H, W, C]."""
    parts = images.split(CHUNK)
    return torch.cat([discriminator(data.to_range(part, image_range))[1] for part in parts])


def score_codes(q: Tensor, spec: LatentSpec, labels: NDArray[np.int64] | None) -> dict[str, Any]:
    """Return the agreement of the classes in Q's output [N, q_dim] with labels: see `evaluate`."""
    chosen = None if labels is None else scored_code(spec, len(np.unique(labels)))
    if labels is None or chosen is None:
        nothing = ("code_scored", "code_accuracy", "purity", "nmi", "ari")
        return dict.fromkeys((*nothing, "matching", "contingency"))
    columns = spec.slots[chosen].q
    codes = q[:, columns].argmax(1).cpu().numpy()
    counts, names = clustering.contingency(codes, labels, columns.stop - columns.start)
    return {
        "code_scored": spec.names[chosen],
        **clustering.match(codes, labels),
        "matching": clustering.match_labels(counts, names),
        "contingency": {"labels": names.tolist(), "counts": counts.tolist()},
    }


def watch(networks: Loaded, splits: Mapping[data.Split, data.Images]) -> float:
    """Return the code accuracy of D and Q as they are, on up to 2,000 evenly spaced test images.

    Raises UserError where the images have no labels, or the spec no categorical code.
    """
    test = splits["test"]
    if test.labels is None:
        raise UserError("--watch-labels: the images have no labels; leave it out")
    rows = streaming.spread(test.images, WATCHED)
    labels = test.labels[rows].astype(np.int64)
    if scored_code(networks.spec, len(np.unique(labels))) is None:
        raise UserError("--watch-labels: there is no categorical code to sort by; leave it out")
    discriminator = copy.deepcopy(networks.discriminator).eval()  # training goes on with the other
    images = torch.from_numpy(test.images[rows])
    device = next(discriminator.parameters()).device
    q = read_q(discriminator, images.to(device), networks.generator.image_range)
    accuracy: float = score_codes(q, networks.spec, labels)["code_accuracy"]
    return accuracy


class _Generated(NamedTuple):
    """Images as a viewer gets them, uint8 [n, H, W, C], their codes, and Q's reading of them."""

    images: Tensor
    categorical: NDArray[np.int64]  # [n, n_cat]
    continuous: NDArray[np.float64]  # [n, n_cont]
    q: NDArray[np.float64]  # [n, q_dim]
    means: NDArray[np.float64]  # [n, n_cont], of Q; an angle's direction
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
    images, categorical, continuous, outputs, means = [], [], [], [], []
    columns = _continuous(spec)
    nll = torch.zeros(len(spec.codes), dtype=torch.float64, device=device)
    for first in range(0, n, CHUNK):
        rows = min(CHUNK, n - first)
        batch = spec.sample(rows, seed=seed, first_row=first, device=device)
        fakes = generator(batch.input)
        _, q = discriminator(fakes)
        nll += info_loss(q, spec, batch.categorical, batch.continuous).per_code.double() * rows
        images.append(data.from_range(fakes, generator.image_range))
        categorical.append(batch.categorical)
        continuous.append(batch.continuous)
        outputs.append(q)
        means.append(read_codes(q, spec)[:, columns])
    bound = information(nll / n, spec)
    return _Generated(
        torch.cat(images),
        torch.cat(categorical).cpu().numpy(),
        torch.cat(continuous).double().cpu().numpy(),
        torch.cat(outputs).double().cpu().numpy(),
        torch.cat(means).double().cpu().numpy(),
        dict(zip(spec.names, bound.tolist(), strict=True)),
    )


@torch.no_grad()
def _classify(
    network: classifier.Classifier, images: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the classifier's features [N, 128] and classes [N] of images [N, H, W, C]."""
    features = torch.cat(
        [network.features(data.to_range(part, (0.0, 1.0))) for part in images.split(CHUNK)]
    )
    return features.double().cpu().numpy(), network.out(features).argmax(1).cpu().numpy()


def _by_grid(
    discriminator: Discriminator,
    spec: LatentSpec,
    image_range: tuple[float, float],
    grid: FactorGrid,
    seed: int,
) -> _Known:
    """Compare the codes that Q reads off images of random factors of a grid with these factors."""
    device = next(discriminator.parameters()).device
    rows = disentanglement.sample_factors(grid.sizes, RENDERED, seed=seed)
    codes = []
    for first in range(0, RENDERED, CHUNK):
        images = torch.from_numpy(grid.images(rows[first : first + CHUNK])).to(device)
        codes.append(read_codes(read_q(discriminator, images, image_range), spec))
    dims = known_factors.code_dims(spec, torch.cat(codes).double().cpu().numpy())
    scores = disentanglement.all_scores(
        np.stack([dim.values for dim in dims], 1),
        rows,
        nominal=NOMINAL,
        classes=known_factors.classes(dims),
        seed=seed,
    )
    names = getattr(grid, "names", [f"factor_{k}" for k in range(len(grid.sizes))])
    factors = known_factors.parse_factors(rows, names, nominal=NOMINAL)
    compared = known_factors.compare(dims, factors)
    return _Known(compared, {**scores, "images": RENDERED}, RENDERED)


def _continuous(spec: LatentSpec) -> list[int]:
    """Return the columns of `read_codes` that are a dim of a continuous code."""
    of_columns = [code for code in spec.codes for _ in range(code.dim)]
    return [i for i, code in enumerate(of_columns) if isinstance(code, Continuous)]


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


def summary(result: dict[str, Any], free: Collection[str] = ()) -> list[str]:
    """Return three lines for a newcomer; one more for MNIST's digits, one for known factors.

    free: names of codes of weight 0, which the information loss does not bind; left out.
    """
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
    lines += [_information_line(result, free), _images_line(result)]
    factors = result["factors"] or {}
    if result["obedience"] is not None:
        words = [
            f"; {name.replace('_', ' ')} goes with {code}, ρ = {rho:+.2f}"
            for name in DIGIT_FACTORS
            if (code := factors[name]["code"]) is not None
            for rho in [factors[name]["codes"][code]["within"]]
        ]
        lines.append(
            f"digits:      {result['obedience']:.1%} of generated images show the digit of their "
            "category" + "".join(words)
        )
    factors = [
        f"{name} {factor['correlation']:.2f} ({factor['code']})"
        for name, factor in factors.items()
        if name not in DIGIT_FACTORS and factor["code"] is not None
    ]
    if factors:
        lines.append(f"factors:     |correlation| with the best code: {', '.join(factors)}")
    return lines


def _information_line(result: dict[str, Any], free: Collection[str]) -> str:
    bounds = {n: nats for n, nats in result["information_calibrated"].items() if n not in free}
    parts, conventions = [], {n: result["information_convention"][n] for n in bounds}
    for name, nats in bounds.items():
        # Of a continuous code H(c) is differential, no maximum: so it is left out there.
        discrete = conventions[name] == TEMPERATURE
        maximum = f" of {result['entropy'][name]:.2f}" if discrete else ""
        parts.append(f"{name} {nats:.2f}{maximum}")
    if not parts:
        return "information: no code has a weight"
    of_continuous = ", ".join(sorted(set(conventions.values()) - {TEMPERATURE}))
    notes = [f"discrete codes: {TEMPERATURE}"] * (TEMPERATURE in conventions.values())
    notes += [f"continuous codes: {of_continuous}"] * bool(of_continuous)
    line = f"information: at least {', '.join(parts)} nats can be read off a generated image"
    return f"{line} ({'; '.join(notes)})"


def _images_line(result: dict[str, Any]) -> str:
    parts = []
    for name, note in (("frechet", "lower is better"), ("precision", ""), ("recall", "")):
        value, floor = result[name], result[f"{name}_floor"]
        if value is None:
            continue
        digits = 1 if name == "frechet" else 2
        notes = [note] if note else []
        if floor is not None:
            notes.insert(0, f"real against real {floor:.{digits}f}")
        label = "Fréchet distance to real ones" if name == "frechet" else name
        parts.append(f"{label} {value:.{digits}f}" + (f" ({'; '.join(notes)})" if notes else ""))
    if result["frechet"] is None:
        parts.insert(0, "no Fréchet distance (too few test images)")
    return f"images:      {', '.join(parts)}"
