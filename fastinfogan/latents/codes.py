"""The distributions of a latent code, and their short names on a command line.

Notation follows Chen et al., "InfoGAN" (arXiv 1606.03657).
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

Sigma = Literal["fixed", "learned"]
LOG_2PI = math.log(2.0 * math.pi)
# The largest fp32 below π, so that an angle in fp32 lies in [−π, π).
PI = 3.1415925025939941
# Probabilities must sum to 1 within this: the rounding of fp32 numbers, or of printed decimals.
SUM_TOLERANCE = 1e-5


def check(ok: bool, message: str) -> None:
    """Raise ValueError with `message` unless `ok`."""
    if not ok:
        raise ValueError(message)


def is_int(value: object) -> bool:
    """Return True for an `int` that is not a `bool`."""
    return isinstance(value, int) and not isinstance(value, bool)


def as_int(value: Any) -> Any:
    """Return a NumPy or tensor integer as an `int`, and anything else unchanged."""
    if isinstance(value, int | float | str) or getattr(value, "dtype", None) == torch.bool:
        return value
    try:
        return operator.index(value)
    except TypeError:
        return value


def as_number(value: Any) -> Any:
    """Return a NumPy or tensor number as a `float`, and anything else unchanged."""
    if type(value) in (int, float) or not hasattr(value, "__float__"):
        return value
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return value


def is_finite(*values: object) -> bool:
    """Return True if all are finite numbers."""
    return all(isinstance(v, int | float) and math.isfinite(v) for v in values)


class _Code:
    """Shared by all codes. `weight` is the code's λ; `dim` the number of scalars that it holds."""

    kind: ClassVar[str]
    weight: float
    name: str | None
    dim: int = 1

    def _set(self, **values: object) -> None:
        for key, value in values.items():
            object.__setattr__(self, key, value)  # the dataclass is frozen

    def _check_shared(self) -> None:
        self._set(weight=as_number(self.weight))
        check(
            is_finite(self.weight) and self.weight >= 0,
            f"weight must be a finite number ≥ 0, got {self.weight!r}",
        )
        check(
            self.name is None
            or (
                isinstance(self.name, str) and re.fullmatch("[A-Za-z0-9_]+", self.name) is not None
            ),
            f"name must be letters, digits and underscores, got {self.name!r}",
        )

    def entropy(self) -> float:
        """Return H(c) of the prior, in nats, summed over the code's dims."""
        raise NotImplementedError

    @property
    def input_dim(self) -> int:
        """Columns in G's input."""
        return self.dim

    @property
    def q_dim(self) -> int:
        """Columns in Q's output."""
        return self.dim


@dataclass(frozen=True)
class Categorical(_Code):
    """One of n classes. One-hot in G's input, n logits in Q's output.

    Args:
        n: number of classes, ≥ 2.
        probs: n probabilities of the classes, which sum to 1; uniform by default.
        weight: λ of this code's information loss.
        name: letters, digits and underscores, unique in a spec.
    """

    n: int
    _: KW_ONLY
    probs: Sequence[float] | None = None
    weight: float = 1.0
    name: str | None = None
    kind: ClassVar[str] = "categorical"

    def __post_init__(self) -> None:
        self._set(n=as_int(self.n))
        check(is_int(self.n) and self.n >= 2, f"Categorical needs n ≥ 2 classes, got n={self.n!r}")
        if self.probs is not None:
            self._set(probs=self._checked_probs(self.probs))
        self._set(_thresholds=self._cumulate())
        self._check_shared()

    def _checked_probs(self, probs: Any) -> tuple[float, ...]:
        message = f"probs must be {self.n} probabilities that sum to 1, got {probs!r}"
        try:
            values = tuple(as_number(p) for p in probs)
        except TypeError:
            raise ValueError(message) from None
        check(len(values) == self.n and is_finite(*values), message)
        check(min(values) >= 0 and abs(math.fsum(values) - 1) <= SUM_TOLERANCE, message)
        return tuple(float(v) for v in values)

    @property
    def input_dim(self) -> int:
        return self.n

    @property
    def q_dim(self) -> int:
        return self.n

    def entropy(self) -> float:
        if self.probs is None:
            return math.log(self.n)
        total = math.fsum(self.probs)
        return -math.fsum(p / total * math.log(p / total) for p in self.probs if p > 0)

    def thresholds(self) -> tuple[int, ...]:
        """Return the cumulative distribution of `probs` in units of 2⁻³², n + 1 integers.

        They run from 0 to 2³². A 32-bit word w draws the class k for which
        thresholds[k] ≤ w < thresholds[k + 1]. Empty without `probs`.
        """
        return self._thresholds  # type: ignore[attr-defined]

    def _cumulate(self) -> tuple[int, ...]:
        if self.probs is None:
            return ()
        total, before = math.fsum(self.probs), 0.0
        out = [0]
        for p in self.probs[:-1]:
            before += p
            out.append(min(round(before / total * 2**32), 2**32))
        return (*out, 2**32)


