"""Embedded faces with known pose and light: `faces-3d`.

9,184 renders of ICT-FaceKit's head (MIT; see assets/faces-3d/NOTICE.md), gray, 32×32, in random
order. They stand in for the renders of the Basel face model in InfoGAN's experiment, which are not
public: pose and light vary, and identity varies with them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from .splits import Images, Split
from .streaming import split_rows

FACTORS = ("azimuth", "elevation", "light_azimuth", "light_elevation")  # in degrees
SIDE = 32  # pixels of an image
_FOLDER = Path(__file__).parent.parent / "assets" / "faces-3d"


def faces_3d() -> dict[Split, Images]:
    """Return both splits of the embedded faces; every tenth image is held out for the test split.

    Raises UserError where the installation lacks the files or they are damaged.
    """
    try:
        with Image.open(_FOLDER / "faces.png") as picture:
            sheet = np.asarray(picture)
        factors = np.load(_FOLDER / "factors.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{_FOLDER}: cannot be read ({error}); install fastinfogan again") from None
    rows, columns = (side // SIDE for side in sheet.shape)
    images = sheet.reshape(rows, SIDE, columns, SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 1)

    def part(held_out: bool) -> Images:
        chosen = split_rows(len(images), held_out)
        return Images(images[chosen], None, factors=factors[chosen], factor_names=FACTORS)

    return {"train": part(held_out=False), "test": part(held_out=True)}
