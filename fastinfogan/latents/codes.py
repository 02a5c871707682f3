"""The distributions of a latent code, and their short names on a command line.

Notation follows Chen et al., "InfoGAN" (arXiv 1606.03657).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

Sigma = Literal["fixed", "learned"]
LOG_2PI = math.log(2.0 * math.pi)


def check(ok: bool, message: str) -> None:
    """Raise ValueError with `message` where something is not as it must be."""
    if not ok:
        raise ValueError(message)


def is_int(value: object) -> bool:
    """Whether it is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(*values: object) -> bool:
    """Whether all are finite numbers."""
    return all(isinstance(v, int | float) and math.isfinite(v) for v in values)


class _Code:
    """What every code has. `weight` is its own λ; `dim` the number of scalars that it holds."""

    kind: ClassVar[str]
    weight: float
    dim: int = 1

    def _check_weight(self) -> None:
        check(
            is_finite(self.weight) and self.weight >= 0,
            f"weight must be a finite number ≥ 0, got {self.weight!r}",
        )

    def entropy(self) -> float:
        """H(c) of the prior, in nats, summed over the code's dims."""
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
    """One of n classes, uniformly. One-hot in G's input, n logits in Q's output."""

    n: int
    weight: float = 1.0
    kind: ClassVar[str] = "categorical"

    def __post_init__(self) -> None:
        check(is_int(self.n) and self.n >= 2, f"Categorical needs n ≥ 2 classes, got n={self.n!r}")
        self._check_weight()

    @property
    def input_dim(self) -> int:
        return self.n

    @property
    def q_dim(self) -> int:
        return self.n

    def entropy(self) -> float:
        return math.log(self.n)


@dataclass(frozen=True)
class Bernoulli(_Code):
    """1 with probability p, else 0. One 0/1 column in G's input, one logit in Q's output."""

    p: float = 0.5
    weight: float = 1.0
    kind: ClassVar[str] = "bernoulli"

    def __post_init__(self) -> None:
        check(is_finite(self.p) and 0 < self.p < 1, f"Bernoulli needs 0 < p < 1, got p={self.p!r}")
        self._check_weight()

    def entropy(self) -> float:
        return -self.p * math.log(self.p) - (1 - self.p) * math.log1p(-self.p)


class Continuous(_Code):
    """What Uniform and Gaussian have beside."""

    sigma: Sigma

    def _check_continuous(self) -> None:
        check(
            is_int(self.dim) and self.dim >= 1,
            f"a continuous code needs dim ≥ 1, got dim={self.dim!r}",
        )
        check(
            self.sigma in ("fixed", "learned"),
            f'sigma must be "fixed" or "learned", got {self.sigma!r}',
        )
        self._check_weight()

    @property
    def q_dim(self) -> int:
        return self.dim * (2 if self.sigma == "learned" else 1)

    def traverse_range(self) -> tuple[float, float]:
        """The two ends of a traversal: twice the prior's scale on both sides, as in the paper."""
        raise NotImplementedError


@dataclass(frozen=True)
class Uniform(Continuous):
    """Uniform from low to high in each dim; Gaussian in Q, as in the paper.

    Q gives dim means and, where sigma is "learned", then dim log-variances.
    """

    low: float = -1.0
    high: float = 1.0
    dim: int = 1
    sigma: Sigma = "fixed"
    weight: float = 1.0
    kind: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        check(
            is_finite(self.low, self.high) and self.low < self.high,
            f"Uniform needs finite low < high, got low={self.low!r}, high={self.high!r}",
        )
        self._check_continuous()

    def entropy(self) -> float:
        return self.dim * math.log(self.high - self.low)

    def traverse_range(self) -> tuple[float, float]:
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return middle - 2 * half, middle + 2 * half


@dataclass(frozen=True)
class Gaussian(Continuous):
    """N(mean, std²) in each dim. Q's columns are those of Uniform."""

    mean: float = 0.0
    std: float = 1.0
    dim: int = 1
    sigma: Sigma = "fixed"
    weight: float = 1.0
    kind: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        check(
            is_finite(self.mean, self.std) and self.std > 0,
            f"Gaussian needs a finite mean and std > 0, got mean={self.mean!r}, std={self.std!r}",
        )
        self._check_continuous()

    def entropy(self) -> float:
        return self.dim * (0.5 * (LOG_2PI + 1.0) + math.log(self.std))

    def traverse_range(self) -> tuple[float, float]:
        return self.mean - 2 * self.std, self.mean + 2 * self.std


Code = Categorical | Bernoulli | Uniform | Gaussian
KINDS: dict[str, type[Code]] = {k.kind: k for k in (Categorical, Bernoulli, Uniform, Gaussian)}


def parse_codes(text: str) -> tuple[Code, ...]:
    """Codes from a short text, such as "cat10,uniform,uniform".

    A code is `catN`, `bernoulli`, `uniform` or `gaussian`, the last two with an optional
    number of dims (`uniform2`) and an optional `:learned` σ; `*W` sets its weight.
    """
    return tuple(_parse_code(part.strip()) for part in text.split(","))


def _parse_code(text: str) -> Code:
    body, star, weight_text = text.partition("*")
    body, colon, option = body.partition(":")
    name = body.rstrip("0123456789")
    number = int(body[len(name) :]) if len(body) > len(name) else None
    explain = (
        f"{text!r} is not a code; a code is catN, bernoulli, uniform[N][:learned] or "
        "gaussian[N][:learned], with *W behind it for its weight"
    )
    try:
        weight = float(weight_text) if star else 1.0
    except ValueError:
        raise ValueError(explain) from None
    if name == "cat" and number is not None and not colon:
        return Categorical(number, weight=weight)
    if name == "bernoulli" and number is None and not colon:
        return Bernoulli(weight=weight)
    if name in ("uniform", "gaussian") and option == ("learned" if colon else ""):
        dim = 1 if number is None else number
        sigma: Sigma = "learned" if colon else "fixed"
        if name == "uniform":
            return Uniform(dim=dim, sigma=sigma, weight=weight)
        return Gaussian(dim=dim, sigma=sigma, weight=weight)
    raise ValueError(explain)
