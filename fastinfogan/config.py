"""A training run's configuration: its fields, its checks, and its form on disk."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from .errors import UserError
from .latents import Categorical, LatentSpec, Real, parse_codes
from .terms.warp import CHANGES, parse_changes, parse_warp

try:
    import tyro
except ImportError:  # the step and the presets serve without the command line, in a GPU report say
    tyro = None  # type: ignore[assignment]

Preset = Literal[
    "mnist",
    "mnist-paper",
    "fashion-mnist",
    "svhn",
    "celeba",
    "faces",
    "faces-elevation",
    "faces-lighting",
    "chairs",
    "chairs-width",
    "dsprites",
]
NetworksName = Literal["mnist", "svhn", "faces", "chairs", "dsprites"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
Routing = Literal["openai", "head", "generator-step"]
Adversarial = Literal["nonsaturating", "hinge", "lsgan", "wgan", "relativistic"]
StepMode = Literal["alternating", "reused", "shared"]
Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class TrainConfig:
    """Train an InfoGAN. Progress, samples and checkpoints go to --out; running again resumes."""

    preset: tyro.conf.Positional[Preset] = "mnist"
    """The experiment. Its values are the defaults of everything below."""
    steps: int = 5000
    """Updates of the pair of networks."""
    batch_size: int = 128
    """Images per rank and update; at least 2."""
    seed: int = 0
    """Fixes weights, latents and batches."""
    precision: Precision = "auto"
    """auto: bf16 where the device computes it natively, else fp32. fp16 is for GPUs."""
    data: str = "mnist"
    """mnist and faces-3d come with the package; chairs-like, dsprites-like and street-digits-like
    are drawn, not read; fashion-mnist, svhn, celeba, dsprites,
    hf:ID[:CONFIG], idx:PATH, npz:PATH, npy:PATH or folder:PATH (its sub-folders become labels,
    which evaluation alone sees)."""
    stream: Literal["auto", "always", "never"] = "auto"
    """Read npy:PATH, folder:PATH, celeba, dsprites or hf:ID while training instead of before it;
    the batches are the same. auto: where they take over 4 GiB decoded, or over a quarter of the
    available memory."""
    out: Path | None = None
    """The run's folder; runs/PRESET by default."""
    resume: str = "auto"
    """auto continues what is in --out; never refuses a folder that holds a run; or the PATH of a
    run or checkpoint to start from."""
    backend: Literal["auto", "reference", "compiled", "triton"] = "auto"
    """What computes the information loss: triton (the fused kernel) needs a GPU, reference and
    compiled run anywhere; auto is triton on GPUs, else reference."""
    image_size: int = 28
    """Side of the images: of mnist's and faces' networks a multiple of 4, of chairs' of 8, of
    svhn's and dsprites' of 16. Image folders are resized to it."""
    channels: int = 1
    """Channels of the images: 1 gray, 3 colour."""
    networks: NetworksName = "mnist"
    """The pair of networks, by the experiment whose table it is (svhn serves celeba)."""
    codes: str = "cat10,uniform,uniform"
    """The latent code: catN, bernoulli, uniform[N], gaussian[N]; :learned for a learned sigma, *W
    for a weight of its own."""
    noise: int = 62
    """Noise columns beside the code."""
    info_weight: float = 1.0
    """λ, the weight of the information loss; each code's own weight multiplies it."""
    info_start: int = 0
    """Updates before λ counts: until then real images alone shape the codes (--real-info)."""
    info_ramp: int = 0
    """Updates over which λ then rises to its value."""
    info_from: float = 0.0
    """Part of λ that counts before --info-start and from which it rises; above 1 it falls."""
    real_info: float = 0.0
    """Weight of the information on real images: the categories (the first categorical code's) of an
    image and of a warped copy must tell of each other (Ji et al. 2019, Hu et al. 2017); an
    extension of InfoGAN. 0: off."""
    follow: float = 0.0
    """Weight of following: the first continuous codes move as real images are warped, each with
    one of the changes that --followed lists; an extension of InfoGAN. 0: off."""
    followed: str = "slant,width"
    """What --follow has them follow, in the order of the codes, as far as these go: of slant, width
    (of strokes), x, y, size and stretch (width over height). The warp must do it."""
    warp: str = "rotate=20,scale=0.15,shear=0.3,shift=0.06,thickness=0.7"
    """How --real-info and --follow warp: rotate (degrees), scale (each axis), zoom (both), shear,
    shift (of the side), thickness (pixels), each up to its value, flip (its probability), place
    (a shape is put anywhere within it from the middle), gamma (of the brightness), stroke (the
    probability of a short bright line that is drawn on the copy)."""
    upright: float = 0.0
    """Weight of the information on upright copies, instead of --real-info, for images of one bright
    shape on a dark ground: the categories of two copies of a real image, moved, scaled and turned
    until centre, area and direction are those of all others, must tell of each other, and the
    image's must be theirs; an extension of InfoGAN. 0: off."""
    vat: float = 0.0
    """Weight of virtual adversarial copies: the categories must bear the small change of a real
    image that alters them most (Hu et al. 2017, Miyato et al. 2018); an extension of InfoGAN, of
    two more passes of D. 0: off."""
    vat_start: int = 0
    """Updates before that: too early it holds together what the warps have yet to part."""
    vat_stop: int = 0
    """Update from which there are none again; 0: they stay."""
    vat_radius: float = 1.5
    """Euclidean length of that change."""
    objective: Adversarial = "nonsaturating"
    """The adversarial losses; nonsaturating is the paper's. wgan wants --r1 or --spectral-norm."""
    label_smoothing: float = 0.0
    """How far below 1 D's target for real images is (Salimans et al. 2016, §3.4); 0: off."""
    spectral_norm: bool = False
    """Normalise D's and Q's weights by their largest singular value, in the place of BatchNorm
    (Miyato et al. 2018); dsprites' networks do so without being asked."""
    r1: float = 0.0
    """γ: γ/2 times D's squared gradient at real images is added to D's loss in every update
    (Mescheder et al. 2018); 0: off."""
    r2: float = 0.0
    """γ of the same at generated images; 0: off."""
    contrastive: float = 0.0
    """Weight of InfoGAN-CR's term (Lin et al. 2020): a network of its own names the factor of the
    code that two generated images share, and G helps it; 0: off."""
    contrastive_start: int = 0
    """Updates before it counts."""
    balance_codes: float = 0.0
    """Decay of the running averages by which the codes' weights are scaled until their gradients
    are alike, say 0.99; 0: off."""
    routing: Routing = "openai"
    """Whom the information gradient trains. openai: trunk and Q in D's step, G in G's. head: Q's
    own layers and G, not the trunk. generator-step: G and Q's own layers, both in G's step."""
    step: StepMode = "alternating"
    """alternating: D moves, then G answers it, each on latents of its own (the paper's). reused:
    the same on the same images, which G makes once (twice where it is compiled). shared: one pass
    of G, and of D over its images, serves both, which move at once. On a CPU each is faster than
    the one before."""
    lr_d: float = 2e-4
    """Adam's learning rate for D and Q."""
    lr_g: float = 1e-3
    """Adam's learning rate for G."""
    decay_start: int = 0
    """Update from which the learning rates fall, in a line."""
    decay_steps: int = 0
    """Updates that they take to fall to a hundredth; 0: they do not fall."""
    beta1: float = 0.5
    """Adam's β1."""
    beta2: float = 0.999
    """Adam's β2."""
    ema: float = 0.999
    """Decay of the averaged generator that samples and evaluation use; 0 turns averaging off."""
    log_every: int = 50
    """Updates between metrics."""
    sample_every: int = 1000
    """Updates between sample pictures; 0: at the start and the end only."""
    checkpoint_every: int = 1000
    """Updates between checkpoints; 0: at the end only."""
    keep: int = 3
    """Checkpoints to keep."""
    compile: Switch = "auto"
    """Run the gradients through torch.compile; auto: on GPUs, for 10 million images or more."""
    capture: Switch = "auto"
    """Replay the whole update as one CUDA graph; auto: on NVIDIA GPUs."""
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    """How feature maps lie in memory."""
    threads: int = 0
    """CPU threads of this rank; 0: physical cores over local ranks."""

    def spec(self) -> LatentSpec:
        """The latent spec. Raises UserError where `codes` cannot be read."""
        try:
            return LatentSpec(self.noise, parse_codes(self.codes))
        except ValueError as error:
            raise UserError(f"--codes or --noise: {error}") from None

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self.out or Path("runs") / self.preset


