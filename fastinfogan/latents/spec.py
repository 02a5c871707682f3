"""The latent code: its distributions, its layout in G's input and Q's output, its sampling.

Imports torch and the standard library alone, so that another codebase can take it as it is.
Notation follows Chen et al., "InfoGAN" (arXiv 1606.03657): noise z, code c, G(z, c), Q(c | x).
"""

from __future__ import annotations

import math
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
from .heads import Heads, pack
from .sampling import Run, even, from_generator, from_words, make_runs, to_input

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
    """The place of one code: its columns in Q's output and in its target tensor."""

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
    _runs: tuple[Run, ...] = field(init=False, repr=False, compare=False)

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
            "_runs": make_runs(codes),
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
        seed: int | None = None,
        step: int | Tensor | None = None,
        stream: int | None = None,
        first_row: int | None = None,
        generator: torch.Generator | None = None,
        backend: Literal["auto", "reference", "triton"] = "auto",
    ) -> LatentBatch:
        """Draw noise and codes from the prior: new rows at each call, or the rows of an address.

        With none of seed, step, stream and first_row the rows come from torch's generator: each
        call gives new ones, and `torch.manual_seed` repeats them. Ranks must seed differently.

        With any of the four the draw is addressed, and the others take their defaults. Row i is
        then a function of (seed, step, stream, first_row + i) alone: the same on every device,
        compiled or not, for any number of ranks. Integers are equal, floats within 1e-6 relative +
        1e-7. Of a Gaussian code, that is its N(0, 1) value, before it is scaled by std and shifted
        by mean. A loop passes a new `step` at each turn, and a rank passes
        `first_row=rank * batch` for its slice of the rows that one process would draw.

        Args:
            batch: rows, ≥ 0.
            device: where the tensors live.
            seed: the address's key, mod 2⁶⁴; 0 by default.
            step: a number, or an int64 tensor of one element on the device; 0 by default.
            stream: what the draw is for, `Stream.SAMPLES` by default. Draws of one seed and step
                in different streams are independent.
            first_row: the first row's place in the global batch; 0 by default.
            generator: draws without an address; torch's default generator of the device if None.
            backend: "triton", one kernel launch; "reference", plain PyTorch; "auto", of an
                addressed draw the first on CUDA and ROCm devices where it is installed, else the
                second. "triton" takes CPU tensors under TRITON_INTERPRET=1. The first such draw of
                a spec on a device copies its layout there: draw once before capturing a CUDA
                graph. Without an address, "triton" draws a seed from the generator.

        Raises:
            ValueError: a batch below 0, another backend, an address together with a generator.
        """
        batch = as_int(batch)
        check(is_int(batch) and batch >= 0, f"batch must be an integer ≥ 0, got {batch!r}")
        if seed is None and step is None and stream is None and first_row is None:
            if backend != "triton":
                _check_backend(backend)
                return self._draw(batch, device, generator)
            seed = _new_seed(generator)
        elif generator is not None:
            raise ValueError(
                "generator: expected none with an address (seed, step, stream or first_row), which "
                "determines the rows; pass either"
            )
        seed = 0 if seed is None else seed
        step = 0 if step is None else step
        stream = Stream.SAMPLES if stream is None else stream
        first_row = 0 if first_row is None else first_row
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
        widths = [even(self.noise), *(run.words for run in self._runs)]
        words = philox.words(
            batch,
            sum(widths),
            seed=seed,
            step=step & 0xFFFFFFFF,
            stream=stream,
            first_row=first_row,
            device=device,
        )
        noise, *parts = words.split(widths, dim=1)
        targets = [from_words(run, part) for run, part in zip(self._runs, parts, strict=True)]
        return self._join(philox.normal(noise)[:, : self.noise], targets)

    def _draw(
        self, batch: int, device: torch.device | str | None, generator: torch.Generator | None
    ) -> LatentBatch:
        """Draw from torch's generator."""
        if device is None and generator is not None:
            device = generator.device
        noise = torch.randn(
            batch, self.noise, generator=generator, device=device, dtype=torch.float32
        )
        return self._join(
            noise, [from_generator(run, batch, device, generator) for run in self._runs]
        )

    def _join(self, noise: Tensor, targets: list[Tensor]) -> LatentBatch:
        """Build the batch from noise [B, noise] and each run's targets."""
        columns = [noise]
        discrete: list[Tensor] = []
        real: list[Tensor] = []
        for run, target in zip(self._runs, targets, strict=True):
            columns.append(to_input(run, target))
            (discrete if run.discrete else real).append(target)
        batch = noise.shape[0]
        if not discrete:
            discrete.append(noise.new_empty(batch, 0, dtype=torch.int64))
        if not real:
            real.append(noise.new_empty(batch, 0))
        return LatentBatch(
            torch.cat(columns, 1),
            discrete[0] if len(discrete) == 1 else torch.cat(discrete, 1),
            real[0] if len(real) == 1 else torch.cat(real, 1),
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

        codes: list[tuple[str, int, int | float | tuple[int, ...], float]] = []
        for code in self.codes:
            match code:
                case Categorical(n=n, probs=None):
                    codes.append((code.kind, n, 0, 0.0))
                case Categorical(n=n):
                    codes.append(("weighted", n, code.thresholds(), 0.0))
                case Bernoulli():
                    codes.append((code.kind, 1, code.threshold(), 0.0))
                case Uniform(low=low, high=high, dim=dim):
                    codes.append((code.kind, dim, high - low, low))
                case Gaussian(mean=mean, std=std, dim=dim):
                    codes.append((code.kind, dim, std, mean))
                case Angle():
                    codes.append((code.kind, 1, 2 * PI, -PI))
        return sampling.make_plan(self.noise, codes)

    def assemble(
        self,
        noise: Tensor,
        categorical: Tensor | None = None,
        continuous: Tensor | None = None,
        *,
        validate: bool | None = None,
    ) -> LatentBatch:
        """Build G's input from noise and both target tensors.

        Args:
            noise: floating [B, noise].
            categorical: integers [B, n_cat], the class of each Categorical and the 0/1 of each
                Bernoulli in declared order. Or floating [B, Σ classes + bits], one-hot or relaxed
                rows of all Categoricals side by side, then the Bernoullis' columns: they become
                G's columns as they are, and are differentiated. None where the spec has none.
            continuous: floating [B, n_cont]. None where the spec has none.
            validate: check that each class exists, which reads values back to the host. None: in
                eager calls on the CPU only. Unchecked, a class that does not exist gives NaN.

        Returns:
            The batch; its targets are the tensors given.

        Raises:
            ValueError: a shape, dtype or checked value that does not fit.
        """
        batch = noise.shape[0] if noise.ndim else 0
        if categorical is None:
            categorical = noise.new_empty(batch, 0, dtype=torch.int64)
        if continuous is None:
            continuous = noise.new_empty(batch, 0)
        soft = self.n_cat > 0 and categorical.dtype.is_floating_point
        width = self.n_cat
        if soft:
            discrete = (c for c in self.codes if isinstance(c, Categorical | Bernoulli))
            width = sum(code.input_dim for code in discrete)
        for name, tensor, columns in (
            ("noise", noise, self.noise),
            ("categorical", categorical, width),
            ("continuous", continuous, self.n_cont),
        ):
            check(
                tensor.shape == (batch, columns),
                f"{name}: expected shape [{batch}, {columns}], got {list(tensor.shape)}",
            )
        eager = noise.device.type == "cpu" and not torch.compiler.is_compiling()
        if not soft and (eager if validate is None else validate):
            self.check_classes(categorical)
        parts = [noise]
        relaxed = iter(self._cut_relaxed(categorical)) if soft else None
        for code, _, target in self.slots:
            if isinstance(code, Categorical | Bernoulli):
                parts.append(next(relaxed) if relaxed else _one_hot(code, categorical[:, target]))
            elif isinstance(code, Angle):
                parts += continuous[:, target].cos(), continuous[:, target].sin()
            else:
                parts.append(continuous[:, target])
        return LatentBatch(torch.cat(parts, 1), categorical, continuous)

    def _cut_relaxed(self, rows: Tensor) -> list[Tensor]:
        """Cut relaxed rows, [Categoricals | Bernoullis], into the columns of each discrete code."""
        discrete = [code for code in self.codes if isinstance(code, Categorical | Bernoulli)]
        order = sorted(range(len(discrete)), key=lambda i: isinstance(discrete[i], Bernoulli))
        parts = rows.split([discrete[i].input_dim for i in order], dim=1)
        return [parts[order.index(i)] for i in range(len(discrete))]

    def check_classes(self, categorical: Tensor) -> None:
        """Raise ValueError for a class [B, n_cat] that does not exist. Reads values back."""
        if categorical.shape[0] == 0 or self.n_cat == 0:
            return
        classes = categorical.long()  # unsigned dtypes have no amin
        lowest, highest = classes.amin(0).tolist(), classes.amax(0).tolist()
        for name, (code, _, target) in zip(self.names, self.slots, strict=True):
            if isinstance(code, Categorical | Bernoulli):
                n = code.n if isinstance(code, Categorical) else 2
                column = target.start
                check(
                    lowest[column] >= 0 and highest[column] < n,
                    f"categorical[:, {column}] of {name}: expected classes 0 … {n - 1}, got values "
                    f"from {lowest[column]} to {highest[column]}",
                )

    def pack(self, heads: Heads) -> Tensor:
        """Join Q's heads into q, [B, q_dim], after checking each against its code.

        Args:
            heads: one head per code, in the codes' order (any iterable) or as a dict by name. A
                tensor is taken as q itself. A head is one of

                - a tensor [B, k] or [B, k, 1, 1] of the code's k columns in q;
                - for a learned σ a pair (mean, log_var) of tensors [B, dim], or a dict with the
                  keys "mean" and "log_var", or "mean" and "var";
                - a `torch.distributions` object: Categorical or OneHotCategorical, Bernoulli,
                  Normal for a learned σ, VonMises for a learned concentration, each also within
                  Independent.

        Raises:
            ValueError: heads that are missing, too many or unknown, or one that does not fit its
                code. The message names the code.
        """
        return pack(self, heads)

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
        return self.assemble(noise, categorical, continuous, validate=False)


def _one_hot(code: Categorical | Bernoulli, classes: Tensor) -> Tensor:
    """Return the columns of G's input of classes [B, 1], NaN for one that does not exist."""
    n = code.n if isinstance(code, Categorical) else 2
    known = (classes >= 0) & (classes < n)
    columns = classes
    if isinstance(code, Categorical):
        columns = classes == torch.arange(n, device=classes.device)
    return torch.where(known, columns.float(), math.nan)


def _new_seed(generator: torch.Generator | None) -> int:
    """Return a seed drawn from the generator. Raises ValueError within a CUDA graph's capture."""
    check(
        not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()),
        'backend="triton" without an address would replay the same rows: pass seed, and step as '
        "a tensor that the replays advance",
    )
    device = "cpu" if generator is None else generator.device
    low, high = -(2**63), 2**63 - 1
    return int(torch.randint(low, high, (), generator=generator, device=device))


def _check_backend(backend: str) -> None:
    check(
        backend in ("auto", "reference", "triton"),
        f'backend must be "auto", "reference" or "triton", got {backend!r}',
    )


def _kernel(backend: str, device: torch.device | str | None) -> Any:
    """Run `fastinfogan_kernels.sampling.sample_latents`, or None where PyTorch is to draw."""
    _check_backend(backend)
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
