"""The codes that count in the evaluation."""

from __future__ import annotations

from ..latents import LatentSpec


def bound_codes(spec: LatentSpec) -> list[int]:
    """Return the numbers of the codes that the information loss binds to G's images; all if none.

    A code of weight 0 is noise to G. Q may have learned it on real images all the same, to tell
    them apart (`--instances.weight`) or as a finer category (`--invariance.codes all`), and then
    its many dims together tell any factor.
    """
    return [i for i, code in enumerate(spec.codes) if code.weight] or list(range(len(spec.codes)))
