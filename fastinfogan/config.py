"""A training run's configuration: its groups of options, the rules between them, and its form on
disk.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_type_hints

import yaml

from .data.options import DataOptions
from .errors import UserError
from .latents import LatentSpec, parse_codes
from .losses.options import (
    Adversarial,
    AdversarialOptions,
    InformationOptions,
    NetworksName,
    Routing,
)
from .networks import check_image_size
from .options import (
    Group,
    Option,
    all_options,
    convert,
    group,
    nearest,
    option,
    parse_call,
    parse_yaml,
    python_names,
)
from .terms.contrastive import ContrastiveOptions
from .terms.follow import FollowOptions
from .terms.instances import InstancesOptions
from .terms.invariance import InvarianceOptions
from .terms.penalty import PenaltyOptions
from .terms.photo import PhotoOptions
from .terms.pseudo_labels import PseudoLabelsOptions
from .terms.upright import UprightOptions
from .terms.vat import VatOptions
from .terms.warp import parse_changes, warp_text

__all__ = [
    "OPTIONS",
    "Adversarial",
    "CodeOptions",
    "DecayOptions",
    "ExecutionOptions",
    "LoggingOptions",
    "NetworksName",
    "OptimiserOptions",
    "Precision",
    "Preset",
    "Routing",
    "StepMode",
    "Switch",
    "TrainConfig",
    "check",
    "differences",
    "from_yaml",
    "spellings_of",
    "to_yaml",
]

Preset = Literal[
    "mnist",
    "mnist-paper",
    "fashion-mnist",
    "letters",
    "svhn",
    "svhn-paper",
    "celeba",
    "celeba-paper",
    "faces",
    "faces-paper",
    "faces-elevation",
    "faces-elevation-paper",
    "faces-lighting",
    "faces-lighting-paper",
    "chairs",
    "chairs-paper",
    "chairs-width",
    "chairs-width-paper",
    "dsprites",
    "dsprites-paper",
    "own",
]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
StepMode = Literal["alternating", "reused", "shared"]
Switch = Literal["auto", "on", "off"]
T = TypeVar("T")
MAX_COLUMNS = 65_536  # of the latent code with its noise: more is a mistake that takes all memory
MAX_THREADS = 4096  # a library's pool of more does not start


@dataclass(frozen=True)
class CodeOptions(Group):
    """The latent code and the noise. Example: --codes cat10,uniform*0.5 --noise 62"""

    codes: str = option(
        "cat10,uniform,uniform",
        "The latent code: catN, bernoulli, uniform[N], gaussian[N], angle; :learned for a learned "
        "sigma, *W for a weight of its own, NAME= in front for a name.",
    )
    noise: int = option(62, "Columns of noise in front of the code.", at_least=0)

    def check(self, spec: LatentSpec) -> None:
        """Check the fields, and refuse codes and noise of more columns than any networks have."""
        super().check(spec)
        columns = max(spec.input_dim, spec.q_dim)
        if columns > MAX_COLUMNS:
            raise UserError(
                f"--codes and --noise: expected at most {MAX_COLUMNS:,} columns, got {columns:,}"
            )

    def spec(self) -> LatentSpec:
        """Return the latent spec. Raises UserError where `codes` cannot be read."""
        try:
            return LatentSpec(self.noise, parse_codes(self.codes))
        except ValueError as error:
            raise UserError(f"--codes or --noise: {error}") from None


# The groups of the training package stand here, since its modules import this one.


@dataclass(frozen=True)
class DecayOptions(Group):
    """The fall of the learning rates. Example: --decay.start 1500 --decay.steps 2500"""

    prefix: ClassVar[str] = "decay"
    start: int = option(
        0,
        "Update from which the learning rates fall, in a line.",
        at_least=0,
        alias="decay-start",
    )
    steps: int = option(
        0,
        "Updates over which they fall to a hundredth; 0: they do not fall.",
        at_least=0,
        alias="decay-steps",
    )


@dataclass(frozen=True)
class OptimiserOptions(Group):
    """Adam, and the averaged generator. Example: --lr-d 2e-4 --lr-g 1e-3 --ema 0.999"""

    lr_d: float = option(2e-4, "Adam's learning rate for D and Q.", at_least=0)
    lr_g: float = option(1e-3, "Adam's learning rate for G.", at_least=0)
    lr_start: float = option(
        0.0, "Adam's learning rate for D and Q before --gan-start; 0: --lr-d.", at_least=0
    )
    lr_start_decay: int = option(
        0,
        "Update from which --lr-start falls, on a line, to a hundredth of it at --gan-start; 0: "
        "it stays.",
        at_least=0,
    )
    beta1: float = option(0.5, "Adam's β1.", at_least=0, below=1)
    beta2: float = option(0.999, "Adam's β2.", at_least=0, below=1)
    ema: float = option(
        0.999,
        "Decay, per update, of the averaged generator that samples and evaluation use; 0: the "
        "last one.",
        at_least=0,
        below=1,
    )
    decay: DecayOptions = group(DecayOptions())

    def check(self, spec: LatentSpec) -> None:
        """Raise UserError for values that no run can have."""
        super().check(spec)
        self.decay.check(spec)


@dataclass(frozen=True)
class ExecutionOptions(Group):
    """The order of an update's passes, and the machinery that runs them. Example: --step reused"""

    step: StepMode = option(
        "alternating",
        "alternating: D moves, then G answers it, each on latents of its own (the paper's). "
        "reused: as alternating, but both players see the same generated images, which G makes "
        "once (twice where it is compiled). shared: one pass of G, and of D over its images, "
        "serves both players, which move at once. On a CPU each is faster than the one before.",
    )
    compile: Switch = option(
        "auto",
        "Run the gradients through torch.compile. auto: on GPUs, for 10 million images or more.",
    )
    capture: Switch = option(
        "auto", "Replay the whole update as one CUDA graph. auto: on NVIDIA GPUs."
    )
    fused_adam: bool = option(
        False,
        "Move a player by one kernel: Adam, the copy in the working precision and the averaged "
        "generator. Rounds otherwise than the default. Not measured: it has not run on a GPU, "
        "which it needs.",
        may_change=True,
    )
    memory_format: Literal["channels_last", "contiguous"] = option(
        "channels_last", "Layout of feature maps in memory."
    )
    reduce_dtype: Literal["fp32", "bf16"] = option(
        "fp32",
        "Precision in which ranks send each other their gradients; bf16 halves the bytes, which "
        "is what costs on a slow network, and rounds the gradients.",
    )


