"""Image sets by their `--data` spec.

Every source becomes uint8 [N, H, W, C] with optional labels; labels serve evaluation alone. What
fits is resident: on the device, uint8 until a batch is drawn. What does not is streamed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import UserError
from . import dsprites, formats, hub, known, shards
from .chairs import chairs_like
from .faces import faces_3d
from .folder import count, printable, read_folder
from .reading import Reading
from .splits import Images, Split, expand_user, whole_grid
from .sprites import SIZES, Grid, Sprites
from .streaming import HELD_OUT_EVERY, Mode, Streamed
from .street import street_digits_like

SPECS = (
    "mnist, faces-3d, chairs-like, dsprites-like, street-digits-like, fashion-mnist, "
    "emnist-letters, svhn, celeba, dsprites, hf:ID[:CONFIG], idx:PATH, npz:PATH, npy:PATH, "
    "folder:PATH, tar:PATH or parquet:PATH"
)
_STREAMED = frozenset({"celeba", "dsprites", "chairs-like", "dsprites-like", "street-digits-like"})
FILE_SIZE, FILE_CHANNELS = 32, 3  # of image files, where `open_set` gets none
_NAMED_CLASSES = 10  # in a line
_PRESENT = {"svhn": known.find_svhn, "dsprites": dsprites.find_archive}
_SIZES = {  # H, W, C of the sets that have a name, but for celeba, which is resized
    "mnist": (28, 28, 1),
    "fashion-mnist": (28, 28, 1),
    "emnist-letters": (28, 28, 1),
    "svhn": (32, 32, 3),
    "street-digits-like": (32, 32, 3),
    "faces-3d": (32, 32, 1),
    "chairs-like": (64, 64, 1),
    "dsprites": (64, 64, 1),
    "dsprites-like": (64, 64, 1),
}
# Sets that are drawn where the one that they stand in for is missing, and what is drawn.
_STAND_INS = {
    "street-digits-like": "MNIST's digits, composed into coloured street scenes",
    "dsprites-like": "sprites drawn on dSprites' grid",
}


def load(
    spec: str,
    *,
    image_size: int,
    channels: int,
    stream: Mode = "auto",
    advise: bool = True,
    **options: Any,
) -> dict[Split, Images]:
    """Read both splits of the set that `spec` names, or open them (`stream`) to be read later.

    A set without a test split holds out every tenth image for it; dsprites and dsprites-like are
    whole in both. "auto" streams what `can_stream` where it takes over 4 GiB decoded, or over a
    quarter of the available memory shared by the ranks of this machine; "always" any; dsprites-like
    and chairs-like are drawn batch by batch in any mode. Of hf:ID, "always", and "auto" where the
    disk has no space for the set, read Parquet files on the hub, row group by row group.

    Args:
        spec: The name of a set, or a kind of file with its path.
        image_size: Side of the images. Files of images are cropped and scaled to it; arrays must
            have it.
        channels: 1 gray, 3 colour; image files also give 4, colour and alpha.
        advise: Whether errors name the options that would take the images.
        options: background, frames, fit, skip_bad, value_range, factors: see `reading`, which also
            explains the defaults. remote: the `stream` that decides whether a set of the hub is
            read from there, where `stream` is to open it alone.

    Each split has `.images`, `.labels`, `.factors`, `.factor_names` and `.notes`, the lines that
    tell what was found, converted and left out. Raises UserError, in one line, when nothing is
    found, a file is not what it should be, or the images are of another size.
    """
    reading = _reading(image_size, channels, stream, {"remote": stream, **options})
    if stream == "always" and not can_stream(spec):
        raise UserError(
            "--stream always: celeba, dsprites, hf:ID, tar:PATH, parquet:PATH, npy:PATH and "
            f"folder:PATH can be streamed, not {spec}"
        )
    splits = _read(spec, reading)
    for split, data in splits.items():
        _check_shape(f"--data {spec}", split, data.images.shape, image_size, channels, advise)
    return _with_first_line(spec, splits)


def open_set(
    spec: str, image_size: int | None, channels: int | None, **options: Any
) -> dict[Split, Images]:
    """Open both splits without decoding images yet, whatever their size where None is given.

    Image files are then of 32x32 pixels and 3 channels. Arguments and errors are those of `load`.
    """
    stream: Mode = "always" if can_stream(spec) else "never"
    reading = _reading(image_size or FILE_SIZE, channels or FILE_CHANNELS, stream, options)
    splits = _read(spec, reading)
    for split, data in splits.items():
        shape = data.images.shape
        size, depth = image_size or shape[1], channels or shape[3]
        _check_shape(f"--data {spec}", split, shape, size, depth, advise=True)
    return _with_first_line(spec, splits, opened=True)


def _reading(image_size: int, channels: int, stream: Mode, options: dict[str, Any]) -> Reading:
    try:
        reading = Reading(image_size, channels, stream, **options)
    except TypeError:
        names = ", ".join(sorted(options))
        raise UserError(f"data.load: unknown option among {names}") from None
    reading.check()
    return reading


def _with_first_line(
    spec: str, splits: dict[Split, Images], opened: bool = False
) -> dict[Split, Images]:
    first = first_line(spec, splits, streamed=not opened)
    return {
        split: replace(data, notes=(first, *dict.fromkeys(data.notes)))
        for split, data in splits.items()
    }


def first_line(spec: str, splits: dict[Split, Images], streamed: bool = True) -> str:
    """Return the line that tells how many images, of which classes, and what was left out.

    `streamed`: also that they are read while training, where they are.
    """
    train, test = splits["train"], splits["test"]
    n, whole = len(train), train.grid is not None
    line = f"{printable(spec)}: {count(n if whole else n + len(test), 'image')}"
    if test.labels is not None:
        line += f" {_classes(train, test)}"
    line += "" if whole else f", {n} to train on, {len(test)} to test on"
    line += ", read while training" if streamed and isinstance(train.images, Streamed) else ""
    return line + (f"; {train.left_out}" if train.left_out else "")


def _classes(train: Images, test: Images) -> str:
    names = test.label_names
    if not names and train.labels is None:  # those of a mapped training split are not read
        return "with labels"
    if not names:
        assert test.labels is not None
        assert train.labels is not None
        n = len(np.union1d(train.labels, test.labels))
        return f"in {n} {'class' if n == 1 else 'classes'}"
    some = ", ".join(names[:_NAMED_CLASSES]) + (", …" if len(names) > _NAMED_CLASSES else "")
    return f"in {len(names)} {'class' if len(names) == 1 else 'classes'} ({some})"


def _read(spec: str, reading: Reading) -> dict[Split, Images]:
    match spec.partition(":"):
        case "memory", "", _:
            raise UserError(
                "--data memory: the run's images were given to fastinfogan.fit by its caller; name "
                "a set with --data"
            )
        case "mnist", "", _:
            return formats.read_embedded_mnist()
        case "fashion-mnist", "", _:
            return known.fashion_mnist(reading)
        case "emnist-letters", "", _:
            return known.emnist_letters(reading)
        case "svhn", "", _:
            return known.svhn()
        case "celeba", "", _:
            return known.celeba(reading)
        case "dsprites", "", _:
            return dsprites.dsprites(reading.stream)
        case "faces-3d", "", _:
            return faces_3d()
        case "chairs-like", "", _:
            return chairs_like(reading.stream)
        case "street-digits-like", "", _:
            return street_digits_like(reading.stream)
        case "dsprites-like", "", _:
            return whole_grid(Grid(Sprites(), SIZES), "always")
        case "hf", _, reference if reference:
            return hub.read_hub(reference, reading)
        case "parquet", _, reference if reference:
            return hub.read_hub(reference, reading, "parquet")
        case "tar", _, path if path:
            return shards.read_tar(path, reading)
        case "idx", _, path if path:
            return formats.read_idx(expand_user(path), reading)
        case "npz", _, path if path:
            return formats.read_npz(expand_user(path), reading)
        case "npy", _, path if path:
            return formats.open_npy_set(expand_user(path), reading)
        case "folder", _, path if path:
            return read_folder(expand_user(path), reading)
    raise UserError(f"--data {spec}: expected {SPECS}")


def own_size(spec: str) -> tuple[int, int, int] | None:
    """Return H, W, C of a set whose images are not resized; None where they are, or are unknown."""
    spec, _ = choose(spec)
    kind, _, path = spec.partition(":")
    if kind in ("idx", "npz", "npy") and path:
        return formats.array_size(kind, expand_user(path))
    return _SIZES.get(spec)


def settle(spec: str, stream: Mode) -> Mode:
    """Return "always" for "auto" where a set of the hub has no space on this disk, else `stream`.

    What is held out of such a set differs, so a run records it. Raises UserError.
    """
    kind, _, reference = spec.partition(":")
    if kind == "hf" and reference and stream == "auto" and hub.is_remote(reference, stream):
        return "always"
    return stream


def can_stream(spec: str) -> bool:
    """Return True if the set that `spec` names can be streamed."""
    return spec in _STREAMED or spec.startswith(("npy:", "folder:", "hf:", "tar:", "parquet:"))


def _check_shape(
    where: str,
    split: Split,
    shape: tuple[int, ...],
    image_size: int,
    channels: int,
    advise: bool,
) -> None:
    count, height, width, depth = shape
    if (height, width) != (image_size, image_size):
        advice = "use folder:PATH, which resizes, or crop them to squares"
        if height == width:
            advice = f"pass --image-size {height}"
        raise UserError(
            f"{where}: images are {height}x{width}, expected {image_size}x{image_size}"
            + f"; {advice}" * advise
        )
    if depth != channels:
        raise UserError(
            f"{where}: images have {depth} channels, expected {channels}"
            + f"; pass --channels {depth}" * advise
        )
    if count == 0:
        held_out = f"; every {HELD_OUT_EVERY}th image is held out, so {HELD_OUT_EVERY} are needed"
        raise UserError(f"{where}: no images in the {split} split{held_out}")


def choose(spec: str) -> tuple[str, str]:
    """Return the set that "svhn|street-digits-like" means here, and the line that says so.

    It is the first set where that lies in one of its places, else the second. The line is empty for
    the first set, as for any other spec, which is returned unchanged. Raises UserError where the
    second is not one that is drawn.
    """
    name, bar, other = spec.partition("|")
    if not bar or ":" in name:
        return spec, ""
    if name not in _PRESENT or other not in _STAND_INS:
        raise UserError(
            f"--data {spec}: expected one of {', '.join(_PRESENT)}, |, and one of "
            f"{', '.join(_STAND_INS)}"
        )
    if _PRESENT[name]() is not None:
        return name, ""
    return other, (
        f"{name} is missing here: {other} stands in for it ({_STAND_INS[other]}). Give --data "
        f"{name} to see where {name} is expected"
    )


def absolute(spec: str) -> str:
    """Return the same spec with an absolute path, which means the same from another folder.

    Of two sets it is the one that `choose` returns.
    """
    spec, _ = choose(spec)
    name, colon, path = spec.partition(":")
    if not colon or not path:
        return spec
    if name != "hf":
        return f"{name}:{expand_user(path).resolve()}"
    here = hub.local(path)
    if here is None:
        return spec  # an ID of the hub
    return f"hf:{here[0].resolve()}" + (f":{here[1]}" if here[1] else "")
