"""The experiments, one readable file each."""

from fastinfogan.config import TrainConfig

from . import celeba, chairs, dsprites, faces, fashion_mnist, mnist, mnist_paper, svhn

PRESETS: dict[str, TrainConfig] = {
    config.preset: config
    for config in (
        mnist.CONFIG,
        mnist_paper.CONFIG,
        fashion_mnist.CONFIG,
        svhn.CONFIG,
        celeba.CONFIG,
        faces.CONFIG,
        faces.ELEVATION,
        faces.LIGHTING,
        chairs.CONFIG,
        chairs.WIDTH,
        dsprites.CONFIG,
    )
}