@dataclass(frozen=True)
class BalanceOptions(Group):
    """Weights of the codes that are scaled until the codes' gradients are of equal size. Example:
    --balance.decay 0.99
    """

    prefix: ClassVar[str] = "balance"
    decay: float = option(
        0.0,
        "Decay of the running averages of the gradients' sizes; 0: off.",
        at_least=0,
        below=1,
        alias="balance-codes",
    )


@dataclass(frozen=True)
class LoggingOptions(Group):
    """Metrics, pictures and checkpoints. Example: --log-every 100 --keep 1"""

    log_every: int = option(50, "Updates between metrics.", at_least=1, may_change=True)
    sample_every: int = option(
        1000,
        "Updates between sample pictures; 0: at the start and the end only.",
        at_least=0,
        may_change=True,
    )
    checkpoint_every: int = option(
        1000, "Updates between checkpoints; 0: at the end only.", at_least=0, may_change=True
    )
    keep: int = option(3, "Checkpoints to keep.", at_least=1, may_change=True)
    track: str = option(
        "",
        "Also send metrics and pictures to trackers: tensorboard, wandb, trackio or mlflow, or "
        "several with commas between.",
        may_change=True,
    )
    project: str = option(
        "fastinfogan",
        "The project in W&B and trackio, the experiment in MLflow.",
        may_change=True,
    )
    watch_labels: bool = option(
        False,
        "At each log interval, show how many of up to 2,000 labelled test images the codes sort as "
        "their labels do. Not used in training.",
        may_change=True,
    )