@dataclass(frozen=True)
class Bernoulli(_Code):
    """1 with probability p, else 0. One 0/1 column in G's input, one logit in Q's output."""

    p: float = 0.5
    _: KW_ONLY
    weight: float = 1.0
    name: str | None = None
    kind: ClassVar[str] = "bernoulli"

    def __post_init__(self) -> None:
        self._set(p=as_number(self.p))
        check(is_finite(self.p) and 0 < self.p < 1, f"Bernoulli needs 0 < p < 1, got p={self.p!r}")
        self._check_shared()

    def entropy(self) -> float:
        return -self.p * math.log(self.p) - (1 - self.p) * math.log1p(-self.p)

    def threshold(self) -> int:
        """Return p in units of 2⁻³²: a 32-bit word below it draws a 1."""
        return round(self.p * 2**32)


class Continuous(_Code):
    """Shared by Uniform, Gaussian and Angle: `dim` real numbers, columns of `continuous`."""

    def traverse_values(self, steps: int, device: torch.device | str | None = None) -> Tensor:
        """Return the values of a traversal, fp32 [steps]."""
        raise NotImplementedError


class Real(Continuous):
    """Shared by Uniform and Gaussian: numbers on the real line, Gaussian in Q.

    Q gives dim means and, where sigma is "learned", then dim log-variances.
    """

    sigma: Sigma

    def _check_real(self) -> None:
        self._set(dim=as_int(self.dim))
        check(
            is_int(self.dim) and self.dim >= 1,
            f"a continuous code needs dim ≥ 1, got dim={self.dim!r}",
        )
        advice = ""
        if hasattr(self.sigma, "__float__"):
            advice = (
                '; the number of a "fixed" σ goes to the loss: '
                f"info_loss(..., sigma={self.sigma!r}) or InfoLoss(spec, sigma={self.sigma!r})"
            )
        check(
            self.sigma in get_args(Sigma),
            f'sigma must be "fixed" or "learned", got {self.sigma!r}{advice}',
        )
        self._check_shared()

    @property
    def q_dim(self) -> int:
        return self.dim * (2 if self.sigma == "learned" else 1)

    def traverse_range(self) -> tuple[float, float]:
        """Return a traversal's ends: twice the prior's scale on both sides, as in the paper."""
        raise NotImplementedError

    def traverse_values(self, steps: int, device: torch.device | str | None = None) -> Tensor:
        return torch.linspace(*self.traverse_range(), steps, device=device)


@dataclass(frozen=True)
class Uniform(Real):
    """Uniform from low to high in each dim; Gaussian in Q, as in the paper.

    Args:
        low, high: the ends; finite, low < high.
        dim: number of independent scalars.
        sigma: "fixed": Q gives dim means, and σ is an argument of the loss. "learned": Q gives
            dim means, then dim log-variances.
        weight: λ of this code's information loss.
        name: letters, digits and underscores, unique in a spec.
    """

    low: float = -1.0
    high: float = 1.0
    _: KW_ONLY
    dim: int = 1
    sigma: Sigma = "fixed"
    weight: float = 1.0
    name: str | None = None
    kind: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        self._set(low=as_number(self.low), high=as_number(self.high))
        check(
            is_finite(self.low, self.high) and self.low < self.high,
            f"Uniform needs finite low < high, got low={self.low!r}, high={self.high!r}",
        )
        self._check_real()

    def entropy(self) -> float:
        return self.dim * math.log(self.high - self.low)

    def traverse_range(self) -> tuple[float, float]:
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return middle - 2 * half, middle + 2 * half


