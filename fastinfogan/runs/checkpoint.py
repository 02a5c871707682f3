"""Checkpoints: folders of .safetensors files with a manifest of checksums, written atomically.

A checkpoint appears under its name only when it is complete, on the disk, and read back. Nothing
in it is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from .. import atomic
from ..errors import UserError

MANIFEST = "manifest.json"
MAX_LISTINGS = 5
PAUSE = 0.01  # seconds between listings of a folder that seems empty
_NAME = re.compile(r"step-(\d{8,})")
_FILE = re.compile(r"[A-Za-z0-9_]+\.safetensors")


class Checkpoint(NamedTuple):
    """A verified checkpoint in memory."""

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]  # by file, by name; on the CPU
    meta: dict[str, Any]


class Damaged(Exception):
    """A checkpoint that does not verify; the message says what is wrong with it."""


def save(
    folder: Path,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    meta: dict[str, Any],
    keep: int,
) -> Path:
    """Write folder/step-NNNNNNNN, read it back, then delete all but the newest `keep`.

    Args:
        folder: the run's `checkpoints`; made if missing.
        step: updates done.
        tensors: file stem -> name -> tensor.
        meta: plain values for the manifest.
        keep: checkpoints to keep, ≥ 1.

    Raises UserError where the disk does not take it; what was there before stays.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    with atomic.writing(final):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            atomic.remove(temporary)
            temporary.mkdir()
            files = {}
            for stem, named in tensors.items():
                data = to_bytes(
                    {
                        k: v.detach().cpu().clone(memory_format=torch.contiguous_format)
                        for k, v in named.items()
                    }
                )
                files[f"{stem}.safetensors"] = _fingerprint(data)
                atomic.write_and_sync(temporary / f"{stem}.safetensors", data)
            manifest = {"step": step, "files": files, "meta": meta}
            manifest["sha256"] = _seal(manifest)
            atomic.write_and_sync(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
            _verify(temporary)
            atomic.sync_folder(temporary)
            _put_in_place(temporary, final)
            atomic.sync_folder(folder)
        except Damaged as error:
            raise UserError(f"{final} did not read back as written: {error}") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    # The one just written is known to be good, so the oldest may go. One of a later step can only
    # be a damaged one that this run was resumed behind.
    others = list_newest_first(folder)
    later = [path for path in others if step_of(path) > step]
    for path in later + others[len(later) + keep :]:
        shutil.rmtree(path, ignore_errors=True)
    return final


def _put_in_place(temporary: Path, final: Path) -> None:
    """Rename, and where that fails leave what was there."""
    old = final.with_name(f".{final.name}.old")
    atomic.remove(old)
    if os.path.lexists(final):
        final.rename(old)
    try:
        temporary.rename(final)
    except OSError:
        if old.exists():
            old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Put right what a killed save left behind. Not while another process may be saving."""
    for old in folder.glob(".step-*.old"):
        final = old.with_name(old.name[1 : -len(".old")])
        if not final.exists():
            old.rename(final)
    for path in (*folder.glob(".step-*.old"), *folder.glob(".step-*.tmp")):
        atomic.remove(path)


def list_newest_first(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, good or damaged, the highest step first."""
    if not folder.is_dir():
        return []
    checkpoints = [p for p in folder.iterdir() if p.is_dir() and _NAME.fullmatch(p.name)]
    return sorted(checkpoints, key=step_of, reverse=True)


def _list(folder: Path) -> list[Path]:
    """Return `list_newest_first`, empty only where a folder stays empty for some listings.

    While a run renames a new checkpoint and deletes the old one, a listing may show neither.
    """
    for _ in range(MAX_LISTINGS):
        listing = list_newest_first(folder)
        if listing or not folder.is_dir():
            break
        time.sleep(PAUSE)
    return listing


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint. Raises Damaged."""
    manifest, contents = _verify(path)
    try:
        tensors = {Path(name).stem: from_bytes(data) for name, data in contents.items()}
        meta = manifest["meta"]
        if not isinstance(meta, dict):
            raise Damaged(f"{path.name}/{MANIFEST}: meta is no object")
        return Checkpoint(path, int(manifest["step"]), tensors, meta)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{path.name}: {error}") from None


def load_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, and a line for each newer one that does not.

    A run that is still training saves and deletes meanwhile: where one does not verify and the
    folder has changed, it is listed again. Raises UserError where there are checkpoints and none
    is good.
    """
    for _ in range(MAX_LISTINGS):
        listing, damage, newest = _list(folder), [], None
        for path in listing:
            try:
                newest = load(path)
                break
            except Damaged as error:
                damage.append(str(error))
        changed = bool(damage) and _list(folder) != listing
        if not changed:
            break
    if newest is not None:
        used = newest.path.name
        return newest, [f"checkpoint is damaged ({d}); using {used}" for d in damage]
    if changed:
        raise UserError(
            f"the checkpoints in {folder} are replaced faster than they can be read; try again"
        )
    if damage:
        raise UserError(
            f"no checkpoint in {folder} is readable ({'; '.join(damage)}); start anew with another "
            "--out"
        )
    return None, []


def restore(tensors: dict[str, Tensor], saved: dict[str, Tensor], where: str) -> None:
    """Copy saved tensors into live ones of the same names and shapes. Raises UserError if not."""
    shapes = {k: tuple(v.shape) for k, v in tensors.items()}
    saved_shapes = {k: tuple(v.shape) for k, v in saved.items()}
    if shapes != saved_shapes:
        odd = sorted(set(shapes.items()) ^ set(saved_shapes.items()))[0]
        raise UserError(f"{where} is of another configuration: {odd[0]} {list(odd[1])} differs")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])


def _seal(manifest: dict[str, Any]) -> str:
    """Return the checksum of a manifest's content, itself left out."""
    rest = {k: v for k, v in manifest.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _fingerprint(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _verify(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the manifest and the files' bytes, if sizes and checksums match. Raises Damaged."""
    try:
        manifest = atomic.parse_json(atomic.read_text(path / MANIFEST))
        if manifest.get("sha256") != _seal(manifest):
            raise Damaged(f"{path.name}/{MANIFEST}: its checksum does not match")
        contents = {}
        for name, expected in manifest["files"].items():
            if not _FILE.fullmatch(name):  # never a path that leads out of the folder
                raise Damaged(f"{path.name}/{MANIFEST}: {name!r} is not the name of a file of it")
            with atomic.open_regular(path / name) as file:
                size = os.fstat(file.fileno()).st_size
                if size != expected["bytes"]:  # not read: a hole may be larger than the memory
                    words = f"{size} bytes, expected {expected['bytes']}"
                    raise Damaged(f"{path.name}/{name}: {words}")
                data = file.read(size)
            if _fingerprint(data) != expected:
                raise Damaged(f"{path.name}/{name}: its checksum does not match")
            contents[name] = data
        return manifest, contents
    except FileNotFoundError as error:
        missing = Path(error.filename).name if error.filename else "a file"
        raise Damaged(f"{path.name}: {missing} is missing") from None
    except (NotADirectoryError, IsADirectoryError, atomic.UnexpectedFile) as error:
        raise Damaged(f"{path.name}: {error}") from None
    except MemoryError:
        raise Damaged(f"{path.name}: it does not fit into memory") from None
    except OSError as error:  # not damage: passed over, it would be deleted at the next save
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path.name}: {error}") from None