@dataclass(frozen=True)
class TrainConfig(Group):
    """Train an InfoGAN. Progress, samples and checkpoints go to --out; running again resumes.

    Example: fastinfogan train mnist --steps 500 --out runs/first
    """

    preset: Preset = option(
        "mnist",
        "The experiment, one that `fastinfogan presets` lists. Its values are the defaults of "
        "everything below.",
        positional=True,
    )
    steps: int = option(5000, "Updates of the pair of networks.", at_least=1, may_change=True)
    batch_size: int = option(128, "Images per rank and update; at least 2.", at_least=2)
    seed: int = option(0, "Fixes weights, latents and batches.", at_least=0)
    precision: Precision = option(
        "auto",
        "auto: bf16 where the device computes it natively, else fp32. fp16 is for GPUs.",
        may_change=True,  # what it resolves to is compared with the checkpoint's
    )
    out: Path | None = option(
        None,
        "The run's folder; runs/PRESET by default.",
        may_change=True,
        of_each_rank=True,
    )
    resume: str = option(
        "auto",
        "auto continues the run in --out; never refuses a folder that holds a run; or the PATH of "
        "a run or checkpoint to start from.",
        may_change=True,
        of_each_rank=True,
    )
    term: tuple[str, ...] = option(
        (),
        "A loss term of your own, with the arguments of its class; may be repeated. Example: "
        "--term my_terms:Dark weight=0.1",
    )
    threads: int = option(
        0,
        "CPU threads of this rank; 0: OMP_NUM_THREADS where it is set, else physical cores over "
        "local ranks.",
        at_least=0,
        below=MAX_THREADS,
        may_change=True,
        of_each_rank=True,
    )
    data: DataOptions = group(DataOptions())
    codes: CodeOptions = group(CodeOptions())
    information: InformationOptions = group(InformationOptions())
    adversarial: AdversarialOptions = group(AdversarialOptions())
    optimiser: OptimiserOptions = group(OptimiserOptions())
    execution: ExecutionOptions = group(ExecutionOptions())
    logging: LoggingOptions = group(LoggingOptions())
    invariance: InvarianceOptions = group(InvarianceOptions())
    photo: PhotoOptions = group(PhotoOptions())
    follow: FollowOptions = group(FollowOptions())
    vat: VatOptions = group(VatOptions())
    pseudo_labels: PseudoLabelsOptions = group(PseudoLabelsOptions())
    upright: UprightOptions = group(UprightOptions())
    instances: InstancesOptions = group(InstancesOptions())
    contrastive: ContrastiveOptions = group(ContrastiveOptions())
    balance: BalanceOptions = group(BalanceOptions())
    penalty: PenaltyOptions = group(PenaltyOptions())  # stays the last: see `_built`

    def spec(self) -> LatentSpec:
        """Return the latent spec. Raises UserError where `codes` cannot be read."""
        return self.codes.spec()

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self.out or Path("runs") / self.preset

    @property
    def real_terms(
        self,
    ) -> tuple[
        InvarianceOptions,
        FollowOptions,
        InstancesOptions,
        UprightOptions,
        VatOptions,
        PseudoLabelsOptions,
    ]:
        """The groups of the terms on real images."""
        first = (self.invariance, self.follow, self.instances, self.upright)
        return *first, self.vat, self.pseudo_labels

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of options."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return tuple(value for value in values if isinstance(value, Group))

    def with_options(self, **options: Any) -> TrainConfig:
        """Return a copy with options changed by their Python names, and nothing checked but their
        kinds.

        An option's Python name is its name on the command line, or its old one, with `_` for `-`
        and `.`: `lr_d=1e-3`, `vat_weight=3.0` or `vat=3.0`, `invariance_warp_rotate=20`,
        `warp="rotate=20,scale=0.15"`.

        Raises UserError for a name that no option has, naming the nearest, and for a value of
        another kind.
        """
        known = _NAMES
        config = self
        for name, value in options.items():
            if name not in known:
                raise UserError(f"{name}: no such option{nearest(name, known)}")
            config = known[name].set(config, known[name].convert(value))
        return config


