"""The latent code: its distributions, its layout in G's input and Q's output, its sampling.

Imports torch and the standard library alone, so that another codebase can take it as it is.
Notation follows Chen et al., "InfoGAN" (arXiv 1606.03657): noise z, code c, G(z, c), Q(c | x).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from . import philox
from .philox import Stream

Sigma = Literal["fixed", "learned"]
LOG_2PI = math.log(2.0 * math.pi)


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(*values: object) -> bool:
    return all(isinstance(v, int | float) and math.isfinite(v) for v in values)


class _Code:
    """What every code has. `weight` is its own λ; `dim` the number of scalars that it holds."""

    kind: ClassVar[str]
    weight: float
    dim: int = 1

    def _check_weight(self) -> None:
        _check(
            _is_finite(self.weight) and self.weight >= 0,
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
        _check(
            _is_int(self.n) and self.n >= 2, f"Categorical needs n ≥ 2 classes, got n={self.n!r}"
        )
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
        _check(
            _is_finite(self.p) and 0 < self.p < 1, f"Bernoulli needs 0 < p < 1, got p={self.p!r}"
        )
        self._check_weight()

    def entropy(self) -> float:
        return -self.p * math.log(self.p) - (1 - self.p) * math.log1p(-self.p)


class _Continuous(_Code):
    sigma: Sigma

    def _check_continuous(self) -> None:
        _check(
            _is_int(self.dim) and self.dim >= 1,
            f"a continuous code needs dim ≥ 1, got dim={self.dim!r}",
        )
        _check(
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
class Uniform(_Continuous):
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
        _check(
            _is_finite(self.low, self.high) and self.low < self.high,
            f"Uniform needs finite low < high, got low={self.low!r}, high={self.high!r}",
        )
        self._check_continuous()

    def entropy(self) -> float:
        return self.dim * math.log(self.high - self.low)

    def traverse_range(self) -> tuple[float, float]:
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return middle - 2 * half, middle + 2 * half


@dataclass(frozen=True)
class Gaussian(_Continuous):
    """N(mean, std²) in each dim. Q's columns are those of Uniform."""

    mean: float = 0.0
    std: float = 1.0
    dim: int = 1
    sigma: Sigma = "fixed"
    weight: float = 1.0
    kind: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        _check(
            _is_finite(self.mean, self.std) and self.std > 0,
            f"Gaussian needs a finite mean and std > 0, got mean={self.mean!r}, std={self.std!r}",
        )
        self._check_continuous()

    def entropy(self) -> float:
        return self.dim * (0.5 * (LOG_2PI + 1.0) + math.log(self.std))

    def traverse_range(self) -> tuple[float, float]:
        return self.mean - 2 * self.std, self.mean + 2 * self.std


Code = Categorical | Bernoulli | Uniform | Gaussian
_KINDS: dict[str, type[Code]] = {k.kind: k for k in (Categorical, Bernoulli, Uniform, Gaussian)}


class LatentBatch(NamedTuple):
    """A batch of latents: G's input and the targets of Q."""

    input: Tensor  # float32 [B, input_dim], [noise | codes in declared order]
    categorical: Tensor  # int64 [B, n_cat]: class of each Categorical, 0/1 of each Bernoulli
    continuous: Tensor  # float32 [B, n_cont]: all continuous dims in declared order


class Slot(NamedTuple):
    """Where one code stands: its columns in Q's output and in its target tensor."""

    code: Code
    q: slice  # columns of q
    target: slice  # columns of `continuous`, or the one column of `categorical`


