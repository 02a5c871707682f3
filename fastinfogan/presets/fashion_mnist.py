"""Fashion-MNIST (Xiao et al. 2017) by the paper's recipe for MNIST; not one of its experiments."""

from dataclasses import replace

from . import mnist_paper

CONFIG = replace(mnist_paper.CONFIG, preset="fashion-mnist", data="fashion-mnist")
