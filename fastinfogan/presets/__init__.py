"""The experiments, one readable file each."""

from fastinfogan.config import TrainConfig

from . import mnist, mnist_paper

PRESETS: dict[str, TrainConfig] = {
    config.preset: config for config in (mnist.CONFIG, mnist_paper.CONFIG)
}