# What may change when a run is resumed; everything else alters the path of the weights. So may
# precision and data, as words: what they resolve to is compared with the checkpoint's. On a GPU
# more steps may have a run compiled that was not, which rounds otherwise, unless `compile` says.
MAY_CHANGE = frozenset(
    {
        "precision",
        "data",
        "stream",
        "steps",
        "out",
        "resume",
        "log_every",
        "sample_every",
        "checkpoint_every",
        "keep",
        "threads",
    }
)

_AT_LEAST = {
    "steps": 1,
    "batch_size": 2,
    "seed": 0,
    "channels": 1,
    "noise": 0,
    "info_start": 0,
    "info_ramp": 0,
    "contrastive_start": 0,
    "vat_start": 0,
    "vat_stop": 0,
    "decay_start": 0,
    "decay_steps": 0,
    "log_every": 1,
    "sample_every": 0,
    "checkpoint_every": 0,
    "keep": 1,
    "threads": 0,
}


def check(config: TrainConfig) -> None:
    """Raise UserError for values that no run can have."""
    from .networks import check_image_size

    for name, least in _AT_LEAST.items():
        value = getattr(config, name)
        if value < least:
            raise UserError(f"--{name.replace('_', '-')}: expected at least {least}, got {value}")
    of_real = ("real_info", "follow", "upright", "vat")
    for name in ("lr_d", "lr_g", "info_weight", "info_from", *of_real, "r1", "r2", "contrastive"):
        value = getattr(config, name)
        if not 0 <= value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')}: expected a number ≥ 0, got {value}")
    for name in ("beta1", "beta2", "ema", "label_smoothing", "balance_codes"):
        value = getattr(config, name)
        if not 0 <= value < 1:
            option = name.replace("_", "-")
            raise UserError(f"--{option}: expected 0 ≤ {option} < 1, got {value}")
    if config.seed >= 2**63:
        raise UserError(f"--seed: expected less than 2^63, got {config.seed}")
    try:
        check_image_size(config.image_size, config.networks)
    except ValueError as error:
        raise UserError(f"--image-size, for --networks {config.networks}: {error}") from None
    _check_real_info(config, config.spec())
    _check_regularisers(config, config.spec())


