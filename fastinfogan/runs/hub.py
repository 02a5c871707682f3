"""Networks saved for others: a folder of safetensors and JSON, and such folders on the hub.

Nothing in a saved folder is code, and loading one runs none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ..atomic import open_regular, parse_json, read_text, write_atomically, writing
from ..errors import UserError
from ..latents import LatentSpec
from ..networks import Discriminator, Generator, pair
from .folder import Loaded

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = 1
PREFIX = "hf:"
Networks = Callable[..., tuple[nn.Module, nn.Module]]  # called as `--networks module:function` is


def save_networks(folder: Path, networks: Loaded, options: dict[str, Any]) -> None:
    """Write networks as model.safetensors and config.json, which `load_saved` reads.

    Args:
        folder: created where it is missing.
        networks: the averaged generator, the discriminator, the latent spec.
        options: what rebuilds the networks: "networks" (their name), "image_size", "channels",
            "spectral_norm", "q_trunk"; further entries are kept as they are.
    """
    generator, discriminator, spec = networks
    tensors = {
        f"{name}.{key}": tensor.contiguous()
        for name, module in (("generator", generator), ("discriminator", discriminator))
        for key, tensor in module.state_dict().items()
    }
    config = {"library": "fastinfogan", "format": FORMAT, **options, "spec": spec.to_dict()}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "library": "fastinfogan", "version": version("fastinfogan")}
    write_atomically(folder / WEIGHTS, to_bytes(tensors, metadata))
    write_atomically(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def is_saved(source: str | Path) -> bool:
    """Return whether `load_saved` is to read it: "hf:…", or a folder that `save` wrote."""
    if str(source).startswith(PREFIX):
        return True
    return (Path(source) / WEIGHTS).is_file() and (Path(source) / CONFIG).is_file()


def load_saved(source: str | Path, networks: Networks | None = None) -> Loaded:
    """Load a saved folder, or "hf:USER/NAME[@REVISION]" from the Hugging Face hub.

    `networks` builds the two networks where they are not the package's own. Code that a folder or
    repository names is never imported.

    Raises UserError where it cannot be had or read, or does not fit the networks exactly.
    """
    if str(source).startswith(PREFIX):
        weights, config = _download(str(source))
    else:
        weights, config = Path(source) / WEIGHTS, Path(source) / CONFIG
    try:
        facts = parse_json(read_text(config))
        if facts["library"] != "fastinfogan" or facts["format"] != FORMAT:
            raise ValueError(f"library {facts['library']!r}, format {facts['format']!r}")
        spec = LatentSpec.from_dict(facts["spec"])
        name, side, channels = facts["networks"], facts["image_size"], facts["channels"]
        norm_and_trunk = {
            "spectral_norm": bool(facts.get("spectral_norm", False)),
            "q_trunk": facts.get("q_trunk", "shared"),
        }
        with open_regular(weights) as file:
            tensors = from_bytes(file.read())
    except (OSError, MemoryError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"{source}: expected networks that `fastinfogan save` wrote, got {error!r}"
        ) from None
    sizes = {"input_dim": spec.input_dim, "q_dim": spec.q_dim}
    generator: Any
    discriminator: Any
    if networks is not None:
        generator, discriminator = networks(**sizes, image_size=side, channels=channels)
    elif ":" in str(name):
        raise UserError(
            f"{source}: has networks of its own, {name}, which are never imported from a "
            "saved folder; pass them: fastinfogan.load(..., networks=function)"
        )
    else:
        try:
            made = pair(name, spec.input_dim, spec.q_dim, side, channels, **norm_and_trunk)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{source}: {error}") from None
        generator, discriminator = made
    _fill(generator, "generator", tensors, source)
    _fill(discriminator, "discriminator", tensors, source)
    return Loaded(generator.eval(), discriminator.eval(), spec)


def _fill(
    module: Generator | Discriminator, name: str, tensors: dict[str, Tensor], source: object
) -> None:
    prefix = f"{name}."
    own = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    try:
        with torch.no_grad():
            module.load_state_dict(own, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{source}: the {name}'s tensors do not fit: {reason}") from None


def split_name(source: str) -> tuple[str, str | None]:
    """Return (USER/NAME, revision) of "hf:USER/NAME[@REVISION]". Raises UserError."""
    name, _, revision = source.removeprefix(PREFIX).partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(f"{source}: expected {PREFIX}USER/NAME or {PREFIX}USER/NAME@REVISION")
    return name, revision or None


def _download(source: str) -> tuple[Path, Path]:
    name, revision = split_name(source)
    with hub_errors(source):
        from huggingface_hub import hf_hub_download

        return (
            Path(hf_hub_download(name, WEIGHTS, revision=revision)),
            Path(hf_hub_download(name, CONFIG, revision=revision)),
        )


def upload(folder: Path, name: str, *, private: bool, space: bool) -> str:
    """Create the repository where it is missing and upload a folder; return its address.

    Raises UserError where the hub refuses or cannot be reached.
    """
    split_name(name)
    kind = "space" if space else "model"
    with hub_errors(name):
        from huggingface_hub import HfApi

        api = HfApi()
        address = api.create_repo(
            name,
            private=private,
            repo_type=kind,
            exist_ok=True,
            space_sdk="static" if space else None,
        )
        message = "Upload by fastinfogan"
        api.upload_folder(repo_id=name, folder_path=folder, repo_type=kind, commit_message=message)
    return str(address)


@contextmanager
def hub_errors(source: str) -> Iterator[None]:
    """Turn the hub's errors into a UserError of one line that says what to do."""
    try:
        import huggingface_hub.errors as hub
    except ImportError:
        raise UserError(
            f"{source}: the package huggingface_hub is not installed; "
            "run: pip install 'fastinfogan[hf]'"
        ) from None
    try:
        yield
    except hub.RevisionNotFoundError:
        raise UserError(f"{source}: the hub has no such revision") from None
    except hub.RepositoryNotFoundError:
        raise UserError(
            f"{source}: the hub has no such repository, or it is private; "
            "check the name, or run: hf auth login"
        ) from None
    except hub.EntryNotFoundError as error:
        if isinstance(error, hub.LocalEntryNotFoundError):
            raise UserError(f"{source}: the hub cannot be reached, and nothing is cached") from None
        raise UserError(f"{source}: holds no {WEIGHTS} of fastinfogan") from None
    except hub.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise UserError(f"{source}: the hub refuses ({status}); run: hf auth login") from None
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{source}: the hub answered: {reason}") from None
    except (hub.OfflineModeIsEnabled, ConnectionError, OSError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{source}: the hub cannot be reached: {reason}") from None
    except Exception as error:  # its HTTP client's own errors, which share no base with ours
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise
        raise UserError(f"{source}: the hub cannot be reached: {error}") from None
