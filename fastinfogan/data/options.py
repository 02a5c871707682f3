"""The options of the images that a run is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..options import Group, option
from .reading import Fit, Frames, Reading
from .streaming import Mode


@dataclass(frozen=True)
class DataOptions(Group):
    """The images: which, of which size, and when they are read. Example: --data folder:pictures
    --image-size 32 --channels 3
    """

    data: str = option(
        "mnist",
        "mnist or faces-3d (embedded); chairs-like, dsprites-like or street-digits-like (drawn); "
        "fashion-mnist, emnist-letters, svhn, celeba or dsprites; svhn|street-digits-like (the "
        "second where the first is missing); hf:ID[:CONFIG], idx:PATH, npz:PATH, npy:PATH, "
        "tar:PATH (shards), parquet:PATH or folder:PATH (its sub-folders are labels, for "
        "evaluation alone). "
        "`fastinfogan data check` looks at a set first.",
        may_change=True,  # the images' checksum is compared with the checkpoint's
        of_each_rank=True,
    )
    image_size: int = option(
        28,
        "Side of the images, in pixels: a multiple of 4 for mnist's and faces' networks, of 8 for "
        "chairs', up to 128; of 16 for svhn's and dsprites', up to 256. Image files are cropped "
        "and scaled to it.",
    )
    channels: int = option(
        1, "Channels of the images: 1 gray, 3 colour, 4 colour and alpha.", at_least=1
    )
    stream: Mode = option(
        "auto",
        "Read npy, folder, tar, parquet, hf, celeba or dsprites during training instead of before "
        "it; the batches are the same. auto: where they take over 4 GiB decoded, or over a quarter "
        "of the available memory. hf with always, or with auto where the disk has no space for "
        "it, is read from the hub, in another order (docs/howto/large-sets.md).",
        may_change=True,
    )
    background: str = option(
        "white",
        "The colour on which transparent pixels are put, and around images that --fit pad fits: "
        "white, black, #rrggbb, …",
    )
    frames: Frames = option(
        "first", "Of image files with several frames: the first, or all, each an image."
    )
    fit: Fit = option(
        "crop",
        "How image files become squares: the central square, all of the image between borders of "
        "--background, or all of it stretched.",
    )
    value_range: str = option(
        "auto",
        "The stored values that become black and white. auto: masks of 0 and 1, and the 10, 12 or "
        "14 bits that 16-bit files may hold, are stretched, and a line says so. full: the type's "
        "whole range. LOW,HIGH: these, what lies outside is clipped.",
    )
    skip_bad: int = option(
        0,
        "Damaged image files to pass over, by name; all are decoded to find them.",
        at_least=0,
    )
    factors: str = option(
        "",
        "Columns of hf:ID and parquet:PATH that hold known factors, for evaluation: "
        "azimuth:360,elevation, where 360 is a period.",
        may_change=True,
    )

    def reading(self) -> dict[str, Any]:
        """Return the options of how images are read, as `data.load` takes them."""
        return {
            name: getattr(self, name)
            for name in ("background", "frames", "fit", "value_range", "skip_bad", "factors")
        }

    def check(self, spec: Any) -> None:
        """Check the fields, and refuse an invalid colour or value range."""
        super().check(spec)
        Reading(self.image_size, self.channels, self.stream, **self.reading()).check()