def _check_real_info(config: TrainConfig, spec: LatentSpec) -> None:
    try:
        warp = parse_warp(config.warp)
    except ValueError as error:
        raise UserError(f"--warp: {error}") from None
    codes = f"got --codes {config.codes}"
    if config.real_info and config.upright:
        raise UserError(
            f"--upright: takes the place of --real-info, which is {config.real_info:g} here; "
            "add --real-info 0"
        )
    of_categories = ("real_info", "vat", "upright")
    for name in of_categories:
        option = f"--{name.replace('_', '-')}"
        if getattr(config, name) and not any(isinstance(code, Categorical) for code in spec.codes):
            raise UserError(f"{option}: needs a categorical code, {codes}")
    if not 0 < config.vat_radius < float("inf"):
        raise UserError(f"--vat-radius: expected a number > 0, got {config.vat_radius}")
    if 0 < config.vat_stop <= config.vat_start:
        raise UserError(
            f"--vat-stop: expected 0 or more than --vat-start {config.vat_start}, "
            f"got {config.vat_stop}"
        )
    try:
        changes = parse_changes(config.followed)
    except ValueError as error:
        raise UserError(f"--followed: {error}") from None
    if config.follow and not changes:
        raise UserError(f"--followed: expected one of {', '.join(CHANGES)} or more, got none")
    dims = sum(code.dim for code in spec.codes if isinstance(code, Real))
    if config.follow and not dims:
        raise UserError(f"--follow: needs a uniform or gaussian code, {codes}")
    missing = [change for change in changes[:dims] if not warp.makes(change)]
    if config.follow and missing:
        raise UserError(f"--followed: --warp {config.warp} changes no {' and no '.join(missing)}")
    names = (*of_categories, "follow")
    asked = [f"--{name.replace('_', '-')}" for name in names if getattr(config, name)]
    if asked and config.routing == "generator-step":
        raise UserError(f"{asked[0]}: Q must learn in D's step; use --routing openai or head")