OPTIONS: dict[str, Option] = {item.spelling: item for item in all_options(TrainConfig)}
_NAMES = python_names(OPTIONS.values())


def spellings_of(options: Iterable[str]) -> frozenset[str]:
    """Return the spellings of options by their Python names; what has no option is left out."""
    return frozenset(_NAMES[name].spelling for name in options if name in _NAMES)


def leaves(config: TrainConfig) -> dict[str, Any]:
    """Return the options' values by spelling, each option once: a warp by its fields."""
    return {name: item.get(config) for name, item in OPTIONS.items() if not item.is_nested}


def check(config: TrainConfig) -> None:
    """Raise UserError for values that no run can have."""
    Group.check(config, None)
    spec = config.spec()
    for part in config.groups:
        part.check(spec)
    if config.seed >= 2**63:
        raise UserError(f"--seed: expected less than 2^63, got {config.seed}")
    try:
        check_image_size(config.data.image_size, config.adversarial.networks)
    except ValueError as error:
        raise UserError(
            f"--image-size, for --networks {config.adversarial.networks}: {error}"
        ) from None
    for term in config.term:
        parse_call(term, "--term")
    _check_real(config, spec)
    _check_start(config)
    _check_penalty(config)
    if config.contrastive.weight and config.batch_size < 4:
        raise UserError(
            "--contrastive.weight: needs --batch-size 4 or more (pairs are half of it), "
            f"got {config.batch_size}"
        )


def _check_real(config: TrainConfig, spec: LatentSpec) -> None:
    """Check the rules between the terms on real images and other groups."""
    if config.invariance.weight and config.upright.weight:
        raise UserError(
            "--upright.weight: takes the place of --invariance.weight, which is "
            f"{config.invariance.weight:g} here; add --invariance.weight 0"
        )
    warp = config.invariance.warp
    changes = parse_changes(config.follow.changes)[: config.follow.dims(spec)]
    missing = [change for change in changes if not warp.makes(change)]
    if config.follow.weight and missing:
        raise UserError(
            f"--follow.changes: --warp {warp_text(warp)} changes no {' and no '.join(missing)}"
        )
    active = [f"--{term.prefix}.weight" for term in config.real_terms if term.weight]
    if active and config.information.routing == "generator-step":
        raise UserError(f"{active[0]}: Q must learn in D's step; use --routing openai or head")


def _check_start(config: TrainConfig) -> None:
    """Check --gan-start against the terms on real images. `Step` checks terms of a user's own."""
    start, rates = config.adversarial.gan_start, config.optimiser
    if config.adversarial.q_trunk == "fixed" and not start:
        raise UserError(
            "--q-trunk fixed: expected --gan-start of 1 or more, before which that trunk learns; "
            "got 0"
        )
    if rates.lr_start and not start:
        raise UserError("--lr-start is D's rate before --gan-start, which is 0; give it a value")
    if rates.lr_start_decay and not rates.lr_start:
        raise UserError("--lr-start-decay: there is no --lr-start to fall; give it a value")
    if rates.lr_start_decay and rates.lr_start_decay >= start:
        raise UserError(
            f"--lr-start-decay: expected less than --gan-start {start}, got {rates.lr_start_decay}"
        )
    _check_restarts(config)
    if not start:
        return
    if start >= config.steps:
        raise UserError(f"--gan-start: expected less than --steps {config.steps}, got {start}")
    if config.information.routing == "generator-step":
        raise UserError("--gan-start: Q must learn in D's step; use --routing openai or head")
    if not (config.term or any(term.weight for term in config.real_terms)):
        names = ", ".join(f"--{term.prefix}.weight" for term in config.real_terms)
        raise UserError(
            f"--gan-start {start}: no term acts on real images; give one of {names} a value"
        )


