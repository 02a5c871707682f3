"""An adversarial objective of one's own: least squares with targets -1 and 1.

    accelerate launch -m fastinfogan.train mnist --objective examples.own_objective:signed_squares

Run as a script, it trains a few updates with the objective from Python.
"""

from collections.abc import Callable
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import fastinfogan


def d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return D's loss from its logits of real and of generated images, [B] each."""
    return (real.float() - 1).square().mean() + (fake.float() + 1).square().mean()


def g_loss(fake: Tensor) -> Tensor:
    """Return G's loss from D's logits of generated images, [B]."""
    return fake.float().square().mean()


def signed_squares() -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Return the losses of both players (Mao et al. 2017, eq. 8, a = -1, b = 1, c = 0)."""
    return d_loss, g_loss


def main() -> None:
    """Train a small generator on noise with the objective."""
    images = torch.randint(256, (256, 8, 8), dtype=torch.uint8)
    with TemporaryDirectory() as out:
        fastinfogan.fit(
            "mnist-paper",
            data=images,
            steps=6,
            batch_size=16,
            objective=f"{__name__}:signed_squares",
            callbacks=[lambda step, record: print(step, f"D {record['d_loss']:.3f}")],
            log_every=2,
            out=f"{out}/run",
        )


if __name__ == "__main__":
    main()