def _check_regularisers(config: TrainConfig, spec: LatentSpec) -> None:
    if config.label_smoothing and config.objective != "nonsaturating":
        raise UserError(
            "--label-smoothing: only --objective nonsaturating has targets to smooth, "
            f"got {config.objective}"
        )
    if config.r1 or config.r2:
        option = "--r1" if config.r1 else "--r2"
        for name in ("compile", "capture"):
            if getattr(config, name) == "on":
                raise UserError(f"{option}: is not computed with --{name} on; use auto or off")
        if config.precision == "fp16":
            raise UserError(f"{option}: fp16 is too narrow for its gradients; use bf16 or fp32")
    if config.contrastive and spec.n_cat + spec.n_cont < 2:
        raise UserError(f"--contrastive: needs two factors or more, got --codes {config.codes}")
    if config.contrastive and config.batch_size < 4:
        raise UserError(
            f"--contrastive: needs --batch-size 4 or more (pairs are half of it), "
            f"got {config.batch_size}"
        )


def to_yaml(config: TrainConfig) -> str:
    """The configuration as YAML, one field a line."""
    fields = dataclasses.asdict(config)
    fields["out"] = None if config.out is None else str(config.out)
    return yaml.safe_dump(fields, sort_keys=False)


def from_yaml(text: str, where: object) -> TrainConfig:
    """The inverse of `to_yaml`. Raises UserError where the text is not a configuration."""
    try:
        fields: dict[str, Any] = yaml.safe_load(text)
        for name, kind in get_type_hints(TrainConfig).items():
            _check_kind(name, kind, fields[name])
        if fields["out"] is not None:
            fields["out"] = Path(fields["out"])
        return TrainConfig(**fields)
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{where} is not a configuration of fastinfogan: {reason}") from None


_KINDS: dict[object, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    bool: ((bool,), "true or false"),
    float: ((float, int), "a number"),
    str: ((str,), "text"),
}


def _check_kind(name: str, kind: object, value: object) -> None:
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if choices:
        ok, expected = value in choices, f"one of {', '.join(choices)}"
    else:
        types, names = _KINDS.get(kind, ((str, type(None)), "a path or null"))
        a_switch = isinstance(value, bool)  # which Python counts among the whole numbers
        ok, expected = isinstance(value, types) and a_switch == (kind is bool), names
    if not ok:
        raise TypeError(f"{name}: expected {expected}, got {value!r}")


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Fields that alter the weights' path and differ, as "field old -> new"."""
    out = []
    for field in dataclasses.fields(TrainConfig):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if field.name not in MAY_CHANGE and before != after:
            out.append(f"{field.name} {before} -> {after}")
    return out


def parse(args: list[str] | None = None) -> TrainConfig:
    """The command line over the preset's values. argparse-style exit 2 on bad arguments."""
    from .presets import PRESETS

    def cli(default: TrainConfig) -> TrainConfig:
        return tyro.cli(
            TrainConfig,
            args=args,
            default=default,
            prog="fastinfogan train",
        )

    config = cli(PRESETS["mnist"])
    if config.preset != "mnist":
        config = cli(PRESETS[config.preset])
    return config
