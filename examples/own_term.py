"""A loss term of one's own: images that are mostly dark.

    accelerate launch -m fastinfogan.train mnist --term examples.own_term:Dark weight=0.1

Run as a script, it trains a few updates with the term from Python.
"""

from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import fastinfogan
from fastinfogan.terms import Seen, Term


@dataclass(frozen=True)
class Dark(Term):
    """The mean brightness of generated images, added to G's loss. Logs the brightness."""

    weight: float = 0.1
    name = "dark"
    player = "generator"

    def loss(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Return weight · brightness, and the brightness."""
        brightness = seen.fake.float().mean()
        return self.weight * brightness, brightness


def main() -> None:
    """Train a small generator on noise with the term."""
    images = torch.randint(256, (256, 8, 8), dtype=torch.uint8)
    with TemporaryDirectory() as out:
        fastinfogan.fit(
            "mnist-paper",
            data=images,
            steps=6,
            batch_size=16,
            terms=[Dark(weight=0.5)],
            callbacks=[lambda step, record: print(step, f"dark {record['dark']:.3f}")],
            log_every=2,
            out=f"{out}/run",
        )


if __name__ == "__main__":
    main()
