"""The experiments, one readable file each."""

from fastinfogan.config import TrainConfig

from . import celeba, chairs, dsprites, faces, fashion_mnist, letters, mnist, mnist_paper, own, svhn

PRESETS: dict[str, TrainConfig] = {
    config.preset: config
    for config in (
        mnist.CONFIG,
        mnist_paper.CONFIG,
        fashion_mnist.CONFIG,
        letters.CONFIG,
        svhn.CONFIG,
        svhn.PAPER,
        celeba.CONFIG,
        celeba.PAPER,
        faces.CONFIG,
        faces.PAPER,
        faces.ELEVATION,
        faces.ELEVATION_PAPER,
        faces.LIGHTING,
        faces.LIGHTING_PAPER,
        chairs.CONFIG,
        chairs.PAPER,
        chairs.WIDTH,
        chairs.WIDTH_PAPER,
        dsprites.CONFIG,
        dsprites.PAPER,
        own.CONFIG,
    )
}
