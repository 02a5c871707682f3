"""Image sets by their `--data` spec.

Every source becomes uint8 [N, H, W, C] with optional labels; labels serve evaluation alone. What
fits is resident: on the device, uint8 until a batch is drawn. What does not is streamed.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from . import dsprites, hub
from . import formats as files
from . import known as named
from .chairs import chairs_like
from .faces import faces_3d
from .folder import ImageFolder
from .splits import Images, Split, held_out, whole_grid
from .sprites import SIZES, Grid, Sprites
from .streaming import HELD_OUT_EVERY, Mode
from .street import street_digits_like

SPECS = (
    "mnist, faces-3d, chairs-like, dsprites-like, street-digits-like, fashion-mnist, svhn, "
    "celeba, dsprites, hf:ID[:CONFIG], idx:PATH, npz:PATH, npy:PATH or folder:PATH"
)
_STREAMED = frozenset({"celeba", "dsprites", "chairs-like", "dsprites-like", "street-digits-like"})


def load(
    spec: str,
    *,
    image_size: int,
    channels: int,
    stream: Mode = "auto",
    advise: bool = True,
) -> dict[Split, Images]:
    """Read both splits of the set that `spec` names, or open them (`stream`) to be read later.

    A set without a test split holds out every tenth image for it; dsprites and dsprites-like are
    whole in both. "auto" streams what `can_stream` where it takes over 4 GiB decoded, or over a
    quarter of the available memory shared by the ranks of this machine; "always" any; dsprites-like
    and chairs-like are drawn batch by batch in any mode. Raises UserError, in one line, when
    nothing is found, a file is not what it should be, or the images are of another size (`advise`:
    the line names the options that would take them).
    """
    if stream == "always" and not can_stream(spec):
        raise UserError(
            "--stream always: celeba, dsprites, hf:ID, npy:PATH and folder:PATH can be streamed, "
            f"not {spec}"
        )
    splits = _read(spec, image_size, channels, stream)
    for split, data in splits.items():
        _check_shape(f"--data {spec}", split, data.images.shape, image_size, channels, advise)
    return splits


def _read(spec: str, image_size: int, channels: int, stream: Mode) -> dict[Split, Images]:
    match spec.partition(":"):
        case "mnist", "", _:
            return files.read_embedded_mnist()
        case "fashion-mnist", "", _:
            return named.fashion_mnist()
        case "svhn", "", _:
            return named.svhn()
        case "celeba", "", _:
            return named.celeba(image_size, channels, stream)
        case "dsprites", "", _:
            return dsprites.dsprites(stream)
        case "faces-3d", "", _:
            return faces_3d()
        case "chairs-like", "", _:
            return chairs_like(stream)
        case "street-digits-like", "", _:
            return street_digits_like(stream)
        case "dsprites-like", "", _:
            return whole_grid(Grid(Sprites(), SIZES), "always")
        case "hf", _, reference if reference:
            return hub.read_hub(reference, image_size, channels, stream)
        case "idx", _, path if path:
            return files.read_idx(Path(path))
        case "npz", _, path if path:
            return files.read_npz(Path(path))
        case "npy", _, path if path:
            return files.open_npy_set(Path(path), stream)
        case "folder", _, path if path:
            folder = ImageFolder(Path(path), image_size, channels)
            return held_out(folder, folder.labels, stream)
    raise UserError(f"--data {spec}: expected {SPECS}")


def can_stream(spec: str) -> bool:
    """Whether the set that `spec` names can be streamed."""
    return spec in _STREAMED or spec.startswith(("npy:", "folder:", "hf:"))


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


def absolute(spec: str) -> str:
    """The same spec with an absolute path, so that it means the same from another folder."""
    name, colon, path = spec.partition(":")
    if not colon or not path:
        return spec
    if name != "hf":
        return f"{name}:{Path(path).expanduser().resolve()}"
    here = hub.local(path)
    if here is None:
        return spec  # an ID of the hub
    return f"hf:{here[0].resolve()}" + (f":{here[1]}" if here[1] else "")