@dataclass(frozen=True)
class Gaussian(Real):
    """N(mean, std²) in each dim. The other arguments and Q's columns are those of Uniform."""

    mean: float = 0.0
    std: float = 1.0
    _: KW_ONLY
    dim: int = 1
    sigma: Sigma = "fixed"
    weight: float = 1.0
    name: str | None = None
    kind: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        self._set(mean=as_number(self.mean), std=as_number(self.std))
        check(
            is_finite(self.mean, self.std) and self.std > 0,
            f"Gaussian needs a finite mean and std > 0, got mean={self.mean!r}, std={self.std!r}",
        )
        self._check_real()

    def entropy(self) -> float:
        return self.dim * (0.5 * (LOG_2PI + 1.0) + math.log(self.std))

    def traverse_range(self) -> tuple[float, float]:
        return self.mean - 2 * self.std, self.mean + 2 * self.std


@dataclass(frozen=True)
class Angle(Continuous):
    """Uniform on the circle, in radians: samples lie in [−π, π), any finite target is legal.

    Two columns, (cos θ, sin θ), in G's input. Two columns (a, b) in Q's output, the parameters of
    a von Mises distribution of mean direction atan2(b, a).

    Args:
        concentration: "fixed": κ = 1. "learned": κ = ‖(a, b)‖.
        weight: λ of this code's information loss.
        name: letters, digits and underscores, unique in a spec.
    """

    _: KW_ONLY
    concentration: Sigma = "fixed"
    weight: float = 1.0
    name: str | None = None
    kind: ClassVar[str] = "angle"

    def __post_init__(self) -> None:
        check(
            self.concentration in get_args(Sigma),
            f'concentration must be "fixed" or "learned", got {self.concentration!r}',
        )
        self._check_shared()

    @property
    def input_dim(self) -> int:
        return 2

    @property
    def q_dim(self) -> int:
        return 2

    def entropy(self) -> float:
        return LOG_2PI

    def traverse_values(self, steps: int, device: torch.device | str | None = None) -> Tensor:
        """Return `steps` equal steps around the whole circle from −π on, fp32 [steps]."""
        return torch.linspace(-PI, PI, steps + 1, device=device)[:steps]


Code = Categorical | Bernoulli | Uniform | Gaussian | Angle
KINDS: dict[str, type[Code]] = {
    k.kind: k for k in (Categorical, Bernoulli, Uniform, Gaussian, Angle)
}


def parse_codes(text: str) -> tuple[Code, ...]:
    """Return the codes that a short text names, such as "digit=cat10,uniform,uniform".

    A code is `catN`, `bernoulli`, `uniform`, `gaussian` or `angle`. `uniform` and `gaussian` take
    a number of dims (`uniform2`). `:learned` asks for a learned σ or, of an angle, for a learned
    concentration. `*W` sets the code's weight, `NAME=` before it its name.
    """
    return tuple(_parse_code(part.strip()) for part in text.split(","))


def _parse_code(text: str) -> Code:
    name, equals, body = text.partition("=")
    if not equals:
        body = text
    body, star, weight_text = body.strip().partition("*")
    body, colon, option = body.partition(":")
    kind = body.rstrip("0123456789")
    number = int(body[len(kind) :]) if len(body) > len(kind) else None
    explain = (
        f"{text!r} is not a code; a code is catN, bernoulli, uniform[N][:learned], "
        "gaussian[N][:learned] or angle[:learned], with *W behind it for its weight and NAME= "
        "before it for its name"
    )
    try:
        weight = float(weight_text) if star else 1.0
    except ValueError:
        raise ValueError(explain) from None
    shared: Any = {"weight": weight, "name": name.strip() if equals else None}
    if kind == "cat" and number is not None and not colon:
        return Categorical(number, **shared)
    if kind == "bernoulli" and number is None and not colon:
        return Bernoulli(**shared)
    if option == ("learned" if colon else ""):
        learned: Sigma = "learned" if colon else "fixed"
        dim = 1 if number is None else number
        if kind == "uniform":
            return Uniform(dim=dim, sigma=learned, **shared)
        if kind == "gaussian":
            return Gaussian(dim=dim, sigma=learned, **shared)
        if kind == "angle" and number is None:
            return Angle(concentration=learned, **shared)
    raise ValueError(explain)
