"""The options of the images that a run is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import Group, option
from .streaming import Mode


@dataclass(frozen=True)
class DataOptions(Group):
    """The images: which, of which size, and when they are read. Example: --data folder:pictures
    --image-size 32 --channels 3
    """

    data: str = option(
        "mnist",
        "mnist and faces-3d come with the package; chairs-like, dsprites-like and "
        "street-digits-like are drawn, not read; fashion-mnist, svhn, celeba, dsprites; svhn or "
        "dsprites, |, and a set that is drawn where the first one is missing; "
        "hf:ID[:CONFIG], idx:PATH, npz:PATH, npy:PATH or folder:PATH (its sub-folders become "
        "labels, which evaluation alone sees).",
        may_change=True,  # the images' checksum is compared with the checkpoint's
        of_each_rank=True,
    )
    image_size: int = option(
        28,
        "Side of the images, in pixels: a multiple of 4 for mnist's and faces' networks, of 8 for "
        "chairs', of 16 for svhn's and dsprites'. Image folders are resized to it.",
    )
    channels: int = option(1, "Channels of the images: 1 gray, 3 colour.", at_least=1)
    stream: Mode = option(
        "auto",
        "Read npy:PATH, folder:PATH, celeba, dsprites or hf:ID during training instead of before "
        "it; the batches are the same. auto: where they take over 4 GiB decoded, or over a quarter "
        "of the available memory.",
        may_change=True,
    )