@dataclass(frozen=True)
class LatentSpec:
    """Noise and codes: the layout of G's input and of Q's output.

    Args:
        noise: number of N(0, 1) noise columns, ≥ 0.
        codes: the codes in the order of their columns; at least one.
    """

    noise: int
    codes: tuple[Code, ...]

    def __post_init__(self) -> None:
        _check(_is_int(self.noise) and self.noise >= 0, f"noise must be ≥ 0, got {self.noise!r}")
        _check(
            isinstance(self.codes, tuple | list),
            f"codes must be a tuple of codes, got {self.codes!r}",
        )
        object.__setattr__(self, "codes", tuple(self.codes))
        _check(len(self.codes) > 0, "a LatentSpec needs at least one code, got none")
        for code in self.codes:
            _check(
                isinstance(code, Code),
                f"codes must be Categorical, Bernoulli, Uniform or Gaussian, got {code!r}",
            )

    @cached_property
    def input_dim(self) -> int:
        """Width of G's input."""
        return self.noise + sum(code.input_dim for code in self.codes)

    @cached_property
    def q_dim(self) -> int:
        """Width of Q's output."""
        return sum(code.q_dim for code in self.codes)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Each code with its columns."""
        slots, q, cat, cont = [], 0, 0, 0
        for code in self.codes:
            if isinstance(code, _Continuous):
                target = slice(cont, cont := cont + code.dim)
            else:
                target = slice(cat, cat := cat + 1)
            slots.append(Slot(code, slice(q, q := q + code.q_dim), target))
        return tuple(slots)

    @cached_property
    def n_cat(self) -> int:
        """Columns of `LatentBatch.categorical`."""
        return sum(not isinstance(code, _Continuous) for code in self.codes)

    @cached_property
    def n_cont(self) -> int:
        """Columns of `LatentBatch.continuous`."""
        return sum(code.dim for code in self.codes if isinstance(code, _Continuous))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for each code, unique within the spec: c1_categorical, c2_uniform, …"""
        return tuple(f"c{i}_{code.kind}" for i, code in enumerate(self.codes, start=1))

    def entropy(self) -> tuple[float, ...]:
        """Exact entropy H(c) of each code's prior, in nats."""
        return tuple(code.entropy() for code in self.codes)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings; `from_dict` gives an equal spec back."""
        return {
            "noise": self.noise,
            "codes": [{"kind": code.kind, **asdict(code)} for code in self.codes],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LatentSpec:
        """The inverse of `to_dict`. Raises ValueError on anything that is not such a dict."""
        try:
            codes = []
            for entry in data["codes"]:
                fields = dict(entry)
                codes.append(_KINDS[fields.pop("kind")](**fields))
            return cls(noise=data["noise"], codes=tuple(codes))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a latent spec: {data!r} ({error!r})") from None

    def sample(
        self,
        batch: int,
        *,
        device: torch.device | str | None = None,
        seed: int = 0,
        step: int | Tensor = 0,
        stream: int = Stream.SAMPLES,
        first_row: int = 0,
        backend: Literal["auto", "reference", "triton"] = "auto",
    ) -> LatentBatch:
        """Draw noise and codes from the prior.

        Row i is a function of (seed, step, stream, first_row + i) alone: a rank that draws its
        slice gets the rows that one process drawing everything would get, on any device
        (integers equal, floats within 1e-6 relative + 1e-7; of a Gaussian code, that is its
        N(0, 1) value, before it is scaled by std and shifted by mean).

        Args:
            batch: rows, ≥ 0.
            device: where the tensors live.
            seed, step, stream: the draw's address; step may be an int64 tensor on the device.
            first_row: the first row's place in the global batch.
            backend: "triton", one kernel launch; "reference", plain PyTorch; "auto", the first on
                CUDA and ROCm devices where it is installed, else the second. "triton" takes CPU
                tensors under TRITON_INTERPRET=1. The first draw of a spec on a device copies its
                layout there: draw once before capturing a CUDA graph.
        """
        _check(_is_int(batch) and batch >= 0, f"batch must be an integer ≥ 0, got {batch!r}")
        kernel = _kernel(backend, device)
        if kernel is not None:
            return LatentBatch(
                *kernel(
                    self._plan,
                    batch,
                    device=device,
                    seed=seed,
                    step=step,
                    stream=stream,
                    first_row=first_row,
                )
            )
        widths = [_even(self.noise)]
        for code in self.codes:
            widths.append(_even(code.dim) if isinstance(code, Gaussian) else code.dim)
        drawn = philox.words(
            batch,
            sum(widths),
            seed=seed,
            step=step & 0xFFFFFFFF,
            stream=stream,
            first_row=first_row,
            device=device,
        )
        noise, *parts = drawn.split(widths, dim=1)
        categorical, continuous = [], []
        for code, word in zip(self.codes, parts, strict=True):
            match code:
                case Categorical(n=n):
                    categorical.append(philox.below(word, n))
                case Bernoulli(p=p):
                    categorical.append((word < _threshold(p)).long())
                case Uniform(low=low, high=high):
                    continuous.append(philox.uniform(word) * (high - low) + low)
                case Gaussian(mean=mean, std=std):
                    continuous.append(philox.normal(word)[:, : code.dim] * std + mean)
        return self.assemble(
            philox.normal(noise)[:, : self.noise],
            torch.cat(categorical, 1) if categorical else drawn.new_empty(batch, 0),
            torch.cat(continuous, 1) if continuous else drawn.new_empty(batch, 0).float(),
        )

    @cached_property
    def _plan(self) -> Any:
        """This spec as the kernel takes it: numbers only, no tensor."""
        from fastinfogan_kernels import sampling

        drawn: list[tuple[str, int, int | float, float]] = []
        for code in self.codes:
            match code:
                case Categorical(n=n):
                    drawn.append((code.kind, n, 0, 0.0))
                case Bernoulli(p=p):
                    drawn.append((code.kind, 1, _threshold(p), 0.0))
                case Uniform(low=low, high=high, dim=dim):
                    drawn.append((code.kind, dim, high - low, low))
                case Gaussian(mean=mean, std=std, dim=dim):
                    drawn.append((code.kind, dim, std, mean))
        return sampling.make_plan(self.noise, drawn)

    def assemble(self, noise: Tensor, categorical: Tensor, continuous: Tensor) -> LatentBatch:
        """Build G's input from noise [B, noise] and both target tensors."""
        columns = [noise]
        for code, _, target in self.slots:
            if isinstance(code, Categorical):
                classes = torch.arange(code.n, device=categorical.device)
                columns.append((categorical[:, target] == classes).float())
            elif isinstance(code, Bernoulli):
                columns.append(categorical[:, target].float())
            else:
                columns.append(continuous[:, target])
        return LatentBatch(torch.cat(columns, 1), categorical, continuous)

    def traverse(
        self,
        code: int,
        steps: int | None = None,
        rows: int = 10,
        *,
        dim: int = 0,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> LatentBatch:
        """A grid in which one code varies along a row and all else stays.

        Args:
            code: index of the code to vary.
            steps: columns. By default all classes of a Categorical, 0 and 1 of a Bernoulli,
                10 values of a continuous code from one end to the other of twice its prior's
                scale (-2 … 2 for U(-1, 1), as in the paper's figure 2).
            rows: rows, each with noise and other codes of its own; the other categorical codes
                cycle through their classes from row to row.
            dim: which dim of a continuous code to vary.

        Returns:
            A batch of rows · steps, row by row.
        """
        _check(
            _is_int(code) and 0 <= code < len(self.codes),
            f"code must be 0 … {len(self.codes) - 1}, got {code!r}",
        )
        _check(_is_int(rows) and rows >= 1, f"rows must be ≥ 1, got {rows!r}")
        varied, _, target = self.slots[code]
        values: Tensor
        if isinstance(varied, _Continuous):
            steps = 10 if steps is None else steps
            _check(_is_int(steps) and steps >= 1, f"steps must be ≥ 1, got {steps!r}")
            _check(
                _is_int(dim) and 0 <= dim < varied.dim,
                f"dim must be 0 … {varied.dim - 1}, got {dim!r}",
            )
            values = torch.linspace(*varied.traverse_range(), steps, device=device)
        else:
            classes = varied.n if isinstance(varied, Categorical) else 2
            steps = classes if steps is None else steps
            _check(
                _is_int(steps) and 1 <= steps <= classes,
                f"this code has {classes} values, so steps must be 1 … {classes}, got {steps!r}",
            )
            _check(dim == 0, f"a discrete code has one dim, got dim={dim!r}")
            values = torch.arange(steps, device=device)
        base = self.sample(rows, device=device, seed=seed)
        categorical, continuous = base.categorical.clone(), base.continuous
        row = torch.arange(rows, device=device)
        for other, _, where in self.slots:
            if isinstance(other, Categorical):
                categorical[:, where.start] = row % other.n
        noise, categorical, continuous = (
            t.repeat_interleave(steps, dim=0)
            for t in (base.input[:, : self.noise], categorical, continuous)
        )
        column = target.start + dim
        (continuous if isinstance(varied, _Continuous) else categorical)[:, column] = values.repeat(
            rows
        )
        return self.assemble(noise, categorical, continuous)


def _even(n: int) -> int:
    return n + n % 2


def _threshold(p: float) -> int:
    """A bit is 1 where its word is less than this, which happens with probability p."""
    return round(p * 2**32)


def _kernel(backend: str, device: torch.device | str | None) -> Any:
    """`fastinfogan_kernels.sampling.sample_latents`, or None where PyTorch is to draw."""
    _check(
        backend in ("auto", "reference", "triton"),
        f'backend must be "auto", "reference" or "triton", got {backend!r}',
    )
    # Inductor fuses the plain PyTorch into a kernel or two of its own.
    if backend == "reference" or (backend == "auto" and torch.compiler.is_compiling()):
        return None
    if backend == "auto":
        device = torch.get_default_device() if device is None else torch.device(device)
        if device.type != "cuda":
            return None
    return _import_kernel(required=backend == "triton")


@lru_cache
def _import_kernel(required: bool) -> Any:
    # here, so that a CPU or another codebase needs neither the kernels nor triton
    try:
        from fastinfogan_kernels.sampling import sample_latents
    except ImportError as error:
        _check(not required, f'backend="triton" needs fastinfogan_kernels and triton: {error}')
        return None
    return sample_latents


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