def _check_restarts(config: TrainConfig) -> None:
    start, at = config.adversarial.gan_start, config.invariance.restart_step
    if at is None:
        return
    if not 1 <= at <= start:
        raise UserError(
            "--invariance.restart-at: expected an update from 1 to --gan-start "
            f"{start}, got {at}: categories start anew from features that Q has learned, and not "
            "where G draws them already"
        )
    for name, term in (("vat", config.vat), ("pseudo-labels", config.pseudo_labels)):
        if term.weight and term.start < at:
            raise UserError(
                f"--{name}.start: expected --invariance.restart-at {at} or later, got {term.start}:"
                " there are no categories before"
            )


def _check_penalty(config: TrainConfig) -> None:
    penalty = config.penalty
    if not (penalty.r1 or penalty.r2):
        return
    name = "--penalty.r1" if penalty.r1 else "--penalty.r2"
    for switch in ("compile", "capture"):
        if getattr(config.execution, switch) == "on":
            raise UserError(f"{name}: is not computed with --{switch} on; use auto or off")
    if config.precision == "fp16":
        raise UserError(f"{name}: fp16 is too narrow for its gradients; use bf16 or fp32")


def to_yaml(config: TrainConfig) -> str:
    """Return the configuration as YAML: a line per option, nested as the groups are."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def from_yaml(text: str, where: object) -> TrainConfig:
    """Return the configuration that `to_yaml` wrote.

    Raises UserError where the text is no configuration, or one of version 0.1.
    """
    try:
        content = parse_yaml(text)
        if isinstance(content, dict) and "info_weight" in content:
            raise UserError(
                f"{where} was written by fastinfogan 0.1, whose options were not grouped; use that "
                "version for this run, or choose another --out to train it anew"
            )
        return _built(TrainConfig, content, "")
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{where} is not a configuration of fastinfogan: {reason}; restore the file, or "
            "choose another --out"
        ) from None


def _built(cls: type[T], content: Any, where: str) -> T:
    """Return a dataclass from nested plain values. Raises TypeError with one line.

    A group that the file lacks, and an option that a group lacks, have their defaults, as in a run
    of a version without them: what is added later does nothing by default. A file without the last
    group, or without an option of no group, is torn.
    """
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if not isinstance(content, dict):
        expected = f"{where.rstrip('.')}: expected" if where else "expected"
        raise TypeError(f"{expected} options by name, got {reprlib.repr(content)}")
    values = {}
    for name in names:
        kind = hints[name]
        if name not in content:
            in_group, is_group = bool(where), dataclasses.is_dataclass(kind)
            if in_group != is_group and (in_group or names[-1] in content):
                continue
            raise TypeError(f"{where}{name} is missing")
        value = content[name]
        if dataclasses.is_dataclass(kind):
            values[name] = _built(kind, value, f"{where}{name}.")  # type: ignore[arg-type]
            continue
        try:
            values[name] = convert(kind, value)
        except TypeError as error:
            raise TypeError(f"{where}{name}: {error}") from None
    unknown = [str(name) for name in content if name not in names]
    if unknown:
        raise TypeError(f"{where}{unknown[0]}: no such option{nearest(unknown[0], names)}")
    return cls(**values)


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Return the options that alter the weights and differ, as "--option old -> new".

    Precision and data may change as words: what they resolve to is compared with the checkpoint's.
    On a GPU more steps may have a run compiled that was not, which rounds otherwise, unless
    `--compile` is given.
    """
    before, after = leaves(old), leaves(new)
    return [
        f"--{name} {before[name]} -> {after[name]}"
        for name in before
        if not OPTIONS[name].rule.may_change and before[name] != after[name]
    ]
