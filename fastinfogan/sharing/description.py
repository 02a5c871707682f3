"""The facts about a run that travel with its exported networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from ..atomic import parse_json, read_text
from ..errors import UserError
from ..latents import Angle, Bernoulli, Categorical, Gaussian, LatentSpec, Uniform
from ..runs.folder import Loaded, RunDir, load_all

MIN_RHO = 0.3  # a weaker correlation does not give a code its name


class Described(NamedTuple):
    """A run's networks, on the CPU in eval mode, and the facts about them."""

    networks: Loaded
    facts: dict[str, Any]  # plain numbers, strings, lists and dicts


def load_described(path: Path) -> Described:
    """Load a run's newest checkpoint and describe it. Raises UserError as `load` does."""
    networks, config, checkpoint = load_all(path)
    evaluation = read_evaluation(RunDir(path), checkpoint.step)
    facts = describe(networks, evaluation, title=config.preset, step=checkpoint.step)
    return Described(networks, facts)


def read_evaluation(run: RunDir, step: int) -> dict[str, Any]:
    """Return eval.json if it is of update `step`, else an empty dict."""
    try:
        evaluation = parse_json(read_text(run.evaluation))
    except (OSError, ValueError):
        return {}
    current = isinstance(evaluation, dict) and evaluation.get("step") == step
    return evaluation if current else {}


def describe(
    networks: Loaded, evaluation: dict[str, Any], *, title: str, step: int
) -> dict[str, Any]:
    """Return the facts about networks as a plain dict.

    Args:
        networks: generator, discriminator and latent spec.
        evaluation: the content of eval.json, or an empty dict.
        title: a short name for the run.
        step: updates of the training run.
    """
    generator, _, spec = networks
    channels, height, width = image_shape(networks)
    scored, matching = evaluation.get("code_scored"), evaluation.get("matching")
    factors = strongest_factors(evaluation.get("factors"))
    return {
        "title": title,
        "step": step,
        "spec": spec.to_dict(),
        "names": list(spec.names),
        "codes": _describe_codes(spec, scored, matching, factors),
        "matching": None if matching is None else {"code": scored, "labels": matching},
        "image": {
            "channels": channels,
            "height": height,
            "width": width,
            "range": list(generator.image_range),
        },
        "versions": versions("fastinfogan", "torch", "onnx"),
    }


def image_shape(networks: Loaded) -> tuple[int, int, int]:
    """Return (channels, height, width) of the generator's images."""
    import torch

    generator, _, spec = networks
    with torch.no_grad():
        channels, height, width = generator(spec.sample(1, seed=0).input).shape[1:]
    return channels, height, width


def strongest_factors(factors: object) -> dict[str, tuple[str, float]]:
    """Return, by code dim, the factor of variation that it controls and their correlation ρ.

    `factors` is eval.json's entry: {factor: {"codes": {dim: ρ or {"within": ρ, "pooled": ρ}}}}.
    Each dim gets the factor it correlates with most. A |ρ| below 0.3 gives no name.
    """
    strongest: dict[str, tuple[str, float]] = {}
    for factor, entry in factors.items() if isinstance(factors, dict) else ():
        dims = entry.get("codes") if isinstance(entry, dict) else None
        for dim, rho in dims.items() if isinstance(dims, dict) else ():
            if isinstance(rho, dict):
                rho = rho.get("pooled") if rho.get("within") is None else rho["within"]
            if not isinstance(rho, int | float) or abs(rho) < MIN_RHO:
                continue
            if dim not in strongest or abs(rho) > abs(strongest[dim][1]):
                strongest[dim] = (str(factor).replace("_", " "), float(rho))
    return strongest


def _describe_codes(
    spec: LatentSpec,
    scored: str | None,
    matching: Sequence[int | None] | None,
    factors: dict[str, tuple[str, float]],
) -> list[dict[str, Any]]:
    """Return, for each code, its kind, sampling constants and titles, in G's column order."""
    codes = []
    for name, code in zip(spec.names, spec.codes, strict=True):
        entry: dict[str, Any] = {"name": name, "kind": code.kind}
        if isinstance(code, Categorical):
            labels = matching if name == scored else None
            entry |= {
                "n": code.n,
                "thresholds": None if code.probs is None else list(code.thresholds()),
                "labels": None if labels is None else list(labels),
            }
        elif isinstance(code, Bernoulli):
            entry["threshold"] = code.threshold()
        else:
            entry |= {"dim": code.dim, **_ranges(code)}
            entry["dims"] = [_describe_dim(name, i, code.dim, factors) for i in range(code.dim)]
        codes.append(entry)
    return codes


def _ranges(code: Uniform | Gaussian | Angle) -> dict[str, Any]:
    """Return a slider's ends, the part of it to mark, and what sampling multiplies by and adds.

    Marked are a uniform prior's ends, and one standard deviation of a Gaussian prior.
    """
    if isinstance(code, Angle):
        low, high = -math.pi, math.pi
        return {"low": low, "high": high, "marks": None, "scale": 2 * math.pi, "shift": low}
    low, high = code.traverse_range()
    if isinstance(code, Uniform):
        marks, scale, shift = [code.low, code.high], code.high - code.low, code.low
    else:
        marks, scale, shift = [code.mean - code.std, code.mean + code.std], code.std, code.mean
    return {"low": low, "high": high, "marks": marks, "scale": scale, "shift": shift}


def _describe_dim(
    name: str, index: int, dims: int, factors: dict[str, tuple[str, float]]
) -> dict[str, Any]:
    full = f"{name}[{index}]" if dims > 1 else name
    factor, rho = factors.get(full, (None, None))
    return {"name": full, "factor": factor, "rho": rho}


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of those of the packages that are installed."""
    installed = {}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def need(module: str, extra: str) -> None:
    """Raise UserError, naming the extra to install, where a module cannot be imported."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise UserError(
            f"this needs the package {module}, which is not installed; "
            f"run: pip install 'fastinfogan[{extra}]'"
        )
