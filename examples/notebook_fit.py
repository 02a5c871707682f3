"""Training from a notebook or a script: images in memory, a callback, the networks at the end."""

import sys

import numpy as np

import fastinfogan


def squares_and_bars(n: int = 400, size: int = 8) -> np.ndarray:
    """Return uint8 images [n, size, size]: squares, then bars, each at a random place."""
    rng = np.random.default_rng(0)
    images = np.zeros((n, size, size), np.uint8)
    for i, (x, y) in enumerate(rng.integers(0, size - 3, (n, 2))):
        height, width = (3, 3) if i < n // 2 else (size, 1)
        images[i, y * (height == 3) :, x:][:height, :width] = 255
    return images


history = []


def follow(step: int, record: dict) -> bool:
    """Keep the losses; end the run where D has won. Called at each log interval."""
    history.append((step, record["d_loss"], record["g_loss"]))
    return record["d_loss"] < 0.01


if __name__ == "__main__":
    generator, discriminator, spec = fastinfogan.fit(
        "mnist-paper",
        data=squares_and_bars(),
        callbacks=[follow],
        out=sys.argv[1] if len(sys.argv) > 1 else "runs/notebook",
        codes="shape=cat2,place=uniform",
        noise=6,
        batch_size=16,
        steps=20,
        log_every=5,
        lr_g=5e-4,
    )
    images = generator(spec.sample(16).input)
    print(f"{len(history)} records; images {list(images.shape)}")
