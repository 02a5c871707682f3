"""The latent code: its distributions, its layout in G's input and Q's output, its sampling.

Imports torch and the standard library alone, so that another codebase can take it as it is.
Notation follows Chen et al., "InfoGAN" (arXiv 1606.03657): noise z, code c, G(z, c), Q(c | x).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .. import philox
from ..philox import Stream
from .codes import (
    KINDS,
    PI,
    Angle,
    Bernoulli,
    Categorical,
    Code,
    Continuous,
    Gaussian,
    Uniform,
    as_int,
    check,
    is_int,
    parse_codes,
)

__all__ = [
    "Angle",
    "Bernoulli",
    "Categorical",
    "Code",
    "Gaussian",
    "LatentBatch",
    "LatentSpec",
    "Slot",
    "Uniform",
    "parse_codes",
]


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
    # Derived, and plain attributes rather than cached properties: Dynamo must be able to read
    # them in a graph that meets the spec first, and the lock of Python 3.11's stops it.
    input_dim: int = field(init=False, repr=False, compare=False)  # width of G's input
    q_dim: int = field(init=False, repr=False, compare=False)  # width of Q's output
    n_cat: int = field(init=False, repr=False, compare=False)  # columns of `categorical`
    n_cont: int = field(init=False, repr=False, compare=False)  # columns of `continuous`
    slots: tuple[Slot, ...] = field(init=False, repr=False, compare=False)
    names: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        noise, codes = as_int(self.noise), self.codes
        check(is_int(noise) and self.noise >= 0, f"noise must be ≥ 0, got {self.noise!r}")
        check(isinstance(codes, tuple | list), f"codes must be a tuple of codes, got {codes!r}")
        check(len(codes) > 0, "a LatentSpec needs at least one code, got none")
        for i, code in enumerate(codes):
            advice = "; use codes=parse_codes(...) for text" if isinstance(code, str) else ""
            check(
                isinstance(code, Code),
                f"codes[{i}] must be a Categorical, Bernoulli, Uniform, Gaussian or Angle, "
                f"got {code!r}{advice}",
            )
        slots, q, cat, cont = [], 0, 0, 0
        for code in codes:
            if isinstance(code, Continuous):
                target = slice(cont, cont := cont + code.dim)
            else:
                target = slice(cat, cat := cat + 1)
            slots.append(Slot(code, slice(q, q := q + code.q_dim), target))
        names = tuple(code.name or f"c{i}_{code.kind}" for i, code in enumerate(codes, start=1))
        for i, name in enumerate(names):
            check(
                name not in names[:i],
                f"names of codes must be unique, got {name!r} for codes[{names.index(name)}] and "
                f"codes[{i}]",
            )
        derived = {
            "noise": noise,
            "codes": tuple(codes),
            "input_dim": self.noise + sum(code.input_dim for code in codes),
            "q_dim": q,
            "n_cat": cat,
            "n_cont": cont,
            "slots": tuple(slots),
            "names": names,
        }
        for key, value in derived.items():
            object.__setattr__(self, key, value)  # the dataclass is frozen

    def __reduce__(self) -> tuple[type[LatentSpec], tuple[int, tuple[Code, ...]]]:
        return LatentSpec, (self.noise, self.codes)

    def entropy(self) -> tuple[float, ...]:
        """Return the exact entropy H(c) of each code's prior, in nats."""
        return tuple(code.entropy() for code in self.codes)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain numbers, strings and lists, which `from_dict` reads."""
        codes = []
        for code in self.codes:
            fields = {k: v for k, v in asdict(code).items() if v is not None}
            if "probs" in fields:
                fields["probs"] = list(fields["probs"])
            codes.append({"kind": code.kind, **fields})
        return {"noise": self.noise, "codes": codes}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LatentSpec:
        """Return the spec of a dict that `to_dict` made. Raises ValueError for any other dict."""
        try:
            codes = []
            for entry in data["codes"]:
                fields = dict(entry)
                codes.append(KINDS[fields.pop("kind")](**fields))
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
        check(is_int(batch) and batch >= 0, f"batch must be an integer ≥ 0, got {batch!r}")
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
                case Categorical(n=n, probs=None):
                    categorical.append(philox.below(word, n))
                case Categorical():
                    categorical.append(philox.choose(word, code.thresholds()))
                case Bernoulli():
                    categorical.append((word < code.threshold()).long())
                case Uniform(low=low, high=high):
                    continuous.append(philox.uniform(word) * (high - low) + low)
                case Angle():
                    continuous.append(philox.uniform(word) * (2 * PI) - PI)
                case Gaussian(mean=mean, std=std):
                    continuous.append(philox.normal(word)[:, : code.dim] * std + mean)
        return self.assemble(
            philox.normal(noise)[:, : self.noise],
            torch.cat(categorical, 1) if categorical else drawn.new_empty(batch, 0),
            torch.cat(continuous, 1) if continuous else drawn.new_empty(batch, 0).float(),
        )

    @property
    def _plan(self) -> Any:
        """This spec as the kernel takes it: numbers only, no tensor."""
        plan = self.__dict__.get("_made_plan")
        if plan is None:
            plan = self._make_plan()
            object.__setattr__(self, "_made_plan", plan)
        return plan

    def _make_plan(self) -> Any:
        from fastinfogan_kernels import sampling

        drawn: list[tuple[str, int, int | float, float]] = []
        for code in self.codes:
            match code:
                case Categorical(n=n):
                    drawn.append((code.kind, n, 0, 0.0))
                case Bernoulli():
                    drawn.append((code.kind, 1, code.threshold(), 0.0))
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
            elif isinstance(code, Angle):
                columns += continuous[:, target].cos(), continuous[:, target].sin()
            else:
                columns.append(continuous[:, target])
        return LatentBatch(torch.cat(columns, 1), categorical, continuous)

    def traverse(
        self,
        code: int | str,
        steps: int | None = None,
        rows: int = 10,
        *,
        dim: int = 0,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> LatentBatch:
        """Return a grid in which one code varies along a row and all else stays.

        Args:
            code: index or name of the code to vary.
            steps: columns. By default all classes of a Categorical, 0 and 1 of a Bernoulli,
                10 values of a continuous code from one end to the other of twice its prior's
                scale (-2 … 2 for U(-1, 1), as in the paper's figure 2), and of an angle once
                around the circle.
            rows: rows, each with noise and other codes of its own; the other categorical codes
                cycle through their classes from row to row.
            dim: which dim of a continuous code to vary.

        Returns:
            A batch of rows · steps, row by row.
        """
        index = self.names.index(code) if code in self.names else as_int(code)
        check(
            is_int(index) and 0 <= index < len(self.codes),
            f"code must be 0 … {len(self.codes) - 1} or one of {', '.join(self.names)}, "
            f"got {code!r}",
        )
        check(is_int(rows) and rows >= 1, f"rows must be ≥ 1, got {rows!r}")
        varied, _, target = self.slots[index]
        values: Tensor
        if isinstance(varied, Continuous):
            steps = 10 if steps is None else steps
            check(is_int(steps) and steps >= 1, f"steps must be ≥ 1, got {steps!r}")
            check(
                is_int(dim) and 0 <= dim < varied.dim,
                f"dim must be 0 … {varied.dim - 1}, got {dim!r}",
            )
            values = varied.traverse_values(steps, device)
        else:
            classes = varied.n if isinstance(varied, Categorical) else 2
            steps = classes if steps is None else steps
            check(
                is_int(steps) and 1 <= steps <= classes,
                f"this code has {classes} values, so steps must be 1 … {classes}, got {steps!r}",
            )
            check(dim == 0, f"a discrete code has one dim, got dim={dim!r}")
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
        (continuous if isinstance(varied, Continuous) else categorical)[:, column] = values.repeat(
            rows
        )
        return self.assemble(noise, categorical, continuous)


def _even(n: int) -> int:
    return n + n % 2


def _kernel(backend: str, device: torch.device | str | None) -> Any:
    """`fastinfogan_kernels.sampling.sample_latents`, or None where PyTorch is to draw."""
    check(
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
        check(not required, f'backend="triton" needs fastinfogan_kernels and triton: {error}')
        return None
    return sample_latents
