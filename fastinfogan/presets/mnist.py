"""MNIST, our best recipe: the paper's, until something better is proved."""

from dataclasses import replace

from . import mnist_paper

CONFIG = replace(mnist_paper.CONFIG, preset="mnist")
